"use strict";
(() => {
  // tables: a click or the enter key on the head of a column sorts by it, a second one in the other direction
  const keyOf = (row, column, kind) => {
    const key = row.cells[column].dataset.key;
    return kind === "number" ? Number(key) : key;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const button of table.querySelectorAll("th button")) {
      button.addEventListener("click", () => {
        const head = button.parentElement, column = head.cellIndex, body = table.tBodies[0];
        const up = head.getAttribute("aria-sort") !== "ascending", kind = button.dataset.kind;
        for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...body.rows].map((row) => [keyOf(row, column, kind), row]);
        rows.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1));
        body.append(...rows.map(([, row]) => row));
      });
    }
  }
  for (const select of document.querySelectorAll("select[data-filters]")) {
    const rows = [...document.getElementById(select.dataset.filters).tBodies[0].rows];
    const show = () => {
      for (const row of rows) row.hidden = select.value !== "" && row.dataset.verdict !== select.value;
      const shown = rows.filter((row) => !row.hidden).length;
      document.querySelector(`output[for="${select.id}"]`).textContent = `${shown} of ${rows.length} rows`;
    };
    select.addEventListener("change", show);
    show(); // a browser may keep the choice when the page is loaded again
  }
  // figures: parts tell their numbers when pointed at or focused; arrow keys go from part to part
  const tip = document.getElementById("tip");
  let told = null;
  const tell = (part) => {
    told = part;
    tip.textContent = part.dataset.tip;
    tip.hidden = false;
    const at = part.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const left = at.left + at.width / 2 - own.width / 2, above = at.top - own.height - 8;
    tip.style.left = `${Math.max(8, Math.min(left, document.documentElement.clientWidth - own.width - 8))}px`;
    tip.style.top = `${above >= 4 ? above : at.bottom + 8}px`;
  };
  const hide = () => { tip.hidden = true; told = null; };
  const partOf = (event) => (event.target instanceof Element ? event.target.closest("[data-tip]") : null);
  for (const name of ["pointerover", "focusin"]) {
    document.addEventListener(name, (event) => { const part = partOf(event); if (part) tell(part); });
  }
  for (const name of ["pointerout", "focusout"]) {
    document.addEventListener(name, (event) => { if (partOf(event)) hide(); });
  }
  // a part that takes the focus is scrolled to
  window.addEventListener("scroll", () => { if (told) tell(told); }, { passive: true, capture: true });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    const part = partOf(event);
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!part || !step) return;
    event.preventDefault();
    const parts = [...part.closest("svg").querySelectorAll("[data-tip]")];
    const next = parts[(parts.indexOf(part) + step + parts.length) % parts.length];
    part.setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus({ preventScroll: true });
  });
})();
