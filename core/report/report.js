// Filter, sort, enlarge, copy. The page says everything without this file.
"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  document.documentElement.classList.add("js");

  const prompts = all(".prompt");
  const cards = all(".feature");
  const orders = {
    rank: (a, b) => a.rank - b.rank,
    rare: (a, b) => a.rare - b.rare,
    distinct: (a, b) => b.distinct - a.distinct,
    name: (a, b) => a.name.localeCompare(b.name),
  };

  function filter() {
    const wanted = $("#find").value.trim().toLowerCase().split(/\s+/);
    const which = $("#which").value;
    const only = $("#only").checked;
    for (const card of cards) {
      const prompt = card.closest(".prompt");
      const hit = wanted.every((word) => card.dataset.words.includes(word));
      const here = !which || prompt.dataset.prompt === which;
      card.hidden = !(hit && here && (!only || card.classList.contains("finding")));
    }
    const filtered = which || only || wanted[0];
    for (const prompt of prompts) {
      prompt.hidden = Boolean(filtered) && !$(".feature:not([hidden])", prompt);
    }
    const left = cards.filter((card) => !card.hidden).length;
    $("#tally").textContent = filtered ? `${left} of ${cards.length} shown` : "";
  }

  // Scores are normalised within a prompt, so each prompt is sorted by itself.
  function sort() {
    const order = orders[$("#order").value];
    for (const wall of all(".cards")) {
      wall.append(...all(".feature", wall).sort((a, b) => order(a.dataset, b.dataset)));
    }
  }

  // A link to a card that the filter hides would lead nowhere.
  function reveal() {
    const card = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (!card || !card.closest("[hidden]")) return;
    $("#find").value = $("#which").value = "";
    $("#only").checked = false;
    filter();
    card.scrollIntoView();
  }

  const dialog = document.createElement("dialog");
  dialog.setAttribute("aria-label", "One picture, large");
  const large = dialog.appendChild(document.createElement("div"));
  large.className = "large";
  const bar = dialog.appendChild(document.createElement("div"));
  bar.className = "bar";
  const caption = bar.appendChild(document.createElement("p"));
  let shots = [];
  let place = 0;

  function button(said, action) {
    const made = bar.appendChild(document.createElement("button"));
    made.type = "button";
    made.textContent = said;
    made.addEventListener("click", action);
    return made;
  }

  function picture(svg) {
    const stored = $($("use", svg).getAttribute("href"));
    const image = document.createElement("img");
    image.src = stored.getAttribute("href");
    image.className = svg.classList.contains("px") ? "px" : "";
    image.alt = $("title", svg)?.textContent ?? "The same with its heatmap";
    return image;
  }

  function show(step) {
    place = (place + step + shots.length) % shots.length;
    const pictures = all(".pic", shots[place]);
    large.replaceChildren(...pictures.map(picture));
    const file = $($("use", pictures[0]).getAttribute("href")).dataset.file;
    const link = document.createElement("a");
    link.href = file;
    link.textContent = decodeURIComponent(file);
    caption.replaceChildren($("title", pictures[0]).textContent, document.createElement("br"), link);
  }

  function enlarge(shot) {
    shots = all(".shot", shot.closest(".strip, .pairs, .samples"));
    place = shots.indexOf(shot);
    show(0);
    dialog.showModal();
  }

  button("Previous", () => show(-1));
  button("Next", () => show(1));
  button("Close", () => dialog.close()).autofocus = true;
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") show(-1);
    if (event.key === "ArrowRight") show(1);
  });
  document.body.append(dialog);
  document.addEventListener("click", (event) => {
    const shot = event.target.closest(".strip .shot, .pairs .shot, .samples .shot");
    if (shot) enlarge(shot);
  });
  for (const strip of all(".strip, .pairs")) {
    strip.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      // Else the same key press would go on to the button that gets the focus, and close again.
      event.preventDefault();
      enlarge($(".shot", strip));
    });
  }

  $("#copy").addEventListener("click", async (event) => {
    try {
      await navigator.clipboard.writeText($("#reproduce code").textContent);
      event.target.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren($("#reproduce code"));
      event.target.textContent = "Selected";
    }
  });
  $("#save").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([$("#audit").textContent], { type: "application/json" }));
    link.download = "audit-shown.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });

  for (const id of ["find", "which", "only"]) $(`#${id}`).addEventListener("input", filter);
  $("#order").addEventListener("input", sort);
  addEventListener("hashchange", reveal);
  filter();
})();
