// A plan as a picture: a column per layer, an edge per dependency.

import { el, svg } from "./dom.js";
import { plural } from "./format.js";
import { statusShape } from "./status.js";

const LAYERS = ["bronze", "silver", "gold"];
const NODES_MAX = 250;
const NODE = { width: 176, height: 34 };
const GAP = { x: 64, y: 10 };
const HEAD = 28;
const NAME_MAX = 20;

/** Draw `plan` (`[{pipeline, depends_on}]`) into `container`; `statuses` maps pipeline ids to task statuses. */
export function drawPlan(container, plan, statuses) {
  if (plan.length > NODES_MAX) {
    container.replaceChildren(el("p", { class: "soft" }, `${plural(plan.length, "pipeline")}: too many to draw. The timeline lists them.`));
    return;
  }
  const nodes = layOut(plan);
  const width = Math.max(...[...nodes.values()].map((node) => node.x)) + NODE.width + 2;
  const height = Math.max(...[...nodes.values()].map((node) => node.y)) + NODE.height + 2;
  const summary = LAYERS.map((layer) => [layer, plan.filter((step) => layerOf(step.pipeline) === layer).length])
    .filter(([, count]) => count > 0).map(([layer, count]) => `${count} ${layer}`).join(", ");
  container.replaceChildren(svg("svg", { class: "plan", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Plan: ${summary}` },
    ...headings(nodes), ...edges(plan, nodes, statuses), ...[...nodes].map(([pipeline, node]) => drawNode(pipeline, node, statuses[pipeline]))));
}

const layerOf = (pipeline) => pipeline.split(".")[0];

/** Place every pipeline: a column per layer, split where pipelines of one layer depend on each other. */
function layOut(plan) {
  const steps = new Map(plan.map((step) => [step.pipeline, step]));
  const ranks = new Map();
  const rank = (pipeline) => {
    if (!ranks.has(pipeline)) {
      ranks.set(pipeline, 0); // Plans have no cycles; were there one, this would end it.
      const above = inPlan(steps, pipeline).filter((one) => layerOf(one) === layerOf(pipeline));
      ranks.set(pipeline, above.length === 0 ? 0 : 1 + Math.max(...above.map(rank)));
    }
    return ranks.get(pipeline);
  };
  const columns = new Map();
  for (const { pipeline } of plan) {
    const column = LAYERS.indexOf(layerOf(pipeline)) * 1000 + rank(pipeline);
    columns.set(column, [...(columns.get(column) ?? []), pipeline]);
  }
  return placeColumns([...columns].sort(([a], [b]) => a - b).map(([, pipelines]) => pipelines), steps);
}

const inPlan = (steps, pipeline) => (steps.get(pipeline)?.depends_on ?? []).filter((one) => steps.has(one));

/** Order each column by where its inputs lie, so that few edges cross. */
function placeColumns(columns, steps) {
  const nodes = new Map();
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  columns.forEach((pipelines, index) => {
    const weight = (pipeline) => {
      const above = inPlan(steps, pipeline).filter((one) => nodes.has(one));
      return above.length === 0 ? 0 : mean(above.map((one) => nodes.get(one).y));
    };
    const ordered = pipelines.map((pipeline) => ({ pipeline, weight: weight(pipeline) })).sort((a, b) => a.weight - b.weight);
    ordered.forEach(({ pipeline }, row) => nodes.set(pipeline, {
      x: 1 + index * (NODE.width + GAP.x), y: HEAD + row * (NODE.height + GAP.y), layer: layerOf(pipeline) }));
  });
  return nodes;
}

function headings(nodes) {
  const first = new Map();
  for (const node of nodes.values()) first.set(node.layer, Math.min(node.x, first.get(node.layer) ?? Infinity));
  return [...first].map(([layer, x]) => svg("text", { class: `plan-layer layer-${layer}`, x, y: 14 }, layer));
}

function edges(plan, nodes, statuses) {
  return plan.flatMap(({ pipeline, depends_on: dependsOn }) => (dependsOn ?? []).filter((one) => nodes.has(one)).map((one) => {
    const from = nodes.get(one);
    const to = nodes.get(pipeline);
    const [x1, y1, x2, y2] = [from.x + NODE.width, from.y + NODE.height / 2, to.x, to.y + NODE.height / 2];
    const bend = Math.max(24, (x2 - x1) / 2);
    return svg("path", { class: `plan-edge${statuses[pipeline] ? " is-used" : ""}`, d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}` });
  }));
}

function drawNode(pipeline, { x, y }, status) {
  const name = pipeline.slice(pipeline.indexOf(".") + 1);
  const shape = statusShape(status ?? "pending");
  shape.setAttribute("x", 10);
  shape.setAttribute("y", (NODE.height - 12) / 2);
  return svg("g", { class: "plan-node", "data-status": status ?? "not started", transform: `translate(${x} ${y})` },
    svg("title", {}, `${pipeline}: ${status ?? "not started"}`),
    svg("rect", { width: NODE.width, height: NODE.height, rx: 6 }),
    shape,
    svg("text", { x: 30, y: NODE.height / 2 + 4.5 }, name.length > NAME_MAX ? `${name.slice(0, NAME_MAX - 1)}…` : name));
}
