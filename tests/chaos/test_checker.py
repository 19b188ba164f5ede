"""The checker is tried itself: what is in order passes, and each damage is told by the rule that it breaks."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
from support import Here, until

from chaos import checker
from chaos.checker import Evidence, gather
from chaos.history import APP_ID, read_lake
from chaos.schedule import FAULTS, WORK, Step, schedule
from chaos.survivors import MARK, survivors
from chaos.truth import LINE_TABLES, SOURCES, differences
from chaos.work import Work
from chaos.world import PIPELINES

HERE = Path(__file__).parent
PAGES = {"until": 3}


@dataclass
class Left:
    """What a run has left, in a folder that may be damaged."""

    folder: Path
    acknowledged: dict[str, list[str]]

    def evidence(self) -> Evidence:
        return gather(
            f"sqlite:///{self.folder}/home/jobs.db",
            self.folder / "home" / "lake",
            self.folder / "home" / "landing",
            acknowledged=self.acknowledged,
            sources=SOURCES,
            line_tables=LINE_TABLES,
        )

    def found(self) -> list[str]:
        evidence = self.evidence()
        return [*checker.violations(evidence), *differences(evidence)]

    def sql(self, statement: str, *given: Any) -> list[Any]:
        with closing(sqlite3.connect(self.folder / "home" / "jobs.db")) as store:
            rows = store.execute(statement, given).fetchall()
            store.commit()
            return rows

    def task(self, pipeline: str, status: str = "success") -> str:
        """The newest task of a pipeline."""
        wanted = (
            "SELECT task_id FROM tasks WHERE pipeline = ? AND status = ? ORDER BY position DESC"
        )
        return str(self.sql(wanted, pipeline, status)[0][0])

    def log(self, table: str) -> list[Path]:
        """The entries of a table's log."""
        folder = self.folder / "home" / "lake" / table.replace(".", "/") / "_delta_log"
        return sorted(folder.glob("*.json"))

    def change(
        self, entry: Path, change: Callable[[list[dict[str, Any]], dict[str, Any]], None]
    ) -> None:
        """Rewrite an entry: `change` gets its actions and what we say of it."""
        actions = [json.loads(line) for line in entry.read_text().splitlines()]
        [info] = [action["commitInfo"] for action in actions if "commitInfo" in action]
        facts = json.loads(info[APP_ID])
        change(actions, facts)
        info[APP_ID] = json.dumps(facts)
        entry.write_text("\n".join(map(json.dumps, actions)) + "\n")

    def again(self, table: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Commit the last unit of a table a second time, with its rows in a file of another name."""
        units = [c for c in read_lake(self.folder / "home" / "lake")[table].commits if c.is_unit]
        entries = self.log(table)
        new = entries[0].with_name(f"{len(entries):020d}.json")
        shutil.copy(entries[units[-1].version], new)

        def rename(actions: list[dict[str, Any]], facts: dict[str, Any]) -> None:
            for action in actions:
                if "add" in action:
                    path = action["add"]["path"]
                    action["add"]["path"] = f"again-{path}"
                    shutil.copy(new.parents[1] / path, new.parents[1] / f"again-{path}")
            facts["unit"] += 1
            change(facts)

        self.change(new, rename)

    def file(self, table: str) -> tuple[Path, Path]:
        """The last entry that added files to a table, and the first of these."""
        tables = read_lake(self.folder / "home" / "lake")
        commit = [c for c in tables[table].commits if c.added][-1]
        return self.log(table)[commit.version], tables[table].folder / next(iter(commit.added))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Left:
    """A little history: a failure, a stop, a resume, rollbacks to rows and to nothing. Nothing is wrong with it."""
    folder = tmp_path_factory.mktemp("sound")
    with Here(folder, PIPELINES.read_text()) as here:
        work = Work([], None, folder / "home" / "landing")  # type: ignore[arg-type]
        manager = here.service.manager

        def land(*picks: float) -> None:
            for pick in picks:
                work.land(Step(0, "land", pick, 0.5, 0))

        def stopped(*pipelines: str, **params: Any) -> str:
            job_id = here.start(*pipelines, params={"pace_ms": 100, **params})
            until(lambda: any(t.stats.units for t in here.tasks(job_id).values()), "a unit")
            here.stop(job_id)
            return job_id

        land(0, 0.5, 0.5)
        first = here.run("bronze.visits", params={"flaky": True})
        manager.rollback(first, requested_by="tester")
        full = here.run(params=PAGES)
        land(0.5, 0, 0.5)
        failed = here.run("silver.totals", with_dependencies=True, params={"fail": True})
        cancelled = stopped("bronze.pages", until=200)
        resumed = manager.resume(cancelled, user_id="tester").job_id
        here.stop(resumed, "force")
        land(0.5)
        rolled = here.run("bronze.events", "bronze.changes")
        manager.rollback(rolled, requested_by="tester")
        last = here.run(params={"until": here.job(cancelled).params["until"] // 50})
        created = [first, full, failed, cancelled, resumed, rolled, last]
    with closing(sqlite3.connect(folder / "home" / "jobs.db")) as store:
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    told = {"created": created, "cancelled": [cancelled, resumed], "rolled_back": [first, rolled]}
    return Left(folder, told)


@pytest.fixture
def left(sound: Left, tmp_path: Path) -> Left:
    """A copy of it, to be damaged."""
    shutil.copytree(sound.folder, tmp_path / "left")
    return Left(tmp_path / "left", {k: [*v] for k, v in sound.acknowledged.items()})


def test_what_is_sound_passes(sound: Left) -> None:
    """A checker that cries wolf is turned off."""
    assert sound.found() == []
    statuses = {job["status"] for job in sound.evidence().records.jobs.values()}
    assert statuses == {"success", "partial", "cancelled"}


# ------------------------------------------------------------------ damages


def duplicated_file(left: Left) -> None:
    left.again("bronze.events", lambda facts: None)


def duplicated_rows(left: Left) -> None:
    left.again("bronze.events", lambda facts: facts.update(marks=[]))


def success_without_commit(left: Left) -> None:
    left.log("silver.totals")[-1].unlink()


def success_of_what_failed(left: Left) -> None:
    left.sql(
        "UPDATE tasks SET status = 'success' WHERE task_id = ?",
        left.task("silver.totals", "failed"),
    )


def commit_without_task(left: Left) -> None:
    left.sql("DELETE FROM tasks WHERE task_id = ?", left.task("bronze.visits"))


def commit_of_another_program(left: Left) -> None:
    left.again("bronze.visits", dict.clear)


def commit_after_the_end(left: Left) -> None:
    def late(actions: list[dict[str, Any]], facts: dict[str, Any]) -> None:
        actions[0]["commitInfo"]["timestamp"] += 3_600_000

    left.change(left.log("bronze.visits")[-1], late)


def commit_of_an_attempt_to_come(left: Left) -> None:
    left.change(left.log("bronze.visits")[-1], lambda actions, facts: facts.update(attempt=9))


def commit_of_who_was_replaced(left: Left) -> None:
    def older(actions: list[dict[str, Any]], facts: dict[str, Any]) -> None:
        [txn] = [action["txn"] for action in actions if "txn" in action]
        txn["version"] = 1

    left.change(left.log("bronze.visits")[-1], older)


def commits_without_permit(left: Left) -> None:
    left.sql("UPDATE tasks SET permits = 0 WHERE task_id = ?", left.task("bronze.visits"))


def lost_row(left: Left) -> None:
    """One that the log does not know of either."""
    entry, path = left.file("gold.summary")
    rows = pq.read_table(path)
    pq.write_table(rows.set_column(rows.schema.get_field_index("amount"), "amount", [[-1]]), path)

    def resized(actions: list[dict[str, Any]], facts: dict[str, Any]) -> None:
        for action in actions:
            if "add" in action:
                action["add"]["size"] = path.stat().st_size

    left.change(entry, resized)


def fewer_rows(left: Left) -> None:
    _, path = left.file("bronze.events")
    pq.write_table(pq.read_table(path).slice(1), path)


def torn_file(left: Left) -> None:
    _, path = left.file("bronze.visits")
    os.truncate(path, path.stat().st_size // 2)


def file_that_is_gone(left: Left) -> None:
    left.file("silver.totals")[1].unlink()


def gap_in_the_log(left: Left) -> None:
    left.log("bronze.pages")[1].unlink()


def torn_entry(left: Left) -> None:
    entry = left.log("bronze.pages")[-1]
    os.truncate(entry, entry.stat().st_size // 2)


def upkeep_that_loses_rows(left: Left) -> None:
    left.again("bronze.visits", lambda facts: facts.update(kind="maintenance"))


def landed_file_left_behind(left: Left) -> None:
    path = left.folder / "home" / "landing" / "events" / "000000.csv"
    path.write_text("file,line,key,amount\n")
    os.utime(path, (1, 1))


def landed_file_changed(left: Left) -> None:
    with (left.folder / "home" / "landing" / "events" / "000002.csv").open("a") as lines:
        lines.write("events/000002.csv,99,1,1\n")


def job_that_never_ended(left: Left) -> None:
    left.sql(
        "UPDATE jobs SET status = 'running', completed_at = NULL WHERE job_name = 'full pipeline'"
    )


def task_that_never_ended(left: Left) -> None:
    left.sql("UPDATE tasks SET status = 'running' WHERE task_id = ?", left.task("bronze.visits"))


def table_that_is_held(left: Left) -> None:
    left.sql("UPDATE writers SET task_id = 't', job_id = 'j' WHERE table_name = 'bronze.visits'")


def wrong_status(left: Left) -> None:
    left.sql("UPDATE jobs SET status = 'success' WHERE status = 'partial'")


def wrong_count(left: Left) -> None:
    left.sql("UPDATE jobs SET completed_tasks = 0 WHERE job_name = 'full pipeline'")


def inputs_forgotten(left: Left) -> None:
    left.sql("UPDATE tasks SET inputs = NULL WHERE task_id = ?", left.task("silver.totals"))


def pages_not_reached(left: Left) -> None:
    left.sql("UPDATE jobs SET params = '{\"until\": 999}' WHERE status = 'success'")


def resume_of_nobody(left: Left) -> None:
    left.sql("UPDATE jobs SET resumed_from = NULL")


def stop_that_was_forgotten(left: Left) -> None:
    left.sql("UPDATE jobs SET cancellation = NULL WHERE status = 'cancelled'")


def receipt_that_keeps_too_much(left: Left) -> None:
    left.sql("""UPDATE jobs SET cancellation = replace(cancellation, '"rows":', '"rows":1')""")


def answer_that_was_lost(left: Left) -> None:
    left.acknowledged["created"].append("a job that was answered for")


def rollback_that_did_not_happen(left: Left) -> None:
    left.log("bronze.changes")[-1].unlink()
    entries = read_lake(left.folder / "home" / "lake")["bronze.changes"].commits
    if not entries[-1].is_rollback:
        return
    left.log("bronze.changes")[-1].unlink()


def rollback_to_something_else(left: Left) -> None:
    def other(actions: list[dict[str, Any]], facts: dict[str, Any]) -> None:
        actions[:] = [a for a in actions if "add" not in a and "remove" not in a]

    tables = read_lake(left.folder / "home" / "lake")
    [restore] = [c for c in tables["bronze.events"].commits if c.brings_back is not None]
    left.change(left.log("bronze.events")[restore.version], other)


def start_after_the_stop(left: Left) -> None:
    at, job_id, task_id = left.sql(
        "SELECT max(event_id) + 1, job_id, task_id FROM events WHERE job_id ="
        " (SELECT job_id FROM jobs WHERE status = 'cancelled' LIMIT 1) AND task_id IS NOT NULL"
    )[0]
    top = left.sql("SELECT max(event_id) FROM events")[0][0]
    data = '{"pipeline": "bronze.pages", "attempt": 7}'
    left.sql(
        "INSERT INTO events VALUES (?, 'task.started', ?, 0, ?, ?)", top + at, job_id, task_id, data
    )


DAMAGES: list[tuple[Callable[[Left], None], str]] = [
    (duplicated_file, r"bronze\.events@\d+: ingests events/.* again"),
    (duplicated_rows, r"bronze\.events: \d+ rows, and \d+ lines"),
    (duplicated_rows, r"bronze\.events@\d+ .*: 0 rows are lost, \d+ too many"),
    (success_without_commit, r"silver\.totals, success\) says units.* \(1, .* the log says \(0, "),
    (success_of_what_failed, r"job .* counts .*, its tasks are "),
    (commit_without_task, r"bronze\.visits@\d+: it is of task .*, which nobody knows"),
    (commit_of_another_program, r"bronze\.visits@\d+: nobody of ours wrote it"),
    (commit_after_the_end, r"bronze\.visits@\d+: it comes after its task .* had ended"),
    (commit_of_an_attempt_to_come, r"bronze\.visits@\d+: attempt 9 .* never given out"),
    (commit_of_who_was_replaced, r"bronze\.visits@\d+: epoch 1 after \d"),
    (commits_without_permit, r"was permitted 0 commits and made 1"),
    (lost_row, r"gold\.summary@\d+ .*: 1 rows are lost, 1 too many"),
    (fewer_rows, r"bronze\.events@\d+: .* it has \d+ bytes and \d+ rows, not"),
    (torn_file, r"bronze\.visits@\d+: .* it cannot be read"),
    (file_that_is_gone, r"silver\.totals@\d+: .* it is not there"),
    (gap_in_the_log, r"bronze\.pages: its log has a gap"),
    (torn_entry, r"bronze\.pages@\d+: unreadable entry"),
    (upkeep_that_loses_rows, r"bronze\.visits@\d+: upkeep changed the number of rows by 20"),
    (landed_file_left_behind, r"\(bronze\.events\) succeeded without \['events/000000\.csv'\]"),
    (landed_file_changed, r"events/000002\.csv is another one than was ingested"),
    (job_that_never_ended, r"job .* is running and not over"),
    (task_that_never_ended, r"task .* \(bronze\.visits\) is running and not over"),
    (table_that_is_held, r"bronze\.visits is still held"),
    (wrong_status, r"job .* is success, its tasks say partial"),
    (wrong_count, r"job .* counts \(0, "),
    (inputs_forgotten, r"has not recorded which version of bronze\.events it read"),
    (pages_not_reached, r"\(bronze\.pages\) succeeded at page \d+ of 999"),
    (resume_of_nobody, r"resumed_by .*, which does not say so"),
    (stop_that_was_forgotten, r"was answered to be cancelled, and is not"),
    (receipt_that_keeps_too_much, r"its receipt keeps .* its tasks published"),
    (answer_that_was_lost, r"was answered for, and is not stored"),
    (rollback_that_did_not_happen, r"the rollback of bronze\.changes to \d+ is 0 times"),
    (rollback_to_something_else, r"the rollback of bronze\.events to \d+ brought back \d+ rows of"),
    (start_after_the_stop, r"starts after its job was cancelled"),
]


@pytest.mark.parametrize(
    ("damage", "told"), DAMAGES, ids=lambda one: getattr(one, "__name__", None)
)
def test_a_damage_is_told(left: Left, damage: Callable[[Left], None], told: str) -> None:
    """Nothing that chaos could break goes by unseen."""
    damage(left)
    found = left.found()
    assert any(re.search(told, line) for line in found), found


def test_every_rule_can_fail(sound: Left, tmp_path: Path) -> None:
    """A rule that no damage breaks proves nothing."""
    silent = set(checker.RULES)
    for number, (damage, _) in enumerate(DAMAGES):
        shutil.copytree(sound.folder, tmp_path / str(number))
        left = Left(tmp_path / str(number), {k: [*v] for k, v in sound.acknowledged.items()})
        damage(left)
        evidence = left.evidence()
        silent -= {judge for judge in silent if next(iter(judge(evidence)), None)}
    assert {judge.__name__ for judge in silent} == set()


def test_an_orphan_is_found_and_nobody_else(tmp_path: Path) -> None:
    """A process of the run is told, whoever its parent is now; others, zombies and other runs are not."""
    mark, other = uuid4().hex, uuid4().hex
    environ = {**os.environ, MARK: f"{mark}-one-1"}
    told = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {told}.new; mv {told}.new {told}; exec sleep 0.2"
    with (
        subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: other}) as stranger,
        subprocess.Popen(["sh", "-c", script], env=environ, start_new_session=True) as parent,
    ):
        until(told.exists, "the orphan's pid")
        orphan = int(told.read_text())
        os.waitid(os.P_PID, parent.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
        assert [(one.pid, one.mark) for one in survivors(mark)] == [(orphan, f"{mark}-one-1")]
        os.kill(orphan, 9)
        until(lambda: survivors(mark) == [], "nobody to be left")
        stranger.kill()


def test_a_seed_is_a_schedule() -> None:
    """The same seed does the same at the same moments, and a long run does everything."""
    assert schedule(7, 60, 3) == schedule(7, 60, 3) != schedule(8, 60, 3)
    steps = schedule(7, 3600, 3)
    assert {step.act for step in steps} == WORK.keys() | FAULTS.keys()
    assert [step.at_seconds for step in steps] == sorted(step.at_seconds for step in steps)
    pauses = [step.lasts_seconds for step in steps if step.act == "pause_tree"]
    assert min(pauses) < 3 < max(pauses)


@pytest.mark.parametrize("module", ["checker", "history", "records", "survivors", "truth"])
def test_the_checker_stands_on_its_own(module: str) -> None:
    """What judges the code shares none of it, and no Delta library either."""
    allowed = {f"chaos.{name}" for name in ("checker", "history", "records", "survivors")}
    for node in ast.walk(ast.parse((HERE / f"{module}.py").read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name.split(".")[0] not in {"sluicegate", "deltalake", "support"}
            assert not name.startswith("chaos") or name in allowed
