// One task's page follows the task until it has ended.

import { every, fetchParts, putParts, reading } from "./page.js";

const task = () => document.getElementById("task");

async function look() {
  try {
    putParts(await fetchParts(location.href));
  } catch {
    // Tried again with the next change.
  }
}

if (!("final" in task().dataset)) {
  const stop = every(3, async () => {
    if (!reading()) await look();
    if ("final" in task().dataset) stop(0);
  });
}
