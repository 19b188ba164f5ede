-- A store of the first revision, 0001. Never changed: it stands for what users have.
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE jobs (
    job_id TEXT NOT NULL,
    job_name TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    total_tasks BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    "trigger" TEXT NOT NULL,
    started_at BIGINT,
    completed_at BIGINT,
    running_tasks BIGINT NOT NULL,
    completed_tasks BIGINT NOT NULL,
    failed_tasks BIGINT NOT NULL,
    cancelled_tasks BIGINT NOT NULL,
    params TEXT NOT NULL,
    labels TEXT NOT NULL,
    priority BIGINT NOT NULL,
    timeout_seconds DOUBLE,
    full_refresh BOOLEAN NOT NULL,
    resumed_from TEXT,
    resumed_by TEXT,
    code_version TEXT,
    error TEXT,
    cancellation TEXT,
    idempotency_key TEXT,
    executor_id TEXT,
    lease BIGINT NOT NULL,
    recoveries BIGINT NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (job_id)
);
CREATE INDEX jobs_by_status ON jobs (status, job_id);
CREATE INDEX jobs_by_created_at ON jobs (created_at, job_id);
CREATE UNIQUE INDEX jobs_by_idempotency_key ON jobs (idempotency_key);
CREATE INDEX jobs_unfinished ON jobs (job_id) WHERE completed_at IS NULL;
CREATE TABLE plans (
    job_id TEXT NOT NULL,
    "plan" TEXT NOT NULL,
    PRIMARY KEY (job_id)
);
CREATE TABLE job_terms (
    term TEXT NOT NULL,
    job_id TEXT NOT NULL,
    PRIMARY KEY (term, job_id)
)
 WITHOUT ROWID;
CREATE TABLE tasks (
    position INTEGER NOT NULL,
    task_id TEXT NOT NULL,
    job_id TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    status TEXT NOT NULL,
    started_at BIGINT,
    completed_at BIGINT,
    attempt BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    permits BIGINT NOT NULL,
    retries_used BIGINT NOT NULL,
    message TEXT,
    error TEXT,
    inputs TEXT,
    stats TEXT,
    progress TEXT,
    stop TEXT,
    PRIMARY KEY (position)
);
CREATE UNIQUE INDEX tasks_by_task_id ON tasks (task_id);
CREATE INDEX tasks_by_job_id ON tasks (job_id, status);
CREATE INDEX tasks_by_pipeline ON tasks (pipeline, started_at, position);
CREATE TABLE writers (
    table_name TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    job_id TEXT,
    task_id TEXT,
    revision BIGINT NOT NULL,
    PRIMARY KEY (table_name)
);
CREATE TABLE counters (
    id INTEGER NOT NULL,
    event_id BIGINT NOT NULL,
    log_id BIGINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (id)
);
CREATE TABLE events (
    event_id INTEGER NOT NULL,
    type TEXT NOT NULL,
    job_id TEXT NOT NULL,
    at BIGINT NOT NULL,
    task_id TEXT,
    data TEXT,
    PRIMARY KEY (event_id)
);
CREATE INDEX events_by_job_id ON events (job_id, event_id);
CREATE TABLE logs (
    log_id INTEGER NOT NULL,
    job_id TEXT NOT NULL,
    at BIGINT NOT NULL,
    message TEXT NOT NULL,
    task_id TEXT,
    level TEXT NOT NULL,
    stream TEXT NOT NULL,
    PRIMARY KEY (log_id)
);
CREATE INDEX logs_by_job_id ON logs (job_id, log_id);
CREATE INDEX logs_by_task_id ON logs (job_id, task_id, log_id);
CREATE TABLE executors (
    executor_id TEXT NOT NULL,
    host TEXT NOT NULL,
    pid BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    beat BIGINT NOT NULL,
    PRIMARY KEY (executor_id)
);
CREATE TABLE api_keys (
    key_hash TEXT NOT NULL,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT,
    PRIMARY KEY (key_hash)
);
CREATE UNIQUE INDEX api_keys_by_live_name ON api_keys (name) WHERE revoked_at IS NULL;
