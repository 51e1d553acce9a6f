// Two comforts for a page that is complete without them: tables sort by a click on a column's head, and a button
// changes between light and dark.
"use strict";
(() => {
  const MISSING = new Set(["", "–"]);
  const NUMBER = /^[-+−]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?/i;
  const letters = new Intl.Collator("en", { numeric: true });

  // The number with which a cell begins, as in "5.98 ± 0.01" or "0.89 [0.71, 0.97]"; NaN where it begins with none.
  const number = (text) => {
    const found = NUMBER.exec(text);
    return found ? parseFloat(found[0].replace("−", "-")) : NaN;
  };

  const sort = (table, column, ascending) => {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, text: row.cells[column].textContent.trim() }));
    const present = rows.filter(({ text }) => !MISSING.has(text));
    const numeric = present.every(({ text }) => !isNaN(number(text)));
    present.sort((a, b) => {
      const order = numeric ? number(a.text) - number(b.text) : letters.compare(a.text, b.text);
      return ascending ? order : -order;
    });
    const missing = rows.filter(({ text }) => MISSING.has(text)); // last in both directions
    body.append(...[...present, ...missing].map(({ row }) => row));
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const ascending = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        sort(table, column, ascending);
      });
    });
  }

  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => { button.textContent = dark() ? "Light" : "Dark"; };
  try { root.dataset.theme = localStorage.getItem("theme") ?? ""; } catch { /* storage may be forbidden */ }
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* as above */ }
    label();
  });
  system.addEventListener("change", label);
  label();
  button.hidden = false;

  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll(".claims details")) details.open = true;
  });
})();
