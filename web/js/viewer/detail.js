// Everything about one feature, large: its pictures beside their heatmaps, its numbers, what can be done with it.

import { thumb } from "./card.js";
import { openDialog } from "./dialog.js";
import { button, h } from "./dom.js";
import { nameOf, promptOf, rateOf, zOf } from "./features.js";
import { label } from "./label.js";
import { rateLine } from "./rate.js";
import { interval, percent, t } from "./words.js";

/**
 * @param {object} audit
 * @param {object} feature
 * @param {object} given host: where to put it; shot: which exemplar to begin with; changed(): a label was saved
 */
export function details(audit, feature, { host, shot = 0, changed = () => {} }) {
  const large = h("div", { class: "hapax-pair" });
  const said = h("div", { class: "hapax-caption" });
  const strip = h("div", { class: "hapax-strip" });
  const head = h("div", { class: "hapax-head" });
  const shots = feature.exemplars;
  let at = Math.min(shot, Math.max(0, shots.length - 1));

  function name() {
    const renamed = () => {
      name();
      changed();
    };
    head.replaceChildren(
      h("span", { class: "rank" }, feature.rank),
      label(audit, feature, renamed),
      button(t("detail.close"), () => dialog.close(), { icon: "pi-times", class: "hapax-icon" }),
    );
  }

  function show(step) {
    if (!shots.length) return;
    at = (at + step + shots.length) % shots.length;
    const [seed, activation, image, heat] = shots[at];
    const alt = t("feature.picture", { name: nameOf(audit, feature), seed });
    large.replaceChildren(
      h("img", { src: audit.picture(image, 1024), alt }),
      heat === null ? "" : h("img", { src: audit.picture(heat, 1024), alt: t("feature.heat") }),
    );
    said.replaceChildren(
      h("span", { role: "status" }, t("detail.seed", { seed, activation: activation.toFixed(2) })),
      more(seed, image) ?? "",
    );
    strip.querySelectorAll("button").forEach((each, place) => each.setAttribute("aria-pressed", place === at));
  }

  function more(seed, image) {
    const { openSeed } = audit.can;
    if (!openSeed) return audit.link?.(image);
    const action = async () => (await openSeed(seed)) && dialog.close();
    return button(t("detail.open_seed"), action, { class: "hapax-seed", title: t("detail.open_seed.tip") });
  }

  function pressed(event) {
    if (event.target.matches("input")) return;
    if (event.key === "ArrowRight") show(1);
    if (event.key === "ArrowLeft") show(-1);
  }

  const dialog = openDialog(host, { label: nameOf(audit, feature), kind: "hapax-detail" }, (close) => [
    head,
    h("p", { class: "hapax-prompt", dir: "auto" }, promptOf(audit, feature)),
    large,
    said,
    strip,
    rateLine(rateOf(feature)),
    numbers(feature),
    audit.can.amplify && doing(audit, feature, close),
  ]);
  strip.append(...shots.map((each, place) => thumb(audit, each, nameOf(audit, feature), () => show(place - at))));
  name();
  dialog.addEventListener("keydown", pressed);
  show(0);
}

function doing(audit, feature, close) {
  const then = (action) => () => {
    close();
    action(feature);
  };
  const [turnUp, direction] = [then(audit.can.amplify), then(audit.can.saveDirection)];
  return h(
    "div",
    { class: "hapax-doing" },
    button(t("feature.amplify"), turnUp, { class: "hapax-amplify", title: t("feature.amplify.tip") }),
    button(t("feature.direction"), direction, { title: t("feature.direction.tip"), class: "hapax-direction" }),
  );
}

function numbers(feature) {
  const fires = { count: feature.count, rate: percent(feature.frequency) };
  fires.interval = interval(feature.frequency_low, feature.frequency_high);
  const rows = [
    [t("feature.score"), feature.score.toFixed(3)],
    [t("detail.distinctiveness"), `${feature.distinctiveness.toFixed(3)} (z ${zOf(feature)})`],
    [t("detail.count"), t("detail.count.value", fires)],
    [t("detail.labels"), (feature.labels ?? []).slice(1).map(([text]) => text).join(", ")],
    [t("detail.latents"), [feature.latent, ...(feature.group ?? [])].join(", ")],
  ];
  const known = rows.filter(([, value]) => value);
  return h("dl", {}, known.map(([key, value]) => [h("dt", {}, key), h("dd", { dir: "auto" }, value)]));
}
