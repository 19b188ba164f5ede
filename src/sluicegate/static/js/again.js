// Going on with an ended job, running it again, and taking back what it published.

import { get, jobPath, post } from "./api.js";
import { createDialog, names } from "./dialog.js";
import { el } from "./dom.js";
import { number, plural } from "./format.js";
import { announce, toast } from "./notify.js";
import { may } from "./session.js";
import { isActive } from "./status.js";
import { homeOf, line, lines, reread } from "./stop.js";
import { knownJob, publish } from "./store.js";

let ask = null;

/** What an ended job offers to this role; nothing while any of it moves. */
export function offersOf(job) {
  const isOver = !isActive(job.status) && !job.stopping && Boolean(job.completed_at);
  const beingRolledBack = Boolean(job.rollback) && !job.rollback.finished_at;
  const changedTables = (job.tasks ?? []).some((task) => task.stats?.units > 0);
  return {
    resume: isOver && may("operator") && job.status !== "success" && !job.resumed_by && !beingRolledBack,
    rollBack: isOver && may("admin") && changedTables && !job.rollback,
    rerun: isOver && may("operator"),
  };
}

/** The buttons of what is offered. */
export function againButtons(jobId, { resume, rollBack, rerun }) {
  return [
    resume && button("Resume", "resume", "btn btn-primary", () => resumeJob(jobId)),
    rerun && button("Run again", "rerun", "btn", (event) => rerunJob(jobId, event.currentTarget)),
    rollBack && button("Roll back", "rollback", "btn btn-warning", () => rollBackJob(jobId)),
  ].filter(Boolean);
}

const button = (label, action, look, onclick) => el("button", { class: look, type: "button", "data-action": action, onclick }, label);

const nameOf = (jobId) => knownJob(jobId)?.job_name || jobId;

/** A link to a job by the beginning of its id, which is enough to tell it from others of its day. */
export const shortJobLink = (jobId) => el("a", { href: `#/jobs/${encodeURIComponent(jobId)}`, class: "mono", title: jobId }, jobId.slice(0, 13));

/** Show the job that was just made; `wasLeft`: its maker has turned to something else, and is only told. */
function goTo(job, what, wasLeft) {
  publish(job);
  if (wasLeft) toast(`${what} as job ${job.job_id}.`);
  else location.hash = `#/jobs/${encodeURIComponent(job.job_id)}`;
  return `${job.job_name || "Job"}: ${what}`;
}

function resumeJob(jobId) {
  return ask({
    title: `Resume “${nameOf(jobId)}”?`,
    keep: "Not now",
    confirm: ["Resume"],
    load: (_mode, signal) => post(`${jobPath(jobId)}/resume?dry_run=true`, {}, { signal }),
    show: showResume,
    act: () => post(`${jobPath(jobId)}/resume`),
    done: (job, { wasLeft }) => {
      const before = knownJob(jobId);
      if (before) publish({ ...before, resumed_by: job.job_id });
      return goTo(job, "resumed", wasLeft);
    },
    refused: ({ problem }) => (problem.resumed_by ? resumedWords(problem.resumed_by) : null),
    reread: () => reread(jobId),
    heard: (job) => {
      if (job.job_id !== jobId) return null;
      return job.resumed_by ? resumedWords(job.resumed_by) : "again";
    },
    home: () => homeOf(jobId),
  });
}

const resumedWords = (jobId) => ["It was resumed already, as job ", shortJobLink(jobId), ". If that one has ended, resume it instead."];

/** More pipelines than this that go on are told as one line. */
const LINES_MAX = 4;

function showResume({ kept, runs }) {
  const goOn = runs.filter((run) => run.after !== null);
  const over = runs.filter((run) => run.after === null).map((run) => run.pipeline);
  const items = [];
  if (kept.length > 0) items.push(line("success", kept.length === 1 ? "1 table stays as it is" : `${number(kept.length)} tables stay as they are`, names(kept.map((one) => one.table))));
  if (goOn.length > LINES_MAX) items.push(line("running", `${number(goOn.length)} pipelines go on after what they have committed`, names(goOn.map((run) => run.pipeline))));
  else items.push(...goOn.map(({ pipeline, after }) => line("running", `${pipeline} goes on after ${plural(after.rows, "row")}`)));
  if (over.length > 0) items.push(line("pending", over.length === 1 ? "1 pipeline starts over" : `${number(over.length)} pipelines start over`, names(over)));
  if (runs.length === 0) items.push(line("success", "Nothing is left to run", "The new job is a success at once."));
  return { parts: [lines(items)] };
}

function rollBackJob(jobId) {
  return ask({
    title: `Roll back “${nameOf(jobId)}”?`,
    keep: "Leave as it is",
    confirm: ["Roll back"],
    isDanger: true,
    isFinal: true,
    needsPreview: true,
    load: (_mode, signal) => post(`${jobPath(jobId)}/rollback?dry_run=true`, {}, { signal }),
    show: ({ tables }) => showRollback(tables),
    act: () => post(`${jobPath(jobId)}/rollback`),
    done: ({ tables }) => {
      get(jobPath(jobId)).then(publish, () => null); // Who and when is in the job.
      const words = tables.length === 1 ? "1 table was rolled back" : `${number(tables.length)} tables were rolled back`;
      toast(`${words}.`);
      return words;
    },
    reread: () => reread(jobId),
    heard: (job) => {
      if (job.job_id !== jobId) return null;
      if (!job.rollback) return "again";
      return `${job.rollback.requested_by} ${job.rollback.finished_at ? "has rolled it back" : "is rolling it back"} meanwhile.`;
    },
    home: () => homeOf(jobId),
  });
}

/** "version 3 → version 1", or that nothing is left. */
export const putBackWords = ({ from_version: from, to_version: to }) => (to === null ? `becomes empty, is at version ${from}` : `from version ${from} back to version ${to}`);

function showRollback(tables) {
  if (tables.length === 0) return { parts: [lines([line("success", "No table holds anything of this job", "There is nothing to roll back.")])], nothing: true };
  return {
    parts: [lines(tables.map((one) => line(one.to_version === null ? "pending" : "cancelled", one.table, putBackWords(one))))],
    aside: "What this job ingested and saved as state counts as not done again. Nothing else is touched.",
    confirm: [`Roll back ${plural(tables.length, "table")}`],
  };
}

/** Jobs that are being run again: a double click is one job. */
const rerunning = new Set();

async function rerunJob(jobId, pressed) {
  if (rerunning.has(jobId)) return;
  rerunning.add(jobId);
  pressed.setAttribute("aria-busy", "true");
  const asked = location.hash;
  try {
    const job = await post(`${jobPath(jobId)}/rerun`);
    announce(goTo(job, "run again", location.hash !== asked));
  } catch (error) {
    if (error.status !== 401) toast(`It was not run again: ${error.message}`, "error");
  } finally {
    rerunning.delete(jobId);
    pressed.removeAttribute("aria-busy");
  }
}

/** Wire the dialog, once. */
export function startAgainDialog() {
  ask = createDialog("again");
}
