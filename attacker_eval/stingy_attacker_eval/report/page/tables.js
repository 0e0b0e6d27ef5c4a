"use strict";
for (const table of document.querySelectorAll("table[data-sorts]")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => {
    if (head.dataset.kind === "figure") return;
    const isNumber = head.dataset.kind === "number";
    const key = row => {
      const cell = row.cells[place];
      return isNumber ? cell.dataset.value : cell.textContent.trim();
    };
    const compare = (a, b) => isNumber ? a - b : a.localeCompare(b, "en", { numeric: true });
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent.trim();
    // On paper a head stands on each sheet, and Chromium repeats texts there but no buttons.
    const printed = document.createElement("span");
    printed.className = "printed";
    printed.textContent = button.textContent;
    head.replaceChildren(button, printed);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const isDown = before === null ? isNumber : before === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
      const rows = [...body.rows].map(row => [key(row), row]);
      const full = rows.filter(([value]) => value);
      const empty = rows.filter(([value]) => !value);
      full.sort(([a], [b]) => isDown ? compare(b, a) : compare(a, b));
      body.append(...full.concat(empty).map(([, row]) => row));
    });
  });
}
for (const tools of document.querySelectorAll("[data-filters]")) {
  const body = document.getElementById(tools.dataset.filters).tBodies[0];
  const rows = [...body.rows].map(row => [row.textContent.toLowerCase(), row]);
  const label = document.createElement("label");
  const input = document.createElement("input");
  const count = document.createElement("output");
  input.type = "search";
  label.append("filter ", input);
  tools.append(label, count);
  const apply = () => {
    const words = input.value.toLowerCase().split(" ").filter(word => word);
    let shown = 0;
    for (const [text, row] of rows) {
      row.hidden = !words.every(word => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
  };
  input.addEventListener("input", apply);
  apply();
}
for (const place of document.querySelectorAll("[data-prints]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "print or PDF";
  button.addEventListener("click", () => window.print());
  place.append(button);
}
