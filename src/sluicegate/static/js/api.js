// Speaks HTTP with the server: JSON in, JSON out, problems as `ApiError`.

import { learnServerTime } from "./format.js";

/** What the server refused, or that it did not answer at all (`status` 0). */
export class ApiError extends Error {
  constructor(status, problem = {}, retryAfterSeconds = 0) {
    super(readable(status, problem));
    this.status = status;
    this.code = problem.code ?? "";
    this.problem = problem;
    this.retryAfterMs = retryAfterSeconds * 1000;
  }
}

function readable(status, problem) {
  if (status === 0 && !problem.detail) return "The server does not answer.";
  const what = typeof problem.detail === "string" ? problem.detail : problem.title;
  const text = problem.mend && !what?.includes(problem.mend) ? `${what ?? ""}\n${problem.mend}` : what;
  return text || `The server answered ${status} without saying why.`;
}

let signInNeeded = () => {};

/** Say what to do when the server asks for a key. */
export function onSignInNeeded(handler) {
  signInNeeded = handler;
}

/**
 * Ask the server and return the parsed answer.
 *
 * `exact` keeps integers beyond 2^53 as the text that came, where the browser can. `signal` gives the request up.
 * Throws `ApiError`; a 401 also opens the sign-in form, unless the request is a sign-in.
 */
export async function request(method, path, { body, exact = false, signingIn = false, signal = null } = {}) {
  let response;
  let text;
  try {
    response = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
      signal,
    });
    text = await response.text();
  } catch {
    throw new ApiError(0);
  }
  learnServerTime(response.headers.get("Date"));
  if (response.ok) return text === "" ? null : parse(text, exact);
  if (response.status === 401 && !signingIn) signInNeeded();
  throw new ApiError(response.status, parseProblem(text), Number(response.headers.get("Retry-After")) || 0);
}

function parse(text, exact) {
  try {
    return JSON.parse(text, exact ? keepDigits : undefined);
  } catch {
    throw new ApiError(0, { detail: "The answer is not the server's: a proxy may stand between." });
  }
}

function keepDigits(_key, value, context) {
  return Number.isInteger(value) && !Number.isSafeInteger(value) && context?.source ? context.source : value;
}

function parseProblem(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {}; // A proxy's HTML page: the status alone is what we know.
  }
}

export const get = (path, options) => request("GET", path, options);
export const post = (path, body = {}, options = {}) => request("POST", path, { ...options, body });
export const remove = (path) => request("DELETE", path);

/** `query({ status: ["a", "b"], limit: 50, cursor: null })` → "?status=a&status=b&limit=50". */
export function query(parameters) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of [value].flat()) if (one !== null && one !== undefined && one !== "") search.append(name, one);
  }
  const text = search.toString();
  return text && `?${text}`;
}

export const jobPath = (jobId) => `api/jobs/${encodeURIComponent(jobId)}`;
