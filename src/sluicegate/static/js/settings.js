// The Settings tab: who is signed in, API keys, and the server's health.

import { get, post, remove } from "./api.js";
import { timeElement } from "./clock.js";
import { byId, el, skeleton } from "./dom.js";
import { shortVersion } from "./format.js";
import { toast } from "./notify.js";
import { may, session, signOut } from "./session.js";

const ROLES = [["viewer", "reads"], ["operator", "also runs, stops, resumes and uploads"], ["admin", "also rolls back and manages keys"]];

let open = false;

function drawAll() {
  byId("settings-body").replaceChildren(accountPanel(), healthPanel(), keysPanel());
}

function panel(id, title, ...children) {
  return el("section", { class: "panel part", id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), ...children);
}

const facts = (pairs) => el("dl", { class: "facts" }, pairs.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));

function accountPanel() {
  const { name, role } = session() ?? {};
  return panel("settings-account", "Signed in",
    facts([["Key", name ?? "–"], ["Role", role ?? "–"]]),
    el("p", {}, el("button", { class: "btn", id: "sign-out", type: "button", onclick: leave }, "Sign out")));
}

async function leave() {
  try {
    await signOut();
    location.reload();
  } catch (error) {
    toast(`You are still signed in: ${error.message}`, "error");
  }
}

function healthPanel() {
  const box = el("div", {}, skeleton(3));
  readHealth(box);
  return panel("settings-health", "Server", box);
}

async function readHealth(box) {
  try {
    box.replaceChildren(facts(flatten(await get("health/ready")).filter(([name]) => name !== "ready")));
  } catch (error) {
    const known = flatten(error.problem ?? {}).filter(([name]) => !["type", "title", "detail", "code"].includes(name));
    box.replaceChildren(el("p", { class: "notice notice-warning" }, `Not ready: ${error.message}`), facts(known));
  }
}

/** An object of any depth as pairs: `{store: {ok: true}}` → [["store ok", "yes"]]. */
function flatten(value, path = []) {
  if (value === null || typeof value !== "object") return [[path.join(" ").replaceAll("_", " "), plainWord(value)]];
  if (Array.isArray(value)) return [[path.join(" "), value.map((one) => (typeof one === "object" ? JSON.stringify(one) : plainWord(one))).join(", ") || "none"]];
  return Object.entries(value).flatMap(([name, one]) => flatten(one, [...path, name]));
}

function plainWord(value) {
  if (value === true) return "yes";
  if (value === false) return "no";
  return value === null ? "–" : shortVersion(String(value));
}

function keysPanel() {
  if (!may("admin")) return panel("settings-keys", "API keys", el("p", { class: "soft" }, "Only an admin key may see and manage keys."));
  const list = el("div", { id: "keys-list" }, skeleton(3));
  const fresh = el("div", { id: "new-key", role: "status" });
  readKeys(list);
  return panel("settings-keys", "API keys", list, createForm(list, fresh), fresh);
}

async function readKeys(list) {
  try {
    const { keys } = await get("api/keys");
    list.replaceChildren(el("div", { class: "scroll-x" }, el("table", { class: "plain-table" },
      el("thead", {}, el("tr", {}, ["Name", "Role", "Created", ""].map((heading) => el("th", { scope: "col" }, heading)))),
      el("tbody", {}, keys.map((key) => keyRow(key, list))))));
  } catch (error) {
    list.replaceChildren(el("p", { class: "soft" }, error.status === 403 ? "Only an admin key may see and manage keys." : `The keys could not be read: ${error.message}`));
  }
}

function keyRow({ name, role, created_at: createdAt, revoked_at: revokedAt }, list) {
  const last = revokedAt
    ? el("span", { class: "soft" }, "revoked ", timeElement(revokedAt))
    : el("button", { class: "btn btn-small", type: "button", "data-revoke": name, "aria-label": `Revoke ${name}`, onclick: (event) => askToRevoke(event.currentTarget, name, list) }, "Revoke");
  return el("tr", { class: revokedAt && "is-revoked" }, el("td", { class: "key-name" }, name), el("td", {}, role), el("td", {}, timeElement(createdAt)), el("td", { class: "key-actions" }, last));
}

/** The first press asks, the second one revokes: it cannot be undone. */
async function askToRevoke(button, name, list) {
  if (!button.classList.contains("btn-danger")) {
    button.classList.add("btn-danger");
    button.textContent = name === session()?.name ? "Revoke your own key?" : "Really revoke?";
    setTimeout(() => {
      button.classList.remove("btn-danger");
      button.textContent = "Revoke";
    }, 4000);
    return;
  }
  button.disabled = true;
  try {
    await remove(`api/keys/${encodeURIComponent(name)}`);
    toast(`${name} is revoked.`);
  } catch (error) {
    toast(`${name} was not revoked: ${error.message}`, "error");
  }
  readKeys(list);
}

function createForm(list, fresh) {
  return el("form", { class: "key-form", id: "key-form", onsubmit: (event) => createKey(event, list, fresh) },
    el("div", {}, el("label", { for: "key-name" }, "Name"), el("input", { id: "key-name", name: "name", type: "text", required: true, maxlength: 100, autocomplete: "off" })),
    el("div", {}, el("label", { for: "key-role" }, "Role"), el("select", { id: "key-role", name: "role" }, ROLES.map(([role, does]) => el("option", { value: role }, `${role}: ${does}`)))),
    el("button", { class: "btn", type: "submit" }, "Create key"));
}

async function createKey(event, list, fresh) {
  event.preventDefault();
  const form = event.currentTarget;
  const { name, role } = Object.fromEntries(new FormData(form));
  try {
    const { key } = await post("api/keys", { name, role });
    form.reset();
    fresh.replaceChildren(el("p", { class: "notice" }, `This is the key of ${name}. It is shown only now:`), el("p", { class: "fresh-key" }, el("code", { class: "mono", id: "new-key-value" }, key), copyButton(key)));
    readKeys(list);
  } catch (error) {
    fresh.replaceChildren(el("p", { class: "field-error", role: "alert" }, `The key was not created: ${error.message}`));
  }
}

function copyButton(text) {
  if (!navigator.clipboard) return null; // Browsers offer it on secure origins only; the text can be selected.
  return el("button", { class: "btn btn-small", type: "button", onclick: async (event) => {
    const button = event.currentTarget;
    await navigator.clipboard.writeText(text).then(() => { button.textContent = "Copied"; }, () => { button.textContent = "Select it to copy"; });
  } }, "Copy");
}

export function openSettings() {
  open = true;
  drawAll();
}

export function closeSettings() {
  open = false;
}

export function refreshSettings() {
  const health = byId("settings-health")?.lastElementChild;
  if (open && health) readHealth(health);
}
