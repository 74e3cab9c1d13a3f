// What is asked of the routes under /hapax. Answers that are errors are thrown as their sentence.

import { api } from "../../../scripts/api.js";

async function ask(path, options) {
  const answer = await api.fetchApi(`/hapax/${path}`, options);
  const text = await answer.text();
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    throw new Error(text.slice(0, 300) || answer.statusText);
  }
  if (!answer.ok) throw new Error(body.error ?? answer.statusText);
  return body;
}

const part = encodeURIComponent;

/** All audits, newest first. */
export const listAudits = () => ask("audits");

/** One audit: prompts, features, names that people gave. */
export const openAudit = (id) => ask(`audits/${part(id)}`);

/** What Load Features finds the features of an audit's prompt by: {audit, prompt (from 1), content}. */
export const featuresOf = (id, prompt) => ask(`audits/${part(id)}/features?prompt=${part(prompt)}`);

/** The prompt that makes the picture of a seed again. */
export const promptOf = (id, seed) => ask(`audits/${part(id)}/seeds/${part(seed)}`);

/** Captions of an index in models/hapax that are meant by what is typed. */
export const captionsOf = (index, typed) => ask(`captions?index=${part(index)}&typed=${part(typed)}`);

/** The hash of a file in models/hapax. */
export const contentOf = async (name) => (await ask(`content?name=${part(name)}`)).content;

/** What changed between two audits. */
export const compareAudits = (before, after) => ask(`compare?before=${part(before)}&after=${part(after)}`);

/** Save what a person calls a feature; returns all names. */
export async function saveLabel(id, feature, label) {
  const headers = { "Content-Type": "application/json" };
  const body = JSON.stringify({ feature, label });
  return (await ask(`audits/${part(id)}/label`, { method: "POST", headers, body })).names;
}

/** Import a zip; returns the new audit's {name, id}. */
export function importZip(file) {
  const headers = { "Content-Type": "application/zip" };
  return ask(`import?name=${part(file.name)}`, { method: "POST", headers, body: file });
}

/** The address of an audit's zip. */
export const zipAddress = (id) => api.apiURL(`/hapax/audits/${part(id)}/zip`);

/** The address of a picture by its number. */
export const picture = (audit, number, edge = 96) =>
  api.apiURL(`/hapax/audits/${part(audit.id)}/${part(audit.version)}/pictures/${number}?edge=${edge}`);
