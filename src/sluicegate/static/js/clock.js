// Elements that tell time: one ticker for the whole page keeps them right.

import { el, setText } from "./dom.js";
import { absolute, elapsed, elapsedCompact, instant, relative } from "./format.js";

const listeners = new Set();

/** A `<time>` that reads "3 min ago", with the instant in `datetime` and the full date as its title. */
export function timeElement(iso) {
  if (!iso) return el("span", { class: "soft" }, "–");
  return el("time", { datetime: iso, title: absolute(iso), "data-relative": "" }, relative(iso));
}

/** A `<time>` that reads as date and time to the second, in the reader's zone. */
export function instantElement(iso) {
  return el("time", { datetime: iso, title: absolute(iso) }, instant(iso));
}

/** A span that counts up from an instant; `compact` for where room is short. */
export function elapsedElement(iso, { compact = false } = {}) {
  return el("span", { class: "elapsed", "data-since": iso, "data-compact": compact }, (compact ? elapsedCompact : elapsed)(iso));
}

/** Call `listener` every second; returns the function that ends it. */
export function onTick(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function tick() {
  if (document.hidden) return;
  for (const node of document.querySelectorAll("time[data-relative]")) setText(node, relative(node.dateTime));
  for (const node of document.querySelectorAll("[data-since]")) {
    setText(node, ("compact" in node.dataset ? elapsedCompact : elapsed)(node.dataset.since));
  }
  for (const listener of listeners) listener();
}

setInterval(tick, 1000);
document.addEventListener("visibilitychange", tick);
