"""The Hapax tab in ComfyUI's real frontend: the wall, labels, two audits side by side, from a picture to the graph.

Set HAPAX_SCREENSHOTS to a folder to look at what the browser saw.
"""

from __future__ import annotations

import json

import pytest

MANY = 5000


@pytest.fixture(scope="session")
def made(server, sibling):
    """The server's output folder with audits in it."""
    audits, base = sibling("made_audits"), server.base / "output" / "hapax"
    audits.many(base / "many", MANY)
    audits.hostile(base / "hostile")
    audits.tuned(base / "faces tuned")
    audits.faces(base / "faces")
    audits.cooks(base / "cooks")
    return base


@pytest.fixture
def tab(clean, made):
    """The page with the list of audits open."""
    if clean.locator("section.hapax").count():
        clean.keyboard.press("Escape")
        clean.click(".hapax-tab-button")
    clean.evaluate("async () => (await import('/extensions/hapax/js/tab.js')).forget()")
    clean.click(".hapax-tab-button")
    clean.wait_for_selector(".hapax-audit")
    yield clean
    clean.evaluate("document.querySelectorAll('dialog[open]').forEach((each) => each.close())")
    assert clean.errors == []


def open_audit(page, name):
    page.locator(".hapax-audit", has=page.locator(f"b:text-is('{name}')")).click()
    page.wait_for_selector(".hapax-card")


def names(page):
    """Of the cards in the page, in order."""
    return page.eval_on_selector_all(
        ".hapax-card", "cards => cards.map(c => c.querySelector('.hapax-label').innerText)"
    )


def tally(page):
    page.wait_for_timeout(400)
    return page.inner_text(".hapax-tally")


def test_audits_are_listed_newest_first(tab, made, look):
    (made / "broken").mkdir(exist_ok=True)
    (made / "broken" / "audit.json").write_text("{}")
    tab.click("[aria-label='Look for new audits']")
    tab.wait_for_selector(".hapax-audit.broken")
    newest_first = ["broken", "cooks", "faces", "faces tuned", "hostile", "many"]
    # Workflows that ran on this server before have left audits of their own.
    assert [name for name in tab.locator(".hapax-audits b").all_inner_texts() if name in newest_first] == newest_first
    assert (
        f"{findings(made)} findings in 1000 pictures"
        in tab.locator(".hapax-audit", has_text="faces").first.inner_text()
    )
    look("list")


def findings(made):
    """How many findings the faces have."""
    prompts = json.loads((made / "faces" / "audit.json").read_text("utf-8"))["prompts"]
    return sum(feature["finding"] for prompt in prompts for feature in prompt["features"])


def test_the_wall_shows_and_filters(tab, made, look):
    open_audit(tab, "faces")
    assert tally(tab) == "24 of 24 features"
    first = tab.locator(".hapax-card").first
    assert first.locator(".hapax-label").inner_text() == "line sketch"
    assert "1.8" in first.locator(".hapax-rate").inner_text()
    shot = first.locator(".hapax-shot").first
    shot.hover()
    tab.wait_for_function("document.querySelector('.hapax-shot:hover .heat')?.naturalWidth > 0")
    look("wall")
    tab.fill("[name=text]", "sketch nurse")
    assert tally(tab) == "1 of 24 features"
    tab.fill("[name=text]", "")
    tab.click(".hapax-unfold")
    tab.check("[name=findings]")
    assert tally(tab) == f"{findings(made)} of 24 features"
    tab.select_option("[name=most]", "0.05")
    tab.select_option("[name=order]", "rare")
    assert tally(tab) != f"{findings(made)} of 24 features"
    rates = [float(text.split()[0]) for text in tab.locator(".hapax-card .hapax-rate b").all_inner_texts()]
    assert rates == sorted(rates)
    assert max(rates) <= 5
    tab.fill("[name=text]", "no such thing")
    assert tally(tab) == "0 of 24 features"
    tab.click("text=Show all")
    assert tally(tab) == "24 of 24 features"


