"""What requests may hold, and what answers look like; `core.render` makes the answers.

Requests are checked here. Answers are plain dicts: their models only describe them in
`/openapi.json`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StringConstraints,
    field_validator,
)

from sluicegate.api.errors import dumps_strictly
from sluicegate.core.job import JobStatus, StopMode, TaskStatus
from sluicegate.core.job_manager import StopResult
from sluicegate.core.keys import Role
from sluicegate.core.pruning import KeptFor
from sluicegate.core.receipt import Cause, StopOutcome

PARAMS_BYTES_MAX: Final = 65_536
PARAMS_DEPTH_MAX: Final = 32
PRIORITY_MAX: Final = 1_000_000
TIMEOUT_SECONDS_MAX: Final = 10 * 366 * 86_400
JOBS_MAX: Final = 10_000
# Twice what the token of so many jobs takes.
MATCH_TOKEN_MAX: Final = 220_000

Layer = Literal["bronze", "silver", "gold"]
Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Reason = Annotated[str, Field(max_length=1000)]


class _Request(BaseModel):
    """A JSON object of which every field is known, holding only what JSON proper can hold."""

    model_config = ConfigDict(extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _is_proper_json(cls, value: Any) -> Any:
        try:
            dumps_strictly(value)
        except UnicodeEncodeError:
            raise ValueError("text must be valid Unicode; it holds half a surrogate pair") from None
        except RecursionError:
            raise ValueError("is nested too deep") from None
        except ValueError:
            raise ValueError("numbers must be finite; NaN and Infinity are not JSON") from None
        return value


class RunJobRequest(_Request):
    """What to run. Every field is optional; nothing at all is the full pipeline."""

    pipelines: Annotated[list[Text], Field(max_length=10_000)] = []
    layers: Annotated[list[Layer], Field(max_length=3)] = []
    with_dependencies: StrictBool = False
    full_refresh: StrictBool = False
    params: dict[str, Any] = {}
    labels: Annotated[
        dict[
            Annotated[str, StringConstraints(pattern=r"^[^:]{1,100}$")],
            Annotated[str, Field(max_length=200)],
        ],
        Field(max_length=50),
    ] = {}
    job_name: Text | None = None
    timeout_seconds: Annotated[
        float | None, Field(gt=0, le=TIMEOUT_SECONDS_MAX, allow_inf_nan=False, strict=True)
    ] = None
    priority: Annotated[StrictInt, Field(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] = 0

    @field_validator("params")
    @classmethod
    def _params_are_small(cls, params: dict[str, Any]) -> dict[str, Any]:
        size_bytes = len(dumps_strictly(params).encode())
        if size_bytes > PARAMS_BYTES_MAX:
            raise ValueError(f"must be at most {PARAMS_BYTES_MAX} bytes as JSON, got {size_bytes}")
        if not _is_shallow(params, PARAMS_DEPTH_MAX):
            raise ValueError(f"must be nested at most {PARAMS_DEPTH_MAX} levels deep")
        return params

    @field_validator("layers")
    @classmethod
    def _layers_limit_the_full_pipeline(cls, layers: list[Layer], info: Any) -> list[Layer]:
        if layers and info.data.get("pipelines"):
            raise ValueError("limits the full pipeline; leave it out where 'pipelines' are named")
        return layers


class CancelJobRequest(_Request):
    """How and why to stop. May be absent altogether."""

    reason: Reason | None = None
    mode: StopMode = StopMode.GRACEFUL


class CancelTaskRequest(_Request):
    """How and why to stop one task. There is no `drain`: the rest of the job goes on anyway."""

    reason: Reason | None = None
    mode: Literal["graceful", "force"] = "graceful"


class JobFilter(_Request):
    """Which jobs, by the names of the history's query; each a value or a list. All names must hold."""

    status: list[JobStatus] = []
    pipeline: list[str] = []
    layer: list[Layer] = []
    label: list[str] = []
    user_id: list[str] = []
    trigger: list[str] = []
    created_after: AwareDatetime | None = None
    created_before: AwareDatetime | None = None

    @field_validator("status", "pipeline", "layer", "label", "user_id", "trigger", mode="before")
    @classmethod
    def _one_value_is_a_list_of_one(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [value]

    @field_validator("created_after", "created_before", mode="before")
    @classmethod
    def _a_list_of_one_is_a_value(cls, value: Any) -> Any:
        return value[0] if isinstance(value, list) and len(value) == 1 else value

    @field_validator("label")
    @classmethod
    def _labels_are_pairs(cls, labels: list[str]) -> list[str]:
        return _checked_labels(labels)


class CancelJobsRequest(CancelJobRequest):
    """Which jobs to stop, how and why: `job_ids`, or a `filter`."""

    job_ids: Annotated[list[Text], Field(max_length=JOBS_MAX)] | None = None
    filter: Annotated[JobFilter | None, Field(validate_default=True)] = None
    dry_run: StrictBool = False
    match_token: Annotated[str, Field(max_length=MATCH_TOKEN_MAX)] | None = None

    @field_validator("filter")
    @classmethod
    def _either_ids_or_a_filter(cls, asked: JobFilter | None, info: Any) -> JobFilter | None:
        if "job_ids" in info.data and (asked is None) == (info.data["job_ids"] is None):
            raise ValueError("say which jobs, by 'job_ids' or by a 'filter', not by both")
        return asked


class NoFields(_Request):
    """A body that holds nothing: a `dry_run` in the wrong place must not be overlooked."""


class PruneRequest(_Request):
    """What to remove: jobs that ended before an instant. `cursor`: where the step before has ended."""

    ended_before: AwareDatetime
    resumable: StrictBool = False
    dry_run: StrictBool = False
    cursor: Annotated[str, Field(max_length=500)] | None = None


class SignInRequest(_Request):
    """The key to sign in with."""

    key: Annotated[str, Field(max_length=200)]


class CreateKeyRequest(_Request):
    """A key to make."""

    name: str
    role: Role


class HistoryParameters(BaseModel):
    """Which jobs. Several values of one name are alternatives; all names must hold."""

    model_config = ConfigDict(extra="forbid")

    status: list[JobStatus] = []
    pipeline: list[str] = []
    layer: list[Layer] = []
    label: Annotated[list[str], Field(description="`key:value`")] = []
    user_id: list[str] = []
    trigger: list[str] = []
    created_after: AwareDatetime | None = None
    created_before: AwareDatetime | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 50
    cursor: str | None = None

    @field_validator("label")
    @classmethod
    def _labels_are_pairs(cls, labels: list[str]) -> list[str]:
        return _checked_labels(labels)


class NoParameters(BaseModel):
    """None."""

    model_config = ConfigDict(extra="forbid")


class DryRunParameters(NoParameters):
    """Whether to change nothing and only say what would be done."""

    dry_run: bool = False


class CancelParameters(DryRunParameters):
    """How to answer a stop."""

    if_not_running: Literal["error", "ignore"] = "error"


class PageParameters(BaseModel):
    """Which lines: those with an id above `after`."""

    model_config = ConfigDict(extra="forbid")

    after: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1000


class LogParameters(PageParameters):
    """Which log lines."""

    task_id: str | None = None


def _checked_labels(labels: list[str]) -> list[str]:
    for label in labels:
        if not label.partition(":")[0] or ":" not in label:
            raise ValueError(f"must be key:value, got {label!r}")
    return labels


def _is_shallow(value: Any, levels: int) -> bool:
    """Whether a JSON value has at most so many levels of arrays and objects."""
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(one, levels - 1) for one in inner)


