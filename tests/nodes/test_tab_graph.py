"""From the Hapax tab to the graph, and what the nodes show in it, in ComfyUI's real frontend.

Set HAPAX_SCREENSHOTS to a folder to look at what the browser saw.
"""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest


def test_amplify_goes_into_the_only_model_path(tab, browser, look, tab_page):
    tab.evaluate(tab_page.GRAPH, [1, 2])
    tab_page.open_audit(tab, "cooks")
    tab_page.amplify(tab)
    wired = tab_page.settled(tab)
    look("amplified")
    assert [each["model"] for each in wired["KSampler"]] == ["HapaxAmplifyFeature"] * 2
    (node,) = wired["HapaxAmplifyFeature"]
    assert (node["model"], node["features"]) == ("CheckpointLoaderSimple", "HapaxLoadFeatures")
    sent = browser.api_form(tab)
    (load,) = [node["inputs"] for node in sent.values() if node["class_type"] == "HapaxLoadFeatures"]
    (turned,) = [node["inputs"] for node in sent.values() if node["class_type"] == "HapaxAmplifyFeature"]
    assert load["audit"] == "cooks"
    assert len(load["content"]) == 64
    assert load["prompt"] == 1
    assert set(load) == {"audit", "content", "prompt"}
    assert turned["feature"] == "latent 3"
    assert set(turned) == {"model", "features", "feature", "strength"}


def test_the_server_takes_what_amplify_made(tab, browser, server, sibling, tab_page):
    tab.evaluate(tab_page.GRAPH, [1, 1])
    tab_page.open_audit(tab, "cooks")
    tab_page.amplify(tab)
    tab_page.settled(tab)
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


def test_a_feature_of_another_prompt_brings_its_own_file(tab, made, browser, sibling, look, tab_page):
    sibling("made_audits").two_prompts(made / "cooks", made / "cooks and judges")
    try:
        tab.click("button[title='Look for new audits']")
        tab.evaluate(tab_page.GRAPH, [1, 1])
        tab_page.open_audit(tab, "cooks and judges")
        for place in (0, 1):
            tab_page.amplify(tab, place)
            tab_page.settled(tab)
            tab.evaluate("app.canvas.deselectAll()")
        sent = browser.api_form(tab)
        loads = [node["inputs"] for node in sent.values() if node["class_type"] == "HapaxLoadFeatures"]
        files = [made / "cooks and judges" / name for name in ("features.safetensors", "features-2.safetensors")]
        found = sorted((load["prompt"], load["content"]) for load in loads)
        assert found == [(n, hashlib.sha256(file.read_bytes()).hexdigest()) for n, file in enumerate(files, 1)]
        tab.wait_for_selector(".hapax-picker b:has-text('gavel')")
        (turned,) = [node["inputs"] for node in sent.values() if node["class_type"] == "HapaxAmplifyFeaturesAdvanced"]
        pushed = {"mode": "approach", "strength": 1.5, "start_percent": 0.0, "end_percent": 1.0, "feature": "latent 3"}
        assert {name: turned[name] for name in pushed} == pushed
        tab_page.look_at(tab, "HapaxAmplifyFeaturesAdvanced")
        tab.wait_for_selector(".hapax-strength .tried:has-text('1.5')")
        look("as the audit found best")
    finally:
        shutil.rmtree(made / "cooks and judges")


def test_one_undo_takes_it_out(tab, tab_page):
    tab.evaluate(tab_page.GRAPH, [1, 1])
    tab.evaluate("app.canvas.emitBeforeChange(); app.canvas.emitAfterChange()")
    before = tab_page.settled(tab)
    tab_page.open_audit(tab, "cooks")
    tab_page.amplify(tab)
    assert "HapaxAmplifyFeature" in tab_page.settled(tab)
    tab.evaluate("app.extensionManager.command.execute('Comfy.Undo')")
    assert tab_page.settled(tab) == before


def test_a_second_one_is_chained_and_shares_the_features(tab, tab_page):
    tab.evaluate(tab_page.GRAPH, [1, 1])
    tab_page.open_audit(tab, "cooks")
    tab_page.amplify(tab, 0)
    tab_page.settled(tab)
    tab.evaluate("app.canvas.deselectAll()")
    tab_page.amplify(tab, 1)
    wired = tab_page.settled(tab)
    assert len(wired["HapaxLoadFeatures"]) == 1
    assert sorted(each["model"] for each in wired["HapaxAmplifyFeature"]) == [
        "CheckpointLoaderSimple",
        "HapaxAmplifyFeature",
    ]
    assert wired["KSampler"][0]["model"] == "HapaxAmplifyFeature"


def test_of_several_models_the_selected_one(tab, tab_page):
    tab.evaluate(tab_page.GRAPH, [2, 1])
    before = tab_page.settled(tab)
    tab_page.open_audit(tab, "cooks")
    tab_page.amplify(tab)
    tab.wait_for_selector("text=This graph has several models")
    assert tab_page.settled(tab) == before
    tab.evaluate("app.canvas.selectNode(app.graph._nodes.filter(n => n.type === 'KSampler')[1])")
    tab_page.amplify(tab)
    sources = [each["model"] for each in tab_page.settled(tab)["KSampler"]]
    assert sources == ["CheckpointLoaderSimple", "HapaxAmplifyFeature"]


