// Text into the clipboard, also where the browser allows that only behind https.

import { t } from "./viewer/words.js";

/** Copy, and say so on the button that asked. */
export async function copyText(text, asked) {
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else byHand(text, asked);
  const before = asked.textContent;
  asked.textContent = t("node.copied");
  setTimeout(() => (asked.textContent = before), 1500);
}

function byHand(text, asked) {
  const field = document.createElement("textarea");
  field.value = text;
  // Beside the button: what lies outside of an open dialog cannot be selected.
  asked.after(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
