// The History tab: all jobs, newest first, kept up to date by the event stream.

import { get, jobPath, query } from "./api.js";
import { isTicked, keepTicks, startBulk, tickCell } from "./bulk.js";
import { elapsedElement, timeElement } from "./clock.js";
import { byId, el, errorBlock, keyedList, replaceFocused, setText, skeleton, stateBlock, whenChanged } from "./dom.js";
import { coalesce } from "./events.js";
import { asked as askedFor, filterOf, showFilter, startFilter } from "./filter.js";
import { duration, number } from "./format.js";
import { announce } from "./notify.js";
import { may } from "./session.js";
import { JOB_STATUSES, isActive, statusBadge, stopIcon } from "./status.js";
import { stopJob } from "./stop.js";
import { knownJob, onJob, publish } from "./store.js";

const PAGE_SIZE = 50;
/** More changed jobs than this at once are read as one page. */
const SINGLE_READS_MAX = 2;
/** A row that no longer fits the filter stays this long, so that its last change is seen. */
const LEAVING_MS = 4000;

/**
 * What is listed: `jobs` by id, `cursor` of the next older page, and whether older pages were asked for. `fitting` are the
 * jobs that the server found by `filter`, which a job fits for good or never; its status is looked at here.
 */
const view = { open: false, statuses: [], filter: {}, jobs: new Map(), fitting: new Set(), cursor: null, extended: false, loaded: false };
/** Jobs that events spoke of and that are not read again yet. */
const changed = new Set();
let firstPageChanged = false;
let generation = 0;

const isFiltered = () => Object.keys(view.filter).length > 0;
const fitsFilter = (job) => (view.statuses.length === 0 || view.statuses.includes(job.status)) && (!isFiltered() || view.fitting.has(job.job_id));
const newestFirst = (a, b) => (a.created_at === b.created_at ? compare(b.job_id, a.job_id) : compare(b.created_at, a.created_at));
const compare = (a, b) => (a < b ? -1 : Number(a > b));

/** Make a job's row; its `update(job)` patches it in place. */
export function createJobItem(job) {
  const status = el("div", { class: "job-status" });
  const name = el("a", { class: "job-name", id: `job-name-${job.job_id}`, href: `#/jobs/${job.job_id}` });
  const who = el("div", { class: "job-who" });
  const bar = el("progress", { max: 100, "aria-label": "Progress" });
  const count = el("span", { class: "job-count" });
  const when = el("div", { class: "job-when" });
  const took = el("div", { class: "job-took" });
  const actions = el("div", { class: "job-actions" });
  const item = el("li", { class: "job-item", "data-job-id": job.job_id, onclick: openDetails },
    status, el("div", { class: "job-title" }, name), who, el("div", { class: "job-progress" }, bar, count), when, took, actions,
    // Last, though it stands first: from a row's name its Stop is one key away.
    may("operator") && tickCell(job.job_id, job.job_name || job.job_id));

  const drawStatus = whenChanged((value) => status.replaceChildren(statusBadge(value)));
  const drawWhen = whenChanged((value) => when.replaceChildren(timeElement(value)));
  const drawTook = whenChanged((value) => took.replaceChildren(...tookParts(value)));
  const drawActions = whenChanged((value) => {
    replaceFocused(actions, actionButtons(value), () => actions.querySelector("[data-action=details]"));
  });

  item.update = (next) => {
    item.dataset.status = next.status;
    item.classList.toggle("is-ticked", isTicked(next.job_id));
    item.classList.toggle("is-stopping", Boolean(next.stopping));
    item.classList.toggle("is-leaving", !fitsFilter(next));
    drawStatus(next.status);
    setText(name, next.job_name || next.job_id);
    name.title = next.job_name || next.job_id;
    setText(who, [next.user_id, next.trigger].filter(Boolean).join(" · "));
    who.title = who.textContent;
    bar.value = next.progress_percent ?? 0;
    setText(count, `${number(next.completed_tasks ?? 0)}/${number(next.total_tasks ?? 0)}`);
    drawWhen(next.created_at);
    drawTook(tookOf(next));
    drawActions({ jobId: next.job_id, kind: stopKind(next), since: next.cancellation?.requested_at });
  };
  item.update(job);
  return item;
}

