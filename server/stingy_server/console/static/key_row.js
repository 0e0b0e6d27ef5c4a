// One row of the table of keys: made once, and changed where a number has changed.

import { meter, sparkline } from "./charts.js";
import { el, name, setAttribute, setText } from "./dom.js";
import { ago, decimal, short, whole } from "./format.js";

/** The columns. `sort` gives the value by which rows are ordered, null last. */
export const COLUMNS = [
  { id: "name", title: "Name", sort: (key) => key.name.toLowerCase(), ascending: true },
  { id: "tier", title: "Tier", sort: (key) => key.tier, ascending: true },
  { id: "used", title: "Budget used", sort: (key) => (key.total ? key.used / key.total : null) },
  { id: "today", title: "Today", number: true, sort: (key) => key.day_used },
  { id: "bits", title: "Bits an image", sort: (key) => key.bits },
  { id: "leak", title: "Estimated leak", sort: (key) => (key.leak ? key.leak.order : null) },
  { id: "score", title: "Score", sort: (key) => key.score },
  { id: "last", title: "Last request", number: true, sort: (key) => key.last },
  { id: "activity", title: "Half an hour", sort: (key) => (key.minutes ? sum(key.minutes) : null) },
];

const STEPS = {
  none: ["", ""],
  alarm: ["alarm", "The alarm is recorded; answers are unchanged."],
  labels: ["labels only", "Its answers have labels alone."],
  refuse: ["suspended", "Its queries are refused."],
};

/** Make a row, with `update(key, context)`. Context: now, mostBits, writes. */
export function makeRow(key, { open, act }) {
  const opener = el("button", {
    type: "button", class: "opener", "aria-expanded": "false", on: { click: () => open(key.id) },
  }, name(key.name));
  const chip = el("span", { class: "chip" });
  const budget = meter();
  const bits = meter();
  const score = meter("score");
  const activity = sparkline("spark small");
  const text = Object.fromEntries(
    ["tier", "used", "today", "bits", "leak", "more", "score", "last"].map((id) => [id, el("span")]),
  );
  text.leak.className = "leak";
  text.more.className = "sub";
  const actions = el("td", { role: "cell", class: "do" });
  const root = el(
    "tr",
    { role: "row", "data-key": key.id },
    cell("name", el("div", { class: "who" }, opener, chip), el("span", { class: "sub id", text: key.id })),
    cell("tier", text.tier),
    cell("used", budget.root, text.used),
    cell("today", text.today),
    cell("bits", bits.root, text.bits),
    cell("leak", text.leak, text.more),
    cell("score", score.root, text.score),
    cell("last", text.last),
    cell("activity", activity.root),
    actions,
  );
  let shownActions = "";

  function update(latest, { now, mostBits, writes }) {
    const valid = latest.state === "valid";
    setText(text.tier, latest.tier);
    setText(text.used, `${short(latest.used)} of ${latest.total === null ? "no limit" : short(latest.total)}`);
    setAttribute(text.used, "title", `${whole(latest.used)} images`);
    budget.draw(latest.total ? latest.used / latest.total : null, budgetLevel(latest));
    setText(text.today, `${short(latest.day_used)}${latest.day_total === null ? "" : ` of ${short(latest.day_total)}`}`);
    bits.draw(latest.bits === null ? null : latest.bits / mostBits);
    setText(text.bits, bitsText(latest.bits, mostBits));
    showLeak(latest);
    score.draw(latest.score, latest.alarm ? "bad" : "");
    setText(text.score, latest.score === null ? "–" : latest.score.toFixed(2));
    setText(text.last, latest.last === null ? "–" : ago(now - latest.last));
    activity.draw(latest.minutes);
    const [step, meaning] = STEPS[latest.action];
    const label = valid ? step || (latest.alarm ? "alarm" : "") : latest.state;
    setText(chip, label);
    setAttribute(chip, "title", valid ? meaning : "It opens nothing.");
    chip.dataset.level = valid ? "bad" : "quiet";
    root.classList.toggle("alarm", latest.alarm && valid);
    root.classList.toggle("ended", !valid);
    showActions(latest, writes && valid);
  }

  function showLeak({ leak, images }) {
    if (leak === null) {
      setText(text.leak, images ? "no audit" : "–");
      text.leak.classList.add("quiet");
      setText(text.more, "");
      return;
    }
    text.leak.classList.remove("quiet");
    setText(text.leak, leak.text);
    setAttribute(text.leak, "title", `By ${leak.attacker} of ${leak.audit}`);
    setText(text.more, leak.unaudited ? `and ${leak.unaudited} without audit` : "");
  }

  function showActions(latest, allowed) {
    const wanted = allowed ? `${latest.action !== "none"}` : "";
    if (wanted === shownActions) return;
    shownActions = wanted;
    actions.replaceChildren();
    if (!allowed) return;
    if (latest.action !== "none") actions.append(actionButton("release", latest, act));
    actions.append(actionButton("revoke", latest, act));
  }

  return { root, opener, update };
}

/** Make a button that asks before it releases or revokes a key. */
export function actionButton(action, key, act) {
  return el("button", {
    type: "button",
    class: action === "revoke" ? "act danger" : "act",
    text: action,
    "aria-label": `${action} ${key.name}`,
    on: { click: () => act(action, key) },
  });
}

export function bitsText(bits, mostBits) {
  if (bits === null) return "–";
  return bits >= mostBits - 0.05 ? `${decimal(bits)} everything` : `${decimal(bits)} of ${mostBits}`;
}

/** Return "bad" for a budget that is used up, "warn" from 80 % on. */
function budgetLevel({ used, total }) {
  if (!total) return "";
  return used >= total ? "bad" : used >= 0.8 * total ? "warn" : "";
}

function cell(id, ...children) {
  const column = COLUMNS.find((each) => each.id === id);
  const inner = el("div", { class: "inner" }, ...children);
  return el("td", { role: "cell", class: `c-${id}${column.number ? " n" : ""}`, "data-title": column.title }, inner);
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
