// A job's tasks on one time axis: a bar each, and the moment of the stop as a line through all of them.

import { onTick } from "./clock.js";
import { el, keyedList, setText } from "./dom.js";
import { duration, nowMs, number, plural, taskPipeline } from "./format.js";
import { may } from "./session.js";
import { isActive, isLive, statusShape, stopIcon } from "./status.js";

const ROWS_MAX = 400;
const TICKS_MAX = 6;
const STEPS_SECONDS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400, 604800];

/**
 * Make a timeline: `show(job)` draws a job with plan and tasks; while it is live, bars grow every second.
 *
 * `onStop(taskId)` is called by the stop button of a task.
 */
export function createTimeline({ onStop }) {
  const axis = el("div", { class: "timeline-axis track", "aria-hidden": "true" });
  const list = el("ol", { class: "timeline-rows" });
  const more = el("p", { class: "soft", hidden: true });
  const element = el("div", { class: "timeline" },
    el("div", { class: "timeline-row timeline-head" }, el("span", {}), axis, el("span", {})), list, more);
  const render = keyedList(list, { key: (row) => row.pipeline, create: (row) => createRow(row, onStop), update: (node, row) => node.update(row) });
  let shown = null;

  function draw() {
    const scale = scaleOf(shown);
    const rows = rowsOf(shown);
    element.style.setProperty("--tick", `${(scale.stepMs / scale.spanMs) * 100}%`);
    axis.replaceChildren(...axisParts(scale, axis.clientWidth || 600));
    render(rows.slice(0, ROWS_MAX).map((row) => ({ ...row, scale, job: shown })));
    more.hidden = rows.length <= ROWS_MAX;
    setText(more, `${plural(rows.length - ROWS_MAX, "more pipeline")} of this plan, not drawn.`);
  }

  return {
    element,
    show(job) {
      shown = job;
      draw();
    },
    end: onTick(() => {
      if (shown && isLive(shown)) draw();
    }),
  };
}

/** Rows in order of start; those that never started come last, in plan order. */
function rowsOf(job) {
  const tasks = new Map((job.tasks ?? []).map((task) => [taskPipeline(task), task]));
  const planned = new Set((job.plan ?? []).map((step) => step.pipeline));
  const pipelines = [...planned, ...[...tasks.keys()].filter((pipeline) => !planned.has(pipeline))];
  const rows = pipelines.map((pipeline) => ({ pipeline, task: tasks.get(pipeline) ?? null }));
  const start = (row) => (row.task?.started_at ? Date.parse(row.task.started_at) : Infinity);
  return rows.sort((a, b) => (start(a) === start(b) ? 0 : start(a) - start(b)));
}

/** The axis: from the job's start to its last moment, in steps that read well. */
function scaleOf(job) {
  const tasks = job.tasks ?? [];
  const instants = (values) => values.filter(Boolean).map((iso) => Date.parse(iso));
  const starts = instants([job.started_at ?? job.created_at, ...tasks.map((task) => task.started_at)]);
  const ends = instants([job.completed_at, job.cancellation?.requested_at, job.cancellation?.stopped_at, ...tasks.map((task) => task.completed_at)]);
  const startMs = starts.reduce((a, b) => Math.min(a, b), Infinity);
  const endMs = [...ends, isLive(job) || ends.length === 0 ? nowMs() : 0].reduce((a, b) => Math.max(a, b), startMs);
  const seconds = Math.max(0.1, (endMs - startMs) / 1000);
  const step = STEPS_SECONDS.find((one) => seconds / one <= TICKS_MAX) ?? seconds / TICKS_MAX;
  // A live axis grows by whole steps, so that bars grow on it rather than shrink with it.
  const spanMs = (isLive(job) ? Math.ceil(seconds / step + 0.01) * step : seconds * 1.02) * 1000;
  const stop = job.cancellation?.requested_at;
  return { startMs, spanMs, stepMs: step * 1000, stopMs: stop ? Date.parse(stop) : null };
}

const percent = (scale, ms) => Math.min(100, Math.max(0, ((ms - scale.startMs) / scale.spanMs) * 100));

function tickLabel(seconds) {
  if (seconds < 60) return `${Number(seconds.toFixed(1))} s`;
  const [small, unit] = seconds < 3600 ? [60, "min"] : seconds < 86400 ? [3600, "h"] : [86400, "d"];
  return seconds % small === 0 ? `${seconds / small} ${unit}` : `${Math.floor(seconds / small)}:${String(Math.round((seconds % small) / (small / 60))).padStart(2, "0")}`;
}

/** Room that a label needs, in pixels, so that no two of them meet. */
const LABEL_PX = 40;