# ------------------------------------------------------------------ answers, for the documentation


class ProblemShape(BaseModel):
    """Every error (RFC 9457). More members: `errors`, `mend`, `job_status`, `resumed_by`, `incident_id`."""

    type: str
    title: str
    status: int
    detail: str
    code: str


class KeptShape(BaseModel):
    """A table that holds what the job published."""

    table: str
    version: int
    rows: int


class StoppedShape(BaseModel):
    """A task that the stop ended."""

    task_id: str
    pipeline: str
    stage: str
    latency_ms: float
    processes_killed: int
    where: list[str]


class RemoteShape(BaseModel):
    """Work elsewhere that was asked to stop."""

    what: str
    outcome: str
    tries: int


class ReceiptShape(BaseModel):
    """The record of a stop; whole when `stopped_at` is set."""

    requested_at: datetime
    requested_by: str
    cause: Cause
    reason: str | None
    mode: StopMode
    escalated_at: datetime | None
    stopped_at: datetime | None
    latency_ms: float | None
    not_started: list[str]
    kept: list[KeptShape]
    stopped: list[StoppedShape]
    remote: list[RemoteShape]
    outcome: StopOutcome | None
    confirmed_at: datetime | None
    missing_means: list[str]


class InputShape(BaseModel):
    """An input table and the version that was read."""

    table: str
    version: int | None


