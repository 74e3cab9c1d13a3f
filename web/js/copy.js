// Text into the clipboard, also where the browser allows that only behind https.

import { t } from "./words.js";

/** Copy, and say so on the button that asked. */
export async function copyText(text, asked) {
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else byHand(text);
  const before = asked.textContent;
  asked.textContent = t("node.copied");
  setTimeout(() => (asked.textContent = before), 1500);
}

function byHand(text) {
  const field = document.createElement("textarea");
  field.value = text;
  // Inside of an open dialog, or the field could not be selected.
  (document.querySelector("dialog[open]") ?? document.body).append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
