// Numbers, durations and instants as people read them. Pure, but for the clock's offset.

let offsetMs = 0;

/** Learn the server's clock from a response's Date header; small differences are its one-second grain. */
export function learnServerTime(dateHeader) {
  const difference = Date.parse(dateHeader ?? "") - Date.now();
  if (Number.isFinite(difference)) offsetMs = Math.abs(difference) > 2500 ? difference : 0;
}

/** The server's present, in milliseconds: ages and elapsed times stay right when this machine's clock is wrong. */
export const nowMs = () => Date.now() + offsetMs;

const whole = new Intl.NumberFormat();
export const number = (value) => (value === null || value === undefined ? "–" : whole.format(value));

/** `plural(2, "task")` → "2 tasks". */
export const plural = (count, word, words = `${word}s`) => `${number(count)} ${count === 1 ? word : words}`;

/** A duration in two units at most: "40 ms", "1.4 s", "12 s", "3 min 05 s", "2 h 10 min", "4 d 3 h". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(Math.max(0, seconds) * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const rounded = Math.round(seconds);
  if (rounded < 60) return `${rounded} s`;
  const pair = (large, largeUnit, small, smallUnit) => `${large} ${largeUnit} ${String(small).padStart(2, "0")} ${smallUnit}`;
  if (rounded < 3600) return pair(Math.floor(rounded / 60), "min", rounded % 60, "s");
  if (rounded < 86400) return pair(Math.floor(rounded / 3600), "h", Math.floor((rounded % 3600) / 60), "min");
  return `${Math.floor(rounded / 86400)} d ${Math.floor((rounded % 86400) / 3600)} h`;
}

/** Whole seconds since an instant, for a clock that ticks. */
export const elapsed = (iso) => {
  const seconds = Math.max(0, Math.floor((nowMs() - Date.parse(iso)) / 1000));
  return seconds < 10 ? `${seconds} s` : duration(seconds);
};

/** The same in the least room, for a button: "51 s", "1:05", "2:10:00". */
export function elapsedCompact(iso) {
  const seconds = Math.max(0, Math.floor((nowMs() - Date.parse(iso)) / 1000));
  if (seconds < 60) return `${seconds} s`;
  const two = (value) => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor((seconds % 3600) / 60)];
  return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}

const sameYear = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
const otherYear = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

/** "just now", "3 min ago", then the date in the reader's zone. */
export function relative(iso) {
  const then = Date.parse(iso);
  const seconds = (nowMs() - then) / 1000;
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return seconds < 300 * 86400 ? sameYear.format(then) : otherYear.format(then);
}

export const absolute = (iso) => full.format(Date.parse(iso));
export const instant = (iso) => exact.format(Date.parse(iso));
export const timeOfDay = (iso) => clock.format(Date.parse(iso));

/** The version of the code, in short: a whole commit's 40 digits say no more than their first ten. */
export const shortVersion = (version) => version.replace(/^([0-9a-f]{10})[0-9a-f]{30}(?=[+-]|$)/, "$1");

/** The id of the pipeline that a task executes, from any answer that holds tasks. */
export const taskPipeline = (task) => task.pipeline ?? `${task.layer}.${task.pipeline_name}`;