class StatsShape(BaseModel):
    """What a task has committed."""

    rows: int
    bytes: int
    files: int
    units: int
    version: int | None


class ProgressShape(BaseModel):
    """How far a running task says it is."""

    done: float
    total: float | None
    unit: str


class StopShape(BaseModel):
    """How a task was stopped."""

    cause: str
    requested_by: str | None
    reason: str | None
    stage: str
    stopped_at: datetime
    latency_ms: float
    processes_killed: int
    where: list[str]
    remote: list[RemoteShape]


class TaskFactsShape(BaseModel):
    """What a task knows by itself."""

    task_id: str
    pipeline_name: str
    layer: Layer
    status: TaskStatus
    attempt: int
    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None
    message: str | None
    error: str | None
    inputs: list[InputShape]
    stats: StatsShape
    progress: ProgressShape | None
    stop: StopShape | None


class TaskShape(TaskFactsShape):
    """One pipeline inside one job."""

    stopping: bool


class LastTaskShape(TaskFactsShape):
    """The last task of a pipeline, and its job."""

    job_id: str


class PutBackShape(BaseModel):
    """A table of a rollback; `to_version` is null where it becomes empty."""

    table: str
    from_version: int
    to_version: int | None


class RollbackShape(BaseModel):
    """That a job was taken back; while it is being done, `finished_at` is null."""

    requested_at: datetime
    requested_by: str
    finished_at: datetime | None
    tables: list[PutBackShape]


class JobShape(BaseModel):
    """One run of one or more pipelines."""

    job_id: str
    job_name: str
    status: JobStatus
    stopping: bool
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None
    total_tasks: int
    completed_tasks: int
    failed_tasks: int
    cancelled_tasks: int
    progress_percent: float
    user_id: str
    trigger: str
    params: dict[str, Any]
    labels: dict[str, str]
    priority: int
    timeout_seconds: float | None
    resumed_from: str | None
    resumed_by: str | None
    code_version: str | None
    error: str | None
    cancellation: ReceiptShape | None
    rollback: RollbackShape | None


class StepShape(BaseModel):
    """One pipeline of a plan."""

    pipeline: str
    depends_on: list[str]


class JobDetailsShape(JobShape):
    """A job with its plan and the tasks that have started."""

    plan: list[StepShape]
    tasks: list[TaskShape]


class HistoryShape(BaseModel):
    """A page of the history, newest first."""

    jobs: list[JobShape]
    count: int
    next_cursor: str | None


class CancelShape(BaseModel):
    """The job is stored as cancelled; its tasks follow."""

    message: str
    job_id: str
    status: Literal["cancelled"]
    cancellation: ReceiptShape


