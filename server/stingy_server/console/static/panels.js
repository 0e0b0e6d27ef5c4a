// The panels around the table of keys: traffic, alarms, models, the state of the server.

import { meter, sparkline } from "./charts.js";
import { el, name, replace, setAttribute, setText } from "./dom.js";
import { ago, decimal } from "./format.js";
import { actionButton } from "./key_row.js";

const TILES = [
  { id: "images", title: "Images a second", text: (value) => decimal(value), note: "answered" },
  { id: "refused", title: "Refused", text: (value) => `${decimal(value)} %`, note: "of the requests", most: 100 },
  { id: "p99", title: "99 of 100 answered within", text: (value) => `${decimal(value)} ms`, note: "at the server" },
  { id: "bits", title: "Bits an image", text: (value) => decimal(value), note: "let out" },
];

/** Make the tiles of the traffic, with `update(traffic, mostBits)`. */
export function makeTiles(root) {
  const tiles = TILES.map((tile) => {
    const value = el("strong", { text: "–" });
    const note = el("span", { class: "sub", text: tile.note });
    const chart = sparkline();
    const scale = tile.id === "bits" ? meter("thin") : null;
    root.append(
      el("div", { class: "tile", "data-tile": tile.id }, el("h3", { text: tile.title }), el("p", {}, value, " ", note), scale?.root, chart.root),
    );
    return { tile, value, note, chart, scale };
  });
  return (traffic, mostBits) => {
    for (const { tile, value, note, chart, scale } of tiles) {
      const series = traffic[tile.id];
      setText(value, series.value === null ? "–" : tile.text(series.value));
      if (scale !== null) {
        setText(note, series.value === null ? tile.note : `of ${mostBits} let out`);
        scale.draw(series.value === null ? null : series.value / mostBits);
      }
      chart.draw(series.seconds, tile.id === "bits" ? mostBits : tile.most ?? null);
    }
  };
}

const EFFECTS = {
  none: "is above the score of an alarm",
  alarm: "is in alarm; its answers are unchanged",
  labels: "gets labels alone",
  refuse: "is suspended",
};

/** Make the list of alarms, with `update(keys, context)`. */
export function makeAlarms(section, root, act) {
  let drawn = null;
  return (keys, { now, writes }) => {
    const alarms = keys.filter((key) => key.alarm && key.state === "valid").sort((a, b) => b.score - a.score);
    const content = JSON.stringify(alarms.map((key) => [key.id, key.action, key.score, minutesAgo(key, now), writes]));
    if (content === drawn) return alarms.length;
    drawn = content;
    section.hidden = alarms.length === 0;
    const shown = alarms.slice(0, 12);
    const lines = shown.map((key) =>
      el(
        "li",
        { class: "alarm-card", "data-key": key.id },
        el("p", {}, name(key.name), ` ${EFFECTS[key.action]}`),
        el("p", { class: "sub", text: `score ${key.score.toFixed(2)}${key.alarm_since === null ? "" : ` · since ${ago(now - key.alarm_since)}`} · ${key.id}` }),
        writes
          ? el("p", { class: "actions" }, key.action === "none" ? null : actionButton("release", key, act), actionButton("revoke", key, act))
          : null,
      ),
    );
    if (alarms.length > shown.length) lines.push(el("li", { class: "quiet", text: `and ${alarms.length - shown.length} more below` }));
    replace(root, ...lines);
    return alarms.length;
  };
}

const minutesAgo = (key, now) => (key.alarm_since === null ? null : ago(now - key.alarm_since));

/** Make the list of models, with `update(models)`. */
export function makeModels(root, none) {
  let drawn = null;
  return (models) => {
    const content = JSON.stringify(models);
    if (content === drawn) return;
    drawn = content;
    none.hidden = models.length > 0;
    replace(root, ...models.map(modelLine));
  };
}

function modelLine(model) {
  const served = model.processes > 0;
  return el(
    "li",
    { class: "model" },
    el(
      "p",
      { class: "title" },
      el("b", { text: `${model.name} ${model.version}` }),
      " ",
      el("span", { class: "quiet", text: model.policies.join("; ") }),
      model.fingerprint === null ? null : el("code", { text: model.fingerprint }),
    ),
    el(
      "p",
      { class: "sub" },
      served
        ? `${model.processes} process${model.processes === 1 ? "" : "es"} · ${model.shares.map(shareText).join(" or ")} · ${decimal(model.images)} images a second`
        : "not served",
    ),
    ...model.faults.map((fault) => el("p", { class: "warning bad", text: `⚠ ${fault}` })),
    ...model.warnings.map((warning) => el("p", { class: "warning", text: `⚠ ${warning}` })),
  );
}

const shareText = (share) => (share === "the rest" ? "all other keys" : `${share} of the keys`);

/** Show the state of the server in the bar. */
export function showServer(server, ids) {
  const { ready, processes, models } = server;
  const text = ready
    ? `ready · ${models} model${models === 1 ? "" : "s"} · ${processes} process${processes === 1 ? "" : "es"}`
    : processes > 0
      ? "no model is served"
      : "no server runs on this state";
  setText(ids.text, text);
  setAttribute(ids.dot, "data-level", ready ? "good" : "bad");
}
