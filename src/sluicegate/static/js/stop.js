// Stopping a job, or one task of it: what the dialog says, and the calls.

import { get, jobPath, post } from "./api.js";
import { createDialog, names } from "./dialog.js";
import { byId, el } from "./dom.js";
import { duration, number, plural, taskPipeline } from "./format.js";
import { isActive, statusShape, stopIcon } from "./status.js";
import { knownJob, publish } from "./store.js";

let ask = null;

/** The stop dialog, for whoever else stops something. */
export const askToStop = (question) => ask({ isDanger: true, keep: "Keep running", ...question });

/**
 * Ask whether to stop a job, showing what a stop would do, and stop it.
 *
 * The event goes no further, so a button inside a row does not open the row. A job that is stopping already is
 * offered the last step only: force.
 */
export async function stopJob(jobId, event) {
  event?.stopPropagation();
  event?.preventDefault();
  const job = knownJob(jobId);
  const name = job?.job_name || jobId;
  const escalating = Boolean(job?.stopping);
  await askToStop({
    title: escalating ? `Stop “${name}” now?` : `Stop “${name}”?`,
    keep: escalating ? "Keep waiting" : "Keep running",
    confirm: [stopIcon(), escalating ? "Stop now" : "Stop job"],
    modes: escalating ? ["force"] : ["graceful", "drain", "force"],
    withReason: !escalating,
    load: (mode, signal) => previewStop(jobId, mode, signal),
    show: (preview, mode) => ({ parts: [linesOf(preview, mode)], aside: lostWork(preview.lost_work_seconds, mode) }),
    act: ({ mode, reason }) => post(`${jobPath(jobId)}/cancel`, { reason, mode }),
    done: (answer) => {
      showStopped(jobId, answer);
      return `${name}: ${answer.status}`;
    },
    refused: (error) => (error.code === "job_not_running" ? endedWords(error.problem.job_status, Boolean(knownJob(jobId)?.stopping)) : null),
    reread: () => reread(jobId),
    heard: (changed) => {
      if (changed.job_id !== jobId) return null;
      if (isActive(changed.status) || (escalating && changed.stopping)) return "again";
      return endedWords(changed.status, changed.stopping);
    },
    home: () => homeOf(jobId),
  });
}

const previewStop = (jobId, mode, signal) => post(`${jobPath(jobId)}/cancel?dry_run=true`, { mode }, { signal });

function endedWords(status, stopping) {
  const what = stopping ? "is being stopped already" : `has ended meanwhile${status ? `: ${status}` : ""}`;
  return `This job ${what}. There is nothing to stop.`;
}

/** Read a job again, for somebody else was faster; whoever shows it hears of it. */
export function reread(jobId) {
  get(jobPath(jobId)).then(publish, () => null);
}

/** Where the focus goes when the button that asked is gone: the row's View Details, or the heading; nothing that acts. */
export const homeOf = (jobId) =>
  document.querySelector(`main > .view:not([hidden]) [data-job-id="${CSS.escape(jobId)}"] [data-action=details]`) ?? document.querySelector("main > .view:not([hidden]) h1");

/** A line of what would happen: the status that comes of it, what, and to which. */
export const line = (status, text, detail) => el("li", {}, statusShape(status), el("span", {}, text, detail && el("span", { class: "soft" }, ` ${detail}`)));

export const lines = (items) => el("ul", { class: "stop-lines" }, items);

/** Put the dry run into words. */
function linesOf({ running, not_started: notStarted, kept }, mode) {
  const items = [];
  if (running.length > 0) items.push(line(mode === "drain" ? "running" : "cancelled", runningSentence(running.length, mode), [names(running.map(taskPipeline)), usually(running, mode)].filter(Boolean).join(", ")));
  if (notStarted.length > 0) items.push(line("pending", `${plural(notStarted.length, "pipeline")} will not start`, names(notStarted)));
  if (kept.length > 0) items.push(line("success", kept.length === 1 ? "1 table stays as published" : `${number(kept.length)} tables stay as published`, names(kept.map((one) => one.table))));
  if (items.length === 0) items.push(line("pending", "Nothing has started yet; nothing will"));
  return lines(items);
}

function runningSentence(count, mode) {
  const tasks = plural(count, "task");
  if (mode === "drain") return count === 1 ? `${tasks} runs to its end` : `${tasks} run to their end`;
  if (mode === "force") return count === 1 ? `${tasks} is killed at once` : `${tasks} are killed at once`;
  return count === 1 ? `${tasks} stops at its next checkpoint` : `${tasks} stop at their next checkpoint`;
}