function openDetails(event) {
  if (event.target.closest("a, button, label") || !getSelection().isCollapsed) return;
  location.hash = `#/jobs/${event.currentTarget.dataset.jobId}`;
}

/** Which stop a job offers to this role: "stop", "force", or none. */
export function stopKind(job) {
  if (!may("operator")) return null;
  if (isActive(job.status)) return "stop";
  return job.stopping ? "force" : null;
}

/** The stop button of a job, or nothing. */
export function stopButton({ jobId, kind, since }) {
  if (kind === null) return null;
  const parts = kind === "stop" ? ["Stop"] : ["Stop now", since && elapsedElement(since, { compact: true })];
  return el("button", {
    class: "btn btn-danger", type: "button", "data-action": kind, "aria-describedby": `job-name-${jobId}`,
    onclick: (event) => stopJob(jobId, event),
  }, stopIcon(), ...parts);
}

function actionButtons(value) {
  const details = el("button", {
    class: "btn", type: "button", "data-action": "details", "aria-describedby": `job-name-${value.jobId}`,
    onclick: () => { location.hash = `#/jobs/${value.jobId}`; },
  }, "View Details");
  return [stopButton(value), details].filter(Boolean);
}

function tookOf(job) {
  if (job.stopping) return { text: "stopping" };
  if (isActive(job.status)) return job.started_at ? { since: job.started_at } : { text: "waiting" };
  return { text: duration(job.duration_seconds) };
}

const tookParts = ({ since, text }) => [since ? elapsedElement(since) : text];

const renderList = (() => {
  let render;
  return (items) => {
    render ??= keyedList(byId("job-list"), { key: (job) => job.job_id, create: createJobItem, update: (row, job) => row.update(job) });
    return render(items);
  };
})();

let drawAsked = false;

/** Draw the list once, however many jobs changed in this turn. */
function draw() {
  if (drawAsked) return;
  drawAsked = true;
  queueMicrotask(() => {
    drawAsked = false;
    if (view.open) drawNow();
  });
}

function drawNow() {
  const jobs = [...view.jobs.values()].sort(newestFirst);
  renderList(jobs);
  keepTicks(view.jobs.keys());
  byId("job-list").hidden = jobs.length === 0;
  byId("load-more").hidden = view.cursor === null || jobs.length === 0;
  if (view.loaded) byId("history-state").replaceChildren(...(jobs.length === 0 ? [emptyState()] : []));
  revealListed();
}

function emptyState() {
  if (isFiltered()) {
    return stateBlock("No job fits the filter", "Jobs that do appear here by themselves.", el("a", { class: "btn", href: "#/history" }, "Show all jobs"));
  }
  if (view.statuses.length > 0) {
    return stateBlock(`No job is ${view.statuses.join(" or ")}`, "Jobs that become so appear here by themselves.",
      el("a", { class: "btn", href: "#/history" }, "Show all jobs"));
  }
  return stateBlock("No jobs yet", "A job appears here as soon as pipelines run, from this page, the command line or the API.",
    may("operator") && el("a", { class: "btn btn-primary", href: "#/pipelines" }, "Choose a pipeline to run"));
}

const pageAddress = (cursor) => `api/jobs${query({ status: view.statuses, ...askedFor(view.filter), limit: PAGE_SIZE, cursor })}`;

let reading = 0;

