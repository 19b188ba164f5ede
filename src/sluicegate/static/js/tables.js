// The Tables tab: what was published, and a look into it.

import { get, query } from "./api.js";
import { byId, el, errorBlock, skeleton, stateBlock, whenChanged } from "./dom.js";
import { number, plural } from "./format.js";
import { may } from "./session.js";

const PREVIEW_ROWS = 50;
const CELL_MAX = 400;
const LAYERS = ["bronze", "silver", "gold"];

let open = false;
let selected = null;
/** The version that is shown, as the URL has it; `null` is the latest. */
let version = null;
let tables = [];

const drawList = whenChanged(() => {
  const groups = LAYERS.map((layer) => [layer, tables.filter((one) => one.name.startsWith(`${layer}.`))]).filter(([, list]) => list.length > 0);
  byId("table-list").replaceChildren(...groups.map(([layer, list]) => el("div", { class: "table-group" },
    el("h2", { class: "layer-title" }, el("span", { class: `layer-dot layer-${layer}`, "aria-hidden": "true" }), layer),
    el("ul", {}, list.map((one) => el("li", {}, tableLink(one)))))));
});

function tableLink({ name, version, row_count: rows }) {
  const never = version === null || version === undefined;
  return el("a", { href: `#/tables/${encodeURIComponent(name)}`, "data-table": name, "aria-current": name === selected && "page", title: name },
    el("span", { class: "table-name" }, name.slice(name.indexOf(".") + 1)),
    el("span", { class: "soft numeric" }, never ? "empty" : plural(rows ?? 0, "row")));
}

async function loadList() {
  try {
    ({ tables } = await get("api/tables"));
    if (!open) return;
    drawList({ tables, selected });
    byId("view-tables").classList.toggle("has-none", tables.length === 0);
    if (tables.length === 0) {
      byId("table-body").replaceChildren(stateBlock("No tables yet", "A table appears here when its pipeline has published something.", may("operator") && el("a", { class: "btn btn-primary", href: "#/pipelines" }, "Choose a pipeline to run")));
    } else if (selected === null) {
      byId("table-body").replaceChildren(stateBlock("Choose a table", "Its columns and first rows are shown here."));
    }
  } catch (error) {
    if (open && error.status !== 401) byId("table-body").replaceChildren(errorBlock("The tables could not be read", error, loadList));
  }
}

async function loadTable(name) {
  try {
    const asked = version;
    const table = await get(`api/tables/${encodeURIComponent(name)}${query({ limit: PREVIEW_ROWS, version: asked })}`, { exact: true });
    if (open && name === selected && asked === version) drawTable(table);
  } catch (error) {
    if (open && name === selected && error.status !== 401) {
      const block = errorBlock(`${name} could not be read`, error, () => loadTable(name));
      if (version !== null) block.lastElementChild.append(" ", el("a", { class: "btn", href: address(name) }, "Show the latest version"));
      byId("table-body").replaceChildren(block);
    }
  }
}

const address = (name, at) => `#/tables/${encodeURIComponent(name)}${query({ version: at })}`;

/** Choose a version by its number: there can be thousands. */
function versionField(name, shown) {
  const known = tables.find((one) => one.name === name)?.version;
  const latest = version === null ? shown : Math.max(known ?? shown, shown);
  const field = el("input", { id: "table-version", type: "number", min: 0, max: latest, value: shown, onchange: () => { location.hash = address(name, field.value); } });
  return el("p", { class: "table-version", "data-version": shown }, el("label", { for: "table-version" }, "Version"), field,
    shown < latest ? el("a", { href: address(name) }, `latest: ${latest}`) : el("span", { class: "soft" }, "the latest"));
}

function drawTable({ name, schema, version: shown, row_count: rows, preview }) {
  const isEmpty = shown === null || shown === undefined;
  const facts = isEmpty ? "nothing published yet" : [plural(rows ?? 0, "row"), plural(schema.length, "column")].join(" · ");
  const hadFocus = document.activeElement?.id === "table-version";
  byId("table-body").replaceChildren(
    el("div", { class: "table-head" },
      el("a", { class: "table-back", href: "#/tables" }, "← Tables"),
      el("h2", { id: "table-title" }, name), el("p", { class: "soft" }, facts), !isEmpty && versionField(name, shown)),
    preview.length === 0 && schema.length === 0
      ? stateBlock("Nothing published yet", "The table appears when its pipeline has committed something.")
      : el("div", { class: "grid-scroll", tabindex: 0, role: "region", "aria-labelledby": "table-title" }, grid(schema, preview)),
    previewNote(preview.length, rows ?? 0));
  if (hadFocus) byId("table-version")?.focus();
}

function previewNote(shown, rows) {
  const text = shown < rows ? `The first ${number(shown)} of ${plural(rows, "row")}.` : "";
  return el("p", { class: "soft grid-note" }, text);
}

const NUMERIC = /^(u?int|long|short|byte|integer|float|double|half|decimal|number|bigint)/i;

function grid(schema, preview) {
  const columns = schema.map((column) => ({ ...column, numeric: NUMERIC.test(typeof column.type === "string" ? column.type : "") }));
  return el("table", { class: "grid" },
    el("thead", {}, el("tr", {}, columns.map((column) => el("th", { scope: "col", class: column.numeric && "is-numeric" },
      el("span", { class: "grid-name" }, column.name),
      el("span", { class: "grid-type soft" }, typeText(column.type), column.nullable === false && " not null"))))),
    el("tbody", {}, preview.map((row) => el("tr", {}, columns.map((column) => cell(row[column.name], column.numeric))))));
}

const typeText = (type) => (typeof type === "string" ? type : JSON.stringify(type));

function cell(value, numeric) {
  if (value === null || value === undefined) return el("td", { class: numeric ? "is-null is-numeric" : "is-null" }, "null");
  const text = typeof value === "object" ? JSON.stringify(value) : String(value);
  const shown = text.length > CELL_MAX ? `${text.slice(0, CELL_MAX)}…` : text;
  return el("td", { class: numeric ? "is-numeric" : null, title: text.length > 40 ? shown : null }, shown === "" ? el("span", { class: "soft" }, "\"\"") : shown);
}

/** Show the tab; `name` is the selected table or `null`, `at` the version to show, or `null` for the latest. */
export function openTables(name, at = null) {
  const changed = name !== selected;
  open = true;
  selected = name;
  version = at;
  byId("view-tables").classList.toggle("has-selection", name !== null);
  drawList({ tables, selected });
  if (name === null) {
    byId("table-body").replaceChildren();
  } else {
    if (changed) byId("table-body").replaceChildren(skeleton(10));
    loadTable(name);
  }
  loadList();
}

export function closeTables() {
  open = false;
}

export function refreshTables() {
  if (open) openTables(selected, version);
}
