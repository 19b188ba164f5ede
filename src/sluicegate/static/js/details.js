// One job: its facts, receipt, errors, timeline, plan and logs.

import { againButtons, offersOf, shortJobLink } from "./again.js";
import { get, jobPath } from "./api.js";
import { elapsedElement, instantElement, timeElement } from "./clock.js";
import { byId, el, errorBlock, keyedList, replaceFocused, skeleton, whenChanged } from "./dom.js";
import { coalesce } from "./events.js";
import { duration, number, plural, shortVersion, taskPipeline } from "./format.js";
import { drawPlan } from "./graph.js";
import { createLogs } from "./logs.js";
import { receiptParts, rollbackParts, stopsParts } from "./receipt.js";
import { isActive, isLive, statusBadge } from "./status.js";
import { stopTask } from "./stop.js";
import { isOutdated, knownJob, onJob, publish } from "./store.js";
import { stopButton, stopKind } from "./history.js";
import { createTimeline } from "./timeline.js";

/**
 * The open job: its id, the last full answer, and the parts of the page that show it. `null` while none is open.
 * `asked` and `taken` number the requests: an answer that a later one has overtaken is dropped. `stopping` are the tasks
 * whose stop was answered: a picture that was on its way meanwhile does not show them running again.
 */
let current = null;

function buildPage(jobId, backTo) {
  const part = (name, title, ...children) => el("section", { class: "panel part", id: `details-${name}`, "aria-labelledby": `details-${name}-title`, hidden: true },
    el("h2", { id: `details-${name}-title` }, title), ...children);
  const timeline = createTimeline({ onStop: (taskId) => stopTask(jobId, taskId, { look: () => current?.job ?? null, stopped: taskStopped }) });
  const logs = createLogs(jobId);
  const page = {
    heading: el("h1", { id: "details-title", tabindex: -1 }, "Job"),
    badge: el("span", { class: "details-badge" }),
    actions: el("div", { class: "job-actions", "data-job-id": jobId }),
    bar: el("progress", { max: 100, "aria-label": "Progress" }),
    count: el("span", { class: "job-count" }),
    origin: el("span", { class: "soft details-origin" }),
    error: part("error", "Errors", el("div", { class: "errors" })),
    rollback: part("rollback", "Rollback", el("div", {})),
    receipt: part("receipt", "Receipt", el("div", {})),
    stops: part("stops", "Stopped tasks", el("div", {})),
    timeline: part("timeline", "Timeline", timeline.element),
    plan: part("plan", "Plan", el("div", { class: "plan-scroll", tabindex: 0, role: "group", "aria-label": "Plan graph" })),
    facts: part("facts", "Facts", el("dl", { class: "facts" })),
    params: part("params", "Parameters", el("dl", { class: "facts facts-mono" })),
    labels: part("labels", "Labels", el("dl", { class: "facts facts-mono" })),
    state: el("div", {}, skeleton(6)),
  };
  page.logs = part("logs", "Logs", logs.element);
  const columns = el("div", { class: "details-columns" },
    el("div", { class: "details-main" }, page.error, page.rollback, page.receipt, page.stops, page.timeline, page.plan, page.logs),
    el("aside", { class: "details-aside", "aria-label": "About this job" }, page.facts, page.params, page.labels));
  byId("view-details").replaceChildren(
    el("p", { class: "crumbs" }, el("a", { href: backTo }, "← History")),
    el("div", { class: "view-head details-head" }, el("div", { class: "details-title" }, page.heading, page.badge), page.actions),
    el("div", { class: "details-progress", hidden: true }, page.bar, page.count, page.origin),
    page.state, columns);
  page.progress = page.bar.parentElement;
  page.timeline.querySelector("h2").tabIndex = -1;
  return { page, timeline, logs };
}