function axisParts(scale, widthPx) {
  const parts = [];
  const room = Math.max(7, (LABEL_PX / widthPx) * 100);
  const late = (at) => at > 85;
  const stopAt = scale.stopMs === null ? null : percent(scale, scale.stopMs);
  for (let ms = 0; ms < scale.spanMs - 1; ms += scale.stepMs) {
    const at = (ms / scale.spanMs) * 100;
    const crowded = at > 100 - room / 2 || (stopAt !== null && at > stopAt - (late(stopAt) ? 1.6 : 1) * room && at < stopAt + room); // No room, or the stop's label stands there.
    if (crowded) continue;
    parts.push(placed(el("span", { class: "timeline-tick" }, ms === 0 ? "0" : tickLabel(ms / 1000)), at));
  }
  if (stopAt !== null) parts.push(placed(el("span", { class: `timeline-stop-label${late(stopAt) ? " is-late" : ""}` }, "stop"), stopAt));
  return parts;
}

function placed(node, leftPercent, widthPercent) {
  node.style.left = `${leftPercent}%`;
  if (widthPercent !== undefined) node.style.width = `${widthPercent}%`;
  return node;
}

function createRow({ pipeline }, onStop) {
  const mark = el("span", { class: "timeline-mark" });
  const bar = el("div", { class: "timeline-bar" });
  const stop = el("div", { class: "timeline-stop", hidden: true });
  const note = el("span", { class: "timeline-note" });
  let taskId = null;
  const stopOne = el("button", { class: "btn timeline-stop-one", type: "button", hidden: true, onclick: () => onStop(taskId) }, stopIcon());
  const [layer] = pipeline.split(".");
  const node = el("li", { class: "timeline-row", "data-pipeline": pipeline, tabindex: -1 },
    el("span", { class: "timeline-label", title: pipeline }, mark, el("span", { class: `layer-dot layer-${layer}`, "aria-hidden": "true" }), el("span", { class: "timeline-name" }, pipeline)),
    el("div", { class: "track", "aria-hidden": "true" }, bar, stop), el("div", { class: "timeline-end" }, note, stopOne));
  let drawn;

  node.update = ({ task, scale, job }) => {
    const status = task?.status ?? "not started";
    if (drawn !== status) {
      mark.replaceChildren(statusShape(task?.status ?? "pending"));
      node.dataset.status = status;
      drawn = status;
    }
    stop.hidden = scale.stopMs === null;
    if (scale.stopMs !== null) placed(stop, percent(scale, scale.stopMs));
    placeBar(bar, task, scale, job);
    setText(note, noteOf(task, job));
    note.title = task?.message ?? note.textContent;
    taskId = task?.task_id ?? null;
    const kind = stopKindOf(task, job);
    if (kind === null && document.activeElement === stopOne) node.focus(); // The button goes; its row stays.
    stopOne.hidden = kind === null;
    stopOne.classList.toggle("btn-danger", kind === "force");
    const label = kind === "force" ? `Stop ${pipeline} now` : `Stop ${pipeline}`;
    if (stopOne.title !== label) {
      stopOne.title = label;
      stopOne.setAttribute("aria-label", label);
    }
  };
  return node;
}

/** Which stop a task offers alone: none once its whole job is being stopped. */
function stopKindOf(task, job) {
  if (!may("operator") || task === null || !isActive(task.status) || !isActive(job.status)) return null;
  return task.stopping ? "force" : "stop";
}

function placeBar(bar, task, scale, job) {
  if (!task?.started_at) {
    placed(bar, 0, 100);
    return;
  }
  const startMs = Date.parse(task.started_at);
  const ended = task.completed_at ?? (isLive(job) && isActive(task.status) ? null : job.completed_at);
  const left = percent(scale, startMs);
  placed(bar, left, percent(scale, ended ? Date.parse(ended) : nowMs()) - left);
}

const STAGE_WORDS = { checkpoint: "at a checkpoint", interrupt: "by interrupt", terminate: "by SIGTERM", kill: "by SIGKILL" };

/** What happened, in a few words: how it stopped, how far it is, what it wrote. */
function noteOf(task, job) {
  if (task === null) return "not started";
  const parts = [];
  if (task.attempt > 1) parts.push(`attempt ${task.attempt}`);
  const { outcome, confirmed_at: confirmed } = job.cancellation ?? {};
  if (isActive(task.status) && outcome === "unconfirmed" && !confirmed) parts.push("not confirmed as ended");
  else if (isActive(task.status) && task.stopping) parts.push("stopping");
  else if (task.status === "pending") parts.push("waits for a retry");
  else if (task.status === "running") parts.push(progressWords(task.progress) || "running");
  else if (task.status === "cancelled") parts.push(`stopped ${STAGE_WORDS[task.stop?.stage] ?? ""}`.trim());
  else if (task.status === "failed") parts.push("failed");
  else parts.push(task.stats?.rows === null || task.stats?.rows === undefined ? "done" : plural(task.stats.rows, "row"));
  if (!isActive(task.status)) parts.push(duration(task.duration_seconds));
  return parts.join(" · ");
}

function progressWords(progress) {
  if (progress?.done === null || progress?.done === undefined) return "";
  const unit = progress.unit ?? "rows";
  return progress.total ? `${number(progress.done)} / ${number(progress.total)} ${unit}` : `${number(progress.done)} ${unit}`;
}