def test_a_label_is_saved_and_taken_back(tab, made, look):
    open_audit(tab, "faces")
    card = tab.locator(".hapax-card").first
    card.hover()
    card.locator(".hapax-rename").click()
    field = card.locator("input")
    field.fill("drawn by hand")
    look("editing")
    field.press("Enter")
    tab.wait_for_selector(".hapax-label .own:has-text('drawn by hand')")
    saved = json.loads((made / "faces" / "labels.json").read_text("utf-8"))
    assert list(saved["labels"].values()) == ["drawn by hand"]
    # As after a restart: everything is asked for anew.
    tab.click("[aria-label='Back to all audits']")
    open_audit(tab, "faces")
    assert names(tab)[0] == "drawn by hand"
    card.hover()
    card.locator(".hapax-rename").click()
    field.fill("something else")
    field.press("Escape")
    assert names(tab)[0] == "drawn by hand"
    card.locator(".hapax-rename").click()
    field.fill("")
    field.press("Enter")
    tab.wait_for_function("document.querySelector('.hapax-label').innerText === 'line sketch'")
    assert json.loads((made / "faces" / "labels.json").read_text("utf-8"))["labels"] == {}


def test_all_pictures_of_a_feature(tab, look):
    open_audit(tab, "faces")
    tab.locator(".hapax-card .hapax-shot").nth(1).click()
    dialog = tab.locator("dialog.hapax-detail")
    dialog.wait_for()
    seed = dialog.locator(".hapax-caption span").inner_text()
    tab.keyboard.press("ArrowRight")
    assert dialog.locator(".hapax-caption span").inner_text() != seed
    tab.keyboard.press("ArrowLeft")
    assert dialog.locator(".hapax-caption span").inner_text() == seed
    tab.wait_for_function("[...document.querySelectorAll('.hapax-pair img')].every(i => i.naturalWidth > 0)")
    look("detail")
    assert dialog.locator(".hapax-pair img").count() == 2
    assert dialog.locator(".hapax-amplify").count() == 0
    tab.keyboard.press("Escape")
    dialog.wait_for(state="detached")


def test_it_uses_the_whole_window(tab, look):
    open_audit(tab, "faces")
    before = tab.locator("section.hapax").bounding_box()["width"]
    tab.click(".hapax-wide")
    tab.wait_for_timeout(400)
    assert tab.locator("section.hapax").bounding_box()["width"] > 2 * before
    columns = tab.eval_on_selector_all(".hapax-card", "cards => new Set(cards.map(c => c.style.left)).size")
    assert columns >= 4
    look("wide")
    tab.click(".hapax-wide")
    tab.wait_for_timeout(400)
    assert tab.locator("section.hapax").bounding_box()["width"] == before


def test_thousands_of_features_are_not_in_the_page_at_once(tab, look):
    open_audit(tab, "many")
    assert tally(tab) == f"{MANY:,} of {MANY:,} features".replace(",", "")
    assert tab.locator(".hapax-card").count() < 40
    tab.locator(".hapax-card").first.focus()
    tab.keyboard.press("End")
    tab.wait_for_selector(f".hapax-card[aria-posinset='{MANY}']:focus")
    assert tab.locator(".hapax-card").count() < 60
    tab.keyboard.press("ArrowUp")
    tab.wait_for_selector(f".hapax-card[aria-setsize='{MANY}']:focus:not([aria-posinset='{MANY}'])")
    look("end")
    tab.keyboard.press("Home")
    tab.wait_for_selector(".hapax-card[aria-posinset='1']:focus")


def test_markup_in_an_audit_stays_text(tab):
    open_audit(tab, "hostile")
    assert "<img src=x" in names(tab)[0]
    tab.locator(".hapax-card .hapax-shot").first.click()
    tab.wait_for_selector("dialog.hapax-detail")
    tab.wait_for_timeout(500)
    assert tab.title() != "hacked"
    assert tab.locator(".hapax [onerror], .hapax script").count() == 0


