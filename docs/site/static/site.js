"use strict";
// The theme leaves these without a level and without names.
for (const caption of document.querySelectorAll("[role=heading]:not([aria-level])")) {
  caption.ariaLevel = 2;
}
document.querySelector(".sidebar-drawer")?.setAttribute("aria-label", "Pages");
document.querySelector(".toc-drawer")?.setAttribute("aria-label", "On this page");
// What scrolls can be scrolled from the keyboard, too.
for (const box of document.querySelectorAll(".table-wrapper, .highlight pre, .sidebar-scroll, .toc-scroll")) {
  box.tabIndex = 0;
}

// Filters the rows of the policy explorer. The page is complete without it.
for (const explorer of document.querySelectorAll(".explorer")) {
  const form = explorer.querySelector("form");
  const rows = [...explorer.querySelectorAll("tbody tr")];
  const answer = explorer.querySelector(".explorer-answer");
  const anyEce = Number(form.ece.max);

  const show = () => {
    const first5 = Number(form.first5.value);
    const ece = Number(form.ece.value);
    form.first5.nextElementSibling.value = first5;
    form.ece.nextElementSibling.value = ece === anyEce ? "any" : `${ece} points`;
    const fitting = rows.filter((row) => {
      const exact = ece === anyEce || (row.dataset.ece !== "" && Number(row.dataset.ece) <= ece);
      const safe = !form.safe.checked || row.matches(".less, .floor");
      row.hidden = !(Number(row.dataset.first5) >= first5 && exact && safe);
      return !row.hidden;
    });
    const safe = fitting.filter((row) => row.matches(".less, .floor"));
    const names = safe.map((row) => row.querySelector("code").textContent);
    answer.textContent = `${fitting.length} of ${rows.length} policies fit. ` + (names.length
      ? `The attacks tried got less than a point beyond labels from: ${names.join(", ")}.`
      : "None of them is shown to teach less than a point more than labels.");
  };

  form.hidden = false;
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
}
