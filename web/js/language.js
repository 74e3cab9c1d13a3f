// The language that ComfyUI is set to, where there is a file of it in viewer/words/.

import { app } from "../../../scripts/app.js";
import { speak } from "./viewer/words.js";

const LANGUAGES = [];

/** Take ComfyUI's language, if it is one that we have. */
export async function chooseLanguage() {
  const wanted = app.extensionManager?.setting?.get?.("Comfy.Locale");
  if (LANGUAGES.includes(wanted)) speak((await import(`./viewer/words/${wanted}.js`)).default);
}