/** Read the newest page and take it in; older pages that were loaded stay. */
async function readFirstPage() {
  const asked = ++generation;
  reading += 1;
  let page;
  try {
    page = await get(pageAddress(null));
  } finally {
    reading -= 1;
  }
  if (asked !== generation) return;
  const oldest = page.jobs.at(-1);
  const listed = new Set(page.jobs.map((job) => job.job_id));
  for (const [jobId, job] of view.jobs) {
    if (listed.has(jobId) || isLeaving(job)) continue;
    const covered = page.next_cursor === null || (oldest && newestFirst(job, oldest) < 0);
    // It changed, and the page was read before its event came: read alone, it is seen to change before it goes.
    if (covered && fitsFilter(job)) changed.add(jobId);
    else if (covered || !(view.extended || isTicked(jobId))) view.jobs.delete(jobId); // New jobs push no selected one out.
  }
  if (!view.extended) view.cursor = page.next_cursor;
  view.loaded = true;
  take(page.jobs);
  if (changed.size > 0) catchUp();
}

function take(jobs) {
  for (const job of jobs) {
    view.fitting.add(job.job_id);
    publish(job);
    view.jobs.set(job.job_id, knownJob(job.job_id)); // An answer that was overtaken changes nothing.
  }
  draw();
}

const isLeaving = (job) => job.leavesAt !== undefined && job.leavesAt > Date.now();

async function loadFirst() {
  try {
    await readFirstPage();
  } catch (error) {
    if (error.status !== 401 && !view.loaded) {
      byId("history-state").replaceChildren(errorBlock("The history could not be read", error, loadFirst));
    }
  }
}

async function loadMore() {
  const button = byId("load-more");
  const asked = generation;
  button.disabled = true;
  try {
    const page = await get(pageAddress(view.cursor));
    if (asked !== generation && view.cursor === null) return;
    view.extended = true;
    view.cursor = page.next_cursor;
    take(page.jobs);
  } catch (error) {
    byId("history-state").replaceChildren(errorBlock("Older jobs could not be read", error, loadMore));
  } finally {
    button.disabled = false;
  }
}

async function readAgain(jobId) {
  try {
    publish(await get(jobPath(jobId)));
  } catch (error) {
    if (error.status !== 404) throw error;
    view.jobs.delete(jobId);
    draw();
  }
}

/** Read again what events spoke of: a few jobs one by one, many (or new ones) as the first page. */
const catchUp = coalesce(async () => {
  if (!view.open) return 0;
  const jobIds = [...changed];
  const whole = firstPageChanged || jobIds.length > SINGLE_READS_MAX;
  changed.clear();
  firstPageChanged = false;
  try {
    if (whole) await readFirstPage();
    // Jobs of older pages are not in the first one; they are read in small steps.
    const rest = whole ? jobIds.filter((jobId) => view.extended && view.jobs.has(jobId) && isActive(view.jobs.get(jobId).status)) : jobIds;
    for (const jobId of rest.slice(SINGLE_READS_MAX)) changed.add(jobId);
    for (const jobId of rest.slice(0, SINGLE_READS_MAX)) await readAgain(jobId);
  } catch (error) {
    for (const jobId of jobIds) changed.add(jobId);
    setTimeout(catchUp, 3000);
    return error.retryAfterMs ?? 0;
  }
  if (changed.size > 0) setTimeout(catchUp, 0);
  return 0;
});

/** Take note of a server's event. */
export function historyEvent(event) {
  if (!view.open || !event.job_id) return;
  if (view.jobs.has(event.job_id)) changed.add(event.job_id);
  // While the first page is being read, a job that is not known yet may be on it, as it was before this event.
  else if (reading > 0 || mayEnter(event)) firstPageChanged = true;
  else return;
  catchUp();
}

/** Without a filter only a new job can enter the list; with one, any job that changes its status. */
function mayEnter(event) {
  return event.type === "job.created" || (view.statuses.length > 0 && event.type?.startsWith("job."));
}

