// Stopping many jobs: the ticks of the history's rows, and stopping what is ticked or all that the filter means.

import { post } from "./api.js";
import { names } from "./dialog.js";
import { byId, el, setText } from "./dom.js";
import { number, plural } from "./format.js";
import { announce, toast } from "./notify.js";
import { isActive, stopIcon } from "./status.js";
import { askToStop, line, lines } from "./stop.js";
import { knownJob, publish } from "./store.js";

/** The ids of the jobs that are ticked, in the order of ticking. */
const ticked = new Set();
/** Where a range with Shift begins. */
let anchor = null;
/** Read again, without waiting for events, what a stop of many has changed. */
let readAgain = () => {};

export const isTicked = (jobId) => ticked.has(jobId);

/** Make the cell of a row's checkbox. */
export function tickCell(jobId, name) {
  const box = el("input", {
    type: "checkbox", "aria-label": `Select ${name}`, title: "Select. Shift selects a range; Enter stops what is selected", checked: ticked.has(jobId),
    onclick: (event) => clicked(jobId, event), onkeydown: (event) => pressed(jobId, event),
  });
  // A range by Shift would select the text of the rows between.
  return el("label", { class: "job-tick", onmousedown: (event) => { if (event.shiftKey) event.preventDefault(); } }, box);
}

function clicked(jobId, event) {
  const on = event.currentTarget.checked;
  const range = event.shiftKey && anchor !== null ? between(anchor, jobId) : [jobId];
  // A range means work that can be stopped; the row that was pressed is meant in any case.
  for (const one of range) tick(one, on && (one === jobId || canStop(one) || ticked.has(one)));
  anchor = jobId;
  showTicks();
}

/** The arrows go from box to box, and with Shift take the next one along; Enter stops what is ticked. */
function pressed(jobId, event) {
  if (event.key === "Enter" && ticked.size > 0) {
    event.preventDefault();
    stopTicked();
    return;
  }
  if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
  event.preventDefault();
  const all = listed();
  const next = all[all.indexOf(jobId) + (event.key === "ArrowDown" ? 1 : -1)];
  if (next === undefined) return;
  if (event.shiftKey) {
    tick(jobId, true);
    tick(next, true);
    anchor = next;
    showTicks();
  }
  boxOf(next).focus();
}

const rows = () => [...byId("job-list").querySelectorAll(".job-item")];
const listed = () => rows().map((row) => row.dataset.jobId);
const boxOf = (jobId) => byId("job-list").querySelector(`[data-job-id="${CSS.escape(jobId)}"] .job-tick input`);

function between(from, to) {
  const all = listed();
  const [a, b] = [all.indexOf(from), all.indexOf(to)];
  return a < 0 ? [to] : all.slice(Math.min(a, b), Math.max(a, b) + 1);
}

function canStop(jobId) {
  const job = knownJob(jobId);
  return Boolean(job) && (isActive(job.status) || Boolean(job.stopping));
}

function tick(jobId, on) {
  if (on) ticked.add(jobId);
  else ticked.delete(jobId);
}

let saying = null;

function showTicks() {
  for (const row of rows()) {
    const on = ticked.has(row.dataset.jobId);
    row.classList.toggle("is-ticked", on);
    row.querySelector(".job-tick input").checked = on;
  }
  byId("bulk").hidden = ticked.size === 0;
  const words = `${plural(ticked.size, "job")} selected`;
  setText(byId("bulk-count"), words);
  clearTimeout(saying);
  saying = setTimeout(() => announce(ticked.size === 0 ? "No job is selected" : words), 300);
}

function clear() {
  ticked.clear();
  anchor = null;
  showTicks();
}

/** Jobs that are not listed any more cannot be seen to be selected, so they are not. */
export function keepTicks(jobIds) {
  const shown = new Set(jobIds);
  const gone = [...ticked].filter((jobId) => !shown.has(jobId));
  for (const jobId of gone) ticked.delete(jobId);
  if (gone.length > 0) showTicks();
}

function stopTicked() {
  const jobIds = [...ticked];
  return askAboutMany({
    title: `Stop ${plural(jobIds.length, "selected job")}?`,
    which: { job_ids: jobIds },
    home: () => byId("job-list").querySelector(".job-tick input") ?? byId("history-title"),
  });
}

/** Ask whether to stop all jobs that a filter means, listed here or not; without a filter, all that have not ended. */
function stopMatching({ statuses, filter }) {
  const meant = statuses.length === 0 ? ["pending", "running"] : statuses.filter(isActive);
  const more = Object.keys(filter).length > 0 ? " and fit the filter" : "";
  return askAboutMany({
    title: `Stop all jobs that are ${meant.join(" or ")}${more}?`,
    which: { filter: { status: meant, ...filter } },
    home: () => byId("stop-matching"),
  });
}

