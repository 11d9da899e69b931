// What the scripts of a page share: making elements, and tables that a click on a head sorts. Stands in the page's head.
"use strict";
const frame = (() => {
  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  };
  const svg = (tag, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // Draws again what a change of the home's width would squeeze.
  const onWidth = (home, draw) => {
    let before = home.clientWidth;
    window.addEventListener("resize", () => {
      if (home.clientWidth === before) return;
      before = home.clientWidth;
      draw();
    });
  };

  // A cell's key: its leading number, else its text; cells without a number go last.
  const key = (cell) => {
    const text = cell.firstChild ? cell.firstChild.textContent.trim().replace("−", "-").replaceAll(",", "") : "";
    const value = /^[+-]?[.\d]/.test(text) ? parseFloat(text) : NaN;
    return Number.isNaN(value) ? text : value;
  };
  const compare = (a, b) => {
    if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b);
    return typeof a === "number" ? -1 : 1;
  };
  const heads = "table.sortable thead th";
  const sort = (event) => {
    const head = event.target.closest(heads);
    if (!head || (event.type === "keydown" && event.key !== "Enter")) return;
    const table = head.closest("table"), body = table.tBodies[0], up = head.getAttribute("aria-sort") !== "ascending";
    const rows = [...body.rows].map((row) => [key(row.cells[head.cellIndex]), row]);
    rows.sort(([a], [b]) => (up ? 1 : -1) * compare(a, b));
    body.append(...rows.map(([, row]) => row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  };
  document.addEventListener("click", sort);
  document.addEventListener("keydown", sort);
  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(heads).forEach((head) => {
    head.tabIndex = 0;
    head.title = "sort by this column";
  }));
  return { element, svg, onWidth };
})();
