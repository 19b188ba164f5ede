// The page's entry: signs in, follows the server's events, and shows the view that the URL names.
//
// URLs: #/history?status=running · #/jobs/<id> · #/pipelines · #/tables · #/tables/<name>?version=3 · #/settings

import { onSignInNeeded } from "./js/api.js";
import { closeDetails, detailsEvent, openDetails, refreshDetails, startDetails } from "./js/details.js";
import { byId, setText } from "./js/dom.js";
import { followEvents } from "./js/events.js";
import { closeHistory, historyEvent, openHistory, refreshHistory, revealJob, startHistory } from "./js/history.js";
import { toast } from "./js/notify.js";
import { closePipelines, openPipelines, pipelinesEvent, refreshPipelines, startPipelines } from "./js/pipelines.js";
import { loadSession, signIn } from "./js/session.js";
import { closeSettings, openSettings, refreshSettings } from "./js/settings.js";
import { startAgainDialog } from "./js/again.js";
import { startStopDialog } from "./js/stop.js";
import { closeTables, openTables, refreshTables } from "./js/tables.js";

/** Each view's title and what to do when it opens, closes, hears an event, or was cut off for a while. */
const VIEWS = {
  history: { title: "History", open: ({ search }) => openHistory(search), close: closeHistory, event: historyEvent, refresh: refreshHistory },
  details: { title: "Job", tab: "history", open: ({ name }) => openDetails(name, lastHistory), close: closeDetails, event: detailsEvent, refresh: refreshDetails },
  pipelines: { title: "Pipelines", open: openPipelines, close: closePipelines, event: pipelinesEvent, refresh: refreshPipelines },
  tables: { title: "Tables", open: ({ name, search }) => openTables(name, search.get("version")), close: closeTables, refresh: refreshTables },
  settings: { title: "Settings", open: openSettings, close: closeSettings, refresh: refreshSettings },
};

let shown = null;
let lastHistory = "#/history";
let stopFollowing = null;
let jobToReveal = null;

/** `#/tables/gold.delays?x=1` → `{ view: "tables", name: "gold.delays", search }`; anything unknown is the history. */
function parseRoute(hash) {
  const [path, search = ""] = hash.replace(/^#\/?/, "").split("?");
  const [first, ...rest] = path.split("/");
  const name = rest.length > 0 && rest.join("/") !== "" ? decode(rest.join("/")) : null;
  const view = first === "jobs" && name ? "details" : Object.hasOwn(VIEWS, first) && first !== "details" ? first : "history";
  return { view, name, search: new URLSearchParams(search) };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // A lone % in a hand-written URL.
  }
}

function showRoute({ moveFocus = true } = {}) {
  const route = parseRoute(location.hash);
  const view = VIEWS[route.view];
  const changedView = shown !== route.view || route.view === "details";
  if (changedView) VIEWS[shown]?.close();
  if (route.view === "history") lastHistory = location.hash || "#/history";
  shown = route.view;
  document.title = `${view.title} · Sluicegate`;
  for (const section of document.querySelectorAll("main > .view")) section.hidden = section.id !== `view-${route.view}`;
  for (const link of byId("tabs").querySelectorAll("a")) {
    if (link.dataset.tab === (view.tab ?? route.view)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  view.open(route);
  if (!changedView) return;
  scrollTo(0, 0);
  if (jobToReveal !== null) queueMicrotask(() => setTimeout(reveal));
  else if (moveFocus) byId(`view-${route.view}`).querySelector("h1")?.focus({ preventScroll: true });
}

function reveal() {
  revealJob(jobToReveal);
  jobToReveal = null;
}

/** Lead to the history, without a filter that could hide it, and to this job's row. */
function showJobInHistory(jobId) {
  jobToReveal = jobId;
  location.hash = "#/history";
}

let wasLive = false;

function connectionChanged(state) {
  byId("connection").dataset.state = state;
  setText(byId("connection-word"), state === "live" ? "live" : "reconnecting");
  byId("connection-banner").hidden = state === "live";
  if (state === "live" && wasLive) VIEWS[shown]?.refresh?.();
  wasLive = true;
}

function enter() {
  for (const id of ["tabs", "connection"]) byId(id).hidden = false;
  byId("view-signin").hidden = true;
  addEventListener("hashchange", showRoute);
  stopFollowing = followEvents({ onEvent: (event) => VIEWS[shown]?.event?.(event), onState: connectionChanged });
  showRoute({ moveFocus: false });
}

/** Show the sign-in form instead of everything else; the URL stays, so signing in leads back to it. */
function showSignIn() {
  if (!byId("view-signin").hidden) return;
  stopFollowing?.();
  stopFollowing = null;
  wasLive = false;
  removeEventListener("hashchange", showRoute);
  VIEWS[shown]?.close();
  shown = null;
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  for (const section of document.querySelectorAll("main > .view")) section.hidden = section.id !== "view-signin";
  for (const id of ["tabs", "connection", "connection-banner"]) byId(id).hidden = true;
  document.title = "Sign in · Sluicegate";
  byId("signin-key").focus();
}

/** To the view's content, past its filters: from a fresh page the newest job's Stop is a few keys away. */
function skipToContent() {
  (document.querySelector("main > .view:not([hidden]) [data-content]") ?? byId("main")).focus();
}

async function submitSignIn(event) {
  event.preventDefault();
  const field = byId("signin-key");
  byId("signin-submit").disabled = true;
  setText(byId("signin-error"), "");
  try {
    await signIn(field.value.trim());
    field.value = "";
    enter();
  } catch (error) {
    setText(byId("signin-error"), error.status === 401 ? "This key is unknown or revoked." : error.message);
    field.select();
  } finally {
    byId("signin-submit").disabled = false;
  }
}

async function start() {
  onSignInNeeded(showSignIn);
  byId("signin-form").addEventListener("submit", submitSignIn);
  byId("skip-link").addEventListener("click", skipToContent); // A link's #main would be a route.
  startStopDialog();
  startAgainDialog();
  startHistory();
  startDetails();
  startPipelines(showJobInHistory);
  await enterWhenReachable();
}

async function enterWhenReachable() {
  try {
    await loadSession();
    byId("connection-banner").hidden = true;
    enter();
  } catch (error) {
    if (error.status === 401) return;
    byId("connection-banner").hidden = false;
    if (error.status !== 0) toast(error.message, "error");
    setTimeout(enterWhenReachable, 2000);
  }
}

start();
