// Filter, sort, enlarge, copy: the viewer of the browser side over cards that are there without it.

import { details } from "../../web/js/viewer/detail.js";
import { button, download, h } from "../../web/js/viewer/dom.js";
import { tools } from "../../web/js/viewer/tools.js";

const $ = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
document.documentElement.classList.add("js");

/** The element that holds the data of a drawn picture. */
const stored = (drawn) => document.getElementById($("use", drawn).getAttribute("href").slice(1));

function link(image) {
  const { file } = image.dataset;
  return h("a", { href: file }, decodeURIComponent(file));
}

const cards = new Map();
const prompts = all(".prompt");

/** A feature as the viewer takes it, its pictures in place of their paths. */
function read(feature, prompt) {
  const card = document.getElementById(`feature-${feature.id}`);
  const shots = all(".shot", card).map((shot, place) => {
    const [image, heat] = all(".pic", shot).map(stored);
    const { seed, activation } = feature.exemplars[place];
    return [seed, activation, image, heat ?? null];
  });
  const made = { ...feature, prompt, rank: Number(card.dataset.rank), exemplars: shots };
  cards.set(made, card);
  return made;
}

const numbers = JSON.parse($("#audit").textContent);
const audit = {
  ...numbers,
  names: {},
  features: numbers.prompts.flatMap(({ features }, prompt) => features.map((feature) => read(feature, prompt))),
  can: {},
  picture: (image) => image.getAttribute("href"),
  link,
};

// Scores are normalised within a prompt, so each prompt is sorted by itself.
function show(features) {
  const shown = new Set(features);
  for (const [feature, card] of cards) card.hidden = !shown.has(feature);
  for (const feature of features) $(".cards", prompts[feature.prompt]).append(cards.get(feature));
  const filtered = shown.size < cards.size;
  for (const prompt of prompts) prompt.hidden = filtered && !$(".feature:not([hidden])", prompt);
}

const filters = tools(audit, show);
$("#filters").replaceChildren(filters.element, filters.nothing);
filters.show();

// A link to a card that the filter hides would lead nowhere.
function reveal() {
  const card = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (!card || !card.closest("[hidden]")) return;
  filters.reset();
  card.scrollIntoView();
}

// Pictures that are no exemplars.
const dialog = h("dialog", { class: "enlarged", "aria-label": "One picture, large" });
const large = h("div", { class: "large" });
const caption = h("p");
let shots = [];
let place = 0;

function picture(drawn) {
  const alt = $("title", drawn)?.textContent ?? "The same with its heatmap";
  return h("img", { src: audit.picture(stored(drawn)), class: drawn.classList.contains("px") ? "px" : "", alt });
}

function step(by) {
  place = (place + by + shots.length) % shots.length;
  const pictures = all(".pic", shots[place]);
  large.replaceChildren(...pictures.map(picture));
  caption.replaceChildren($("title", pictures[0]).textContent, h("br"), link(stored(pictures[0])));
}

function enlarge(chosen) {
  const card = chosen.closest(".strip") && chosen.closest(".feature");
  if (card) {
    const feature = [...cards].find(([, each]) => each === card)[0];
    return details(audit, feature, { host: document.body, shot: all(".shot", card).indexOf(chosen) });
  }
  shots = all(".shot", chosen.closest(".pairs, .samples"));
  place = shots.indexOf(chosen);
  step(0);
  dialog.showModal();
}

const close = button("Close", () => dialog.close());
close.autofocus = true;
const turns = [button("Previous", () => step(-1)), button("Next", () => step(1)), close];
dialog.append(large, h("div", { class: "bar" }, caption, turns));
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
document.body.append(dialog);
document.addEventListener("click", (event) => {
  const chosen = event.target.closest(".strip .shot, .pairs .shot, .samples .shot");
  if (chosen) enlarge(chosen);
});
for (const strip of all(".strip, .pairs")) {
  strip.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    // Else the same key press would go on to the button that gets the focus, and close again.
    event.preventDefault();
    enlarge($(".shot", strip));
  });
}

$("#copy").addEventListener("click", async (event) => {
  try {
    await navigator.clipboard.writeText($("#reproduce code").textContent);
    event.target.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren($("#reproduce code"));
    event.target.textContent = "Selected";
  }
});
$("#save").addEventListener("click", () => {
  const address = URL.createObjectURL(new Blob([$("#audit").textContent], { type: "application/json" }));
  download(address, "audit-shown.json");
  URL.revokeObjectURL(address);
});

addEventListener("hashchange", reveal);
