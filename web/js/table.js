// The table that a node made: a row in the node that opens it and copies it as CSV.

import { copyText } from "./copy.js";
import { openDialog } from "./viewer/dialog.js";
import { button, h } from "./viewer/dom.js";
import { csv } from "./viewer/features.js";
import { trying } from "./toast.js";
import { t } from "./viewer/words.js";

/** The row for a node with a title; `fill` takes rows of cells, the first one being the head. */
export function table(title) {
  let held = [];
  const said = h("span", { class: "said" });
  const copy = trying((event) => copyText(csv(held), event.currentTarget));
  const element = h(
    "div",
    { class: "hapax hapax-table" },
    said,
    button(t("node.show"), () => open(element, title(), held, copy)),
    button(t("node.copy"), copy, { class: "hapax-copy" }),
  );

  function fill(rows) {
    held = rows;
    said.textContent = t("node.rows", { n: rows.length - 1 });
  }

  return { element, fill };
}

function open(host, title, [head, ...rest], copy) {
  openDialog(host, { label: title, kind: "hapax-choose" }, (close) => [
    h(
      "div",
      { class: "hapax-head" },
      h("h3", {}, title),
      button(t("node.copy"), copy, { class: "hapax-copy" }),
      button(t("detail.close"), close, { icon: "pi-times", class: "hapax-icon" }),
    ),
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, rest.map((row) => h("tr", {}, row.map(cell)))),
    ),
  ]);
}

const cell = (value) =>
  typeof value === "number" ? h("td", { class: "number" }, rounded(value)) : h("td", { dir: "auto" }, value);
const rounded = (value) => (Number.isInteger(value) ? String(value) : value.toPrecision(3));