def test_two_audits_side_by_side(tab, look):
    open_audit(tab, "faces tuned")
    tab.click(".hapax-compare")
    tab.wait_for_selector(".hapax-sides select")
    tab.select_option("[name=after]", label="faces")
    tab.wait_for_selector(".hapax-change")
    tab.click("[aria-label='Swap the two']")
    tab.wait_for_function("document.querySelector('[name=before]')?.selectedOptions[0]?.text === 'faces'")
    tab.wait_for_selector(".hapax-change")
    kinds = {
        row.locator(".hapax-head b").inner_text(): row.get_attribute("class").split()[-1]
        for row in tab.locator(".hapax-change").all()
        if "firefighter" in row.locator(".hapax-prompt").inner_text()
    }
    look("compare")
    assert kinds["line sketch"] == "commoner"
    assert kinds["glasses"] == "rarer"
    assert kinds["woman"] == "unclear"
    assert kinds["night"] == "before_only"
    assert kinds["dusk"] == "after_only"


GRAPH = """([loaders, samplers]) => {
    const add = (type, x, y) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, y];
        app.graph.add(node);
        return node;
    };
    app.graph.clear();
    // Beside the sidebar and below the bars, wherever an earlier graph was left.
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset[0] = 270;
    app.canvas.ds.offset[1] = 60;
    for (let place = 0; place < loaders; place += 1) {
        const loader = add("CheckpointLoaderSimple", 200, 200 + 500 * place);
        for (let each = 0; each < samplers; each += 1) {
            const sampler = add("KSampler", 1100, 200 + 500 * (place + each));
            loader.connect(0, sampler, sampler.findInputSlot("model"));
        }
    }
}"""
# Type and model's source of each sampler, then the wiring of what was added.
WIRING = """() => {
    const from = (node, name) => {
        const slot = node.inputs[node.findInputSlot(name)];
        if (slot?.link == null) return null;
        const link = app.graph._links?.get?.(slot.link) ?? app.graph.links[slot.link];
        return app.graph.getNodeById(link.origin_id).type;
    };
    const seen = {};
    for (const node of app.graph._nodes) {
        const inputs = node.inputs.map((slot) => [slot.name, from(node, slot.name)]);
        (seen[node.type] ??= []).push(Object.fromEntries(inputs));
    }
    return seen;
}"""


def settled(page):
    page.wait_for_timeout(700)
    return page.evaluate(WIRING)


def look_at(page, kind):
    """Move the graph so that the node of this kind lies in the middle, under none of ComfyUI's bars."""
    page.evaluate("kind => app.canvas.centerOnNode(app.graph._nodes.find(each => each.type === kind))", kind)
    page.wait_for_timeout(300)


def amplify(page, place=0):
    page.locator(".hapax-card .hapax-amplify").nth(place).click()


def test_amplify_goes_into_the_only_model_path(tab, browser, look):
    tab.evaluate(GRAPH, [1, 2])
    open_audit(tab, "cooks")
    amplify(tab)
    wired = settled(tab)
    look("amplified")
    assert [each["model"] for each in wired["KSampler"]] == ["HapaxAmplifyFeature"] * 2
    (node,) = wired["HapaxAmplifyFeature"]
    assert (node["model"], node["features"]) == ("CheckpointLoaderSimple", "HapaxLoadFeatures")
    sent = browser.api_form(tab)
    (load,) = [node["inputs"] for node in sent.values() if node["class_type"] == "HapaxLoadFeatures"]
    (turned,) = [node["inputs"] for node in sent.values() if node["class_type"] == "HapaxAmplifyFeature"]
    assert load["audit"] == "cooks"
    assert len(load["content"]) == 64
    assert set(load) == {"audit", "content"}
    assert turned["feature"] == "latent 3"
    assert set(turned) == {"model", "features", "feature", "strength"}


def test_the_server_takes_what_amplify_made(tab, browser, server, sibling):
    tab.evaluate(GRAPH, [1, 1])
    open_audit(tab, "cooks")
    amplify(tab)
    settled(tab)
    sent = browser.api_form(tab)
    (load,) = [key for key, node in sent.items() if node["class_type"] == "HapaxLoadFeatures"]
    show = {"class_type": "HapaxShowFeature", "inputs": {"features": [load, 0], "feature": "latent 3"}}
    show["inputs"] |= {"opacity": 0.5, "columns": 3}
    run = {load: sent[load], "s": show}
    run["p"] = {"class_type": "PreviewImage", "inputs": {"images": ["s", 0]}}
    assert server.run(run)["p"]["images"]
    run[load]["inputs"] = {"audit": "cooks", "content": "0" * 64}
    with pytest.raises(sibling("server").ServerError, match="others than this workflow was made with"):
        server.run(run)


