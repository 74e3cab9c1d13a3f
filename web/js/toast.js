// Short messages in ComfyUI's own corner, or, where a dialog lies over it, in the dialog.

import { app } from "../../../scripts/app.js";
import { h } from "./viewer/dom.js";
import { t } from "./viewer/words.js";

function tell(severity, summary, detail, life) {
  const above = [...document.querySelectorAll("dialog[open].hapax, dialog[open].hapax-large")].pop();
  if (!above) return app.extensionManager.toast.add({ severity, summary, detail, life });
  const said = h("p", { class: `hapax hapax-toast ${severity}`, role: "alert" }, detail);
  above.append(said);
  setTimeout(() => said.remove(), life);
}

/** Say that something went well. */
export const told = (detail) => tell("success", "Hapax", detail, 5000);

/** Say what there is to do. */
export const advised = (detail) => tell("warn", "Hapax", detail, 9000);

/** Say what went wrong. */
export function failed(error) {
  tell("error", t("graph.failed"), error.message ?? String(error), 12000);
}

/** An action of a button that says so when it fails; whether it went well comes back. */
export const trying =
  (action) =>
  async (...given) => {
    try {
      await action(...given);
      return true;
    } catch (error) {
      failed(error);
      return false;
    }
  };
