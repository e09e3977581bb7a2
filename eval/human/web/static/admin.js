// The numbers renew themselves while somebody looks.
"use strict";
const SECONDS = 5;

async function renew() {
  if (document.hidden) return;
  const answer = await fetch("/admin/live", { cache: "no-store" }).catch(() => null);
  document.body.classList.toggle("stale", !answer || !answer.ok);
  if (!answer || !answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.getElementById("live").replaceChildren(...fresh.body.childNodes);
}

setInterval(renew, SECONDS * 1000);
