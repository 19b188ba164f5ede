// The records of a stop, of a task's own stop and of a rollback: sentences and tables.

import { timeElement } from "./clock.js";
import { el } from "./dom.js";
import { duration, number, plural } from "./format.js";
import { statusBadge, statusShape } from "./status.js";

const STAGES = { checkpoint: "at a checkpoint", interrupt: "interrupted", terminate: "terminated (SIGTERM)", kill: "killed (SIGKILL)" };
const MODES = { graceful: "gracefully", force: "by force", drain: "by draining" };

/** Return the nodes that show a cancellation: who, why, what was stopped, how fast, what was kept. */
export function receiptParts(cancellation, rollback) {
  const { stopped = [], kept = [], not_started: notStarted = [], remote = [], missing_means: missing = [] } = cancellation;
  return [
    el("p", { class: "receipt-sentence" }, ...sentence(cancellation)),
    ...outcomeNotices(cancellation),
    table("Stopped", ["Pipeline", "How", "After", [el("span", { class: "wide-only" }, "processes "), "killed"]], 2, stopped.map((one) => [breakable(one.pipeline), how(one), milliseconds(one.latency_ms), number(one.processes_killed)])),
    remoteTable(remote),
    table(rollback ? "Kept as published, before the rollback" : "Kept as published", ["Table", "Version", "Rows"], 1, kept.map((one) => [tableLink(one.table), number(one.version), number(one.rows)])),
    notStarted.length > 0 && el("div", { class: "receipt-block" }, el("h3", {}, "Did not start"), el("p", { class: "id-list" }, notStarted.map((pipeline) => el("code", { class: "mono" }, pipeline)))),
    missing.length > 0 && el("div", { class: "receipt-block" }, el("h3", {}, "What this platform lacks to end whole trees"), el("ul", { class: "plain-list" }, missing.map((one) => el("li", {}, one)))),
  ].filter(Boolean);
}

function sentence(cancellation) {
  const { stopped = [], kept = [], not_started: notStarted = [], remote = [] } = cancellation;
  const confirmed = remote.filter((one) => one.outcome === "confirmed").length;
  const facts = [
    stopped.length > 0 && `${plural(stopped.length, "task")} stopped`,
    notStarted.length > 0 && `${plural(notStarted.length, "pipeline")} did not start`,
    kept.length > 0 && (kept.length === 1 ? "1 table stays as published" : `${number(kept.length)} tables stay as published`),
    remote.length > 0 && `${confirmed === remote.length ? number(confirmed) : `${number(confirmed)} of ${number(remote.length)}`} ${remote.length === 1 ? "piece" : "pieces"} of work elsewhere confirmed as stopped`,
  ].filter(Boolean);
  return [
    ...asked(cancellation), `${speed(cancellation)}.`,
    facts.length > 0 ? ` ${joined(facts)}.` : "",
    cancellation.reason ? el("q", { class: "receipt-reason" }, cancellation.reason) : "",
  ];
}

/** Who asked, how and when; a stop that was made force on the way says how much later. */
function asked(cancellation) {
  const { mode, requested_at: requested, escalated_at: escalated } = cancellation;
  const when = timeElement(requested);
  if (!escalated) return [`${cause(cancellation)} ${MODES[mode] ?? ""} `, when];
  return [`${cause(cancellation)} `, when, `, and by force ${between(requested, escalated)} later`];
}

const between = (from, to) => duration(Math.max(0, Date.parse(to) - Date.parse(from)) / 1000);

function speed({ stopped_at: stoppedAt, latency_ms: latency, outcome, escalated_at: escalated }) {
  if (!stoppedAt) return "; its tasks are still stopping";
  const after = `${duration((latency ?? 0) / 1000)} ${escalated ? "after the request" : "later"}`;
  return outcome === "unconfirmed" ? `; ${after} contact to a task was still lost` : `; ${after} everything had stopped`;
}

function outcomeNotices({ outcome, requested_at: requested, confirmed_at: confirmed }) {
  if (outcome === "finished") return [el("p", { class: "notice" }, "Everything was done before the stop took effect.")];
  if (outcome !== "unconfirmed" && !confirmed) return [];
  if (confirmed) {
    return [el("p", { class: "notice" }, "At first not every process could be confirmed as ended, because contact was lost. It was confirmed ",
      `${between(requested, confirmed)} after the request, `, timeElement(confirmed), ".")];
  }
  return [el("p", { class: "notice notice-warning" },
    "Not every process could be confirmed as ended, because contact was lost. The stop goes on being tried; nothing more can be committed.")];
}

