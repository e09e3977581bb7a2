// Picks a question and a pair of systems on a report of one page. Without JavaScript the page shows every answer.
(() => {
  const picker = document.getElementById("picker");
  addEventListener("beforeprint", () => document.querySelectorAll("details.question").forEach((d) => { d.open = true; }));
  const openTarget = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) target.open = true;
  };
  addEventListener("hashchange", openTarget);
  openTarget();
  if (!picker) return;
  const [question, left, right] = ["question", "left", "right"].map((name) => document.getElementById("pick-" + name));
  const questions = [...document.querySelectorAll("details.question")];
  const numSystems = left.options.length - 1;

  const show = () => {
    const pair = [left.value, right.value];
    const everybody = pair.includes("");
    const key = pair.map(Number).sort((a, b) => a - b).join("-");
    for (const details of questions) {
      const chosen = question.value === "" || details.dataset.question === question.value;
      details.hidden = !chosen;
      if (chosen && question.value !== "") details.open = true;
      for (const card of details.querySelectorAll(".card")) {
        card.hidden = !everybody && !pair.includes(card.dataset.system);
        card.style.order = !everybody && card.dataset.system === pair[1] ? "1" : "0";
      }
      for (const line of details.querySelectorAll("[data-pair]")) line.hidden = !everybody && line.dataset.pair !== key;
      const rulings = details.querySelector(".rulings");
      if (rulings && !everybody) rulings.open = true;
    }
  };
  const step = (by) => {
    const last = questions.length;
    question.selectedIndex = ((question.selectedIndex - 1 + by + last) % last) + 1;
    show();
  };
  document.getElementById("pick-previous").addEventListener("click", () => step(question.selectedIndex === 0 ? 0 : -1));
  document.getElementById("pick-next").addEventListener("click", () => step(1));
  for (const select of [question, left, right]) select.addEventListener("change", show);
  picker.addEventListener("submit", (event) => event.preventDefault());
  if (numSystems > 1) { left.value = "0"; right.value = "1"; }
  if (questions.length) question.value = "0";
  picker.hidden = false;
  show();
})();
