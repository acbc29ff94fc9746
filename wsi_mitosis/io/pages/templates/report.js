"use strict";
(() => {
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  const text = document.getElementById("filter-text");
  const status = document.getElementById("filter-status");
  const order = new Intl.Collator("en", { numeric: true });

  const value = (row, index) => row.cells[index]?.dataset.value ?? "";

  const sort = (header) => {
    const index = headers.indexOf(header);
    const down = header.getAttribute("aria-sort") === "ascending";
    const compare = header.dataset.kind === "number" ? (a, b) => a - b : order.compare;
    const rows = [...body.rows].sort((a, b) => {
      const [left, right] = [value(a, index), value(b, index)];
      if (left === "" || right === "") return (left === "") - (right === "");
      return (down ? -1 : 1) * compare(left, right);
    });
    for (const other of headers) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
  };

  const filter = () => {
    const wanted = text.value.trim().toLowerCase();
    let shown = 0;
    for (const row of body.rows) {
      const fits = value(row, 0).toLowerCase().includes(wanted);
      row.hidden = !fits || (status.value !== "" && row.dataset.status !== status.value);
      shown += !row.hidden;
      if (row.dataset.section) document.getElementById(row.dataset.section).hidden = row.hidden;
    }
    document.getElementById("shown").value = `${shown} of ${body.rows.length} shown`;
  };

  const reveal = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (!target) return;
    const folded = target.closest("details");
    if (folded) folded.open = true; // not every browser unfolds by itself
    target.scrollIntoView();
    target.focus({ preventScroll: true });
  };

  for (const header of headers) {
    header.firstElementChild.addEventListener("click", () => sort(header));
  }
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (event.target.closest("a") || !row.dataset.section || String(getSelection())) return;
    location.hash = row.dataset.section;
  });
  text.addEventListener("input", filter);
  status.addEventListener("change", filter);
  text.form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", reveal);

  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const details of folded) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of folded) details.open = false;
  });

  text.form.hidden = false;
  filter();
  reveal();
})();
