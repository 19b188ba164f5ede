// A plan as a picture: a column per layer, an edge per dependency.

import { el, svg } from "./dom.js";
import { plural } from "./format.js";
import { statusShapeAt } from "./status.js";

const LAYERS = ["bronze", "silver", "gold"];
const NODES_MAX = 250;
const NODE = { width: 184, height: 34 };
const GAP = { x: 64, y: 10 };
const HEAD = 28;
const LANE_HEIGHT = 8;
const NAME_MAX = 19;

/** Draw `plan` (`[{pipeline, depends_on}]`) into `container`; `statuses` maps pipeline ids to task statuses. */
export function drawPlan(container, plan, statuses) {
  if (plan.length > NODES_MAX) {
    container.replaceChildren(el("p", { class: "soft" }, `${plural(plan.length, "pipeline")}: too many to draw. The timeline lists them.`));
    return;
  }
  const { nodes, routes } = layOut(plan);
  const width = Math.max(...[...nodes.values()].map((node) => node.x)) + NODE.width + 2;
  const height = Math.max(...[...nodes.values()].map((node) => node.y + node.height)) + 2;
  const summary = LAYERS.map((layer) => [layer, plan.filter((step) => layerOf(step.pipeline) === layer).length])
    .filter(([, count]) => count > 0).map(([layer, count]) => `${count} ${layer}`).join(", ");
  container.replaceChildren(svg("svg", { class: "plan", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Plan: ${summary}` },
    ...headings(nodes), ...routes.map((stops) => drawEdge(stops, nodes, statuses)),
    ...plan.map(({ pipeline }) => drawNode(pipeline, nodes.get(pipeline), statuses[pipeline]))));
}

const layerOf = (pipeline) => pipeline.split(".")[0];

/** Place every pipeline: a column per layer, split where pipelines of one layer depend on each other. */
function layOut(plan) {
  const steps = new Map(plan.map((step) => [step.pipeline, step]));
  const inPlan = (pipeline) => (steps.get(pipeline)?.depends_on ?? []).filter((one) => steps.has(one));
  const ranks = new Map();
  const rank = (pipeline) => {
    if (!ranks.has(pipeline)) {
      ranks.set(pipeline, 0); // Plans have no cycles; were there one, this would end it.
      const above = inPlan(pipeline).filter((one) => layerOf(one) === layerOf(pipeline));
      ranks.set(pipeline, above.length === 0 ? 0 : 1 + Math.max(...above.map(rank)));
    }
    return ranks.get(pipeline);
  };
  const position = (pipeline) => LAYERS.indexOf(layerOf(pipeline)) * 1000 + rank(pipeline);
  const positions = [...new Set(plan.map((step) => position(step.pipeline)))].sort((a, b) => a - b);
  const columnOf = new Map(plan.map(({ pipeline }) => [pipeline, positions.indexOf(position(pipeline))]));
  const routes = plan.flatMap(({ pipeline }) => inPlan(pipeline).map((from) => route(from, pipeline, columnOf)));
  return { nodes: placeColumns(positions.length, columnOf, routes), routes };
}

/** The stops of an edge: in every column between its ends it passes through a lane of its own. */
function route(from, to, columnOf) {
  const lanes = [];
  for (let column = columnOf.get(from) + 1; column < columnOf.get(to); column += 1) lanes.push(`${from}|${column}`);
  return [from, ...lanes, to];
}

/** Place nodes and lanes column by column, each near the middle of what leads to it, so that few edges cross. */
function placeColumns(count, columnOf, routes) {
  const columns = Array.from({ length: count }, () => new Set());
  for (const [pipeline, column] of columnOf) columns[column].add(pipeline);
  const sources = new Map();
  for (const stops of routes) {
    stops.slice(1).forEach((stop, index) => {
      columns[columnOf.get(stops[0]) + index + 1]?.add(stop);
      sources.set(stop, [...(sources.get(stop) ?? []), stops[index]]);
    });
  }
  const placed = new Map();
  const middle = (stop) => placed.get(stop).y + placed.get(stop).height / 2;
  columns.forEach((stops, column) => {
    const weight = (stop) => mean((sources.get(stop) ?? []).map(middle));
    let y = HEAD;
    for (const { stop } of [...stops].map((one) => ({ stop: one, weight: weight(one) })).sort((a, b) => a.weight - b.weight)) {
      const height = columnOf.has(stop) ? NODE.height : LANE_HEIGHT;
      placed.set(stop, { x: 1 + column * (NODE.width + GAP.x), y, height, isLane: !columnOf.has(stop), layer: layerOf(stop) });
      y += height + GAP.y;
    }
  });
  return placed;
}

const mean = (values) => (values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length);

function headings(nodes) {
  const first = new Map();
  for (const node of nodes.values()) first.set(node.layer, Math.min(node.x, first.get(node.layer) ?? Infinity));
  return [...first].map(([layer, x]) => svg("text", { class: `plan-layer layer-${layer}`, x, y: 14 }, layer));
}

function drawEdge(stops, nodes, statuses) {
  const [first, ...rest] = stops.map((stop) => nodes.get(stop));
  let [x, y] = [first.x + NODE.width, first.y + first.height / 2];
  let path = `M${x} ${y}`;
  for (const next of rest) {
    const nextY = next.y + next.height / 2;
    const bend = (next.x - x) / 2;
    path += `C${x + bend} ${y} ${next.x - bend} ${nextY} ${next.x} ${nextY}`;
    [x, y] = [next.x, nextY];
    if (next.isLane) path += `H${x += NODE.width}`;
  }
  return svg("path", { class: `plan-edge${statuses[stops.at(-1)] ? " is-used" : ""}`, d: path });
}

function drawNode(pipeline, { x, y }, status) {
  const name = pipeline.slice(pipeline.indexOf(".") + 1);
  return svg("g", { class: "plan-node", "data-status": status ?? "not started", transform: `translate(${x} ${y})` },
    svg("title", {}, `${pipeline}: ${status ?? "not started"}`),
    svg("rect", { width: NODE.width, height: NODE.height, rx: 6 }),
    statusShapeAt(status ?? "pending", 10, (NODE.height - 12) / 2),
    svg("text", { x: 30, y: NODE.height / 2 + 4.5 }, name.length > NAME_MAX ? `${name.slice(0, NAME_MAX - 1)}…` : name));
}
