// Tells people things: toasts for the eye, a polite live region for screen readers.

import { byId, el } from "./dom.js";

const SHOWN_MS = 8000;
const TOASTS_MAX = 3;

/** Show a short message above everything else, dialogs included. `kind` is "info" or "error". */
export function toast(message, kind = "info") {
  const box = byId("toasts");
  const item = el("div", { class: `toast toast-${kind}`, role: kind === "error" ? "alert" : "status" },
    el("p", {}, message),
    el("button", { class: "btn btn-quiet", type: "button", "aria-label": "Dismiss", onclick: () => dismiss(item) }, "×"));
  box.append(item);
  while (box.childElementCount > TOASTS_MAX) box.firstElementChild.remove();
  // Shown again each time, so that it comes to lie above a dialog opened since.
  if (box.matches(":popover-open")) box.hidePopover();
  box.showPopover();
  setTimeout(() => dismiss(item), SHOWN_MS);
}

function dismiss(item) {
  item.remove();
  const box = byId("toasts");
  if (box.childElementCount === 0 && box.matches(":popover-open")) box.hidePopover();
}

/** Say something to screen readers, without interrupting. */
export function announce(message) {
  byId("announcer").textContent = message;
}
