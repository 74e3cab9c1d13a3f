// A slider for a node's strength, with the natural range marked: 1 is as much as there is by nature.

import { h } from "./viewer/dom.js";
import { asOneStep, setWidget, widgetValue } from "./graph.js";
import { t } from "./viewer/words.js";

const [LEAST, MOST, STEP] = [-4, 8, 0.1];
const CLOSE = 2.5;
const at = (value) => `${(100 * (value - LEAST)) / (MOST - LEAST)}%`;

/** The row of a node with a `strength` widget. Values beyond the slider's ends are typed into the widget. */
export function strength(node) {
  const slider = h("input", {
    type: "range",
    min: LEAST,
    max: MOST,
    step: STEP,
    "aria-label": t("node.strength"),
    on: { input: () => set(), change: () => asOneStep(set) },
  });
  const mark = (value, said, kind) => h("span", { class: `mark ${kind}`, style: `left:${at(value)}` }, said);
  const marks = h(
    "div",
    { class: "marks", "aria-hidden": "true" },
    h("span", { class: "natural", style: `left:${at(0)};width:calc(${at(1)} - ${at(0)})` }),
    mark(0, t("node.off"), "before"),
  );
  const natural = marks.appendChild(mark(1, t("node.natural"), "behind"));
  const tried = marks.appendChild(h("span", { class: "mark tried", hidden: true }));
  const element = h("div", { class: "hapax hapax-strength" }, slider, marks);

  function set() {
    setWidget(node, "strength", Number(slider.value));
  }

  /** Follow the widget, and mark the strength that an audit tried. */
  function refresh(feature) {
    slider.value = widgetValue(node, "strength");
    slider.setAttribute("aria-valuetext", String(widgetValue(node, "strength")));
    const same = feature?.push && feature.push.mode === widgetValue(node, "mode");
    const there = same ? feature.push.strength : feature?.strength;
    tried.hidden = !there;
    // Their words would lie on each other.
    natural.hidden = Boolean(there) && Math.abs(there - 1) < CLOSE;
    if (there) {
      tried.style.left = at(there);
      tried.textContent = there;
    }
  }

  return { element, refresh };
}
