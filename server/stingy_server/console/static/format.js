// Numbers and times as people read them.

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const ONE = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const UNITS = ["", "k", "M", "G", "T", "P", "E"];

/** Write a number with few digits: 20k, 1.25M. It is rounded down. */
export function short(value) {
  let unit = 0;
  let left = value;
  while (left >= 10_000 || (unit > 0 && left >= 1000)) {
    left /= 1000;
    unit += 1;
  }
  const digits = unit === 0 ? 0 : left >= 100 ? 0 : left >= 10 ? 1 : 2;
  const factor = 10 ** digits;
  return `${Math.floor(left * factor) / factor}${UNITS[unit]}`;
}

export const whole = (value) => WHOLE.format(value);

/** Write a number with one decimal below 100, and without from there on. */
export const decimal = (value) => (value < 100 ? ONE.format(value) : WHOLE.format(value));

export const percent = (share) => `${share > 0 && share < 0.01 ? "<1" : Math.round(100 * share)} %`;

/** Write how long ago a time was. */
export function ago(seconds) {
  for (const [unit, text] of [[86_400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= unit) return `${Math.floor(seconds / unit)} ${text} ago`;
  }
  return seconds < 2 ? "now" : `${Math.floor(seconds)} s ago`;
}

/** Write a time of the ledger as hours, minutes and seconds of this machine. */
export function clock(text) {
  const time = new Date(text);
  return Number.isNaN(time.getTime()) ? text : time.toTimeString().slice(0, 8);
}
