// The job headers this page has seen, newest knowledge only, and who wants to hear of changes.

import { isActive } from "./status.js";

const KNOWN_MAX = 3000;
const known = new Map();
const listeners = new Set();

export const knownJob = (jobId) => known.get(jobId);

/**
 * True when `job` was read before what is known already.
 *
 * Answers may overtake each other; terminal statuses never change, a stop never un-ends, and what was resumed or
 * rolled back stays so: a picture without it is old.
 */
export function isOutdated(job) {
  const seen = known.get(job.job_id);
  if (!seen || isActive(seen.status)) return false;
  if (isActive(job.status) || (!seen.stopping && Boolean(job.stopping))) return true;
  return Boolean((seen.resumed_by && !job.resumed_by) || (seen.rollback && !job.rollback) || (seen.rollback?.finished_at && !job.rollback?.finished_at));
}

/** Take in a job as the server told it and tell the listeners `(job, previous)`; outdated pictures are dropped. */
export function publish(job) {
  if (isOutdated(job)) return;
  const { plan: _plan, tasks: _tasks, ...header } = job;
  const previous = known.get(job.job_id);
  known.delete(job.job_id);
  known.set(job.job_id, header);
  if (known.size > KNOWN_MAX) known.delete(known.keys().next().value);
  for (const listener of listeners) listener(header, previous);
}

/** Call `listener(job, previous)` at every change; returns the function that ends it. */
export function onJob(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}
