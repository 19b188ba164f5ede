// The record of a stop, as a sentence and tables.

import { timeElement } from "./clock.js";
import { el } from "./dom.js";
import { duration, number, plural } from "./format.js";

const STAGES = { checkpoint: "at a checkpoint", interrupt: "interrupted", terminate: "terminated (SIGTERM)", kill: "killed (SIGKILL)" };
const MODES = { graceful: "gracefully", force: "by force", drain: "by draining" };

/** Return the nodes that show a cancellation: who, why, what was stopped, how fast, what was kept. */
export function receiptParts(cancellation) {
  const { stopped = [], kept = [], not_started: notStarted = [], remote = [] } = cancellation;
  return [
    el("p", { class: "receipt-sentence" }, ...sentence(cancellation)),
    cancellation.outcome === "unconfirmed" && el("p", { class: "notice notice-warning" },
      "Not every process could be confirmed as ended, because contact was lost. The stop goes on being tried; nothing more can be committed."),
    cancellation.outcome === "finished" && el("p", { class: "notice" }, "Everything was done before the stop took effect."),
    table("Stopped", ["Pipeline", "How", "After", [el("span", { class: "wide-only" }, "processes "), "killed"]], 2, stopped.map(stoppedRow)),
    table("Kept as published", ["Table", "Version", "Rows"], 1, kept.map((one) => [el("a", { href: `#/tables/${encodeURIComponent(one.table)}` }, breakable(one.table)), number(one.version), number(one.rows)])),
    notStarted.length > 0 && el("div", { class: "receipt-block" }, el("h3", {}, "Did not start"), el("p", { class: "id-list" }, notStarted.map((pipeline) => el("code", { class: "mono" }, pipeline)))),
    table("Elsewhere", ["What", "Outcome", "Tries"], 2, remote.map((one) => [one.what, one.outcome, number(one.tries)])),
  ].filter(Boolean);
}

function sentence(cancellation) {
  const { stopped = [], kept = [], not_started: notStarted = [] } = cancellation;
  const done = cancellation.stopped_at;
  const facts = [
    stopped.length > 0 && `${plural(stopped.length, "task")} stopped`,
    notStarted.length > 0 && `${plural(notStarted.length, "pipeline")} did not start`,
    kept.length > 0 && (kept.length === 1 ? "1 table stays as published" : `${number(kept.length)} tables stay as published`),
  ].filter(Boolean);
  const speed = done ? `; ${duration((cancellation.latency_ms ?? 0) / 1000)} later everything had stopped` : "; its tasks are still stopping";
  return [
    `${cause(cancellation)} ${MODES[cancellation.mode] ?? ""} `, timeElement(cancellation.requested_at), `${speed}.`,
    facts.length > 0 ? ` ${joined(facts)}.` : "",
    cancellation.reason ? el("q", { class: "receipt-reason" }, cancellation.reason) : "",
  ];
}

function cause({ cause: why, requested_by: who }) {
  if (why === "timeout") return "Its timeout stopped this job";
  if (why === "stall") return "Its lack of progress stopped this job";
  if (why === "superseded") return "Another job that needed its table stopped this job";
  return `${who ?? "Someone"} stopped this job`;
}

const joined = (facts) => (facts.length < 3 ? facts.join(" and ") : `${facts.slice(0, -1).join(", ")} and ${facts.at(-1)}`);

/** An id that may wrap after its layer, where there is no room for it. */
const breakable = (id) => [id.slice(0, id.indexOf(".") + 1), el("wbr"), id.slice(id.indexOf(".") + 1)];

function stoppedRow(one) {
  const where = (one.where ?? []).join("\n");
  const how = STAGES[one.stage] ?? one.stage ?? "–";
  return [
    breakable(one.pipeline),
    where ? el("details", {}, el("summary", {}, `${how}, where it hung`), el("pre", { class: "mono" }, where)) : how,
    duration(one.latency_ms === null || one.latency_ms === undefined ? null : one.latency_ms / 1000),
    number(one.processes_killed),
  ];
}

/** A titled table; its columns from `numericFrom` on hold numbers. */
function table(title, headings, numericFrom, rows) {
  if (rows.length === 0) return null;
  const kind = (column) => column >= numericFrom && "is-numeric";
  return el("div", { class: "receipt-block" }, el("h3", {}, title),
    el("div", { class: "scroll-x" }, el("table", { class: "plain-table" },
      el("thead", {}, el("tr", {}, headings.map((heading, column) => el("th", { scope: "col", class: kind(column) }, heading)))),
      el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell, column) => el("td", { class: kind(column) }, cell))))))));
}
