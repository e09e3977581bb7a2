// Long tables: sorts by a column, finds rows by words, shows fifty rows at a time. Without JavaScript all rows are there.
(() => {
  const SIZE = 50;
  for (const table of document.querySelectorAll("table[data-paged]")) {
    const body = table.tBodies[0], rows = [...body.rows];
    if (rows.length < 2) continue;
    const outside = table.closest(".scroll") ?? table;
    const pagerBox = site.make("div", { class: "pager" });
    let kept = rows;
    const draw = () => site.pager(pagerBox, SIZE, kept.length, (from, to) => body.replaceChildren(...kept.slice(from, to)));
    const key = (row, column) => {
      const cell = row.cells[column], text = cell.dataset.sort ?? cell.textContent.trim();
      const value = Number(text.replace("−", "-"));
      return text === "" || text === "–" ? null : Number.isNaN(value) ? text.toLowerCase() : value;
    };
    const compare = (one, two, sign) => one === two ? 0 : one === null ? 1 : two === null ? -1
      : sign * (typeof one === typeof two ? (one < two ? -1 : 1) : typeof one === "number" ? -1 : 1);
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = site.make("button", { type: "button", class: "sort" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const ascending = head.getAttribute("aria-sort") === "descending" || (!head.hasAttribute("aria-sort") && !head.classList.contains("n"));
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        const keys = new Map(rows.map((row) => [row, key(row, column)]));
        const order = (one, two) => compare(keys.get(one), keys.get(two), ascending ? 1 : -1);
        rows.sort(order);
        kept.sort(order);
        draw();
      });
    });
    if (rows.length > 12) {
      const words = site.make("input", { type: "search", autocomplete: "off" });
      const count = site.make("span", { class: "count", role: "status" });
      const find = () => {
        const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
        kept = rows.filter((row) => wanted.every((word) => row.textContent.toLowerCase().includes(word)));
        count.textContent = site.number(kept.length) + " of " + site.number(rows.length) + " " + table.dataset.noun;
        draw();
      };
      words.addEventListener("input", site.later(find));
      outside.before(site.make("p", { class: "filters" }, site.make("label", {}, "Rows with ", words), count));
      count.textContent = site.number(rows.length) + " " + table.dataset.noun;
    }
    outside.after(pagerBox);
    draw();
    addEventListener("beforeprint", () => body.replaceChildren(...kept));
    addEventListener("afterprint", draw);
  }
})();
