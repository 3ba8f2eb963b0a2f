// Draws the page anew in place. Without it the browser reloads the page.
"use strict";

const EVERY = 2000;
const silence = document.getElementById("silence");
let seen = new Date();

async function draw() {
  try {
    const answer = await fetch("/", { signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`it answers ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const open = [...document.querySelectorAll("details[open]")].map((each) => each.id);
    const focused = document.activeElement.closest("details")?.id;
    const selecting = !document.getSelection().isCollapsed;
    if (!selecting) {
      document.querySelector("main").replaceWith(fresh.querySelector("main"));
      for (const id of open) document.getElementById(id)?.setAttribute("open", "");
      if (focused) document.getElementById(focused)?.querySelector("summary").focus();
      document.title = fresh.title;
    }
    silence.textContent = "Not drawn anew while text is selected.";
    silence.hidden = !selecting;
    seen = new Date();
  } catch (error) {
    silence.textContent = `zqueued has not answered since ${seen.toLocaleTimeString()}. What you see is old. ` +
      "Ask where it runs: zqueuectl doctor";
    silence.hidden = false;
    document.title = "No answer: zqueue";
  }
  setTimeout(draw, document.hidden ? 5 * EVERY : EVERY);
}

setTimeout(draw, EVERY);