def test_where_nothing_samples_it_opens_a_graph_of_its_own(tab, made, browser, look, tab_page):
    tab_page.open_audit(tab, "cooks")
    tab_page.amplify(tab)
    tab.wait_for_selector("text=Nothing samples in that graph")
    (node,) = tab_page.settled(tab)["HapaxAmplifyFeature"]
    assert (node["model"], node["features"]) == ("CheckpointLoaderSimple", "HapaxLoadFeatures")
    look("a graph of its own")
    (sampler,) = [each["inputs"] for each in browser.api_form(tab).values() if each["class_type"] == "KSampler"]
    (prompt,) = json.loads((made / "cooks" / "audit.json").read_text("utf-8"))["prompts"]
    shown = {shot["seed"] for feature in prompt["features"] for shot in feature["exemplars"]}
    assert sampler["seed"] in set(prompt["seeds"]) - shown


def test_without_a_model_it_says_what_to_wire(tab, made, tab_page):
    """Without the prompt that made it, no graph of an audit's own can be made."""
    (made / "cooks" / "prompt.json").rename(made / "cooks" / "kept.json")
    try:
        tab_page.open_audit(tab, "cooks")
        tab_page.amplify(tab)
        tab.wait_for_selector("text=wire its model")
    finally:
        (made / "cooks" / "kept.json").rename(made / "cooks" / "prompt.json")
    (node,) = tab_page.settled(tab)["HapaxAmplifyFeature"]
    assert (node["model"], node["features"]) == (None, "HapaxLoadFeatures")


def test_save_as_direction_and_the_graph_of_a_picture(tab, browser, look, tab_page):
    tab_page.open_audit(tab, "cooks")
    tab.locator(".hapax-card .hapax-shot").first.click()
    tab.click("dialog .hapax-direction")
    wired = tab_page.settled(tab)
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


def test_a_feature_is_chosen_by_its_picture_and_a_strength_by_a_slider(tab, browser, look, tab_page):
    tab.evaluate(tab_page.GRAPH, [1, 1])
    tab_page.open_audit(tab, "cooks")
    tab_page.amplify(tab)
    tab_page.settled(tab)
    assert tab.inner_text(".hapax-picker b") == "line sketch"
    tab_page.look_at(tab, "HapaxAmplifyFeature")
    tab.click(".hapax-choosing")
    tab.wait_for_selector(".hapax-choice")
    look("choose")
    tab.locator(".hapax-choice").nth(1).click()
    tab.wait_for_selector(".hapax-picker b:has-text('unnamed feature')")
    slider = tab.locator(".hapax-strength input")
    slider.focus()
    for _ in range(5):
        slider.press("ArrowRight")
    tab_page.settled(tab)
    look("slider")
    sent = [node["inputs"] for node in browser.api_form(tab).values() if node["class_type"] == "HapaxAmplifyFeature"]
    assert sent[0]["feature"] == "latent 5"
    assert sent[0]["strength"] == pytest.approx(3.5)
    kept = [node for node in browser.serialised(tab)["nodes"] if node["type"] == "HapaxAmplifyFeature"]
    assert len(kept[0]["widgets_values"]) == 2


CONTENT = "() => app.graph._nodes[0].widgets.find((widget) => widget.name === 'content').value"


def test_a_chosen_file_is_known_by_its_content(clean, browser, server):
    """New nodes know the file that they begin with; loaded ones keep what they were saved with."""
    files = server.base / "models" / "hapax" / "directions"
    files.mkdir(parents=True, exist_ok=True)
    hashes = {}
    for name in ("known a", "known b"):
        (files / f"{name}.safetensors").write_bytes(name.encode())
        hashes[f"directions/{name}.safetensors"] = hashlib.sha256(name.encode()).hexdigest()
    clean.evaluate("async () => { await app.refreshComboInNodes(); }")
    clean.evaluate("app.graph.add(LiteGraph.createNode('HapaxLoadDirection'))")
    clean.wait_for_function(f"({CONTENT})() !== ''")
    (sent,) = [node["inputs"] for node in browser.api_form(clean).values()]
    begun_with = server.base / "models" / "hapax" / sent["direction_name"]
    assert sent["content"] == hashlib.sha256(begun_with.read_bytes()).hexdigest()
    for name, content in hashes.items():
        clean.evaluate(
            """(name) => {
                const widget = app.graph._nodes[0].widgets[0];
                widget.value = name;
                widget.callback(name);
            }""",
            name,
        )
        clean.wait_for_function(f"({CONTENT})() === '{content}'")
    saved = browser.serialised(clean)
    saved["nodes"][0]["widgets_values"][-1] = ""
    browser.load(clean, saved, "without content")
    clean.wait_for_timeout(1000)
    assert clean.evaluate(CONTENT) == ""
