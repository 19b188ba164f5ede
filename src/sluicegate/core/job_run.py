"""One job in its executor's memory: which pipelines can start, which run, what is left. Pure, one thread."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable

from sluicegate.core.job import Job, TaskRecord, TaskStatus
from sluicegate.core.plan import Plan
from sluicegate.spec import LAYERS


class JobRun:
    """Walks a plan. The header and the records are what is stored; the rest is derived from them.

    A pipeline is, in this order: held (something it waits for has not ended), ready, taken, ended. It is skipped
    when something that it depends on ended without success; skipping is ending without ever having started.
    """

    def __init__(self, job: Job, plan: Plan, records: Iterable[TaskRecord]) -> None:
        self.job, self.plan = job, plan
        self.lease = job.lease  # of this holding; a takeover raises the job's
        self.records: dict[str, TaskRecord] = {record.pipeline: record for record in records}
        self.taken: set[str] = set()
        self.stop_seen_at: float | None = None  # monotonic; of a stop that came while it was held
        self.queued = False  # whether the executor has it in line for a worker
        self.is_leaving = False  # it is being given to other executors, and starts nothing here
        self._index = {step.pipeline: n for n, step in enumerate(plan.steps)}
        self._upstream_left = {step.pipeline: len(step.depends_on) for step in plan.steps}
        self._ended: set[str] = set()
        self._ready: list[int] = []  # a heap of what is in `_listed`
        self._listed: set[str] = set()
        self._beyond: dict[str, list[str]] = defaultdict(
            list
        )  # by layer: free but for the layers before
        self._left_in_layer = dict.fromkeys(LAYERS, 0)
        for step in plan.steps:
            self._left_in_layer[step.layer] += 1
        for step in plan.steps:
            if not step.depends_on:
                self._offer(step.pipeline)
        for record in list(self.records.values()):
            if record.is_terminal and record.pipeline in self._index:
                self.end(record.pipeline, succeeded=record.status is TaskStatus.SUCCESS)

    @property
    def order(self) -> tuple[int, str]:
        """Who is served first: higher priority, then the older job."""
        return -self.job.priority, self.job.job_id

    @property
    def is_untouched(self) -> bool:
        """Whether nothing of it ever started or is about to."""
        started = self.job.started_at is not None or self.records or self.taken
        return not (started or self.job.is_terminal or self.is_leaving)

    @property
    def ready_count(self) -> int:
        """How many could start now."""
        return len(self._ready)

    @property
    def next_pipeline(self) -> str:
        """The pipeline that is likely to be taken next. There must be a ready one."""
        return self.plan.pipelines[self._ready[0]]

    @property
    def has_ready(self) -> bool:
        """Whether something could start now."""
        return bool(self._ready)

    @property
    def is_drained(self) -> bool:
        """Whether nothing runs and nothing will: every step ended, or the job takes no more."""
        if self.taken:
            return False
        return self.job.is_terminal or len(self._ended) == len(self.plan.steps)

    def take(self) -> str | None:
        """Return the pipeline that should start next and hold it as taken, or `None`."""
        while self._ready:
            pipeline = self.plan.pipelines[heapq.heappop(self._ready)]
            self._listed.discard(pipeline)
            if pipeline not in self._ended and pipeline not in self.taken:
                self.taken.add(pipeline)
                return pipeline
        return None

    def give_back(self, pipeline: str) -> None:
        """A taken pipeline did not start, or waits for another attempt: it is ready again."""
        self.taken.discard(pipeline)
        self._list(pipeline)

    def put_aside(self, pipeline: str) -> None:
        """A taken pipeline waits for something that is no worker: a pause, a table. `give_back` ends that."""
        self.taken.discard(pipeline)

    def end(self, pipeline: str, *, succeeded: bool) -> None:
        """A pipeline ended; what waited for it becomes ready, or is skipped."""
        self.taken.discard(pipeline)
        if pipeline in self._ended:
            return
        if not succeeded:
            for after in self.plan.downstream(pipeline):
                self._finish(after)
        self._finish(pipeline)
        if succeeded:
            for after in self.plan.dependents[pipeline]:
                self._upstream_left[after] -= 1
                if not self._upstream_left[after] and after not in self._ended:
                    self._offer(after)

    def _finish(self, pipeline: str) -> None:
        if pipeline in self._ended:
            return
        self._ended.add(pipeline)
        layer = pipeline.partition(".")[0]
        self._left_in_layer[layer] -= 1
        if not self._left_in_layer[layer]:
            for waiting_layer in LAYERS:
                if self._layer_is_open(waiting_layer):
                    for free in self._beyond.pop(waiting_layer, ()):
                        self._list(free)

    def _offer(self, pipeline: str) -> None:
        """Everything it depends on has succeeded; it is ready unless an earlier layer has to end first."""
        layer = pipeline.partition(".")[0]
        if not self.plan.by_layer or self._layer_is_open(layer):
            self._list(pipeline)
        else:
            self._beyond[layer].append(pipeline)

    def _list(self, pipeline: str) -> None:
        if pipeline not in self._listed and pipeline not in self._ended:
            self._listed.add(pipeline)
            heapq.heappush(self._ready, self._index[pipeline])

    def _layer_is_open(self, layer: str) -> bool:
        before = LAYERS[: LAYERS.index(layer)]
        return not any(self._left_in_layer[earlier] for earlier in before)
