// What Hapax's nodes show inside of ComfyUI: a picker of features, a slider, tables.

import { app } from "../../../scripts/app.js";
import { captions } from "./captions.js";
import { later } from "./viewer/dom.js";
import { setWidget, widgetValue } from "./graph.js";
import { picker } from "./picker.js";
import { contentOf, featuresOf, listAudits } from "./server.js";
import { strength } from "./strength.js";
import { style } from "./style.js";
import { table } from "./table.js";

// Nodes that take a feature, and whether several.
const PICKED = {
  HapaxAmplifyFeature: false,
  HapaxAmplifyFeaturesAdvanced: true,
  HapaxFeatureToDirection: false,
  HapaxShowFeature: false,
};
// Nodes that load a file which the workflow knows by its content, and the widget with its name.
const NAMED = {
  HapaxLoadFeatures: "audit",
  HapaxLoadSAE: "sae_name",
  HapaxLoadDirection: "direction_name",
  HapaxLoadCaptionIndex: "index_name",
  HapaxLoadInvDiffGuidance: "guidance_name",
};
const PUSHED = ["HapaxAmplifyFeature", "HapaxAmplifyFeaturesAdvanced", "HapaxApplyDirection"];

app.registerExtension({
  name: "hapax.nodes",
  nodeCreated(node) {
    const type = node.comfyClass ?? "";
    if (!type.startsWith("Hapax")) return;
    if (type in NAMED) fillContent(node, NAMED[type]);
    const parts = [];
    if (type in PICKED) parts.push(put(node, "hapax_picture", picker(node, PICKED[type]), 48, 48));
    if (PUSHED.includes(type)) parts.push(put(node, "hapax_strength", strength(node), 40, 40));
    if (type === "HapaxLookUpCaption") parts.push(put(node, "hapax_captions", captions(node, "caption"), 32, 32));
    if (parts.length) keepUp(node, parts);
    showTables(node);
  },
});

/** Add a part below the widgets: it is not saved with the workflow and not sent with the prompt. */
function put(node, name, part, least, most) {
  part.element.append(style());
  const widget = node.addDOMWidget(name, "HAPAX", part.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => least,
    getMaxHeight: () => most,
  });
  widget.serialize = false;
  return part;
}

// Pickers anywhere may show what a node that loads or finds features has come to know.
const watching = new Set();
const knowMore = () => watching.forEach((refresh) => refresh());

/** Refresh the parts when a widget or a wire changes, and when it is known which features there are. */
function keepUp(node, parts) {
  const refresh = later(async () => {
    let found;
    for (const part of parts) found = (await part.refresh(found)) ?? found;
  }, 50);
  const shown = node.widgets.filter((widget) => ["feature", "strength", "mode"].includes(widget.name));
  for (const widget of shown) after(widget, "callback", refresh);
  after(node, "onConnectionsChange", refresh);
  after(node, "onConfigure", () => {
    fitted(node);
    refresh();
  });
  watching.add(refresh);
  after(node, "onRemoved", () => watching.delete(refresh));
  fitted(node);
  refresh();
}

/** Workflows saved before a part was there know a size without it. */
function fitted(node) {
  const [width, height] = node.computeSize();
  node.setSize([Math.max(width, node.size[0]), Math.max(height, node.size[1])]);
}

/** Let an action follow a method. */
function after(owner, method, action) {
  const before = owner[method];
  owner[method] = function (...given) {
    const result = before?.apply(this, given);
    action.apply(this, given);
    return result;
  };
}

/**
 * Choosing a file by hand takes its content along, so that the workflow means this very file everywhere; so does a new
 * node with the file that it begins with. A workflow that is being loaded brings the content that it means.
 */
function fillContent(node, name) {
  const choice = node.widgets.find((widget) => widget.name === name);
  // An audit has a file for each of its prompts.
  const number = node.widgets.find((widget) => widget.name === "prompt");
  const ask = name === "audit" ? contentOfAudit : contentOf;
  let loaded = false;
  after(node, "onConfigure", () => (loaded = true));
  // Newer frontends keep the widgets' values by the nodes' numbers, also of nodes that are long gone.
  let fresh = true;
  after(node, "onAdded", () => {
    if (fresh && !loaded) {
      if (number) number.value = 1;
      setWidget(node, "content", "");
    }
    fresh = false;
  });
  const fill = async (wanted) => {
    const state = () => [choice.value, number?.value, widgetValue(node, "content")].join("\n");
    const before = state();
    const found = await ask(choice.value, number?.value).catch(() => null);
    if (found && wanted() && state() === before) setWidget(node, "content", found);
    knowMore();
  };
  for (const widget of [choice, number]) if (widget) after(widget, "callback", () => fill(() => true));
  // Whatever loads the node into a graph configures it right after making it.
  setTimeout(() => loaded || widgetValue(node, "content") || fill(() => !loaded), 0);
}

async function contentOfAudit(name, prompt) {
  const row = (await listAudits()).find((audit) => audit.name === name);
  return row && (await featuresOf(row.id, prompt - 1)).content;
}

/** What a run leaves for the browser: tables, and the features that pickers further on choose from. */
function showTables(node) {
  let shown;
  after(node, "onExecuted", (output) => {
    if (output?.hapax_features) {
      node.hapaxFeatures = output.hapax_features;
      knowMore();
    }
    const [rows] = output?.hapax_table ?? [];
    if (!rows) return;
    if (!shown) {
      shown = table(() => node.title);
      put(node, "hapax_table", shown, 32, 32);
      fitted(node);
    }
    shown.fill(rows);
  });
}
