// A feature's name, which a click turns into a field; Enter saves it on the server, Escape leaves it.

import { button, h } from "./dom.js";
import { nameOf } from "./features.js";
import { saveLabel } from "./server.js";
import { failed } from "./toast.js";
import { t } from "./words.js";

const LONGEST = 120;

/**
 * @param {object} audit whose `names` are brought up to date
 * @param {object} feature
 * @param {() => void} changed called after the label was saved
 */
export function label(audit, feature, changed) {
  const place = h("div", { class: "hapax-label" });
  const own = audit.names[feature.id];
  const tip = own ? t("feature.yours", { label: feature.label ?? t("feature.unnamed") }) : null;
  const said = nameOf(audit, feature);
  const name = h("span", { class: own ? "own" : "", title: tip ?? said, dir: "auto" }, said);
  const edit = button(t("feature.rename"), () => change(place, audit, feature, changed), {
    icon: "pi-pencil",
    class: "hapax-icon hapax-rename",
  });
  place.append(name, edit);
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
    if (save && text !== (audit.names[feature.id] ?? "")) {
      try {
        audit.names = await saveLabel(audit.id, feature.id, text);
        changed();
        return;
      } catch (error) {
        failed(error);
      }
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
