// Entries of the ledger, as lists that change only where an entry is new.

import { el, name, replace } from "./dom.js";
import { clock, whole } from "./format.js";

const EMPTY = "No entries.";

/** Make a list inside an element, with `update(entries, { names })` and `clear()`. */
export function makeEntries(root, { withKey = true } = {}) {
  const lines = new Map();
  let drawn = null;

  function update(entries, { names = new Map() }) {
    const order = entries.map((entry) => entry.seq).join();
    if (order === drawn) return;
    drawn = order;
    const wanted = entries.map((entry) => lines.get(entry.seq) ?? line(entry, withKey, names));
    lines.clear();
    entries.forEach((entry, index) => lines.set(entry.seq, wanted[index]));
    if (wanted.length > 0) replace(root, el("ul", {}, ...wanted));
    else replace(root, el("p", { class: "quiet", text: EMPTY }));
  }

  function clear() {
    drawn = null;
    lines.clear();
    replace(root);
  }

  return { update, clear };
}

function line(entry, withKey, names) {
  const who = names.get(entry.key);
  return el(
    "li",
    { class: "entry", "data-kind": entry.kind, "data-event": entry.event },
    el("time", { datetime: entry.time, title: entry.time, text: clock(entry.time) }),
    el("span", { class: "event", text: entry.event }),
    withKey ? el("span", { class: "who" }, who === undefined ? el("span", { class: "quiet", text: entry.key }) : name(who)) : null,
    el("span", { class: "what" }, ...what(entry)),
  );
}

/** Write what an entry says beside its event. */
function what(entry) {
  if (entry.kind === "events") return eventText(entry);
  const model = entry.model === "-" ? "" : `${entry.model} ${entry.version} · `;
  const count = entry.requests > 1 ? `${whole(entry.requests)} requests, ` : "";
  const images = `${whole(entry.kind === "answers" ? entry.answered : entry.images)} image${entry.images === 1 ? "" : "s"}`;
  if (entry.kind === "refusals") return [`${model}${count}${images}${entry.status ? ` · ${entry.status}` : ""}`];
  const bits = entry.answered > 0 ? ` · ${(entry.bits / entry.answered).toFixed(1)} bits an image` : "";
  return [`${model}${count}${images}${bits} · ${(entry.latency_us / 1000).toFixed(1)} ms`];
}

function eventText({ model, version, detail }) {
  const parts = [];
  if (model !== "-") parts.push(version === "-" ? model : `${model} ${version}`);
  for (const [field, value] of Object.entries(detail ?? {})) parts.push(...facts(field, value));
  return parts.length > 0 ? [name(parts.join(" · "))] : [];
}

/** Write a field of an event's detail; a change has the text before and after it. */
function facts(field, value) {
  if (field !== "changes" || value === null || typeof value !== "object") {
    return [`${field} ${typeof value === "object" ? JSON.stringify(value) : value}`];
  }
  return Object.entries(value).map(([what, pair]) => `${what} ${Array.isArray(pair) ? pair.join(" → ") : pair}`);
}
