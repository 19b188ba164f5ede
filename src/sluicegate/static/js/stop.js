// Stopping a job: the dialog that says what a stop would do, and the call.

import { get, jobPath, post } from "./api.js";
import { byId, el, setText, skeleton } from "./dom.js";
import { coalesce } from "./events.js";
import { duration, number, plural, taskPipeline } from "./format.js";
import { announce, toast } from "./notify.js";
import { isActive, statusShape, stopIcon } from "./status.js";
import { knownJob, onJob, publish } from "./store.js";

/**
 * What the open dialog is about: `{ jobId, name, escalating, preview, previewing, over }`; `null` while it is closed.
 * `previewing` ends the previews: one that arrived after the stop would be refused, and tell nothing new.
 */
let target = null;

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
  const escalating = Boolean(job?.stopping);
  target = { jobId, name: job?.job_name || jobId, escalating, preview: null, previewing: new AbortController(), over: false };
  openDialog();
  await loadPreview(target);
}

function openDialog() {
  const { name, escalating } = target;
  setText(byId("stop-title"), escalating ? `Stop “${name}” now?` : `Stop “${name}”?`);
  byId("stop-form").reset();
  byId("stop-modes").hidden = escalating;
  byId("stop-reason-field").hidden = escalating;
  byId("stop-preview").replaceChildren(skeleton(3));
  byId("stop-confirm").replaceChildren(stopIcon(), escalating ? "Stop now" : "Stop job");
  setText(byId("stop-keep"), escalating ? "Keep waiting" : "Keep running");
  setText(byId("stop-error"), "");
  setBusy(false);
  byId("stop-dialog").showModal();
  byId("stop-confirm").focus(); // Enter stops, Escape leaves.
}

async function loadPreview(asked) {
  const { signal } = asked.previewing;
  try {
    asked.preview = await post(`${jobPath(asked.jobId)}/cancel?dry_run=true`, { mode: chosenMode() }, { signal });
    if (asked === target) showPreview();
  } catch (error) {
    if (signal.aborted || asked !== target || asked.preview !== null) return;
    if (refusesStop(error)) {
      giveUp(error);
      return;
    }
    byId("stop-preview").replaceChildren(el("p", { class: "soft" }, `What a stop would do could not be worked out: ${error.message} You can still stop the job.`));
  }
}

/** The job goes on while a person reads: what a stop would do is asked again, so that it stays true. */
const previewAgain = coalesce(async () => {
  if (target?.preview && !target.over && !target.previewing.signal.aborted) await loadPreview(target);
});

function chosenMode() {
  return target.escalating ? "force" : new FormData(byId("stop-form")).get("mode");
}

/** Put the dry run into words. */
function showPreview() {
  const { running, not_started: notStarted, kept, lost_work_seconds: lostSeconds } = target.preview;
  const mode = chosenMode();
  const lines = [];
  const line = (status, text, detail) => lines.push(el("li", {}, statusShape(status), el("span", {}, text, detail && el("span", { class: "soft" }, ` ${detail}`))));
  if (running.length > 0) line(mode === "drain" ? "running" : "cancelled", runningSentence(running.length, mode), expectedTime(running, mode));
  if (notStarted.length > 0) line("pending", `${plural(notStarted.length, "pipeline")} will not start`, names(notStarted));
  if (kept.length > 0) line("success", kept.length === 1 ? "1 table stays as published" : `${number(kept.length)} tables stay as published`, names(kept.map((one) => one.table)));
  if (lines.length === 0) line("pending", "Nothing has started yet; nothing will");
  const lost = mode !== "drain" && lostSeconds ? el("p", { class: "soft" }, `About ${duration(lostSeconds)} of unfinished work is lost.`) : null;
  const box = byId("stop-preview");
  const parts = [el("ul", { class: "stop-lines" }, lines), lost].filter(Boolean);
  // Said again only when it reads differently: screen readers speak what is replaced here.
  if (box.textContent !== parts.map((part) => part.textContent).join("")) box.replaceChildren(...parts);
}

function runningSentence(count, mode) {
  const tasks = plural(count, "task");
  if (mode === "drain") return count === 1 ? `${tasks} runs to its end` : `${tasks} run to their end`;
  if (mode === "force") return count === 1 ? `${tasks} is killed at once` : `${tasks} are killed at once`;
  return count === 1 ? `${tasks} stops at its next checkpoint` : `${tasks} stop at their next checkpoint`;
}

function expectedTime(running, mode) {
  const known = running.map((task) => task.expected_stop_ms).filter((ms) => ms !== null && ms !== undefined);
  if (mode === "graceful" && known.length === running.length) return `in about ${duration(Math.max(...known) / 1000)}`;
  return names(running.map(taskPipeline));
}

const NAMES_MAX = 3;

function names(all) {
  const shown = all.slice(0, NAMES_MAX).join(", ");
  return all.length > NAMES_MAX ? `${shown} and ${number(all.length - NAMES_MAX)} more` : shown;
}

async function confirmStop(event) {
  event.preventDefault();
  const asked = target;
  if (asked === null) return;
  const mode = chosenMode();
  const reason = byId("stop-reason").value.trim() || null;
  setBusy(true);
  asked.previewing.abort();
  try {
    const answer = await post(`${jobPath(asked.jobId)}/cancel`, { reason, mode });
    showStopped(asked.jobId, answer);
    close();
    announce(`${asked.name}: ${answer.status}`);
  } catch (error) {
    if (refusesStop(error)) giveUp(error);
    else {
      setText(byId("stop-error"), error.message);
      asked.previewing = new AbortController();
      setBusy(false);
    }
  }
}

/** The answer is the decision, stored: every view shows it without waiting for an event. */
function showStopped(jobId, { status, cancellation }) {
  const job = knownJob(jobId) ?? { job_id: jobId };
  publish({ ...job, status, stopping: !cancellation?.stopped_at, cancellation });
}

/** True when asking again cannot help: the job has ended, is gone, or the role is too low. */
function refusesStop(error) {
  return [400, 403, 404, 409].includes(error.status);
}

function giveUp(error) {
  const { jobId } = target;
  close();
  toast(error.message, "error");
  get(jobPath(jobId)).then(publish, () => null);
}

function setBusy(busy) {
  byId("stop-confirm").disabled = busy;
  byId("stop-form").setAttribute("aria-busy", String(busy));
}

function close() {
  byId("stop-dialog").close();
}

/** Wire the dialog, once. */
export function startStopDialog() {
  byId("stop-form").addEventListener("submit", confirmStop);
  byId("stop-form").addEventListener("change", () => target?.preview && showPreview());
  byId("stop-keep").addEventListener("click", close);
  byId("stop-dialog").addEventListener("close", () => {
    target?.previewing.abort();
    target = null;
  });
  onJob((job) => {
    if (target?.jobId !== job.job_id) return;
    if (isActive(job.status) || (target.escalating && job.stopping)) {
      previewAgain();
      return;
    }
    target.over = true;
    const what = job.stopping ? "is being stopped already" : `has ended meanwhile: ${job.status}`;
    setText(byId("stop-error"), `This job ${what}. There is nothing to stop.`);
    setBusy(true);
  });
}
