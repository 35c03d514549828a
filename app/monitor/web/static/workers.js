// The workers, as of a moment ago.

import { every, fetchParts, putParts } from "./page.js";

every(5, async () => {
  try {
    putParts(await fetchParts(location.href));
  } catch {
    // Tried again in five seconds.
  }
});
