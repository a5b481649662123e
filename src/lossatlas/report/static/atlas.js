// Sorting of tables, and search and filters of the index. No library, no request.
"use strict";

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

function valueOf(row, column, kind) {
  const cell = row.cells[column];
  const text = "value" in cell.dataset ? cell.dataset.value : cell.textContent.trim();
  if (kind !== "number") return text;
  return text === "" || Number.isNaN(Number(text)) ? null : Number(text);
}

function compare(a, b, kind) {
  if (kind !== "number") return collator.compare(a, b);
  return a - b;
}

function sortBy(table, header) {
  const column = header.cellIndex, kind = header.dataset.kind;
  const down = header.getAttribute("aria-sort") === "ascending" || (kind === "number" && !header.hasAttribute("aria-sort"));
  for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row, place) => ({ row, place, value: valueOf(row, column, kind) }));
  rows.sort((a, b) => {
    if (a.value === null || b.value === null) return (a.value === null) - (b.value === null); // nothing stands last
    return (down ? -1 : 1) * compare(a.value, b.value, kind) || a.place - b.place;
  });
  body.append(...rows.map((entry) => entry.row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const button of table.querySelectorAll("button.sort")) {
    button.addEventListener("click", () => sortBy(table, button.closest("th")));
  }
}

const form = document.querySelector("form.filters");
if (form) {
  const search = document.getElementById("search");
  const family = document.getElementById("family");
  const verdict = document.getElementById("verdict");
  const rows = Array.from(document.querySelectorAll("table.papers tbody tr"));
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const fits = words.every((word) => row.dataset.search.includes(word))
        && (!family.value || row.dataset.family === family.value)
        && (!verdict.value || row.dataset.verdicts.split(" ").includes(verdict.value));
      row.hidden = !fits;
      count += fits;
    }
    document.getElementById("shown").textContent = `${count} of ${rows.length} papers`;
    document.getElementById("none").hidden = count > 0;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  filter(); // a browser may bring back what was typed before a reload
}
