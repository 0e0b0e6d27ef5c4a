// The table of keys: filtered and sorted here, because 500 keys are one small document.

import { el, setAttribute, setText } from "./dom.js";
import { makeDetail } from "./key_detail.js";
import { COLUMNS, makeRow } from "./key_row.js";

const byId = (id) => document.getElementById(id);

export class KeysTable {
  /** Args: `act(action, key)` is called when a button is clicked, `changed()` when a detail opens. */
  constructor({ act, changed }) {
    this.rows = new Map();
    this.keys = [];
    this.context = null;
    this.tiers = null;
    this.open = null; // the id of the key whose detail is open
    this.sort = null; // { id, ascending }; null is what needs attention first
    this.act = act;
    this.changed = changed;
    this.table = document.querySelector("table.keys");
    this.body = byId("rows");
    this.detail = makeDetail(COLUMNS.length + 1);
    this.makeHeads();
    for (const id of ["filter", "tier", "state"]) {
      byId(id).addEventListener("input", () => this.arrange(true));
    }
  }

  makeHeads() {
    const heads = COLUMNS.map((column) =>
      el(
        "th",
        { role: "columnheader", scope: "col", class: `c-${column.id}${column.number ? " n" : ""}`, "data-column": column.id },
        el("button", { type: "button", class: "sorter", text: column.title, on: { click: () => this.sortBy(column) } }),
      ),
    );
    const last = el("th", { role: "columnheader", scope: "col", class: "do", text: "Change" });
    byId("heads").replaceChildren(...heads, last);
    const choice = byId("sort");
    choice.replaceChildren(
      el("option", { value: "", text: "what needs attention" }),
      ...COLUMNS.map((column) => el("option", { value: column.id, text: column.title.toLowerCase() })),
    );
    choice.addEventListener("input", () => {
      const column = COLUMNS.find((each) => each.id === choice.value);
      this.sort = column ? { id: column.id, ascending: Boolean(column.ascending) } : null;
      this.arrange(true);
    });
  }

  /** Sort by a column: first its usual direction, then the other, then what needs attention. */
  sortBy(column) {
    const usual = Boolean(column.ascending);
    if (this.sort?.id !== column.id) this.sort = { id: column.id, ascending: usual };
    else if (this.sort.ascending === usual) this.sort = { id: column.id, ascending: !usual };
    else this.sort = null;
    byId("sort").value = this.sort?.id ?? "";
    this.arrange(true);
  }

  /** Show the state of a filter, such as "alarm". */
  filterState(state) {
    byId("state").value = state;
    this.arrange(true);
    this.table.scrollIntoView({ block: "start" });
  }

  update(keys, context) {
    this.keys = keys;
    this.context = context;
    this.table.classList.toggle("reads", !context.writes);
    this.updateTiers();
    const present = new Set();
    for (const key of keys) {
      present.add(key.id);
      let row = this.rows.get(key.id);
      if (row === undefined) {
        row = makeRow(key, { open: (id) => this.toggle(id), act: this.act });
        this.rows.set(key.id, row);
      }
      row.update(key, context);
    }
    for (const [id, row] of this.rows) {
      if (present.has(id)) continue;
      row.root.remove();
      this.rows.delete(id);
      if (this.open === id) this.toggle(id);
    }
    // Rows keep their places under a pointer or a focus, so that nobody clicks on another key.
    this.arrange(!this.table.matches(":hover, :focus-within") || this.body.childElementCount === 0);
  }

  updateTiers() {
    const tiers = [...new Set(this.keys.map((key) => key.tier))].sort();
    const choice = byId("tier");
    if (this.tiers === tiers.join("\n")) return;
    this.tiers = tiers.join("\n");
    const chosen = choice.value;
    choice.replaceChildren(el("option", { value: "", text: "all" }), ...tiers.map((tier) => el("option", { value: tier, text: tier })));
    choice.value = tiers.includes(chosen) ? chosen : "";
  }

  /** Put the rows that pass the filter into the table, in their order. */
  arrange(reorder) {
    const text = byId("filter").value.trim().toLowerCase();
    const tier = byId("tier").value;
    const state = byId("state").value;
    const shown = this.keys.filter(
      (key) =>
        (text === "" || key.name.toLowerCase().includes(text) || key.id.includes(text)) &&
        (tier === "" || key.tier === tier) &&
        (state === "" || (state === "alarm" ? key.alarm && key.state === "valid" : key.state === state)),
    );
    const order = reorder ? this.sorted(shown) : this.inPlace(shown);
    const wanted = [];
    for (const key of order) {
      wanted.push(this.rows.get(key.id).root);
      if (key.id === this.open) wanted.push(this.detail.root);
    }
    const present = this.body.children;
    if (wanted.length !== present.length || wanted.some((row, index) => row !== present[index])) {
      const focused = document.activeElement;
      this.body.replaceChildren(...wanted);
      if (focused?.isConnected) focused.focus({ preventScroll: true });
    }
    this.showCounts(shown.length);
  }

  inPlace(shown) {
    const places = new Map([...this.body.querySelectorAll("tr[data-key]")].map((row, index) => [row.dataset.key, index]));
    const place = (key) => places.get(key.id) ?? Infinity;
    return [...shown].sort((a, b) => (place(a) === place(b) ? 0 : place(a) - place(b)));
  }

  sorted(shown) {
    if (this.sort === null) {
      const rank = (key) => (key.state !== "valid" ? 2 : key.alarm ? 0 : 1);
      return [...shown].sort(
        (a, b) => rank(a) - rank(b) || (b.score ?? -1) - (a.score ?? -1) || (b.last ?? 0) - (a.last ?? 0) || (a.name < b.name ? -1 : 1),
      );
    }
    const { sort } = COLUMNS.find((column) => column.id === this.sort.id);
    const sign = this.sort.ascending ? 1 : -1;
    return [...shown].sort((a, b) => {
      const [left, right] = [sort(a), sort(b)];
      if (left === null || right === null) return (left === null) - (right === null);
      return left < right ? -sign : left > right ? sign : 0;
    });
  }

  showCounts(shown) {
    const all = this.keys.length;
    setText(byId("keys-count"), shown === all ? `${all}` : `${shown} of ${all}`);
    const empty = byId("no-keys");
    empty.hidden = shown > 0;
    setText(empty, all === 0 ? "No keys yet. Make one with: stingy keys create NAME" : "No key passes the filter.");
    this.table.hidden = shown === 0;
    byId("leak-note").hidden = !this.keys.some((key) => key.leak !== null);
    for (const head of byId("heads").children) {
      const sorted = head.dataset.column !== undefined && head.dataset.column === this.sort?.id;
      setAttribute(head, "aria-sort", sorted ? (this.sort.ascending ? "ascending" : "descending") : null);
    }
  }

  /** Open the detail of a key, or close it. */
  toggle(id) {
    const before = this.rows.get(this.open);
    if (before) setAttribute(before.opener, "aria-expanded", "false");
    this.open = this.open === id ? null : id;
    this.detail.clear();
    const row = this.rows.get(this.open);
    if (row) setAttribute(row.opener, "aria-expanded", "true");
    else this.open = null;
    this.arrange(false);
    this.changed();
  }

  updateDetail(detail) {
    if (detail !== null && detail.id === this.open) {
      this.detail.update(detail, this.keys.find((key) => key.id === this.open), this.context);
    }
  }
}
