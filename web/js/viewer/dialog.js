// A dialog over the page: Escape and a click beside it close it, and what is done in it is not done to the graph.

import { h } from "./dom.js";

// ComfyUI listens for these around nodes: keys are shortcuts, presses drag, the wheel zooms.
const POINTER = ["pointerdown", "pointermove", "pointerup", "mousedown", "mouseup", "dblclick", "wheel", "contextmenu"];
const KEPT = ["keydown", ...POINTER];

/**
 * Open a dialog; it is gone from the page when it closes.
 * @param {HTMLElement} host an element of ours to put it in
 * @param {object} given label: for screen readers; kind: its class
 * @param {(close: () => void) => Array} inside what is in it
 */
export function openDialog(host, { label, kind }, inside) {
  const keep = (event) => event.stopPropagation();
  const made = h("dialog", {
    class: `hapax ${kind}`,
    "aria-label": label,
    on: {
      ...Object.fromEntries(KEPT.map((name) => [name, keep])),
      close: () => made.remove(),
      click: (event) => {
        event.stopPropagation();
        if (event.target === made) made.close();
      },
    },
  });
  made.append(h("div", { class: "hapax-sheet" }, inside(() => made.close())));
  host.append(made);
  made.showModal();
  return made;
}
