// Changes of the open graph: nodes added, wired and set, each group of changes one step of undo.

import { app } from "../../../scripts/app.js";
import { t } from "./viewer/words.js";

const GAP = 40;
const TITLE = 40;

/** The graph that is seen: a subgraph, where one is open. */
export const graph = () => app.canvas.graph ?? app.graph;

/** Do something as one step of undo. */
export function asOneStep(action) {
  app.canvas.emitBeforeChange();
  try {
    return action();
  } finally {
    app.canvas.emitAfterChange();
    graph().setDirtyCanvas(true, true);
  }
}

/** Add a node with the values of some widgets; it moves down from `at` until it lies on nothing. */
export function add(type, at, values = {}) {
  const node = LiteGraph.createNode(type);
  if (!node) throw new Error(t("graph.missing", { type }));
  graph().add(node);
  for (const [name, value] of Object.entries(values)) setWidget(node, name, value);
  node.pos = free(at, node);
  return node;
}

/** Set a widget as a person does. */
export function setWidget(node, name, value) {
  const widget = node.widgets?.find((each) => each.name === name);
  if (!widget) return;
  widget.value = value;
  widget.callback?.(value, app.canvas, node, node.pos);
}

export const widgetValue = (node, name) => node?.widgets?.find((each) => each.name === name)?.value;

/** Wire an output to an input by its name. */
export function wire(source, output, target, input) {
  return source.connect(output, target, target.findInputSlot(input));
}

/** Where a link comes from: {node, slot}; reroutes are followed to their source. */
export function origin(node, input) {
  const slot = node.inputs?.[typeof input === "string" ? node.findInputSlot(input) : input];
  const link = slot?.link === null || slot?.link === undefined ? null : linkOf(slot.link);
  if (!link) return null;
  const source = graph().getNodeById(link.origin_id);
  if (source?.type === "Reroute") return origin(source, 0);
  return source ? { node: source, slot: link.origin_slot } : null;
}

function linkOf(id) {
  const { _links: kept, links } = graph();
  return kept?.get?.(id) ?? links?.get?.(id) ?? links?.[id];
}

function free([x, y], node) {
  const [width, height] = node.size;
  const others = graph()._nodes.filter((other) => other !== node);
  const hit = (top) =>
    others.find(
      ({ pos, size }) =>
        x < pos[0] + size[0] + GAP / 2 &&
        pos[0] < x + width + GAP / 2 &&
        top - TITLE < pos[1] + size[1] + GAP / 2 &&
        pos[1] - TITLE < top + height + GAP / 2,
    );
  let top = y;
  for (let other = hit(top); other; other = hit(top)) top = other.pos[1] + other.size[1] + TITLE + GAP / 2 + 1;
  return [x, top];
}

const isModel = (slot) => slot?.type === "MODEL";
const modelInput = (node) => (node.inputs ?? []).findIndex((slot) => isModel(slot) && slot.link != null);
const modelOutput = (node) => (node.outputs ?? []).findIndex(isModel);

/**
 * Where the model's path is to be cut: {source, slot, targets: [{node, input}]}.
 *
 * Of what is selected, a node that gives a model is cut behind, one that only takes it is cut before. If nothing is,
 * all that samples has to take it from one place. Recorders of Hapax don't count: they are to see the model as it is.
 *
 * @returns null where there is no path
 * @throws where there are several
 */
export function modelPath() {
  const nodes = graph()._nodes;
  const picked = [...(app.canvas.selectedItems ?? [])].filter((each) => each.inputs || each.outputs);
  const behind = picked.find((node) => modelOutput(node) >= 0);
  const before = picked.filter((node) => modelOutput(node) < 0 && modelInput(node) >= 0);
  if (behind && !before.length) {
    const slot = modelOutput(behind);
    return { source: behind, slot, targets: takers(nodes, behind, slot) };
  }
  const ends = nodes.filter((node) => modelOutput(node) < 0 && modelInput(node) >= 0 && !node.type.startsWith("Hapax"));
  const chosen = (before.length ? before : ends).map((node) => ({ node, input: modelInput(node) }));
  const sources = chosen.map(({ node, input }) => origin(node, input)).filter(Boolean);
  if (!sources.length) return null;
  const [{ node: source, slot }] = sources;
  if (sources.some((each) => each.node !== source || each.slot !== slot)) throw new Error(t("graph.many_models"));
  return { source, slot, targets: chosen };
}

function takers(nodes, source, slot) {
  const found = [];
  for (const node of nodes) {
    for (const [input, each] of (node.inputs ?? []).entries()) {
      const link = each.link == null ? null : linkOf(each.link);
      if (link && link.origin_id === source.id && link.origin_slot === slot) found.push({ node, input });
    }
  }
  return found;
}

/** Put a node with a model going in and out into a path. */
export function insert(node, { source, slot, targets }) {
  source.connect(slot, node, node.findInputSlot("model"));
  for (const { node: target, input } of targets) node.connect(0, target, input);
}

/** Select a node, and show it if it is out of sight. */
export function show(node) {
  app.canvas.deselectAll?.();
  app.canvas.selectNode?.(node);
  const [left, top, width, height] = app.canvas.visible_area;
  const [x, y] = node.pos;
  const inside = x > left && y > top && x + node.size[0] < left + width && y + node.size[1] < top + height;
  if (!inside) app.canvas.centerOnNode?.(node);
}
