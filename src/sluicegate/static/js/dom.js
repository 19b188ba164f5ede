// Builds and patches elements. Text only ever enters as text nodes: names and messages may hold markup.

const SVG = "http://www.w3.org/2000/svg";

/** Fill `node` with attributes (`on…` functions listen, `null` and `false` are left out) and children. */
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Make an HTML element: `el("p", { class: "soft" }, "text", otherNode)`. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Make an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export const byId = (id) => document.getElementById(id);

/** Set the text only when it differs, so that selections survive and nothing is painted for nothing. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Keep the children of `parent` in step with a list, moving as few of them as possible.
 *
 * `create(item)` makes a row, `update(row, item)` patches it; a row lives as long as its key is listed,
 * so focus, hover and transitions survive.
 */
export function keyedList(parent, { key, create, update }) {
  const rows = new Map();
  return function render(items) {
    const wanted = new Set(items.map(key));
    for (const [id, row] of rows) {
      if (!wanted.has(id)) {
        row.remove();
        rows.delete(id);
      }
    }
    let next = parent.firstElementChild;
    for (const item of items) {
      const id = key(item);
      if (!rows.has(id)) rows.set(id, create(item));
      const row = rows.get(id);
      update(row, item);
      if (row === next) next = next.nextElementSibling;
      else parent.insertBefore(row, next);
    }
    return rows;
  };
}

/** Return a function that runs `draw(value)` only when the value's content changed since the last time. */
export function whenChanged(draw) {
  let seen;
  return (value) => {
    const content = JSON.stringify(value);
    if (content === seen) return;
    seen = content;
    draw(value);
  };
}

/** Replace the children of `parent`; focus that was on one of them goes to `fallback`, not to nowhere. */
export function replaceFocused(parent, nodes, fallback) {
  const hadFocus = parent.contains(document.activeElement);
  parent.replaceChildren(...nodes);
  if (hadFocus) fallback()?.focus();
}

/** A calm block for what is empty or went wrong: a title, a sentence, and what to do about it. */
export function stateBlock(title, text, ...actions) {
  return el("div", { class: "state" },
    el("p", { class: "state-title" }, title),
    text && el("p", { class: "soft" }, text),
    actions.some(Boolean) && el("p", { class: "state-actions" }, ...actions));
}

/** The error state of a view: what could not be done, why, and a way to try again. */
export function errorBlock(what, error, retry) {
  const block = stateBlock(what, error.message, el("button", { class: "btn", type: "button", onclick: retry }, "Try again"));
  block.classList.add("state-error");
  block.setAttribute("role", "alert");
  return block;
}

/** Grey lines that hold the place of what is being loaded. */
export function skeleton(lines) {
  return el("div", { class: "skeleton", "aria-hidden": "true" }, Array.from({ length: lines }, () => el("span")));
}
