// Two audits side by side: what became rarer, what commoner, and whether that is more than chance.

import { viewed } from "./audit.js";
import { thumb } from "./viewer/card.js";
import { copyText } from "./copy.js";
import { details } from "./viewer/detail.js";
import { button, h } from "./viewer/dom.js";
import { csv } from "./viewer/features.js";
import { scale } from "./viewer/rate.js";
import { compareAudits, listAudits } from "./server.js";
import { trying } from "./toast.js";
import { interval, percent, t } from "./viewer/words.js";

const SHOTS = 3;

/** @param {string} before, after ids; one may be "" @param {object} go back(), compare(before, after) */
export function comparison(before, after, { back, compare }) {
  const body = h("div", { class: "hapax-scroll hapax-changes" });
  const choices = h("div", { class: "hapax-sides" });
  let held = [];
  const copy = button(t("compare.csv"), trying((event) => copyText(csv(table(held)), event.currentTarget)), {
    class: "hapax-copy",
  });
  const element = h(
    "div",
    { class: "hapax-wall" },
    h(
      "div",
      { class: "hapax-bar" },
      button(t("tab.back"), back, { icon: "pi-arrow-left", class: "hapax-icon" }),
      h("h3", {}, t("compare.title")),
    ),
    choices,
    body,
  );

  const fill = trying(async () => {
    const found = (await listAudits()).filter((audit) => !audit.problem);
    const side = (value, name, chosen) =>
      h(
        "label",
        {},
        t(`compare.${name}`),
        h(
          "select",
          { name, on: { change: (event) => chosen(event.target.value) } },
          h("option", { value: "" }, t("compare.choose")),
          found.map((audit) => h("option", { value: audit.id, selected: audit.id === value }, audit.name)),
        ),
      );
    choices.replaceChildren(
      side(before, "before", (id) => compare(id, after)),
      button(t("compare.swap"), () => compare(after, before), { icon: "pi-sync", class: "hapax-icon" }),
      side(after, "after", (id) => compare(before, id)),
    );
    if (before && after) await changes();
  });

  async function changes() {
    const [rows, ...sides] = await Promise.all([compareAudits(before, after), viewed(before), viewed(after)]);
    const places = sides.map((audit) => new Map(audit.features.map((feature) => [feature.id, feature])));
    held = rows;
    const nothing = h("p", { class: "hapax-nothing" }, t("compare.none"));
    const rest = rows.length ? rows.map((row) => change(row, sides, places, body)) : nothing;
    body.replaceChildren(summary(rows, copy), h("ul", {}, rest));
  }

  fill();
  return { element, end: () => {} };
}

const kinds = ["commoner", "rarer", "unclear", "after_only", "before_only"];

function kindOf(row) {
  if (!row.before) return "after_only";
  if (!row.after) return "before_only";
  if (!row.clear) return "unclear";
  return row.change > 0 ? "commoner" : "rarer";
}

function summary(rows, copy) {
  const counts = kinds.map((kind) => [kind, rows.filter((row) => kindOf(row) === kind).length]).filter(([, n]) => n);
  const told = counts.map(([kind, n]) => h("span", { class: kind }, h("b", {}, n), ` ${t(`compare.${kind}`)}`));
  return h("div", { class: "hapax-summary", title: t("compare.measure") }, told, copy);
}

function change(row, sides, places, host) {
  const kind = kindOf(row);
  const pictures = ["before", "after"].map((side, place) => {
    const feature = row[side] && places[place].get(row[side].id);
    return h("div", { class: "hapax-strip" }, feature ? shots(sides[place], feature, row.name, host) : "");
  });
  const rates = ["before", "after"].filter((side) => row[side]).map((side) => ({ ...row[side], kind: side }));
  const texts = ["before", "after"].map((side) =>
    row[side] ? `${percent(row[side].rate)} (${interval(row[side].low, row[side].high)})` : t("compare.absent"),
  );
  const told =
    row.change === null
      ? t(`compare.${kind}`)
      : t("compare.points", { points: points(row.change), low: points(row.low), high: points(row.high) });
  return h(
    "li",
    { class: `hapax-change ${kind}` },
    h("div", { class: "hapax-head" }, h("b", { dir: "auto" }, row.name)),
    h("div", { class: "hapax-prompt", dir: "auto" }, row.prompt),
    h(
      "div",
      { class: "hapax-two" },
      h("div", {}, pictures[0], h("span", {}, texts[0])),
      h("div", {}, pictures[1], h("span", {}, texts[1])),
    ),
    scale(...rates),
    h("div", { class: "told" }, told),
  );
}

function points(value) {
  const text = Math.abs(100 * value).toFixed(1);
  const sign = value > 0 ? "+" : "\u2212";
  return Number(text) ? sign + text : text;
}

function shots(audit, feature, name, host) {
  const open = (shot) => details(audit, feature, { host, shot });
  return feature.exemplars.slice(0, SHOTS).map((shot, place) => thumb(audit, shot, name, () => open(place)));
}

function table(rows) {
  const head = ["prompt", "name", "measure", "before", "before_low", "before_high", "after", "after_low", "after_high"];
  const side = (rate) => (rate ? [rate.rate, rate.low, rate.high] : ["", "", ""]);
  const cells = (row) => [row.prompt, row.name, row.measure, ...side(row.before), ...side(row.after)];
  return [
    [...head, "change", "change_low", "change_high", "clear"],
    ...rows.map((row) => [...cells(row), row.change, row.low, row.high, row.clear]),
  ];
}