/** Functions that draw each part, only when what it shows changed. */
function buildDrawers(page) {
  const errorRows = keyedList(page.error.querySelector(".errors"), { key: (item) => item.key, create: errorRow, update: () => null });
  return {
    origin: whenChanged(({ at, who, from, by }) => page.origin.replaceChildren(...["created ", timeElement(at), who && ` by ${who}`,
      ...(from ? [" · resumes ", shortJobLink(from)] : []), ...(by ? [" · resumed as ", shortJobLink(by)] : [])].filter(Boolean))),
    badge: whenChanged((status) => page.badge.replaceChildren(statusBadge(status))),
    actions: whenChanged((value) => replaceFocused(page.actions, [stopButton(value), ...againButtons(value.jobId, value.offers)].filter(Boolean), () => page.heading)),
    facts: whenChanged((job) => page.facts.querySelector("dl").replaceChildren(...factRows(job))),
    params: whenChanged((values) => showPairs(page.params, values)),
    labels: whenChanged((values) => showPairs(page.labels, values)),
    receipt: whenChanged(({ cancellation, rollback }) => {
      page.receipt.hidden = !cancellation;
      if (cancellation) page.receipt.lastElementChild.replaceChildren(...receiptParts(cancellation, rollback));
    }),
    rollback: whenChanged((rollback) => {
      page.rollback.hidden = !rollback;
      if (rollback) page.rollback.lastElementChild.replaceChildren(...rollbackParts(rollback));
    }),
    stops: whenChanged((tasks) => {
      page.stops.hidden = tasks.length === 0;
      page.stops.lastElementChild.replaceChildren(...stopsParts(tasks));
    }),
    plan: whenChanged(({ plan, statuses }) => {
      page.plan.hidden = plan.length === 0;
      drawPlan(page.plan.lastElementChild, plan, statuses);
    }),
    errors: (items) => {
      page.error.hidden = items.length === 0;
      errorRows(items);
    },
  };
}

function draw() {
  const { job, page, drawers, timeline, logs } = current;
  page.state.replaceChildren();
  page.heading.textContent = job.job_name || job.job_id;
  document.title = `${job.job_name || job.job_id} · ${job.status} · Sluicegate`;
  drawers.badge(job.status);
  drawers.actions({ jobId: job.job_id, kind: stopKind(job), since: job.cancellation?.requested_at, offers: offersOf(job) });
  page.progress.hidden = false;
  page.progress.dataset.status = job.status;
  page.bar.value = job.progress_percent ?? 0;
  page.count.textContent = `${number(job.completed_tasks ?? 0)} of ${plural(job.total_tasks ?? 0, "task")}`;
  drawers.origin({ at: job.created_at, who: job.user_id ?? "", from: job.resumed_from, by: job.resumed_by });
  drawers.facts(job);
  page.facts.hidden = false;
  drawers.params(job.params);
  drawers.labels(job.labels);
  drawers.receipt({ cancellation: job.cancellation, rollback: job.rollback ?? null });
  drawers.rollback(job.rollback ?? null);
  drawers.stops(stoppedAlone(job));
  drawers.errors(errorsOf(job));
  drawers.plan({ plan: job.plan ?? [], statuses: Object.fromEntries((job.tasks ?? []).map((task) => [taskPipeline(task), task.status])) });
  page.timeline.hidden = (job.plan ?? []).length === 0 && (job.tasks ?? []).length === 0;
  timeline.show(job);
  page.logs.hidden = false;
  logs.show(job);
}

/** The tasks whose stop the job's receipt does not tell: stopped alone, by their own timeout, or being stopped so. */
function stoppedAlone(job) {
  const told = new Set((job.cancellation?.stopped ?? []).map((one) => one.task_id));
  return (job.tasks ?? []).filter((task) => task.stop && !told.has(task.task_id))
    .map((task) => ({ pipeline: taskPipeline(task), status: task.status, stop: task.stop }));
}

/** A stop of one task was answered: show it without waiting for an event. */
function taskStopped(task) {
  if (current?.job == null) return;
  current.stopping.add(task.task_id);
  const known = current.job.tasks ?? [];
  // The event may have come first, with a newer picture than this answer.
  if (known.some((one) => one.task_id === task.task_id && isActive(one.status))) {
    current.job = { ...current.job, tasks: known.map((one) => (one.task_id === task.task_id ? task : one)) };
    draw();
  }
  readAgain();
}

/** The job with what is known of its tasks' stops, however old the picture is. */
function withStopping(job) {
  return { ...job, tasks: (job.tasks ?? []).map((task) => (current.stopping.has(task.task_id) && isActive(task.status) ? { ...task, stopping: true } : task)) };
}

function errorsOf(job) {
  const failed = (job.tasks ?? []).filter((task) => task.error);
  const items = failed.map((task) => ({ title: taskPipeline(task), text: task.error, attempt: task.attempt }));
  if (job.error) items.unshift({ title: "Job", text: job.error });
  return items.map((item) => ({ ...item, key: `${item.title} ${item.text}` }));
}

