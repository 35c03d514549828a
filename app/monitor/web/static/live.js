// The live tail: changes as they happen.

import { local } from "./page.js";

// Rows that are kept; older ones are in the history.
const MOST = 300;
// Changes between two drawings that are drawn; nobody reads more.
const MOST_AT_ONCE = 100;
const PAUSE = 300;
const STATES = {
  "task-sent": "pending",
  "task-received": "received",
  "task-started": "started",
  "task-succeeded": "success",
  "task-failed": "failure",
  "task-retried": "retry",
  "task-revoked": "revoked",
  "task-rejected": "rejected",
  "task-cancelled": "revoked",
  "task-unclaimed": "attention",
  "task-stalled": "attention",
  "task-orphaned": "attention",
  "worker-online": "success",
  "worker-offline": "failure",
};
// What is told with the exception that caused it; a quick task has it by the time it is told that it began.
const RAISED = new Set(["task-failed", "task-retried", "task-rejected"]);

const form = document.getElementById("live");
const tail = document.getElementById("tail");
const said = document.getElementById("said");
const button = document.getElementById("pause");
let source = null;
let paused = false;
let waiting = [];
let left = 0;
let drawing = false;

function cell(name, text, kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  if (text) made.title = text;
  return made;
}

function row(change) {
  const made = document.createElement("li");
  const when = new Date(change.time);
  const time = cell("time", Number.isNaN(when.getTime()) ? "" : local(when), "dim");
  const kind = String(change.type);
  made.append(time, cell("span", kind.replace(/^task-/, ""), `state s-${STATES[kind] ?? "pending"}`));
  const name = String(change.name ?? "");
  if (change.id) {
    const link = cell("a", name.split(".").pop() || "unknown");
    link.href = `task/${encodeURIComponent(change.id)}`;
    link.title = `${name} ${change.id}`;
    made.append(link);
  } else {
    made.append(cell("b", String(change.worker ?? name)));
  }
  const none = new Set(["()", "{}", "[]"]);
  const call = [change.args, change.kwargs].filter((text) => text && !none.has(text)).join(" ");
  const raised = RAISED.has(kind) && change.exception;
  made.append(cell("code", String(raised || call), raised ? "raised" : "dim"));
  made.append(cell("span", change.id ? String(change.worker ?? change.queue ?? "") : "", "dim"));
  return made;
}

function draw() {
  drawing = false;
  const rows = waiting.slice(-MOST_AT_ONCE).reverse().map(row);
  left += Math.max(0, waiting.length - MOST_AT_ONCE);
  waiting = [];
  if (rows.length && !left) said.textContent = "";
  tail.prepend(...rows);
  while (tail.children.length > MOST) tail.lastChild.remove();
  if (left) said.textContent = `${left.toLocaleString()} changes came too fast to be shown; the history has them all.`;
}

function take(event) {
  waiting.push(JSON.parse(event.data));
  // Frames don't come while the page is hidden, but then nothing is received either.
  if (!drawing) {
    drawing = true;
    requestAnimationFrame(draw);
  }
}

function connect() {
  source?.close();
  source = null;
  if (paused || document.hidden) return;
  const given = new URLSearchParams();
  const boxes = [...form.querySelectorAll("input[name=type]")];
  const types = boxes.filter((box) => box.checked).map((box) => box.value);
  if (!types.length) {
    said.textContent = "No type is chosen.";
    return;
  }
  if (types.length < boxes.length) given.set("type", types.join(","));
  const name = form.elements.name.value.trim();
  if (name) given.set("name", name);
  said.textContent = "Connecting…";
  source = new EventSource(`events?${given}`);
  source.onopen = () => (said.textContent = tail.children.length ? "" : "Waiting for something to happen.");
  source.onerror = () => {
    said.textContent = "The connection was lost, or this page was too slow; connecting again.";
    // A refusal is final for the browser: the login may have ended.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 5000);
  };
  source.addEventListener("skipped", (event) => (left += JSON.parse(event.data).count ?? 0));
  for (const type of Object.keys(STATES)) source.addEventListener(type, take);
}

function setPaused(value) {
  paused = value;
  button.textContent = paused ? "Go on" : "Pause";
  button.setAttribute("aria-pressed", String(paused));
  connect();
  if (paused) said.textContent = "Paused. What happens meanwhile is in the history.";
}

let typing;
form.hidden = false;
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(connect, PAUSE);
});
button.addEventListener("click", () => setPaused(!paused));
document.getElementById("clear").addEventListener("click", () => {
  tail.replaceChildren();
  left = 0;
  said.textContent = "";
});
document.addEventListener("keydown", (event) => {
  if (event.key !== " " || event.target.matches("input, button, a, select")) return;
  event.preventDefault();
  setPaused(!paused);
});
document.addEventListener("visibilitychange", connect);
addEventListener("pagehide", () => source?.close());
connect();
