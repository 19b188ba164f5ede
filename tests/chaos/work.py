"""What users do meanwhile: files arrive, jobs are started, stopped, resumed, taken back. Any server is asked."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from chaos.schedule import Step
from chaos.world import Api, Server

UNFINISHED_MAX = 10
KEYS = 40
ROLLED_BACK_OF = 8
ALONE = ("bronze.events", "bronze.changes", "bronze.pages", "bronze.visits", "bronze.family")
UPPER = ("silver.totals", "silver.latest", "silver.by_file", "gold.summary")
MODES = ("graceful", "graceful", "force", "drain")


class Work:
    """The steps of `schedule.WORK`. Each returns what it did, `None` where there was nobody to do it to or to ask."""

    def __init__(self, servers: Sequence[Server], api: Api, landing: Path) -> None:
        self._api, self._landing = api, landing
        self._in_turn = itertools.cycle(servers)
        self._tries = len(servers)
        self.acknowledged: dict[str, list[str]] = defaultdict(list)
        """What was answered for: job ids by `created`, `cancelled`, `rolled_back`."""
        self.landed = 0
        self.until_page = 0

    @property
    def acts(self) -> dict[str, Callable[[Step], str | None]]:
        """The steps by name."""
        return {
            "land": self.land,
            "start": self.start,
            "cancel": self.cancel,
            "cancel_task": self.cancel_task,
            "cancel_many": self.cancel_many,
            "resume": lambda step: self._again(step, ["cancelled", "failed", "partial"], "resume"),
            "rollback": self.rollback,
            "rerun": lambda step: self._again(step, ["success", "cancelled"], "rerun"),
        }

    def call(self, method: str, path: str, **more: Any) -> httpx.Response | None:
        """Ask the server whose turn it is. Returns `None` where no answer came."""
        return self._api.call(next(self._in_turn), method, path, **more)

    def create(self, body: dict[str, Any]) -> str | None:
        """Create a job. A lost answer is asked for again under the same key, at the next server: it is one job."""
        key = {"Idempotency-Key": uuid4().hex}
        for _ in range(self._tries):
            answer = self.call("POST", "/api/jobs", json=body, headers=key)
            if answer is not None and answer.status_code in (200, 201):
                job_id = str(answer.json()["job_id"])
                self.acknowledged["created"].append(job_id)
                return job_id
        return None

    def land(self, step: Step) -> str:
        """A new file in the landing zone, whole at once."""
        self.landed += 1
        number, kind = self.landed, "changes" if step.pick < 0.25 else "events"
        path = f"{kind}/{number:06d}.csv"
        if kind == "events":
            head, count = "file,line,key,amount", 1 + int(step.other * 12)
            keyed = [((number * 7 + n) % KEYS, number * n % 97) for n in range(count)]
            lines = [f"{path},{n},{key},{amount}" for n, (key, amount) in enumerate(keyed)]
        else:
            head, count = "file,key,value", 1 + int(step.other * 8)
            lines = [f"{path},{(number + n) % KEYS},{number * 10 + n}" for n in range(count)]
        target = self._landing / path
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_text("\n".join([head, *lines]) + "\n")
        partial.rename(target)
        return path

    def start(self, step: Step) -> str | None:
        """A job: everything, two tables, or one with what it depends on; some fail, some are refreshed in full."""
        if len(self._jobs(["pending", "running"])) >= UNFINISHED_MAX:
            return None
        self.until_page += int(step.other * 6)
        chance = int(step.pick * 1000)
        body: dict[str, Any] = {
            "params": {
                "pace_ms": int(step.other * 80),
                "until": self.until_page,
                "flaky": chance % 5 == 0,
                "fail": chance % 11 == 0,
            },
            "labels": {"third": str(chance % 3)},
            "full_refresh": chance % 13 == 0,
        }
        if chance % 10 < 4:
            body["pipelines"] = [*{ALONE[chance % 5], ALONE[chance // 10 % 5]}]
        elif chance % 10 < 7:
            body |= {"pipelines": [UPPER[chance % 4]], "with_dependencies": True}
        if chance % 17 == 0:
            body["timeout_seconds"] = 1 + 5 * step.other
        return self.create(body)

    def cancel(self, step: Step) -> str | None:
        """Stop a job."""
        if (job_id := self._one(step, ["pending", "running"])) is None:
            return None
        body = {"mode": MODES[int(step.other * len(MODES))], "reason": "chaos"}
        answer = self.call("POST", f"/api/jobs/{job_id}/cancel", json=body)
        if answer is not None and answer.status_code == 200:
            self.acknowledged["cancelled"].append(job_id)
        return _told(answer, f"{job_id} {body['mode']}")

    def cancel_many(self, step: Step) -> str | None:
        """Stop a third of all jobs."""
        where = {"label": f"third:{int(step.pick * 3)}"}
        answer = self.call("POST", "/api/jobs/cancel", json={"filter": where, "reason": "chaos"})
        if answer is None or answer.status_code != 200:
            return None
        stopped = [r["job_id"] for r in answer.json()["results"] if r["outcome"] == "cancelled"]
        self.acknowledged["cancelled"] += stopped
        return f"{len(stopped)} of {where}"

    def cancel_task(self, step: Step) -> str | None:
        """Stop one task of a job that goes on."""
        job_id = self._one(step, ["running"])
        answer = self.call("GET", f"/api/jobs/{job_id}") if job_id else None
        if answer is None or answer.status_code != 200:
            return None
        running = [t["task_id"] for t in answer.json()["tasks"] if t["status"] == "running"]
        if not running:
            return None
        task_id = running[int(step.other * len(running))]
        answer = self.call("POST", f"/api/jobs/{job_id}/tasks/{task_id}/cancel")
        return _told(answer, task_id)

    def rollback(self, step: Step) -> str | None:
        """Take one of the last jobs back: the first whose tables nobody has changed since, or is writing now."""
        told = None
        for job_id in self._jobs(["success", "cancelled", "failed", "partial"])[:ROLLED_BACK_OF]:
            told = self.roll_back(job_id)
            if told is None or ("200" in told and "0 tables" not in told):
                break
        return told

    def roll_back(self, job_id: str) -> str | None:
        """Take back what a job has published, or carry on with that."""
        answer = self.call("POST", f"/api/jobs/{job_id}/rollback")
        if answer is None or answer.status_code != 200:
            return _told(answer, job_id)
        self.acknowledged["rolled_back"].append(job_id)
        return f"{job_id}: 200, {len(answer.json()['tables'])} tables"

    def _again(self, step: Step, statuses: list[str], verb: str) -> str | None:
        if (job_id := self._one(step, statuses, newest=8)) is None:
            return None
        answer = self.call("POST", f"/api/jobs/{job_id}/{verb}")
        if answer is not None and answer.status_code == 201:
            self.acknowledged["created"].append(answer.json()["job_id"])
        return _told(answer, job_id)

    def _jobs(self, statuses: list[str]) -> list[str]:
        answer = self.call("GET", "/api/jobs", params={"limit": 100, "status": statuses})
        if answer is None or answer.status_code != 200:
            return []
        return [job["job_id"] for job in answer.json()["jobs"]]

    def _one(self, step: Step, statuses: list[str], newest: int = 100) -> str | None:
        jobs = self._jobs(statuses)[:newest]
        return jobs[int(step.pick * len(jobs))] if jobs else None


def _told(answer: httpx.Response | None, what: str) -> str | None:
    if answer is None:
        return None
    code = "" if answer.is_success else f" {answer.json().get('code')}"
    return f"{what}: {answer.status_code}{code}"