function errorRow({ title, text, attempt }) {
  const [first, ...rest] = text.split("\n");
  return el("article", { class: "error-row" },
    el("h3", {}, title, attempt > 1 && el("span", { class: "soft" }, ` attempt ${attempt}`)),
    el("p", { class: "error-first" }, first),
    rest.length > 0 && el("pre", { class: "mono error-rest", tabindex: 0 }, rest.join("\n").replace(/^\n+/, "")));
}

function factRows(job) {
  const rows = [
    ["Id", el("code", { class: "mono id" }, job.job_id)],
    ["Started by", [job.user_id, job.trigger && `via ${job.trigger}`].filter(Boolean).join(" ") || "–"],
    ["Created", instantElement(job.created_at)],
    ["Started", job.started_at ? instantElement(job.started_at) : "not yet"],
    ["Ended", endOf(job)],
    ["Took", isLive(job) && job.started_at ? elapsedElement(job.started_at) : duration(job.duration_seconds)],
    ["Timeout", job.timeout_seconds ? duration(job.timeout_seconds) : null],
    ["Priority", job.priority ? String(job.priority) : null],
    ["Resumes", jobLink(job.resumed_from)],
    ["Resumed as", jobLink(job.resumed_by)],
    ["Code", job.code_version ? el("code", { class: "mono id", title: job.code_version }, shortVersion(job.code_version)) : null],
  ];
  return rows.filter(([, value]) => value !== null).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
}

function endOf(job) {
  if (job.stopping) return el("span", {}, "stopping for ", elapsedElement(job.cancellation?.requested_at ?? job.created_at));
  return job.completed_at ? instantElement(job.completed_at) : "not yet";
}

const jobLink = (jobId) => (jobId ? el("a", { href: `#/jobs/${jobId}`, class: "mono id" }, jobId) : null);

function showPairs(section, values) {
  const pairs = Object.entries(values ?? {});
  section.hidden = pairs.length === 0;
  section.querySelector("dl").replaceChildren(...pairs.flatMap(([name, value]) => [
    el("dt", {}, name), el("dd", {}, typeof value === "string" ? value : JSON.stringify(value))]));
}

async function load() {
  const asked = current;
  if (asked === null) return 0;
  const turn = (asked.asked += 1);
  try {
    const job = await get(jobPath(asked.jobId));
    if (asked !== current || turn < asked.taken) return 0;
    asked.taken = turn;
    if (isOutdated(job)) {
      setTimeout(readAgain, 500);
      return 0;
    }
    asked.job = withStopping(job);
    publish(job);
    draw();
  } catch (error) {
    if (asked !== current || error.status === 401) return 0;
    if (asked.job === null) showLoadError(error);
    else setTimeout(readAgain, 3000);
    return error.retryAfterMs ?? 0;
  }
  return 0;
}

function showLoadError(error) {
  const what = error.status === 404 ? "There is no such job" : "The job could not be read";
  current.page.heading.textContent = "Job";
  current.page.state.replaceChildren(errorBlock(what, error, load));
}

const readAgain = coalesce(load);

/** Show a job; `backTo` is where the way back leads. */
export function openDetails(jobId, backTo) {
  closeDetails();
  const { page, timeline, logs } = buildPage(jobId, backTo);
  current = { jobId, job: null, asked: 0, taken: 0, stopping: new Set(), page, timeline, logs, drawers: buildDrawers(page) };
  load();
}

export function closeDetails() {
  current?.timeline.end();
  current?.logs.end();
  current = null;
}

/** Take note of a server's event. */
export function detailsEvent(event) {
  if (event.job_id === current?.jobId) readAgain();
}

/** Read again after the connection was gone. */
export const refreshDetails = () => readAgain();

/** What other parts of the page may learn of a job before this view does. */
const standing = (job) => JSON.stringify([job.status, Boolean(job.stopping), job.resumed_by ?? null, Boolean(job.rollback), job.rollback?.finished_at ?? null]);

/** Wire the view, once: what another part learned of the job (a stop's answer) shows at once. */
export function startDetails() {
  onJob((job) => {
    if (current?.job == null || job.job_id !== current.jobId) return;
    if (standing(job) === standing(current.job)) return;
    current.job = { ...current.job, ...knownJob(job.job_id) };
    draw();
    readAgain();
  });
}
