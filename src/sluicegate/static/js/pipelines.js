// The Pipelines tab: what is declared, by layer, and running it.

import { get, post } from "./api.js";
import { timeElement } from "./clock.js";
import { byId, el, errorBlock, skeleton, stateBlock, whenChanged } from "./dom.js";
import { coalesce } from "./events.js";
import { number, plural } from "./format.js";
import { announce, toast } from "./notify.js";
import { may } from "./session.js";
import { statusBadge } from "./status.js";
import { publish } from "./store.js";

const LAYERS = { bronze: "raw, as received", silver: "cleaned and typed", gold: "aggregated for use" };

let open = false;
let showJob = () => {};

const drawAll = whenChanged((pipelines) => {
  if (pipelines === null) return;
  const body = byId("pipelines-body");
  byId("run-full").hidden = pipelines.length === 0 || !may("operator");
  if (pipelines.length === 0) {
    body.replaceChildren(stateBlock("No pipelines are declared", "Declare some in a Python file and start the server with it: sluicegate serve pipelines.py. “sluicegate init” writes a small project to start from."));
    return;
  }
  const focused = document.activeElement?.dataset?.run;
  body.replaceChildren(el("div", { class: "layers" }, Object.entries(LAYERS).map(([layer, meaning]) => layerColumn(layer, meaning, pipelines.filter((one) => one.layer === layer)))));
  if (focused) body.querySelector(`[data-run="${CSS.escape(focused)}"]`)?.focus();
});

function layerColumn(layer, meaning, pipelines) {
  return el("section", { class: "layer", "aria-labelledby": `layer-${layer}` },
    el("h2", { class: "layer-title", id: `layer-${layer}` }, el("span", { class: `layer-dot layer-${layer}`, "aria-hidden": "true" }), layer, el("span", { class: "soft" }, ` ${meaning}`), el("span", { class: "layer-count soft" }, number(pipelines.length))),
    pipelines.length === 0 ? el("p", { class: "soft layer-empty" }, "none") : el("ul", { class: "cards" }, pipelines.map(card)));
}

function card(pipeline) {
  const { pipeline: id, name, depends_on: dependsOn = [], table, mode, doc, last_task: last } = pipeline;
  return el("li", { class: "card", "data-pipeline": id },
    el("div", { class: "card-head" },
      el("h3", { title: [id, pipeline.file && `${pipeline.file}:${pipeline.line}`].filter(Boolean).join("\n") }, name),
      last ? statusBadge(last.status) : el("span", { class: "soft card-never" }, "never run")),
    doc && el("p", { class: "card-doc" }, withCode(doc.split("\n")[0])),
    el("dl", { class: "card-facts" },
      ...fact("reads", dependsOn.length > 0 ? dependsOn.join(", ") : pipeline.files ? `files ${[pipeline.files].flat().join(", ")}` : null),
      ...fact("fills", table ? el("span", {}, el("a", { href: `#/tables/${encodeURIComponent(table)}` }, table), mode && el("span", { class: "soft" }, ` ${mode}`)) : null),
      ...fact("last", last ? lastTask(last) : null)),
    may("operator") && el("div", { class: "card-actions" },
      runButton("Run", { pipelines: [id] }, id),
      dependsOn.length > 0 && runButton("Run with dependencies", { pipelines: [id], with_dependencies: true }, `${id}+`)));
}

/** A docstring's sentence: what stands between backticks is code. */
const withCode = (sentence) => sentence.split(/`([^`]+)`/).map((part, index) => (index % 2 === 1 ? el("code", {}, part) : part));

const fact = (name, value) => (value ? [el("dt", {}, name), el("dd", {}, value)] : []);

function lastTask(task) {
  const rows = task.stats?.rows;
  const when = timeElement(task.completed_at ?? task.started_at);
  return el("span", {}, task.job_id ? el("a", { href: `#/jobs/${task.job_id}` }, when) : when, rows !== null && rows !== undefined && task.status === "success" ? ` · ${plural(rows, "row")}` : "");
}

function runButton(label, body, key) {
  return el("button", { class: "btn btn-small", type: "button", "data-run": key, "aria-label": `${label}: ${body.pipelines[0]}`, onclick: (event) => run(body, event.currentTarget) }, label);
}

/** Start a job and show it in the history. The button rests meanwhile, so that a double click is one job. */
async function run(body, button) {
  button.disabled = true;
  try {
    const job = await post("api/jobs", body);
    publish(job);
    announce(`${job.job_name || "Job"} was created`);
    showJob(job.job_id);
  } catch (error) {
    if (error.status !== 401) toast(`The job was not created: ${error.message}`, "error");
  } finally {
    button.disabled = false;
  }
}

async function load() {
  try {
    const { pipelines } = await get("api/pipelines");
    if (open) drawAll(pipelines);
  } catch (error) {
    if (!open || error.status === 401) return 0;
    if (!byId("pipelines-body").querySelector(".layers")) {
      drawAll(null);
      byId("pipelines-body").replaceChildren(errorBlock("The pipelines could not be read", error, load));
    }
    return error.retryAfterMs ?? 0;
  }
  return 0;
}

const readAgain = coalesce(load, 2000);

export function openPipelines() {
  open = true;
  if (!byId("pipelines-body").firstElementChild) byId("pipelines-body").replaceChildren(skeleton(8));
  load();
}

export function closePipelines() {
  open = false;
}

/** Take note of a server's event: a task's start or end changes a card. */
export function pipelinesEvent(event) {
  if (open && /^(task\.(started|finished)|job\.(cancelled|stopped|finished))$/.test(event.type)) readAgain();
}

export const refreshPipelines = () => readAgain();

/** Wire the tab, once; `show(jobId)` is called with the job that a button created. */
export function startPipelines(show) {
  showJob = show;
  byId("run-full").addEventListener("click", (event) => run({}, event.currentTarget));
}
