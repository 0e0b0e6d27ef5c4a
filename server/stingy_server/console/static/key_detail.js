// The detail of one key: the evidence of the watch, the classes of its answers, its entries.

import { bars, meter } from "./charts.js";
import { el, replace } from "./dom.js";
import { makeEntries } from "./entries.js";
import { percent, short, whole } from "./format.js";
import { bitsText } from "./key_row.js";

/** Make the row of a detail, with `clear()` and `update(detail, key, context)`. */
export function makeDetail(columns) {
  const evidence = el("div", { class: "part" });
  const classes = el("div", { class: "part" });
  const answered = el("div", { class: "part" });
  const list = el("div", { class: "entries", role: "region", tabindex: "0", "aria-label": "Entries of this key" });
  const entries = makeEntries(list, { withKey: false });
  const inner = el(
    "div",
    { class: "detail-inner" },
    el("div", { class: "parts" }, evidence, classes, answered),
    el("h3", { text: "Ledger, the latest 50" }),
    list,
  );
  const cell = el("td", { role: "cell", colspan: columns }, inner);
  const root = el("tr", { role: "row", class: "detail" }, cell);
  let drawn = "";

  function clear() {
    drawn = "";
    replace(evidence, el("p", { class: "quiet", text: "reading" }));
    replace(classes);
    replace(answered);
    entries.clear();
  }

  function update(detail, key, context) {
    entries.update(detail.entries, context);
    const { entries: _, ...rest } = detail;
    const content = JSON.stringify([rest, key?.score, key?.bits]);
    if (content === drawn) return;
    drawn = content;
    replace(evidence, el("h3", { text: "Evidence" }), ...evidenceLines(detail, key, context));
    replace(classes, el("h3", { text: "Classes answered" }), ...classLines(detail));
    replace(answered, el("h3", { text: "Answers and limits" }), ...answerLines(detail));
  }

  return { root, clear, update };
}

function evidenceLines(detail, key, { mostBits }) {
  if (!detail.watched) return [el("p", { class: "quiet", text: "The watch has compared none of its images." })];
  return [
    measure("near-duplicates", detail.near, percent(detail.near), `of ${short(detail.compared)} images compared lately`),
    measure(
      "normality",
      detail.normality,
      detail.normality === null ? "–" : detail.normality.toFixed(2),
      detail.normality === null ? "judged from 100 distances on" : "below 0.95 is evidence",
    ),
    measure("classes covered", detail.coverage, percent(detail.coverage), "entropy over its maximum"),
    measure("budget used today", detail.day_share, percent(detail.day_share), ""),
    el("p", { class: "fact" }, el("b", { text: bitsText(key?.bits ?? null, mostBits) }), " bits an image over all answers"),
  ];
}

function measure(title, share, value, note) {
  const bar = meter();
  bar.draw(share);
  return el(
    "p",
    { class: "measure" },
    el("span", { class: "what", text: title }),
    el("span", {}, bar.root),
    el("b", { text: value }),
    el("span", { class: "sub", text: note }),
  );
}

function classLines(detail) {
  if (detail.classes.length === 0) return [el("p", { class: "quiet", text: "No answers yet." })];
  return detail.classes.map(({ model, size, counts }) => {
    const used = counts.filter((count) => count > 0).length;
    const runs = counts.length < size ? `${counts.length} runs of ` : "";
    return el(
      "div",
      { class: "classes" },
      el("p", { class: "fact" }, el("b", { text: model }), ` ${runs}${size} classes`),
      bars(counts, `${model}: answers by class, ${used} of ${counts.length} bars above zero`),
    );
  });
}

function answerLines(detail) {
  const lines = detail.answered.map((each) =>
    el(
      "div",
      { class: "answered" },
      el("p", { class: "fact" }, el("b", { text: `${each.model} ${each.version}` }), ` ${whole(each.images)} images `, el("code", { text: each.fingerprint })),
      ...(each.leaks.length > 0
        ? each.leaks.map((leak) => el("p", { class: "sub", text: `${leak.attacker}: ${leak.text} (${leak.audit})` }))
        : [el("p", { class: "sub", text: "no audit of this version, policy and tier" })]),
    ),
  );
  if (lines.length === 0) lines.push(el("p", { class: "quiet", text: "No answers in the ledger." }));
  const facts = [
    detail.rate === null ? null : `rate ${detail.rate}`,
    detail.request_rate === null ? null : `requests ${detail.request_rate}`,
    detail.month_total === null ? null : `${short(detail.month_used)} of ${short(detail.month_total)} this month`,
    detail.models === null ? null : `models ${detail.models.join(", ")}`,
    `created ${detail.created.slice(0, 10)}`,
    detail.revoked === null ? null : `revoked ${detail.revoked.slice(0, 16).replace("T", " ")} UTC`,
  ].filter((fact) => fact !== null);
  return [...lines, el("p", { class: "sub", text: facts.join(" · ") })];
}
