// An audit as the viewer takes it: what the server knows, where its pictures are, and what can be done with it here.

import { amplify, openSeed, saveDirection } from "./amplify.js";
import { openAudit, picture, saveLabel } from "./server.js";
import { trying } from "./toast.js";

/**
 * Open an audit for the viewer.
 * @param {string} id
 * @param {() => void} amplified called when a feature was turned up in the graph
 */
export async function viewed(id, amplified = () => {}) {
  const audit = await openAudit(id);
  const rename = async (feature, text) => (audit.names = await saveLabel(id, feature.id, text));
  const turnUp = async (feature) => {
    await amplify(audit, feature);
    amplified();
  };
  audit.picture = (number, edge) => picture(audit, number, edge);
  audit.can = { rename: trying(rename), openSeed: trying((seed) => openSeed(audit, seed)) };
  if (audit.usable) {
    audit.can.amplify = trying(turnUp);
    audit.can.saveDirection = trying((feature) => saveDirection(audit, feature));
  }
  return audit;
}
