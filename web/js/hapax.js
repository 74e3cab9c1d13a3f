// What ComfyUI loads: the tab. The nodes' own parts are beside, in files of their own.

import { app } from "../../../scripts/app.js";
import { chooseLanguage } from "./language.js";
import { loadStyle } from "./style.js";
import { tab } from "./tab.js";
import { t } from "./viewer/words.js";

let close = () => {};

app.registerExtension({
  name: "hapax.tab",
  async setup() {
    await Promise.all([chooseLanguage(), loadStyle()]);
    app.extensionManager.registerSidebarTab({
      id: "hapax",
      icon: "pi pi-sparkles",
      title: t("tab.title"),
      tooltip: t("tab.tooltip"),
      type: "custom",
      render: (element) => {
        close();
        close = tab(element);
      },
      destroy: () => close(),
    });
  },
});
