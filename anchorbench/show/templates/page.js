"use strict";
for (const board of document.querySelectorAll("table.board")) {
  const body = board.tBodies[0];
  const heads = [...board.tHead.rows[0].cells];
  const value = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    return (cell.querySelector("bdi") || cell).textContent.trim().toLowerCase();
  };
  heads.forEach((head, column) => {
    if (head.dataset.first === "none") return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.dataset.first || "descending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
      const rows = [...body.rows];
      rows.sort((a, b) => sign * compare(value(a, column), value(b, column)));
      body.append(...rows);
    });
  });
  const controls = board.closest("section").querySelector(".controls");
  const input = controls.querySelector("input");
  const shown = controls.querySelector("output");
  const filter = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of body.rows) {
      const text = `${row.textContent} ${row.dataset.text}`.toLowerCase();
      row.hidden = row.dataset.out === "true" || !words.every((word) => text.includes(word));
      count += row.hidden ? 0 : 1;
    }
    shown.textContent = `${count} of ${body.rows.length}`;
    board.dispatchEvent(new Event("filtered"));
  };
  input.addEventListener("input", filter);
  board.addEventListener("refilter", filter);
  controls.hidden = false;
  filter();
}
const open = () => {
  const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  const details = target && target.closest("details");
  if (details) {
    details.open = true;
    details.querySelector("summary").focus({ preventScroll: true });
    details.scrollIntoView();
  }
};
addEventListener("hashchange", open);
for (const link of document.querySelectorAll('a[href^="#"]')) link.addEventListener("click", () => setTimeout(open));
open();