function jobChanged(job, previous) {
  if (!view.jobs.has(job.job_id) && !(fitsFilter(job) && isWithinList(job))) return;
  view.jobs.set(job.job_id, job);
  if (!fitsFilter(job)) leaveLater(job);
  if (previous && previous.status !== job.status && view.open) sayChange(job);
  draw();
}

/** True when the job belongs among the pages that are loaded, rather than to an older one. */
function isWithinList(job) {
  return view.cursor === null || [...view.jobs.values()].some((listed) => newestFirst(job, listed) < 0);
}

function leaveLater(job) {
  job.leavesAt = Date.now() + LEAVING_MS;
  setTimeout(() => {
    const current = view.jobs.get(job.job_id);
    if (!current || fitsFilter(current)) return;
    view.jobs.delete(job.job_id);
    draw();
  }, LEAVING_MS);
}

let spoken = [];

/** Announce status changes together, so that a busy minute is one sentence. */
function sayChange(job) {
  if (spoken.push(job) > 1) return;
  setTimeout(() => {
    announce(spoken.length > 3 ? `${spoken.length} jobs changed` : spoken.map((one) => `${one.job_name}: ${one.status}`).join("; "));
    spoken = [];
  }, 500);
}

function drawFilter() {
  const chip = (label, statuses, pressed) => el("a", {
    class: "chip", href: `#/history${query({ status: statuses, ...view.filter })}`, "data-status": label, "aria-current": pressed && "true",
  }, label);
  const toggled = (status) => (view.statuses.includes(status) ? view.statuses.filter((one) => one !== status) : [...view.statuses, status]);
  // It keeps its place: what stands beside it does not move.
  byId("stop-matching").classList.toggle("is-away", view.statuses.length > 0 && !view.statuses.some(isActive));
  byId("status-filter").replaceChildren(
    chip("all", [], view.statuses.length === 0),
    ...JOB_STATUSES.map((status) => chip(status, toggled(status), view.statuses.includes(status))));
  showFilter(view.filter, view.statuses);
}

/** Show the tab with the filter of the URL. */
export function openHistory(search) {
  const statuses = search.getAll("status").filter((status) => JOB_STATUSES.includes(status));
  const filter = filterOf(search);
  const focused = document.activeElement?.closest?.(".chip")?.dataset.status;
  if (!view.loaded || JSON.stringify([statuses, filter]) !== JSON.stringify([view.statuses, view.filter])) {
    generation += 1;
    Object.assign(view, { statuses, filter, jobs: new Map(), fitting: new Set(), cursor: null, extended: false, loaded: false });
    byId("history-state").replaceChildren(skeleton(8));
  }
  view.open = true;
  byId("job-table").classList.toggle("has-ticks", may("operator"));
  byId("stop-matching").hidden = !may("operator");
  changed.clear();
  drawFilter();
  if (focused) byId("status-filter").querySelector(`[data-status="${focused}"]`)?.focus();
  draw();
  loadFirst();
}

export function closeHistory() {
  view.open = false;
  toReveal = null;
}

/** Read again after the connection was gone. */
export const refreshHistory = () => {
  firstPageChanged = true;
  catchUp();
};

let toReveal = null;

/** Bring a job's row into view and give it focus, now or as soon as it is listed. */
export function revealJob(jobId) {
  toReveal = jobId;
  revealListed();
}

function revealListed() {
  const row = toReveal && byId("job-list").querySelector(`[data-job-id="${CSS.escape(toReveal)}"]`);
  if (!row) return;
  toReveal = null;
  row.classList.add("is-new");
  row.scrollIntoView({ block: "nearest" });
  row.querySelector("a").focus({ preventScroll: true });
}

/** Wire the tab, once. */
export function startHistory() {
  byId("load-more").addEventListener("click", loadMore);
  startBulk({ meant: () => ({ statuses: view.statuses, filter: askedFor(view.filter) }), refresh: refreshHistory });
  startFilter(() => view.statuses);
  onJob(jobChanged);
}