class RunningShape(BaseModel):
    """A task that a stop would end."""

    task_id: str
    pipeline: str
    expected_stop_ms: float | None


class StopPreviewShape(BaseModel):
    """What a stop would do now."""

    running: list[RunningShape]
    not_started: list[str]
    kept: list[KeptShape]
    lost_work_seconds: float | None


class OneOfManyShape(BaseModel):
    """What a stop of many came to for one job."""

    job_id: str
    outcome: StopResult


class CancelManyShape(BaseModel):
    """What a stop of many came to; `match_token` only in a dry run."""

    matched: int
    cancelled: int
    results: list[OneOfManyShape]
    match_token: str | None = None


class RunsShape(BaseModel):
    """A pipeline that a resume runs; `after`: what it goes on after, null where it starts over."""

    pipeline: str
    after: KeptShape | None


class ResumePreviewShape(BaseModel):
    """What a resume would do."""

    job_id: str
    kept: list[KeptShape]
    runs: list[RunsShape]


class RolledBackShape(BaseModel):
    """What a rollback did; in a dry run `rolled_back_at` is null."""

    job_id: str
    tables: list[PutBackShape]
    rolled_back_at: datetime | None


class EventShape(BaseModel):
    """One line of a job's timeline."""

    event_id: int
    type: str
    job_id: str
    task_id: str | None
    at: datetime
    data: dict[str, Any]


class EventsShape(BaseModel):
    """A page of a timeline; pass `next_after` as `after` to go on."""

    events: list[EventShape]
    next_after: int


class LogShape(BaseModel):
    """One line of a job's logs."""

    log_id: int
    at: datetime
    level: str
    stream: str
    task_id: str | None
    message: str


class LogsShape(BaseModel):
    """A page of logs; pass `next_after` as `after` to go on."""

    logs: list[LogShape]
    next_after: int


class PipelineShape(BaseModel):
    """A declared pipeline."""

    pipeline: str
    layer: Layer
    name: str
    depends_on: list[str]
    kind: Literal["python", "sql", "command"]
    table: str | None
    mode: str
    keys: list[str]
    files: str | None
    doc: str
    source: str
    file: str
    line: int
    last_task: LastTaskShape | None


class PipelinesShape(BaseModel):
    """The declared pipelines, in order of declaration."""

    pipelines: list[PipelineShape]


class TablesShape(BaseModel):
    """The tables of the lake."""

    tables: list[dict[str, Any]]


class TableShape(BaseModel):
    """One table, with its first rows."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    table_schema: Annotated[list[dict[str, Any]], Field(alias="schema")]
    version: int | None
    row_count: int
    preview: list[dict[str, Any]]


class TablePrunedShape(BaseModel):
    """The files of a table that were removed. `is_strange`: it was left alone, for no job that is kept made it."""

    table: str
    files: int
    bytes: int
    is_strange: bool


class PrunedShape(BaseModel):
    """What a step of a prune removed, and how many old jobs were kept, by why."""

    jobs: int
    kept: dict[KeptFor, int]
    tables: list[TablePrunedShape]
    cursor: str | None


class SessionShape(BaseModel):
    """Who is signed in."""

    name: str
    role: Role


class KeyShape(BaseModel):
    """A key, without the key."""

    name: str
    role: Role
    created_at: datetime
    revoked_at: datetime | None


class KeysShape(BaseModel):
    """All keys, oldest first."""

    keys: list[KeyShape]


class CreatedKeyShape(KeyShape):
    """A new key, with the key: shown only now."""

    key: str


def documented(
    status: int, model: type[BaseModel], *, problems: Iterable[int] = ()
) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's `responses`: the good answer, and `problems` besides 401, 403, 429."""
    described: dict[int | str, dict[str, Any]] = {status: {"model": model}}
    for code in sorted({401, 403, 429, *problems}):
        described[code] = {"model": ProblemShape, "description": "application/problem+json"}
    return described
