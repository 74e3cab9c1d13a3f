// A dialog over the page: Escape and a click beside it close it, and its keys are not ComfyUI's shortcuts.

import { h } from "./dom.js";

/**
 * Open a dialog; it is gone from the page when it closes.
 * @param {string} label for screen readers
 * @param {string} kind its class
 * @param {(close: () => void) => Array} inside what is in it
 */
export function openDialog(label, kind, inside) {
  const made = h("dialog", {
    class: `hapax ${kind}`,
    "aria-label": label,
    on: {
      close: () => made.remove(),
      click: (event) => event.target === made && made.close(),
      keydown: (event) => event.stopPropagation(),
    },
  });
  made.append(h("div", { class: "hapax-sheet" }, inside(() => made.close())));
  document.body.append(made);
  made.showModal();
  return made;
}
