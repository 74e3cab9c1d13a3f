// The wall of an audit's features: filters above, cards below, as many as there are.

import { HEIGHT, WIDTH, card } from "./card.js";
import { button, h, later } from "./dom.js";
import { ALL, ORDERS, choose, quoted } from "./features.js";
import { picture } from "./server.js";
import { VirtualGrid } from "./virtual.js";
import { t } from "./words.js";

const RATES = [1, 0.5, 0.15, 0.1, 0.05, 0.02, 0.01];
const SCORES = [0, 0.25, 0.5, 0.75];

/**
 * @param {object} audit as the server gives it
 * @param {object} actions amplify(feature), open(feature, shot, changed)
 * @returns {{element: HTMLElement, end: () => void}}
 */
export function wall(audit, actions) {
  const wanted = { ...ALL };
  const several = audit.prompts.length > 1;
  const tally = h("span", { class: "hapax-tally", role: "status" });
  const all = button(t("wall.reset"), reset);
  const nothing = h("p", { class: "hapax-nothing", hidden: true }, t("wall.nothing"), " ", all);
  const scroller = h("div", { class: "hapax-scroll" }, nothing);
  const prompt = head(audit);
  const tools = h("form", { class: "hapax-tools", on: { input: later(take, 120), submit: (e) => e.preventDefault() } });
  const more = h("div", { class: "hapax-more" });
  const folded = button(t("wall.more"), unfold, { class: "hapax-unfold", "aria-expanded": "false" });
  const height = HEIGHT + (several ? 20 : 0);
  const element = h("div", { class: "hapax-wall" }, prompt, tools, scroller);
  let grid;

  function fill() {
    const [always, sometimes] = fields(audit, several);
    more.replaceChildren(...sometimes);
    tools.replaceChildren(...always, folded, tally, more);
  }

  function unfold() {
    const open = more.classList.toggle("open");
    folded.setAttribute("aria-expanded", open);
  }

  function take() {
    const given = new FormData(tools);
    wanted.text = given.get("text");
    wanted.prompt = given.get("prompt") ?? "";
    wanted.order = given.get("order");
    wanted.findings = given.has("findings");
    wanted.most = Number(given.get("most"));
    wanted.least = Number(given.get("least"));
    show();
  }

  function show(keep = false) {
    const shown = choose(audit, wanted);
    nothing.hidden = shown.length > 0;
    tally.textContent = t("wall.shown", { n: shown.length, all: audit.features.length });
    grid.show(shown, keep);
  }

  function reset() {
    Object.assign(wanted, ALL);
    fill();
    show();
  }

  function draw(feature) {
    const changed = () => grid.redraw(feature);
    return card(audit, feature, {
      amplify: () => actions.amplify(feature),
      open: (shot) => actions.open(feature, shot, changed),
      changed,
    });
  }

  fill();
  grid = new VirtualGrid(scroller, { height, width: WIDTH, draw, label: t("wall.list", { name: audit.name }) });
  // The plane has no size before it is in the page.
  requestAnimationFrame(() => show());
  return { element, end: () => grid.end() };
}

/** What the prompts usually give, as one line of pictures each; the wall shows the exceptions. */
function head(audit) {
  const sheets = audit.prompts.slice(0, 1).map((prompt) => {
    const pictures = prompt.sheet.slice(0, 8).map((number) => h("img", { src: picture(audit, number, 96), alt: "" }));
    return h("div", { class: "hapax-usual" }, h("p", { dir: "auto" }, quoted(prompt.prompt)), h("div", {}, pictures));
  });
  return audit.prompts.length === 1 ? sheets[0] : null;
}

/** What is always there, and what a narrow side bar folds away. */
function fields(audit, several) {
  const option = ([value, text]) => h("option", { value }, text);
  const choice = (name, options, said) => h("select", { name, "aria-label": said, title: said }, options.map(option));
  const orders = ORDERS.map((order) => [order, t(`wall.order.${order}`)]);
  const prompts = audit.prompts.map((prompt, place) => [place, quoted(prompt.prompt)]);
  const rates = RATES.map((rate) => [rate, rate === 1 ? t("wall.any") : `${100 * rate}\u2009%`]);
  const scores = SCORES.map((score) => [score, score ? score.toFixed(2) : t("wall.any")]);
  const findings = h("input", { type: "checkbox", name: "findings" });
  const tip = t("wall.findings.tip", { n: audit.settings.min_support ?? 5 });
  const always = [
    h("input", { type: "search", name: "text", placeholder: t("wall.find"), "aria-label": t("wall.find") }),
    choice("order", orders, t("wall.order")),
  ];
  const sometimes = [
    several && choice("prompt", [["", t("wall.all_prompts")], ...prompts], t("wall.prompt")),
    h("label", { title: tip }, findings, t("wall.findings")),
    h("label", {}, t("wall.rarest"), choice("most", rates, t("wall.rarest"))),
    h("label", {}, t("wall.lowest"), choice("least", scores, t("wall.lowest"))),
  ];
  return [always, sometimes.filter(Boolean)];
}
