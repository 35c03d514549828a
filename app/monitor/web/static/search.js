// The search: as one types, with the keyboard, and anew every few seconds.

import { Failed, every, fetchParts, putParts, showTimes } from "./page.js";

// Milliseconds after the last key. Shorter ones search for half words, longer ones feel slow.
const PAUSE = 200;
// Pages that an empty search goes on by itself, each as long as the server searches at once.
const MOST_PAGES = 20;

const form = document.getElementById("search");
const said = document.getElementById("said");
let running = null;
let waiting;
// Whether older tasks were added below: a refresh would take them away again.
let extended = false;

function address() {
  const given = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (value.trim()) given.append(name, value.trim());
  const query = given.toString();
  return query ? `./?${query}` : "./";
}

// The form as the address has it, with hidden fields for what it has no field for.
function fill(target) {
  const given = new URL(target, location.href).searchParams;
  for (const hidden of form.querySelectorAll("input[type=hidden]")) hidden.remove();
  for (const field of form.querySelectorAll("input[name], select[name]")) {
    const value = given.get(field.name) ?? "";
    if (field.matches("select") && ![...field.options].some((option) => option.value === value)) {
      field.add(new Option(field.name === "since" ? "Chosen time" : value, value));
    }
    field.value = value;
    given.delete(field.name);
  }
  for (const [name, value] of given) {
    if (name === "cursor" || !value) continue;
    const hidden = document.createElement("input");
    Object.assign(hidden, { type: "hidden", name, value });
    form.append(hidden);
  }
}

function say(text, bad = false) {
  said.textContent = text;
  said.className = bad ? "notice bad" : "hidden";
}

async function show(target, { aloud = true } = {}) {
  running?.abort();
  const mine = (running = new AbortController());
  const results = document.getElementById("results");
  const slow = setTimeout(() => results.classList.add("busy"), 300);
  try {
    const parts = await fetchParts(target, mine.signal);
    extended = false;
    putParts(parts);
    if (aloud) say(document.getElementById("results").dataset.summary);
    else if (said.classList.contains("bad")) say("");
    await goOn(mine.signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    say(error instanceof Failed ? error.message : "The monitor does not answer; trying again.", true);
    // What is still shown is the answer to another search.
    results.classList.add("busy");
  } finally {
    clearTimeout(slow);
    if (running === mine) running = null;
  }
}

// A search that ended at what it may take of time, and has found nothing yet, goes on.
async function goOn(signal) {
  for (let page = 0; page < MOST_PAGES; page++) {
    const more = document.getElementById("more");
    if (!more || !("cut" in more.dataset) || document.querySelector("#rows li")) return;
    more.textContent = "Searching…";
    await append(more, signal);
  }
}

async function append(more, signal) {
  const parts = await fetchParts(more.href, signal);
  const part = parts.get("results");
  showTimes(part);
  const first = part.querySelector("#rows li a");
  const focused = document.activeElement === more;
  document.getElementById("rows").append(...part.querySelectorAll("#rows li"));
  if (document.querySelector("#rows li")) document.querySelector("#results .nothing")?.remove();
  document.querySelector("#results .paging").replaceWith(part.querySelector(".paging"));
  // Without a "Newest": the newest are still there.
  document.querySelector("#results .paging a:not(#more)")?.remove();
  extended = true;
  if (focused) first?.focus();
}

function search(push) {
  const target = address();
  history[push ? "pushState" : "replaceState"](null, "", target);
  show(target);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(waiting);
  search(true);
});

form.addEventListener("input", (event) => {
  if (event.target.id === "refresh") return;
  // What leads to other times no longer holds once another time is chosen.
  if (event.target.id === "since") form.querySelector("input[type=hidden][name=until]")?.remove();
  clearTimeout(waiting);
  waiting = setTimeout(() => search(event.target.matches("select")), PAUSE);
});

document.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  // In SVG, `href` is an object.
  const target = link.getAttribute("href");
  if (link.id === "more") {
    event.preventDefault();
    const mine = (running = new AbortController());
    append(link, mine.signal)
      .catch((error) => error.name === "AbortError" || say(error.message, true))
      .finally(() => running === mine && (running = null));
  } else if ("go" in link.dataset) {
    event.preventDefault();
    history.pushState(null, "", target);
    fill(target);
    show(target);
  }
});

addEventListener("popstate", () => {
  fill(location.href);
  show(location.href);
});

// The keyboard.

function move(by) {
  const rows = [...document.querySelectorAll("#rows a.row")];
  if (!rows.length) return;
  const at = rows.indexOf(document.activeElement);
  rows[Math.max(0, Math.min(rows.length - 1, at < 0 ? 0 : at + by))].focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const typing = event.target.matches("input, select, textarea");
  const text = document.getElementById("text");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    text.focus();
    text.select();
  } else if (event.target === text && event.key === "ArrowDown") {
    event.preventDefault();
    move(1);
  } else if (event.key === "Escape" && typing) {
    event.target.blur();
  } else if (!typing && (event.key === "j" || event.key === "ArrowDown")) {
    event.preventDefault();
    move(1);
  } else if (!typing && (event.key === "k" || event.key === "ArrowUp")) {
    event.preventDefault();
    if (document.activeElement === document.querySelector("#rows a.row")) text.focus();
    else move(-1);
  }
});

// Refreshed while it is seen, and while nothing is typed or read further down.

const rate = document.getElementById("refresh");
rate.closest(".field").hidden = false;
try {
  const kept = localStorage.getItem("refresh");
  if (kept !== null && [...rate.options].some((option) => option.value === kept)) rate.value = kept;
} catch {
  // No storage: the choice holds for this page.
}

const paged = () => new URL(location.href).searchParams.has("cursor");
const setRate = every(Number(rate.value), () => {
  if (!running && !extended && !paged()) show(location.href, { aloud: false });
});
rate.addEventListener("change", () => {
  setRate(Number(rate.value));
  try {
    localStorage.setItem("refresh", rate.value);
  } catch {
    // As above.
  }
});

// What was typed before this script was there.
const words = (query) => [...new URLSearchParams(query)].filter(([, value]) => value).sort().join("&");
if (!said.textContent && !paged() && words(address().slice(2)) !== words(location.search)) search(false);
else goOn(new AbortController().signal).catch(() => {});
