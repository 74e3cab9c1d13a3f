// The filters above an audit's features.

import { button, h, later } from "./dom.js";
import { ALL, ORDERS, choose, quoted } from "./features.js";
import { t } from "./words.js";

const RATES = [1, 0.5, 0.15, 0.1, 0.05, 0.02, 0.01];
const SCORES = [0, 0.25, 0.5, 0.75];

/**
 * @param {object} audit
 * @param {(features: Array) => void} show called with what passes, in order
 * @returns {{element: HTMLElement, nothing: HTMLElement, show: () => void, reset: () => void}} the filters; what to
 *   say where nothing passes; to show what passes, or everything
 */
export function tools(audit, show) {
  const wanted = { ...ALL };
  const tally = h("span", { class: "hapax-tally", role: "status" });
  const all = button(t("wall.reset"), reset);
  const nothing = h("p", { class: "hapax-nothing", hidden: true }, t("wall.nothing"), " ", all);
  const heard = { input: later(take, 120), submit: (event) => event.preventDefault() };
  const element = h("form", { class: "hapax-tools", on: heard });
  const more = h("div", { class: "hapax-more" });
  const folded = button(t("wall.more"), unfold, { class: "hapax-unfold", "aria-expanded": "false" });

  function fill() {
    const [always, sometimes] = fields(audit);
    more.replaceChildren(...sometimes);
    element.replaceChildren(...always, folded, tally, more);
  }

  function unfold() {
    const open = more.classList.toggle("open");
    folded.setAttribute("aria-expanded", open);
  }

  function take() {
    const given = new FormData(element);
    wanted.text = given.get("text");
    wanted.prompt = given.get("prompt") ?? "";
    wanted.order = given.get("order");
    wanted.findings = given.has("findings");
    wanted.most = Number(given.get("most"));
    wanted.least = Number(given.get("least"));
    shown();
  }

  function shown() {
    const features = choose(audit, wanted);
    nothing.hidden = features.length > 0;
    tally.textContent = t("wall.shown", { n: features.length, all: audit.features.length });
    show(features);
  }

  function reset() {
    Object.assign(wanted, ALL);
    fill();
    shown();
  }

  fill();
  return { element, nothing, show: shown, reset };
}

/** What is always there, and what a narrow side bar folds away. */
function fields(audit) {
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
    audit.prompts.length > 1 && choice("prompt", [["", t("wall.all_prompts")], ...prompts], t("wall.prompt")),
    h("label", { title: tip }, findings, t("wall.findings")),
    h("label", {}, t("wall.rarest"), choice("most", rates, t("wall.rarest"))),
    h("label", {}, t("wall.lowest"), choice("least", scores, t("wall.lowest"))),
  ];
  return [always, sometimes.filter(Boolean)];
}
