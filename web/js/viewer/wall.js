// The wall of an audit's features: filters above, cards below, as many as there are.

import { HEIGHT, WIDTH, card } from "./card.js";
import { details } from "./detail.js";
import { h } from "./dom.js";
import { quoted } from "./features.js";
import { tools } from "./tools.js";
import { VirtualGrid } from "./virtual.js";
import { t } from "./words.js";

/**
 * @param {object} audit
 * @param {HTMLElement} host where dialogs go
 * @returns {{element: HTMLElement, end: () => void}}
 */
export function wall(audit, host) {
  const filters = tools(audit, (features) => grid.show(features));
  const scroller = h("div", { class: "hapax-scroll" }, filters.nothing);
  const height = HEIGHT + (audit.prompts.length > 1 ? 20 : 0);

  function draw(feature) {
    const changed = () => grid.redraw(feature);
    return card(audit, feature, { open: (shot) => details(audit, feature, { host, shot, changed }), changed });
  }

  const grid = new VirtualGrid(scroller, { height, width: WIDTH, draw, label: t("wall.list", { name: audit.name }) });
  // The plane has no size before it is in the page.
  requestAnimationFrame(() => filters.show());
  return { element: h("div", { class: "hapax-wall" }, head(audit), filters.element, scroller), end: () => grid.end() };
}

/** What the prompts usually give, as one line of pictures each; the wall shows the exceptions. */
function head(audit) {
  const [prompt, ...others] = audit.prompts;
  if (others.length) return null;
  // One picture is a whole sheet of them.
  const edge = prompt.sheet.length > 1 ? 96 : 1024;
  const pictures = prompt.sheet.slice(0, 8).map((number) => h("img", { src: audit.picture(number, edge), alt: "" }));
  return h("div", { class: "hapax-usual" }, h("p", { dir: "auto" }, quoted(prompt.prompt)), h("div", {}, pictures));
}

