// The stylesheets as an element beside what they are for: the page's head belongs to all packs.

import { h } from "./viewer/dom.js";

let rules = "";

/** Read them once, before anything is shown. */
export async function loadStyle() {
  const sheets = ["viewer/viewer.css", "hapax.css"].map((name) => fetch(new URL(name, import.meta.url)));
  const texts = (await Promise.all(sheets)).map((answer) => answer.text());
  rules = (await Promise.all(texts)).join("\n");
}

export const style = () => h("style", {}, rules);
