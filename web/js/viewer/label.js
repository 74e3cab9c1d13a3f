// A feature's name. Where it can be renamed, a click turns it into a field; Enter saves it, Escape leaves it.

import { button, h } from "./dom.js";
import { nameOf } from "./features.js";
import { t } from "./words.js";

const LONGEST = 120;

/**
 * @param {object} audit
 * @param {object} feature
 * @param {() => void} changed called after the label was saved
 */
export function label(audit, feature, changed) {
  const place = h("div", { class: "hapax-label" });
  const own = audit.names[feature.id];
  const tip = own ? t("feature.yours", { label: feature.label ?? t("feature.unnamed") }) : null;
  const said = nameOf(audit, feature);
  const name = h("span", { class: own ? "own" : "", title: tip ?? said, dir: "auto" }, said);
  place.append(name);
  if (audit.can.rename) {
    const action = () => change(place, audit, feature, changed);
    place.append(button(t("feature.rename"), action, { icon: "pi-pencil", class: "hapax-icon hapax-rename" }));
  }
  return place;
}

function change(place, audit, feature, changed) {
  const before = [...place.childNodes];
  const field = h("input", {
    type: "text",
    maxLength: LONGEST,
    value: audit.names[feature.id] ?? feature.label ?? "",
    "aria-label": t("feature.label"),
    placeholder: feature.label ?? t("feature.unnamed"),
    on: { keydown: pressed, blur: () => finish(true) },
  });
  let done = false;

  async function finish(save) {
    if (done) return;
    done = true;
    const wanted = field.value.trim();
    const text = wanted === (feature.label ?? "") ? "" : wanted;
    if (save && text !== (audit.names[feature.id] ?? "") && (await audit.can.rename(feature, text))) {
      changed();
      return;
    }
    place.replaceChildren(...before);
    place.querySelector("button").focus();
  }

  function pressed(event) {
    // Keys that are written here must not reach ComfyUI's shortcuts, nor the arrows of the wall.
    event.stopPropagation();
    if (event.key === "Enter") finish(true);
    if (event.key === "Escape") {
      event.preventDefault();
      finish(false);
    }
  }

  place.replaceChildren(field);
  field.select();
}