def test_one_undo_takes_it_out(tab):
    tab.evaluate(GRAPH, [1, 1])
    tab.evaluate("app.canvas.emitBeforeChange(); app.canvas.emitAfterChange()")
    before = settled(tab)
    open_audit(tab, "cooks")
    amplify(tab)
    assert "HapaxAmplifyFeature" in settled(tab)
    tab.evaluate("app.extensionManager.command.execute('Comfy.Undo')")
    assert settled(tab) == before


def test_a_second_one_is_chained_and_shares_the_features(tab):
    tab.evaluate(GRAPH, [1, 1])
    open_audit(tab, "cooks")
    amplify(tab, 0)
    settled(tab)
    tab.evaluate("app.canvas.deselectAll()")
    amplify(tab, 1)
    wired = settled(tab)
    assert len(wired["HapaxLoadFeatures"]) == 1
    assert sorted(each["model"] for each in wired["HapaxAmplifyFeature"]) == [
        "CheckpointLoaderSimple",
        "HapaxAmplifyFeature",
    ]
    assert wired["KSampler"][0]["model"] == "HapaxAmplifyFeature"


def test_of_several_models_the_selected_one(tab):
    tab.evaluate(GRAPH, [2, 1])
    before = settled(tab)
    open_audit(tab, "cooks")
    amplify(tab)
    tab.wait_for_selector("text=This graph has several models")
    assert settled(tab) == before
    tab.evaluate("app.canvas.selectNode(app.graph._nodes.filter(n => n.type === 'KSampler')[1])")
    amplify(tab)
    sources = [each["model"] for each in settled(tab)["KSampler"]]
    assert sources == ["CheckpointLoaderSimple", "HapaxAmplifyFeature"]


def test_where_nothing_samples_it_opens_a_graph_of_its_own(tab, made, browser, look):
    open_audit(tab, "cooks")
    amplify(tab)
    tab.wait_for_selector("text=Nothing samples in that graph")
    (node,) = settled(tab)["HapaxAmplifyFeature"]
    assert (node["model"], node["features"]) == ("CheckpointLoaderSimple", "HapaxLoadFeatures")
    look("a graph of its own")
    (sampler,) = [each["inputs"] for each in browser.api_form(tab).values() if each["class_type"] == "KSampler"]
    (prompt,) = json.loads((made / "cooks" / "audit.json").read_text("utf-8"))["prompts"]
    shown = {shot["seed"] for feature in prompt["features"] for shot in feature["exemplars"]}
    assert sampler["seed"] in set(prompt["seeds"]) - shown


def test_without_a_model_it_says_what_to_wire(tab, made):
    """Without the prompt that made it, no graph of an audit's own can be made."""
    (made / "cooks" / "prompt.json").rename(made / "cooks" / "kept.json")
    try:
        open_audit(tab, "cooks")
        amplify(tab)
        tab.wait_for_selector("text=wire its model")
    finally:
        (made / "cooks" / "kept.json").rename(made / "cooks" / "prompt.json")
    (node,) = settled(tab)["HapaxAmplifyFeature"]
    assert (node["model"], node["features"]) == (None, "HapaxLoadFeatures")


def test_save_as_direction_and_the_graph_of_a_picture(tab, browser, look):
    open_audit(tab, "cooks")
    tab.locator(".hapax-card .hapax-shot").first.click()
    tab.click("dialog .hapax-direction")
    wired = settled(tab)
    assert wired["HapaxSaveDirection"][0]["direction"] == "HapaxFeatureToDirection"
    assert wired["HapaxFeatureToDirection"][0]["features"] == "HapaxLoadFeatures"
    names = [node["inputs"].get("filename") for node in browser.api_form(tab).values()]
    assert "line_sketch" in names
    tab.locator(".hapax-card .hapax-shot").nth(2).click()
    seed = tab.locator("dialog .hapax-caption span").inner_text()
    tab.click("dialog .hapax-seed")
    tab.wait_for_function("app.graph._nodes.some(n => n.type === 'KSampler')")
    tab.wait_for_timeout(800)
    look("graph of a picture")
    sent = {node["class_type"]: node["inputs"] for node in browser.api_form(tab).values()}
    sampler = sent["KSampler"]
    assert f"Seed {sampler['seed']}," in seed
    assert (sampler["steps"], sampler["cfg"], sampler["sampler_name"]) == (9, 3.5, "euler")
    assert sent["EmptyLatentImage"] == {"width": 96, "height": 64, "batch_size": 1}
    assert "HapaxHarvestActivations" not in sent
    control = "n => n.widgets?.find(w => w.name === 'control_after_generate')?.value"
    assert tab.evaluate(f"app.graph._nodes.map({control}).filter(Boolean)") == ["fixed"]


