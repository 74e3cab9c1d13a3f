// The list of audits in the output folder, newest first; a zip is imported by choosing or dropping it.

import { button, h } from "./viewer/dom.js";
import { quoted } from "./viewer/features.js";
import { importZip, listAudits, picture } from "./server.js";
import { told, trying } from "./toast.js";
import { t } from "./viewer/words.js";

/** @param {(id: string) => void} open what a click on an audit does */
export function audits(open) {
  const list = h("ul", { class: "hapax-audits" });
  const file = h("input", { type: "file", accept: ".zip,application/zip", hidden: true, on: { change: chosen } });
  const reload = trying(async () => list.replaceChildren(...rows(await listAudits(), open)));

  async function take(given) {
    if (!given.name.toLowerCase().endsWith(".zip")) throw new Error(t("audits.not_zip", { name: given.name }));
    const made = await importZip(given);
    told(t("audits.imported", { name: made.name }));
    open(made.id);
  }

  function chosen() {
    const [given] = file.files;
    file.value = "";
    if (given) trying(() => take(given))();
  }

  const over = (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    element.classList.add("dropping");
  };
  const drop = trying(async (event) => {
    element.classList.remove("dropping");
    const [given] = event.dataTransfer.files;
    if (!given) return;
    event.preventDefault();
    // ComfyUI takes what falls onto its page for a workflow.
    event.stopPropagation();
    await take(given);
  });
  const element = h(
    "div",
    {
      class: "hapax-list",
      "data-drop": t("audits.drop"),
      on: { dragover: over, dragleave: () => element.classList.remove("dropping"), drop },
    },
    h(
      "div",
      { class: "hapax-bar" },
      h("h3", {}, t("audits.title")),
      button(t("audits.import"), () => file.click(), { icon: "pi-upload", class: "hapax-icon hapax-import" }),
      button(t("audits.reload"), reload, { icon: "pi-refresh", class: "hapax-icon" }),
      file,
    ),
    list,
  );
  reload();
  return { element, end: () => {} };
}

function rows(found, open) {
  const none = [h("b", {}, t("audits.none")), h("p", {}, t("audits.how"))];
  if (!found.length) return [h("li", { class: "hapax-nothing" }, none)];
  return found.map((audit) => h("li", {}, audit.problem ? broken(audit) : whole(audit, open)));
}

const broken = ({ name, problem }) =>
  h("div", { class: "hapax-audit broken" }, h("b", { dir: "auto" }, name), h("p", {}, problem));

function whole(audit, open) {
  const counts = t("audits.counts", { n: audit.findings, findings: audit.findings, pictures: audit.pictures });
  const prompts = audit.prompts.map(quoted).join(", ");
  const { picture: shown } = audit;
  const more = audit.more_prompts ? ` ${t("audits.more", { n: audit.more_prompts })}` : "";
  return h(
    "button",
    { type: "button", class: "hapax-audit", on: { click: () => open(audit.id) } },
    shown === null ? h("span", { class: "hole" }) : h("img", { src: picture(audit, shown, 96), alt: "" }),
    h(
      "span",
      {},
      h("b", { dir: "auto" }, audit.name),
      h("span", { dir: "auto" }, `${prompts}${more}`),
      h("small", {}, `${audit.model} \u00b7 ${counts} \u00b7 ${when(audit.changed)}`),
    ),
  );
}

const when = (text) => new Date(text).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
