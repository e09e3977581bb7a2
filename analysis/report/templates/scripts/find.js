// Search and filters over every judged pair of answers.
(() => {
  const form = document.getElementById("find-form");
  if (!form) return;
  const SIZE = 50;
  const [words, one, two, tag, judge, order, flags, count, box, rows, pager] =
    ["words", "one", "two", "tag", "judge", "order", "flags", "count", "box", "rows", "pager"].map((name) => document.getElementById("find-" + name));
  const start = ([index, items]) => {
    const names = index.systems.map(([name]) => name);
    const texts = index.questions.map(([id, text, category]) => (id + " " + text + " " + category).toLowerCase());
    const tags = [...new Set(index.questions.map((question) => question[2]).filter(Boolean))].sort();
    const met = [...new Set(items.flatMap((item) => [item[1], item[2]]))].sort((a, b) => a - b);
    for (const select of [one, two]) for (const place of met) select.append(site.make("option", { value: place }, names[place]));
    for (const name of tags) tag.append(site.make("option", { value: name }, name));
    tag.parentElement.hidden = tags.length === 0;
    site.options(judge, index.judges, 1);
    const boxes = index.flags.map((flag, place) => {
      const input = site.make("input", { type: "checkbox", value: flag });
      flags.append(site.make("label", {}, input, " " + site.flagWords[flag] + " (" + items.filter((item) => item[6] >> place & 1).length + ")"));
      return input;
    });
    const outcomes = (letters) => letters === "" ? "–" : [...letters].map((letter) => site.outcome(letter, "one", "two")).join(", ");
    const row = (item) => site.make("tr", {},
      site.make("th", { scope: "row" }, site.questionLink(index, item[0]), " ", site.isolated(index.questions[item[0]][1].slice(0, 80))),
      site.make("td", {}, site.systemLink(index, item[1])), site.make("td", {}, site.systemLink(index, item[2])),
      site.make("td", {}, outcomes(item[4])), site.make("td", {}, outcomes(item[5])),
      site.make("td", {}, index.folder ? site.make("a", { href: site.pairAddress(index, item[1], item[2]) + "&question=" + encodeURIComponent(index.questions[item[0]][3]) }, "side by side") : null, " ", site.marks(index, item[6])),
      site.make("td", { class: "n" }, site.number(item[7])), site.make("td", { dir: "auto" }, index.judges[item[3]]));
    const show = () => {
      const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      const mask = boxes.reduce((sum, input, place) => sum + (input.checked ? 1 << place : 0), 0);
      const pair = [one.value, two.value].filter(Boolean).map(Number);
      let kept = items.filter((item) => (item[6] & mask) === mask && pair.every((place) => item[1] === place || item[2] === place)
        && (judge.value === "" || item[3] === Number(judge.value)) && (tag.value === "" || index.questions[item[0]][2] === tag.value)
        && wanted.every((word) => texts[item[0]].includes(word)));
      if (order.value === "difference") kept = kept.filter((item) => item[7] !== null).sort((a, b) => Math.abs(b[7]) - Math.abs(a[7]));
      count.textContent = site.number(kept.length) + " of " + site.number(items.length) + " pairs of answers";
      site.pager(pager, SIZE, kept.length, (from, to) => rows.replaceChildren(...kept.slice(from, to).map(row)));
    };
    for (const input of [one, two, tag, judge, order, ...boxes]) input.addEventListener("change", show);
    words.addEventListener("input", site.later(show));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = box.hidden = false;
    show();
  };
  Promise.all([site.load("index"), site.load("items")]).then(start).catch(site.failed(count));
})();