def test_a_feature_is_chosen_by_its_picture_and_a_strength_by_a_slider(tab, browser, look):
    tab.evaluate(GRAPH, [1, 1])
    open_audit(tab, "cooks")
    amplify(tab)
    settled(tab)
    assert tab.inner_text(".hapax-picker b") == "line sketch"
    look_at(tab, "HapaxAmplifyFeature")
    tab.click(".hapax-choosing")
    tab.wait_for_selector(".hapax-choice")
    look("choose")
    tab.locator(".hapax-choice").nth(1).click()
    tab.wait_for_selector(".hapax-picker b:has-text('unnamed feature')")
    slider = tab.locator(".hapax-strength input")
    slider.focus()
    for _ in range(5):
        slider.press("ArrowRight")
    settled(tab)
    look("slider")
    sent = [node["inputs"] for node in browser.api_form(tab).values() if node["class_type"] == "HapaxAmplifyFeature"]
    assert sent[0]["feature"] == "latent 5"
    assert sent[0]["strength"] == pytest.approx(3.5)
    kept = [node for node in browser.serialised(tab)["nodes"] if node["type"] == "HapaxAmplifyFeature"]
    assert len(kept[0]["widgets_values"]) == 2


def test_there_and_back_in_a_zip(tab, made, tmp_path, look):
    open_audit(tab, "cooks")
    with tab.expect_download() as given:
        tab.click(".hapax-export")
    path = tmp_path / given.value.suggested_filename
    given.value.save_as(path)
    assert path.name == "cooks.hapax.zip"
    tab.click("[aria-label='Back to all audits']")
    tab.set_input_files(".hapax-list input[type=file]", path)
    tab.wait_for_selector(".hapax-card")
    assert tab.inner_text(".hapax-bar h3") == "cooks-2"
    assert (made / "cooks-2" / "features.safetensors").is_file()
    look("imported")
    tab.click("[aria-label='Back to all audits']")
    path.write_bytes(b"PK not really")
    tab.set_input_files(".hapax-list input[type=file]", path)
    tab.wait_for_selector("text=not a zip")


def test_in_the_light_theme_and_in_a_small_window(tab, look):
    tab.evaluate("app.extensionManager.setting.set('Comfy.ColorPalette', 'light')")
    tab.set_viewport_size({"width": 900, "height": 640})
    try:
        open_audit(tab, "faces")
        tab.wait_for_timeout(800)
        look("light and small")
        assert tab.locator(".hapax-card").first.is_visible()
        assert contrast(tab, ".hapax-card .hapax-rate > span") >= 4.5
        assert contrast(tab, ".hapax-card.finding .hapax-label span") >= 4.5
    finally:
        tab.evaluate("app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
        tab.set_viewport_size({"width": 1600, "height": 1000})
    tab.wait_for_timeout(800)
    assert contrast(tab, ".hapax-card .hapax-rate > span") >= 4.5
    assert contrast(tab, ".hapax-card.finding .hapax-label span") >= 4.5


CONTRAST = """(element) => {
    const canvas = document.createElement("canvas").getContext("2d");
    const rgb = (colour) => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const linear = (c) => (c / 255 <= 0.04045 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4);
    const light = (colour) => {
        const [r, g, b] = rgb(colour).map(linear);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const card = getComputedStyle(element.closest(".hapax-card")).backgroundColor;
    const pair = [light(getComputedStyle(element).color), light(card)].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
}"""


def contrast(page, selector):
    """WCAG's contrast of a text on its card."""
    return page.locator(selector).first.evaluate(CONTRAST)