/** How soon a graceful stop is expected; nothing while a task has not been observed. */
function usually(running, mode) {
  const known = running.map((task) => task.expected_stop_ms).filter((ms) => ms !== null && ms !== undefined);
  if (mode !== "graceful" || known.length === 0 || known.length < running.length) return "";
  return `usually within ${duration(roundedUp(Math.max(...known)) / 1000)}`;
}

/** Up to one and a half digits, so that what was measured again reads the same: 7.3 → 10, 112 → 150, 1510 → 2000. */
function roundedUp(ms) {
  const unit = 10 ** Math.max(1, Math.floor(Math.log10(Math.max(ms, 1))));
  return Math.ceil(ms / (unit / 2)) * (unit / 2);
}

function lostWork(seconds, mode) {
  if (mode === "drain" || seconds === null || seconds === undefined || seconds <= 0) return "";
  const about = seconds < 10 ? `${Math.ceil(seconds)} s` : duration(seconds);
  return `A resume would repeat ${seconds < 1 ? "less than a second" : `about ${about}`} of work.`;
}

/** The answer is the decision, stored: every view shows it without waiting for an event. */
function showStopped(jobId, { status, cancellation }) {
  const job = knownJob(jobId) ?? { job_id: jobId };
  publish({ ...job, status, stopping: !cancellation?.stopped_at, cancellation });
}

/**
 * Ask whether to stop one task of a job; the rest of the job goes on.
 *
 * `look()` returns the open job as it is known now, with plan and tasks; `stopped(task)` hears the answer. A task that
 * is stopping already is offered force only.
 */
export function stopTask(jobId, taskId, { look, stopped }) {
  const find = () => (look()?.tasks ?? []).find((task) => task.task_id === taskId);
  const pipeline = taskPipeline(find());
  const escalating = Boolean(find().stopping);
  return askToStop({
    title: escalating ? `Stop “${pipeline}” now?` : `Stop “${pipeline}”?`,
    keep: escalating ? "Keep waiting" : "Keep running",
    confirm: [stopIcon(), escalating ? "Stop now" : "Stop task"],
    modes: escalating ? ["force"] : ["graceful", "force"],
    withReason: !escalating,
    load: (mode, signal) => previewStop(jobId, mode, signal),
    show: (preview, mode) => showTask(preview.running.filter((task) => task.task_id === taskId), preview, mode, dependents(look(), pipeline)),
    act: ({ mode, reason }) => post(`${jobPath(jobId)}/tasks/${encodeURIComponent(taskId)}/cancel`, { reason, mode }),
    done: (task) => {
      stopped(task);
      return `${pipeline}: ${isActive(task.status) ? "stopping" : task.status}`;
    },
    refused: () => taskOver(find(), escalating),
    reread: () => reread(jobId),
    heard: (changed) => (changed.job_id === jobId ? taskOver(find(), escalating) ?? (isActive(changed.status) ? "again" : endedWords(changed.status, changed.stopping)) : null),
    home: () => byId("details-timeline-title"),
  });
}

function showTask(running, preview, mode, waiting) {
  const items = running.length === 0
    ? [line("cancelled", "It waits for another attempt, and will not get one")]
    : [line("cancelled", mode === "force" ? "It is killed at once" : "It stops at its next checkpoint", usually(running, mode))];
  if (waiting.length > 0) items.push(line("pending", waiting.length === 1 ? "1 pipeline that needs it will not run" : `${number(waiting.length)} pipelines that need it will not run`, names(waiting)));
  items.push(line("running", "The rest of the job goes on"));
  return { parts: [lines(items)], aside: preview.running.length === 1 && running.length === 1 ? lostWork(preview.lost_work_seconds, mode) : "" };
}

/** Why there is nothing to stop about a task, or `null` while there is. */
function taskOver(task, escalating) {
  if (!task || isActive(task.status)) return task?.stopping && !escalating ? "This task is being stopped already. There is nothing to stop." : null;
  return `This task has ended meanwhile: ${task.status}. There is nothing to stop.`;
}

/** The pipelines of a job that need this one, directly or not, and have not started. */
function dependents(job, pipeline) {
  const needed = new Set([pipeline]);
  const plan = job?.plan ?? [];
  for (let before = 0; before !== needed.size;) {
    before = needed.size;
    for (const step of plan) if (step.depends_on.some((one) => needed.has(one))) needed.add(step.pipeline);
  }
  const started = new Set((job?.tasks ?? []).map(taskPipeline));
  return plan.map((step) => step.pipeline).filter((one) => needed.has(one) && one !== pipeline && !started.has(one));
}

/** Wire the dialog, once. */
export function startStopDialog() {
  ask = createDialog("stop");
}
