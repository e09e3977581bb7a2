// Failures by kind, and the reader's notes on answers: kept in this browser, exported as CSV or JSON.
const notes = (() => {
  const key = (index) => "qlora-report-notes:" + index.site;
  const read = (index) => {
    try { return JSON.parse(localStorage.getItem(key(index)) ?? "{}"); } catch { return {}; }
  };
  const write = (index, all) => {
    try { localStorage.setItem(key(index), JSON.stringify(all)); return true; } catch { return false; }
  };
  const name = (index, question, system) => JSON.stringify([index.questions[question][0], index.systems[system][0]]);
  // A form for the note on one answer. `changed` is called after each change.
  const editor = (index, question, system, kinds, excerpt, changed = () => {}) => {
    const id = name(index, question, system), note = read(index)[id] ?? {};
    const kind = site.make("select", {}, site.make("option", { value: "" }, "no kind"));
    for (const word of index.readersKinds) kind.append(site.make("option", {}, word));
    kind.value = note.kind ?? "";
    const text = site.make("textarea", { rows: 2 });
    text.value = note.text ?? "";
    const said = site.make("span", { role: "status", class: "said-so" });
    const keep = () => {
      const all = read(index);
      if (kind.value || text.value.trim()) {
        all[id] = { question: index.questions[question][0], system: index.systems[system][0], seen: kinds, kind: kind.value, text: text.value, answer: excerpt };
      } else delete all[id];
      said.textContent = write(index, all) ? "kept" : "This browser keeps nothing for this page: export before you leave.";
      changed(all);
    };
    kind.addEventListener("change", keep);
    text.addEventListener("input", site.later(keep));
    const form = site.make("details", { class: "plain note" }, site.make("summary", {}, note.kind || note.text ? "Your note" : "Note"),
      site.make("label", {}, "Kind ", kind), site.make("label", {}, "Note ", text), said);
    form.open = Boolean(note.kind || note.text);
    return form;
  };
  return { read, write, name, editor };
})();
(() => {
  const form = document.getElementById("failures-form");
  if (!form) return;
  const SIZE = 25;
  const [words, system, kind, count, rows, pager] = ["words", "system", "kind", "count", "rows", "pager"].map((part) => document.getElementById("failures-" + part));
  const [total, buttons, csv, json, clear] = ["count", "buttons", "csv", "json", "clear"].map((part) => document.getElementById("notes-" + part));
  const COLUMNS = ["question", "system", "seen", "kind", "text", "answer"];
  const formula = /^[\s']*[=+\-@\uff1d\uff0b\uff0d\uff20]|^'*[\t\r\n]/;
  const cell = (value) => '"' + (formula.test(value) ? "'" + value : value).replaceAll('"', '""') + '"';
  const save = (file, type, text) => {
    const link = site.make("a", { download: file, href: URL.createObjectURL(new Blob([text], { type })) });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  const start = ([index, answers]) => {
    const kindsOf = (bits) => index.kinds.filter((_, place) => bits >> place & 1);
    const list = (all) => Object.values(all).sort((a, b) => a.question.localeCompare(b.question, "en", { numeric: true }) || a.system.localeCompare(b.system, "en"));
    const asCsv = (all) => [COLUMNS.join(","), ...list(all).map((note) => COLUMNS.map((column) => cell([note[column]].flat().join("; "))).join(","))].join("\n") + "\n";
    const tell = (all) => {
      const number = Object.keys(all).length;
      total.textContent = number === 0 ? "None yet." : number + (number === 1 ? " answer has a note." : " answers have notes.");
      buttons.hidden = number === 0;
    };
    const num = (place) => answers.filter((answer) => answer[2] >> place & 1).length;
    kind.append(site.make("option", { value: "failing" }, "any failure"), site.make("option", { value: "" }, "every answer"), site.make("option", { value: "noted" }, "with your note"));
    index.kinds.forEach((word, place) => kind.append(site.make("option", { value: place }, word + " (" + num(place) + ")")));
    const answering = [...new Set(answers.map((answer) => answer[1]))].sort((a, b) => a - b);
    for (const place of answering) system.append(site.make("option", { value: place }, index.systems[place][0]));
    const row = (answer) => {
      const [question, by, bits, excerpt, length] = answer, seen = kindsOf(bits);
      const marks = site.make("span", { class: "marks" });
      for (const word of seen) marks.append(site.make("span", { class: "mark" }, word), " ");
      return site.make("li", {},
        site.make("p", { class: "who" }, site.systemLink(index, by), " on question ", site.questionLink(index, question), " ", marks, site.make("small", {}, site.number(length) + " characters")),
        site.make("p", { class: "aside", dir: "auto" }, index.questions[question][1]),
        excerpt.trim() ? site.make("div", { class: "said", dir: "auto" }, excerpt) : site.make("p", { class: "missing" }, "an empty answer"),
        notes.editor(index, question, by, seen, excerpt, tell));
    };
    const show = () => {
      const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean), noted = notes.read(index);
      const kept = answers.filter(([question, by, bits, excerpt]) => (system.value === "" || by === Number(system.value))
        && (kind.value === "" || (kind.value === "failing" ? bits > 0 : kind.value === "noted" ? notes.name(index, question, by) in noted : bits >> Number(kind.value) & 1))
        && wanted.every((word) => (excerpt + " " + index.questions[question][1]).toLowerCase().includes(word)));
      count.textContent = site.number(kept.length) + " of " + site.number(answers.length) + " answers";
      site.pager(pager, SIZE, kept.length, (from, to) => rows.replaceChildren(...kept.slice(from, to).map(row)));
    };
    for (const input of [system, kind]) input.addEventListener("change", show);
    words.addEventListener("input", site.later(show));
    form.addEventListener("submit", (event) => event.preventDefault());
    csv.addEventListener("click", () => save("notes.csv", "text/csv", asCsv(notes.read(index))));
    json.addEventListener("click", () => save("notes.json", "application/json", JSON.stringify(list(notes.read(index)), null, 2) + "\n"));
    clear.addEventListener("click", () => { if (confirm("Delete all notes on this report?")) { notes.write(index, {}); tell({}); show(); } });
    form.hidden = false;
    tell(notes.read(index));
    show();
  };
  Promise.all([site.load("index"), site.load("failures")]).then(start).catch(site.failed(count));
})();
