// The server's event stream, and how often it may make this page ask for more.

import { get } from "./api.js";

const LOST_AFTER_MS = 1500;
const RETRY_MS = 2000;
const HIDDEN_CLOSE_MS = 60_000;

/**
 * Follow `GET /api/events`.
 *
 * The browser reconnects by itself and sends Last-Event-ID; where it gives up (an HTTP error) we open a new stream.
 * `onEvent(event)` gets every message; `onState("live" | "lost")` tells of the connection, and after a "lost" or a pause
 * "live" means: read again what you show. A page in the background lets go of its connection after a while, since
 * browsers allow only six per host.
 */
export function followEvents({ onEvent, onState }) {
  let source = null;
  let lostTimer = null;
  let retryTimer = null;
  let hiddenTimer = null;

  function open() {
    close();
    source = new EventSource("api/events");
    source.onopen = () => {
      clearTimeout(lostTimer);
      lostTimer = null;
      onState("live");
    };
    source.onmessage = (message) => {
      try {
        onEvent(JSON.parse(message.data));
      } catch {
        // A message that is no JSON is a keep-alive of some proxy: nothing to act on.
      }
    };
    source.onerror = () => {
      lostTimer ??= setTimeout(() => onState("lost"), LOST_AFTER_MS);
      if (source.readyState === EventSource.CLOSED) retryTimer = setTimeout(reopen, RETRY_MS);
    };
  }

  async function reopen() {
    // The stream cannot say why it was refused; an ordinary request can, and opens the sign-in form on 401.
    await get("api/session").catch(() => null);
    if (source !== null) open();
  }

  function close() {
    clearTimeout(retryTimer);
    source?.close();
    source = null;
  }

  function visibilityChanged() {
    clearTimeout(hiddenTimer);
    if (document.hidden) hiddenTimer = setTimeout(close, HIDDEN_CLOSE_MS);
    else if (source === null) open();
  }

  document.addEventListener("visibilitychange", visibilityChanged);
  open();
  return () => {
    clearTimeout(lostTimer);
    clearTimeout(hiddenTimer);
    document.removeEventListener("visibilitychange", visibilityChanged);
    close();
  };
}

/**
 * Return `ask()`, which makes `run` happen soon, never twice at once, and at most once in `spacingMs`.
 *
 * However many asks come meanwhile, they are one. `run` may return milliseconds to wait longer (a 429's Retry-After).
 */
export function coalesce(run, spacingMs = 1000) {
  let timer = null;
  let running = false;
  let asked = false;
  let nextAt = 0;

  function schedule() {
    if (timer !== null || running) return;
    timer = setTimeout(go, Math.max(50, nextAt - performance.now()));
  }

  async function go() {
    timer = null;
    running = true;
    asked = false;
    nextAt = performance.now() + spacingMs;
    try {
      nextAt += (await run()) || 0;
    } finally {
      running = false;
      if (asked) schedule();
    }
  }

  return function ask() {
    asked = true;
    schedule();
  };
}
