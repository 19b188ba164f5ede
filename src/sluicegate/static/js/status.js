// Statuses: their words, classes and shapes. A state is never shown by colour alone.

import { el, svg } from "./dom.js";

export const JOB_STATUSES = ["pending", "running", "success", "failed", "partial", "cancelled"];
const ACTIVE = new Set(["pending", "running"]);

/** True while a job or task can still change its status, and so can be stopped. */
export const isActive = (status) => ACTIVE.has(status);

/** True while anything of the job is still moving, its stop included. */
export const isLive = (job) => isActive(job.status) || Boolean(job.stopping);

/** Return the badge class of a job's or task's status; "not started" and unknown ones read as pending. */
export function getStatusClass(status) {
  switch (status) {
    case "running": return "badge-running";
    case "success": return "badge-success";
    case "failed": return "badge-failed";
    case "partial": return "badge-partial";
    case "cancelled": return "badge-cancelled";
    default: return "badge-pending";
  }
}

/** The outline of each status in a 12 by 12 box. */
const SHAPES = {
  pending: () => [svg("circle", { cx: 6, cy: 6, r: 4.5, class: "shape-line shape-dashed" })],
  running: () => [svg("circle", { cx: 6, cy: 6, r: 4.5, class: "shape-line shape-faint" }), svg("path", { d: "M6 1.500a4.500 4.500 0 0 1 4.500 4.500", class: "shape-line" })],
  success: () => [svg("path", { d: "M2 6.500 4.800 9.300 10 3.500", class: "shape-line" })],
  failed: () => [svg("path", { d: "M2.700 2.700l6.600 6.600M9.300 2.700l-6.600 6.600", class: "shape-line" })],
  partial: () => [svg("circle", { cx: 6, cy: 6, r: 4.5, class: "shape-line" }), svg("path", { d: "M6 1.500a4.500 4.500 0 0 1 0 9z", class: "shape-fill" })],
  cancelled: () => [svg("rect", { x: 2, y: 2, width: 8, height: 8, rx: 1.5, class: "shape-fill" })],
};

const shapeOf = (status) => (SHAPES[status] ?? SHAPES.pending)();

/** The status's shape alone, for places where its word stands beside it. */
export function statusShape(status) {
  return svg("svg", { class: `shape shape-${status}`, viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true" }, ...shapeOf(status));
}

/** The same as a group with its corner at (x, y), to be drawn inside another picture. */
export function statusShapeAt(status, x, y) {
  return svg("g", { class: `shape-${status}`, transform: `translate(${x} ${y})` }, ...shapeOf(status));
}

/** The status as shape and word. */
export function statusBadge(status) {
  return el("span", { class: `badge ${getStatusClass(status)}` }, statusShape(status), status);
}

/** The square of every stop button. */
export function stopIcon() {
  return svg("svg", { class: "icon", viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true" },
    svg("rect", { x: 2, y: 2, width: 8, height: 8, rx: 1, fill: "currentColor" }));
}
