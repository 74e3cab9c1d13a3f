// The feature of a node as a picture: what is chosen, and a dialog of all pictures to choose from.

import { openDialog } from "./viewer/dialog.js";
import { button, h } from "./viewer/dom.js";
import { asOneStep, setWidget, widgetValue } from "./graph.js";
import { rateLine } from "./viewer/rate.js";
import { featuresInto, meant } from "./source.js";
import { trying } from "./toast.js";
import { percent, t } from "./viewer/words.js";

/** The row of a node with a `feature` widget; `several` lines may be chosen where it is a list. */
export function picker(node, several) {
  const image = h("img", { alt: "", hidden: true });
  const text = h("span", { class: "said" });
  const ask = button(t("node.choose"), trying(open), { class: "hapax-choosing" });
  const element = h("div", { class: "hapax hapax-picker" }, image, text, ask);

  async function refresh() {
    const features = await featuresInto(node).catch(() => []);
    const wanted = String(widgetValue(node, "feature") ?? "");
    const found = meant(features, wanted.split("\n")[0].replace(/:\s*[-\d.]+\s*$/, ""));
    image.hidden = !found?.image;
    if (found?.image) image.src = found.image;
    if (found) text.replaceChildren(h("b", { dir: "auto" }, found.name), h("small", {}, percent(found.rate.rate)));
    else text.replaceChildren(h("small", {}, features.length ? t("node.unknown", { wanted }) : t("node.no_source")));
    ask.disabled = !features.length;
    return found;
  }

  async function open() {
    choose(element, await featuresInto(node), (feature) => {
      const before = String(widgetValue(node, "feature") ?? "");
      // "1" is what a new node begins with.
      const more = several && !["", "1"].includes(before.trim());
      const wanted = more ? `${before.trimEnd()}\n${feature.wanted}` : feature.wanted;
      asOneStep(() => setWidget(node, "feature", wanted));
      refresh();
    });
  }

  return { element, refresh };
}

function choose(host, features, chosen) {
  openDialog(host, { label: t("node.choose.title"), kind: "hapax-choose" }, (close) => {
    const pick = (feature) => () => {
      close();
      chosen(feature);
    };
    const choices = features.map((each) => choice(each, pick(each)));
    return [h("h3", {}, t("node.choose.title")), h("div", { class: "hapax-choices" }, choices)];
  });
}

const choice = (feature, pick) =>
  h(
    "button",
    { type: "button", class: "hapax-choice", on: { click: pick } },
    feature.image ? h("img", { src: feature.image, alt: "" }) : h("span", { class: "hole" }),
    h("b", { dir: "auto" }, feature.name),
    rateLine(feature.rate),
  );
