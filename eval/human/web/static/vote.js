// Keys press the page's own buttons. A key that is held down votes once; a form is sent once.
"use strict";
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", ArrowUp: "both_bad" };
let sent = false;

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
  const choice = KEYS[event.key];
  const button = choice ? document.querySelector(`button[value="${choice}"]`)
    : event.key === "u" ? document.getElementById("undo") : null;
  if (!button) return;
  event.preventDefault();
  if (!event.repeat && !button.disabled) button.click();
});

document.addEventListener("submit", (event) => {
  if (sent) event.preventDefault();
  sent = true;
  if (event.submitter) event.submitter.classList.add("pressed");
});

window.addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
