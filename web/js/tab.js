// The Hapax tab: a list of audits, one audit's wall, or two audits side by side; in the side bar or over the window.

import { viewed } from "./audit.js";
import { audits } from "./audits.js";
import { comparison } from "./compare.js";
import { button, download, h } from "./viewer/dom.js";
import { zipAddress } from "./server.js";
import { style } from "./style.js";
import { failed } from "./toast.js";
import { t } from "./viewer/words.js";
import { wall } from "./viewer/wall.js";

// Where the tab was when it was left; ComfyUI draws it anew each time.
let last = { page: "list" };

/** Begin with the list the next time. */
export function forget() {
  last = { page: "list" };
}

/** Fill ComfyUI's place for the tab; returns what to call when it closes. */
export function tab(host) {
  const inside = h("div", { class: "hapax-inside" });
  const root = h("section", { class: "hapax", "aria-label": t("tab.title") }, style(), inside);
  const large = h("dialog", { class: "hapax-large", "aria-label": t("tab.title"), on: { close: narrow } });
  let page = { end: () => {} };
  // The wall scrolls by itself, so it has to know its height.
  host.style.height = "100%";
  host.append(root);

  function put(made) {
    page.end();
    page = made;
    inside.replaceChildren(page.element);
    const bar = inside.querySelector(".hapax-bar");
    bar.append(button(t("tab.wide"), resize, { icon: "pi-arrows-h", class: "hapax-icon hapax-wide" }));
    sayWhich();
  }

  function resize() {
    if (large.open) return large.close();
    host.append(large);
    large.append(root);
    large.showModal();
    sayWhich();
  }

  function narrow() {
    host.append(root);
    large.remove();
    sayWhich();
  }

  function sayWhich() {
    const wide = inside.querySelector(".hapax-wide");
    const said = t(large.open ? "tab.narrow" : "tab.wide");
    wide?.setAttribute("title", said);
    wide?.setAttribute("aria-label", said);
  }

  function list() {
    forget();
    put(audits(open));
  }

  async function open(id) {
    inside.setAttribute("aria-busy", "true");
    try {
      const audit = await viewed(id, () => large.open && large.close());
      last = { page: "audit", id };
      put(one(audit, root, { list, compare: () => compare(id) }));
    } catch (error) {
      failed(error);
      list();
    } finally {
      inside.removeAttribute("aria-busy");
    }
  }

  function compare(before, after = "") {
    last = { page: "compare", before, after };
    put(comparison(before, after, { back: () => open(before), compare }));
  }

  if (last.page === "audit") open(last.id);
  else if (last.page === "compare") compare(last.before, last.after);
  else list();
  return () => {
    page.end();
    if (large.open) large.close();
    root.remove();
  };
}

function one(audit, host, { list, compare }) {
  const { element, end } = wall(audit, host);
  const save = () => download(zipAddress(audit.id), "");
  const icons = { class: "hapax-icon" };
  element.prepend(
    h(
      "div",
      { class: "hapax-bar" },
      button(t("tab.back"), list, { ...icons, icon: "pi-arrow-left" }),
      h("h3", { dir: "auto", title: `${audit.name} \u00b7 ${audit.model.name}` }, audit.name),
      button(t("wall.compare"), compare, { icon: "pi-clone", class: "hapax-icon hapax-compare" }),
      button(t("wall.export"), save, { icon: "pi-download", class: "hapax-icon hapax-export" }),
    ),
    ...notices(audit),
  );
  return { element, end };
}

function notices(audit) {
  const said = [];
  if (!audit.usable) said.push(t("wall.unusable"));
  if (audit.problem) said.push(t("wall.problem", { problem: audit.problem }));
  return said.map((text) => h("p", { class: "hapax-notice" }, text));
}
