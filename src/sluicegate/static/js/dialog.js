// A dialog that asks before something is done, and shows what it would do: the dry run, kept true while a person reads.

import { byId, setText, skeleton } from "./dom.js";
import { coalesce } from "./events.js";
import { number } from "./format.js";
import { announce, toast } from "./notify.js";
import { onJob } from "./store.js";

/** Answers that asking again cannot change: it has ended, is gone, is refused, or the role is too low. */
const FINAL = new Set([400, 403, 404, 409, 422]);

/**
 * Wire the dialog whose parts have ids that begin with `prefix`, and return `ask(question)`, which opens it.
 *
 * A question has: `title`, `keep` (the way out), `modes` (values of the mode's radio buttons; none: not asked),
 * `withReason`; `load(mode, signal)` for the dry run and `show(preview, mode)` → `{ parts, aside, confirm, nothing }`;
 * `needsPreview` where nobody may confirm unseen; `act({ mode, reason, preview })` and `done(answer, { wasLeft })` →
 * what to announce;
 * `refused(error)` → a final error in words, or `null` for the server's own; `reread()` after it, and `heard(job)` → "again", or words when there is nothing left to ask;
 * `home()` takes the focus when the control that opened the dialog is gone.
 *
 * While it acts, what is heard of the job is not judged: the event of our own act may come before its answer.
 */