/**
 * The dry run fixes which jobs are meant, by its `match_token`: what comes later is not stopped unseen. It is asked
 * again as jobs change, and tells then how many of these have ended meanwhile.
 */
function askAboutMany({ title, which, home }) {
  let token = null;
  let first = new Set();
  return askToStop({
    title, home,
    confirm: [stopIcon(), "Stop jobs"],
    modes: ["graceful", "drain", "force"],
    withReason: true,
    needsPreview: true,
    load: async (mode, signal) => {
      const answer = await post("api/jobs/cancel", { ...which, mode, dry_run: true, ...(token && { match_token: token }) }, { signal });
      if (token === null && !signal.aborted) [token, first] = [answer.match_token, new Set(answer.results.map((one) => one.job_id))];
      return answer;
    },
    show: (preview, mode) => showMany(sorted(first, preview.results), mode),
    act: ({ mode, reason }) => post("api/jobs/cancel", { ...which, mode, reason, match_token: token }),
    done: (answer) => stopped(first, answer),
    heard: (job) => (first.has(job.job_id) ? "again" : null),
  });
}

/** The jobs that were meant at first, by what is true of them now. */
function sorted(first, results) {
  const outcomes = new Map(results.map((one) => [one.job_id, one.outcome]));
  const found = { stop: [], stopping: [], ended: [], changed: [], gone: [] };
  for (const jobId of first) {
    const outcome = outcomes.get(jobId);
    if (outcome === "job_not_found") found.gone.push(jobId);
    // In a dry run by force these are among the ones to be stopped.
    else if (knownJob(jobId)?.stopping) found.stopping.push(jobId);
    else if (outcome === "cancelled") found.stop.push(jobId);
    // Asked for by a filter, it may have started instead.
    else if (outcome === undefined && isActive(knownJob(jobId)?.status)) found.changed.push(jobId);
    else found.ended.push(jobId);
  }
  return found;
}

const nameOf = (jobId) => knownJob(jobId)?.job_name || jobId;

function showMany({ stop, stopping, ended, changed, gone }, mode) {
  const force = mode === "force";
  const items = [];
  const jobs = (all, one, many) => (all.length === 1 ? `1 job ${one}` : `${number(all.length)} jobs ${many}`);
  if (stop.length > 0) {
    const text = { force: ["is killed at once", "are killed at once"], drain: ["starts nothing more; what runs finishes", "start nothing more; what runs finishes"] }[mode] ?? ["will stop", "will stop"];
    items.push(line(mode === "drain" ? "running" : "cancelled", jobs(stop, ...text), names(stop.map(nameOf))));
  }
  if (stopping.length > 0) items.push(line("cancelled", force ? jobs(stopping, "that is stopping already is killed", "that are stopping already are killed") : jobs(stopping, "is stopping already", "are stopping already"), names(stopping.map(nameOf))));
  if (ended.length > 0) items.push(line("success", jobs(ended, "has ended meanwhile and stays as it is", "have ended meanwhile and stay as they are")));
  if (changed.length > 0) items.push(line("running", jobs(changed, "has started meanwhile and runs on", "have started meanwhile and run on"), names(changed.map(nameOf))));
  if (gone.length > 0) items.push(line("pending", jobs(gone, "does not exist any more", "do not exist any more")));
  const count = stop.length + (force ? stopping.length : 0);
  if (items.length === 0) items.push(line("pending", "No job is so now", "There is nothing to stop."));
  return { parts: [lines(items)], nothing: count === 0, confirm: [stopIcon(), `Stop ${plural(count, "job")}`] };
}

/** The decision is stored for each: the rows show it at once; the list is read again for the rest. */
function stopped(first, { cancelled, results }) {
  let [others, gone] = [first.size - results.length, 0];
  for (const { job_id: jobId, outcome } of results) {
    const job = knownJob(jobId);
    if (outcome === "job_not_found") gone += 1;
    else if (outcome !== "cancelled") others += 1;
    else if (job && isActive(job.status)) publish({ ...job, status: "cancelled", stopping: true });
  }
  const facts = [others > 0 && `${number(others)} had ended before`, gone > 0 && `${number(gone)} did not exist any more`].filter(Boolean);
  const words = `${plural(cancelled, "job")} stopped${facts.length > 0 ? `; ${facts.join(" and ")}` : ""}`;
  toast(`${words}.`);
  clear();
  readAgain();
  return words;
}

/** Wire the bar and the button, once; `meant()` is the filter, `refresh` reads the list again. */
export function startBulk({ meant, refresh }) {
  readAgain = refresh;
  byId("bulk-stop").prepend(stopIcon());
  byId("bulk-stop").addEventListener("click", stopTicked);
  byId("bulk-clear").addEventListener("click", () => {
    const next = boxOf([...ticked][0]);
    clear();
    (next ?? byId("history-title")).focus();
  });
  byId("stop-matching").addEventListener("click", () => stopMatching(meant()));
}
