// Two systems side by side: their answers, each judge's verdicts and words, people's votes.
(() => {
  const form = document.getElementById("pair-form");
  if (!form) return;
  const SIZE = 10;
  const [one, two, flag, count, rows, pager] = ["one", "two", "flag", "count", "rows", "pager"].map((part) => document.getElementById("pair-" + part));
  const heading = document.getElementById("pair-name");
  const asked = new URLSearchParams(location.search);
  const optional = (name) => site.load(name).catch(() => []);  // a system that nobody judged, or that has no answers, has no file
  const start = (index) => {
    const names = index.systems.map(([name]) => name);
    const place = (page, other) => Math.max(index.systems.findIndex((system) => system[1] === page), other);
    site.options(one, names);
    site.options(two, names);
    one.value = place(asked.get("one"), 0);
    two.value = place(asked.get("two"), Number(one.value) === 1 || names.length < 2 ? 0 : 1);
    for (const name of index.flags) flag.append(site.make("option", { value: name }, site.flagWords[name]));
    const show = async () => {
      const pair = [Number(one.value), Number(two.value)], [high, low] = [...pair].sort((a, b) => a - b);
      const [answersOne, answersTwo, judged] = await Promise.all([
        ...pair.map((system) => optional("answers/" + index.systems[system][1])), optional("pairs/" + index.systems[high][1])]);
      if (pair[0] !== Number(one.value) || pair[1] !== Number(two.value)) return;
      heading.replaceChildren(site.isolated(names[pair[0]]), " against ", site.isolated(names[pair[1]]));
      draw(pair, [answersOne, answersTwo].map((all) => new Map(all.map((answer) => [answer[0], answer]))), judged[low] ?? []);
    };
    const card = (system, question, answer) => {
      const text = answer?.[1];
      const facts = answer ? [answer[2] === null ? null : answer[2] + " tokens", answer[3]].filter(Boolean).join(" · ") : "";
      return site.make("article", { class: "card" }, site.make("h4", { class: "who" }, site.systemLink(index, system), site.make("small", {}, facts)),
        text === undefined ? site.make("p", { class: "missing" }, "no answer on disk") : text.trim() ? site.make("div", { class: "said", dir: "auto" }, text) : site.make("p", { class: "missing" }, "an empty answer"),
        answer ? notes.editor(index, question, system, [], text.slice(0, 240)) : null);
    };
    const ruling = ([, judge, forward, backward, wordsForward, wordsBackward], [high, low]) => {
      const list = site.make("ul", { class: "orders" });
      for (const [letters, first, second, words] of [[forward, high, low, wordsForward], [backward, low, high, wordsBackward]]) {
        for (const letter of letters) list.append(site.make("li", {}, "first ", site.isolated(names[first]), ", then ", site.isolated(names[second]), ": ", site.isolated(site.outcome(letter, names[high], names[low]), "b")));
        if (words) list.append(site.make("li", { class: "words" }, site.make("blockquote", { dir: "auto" }, words)));
      }
      return site.make("div", { class: "ruling" }, site.make("h4", { dir: "auto" }, index.judges[judge]), list);
    };
    const draw = (pair, answers, judged) => {
      const ordered = [...pair].sort((a, b) => a - b);
      const bit = index.flags.indexOf(flag.value);
      const rulings = new Map();
      for (const row of judged) if (bit < 0 || row[6] >> bit & 1) rulings.set(row[0], [...(rulings.get(row[0]) ?? []), row]);
      const wanted = asked.get("question");
      const all = bit < 0 ? [...new Set([...answers[0].keys(), ...answers[1].keys(), ...rulings.keys()])] : [...rulings.keys()];
      const shown = all.sort((a, b) => (index.questions[b][3] === wanted) - (index.questions[a][3] === wanted) || a - b);
      count.textContent = shown.length + (shown.length === 1 ? " question, " : " questions, ") + rulings.size + " judged";
      const question = (place) => site.make("section", { class: "compared", "aria-label": "question " + index.questions[place][0] },
        site.make("h3", { dir: "auto" }, site.questionLink(index, place), " ", index.questions[place][1]),
        site.make("div", { class: "cards" }, ...pair.map((system, side) => card(system, place, answers[side].get(place)))),
        ...(rulings.get(place) ?? []).map((row) => ruling(row, ordered)),
        rulings.has(place) ? site.marks(index, rulings.get(place).reduce((bits, row) => bits | row[6], 0)) : site.make("p", { class: "missing" }, "not judged"));
      site.pager(pager, SIZE, shown.length, (from, to) => rows.replaceChildren(...shown.slice(from, to).map(question)));
    };
    for (const select of [one, two, flag]) select.addEventListener("change", show);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    show();
  };
  site.load("index").then(start).catch(site.failed(count));
})();
