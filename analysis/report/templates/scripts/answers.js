// All answers of one system, on its page.
(() => {
  const rows = document.getElementById("answers-rows");
  if (!rows) return;
  const [count, pager] = ["count", "pager"].map((part) => document.getElementById("answers-" + part));
  const start = ([index, answers]) => {
    const system = index.systems.findIndex((found) => found[1] === rows.dataset.answers);
    const card = ([question, text, tokens, reason]) => site.make("article", { class: "card" },
      site.make("h3", { class: "who" }, site.make("span", { dir: "auto" }, site.questionLink(index, question), " ", index.questions[question][1]), site.make("small", {}, [tokens === null ? null : tokens + " tokens", reason].filter(Boolean).join(" · "))),
      text.trim() ? site.make("div", { class: "said", dir: "auto" }, text) : site.make("p", { class: "missing" }, "an empty answer"),
      notes.editor(index, question, system, [], text.slice(0, 240)));
    count.textContent = answers.length + (answers.length === 1 ? " answer" : " answers");
    site.pager(pager, 20, answers.length, (from, to) => rows.replaceChildren(...answers.slice(from, to).map(card)));
  };
  Promise.all([site.load("index"), site.load("answers/" + rows.dataset.answers)]).then(start).catch(site.failed(count));
})();
