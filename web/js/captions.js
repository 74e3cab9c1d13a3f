// A field that finds captions of an index while one types; what is chosen goes into the node's widget.

import { h, later } from "./viewer/dom.js";
import { asOneStep, origin, setWidget, widgetValue } from "./graph.js";
import { captionsOf } from "./server.js";
import { t } from "./viewer/words.js";

let fields = 0;

/** The row of a node with an `index` input and a widget for a caption. */
export function captions(node, widget) {
  fields += 1;
  const options = h("datalist", { id: `hapax-captions-${fields}` });
  const field = h("input", {
    type: "search",
    placeholder: t("node.find_caption"),
    "aria-label": t("node.find_caption"),
    list: options.id,
    on: { input: later(find, 150), change: take, keydown: (event) => event.stopPropagation() },
  });
  const element = h("div", { class: "hapax hapax-captions" }, field, options);
  let known = [];

  async function find() {
    const source = origin(node, "index")?.node;
    const name = source?.type === "HapaxLoadCaptionIndex" ? widgetValue(source, "index_name") : null;
    known = name ? await captionsOf(name, field.value).catch(() => []) : [];
    options.replaceChildren(...known.map((value) => h("option", { value })));
  }

  function take() {
    if (!known.includes(field.value)) return;
    asOneStep(() => setWidget(node, widget, field.value));
    field.value = "";
  }

  /** It can only look into an index that lies in a file. */
  function refresh() {
    field.disabled = origin(node, "index")?.node.type !== "HapaxLoadCaptionIndex";
    field.title = field.disabled ? t("node.find_caption.how") : "";
  }

  return { element, refresh };
}
