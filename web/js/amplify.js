// From a picture to the graph: turn a feature up, save it as a direction, open the graph of one picture.

import { app } from "../../../scripts/app.js";
import { nameOf } from "./viewer/features.js";
import { add, asOneStep, graph, insert, modelPath, setWidget, show, widgetValue, wire } from "./graph.js";
import { featuresOf, promptOf } from "./server.js";
import { advised, told } from "./toast.js";
import { t } from "./viewer/words.js";

const STEP = 360;

/** How a feature is named in nodes: by its latent, which no label and no order changes. */
export const wantedOf = (feature) => `latent ${feature.latent}`;

/**
 * Put an Amplify Feature node into the model's path, with Load Features before it. Where the audit turned the feature
 * up in a way which that node doesn't know, the advanced node does it in that way.
 *
 * Where nothing samples, a graph of its own is opened that makes one of the audit's usual pictures.
 */
export async function amplify(audit, feature) {
  const found = await featuresOf(audit.id, feature.prompt);
  const there = modelPath();
  const path = there ?? (await ownGraph(audit, feature));
  asOneStep(() => {
    const first = path?.targets[0]?.node ?? path?.source;
    const [x, y] = first ? [first.pos[0] - (path.targets.length ? STEP : -STEP), first.pos[1]] : corner();
    const plain = feature.strength ? { strength: feature.strength } : {};
    const values = { feature: wantedOf(feature), ...(feature.push ?? plain) };
    const node = add(feature.push ? "HapaxAmplifyFeaturesAdvanced" : "HapaxAmplifyFeature", [x, y], values);
    wire(loader(found, [node.pos[0] - STEP, node.pos[1]]), 0, node, "features");
    if (path) insert(node, path);
    show(node);
  });
  const name = `${t("feature.amplify")}: ${nameOf(audit, feature)}`;
  if (there) told(t("graph.added", { name }));
  else if (path) told(t("graph.own", { name }));
  else advised(t("graph.no_model"));
}

/** The model's path in a graph that makes a picture without the feature; null if the audit can't say how to. */
async function ownGraph(audit, feature) {
  try {
    await openSeed(audit, audit.prompts[feature.prompt].usual_seed);
    return modelPath();
  } catch {
    return null;
  }
}

/** Put the nodes that save a feature as a small file into the graph. */
export async function saveDirection(audit, feature) {
  const found = await featuresOf(audit.id, feature.prompt);
  const name = nameOf(audit, feature);
  asOneStep(() => {
    const source = loader(found, corner());
    const [x, y] = source.pos;
    const made = add("HapaxFeatureToDirection", [x + STEP, y], { feature: wantedOf(feature) });
    const saved = add("HapaxSaveDirection", [made.pos[0] + STEP, made.pos[1]], { filename: fileName(name) });
    wire(source, 0, made, "features");
    wire(made, 0, saved, "direction");
    show(saved);
  });
  told(t("graph.added", { name: `${t("feature.direction")}: ${name}` }));
}

/** Open a graph of its own that makes the picture of a seed again. */
export async function openSeed(audit, seed) {
  const prompt = await promptOf(audit.id, seed);
  await app.loadApiJson(prompt, `${audit.name.replaceAll("/", " ")} ${t("wall.seed", { seed })}`);
  // Else the frontend draws another seed after each run, and no two pictures can be compared.
  for (const node of graph()._nodes) setWidget(node, "control_after_generate", "fixed");
}

/** The Load Features node of these very features: the one that is there, or a new one. */
function loader(found, at) {
  const there = graph()._nodes.find(
    (node) => node.type === "HapaxLoadFeatures" && widgetValue(node, "content") === found.content,
  );
  return there ?? setContent(add("HapaxLoadFeatures", at), found);
}

/** Point a Load Features node at features, also at those that came after the page was loaded. */
function setContent(node, { audit, prompt, content }) {
  const choice = node.widgets.find((widget) => widget.name === "audit");
  const values = choice.options?.values;
  if (Array.isArray(values) && !values.includes(audit)) choice.options.values = [...values, audit];
  choice.value = audit;
  setWidget(node, "prompt", prompt);
  setWidget(node, "content", content);
  return node;
}

function corner() {
  const [x, y, width, height] = app.canvas.visible_area;
  return [x + width * 0.35, y + height * 0.35];
}

function fileName(name) {
  const plain = name.normalize("NFKD").replace(/[^\w-]+/g, "_");
  return plain.replace(/^_+|_+$/g, "").slice(0, 60) || "feature";
}
