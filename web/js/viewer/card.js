// One feature as a card: its name, its pictures with heatmaps on hover, how often it shows, what can be done with it.

import { button, h } from "./dom.js";
import { nameOf, promptOf, rateOf, zOf } from "./features.js";
import { label } from "./label.js";
import { rateLine } from "./rate.js";
import { t } from "./words.js";

export const HEIGHT = 204;
export const WIDTH = 288;
const SHOTS = 5;

/**
 * @param {object} audit
 * @param {object} feature
 * @param {object} actions open(shot): what a click on a picture does; changed(): a label was saved
 */
export function card(audit, feature, actions) {
  const open = (event) => {
    if (event.key === "Enter" && event.target === event.currentTarget) actions.open(0);
  };
  const name = nameOf(audit, feature);
  return h(
    "div",
    { class: `hapax-card${feature.finding ? " finding" : ""}`, "aria-label": name, on: { keydown: open } },
    h(
      "div",
      { class: "hapax-head" },
      h("span", { class: "rank" }, feature.rank),
      label(audit, feature, actions.changed),
    ),
    audit.prompts.length > 1 && h("div", { class: "hapax-prompt", dir: "auto" }, promptOf(audit, feature)),
    strip(audit, feature, name, actions.open),
    rateLine(rateOf(feature)),
    h(
      "div",
      { class: "hapax-foot" },
      number("score", feature.score.toFixed(2)),
      number("z", zOf(feature)),
      audit.can.amplify && turnUp(audit, feature),
      button(t("feature.open"), () => actions.open(0), { icon: "pi-window-maximize", class: "hapax-icon" }),
    ),
  );
}

const turnUp = (audit, feature) =>
  button(t("feature.amplify"), () => audit.can.amplify(feature), {
    class: "hapax-amplify",
    title: t("feature.amplify.tip"),
  });

const number = (key, value) =>
  h("span", { class: "number", title: t(`feature.${key}.tip`) }, `${t(`feature.${key}`)} `, h("b", {}, value));

function strip(audit, feature, name, open) {
  const shots = feature.exemplars.slice(0, SHOTS).map((shot, place) => thumb(audit, shot, name, () => open(place)));
  return h("div", { class: "hapax-strip" }, shots);
}

/** An exemplar that shows its heatmap while the mouse or the focus is on it. */
export function thumb(audit, [seed, , image, heat], name, action, edge = 96) {
  const said = t("feature.picture", { name, seed });
  const over = heat === null ? null : h("img", { class: "heat", alt: "", decoding: "async" });
  // Only now is it loaded: of thousands of heatmaps few are looked at.
  const lit = () => over && !over.src && (over.src = audit.picture(heat, edge));
  return h(
    "button",
    {
      type: "button",
      class: "hapax-shot",
      title: t("wall.seed", { seed }),
      "aria-label": said,
      on: { click: action, pointerenter: lit, focus: lit },
    },
    h("img", { src: audit.picture(image, edge), alt: "", decoding: "async" }),
    over,
  );
}
