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
    table("Stopped", ["Pipeline", "How", "After", "Processes killed"], stopped.map(stoppedRow)),
    table("Kept as published", ["Table", "Version", "Rows"], kept.map((one) => [el("a", { href: `#/tables/${encodeURIComponent(one.table)}` }, one.table), numeric(one.version), numeric(one.rows)])),
    notStarted.length > 0 && el("div", { class: "receipt-block" }, el("h3", {}, "Did not start"), el("p", { class: "id-list" }, notStarted.map((pipeline) => el("code", { class: "mono" }, pipeline)))),
    table("Elsewhere", ["What", "Outcome", "Tries"], remote.map((one) => [one.what, one.outcome, numeric(one.tries)])),
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
  const speed = done ? ` and everything was still ${duration((cancellation.latency_ms ?? 0) / 1000)} later` : " and is still stopping";
  return [
    `${cause(cancellation)} ${MODES[cancellation.mode] ?? ""} `, timeElement(cancellation.requested_at), `${speed}.`,
    facts.length > 0 ? ` ${joined(facts)}.` : "",
    cancellation.reason ? el("q", { class: "receipt-reason" }, cancellation.reason) : "",
  ];
}

function cause({ cause: why, requested_by: who }) {
  if (why === "timeout") return "Its timeout stopped this job";
  if (why === "stall") return "It made no progress and was stopped";
  if (why === "superseded") return "Another job took over its table and stopped it";
  return `${who ?? "Someone"} stopped this job`;
}

const joined = (facts) => (facts.length < 3 ? facts.join(" and ") : `${facts.slice(0, -1).join(", ")} and ${facts.at(-1)}`);

const numeric = (value) => el("span", { class: "numeric" }, number(value));

function stoppedRow(one) {
  const where = Array.isArray(one.where) ? one.where.join("\n") : one.where;
  const how = STAGES[one.stage] ?? one.stage ?? "–";
  return [
    one.pipeline,
    where ? el("details", {}, el("summary", {}, `${how}, where it hung`), el("pre", { class: "mono" }, typeof where === "string" ? where : JSON.stringify(where, null, 1))) : how,
    el("span", { class: "numeric" }, duration(one.latency_ms === null || one.latency_ms === undefined ? null : one.latency_ms / 1000)),
    numeric(one.processes_killed),
  ];
}

function table(title, headings, rows) {
  if (rows.length === 0) return null;
  return el("div", { class: "receipt-block" }, el("h3", {}, title),
    el("div", { class: "scroll-x" }, el("table", { class: "plain-table" },
      el("thead", {}, el("tr", {}, headings.map((heading) => el("th", { scope: "col" }, heading)))),
      el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell) => el("td", {}, cell))))))));
}
