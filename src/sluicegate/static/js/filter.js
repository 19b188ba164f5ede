// The history's filter besides the status: which pipeline, layer, label, person and time. It lives in the URL.

import { get, query } from "./api.js";
import { byId, el, setText } from "./dom.js";
import { nowMs } from "./format.js";

/** What a name of the URL means; `within` is a stretch that ends now, so that a bookmark of it stays true. */
const NAMES = ["pipeline", "layer", "label", "user_id", "within", "created_after", "created_before"];
const STRETCHES = { "1h": ["past hour", 3600], "1d": ["past 24 hours", 86400], "7d": ["past 7 days", 7 * 86400], "30d": ["past 30 days", 30 * 86400] };
const LAYERS = ["bronze", "silver", "gold"];

/** Read the filter of a URL; what cannot be meant is left out. */
export function filterOf(search) {
  const found = Object.fromEntries(NAMES.map((name) => [name, search.get(name)]).filter(([, value]) => value));
  if (found.within && !Object.hasOwn(STRETCHES, found.within)) delete found.within;
  if (found.layer && !LAYERS.includes(found.layer)) delete found.layer;
  if (found.label && !isLabel(found.label)) delete found.label;
  for (const name of ["created_after", "created_before"]) if (found[name] && Number.isNaN(Date.parse(found[name]))) delete found[name];
  return found;
}

/** The same as the server wants to hear it. */
export function asked({ within, ...filter }) {
  return within ? { ...filter, created_after: new Date(nowMs() - STRETCHES[within][1] * 1000).toISOString() } : filter;
}

const isLabel = (text) => text.indexOf(":") > 0;

const fields = () => Object.fromEntries(["pipeline", "layer", "label", "user_id", "time", "created_after", "created_before"].map((name) => [name, byId(`filter-${name}`)]));

/** Instants as a field for local time holds them. */
function localTime(iso) {
  const at = new Date(iso);
  return new Date(at.getTime() - at.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
}

/** Show what the filter is. */
export function showFilter(filter, statuses) {
  const all = fields();
  for (const name of ["pipeline", "layer", "label", "user_id"]) all[name].value = filter[name] ?? "";
  const between = filter.created_after || filter.created_before;
  if (all.time.value !== "between" || filter.within) all.time.value = between ? "between" : filter.within ?? "";
  for (const name of ["created_after", "created_before"]) all[name].value = filter[name] ? localTime(filter[name]) : "";
  byId("filter-between").hidden = all.time.value !== "between";
  const count = Object.keys(filter).length - Number(Boolean(filter.created_after && filter.created_before));
  setText(byId("filter-count"), count === 0 ? "" : String(count));
  if (count > 0) open(true);
  byId("filter-clear").href = `#/history${query({ status: statuses })}`;
  byId("filter-clear").hidden = count === 0;
}

function open(on) {
  byId("history-filter").hidden = !on;
  byId("filter-toggle").setAttribute("aria-expanded", String(on));
}

/** What the fields say now, or `null` when one cannot be meant. */
function read() {
  const all = fields();
  const value = (name) => all[name].value.trim();
  all.label.setCustomValidity(value("label") === "" || isLabel(value("label")) ? "" : "Write a label as key:value.");
  if (!all.label.reportValidity()) return null;
  const time = all.time.value;
  const instant = (name) => (time === "between" && value(name) !== "" ? new Date(value(name)).toISOString() : null);
  return {
    pipeline: value("pipeline"), layer: value("layer"), label: value("label"), user_id: value("user_id"),
    within: Object.hasOwn(STRETCHES, time) ? time : null, created_after: instant("created_after"), created_before: instant("created_before"),
  };
}

let listed = false;

async function listPipelines() {
  if (listed) return;
  listed = true;
  try {
    const { pipelines } = await get("api/pipelines");
    byId("filter-pipelines").replaceChildren(...pipelines.map((one) => el("option", { value: one.pipeline })));
  } catch {
    listed = false; // It is a help for typing only; the next focus asks again.
  }
}

/** Wire the fields, once; `statuses()` is the other half of the filter. */
export function startFilter(statuses) {
  byId("filter-time").append(el("option", { value: "" }, "any time"), ...Object.entries(STRETCHES).map(([value, [words]]) => el("option", { value }, words)), el("option", { value: "between" }, "between…"));
  byId("filter-layer").append(el("option", { value: "" }, "any layer"), ...LAYERS.map((layer) => el("option", {}, layer)));
  const form = byId("history-filter");
  const go = () => {
    byId("filter-between").hidden = byId("filter-time").value !== "between";
    const filter = read();
    if (filter !== null) location.hash = `#/history${query({ status: statuses(), ...filter })}`;
  };
  form.addEventListener("change", go);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    go();
  });
  byId("filter-pipeline").addEventListener("focus", listPipelines);
  byId("filter-toggle").addEventListener("click", () => {
    const on = form.hidden;
    open(on);
    if (on) byId("filter-pipeline").focus();
  });
  // The link goes away with what it clears.
  byId("filter-clear").addEventListener("click", () => byId("filter-toggle").focus());
}
