// Which features a node's `features` input brings, as far as it is known before anything runs.

import { api } from "../../../scripts/api.js";
import { nameOf, rateOf } from "./viewer/features.js";
import { origin, widgetValue } from "./graph.js";
import { listAudits, openAudit, picture } from "./server.js";

// A slider asks often; labels and audits change seldom.
const FRESH = 3000;
const opened = new Map();

/**
 * The features that come into a node: [{wanted, number, name, rate, image, strength, push}]; empty where they aren't known.
 * Of a saved audit they are read; those of Find Rare Features are known once it has run.
 */
export async function featuresInto(node) {
  const source = origin(node, "features")?.node;
  if (source?.type === "HapaxLoadFeatures") return savedIn(widgetValue(source, "audit"), widgetValue(source, "prompt") ?? 1);
  return (source?.hapaxFeatures ?? []).map((feature) => ({ ...feature, image: api.apiURL(view(feature.picture)) }));
}

const view = ({ filename, subfolder, type }) => `/view?${new URLSearchParams({ filename, subfolder, type })}`;

function savedIn(name, prompt) {
  const key = `${prompt} ${name}`;
  if (!opened.has(key)) {
    opened.set(key, read(name, prompt));
    setTimeout(() => opened.delete(key), FRESH);
  }
  return opened.get(key);
}

async function read(name, prompt) {
  const row = (await listAudits()).find((audit) => audit.name === name && !audit.problem);
  if (!row) return [];
  const audit = await openAudit(row.id);
  return audit.features
    .filter((feature) => feature.prompt === prompt - 1)
    .map((feature) => ({
      wanted: `latent ${feature.latent}`,
      number: feature.rank,
      name: nameOf(audit, feature),
      label: feature.label,
      rate: rateOf(feature),
      image: feature.exemplars.length ? picture(audit, feature.exemplars[0][2], 96) : null,
      strength: feature.strength,
      push: feature.push,
    }));
}

/** The feature of a list that a node's text means, as the server understands it; undefined if none or several. */
export function meant(features, text) {
  const plain = text.toLowerCase().split(/\s+/).filter(Boolean).join(" ");
  const named = (feature) => (feature.label ?? feature.wanted).toLowerCase();
  const exact = features.filter((each) => [String(each.number), each.wanted, named(each)].includes(plain));
  const hits = exact.length || !plain ? exact : features.filter((each) => named(each).includes(plain));
  return hits.length === 1 ? hits[0] : undefined;
}