function cause({ cause: why, requested_by: who }) {
  if (why === "timeout") return "Its timeout stopped this job";
  if (why === "stall") return "Its lack of progress stopped this job";
  if (why === "superseded") return "Another job that needed its table stopped this job";
  return `${who ?? "Someone"} stopped this job`;
}

const TASK_CAUSES = { timeout: "its timeout", stall: "no progress", superseded: "another job" };

/** Return the nodes that show the stops of single tasks: `[{ pipeline, status, stop }]`. */
export function stopsParts(tasks) {
  return [
    table("", ["Pipeline", "Ended as", "By", "How", "After", "Killed"], 4, tasks.map(({ pipeline, status, stop }) => [
      breakable(pipeline), statusBadge(status),
      [TASK_CAUSES[stop.cause] ?? stop.requested_by ?? "–", stop.reason && el("span", { class: "soft stop-why" }, stop.reason)].filter(Boolean),
      how(stop), milliseconds(stop.latency_ms), number(stop.processes_killed)])),
    ...tasks.filter(({ stop }) => stop.remote?.length > 0).map(({ pipeline, stop }) => remoteTable(stop.remote, pipeline)),
  ].filter(Boolean);
}

/** Return the nodes that show a rollback: who took what back, and when. */
export function rollbackParts({ requested_by: who, requested_at: requested, finished_at: finished, tables }) {
  const what = tables.length === 0 ? "it had changed no table" : `${plural(tables.length, "table")} ${tables.length === 1 ? "holds" : "hold"} again what ${tables.length === 1 ? "it" : "they"} held before it`;
  return [
    el("p", { class: "receipt-sentence" }, ...(finished
      ? [`${who} rolled this job back `, timeElement(finished), `: ${what}.`]
      : [`${who} asked to roll this job back `, timeElement(requested), "; it is being done."])),
    table("", ["Table", "From version", "To version"], 1, tables.map((one) => [tableLink(one.table), number(one.from_version), one.to_version === null ? "empty" : number(one.to_version)])),
  ].filter(Boolean);
}

const joined = (facts) => (facts.length < 3 ? facts.join(" and ") : `${facts.slice(0, -1).join(", ")} and ${facts.at(-1)}`);

/** An id that may wrap after its layer, where there is no room for it. */
const breakable = (id) => [id.slice(0, id.indexOf(".") + 1), el("wbr"), id.slice(id.indexOf(".") + 1)];

const tableLink = (id) => el("a", { href: `#/tables/${encodeURIComponent(id)}` }, breakable(id));

const milliseconds = (ms) => duration(ms === null || ms === undefined ? null : ms / 1000);

/** The last stage that was needed, and where the task hung, if it had to be interrupted. */
function how({ stage, where = [] }) {
  const words = STAGES[stage] ?? stage ?? "–";
  if ((where ?? []).length === 0) return words;
  return el("details", {}, el("summary", {}, `${words}, where it hung`), el("pre", { class: "mono" }, where.join("\n")));
}

function remoteTable(remote, of = "") {
  const outcome = ({ outcome: word }) => el("span", { class: `remote-${word}` }, statusShape(word === "confirmed" ? "success" : "partial"), word === "confirmed" ? "stop confirmed" : "stop not confirmed");
  return table(of ? `Work elsewhere of ${of}` : "Work elsewhere", ["What", "Outcome", "Tries"], 2, remote.map((one) => [el("span", { class: "remote-what" }, one.what), outcome(one), number(one.tries)]));
}

/** A table with its title, if it has one; its columns from `numericFrom` on hold numbers. */
function table(title, headings, numericFrom, rows) {
  if (rows.length === 0) return null;
  const kind = (column) => column >= numericFrom && "is-numeric";
  return el("div", { class: "receipt-block" }, title && el("h3", {}, title),
    el("div", { class: "scroll-x" }, el("table", { class: "plain-table" },
      el("thead", {}, el("tr", {}, headings.map((heading, column) => el("th", { scope: "col", class: kind(column) }, heading)))),
      el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell, column) => el("td", { class: kind(column) }, cell))))))));
}
