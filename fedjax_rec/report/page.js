"use strict";
// Tables sort by a click on a title, and show the rows that have all words of the filter.
const valueOf = (cell) => {
  const text = cell.textContent.trim();
  const found = text.replace(/,(?=\d{3})/g, "").match(/^[-+]?\d+(\.\d+)?(e[-+]?\d+)?/i);
  return { text, number: found ? Number(found[0]) : NaN, none: text === "" || text === "n/a" };
};
const compare = (a, b) =>
  Number.isNaN(a.number) || Number.isNaN(b.number)
    ? a.text.localeCompare(b.text, undefined, { numeric: true })
    : a.number - b.number;

for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const titles = [...table.tHead.rows[0].cells];
  titles.forEach((title, place) => {
    title.querySelector("button")?.addEventListener("click", () => {
      // Numbers are asked for from the largest, names from the first.
      const rows = [...body.rows].map((row) => [valueOf(row.cells[place]), row]);
      const numbers = rows.some(([value]) => !Number.isNaN(value.number));
      const before = title.getAttribute("aria-sort");
      const first = numbers ? "descending" : "ascending";
      const other = numbers ? "ascending" : "descending";
      const order = before === first ? other : first;
      titles.forEach((each) => each.removeAttribute("aria-sort"));
      title.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      rows.sort(([a], [b]) => a.none - b.none || sign * compare(a, b));
      body.append(...rows.map(([, row]) => row));
    });
  });
  const filter = table.closest("section").querySelector(`input[data-for="${table.id}"]`);
  filter?.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}

// A link to a row's settings opens them.
const open = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
};
addEventListener("hashchange", open);
open();

for (const button of document.querySelectorAll(".command button")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "copied";
    } catch {
      // Where a browser keeps the clipboard from a file, the words are marked to be copied by hand.
      getSelection().selectAllChildren(code);
      button.textContent = "marked";
    }
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
}
