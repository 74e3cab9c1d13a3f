"""The nodes in ComfyUI's real frontend: found by search, wired, run; the shipped workflows drawn and converted by it.

Set HAPAX_SCREENSHOTS to a folder to look at what the browser saw.
"""

from __future__ import annotations

import pytest

# Chromium says this while a page of either version starts; nothing is missing then.
STARTING = "Cannot read properties of undefined (reading 'id')"


def search_and_add(page, words, at):
    """Add a node as a person does: double-click, type, Enter."""
    field = page.locator("input[role=combobox][placeholder]:visible").last
    for attempt in range(10):
        # On a busy machine the two clicks may come too far apart to count as one double-click, or a node that still
        # hung on the cursor may lie there now.
        place = at[0] + 60 * attempt, 150 + (at[1] - 150 + 90 * attempt) % 750
        page.mouse.dblclick(*place)
        page.wait_for_timeout(1500)
        if field.is_visible():
            break
        page.keyboard.press("Escape")
    field.fill(words)
    page.wait_for_timeout(900)
    page.keyboard.press("Enter")
    page.wait_for_timeout(500)
    # Newer frontends hang the node on the cursor until a click puts it down.
    page.mouse.click(*place)
    page.wait_for_timeout(500)


@pytest.mark.parametrize(
    ("words", "node"),
    [
        ("Find Rare Features", "HapaxFindRareFeatures"),
        ("harvest activations", "HapaxHarvestActivations"),
        ("Amplify Feature", "HapaxAmplifyFeature"),
        ("Load Demo Model", "HapaxLoadDemoModel"),
    ],
)
def test_found_by_search(clean, look, words, node):
    search_and_add(clean, words, (700, 450))
    look(words)
    assert clean.evaluate("app.graph._nodes.map(n => n.comfyClass)") == [node]


def test_found_by_another_word_where_the_frontend_can(clean, server):
    if "search_aliases" not in server.get("/object_info/HapaxTrainSAE")["HapaxTrainSAE"]:
        pytest.skip("SEARCH BY ALIAS WAS NOT TESTED: this ComfyUI has no search aliases")
    search_and_add(clean, "dictionary learning", (700, 450))
    assert clean.evaluate("app.graph._nodes.map(n => n.comfyClass)") == ["HapaxTrainSAE"]


def test_wired_and_run_by_hand(clean, server, browser, look):
    if not server.has_demo_model:
        pytest.skip("THE FRONTEND RAN NO GRAPH: the pack has no core/emoji/model")
    for words, at in [
        ("Load Demo Model", (300, 300)),
        ("CLIP Text Encode (Prompt)", (300, 600)),
        ("KSampler", (800, 300)),
    ]:
        search_and_add(clean, words, at)
    clean.evaluate(
        """() => {
            const add = (type, x, y) => {
                const node = LiteGraph.createNode(type);
                node.pos = [x, y];
                app.graph.add(node);
                return node;
            };
            const [demo, text, sampler] = app.graph._nodes;
            const latent = add("EmptyLatentImage", 100, 700), decode = add("VAEDecode", 1100, 200);
            const preview = add("PreviewImage", 1100, 350);
            const set = (node, name, value) => { node.widgets.find((w) => w.name === name).value = value; };
            const wire = (from, out, to, into) => {
                const link = from.connect(out, to, to.findInputSlot(into));
                if (!link) throw new Error(`${from.type} -> ${to.type}.${into}`);
            };
            set(text, "text", "a photo of a doctor");
            set(latent, "width", 64); set(latent, "height", 64); set(latent, "batch_size", 4);
            set(sampler, "steps", 10); set(sampler, "cfg", 1); set(sampler, "sampler_name", "dpmpp_2m");
            wire(demo, 0, sampler, "model"); wire(demo, 1, text, "clip"); wire(demo, 2, decode, "vae");
            wire(text, 0, sampler, "positive"); wire(text, 0, sampler, "negative");
            wire(latent, 0, sampler, "latent_image"); wire(sampler, 0, decode, "samples");
            wire(decode, 0, preview, "images");
        }"""
    )
    clean.evaluate("app.queuePrompt(0, 1)")
    clean.wait_for_function("app.graph._nodes.some(n => n.type === 'PreviewImage' && n.imgs?.length === 4)")
    browser.fit(clean)
    look("ran")
    assert clean.errors == []


def test_every_workflow_is_drawn_and_converted_as_the_tests_do(clean, server, browser, sibling, look):
    workflows, schema_files = sibling("workflows"), sibling("schema_files")
    info = server.get("/object_info")
    for name, workflow in workflows.shipped().items():
        browser.load(clean, workflow, name)
        browser.fit(clean)
        look(name)
        drawn = clean.evaluate("app.graph._nodes.map(n => [String(n.id), n.type])")
        assert sorted(drawn) == sorted([str(node["id"]), node["type"]] for node in workflow["nodes"])
        ours, theirs = workflows.to_api(workflow, info, schema_files), browser.api_form(clean)
        assert ours == {key: without_extras(node, info) for key, node in theirs.items()}, name
    assert [error for error in clean.errors if error != STARTING] == []


def without_extras(node, info):
    """A node of the frontend's prompt without its title and without widgets that the server knows nothing of."""
    sections = info[node["class_type"]]["input"]
    known = {*sections.get("required", {}), *sections.get("optional", {})}
    inputs = {name: value for name, value in node["inputs"].items() if name in known}
    return {"class_type": node["class_type"], "inputs": inputs}


def test_loading_and_saving_changes_nothing(clean, browser, sibling):
    for name, workflow in sibling("workflows").shipped().items():
        browser.load(clean, workflow, name)
        saved = browser.serialised(clean)
        values = {str(node["id"]): node.get("widgets_values") or [] for node in workflow["nodes"]}
        for node in saved["nodes"]:
            assert (node.get("widgets_values") or []) == values[str(node["id"])], (name, node["type"])


def test_template_browser_offers_them(clean, look, sibling):
    clean.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    clean.wait_for_timeout(2500)
    entry = clean.get_by_text("hapax", exact=True).first
    entry.click()
    clean.wait_for_timeout(2500)
    look("templates")
    for name in sibling("workflows").shipped():
        assert clean.get_by_text(name, exact=True).count() >= 1, name
    clean.keyboard.press("Escape")
