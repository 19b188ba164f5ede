// A job's logs, followed live while it runs.

import { get, jobPath, query } from "./api.js";
import { el, setText } from "./dom.js";
import { absolute, number, plural, taskPipeline, timeOfDay } from "./format.js";
import { toast } from "./notify.js";
import { isLive } from "./status.js";

const PAGE_SIZE = 500;
const DOWNLOAD_PAGE_SIZE = 10000;
const LINES_MAX = 3000;
const FOLLOW_MS = 1500;

/** Make the logs of a job: `show(job)` says how it stands; `end()` stops asking. */
export function createLogs(jobId) {
  const select = el("select", { id: "logs-task", onchange: restart }, el("option", { value: "" }, "all tasks"));
  const lines = el("div", { class: "log-lines mono", id: "log-lines", role: "log", "aria-live": "off", "aria-label": "Log lines", tabindex: 0, onscroll: scrolled });
  const newest = el("button", { class: "btn btn-small log-newest", type: "button", hidden: true, onclick: toNewest }, "Newest ↓");
  const note = el("p", { class: "soft log-note" }, "Reading…");
  const find = el("input", { id: "logs-find", type: "search", placeholder: "Find", "aria-label": "Find in the lines", autocomplete: "off", spellcheck: "false", oninput: sift });
  const download = el("button", { class: "btn", type: "button", onclick: save }, "Download");
  const element = el("div", { class: "logs" },
    el("div", { class: "logs-tools" }, el("label", { for: "logs-task" }, "Show"), select, find, download),
    el("div", { class: "log-box" }, lines, newest), note);

  let state = { after: 0, total: 0, taskId: "" };
  let timer = null;
  let live = true;
  let lastLook = false;
  let started = false;
  let ended = false;
  let sticking = true;
  let names = new Map();

  async function read() {
    const asked = state;
    clearTimeout(timer);
    let wait = FOLLOW_MS;
    try {
      const page = await get(`${jobPath(jobId)}/logs${query({ after: asked.after, limit: PAGE_SIZE, task_id: asked.taskId || null })}`);
      if (ended || asked !== state) return;
      asked.after = page.next_after ?? asked.after;
      asked.total += page.logs.length;
      append(page.logs);
      setText(note, noteText());
      if (page.logs.length === PAGE_SIZE) wait = 0;
      else if (lastLook) return;
      else lastLook = !live; // A job that just ended may have lines under way: one more look.
    } catch (error) {
      if (ended || asked !== state || error.status === 401) return;
      setText(note, `The logs could not be read: ${error.message} Trying again…`);
      wait = Math.max(FOLLOW_MS * 2, error.retryAfterMs ?? 0);
    }
    timer = setTimeout(read, wait);
  }

  /** Hide the lines that do not hold what is looked for. */
  function sift() {
    for (const row of lines.children) row.hidden = !holds(row);
    if (sticking) lines.scrollTop = lines.scrollHeight;
    setText(note, noteText());
  }

  const holds = (row) => row.textContent.toLowerCase().includes(find.value.trim().toLowerCase());

  /** Save all lines, also those that are not shown here any more. */
  async function save() {
    download.disabled = true;
    const taskId = select.value || null;
    const parts = [];
    try {
      for (let after = 0, more = true; more;) {
        const page = await get(`${jobPath(jobId)}/logs${query({ after, limit: DOWNLOAD_PAGE_SIZE, task_id: taskId })}`);
        parts.push(...page.logs.map((line) => `${[line.at, line.level ?? line.stream, line.task_id ? names.get(line.task_id) ?? line.task_id : "job", line.message].join("\t")}\n`));
        after = page.next_after;
        more = page.logs.length === DOWNLOAD_PAGE_SIZE;
      }
      saveAs(`${[jobId, taskId && names.get(taskId)].filter(Boolean).join("-")}.log`, parts);
    } catch (error) {
      toast(`The logs could not be downloaded: ${error.message}`, "error");
    } finally {
      download.disabled = false;
    }
  }

  function noteText() {
    if (state.total === 0) return live ? "No lines yet." : "No lines were written.";
    if (find.value.trim() !== "") {
      const found = [...lines.children].filter((row) => !row.hidden).length;
      return `${number(found)} of the ${plural(lines.childElementCount, "line")} shown here ${found === 1 ? "holds" : "hold"} it.`;
    }
    const hidden = state.total - lines.childElementCount;
    return hidden > 0 ? `${number(state.total)} lines; the first ${number(hidden)} are not shown here, the API has them all.` : `${number(state.total)} ${state.total === 1 ? "line" : "lines"}`;
  }

  function append(logs) {
    if (logs.length === 0) return;
    lines.append(...logs.map((line) => logLine(line, names)));
    if (find.value.trim() !== "") for (const row of [...lines.children].slice(-logs.length)) row.hidden = !holds(row);
    while (lines.childElementCount > LINES_MAX) lines.firstElementChild.remove();
    if (sticking) lines.scrollTop = lines.scrollHeight;
    newest.hidden = sticking;
  }

  function scrolled() {
    sticking = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 24;
    if (sticking) newest.hidden = true;
  }

  function toNewest() {
    sticking = true;
    lines.scrollTop = lines.scrollHeight;
    newest.hidden = true;
  }

  function restart() {
    state = { after: 0, total: 0, taskId: select.value };
    lines.replaceChildren();
    sticking = true;
    lastLook = false;
    setText(note, "Reading…");
    read();
  }

  function listTasks(tasks) {
    const known = new Map(tasks.map((task) => [task.task_id, taskPipeline(task)]));
    for (const [taskId, name] of known) if (!names.has(taskId)) select.append(el("option", { value: taskId }, name));
    const first = names.size === 0 && known.size > 0;
    names = known;
    // Lines that came before their task was known get its name now.
    if (first) for (const cell of lines.querySelectorAll("[data-task-id]")) setText(cell, names.get(cell.dataset.taskId) ?? "");
  }

  return {
    element,
    show(job) {
      listTasks(job.tasks ?? []);
      live = isLive(job);
      if (started) return;
      started = true;
      read();
    },
    end() {
      ended = true;
      clearTimeout(timer);
    },
  };
}

function saveAs(name, parts) {
  const address = URL.createObjectURL(new Blob(parts, { type: "text/plain" }));
  const link = el("a", { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

function logLine({ at, level, stream, task_id: taskId, message }, names) {
  const word = (level ?? stream ?? "").toLowerCase();
  return el("div", { class: "log-line", "data-level": word },
    el("time", { datetime: at, title: absolute(at) }, timeOfDay(at)),
    el("span", { class: "log-level" }, word),
    el("span", { class: "log-task", "data-task-id": taskId ?? "" }, taskId ? names.get(taskId) ?? "" : "job"),
    el("span", { class: "log-message" }, message));
}
