// What every page does: times in the reader's own time zone, copy buttons, parts fetched anew.

const DAY = 86400;
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const minute = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const dayMinute = new Intl.DateTimeFormat(undefined, { weekday: "short", hour: "numeric", minute: "numeric" });
const date = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

function age(seconds) {
  if (seconds < 1) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < DAY) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / DAY)} d ago`;
}

// A time in full: its day where that is not today.
export function local(when) {
  return when.toDateString() === new Date().toDateString() ? clock.format(when) : date.format(when);
}

function shortLocal(when) {
  return Date.now() - when.getTime() < DAY * 1000 ? minute.format(when) : dayMinute.format(when);
}

export function showTimes(within = document) {
  const now = Date.now();
  for (const title of within.querySelectorAll("title[data-from]")) {
    const { from, to, said } = title.dataset;
    const text = `${shortLocal(new Date(from))} \u2013 ${shortLocal(new Date(to))}: ${said}`;
    if (title.textContent !== text) title.textContent = text;
  }
  for (const time of within.querySelectorAll("time[data-age], time[data-clock], time[data-minute]")) {
    const when = new Date(time.dateTime);
    if (Number.isNaN(when.getTime())) continue;
    const { age: old, minute: short } = time.dataset;
    const text = old !== undefined ? age((now - when.getTime()) / 1000) : short !== undefined ? shortLocal(when) : local(when);
    if (time.textContent !== text) time.textContent = text;
    if (!time.title) time.title = `${date.format(when)} (${time.dateTime})`;
  }
}

function showCopyButtons(within = document) {
  if (!navigator.clipboard) return;
  for (const button of within.querySelectorAll("button[data-copy]")) button.hidden = false;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
});

export class Failed extends Error {}

// The parts of the page at an address, as elements by their ids.
export async function fetchParts(address, signal) {
  const answer = await fetch(address, {
    headers: { Accept: "text/html", "X-Part": "1" },
    cache: "no-store",
    credentials: "same-origin",
    signal,
  });
  if (answer.status === 401) {
    // The login has ended.
    location.reload();
    throw new Failed("the login has ended");
  }
  if (!answer.ok) {
    let text = `the monitor answered ${answer.status}`;
    try {
      text = (await answer.json()).error;
    } catch {
      // No JSON: a proxy's error.
    }
    throw new Failed(text);
  }
  const parsed = new DOMParser().parseFromString(await answer.text(), "text/html");
  const parts = new Map();
  for (const part of parsed.body.querySelectorAll(":scope > [id]")) parts.set(part.id, document.adoptNode(part));
  return parts;
}

// Puts new parts in the place of the old; the focus stays on what has the same address.
export function putParts(parts) {
  for (const [id, part] of parts) {
    const old = document.getElementById(id);
    if (!old || old.isEqualNode(part)) continue;
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    const address = focused?.getAttribute("href");
    showTimes(part);
    showCopyButtons(part);
    old.replaceWith(part);
    if (!focused) continue;
    const same = [...part.querySelectorAll("a[href]")].find((link) => link.getAttribute("href") === address);
    (same ?? document.getElementById("main")).focus({ preventScroll: true });
  }
}

// Whether the reader is in the middle of something that a change of the page would spoil.
export function reading() {
  const chosen = getSelection();
  return (
    document.hidden ||
    (chosen && !chosen.isCollapsed) ||
    document.querySelector("#main details[open]") !== null ||
    document.activeElement?.matches("#main select")
  );
}

// Calls `work` every so often while the page is seen; returns the function that says how often, in seconds (0: never).
export function every(seconds, work) {
  let timer;
  const start = () => {
    clearInterval(timer);
    if (seconds > 0) timer = setInterval(() => reading() || work(), seconds * 1000);
  };
  document.addEventListener("visibilitychange", () => reading() || (seconds > 0 && work()));
  start();
  return (other) => {
    seconds = other;
    start();
  };
}

document.documentElement.classList.add("js");
showTimes();
showCopyButtons();
setInterval(showTimes, 1000);
