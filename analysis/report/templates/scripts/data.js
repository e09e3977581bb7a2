// Common to all parts: finds data (in the page, or in a file of the folder), makes elements from text, pages lists.
"use strict";
const site = (() => {
  const root = document.body.dataset.root ?? "";
  const waiting = {};
  const load = (name) => waiting[name] ??= new Promise((resolve, reject) => {
    const inPage = document.getElementById("data-" + name);
    if (inPage) return resolve(JSON.parse(inPage.textContent));
    const script = document.createElement("script");
    script.src = root + "data/" + name.split("/").map(encodeURIComponent).join("/") + ".js";
    script.onload = () => resolve(window.siteData[name]);
    script.onerror = () => reject(new Error("no data: " + name));
    document.head.append(script);
  });
  const make = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined) made.setAttribute(name, value);
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  };
  const isolated = (text, tag = "span") => make(tag, { dir: "auto" }, text);
  const number = (value) => value === null ? "–" : String(value).replace("-", "−").replace(/\B(?=(\d{3})+(?!\d))/g, ",");
  const options = (select, names, kept = 0) => {
    while (select.options.length > kept) select.options[kept].remove();
    names.forEach((name, index) => select.append(make("option", { value: index }, name)));
  };
  // Buttons for pages of a list; `draw(from, to)` shows a part.
  const pager = (element, size, total, draw) => {
    let page = 0;
    const pages = Math.max(1, Math.ceil(total / size));
    const status = make("span", { role: "status" });
    const step = (words, to) => {
      const button = make("button", { type: "button" }, words);
      button.addEventListener("click", () => { page = Math.min(Math.max(to(page), 0), pages - 1); show(); });
      return button;
    };
    const buttons = [step("First", () => 0), step("← Back", (p) => p - 1), step("Next →", (p) => p + 1), step("Last", () => pages - 1)];
    const show = () => {
      status.textContent = "page " + (page + 1) + " of " + pages;
      buttons.forEach((button, index) => { button.disabled = index < 2 ? page === 0 : page === pages - 1; });
      draw(page * size, Math.min(total, (page + 1) * size));
    };
    element.replaceChildren(buttons[0], buttons[1], status, buttons[2], buttons[3]);
    element.hidden = pages === 1;
    show();
  };
  const later = (action) => {  // runs once typing stops
    let timer;
    return () => { clearTimeout(timer); timer = setTimeout(action, 120); };
  };
  const questionAddress = (index, place) => index.folder ? root + "questions/" + encodeURIComponent(index.questions[place][3]) + ".html" : "#question-" + place;
  const questionLink = (index, place) => index.questions[place][4]  // whether there is a page, or a place on this one
    ? make("a", { href: questionAddress(index, place) }, index.questions[place][0]) : isolated(index.questions[place][0]);
  const systemLink = (index, place) => index.folder
    ? make("a", { href: root + "systems/" + encodeURIComponent(index.systems[place][1]) + ".html", dir: "auto" }, index.systems[place][0])
    : isolated(index.systems[place][0]);
  const pairAddress = (index, one, two) => root + "pair.html?one=" + encodeURIComponent(index.systems[one][1]) + "&two=" + encodeURIComponent(index.systems[two][1]);
  const flagWords = { reversed: "reversed", unparsed: "unparsed", tied: "tied", cut: "cut", empty: "empty", disagree: "judges disagree" };
  const flagsOf = (index, bits) => index.flags.filter((_, place) => bits >> place & 1);
  const marks = (index, bits) => {
    const list = make("span", { class: "marks" });
    for (const flag of flagsOf(index, bits)) list.append(make("span", { class: "mark" }, flagWords[flag]), " ");
    return list;
  };
  const outcome = (letter, one, two) => ({ a: one, b: two, t: "tie", "?": "unparsed" })[letter];
  const failed = (element) => (error) => { element.textContent = "The data could not be loaded (" + error.message + "): keep the folder’s files together."; };
  return { root, load, make, isolated, number, options, pager, later, questionAddress, questionLink, systemLink, pairAddress, flagWords, flagsOf, marks, outcome, failed };
})();
