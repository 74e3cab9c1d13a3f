// The stylesheet as an element beside what it is for: the page's head belongs to all packs.

import { h } from "./dom.js";

let rules = "";

/** Read it once, before anything is shown. */
export async function loadStyle() {
  rules = await (await fetch(new URL("hapax.css", import.meta.url))).text();
}

export const style = () => h("style", {}, rules);