export function createDialog(prefix) {
  const part = (name) => byId(`${prefix}-${name}`);
  /** What is open: `{ question, preview, loading, busy, over }`; `loading` gives a dry run up. `null` while closed. */
  let asked = null;

  const previewAgain = coalesce(async () => {
    if (asked !== null && !asked.busy && !asked.over && (asked.preview !== null || asked.loading === null)) await preview(asked);
  });

  function ask(question) {
    asked = { question, preview: null, loading: null, busy: false, over: false };
    setText(part("title"), question.title);
    part("form").reset();
    showModes(question.modes ?? []);
    if (part("reason-field")) part("reason-field").hidden = !question.withReason;
    part("preview").replaceChildren(skeleton(3));
    part("confirm").replaceChildren(...question.confirm);
    part("confirm").className = `btn ${question.isDanger ? "btn-danger" : "btn-primary"}`;
    part("confirm").hidden = false;
    part("confirm").disabled = Boolean(question.needsPreview);
    setText(part("keep"), question.keep);
    setText(part("error"), "");
    showBusy(false);
    part("dialog").showModal();
    // Enter does it, Escape leaves; what cannot be undone has the focus on the way out.
    part(question.isFinal ? "keep" : question.needsPreview ? "title" : "confirm").focus();
    return preview(asked);
  }

  function showModes(modes) {
    if (!part("modes")) return;
    part("modes").hidden = modes.length < 2;
    for (const choice of part("modes").querySelectorAll("input")) {
      choice.closest("label").hidden = !modes.includes(choice.value);
      if (modes.length > 0) choice.checked = choice.value === modes[0];
    }
  }

  const chosenMode = () => new FormData(part("form")).get("mode");

  async function preview(one) {
    one.loading?.abort();
    const loading = new AbortController();
    one.loading = loading;
    try {
      const answer = await one.question.load(chosenMode(), loading.signal);
      if (one !== asked || loading.signal.aborted) return;
      one.preview = answer;
      draw();
    } catch (error) {
      if (one !== asked || loading.signal.aborted) return;
      if (FINAL.has(error.status)) refuse(error);
      else if (one.preview === null) showUnknown(error);
    } finally {
      if (one.loading === loading) one.loading = null;
    }
  }

  function draw() {
    const { question, preview: seen, over, busy } = asked;
    const { parts, aside = "", confirm = question.confirm, nothing = false } = question.show(seen, chosenMode());
    const box = part("preview");
    const kept = box.querySelector(".dialog-aside");
    // Said again only when it reads differently: screen readers speak what is replaced here. What only counts is not spoken.
    if (kept === null || box.dataset.said !== textOf(parts)) {
      box.dataset.said = textOf(parts);
      const quiet = document.createElement("p");
      quiet.className = "soft dialog-aside";
      quiet.setAttribute("aria-live", "off");
      box.replaceChildren(...parts, quiet);
    }
    const quiet = box.querySelector(".dialog-aside");
    setText(quiet, aside);
    quiet.hidden = aside === "";
    if (over || busy) return;
    const button = part("confirm");
    const awaited = [button, question.isFinal ? null : part("title")].includes(document.activeElement);
    button.hidden = nothing;
    button.disabled = false;
    if (textOf(confirm) !== button.textContent) button.replaceChildren(...confirm);
    setText(part("keep"), nothing ? "Close" : question.keep);
    if (awaited) part(nothing ? "keep" : "confirm").focus();
  }

  /** The dry run did not answer: that is no reason to be unable to act, unless nobody may act unseen. */
  function showUnknown(error) {
    const { question } = asked;
    const words = document.createElement("p");
    words.textContent = `What this would do could not be worked out: ${error.message}`;
    part("preview").replaceChildren(words);
    const button = part("confirm");
    button.disabled = false;
    if (question.needsPreview) button.textContent = "Try again";
    if (document.activeElement === part("title")) button.focus();
  }

  /** There is nothing to ask any more: say why; what is left is the way out. */
  function endWith(words) {
    asked.over = true;
    asked.loading?.abort();
    const hadFocus = [part("confirm"), part("title"), document.body, null].includes(document.activeElement);
    if (asked.preview === null) part("preview").replaceChildren();
    part("error").replaceChildren(...[words].flat());
    showBusy(false);
    part("confirm").disabled = true;
    setText(part("keep"), "Close");
    if (hadFocus) part("keep").focus();
  }

  function refuse(error) {
    endWith(asked.question.refused?.(error) ?? sentence(error.message));
    asked.question.reread?.();
  }

  async function confirm(event) {
    event.preventDefault();
    const one = asked;
    if (one === null || one.busy || one.over) return;
    if (one.preview === null && one.question.needsPreview) {
      part("preview").replaceChildren(skeleton(3));
      await preview(one);
      return;
    }
    const mode = chosenMode();
    const reason = part("reason")?.value.trim() || null;
    one.busy = true;
    showBusy(true);
    // A dry run that arrived after the act would be refused, and tell nothing new.
    one.loading?.abort();
    let answer;
    try {
      answer = await one.question.act({ mode, reason, preview: one.preview });
    } catch (error) {
      one.busy = false;
      failed(one, error);
      return;
    }
    announce(one.question.done(answer, { wasLeft: one !== asked }));
    if (one === asked) close();
  }

  function failed(one, error) {
    if (error.status === 401) return; // The sign-in form has taken over.
    if (one !== asked) {
      toast(error.message, "error"); // It was left meanwhile; that it did not happen is still worth knowing.
      one.question.reread?.();
    } else if (FINAL.has(error.status)) {
      refuse(error);
    } else {
      showBusy(false);
      setText(part("error"), sentence(error.message));
      previewAgain();
    }
  }

  function showBusy(busy) {
    part("form").setAttribute("aria-busy", String(busy));
  }

  function close() {
    part("dialog").close();
  }

  function closed() {
    const one = asked;
    if (one === null || part("dialog").open) return; // Another question came before this event.
    one.loading?.abort();
    asked = null;
    // The browser gives the focus back to what opened the dialog. That may be gone, for its job has ended; the focus is
    // then nowhere, or still on a button of the dialog that nobody can see.
    const at = document.activeElement;
    if (at === null || at === document.body || part("dialog").contains(at)) one.question.home?.()?.focus();
  }

  part("form").addEventListener("submit", confirm);
  part("form").addEventListener("change", (event) => {
    if (event.target.name !== "mode" || asked?.preview == null || asked.over) return;
    draw();
    previewAgain();
  });
  part("keep").addEventListener("click", close);
  part("dialog").addEventListener("close", closed);
  addEventListener("hashchange", close); // What it asks about is not in view any more.
  onJob((job) => {
    if (asked === null || asked.busy || asked.over) return;
    const words = asked.question.heard?.(job);
    if (words === "again") previewAgain();
    else if (words) endWith(words);
  });
  return ask;
}

/** The server's words begin small; here they stand alone. */
const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1);

const textOf = (nodes) => [nodes].flat().map((node) => node.textContent ?? node).join("");

const NAMES_MAX = 3;

/** The first names of a list, and how many more there are. */
export function names(all, mostly = NAMES_MAX) {
  const shown = all.slice(0, mostly).join(", ");
  return all.length > mostly ? `${shown} and ${number(all.length - mostly)} more` : shown;
}
