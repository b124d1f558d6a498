"use strict";

// Tables: a click on a heading sorts by its column; what is missing stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const number = (text) => {
    const found = text.replaceAll("\u2212", "-").replaceAll(",", "").match(/^(?:[<p= ]*)(-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?)/);
    return found ? parseFloat(found[1]) - (text.includes("<") ? 1e-9 : 0) : NaN;
  };
  const missing = (text) => text === "" || text === "\u2013" || text.startsWith("not estimable");
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => ({ row, text: row.cells[column].textContent.trim() }));
      const there = rows.filter((each) => !missing(each.text));
      const numeric = there.every((each) => !Number.isNaN(number(each.text)));
      const compare = (a, b) => (numeric ? number(a.text) - number(b.text) : a.text.localeCompare(b.text, "en"));
      there.sort((a, b) => (up ? compare(a, b) : compare(b, a)));
      body.append(...[...there, ...rows.filter((each) => missing(each.text))].map((each) => each.row));
    });
  });
}

// Heat map: the text of a cell under the pointer, or of the cell that the arrow keys are at.
for (const svg of document.querySelectorAll(".heatmap svg")) {
  const tip = document.getElementById("tip");
  const size = Number(svg.dataset.size);
  const cells = new Map();
  for (const cell of svg.querySelectorAll(".cell")) {
    const title = cell.querySelector("title"); // without a script the browser shows it by itself
    cell.dataset.text = title.textContent;
    cell.setAttribute("aria-label", title.textContent);
    title.remove();
    cells.set(cell.dataset.row + "," + cell.dataset.column, cell);
  }
  const names = { row: svg.querySelectorAll(".rows text"), column: svg.querySelectorAll(".columns text") };
  let here = null;
  const leave = () => {
    tip.hidden = true;
    for (const marked of svg.querySelectorAll(".here")) marked.classList.remove("here");
  };
  const show = (cell) => {
    leave();
    here = cell;
    cell.classList.add("here");
    for (const way of ["row", "column"]) names[way][cell.dataset[way]].classList.add("here");
    tip.textContent = cell.dataset.text;
    tip.hidden = false;
    const box = cell.getBoundingClientRect();
    const left = Math.min(box.right + 10, window.innerWidth - tip.offsetWidth - 8);
    const below = box.bottom + 8 + tip.offsetHeight < window.innerHeight;
    tip.style.left = Math.max(8, left) + "px";
    tip.style.top = (below ? box.bottom + 8 : box.top - tip.offsetHeight - 8) + "px";
  };
  svg.addEventListener("pointerover", (event) => {
    if (event.target.classList.contains("cell")) show(event.target);
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (event.key === "Escape") leave();
    if (!step) return;
    event.preventDefault();
    const from = here ? [Number(here.dataset.row), Number(here.dataset.column)] : [0, 0];
    const to = here ? from.map((at, i) => Math.min(size - 1, Math.max(0, at + step[i]))) : from;
    const cell = cells.get(to.join(","));
    if (cell) show(cell);
  });
}
