// Elements out of plain values. Texts are set as texts, so that no label or name is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element.
 * @param {string} tag such as "div"
 * @param {object} [given] properties by name; `class`, `role`, `aria-*`, `data-*`, `style` and others with a dash are
 *   attributes, `on` holds listeners by event. What is null, undefined or false is left out.
 * @param {...(Node|string|number|null|false|Array)} children texts and elements; lists are taken apart
 */
export function h(tag, given = {}, ...children) {
  return filled(document.createElement(tag), given, children);
}

/** The same for SVG, where everything is an attribute. */
export function svg(tag, given = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), given, children);
}

function filled(element, { on = {}, ...given }, children) {
  for (const [name, value] of Object.entries(given)) set(element, name, value);
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function set(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  const property = name in element && !/[-]|^(class|role|style|list)$/.test(name) && element.namespaceURI !== SVG;
  if (property) element[name] = value;
  else element.setAttribute(name, value === true ? "" : value);
}

/** A button; `said` is its text, or what a screen reader says where `icon` stands for it. */
export function button(said, action, { icon, ...given } = {}) {
  const inside = icon ? h("i", { class: `pi ${icon}`, "aria-hidden": "true" }) : said;
  const names = icon ? { title: said, "aria-label": said } : {};
  return h("button", { type: "button", ...names, ...given, on: { click: action } }, inside);
}

/** A link that saves a file, clicked. */
export function download(address, name) {
  h("a", { href: address, download: name }).click();
}

/** Wait with what follows fast typing. */
export function later(action, milliseconds) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...given), milliseconds);
  };
}
