// What is known of a feature, and which features are shown in which order. Nothing here touches the page.

import { t } from "./words.js";

/** The name: what a person called it, else its label, else "unnamed feature". */
export const nameOf = (audit, feature) => audit.names[feature.id] || feature.label || t("feature.unnamed");

/** How often: {rate, low, high, shows}; by its look where that was counted, else by firing. */
export function rateOf(feature) {
  const { prevalence: seen } = feature;
  if (seen) return { rate: seen.rate, low: seen.low, high: seen.high, shows: true };
  return { rate: feature.frequency, low: feature.frequency_low, high: feature.frequency_high, shows: false };
}

/** By how many standard deviations its look exceeds chance; a dash where nothing spread. */
export const zOf = ({ distinctiveness_z: z }) => z?.toFixed(1) ?? "\u2013";

/** A prompt in quotes; the empty one is named. */
export const promptOf = (audit, feature) => quoted(audit.prompts[feature.prompt]?.prompt ?? "");
export const quoted = (prompt) => (prompt.trim() ? `\u201c${prompt}\u201d` : t("audits.empty_prompt"));

/** What the text filter looks into. */
const wordsOf = (audit, feature) =>
  [nameOf(audit, feature), feature.label, promptOf(audit, feature), `latent ${feature.latent}`].join(" ").toLowerCase();

const orders = {
  // Scores are normalised within a prompt, so ranks are what prompts can be compared by.
  score: () => (a, b) => a.rank - b.rank || a.prompt - b.prompt,
  rare: () => (a, b) => rateOf(a).rate - rateOf(b).rate || a.rank - b.rank,
  common: () => (a, b) => rateOf(b).rate - rateOf(a).rate || a.rank - b.rank,
  distinct: () => (a, b) => b.distinctiveness_z - a.distinctiveness_z || a.rank - b.rank,
  name: (audit) => (a, b) => nameOf(audit, a).localeCompare(nameOf(audit, b)) || a.rank - b.rank,
};

export const ORDERS = Object.keys(orders);
export const ALL = { text: "", prompt: "", findings: false, most: 1, least: 0, order: "score" };

/** The features that pass a filter such as `ALL`, sorted. */
export function choose(audit, { text, prompt, findings, most, least, order }) {
  const wanted = text.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const kept = audit.features.filter(
    (feature) =>
      (prompt === "" || feature.prompt === Number(prompt)) &&
      (!findings || feature.finding) &&
      rateOf(feature).rate <= most &&
      feature.score >= least &&
      (!wanted.length || hasAll(wordsOf(audit, feature), wanted)),
  );
  return kept.sort(orders[order](audit));
}

const hasAll = (words, wanted) => wanted.every((word) => words.includes(word));

/** Rows of cells as CSV (RFC 4180); what a spreadsheet would take for a formula is kept a text. */
export function csv(rows) {
  const cell = (value) => {
    const text = String(value ?? "");
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\r\n");
}
