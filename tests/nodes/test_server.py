"""The shipped workflows on real servers: loaded, turned into the API's form, run, and their outputs checked."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hapax.core.activations import ActivationStore
from hapax.core.emoji.judge import judge
from hapax.core.emoji.world import load_world

AUDIT, AMPLIFY, ENCODE, CAPTURE, SDXL, DIAL, MYSTERY, COMPASS, DEBIAS, ROUNDS = (
    "1 Audit the demo model",
    "2 Amplify a rare style",
    "3 Which features are in this picture",
    "4 Capture from my own graph",
    "5 Audit an SDXL checkpoint",
    "8 Turn a caption into a dial",
    "9 Name a mystery feature",
    "10 The bias compass of a checkpoint",
    "11 Debias a concept",
    "12 Debias in two rounds",
)
STYLE = "line sketch"


def shows_something(picture):
    return len(picture.getcolors(1 << 24)) > 100


def style_share(pictures, style):
    return judge(np.stack([np.asarray(each) for each in pictures])).share(style)


def test_nodes_are_registered_with_their_menu(info):
    ours = {name: node for name, node in info.items() if name.startswith("Hapax")}
    assert ours
    for name, node in ours.items():
        assert node["category"].startswith("Hapax/"), name
        assert node["description"], name
        assert all(node["output_tooltips"]), name


def test_generated_files_are_those_of_the_schemas(info, sibling):
    schema_files = sibling("schema_files")
    assert schema_files.breaks(json.loads(schema_files.SNAPSHOT.read_text()), schema_files.snapshot(info)) == []
    stale = [
        path.relative_to(schema_files.REPO).as_posix()
        for path, text in schema_files.files(info).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert stale == [], "run `python tests/nodes/schema_files.py`"


def test_help_pages_locale_and_templates_are_served(server, info, sibling):
    for name in (each for each in info if each.startswith("Hapax")):
        page = server.get_bytes(f"/extensions/hapax/docs/{name}.md").decode()
        assert page.startswith(f"# {info[name]['display_name']}\n")
    assert server.get("/i18n")["en"]["nodeDefs"]["HapaxTrainSAE"]["display_name"] == "Train SAE"
    names = server.get("/workflow_templates")["hapax"]
    assert sorted(names) == sorted(sibling("workflows").shipped())
    for name in names:
        path = "/api/workflow_templates/hapax/" + name.replace(" ", "%20")
        assert server.get(path + ".json")["nodes"]
        assert server.get_bytes(path + ".jpg")[:3] == b"\xff\xd8\xff"


def counted(server):
    """How many of the pictures of the firefighter harvest show each style, by the judge."""
    # One recording or more: with and without CLIP embeddings they are apart, with the same pictures.
    store = next((server.base / "output" / "hapax").glob("firefighter-*/store.json")).parent
    verdict = judge(ActivationStore.open(store).thumbnails())
    assert len(verdict.kinds) == 250
    return {style: round(250 * verdict.share(style)) for style in load_world().styles}


def test_audit(run):
    """It is checked against what the pictures show, because how often the model shows a thing is its own affair."""
    made = run(AUDIT)
    table = made.text("HapaxFindRareFeatures", 2)
    assert "rare features in 250 pictures" in table
    assert "128 channels" in made.text("HapaxSAEInfo", 0)
    assert shows_something(made.sheet("HapaxFindRareFeatures", 1))
    assert shows_something(made.sheet("HapaxShowFeature", 0))
    report = made.server.base / "output" / "hapax" / "firefighter" / "report.html"
    assert made.text("HapaxSaveAudit") == str(report)
    (asked,) = json.loads((report.parent / "audit.json").read_text(encoding="utf-8"))["prompts"]
    assert asked["prompt"] == "a photo of a firefighter"
    shown, found = counted(made.server), {feature["label"] for feature in asked["features"]}
    # Of five pictures, the fewest that anything is called rare on, one or two may be missed.
    rare = {style for style, count in shown.items() if 8 <= count <= 0.15 * 250}
    print(f"styles of 250 pictures: {shown}; found: {sorted(filter(None, found))}")
    assert len(rare) >= 2
    assert len(rare & found) >= len(rare) - 1
    assert STYLE in found, "the other workflows ask for it by name"
    for style in rare & found:
        assert style in table
        assert style in report.read_text(encoding="utf-8")
    assert not {style for style, count in shown.items() if count > 0.5 * 250} & found
    assert (made.server.base / "models" / "hapax" / "sae" / "firefighter.safetensors").exists()


def test_amplify_shows_the_style_more_often(run):
    made = run(AMPLIFY)
    usual, amplified, mixed = (
        style_share(made.saved(f"hapax/{each}"), STYLE) for each in ("base", "amplified", "mixed")
    )
    print(f"share of {STYLE}: usual {usual:.2f}, amplified {amplified:.2f}, mixed {mixed:.2f}")
    assert usual <= 0.2
    assert amplified >= usual + 0.15
    assert mixed == pytest.approx(0.5, abs=0.15)
    assert made.text("HapaxMixPrompts", 1)


def test_saved_direction_steers_as_the_feature_did(run, server, sibling):
    made = run(AMPLIFY)
    # What the note beside the group says: choose the saved file, and wire Apply Direction to a sampler.
    (load,), (apply,) = made.ids("HapaxLoadDirection"), made.ids("HapaxApplyDirection")
    (saved,) = made.ids("HapaxSaveDirection")
    name = "directions/" + made.prompt[saved]["inputs"]["filename"] + ".safetensors"
    assert (
        name
        in server.get("/object_info/HapaxLoadDirection")["HapaxLoadDirection"]["input"]["required"]["direction_name"][
            1
        ]["options"]
    )
    prompt = json.loads(json.dumps(made.prompt))
    prompt[load]["inputs"]["direction_name"] = name
    (amplify,) = made.ids("HapaxAmplifyFeature")
    (sampler,) = [key for key in made.ids("KSampler") if prompt[key]["inputs"]["model"][0] == amplify]
    prompt[sampler]["inputs"]["model"] = [apply, 0]
    (output,) = [key for key in made.ids("SaveImage") if prompt[key]["inputs"]["filename_prefix"] == "hapax/amplified"]
    prompt[output]["inputs"]["filename_prefix"] = "hapax/directed"
    directed = sibling("outputs").Outputs(server, prompt, server.run(prompt)).saved("hapax/directed")
    assert style_share(directed, STYLE) >= style_share(made.saved("hapax/base"), STYLE) + 0.15


def test_encode_says_what_is_in_the_picture(run):
    made = run(ENCODE)
    table = made.text("HapaxEncodeWithSAE", 2)
    assert "yes" in table
    assert "no" in table
    assert shows_something(made.sheet("HapaxEncodeWithSAE", 0))
    (mask,) = made.pictures(*made.of("MaskToImage"))
    assert len(mask.getcolors()) > 1
    decoded = [
        made.pictures(key) for key in made.of("VAEDecode") if key in made.outputs and made.outputs[key].get("images")
    ]
    assert len(decoded) == 2
    assert all(shows_something(picture) for (picture,) in decoded)


def test_capture_adds_up_over_runs(run, server, sibling):
    made = run(CAPTURE)
    assert "100 pictures (100 new)" in made.text("HapaxCollect", 2)
    again = json.loads(json.dumps(made.prompt))
    (sampler,) = made.ids("KSampler")
    again[sampler]["inputs"]["seed"] += 1
    more = sibling("outputs").Outputs(server, again, server.run(again))
    assert "200 pictures (100 new)" in more.text("HapaxCollect", 2)
    assert shows_something(more.sheet("HapaxFindRareFeatures", 1))


def test_a_caption_becomes_a_dial(run):
    made = run(DIAL)
    plain, one, both = (made.saved(f"hapax/{each}") for each in ("plain", "dial", "dials"))
    usual, turned = style_share(plain, "woman"), style_share(one, "woman")
    print(f"share of woman: usual {usual:.2f}, one dial {turned:.2f}; of {STYLE}: both {style_share(both, STYLE):.2f}")
    assert turned >= usual + 0.3
    assert style_share(both, STYLE) >= style_share(plain, STYLE) + 0.3
    assert made.text("HapaxCaptionToDirection", 1).startswith("a photo of a firefighter, woman - ")
    assert (made.server.base / "models" / "hapax" / "directions" / "woman_firefighter.safetensors").exists()


def test_a_mystery_feature_gets_a_name(run):
    made = run(MYSTERY)
    assert made.text("HapaxBuildCaptionIndex", 1).startswith("12 captions at mid")
    # Whichever comes first on the list, what it is named after is rare in truth: a style, a gender or a skin tone.
    truth = load_world().truth["firefighter"]
    rare = {value for table in truth.values() for value, share in table.items() if share < 0.15}
    assert made.text("HapaxDescribeDirection", 0) in rare
    assert made.text("HapaxLookUpCaption", 1).splitlines()[0] == "+1.000  woman"
    assert (made.server.base / "models" / "hapax" / "captions" / "firefighter.safetensors").exists()


def test_the_compass_leans_as_the_pictures_do(run):
    """Signs of the leans against the truth of the emoji world, where it is beyond 60 to 40."""
    made = run(COMPASS)
    shown = [made.outputs[key] for key in made.of("HapaxBiasCompass", 0)]
    tables = ["".join(each["text"]) for each in shown if "text" in each]
    (table,) = [each for each in tables if "woman" in each]
    truth, right, told = load_world().truth, 0, 0
    for name, share in re.findall(r"^a photo of a (\w+)\n  woman: (\d+) %", table, re.MULTILINE):
        likely = truth[name]["gender"]["woman"]
        if abs(likely - 0.5) > 0.1:
            told += 1
            right += (float(share) > 50) == (likely > 0.5)
    print(f"{right} of {told} leans have the right sign")
    assert told >= 5
    assert right >= told - 1


def test_a_concept_is_shown_more_evenly(run):
    made = run(DEBIAS)
    biased, debiased = (made.saved(f"hapax/{each}") for each in ("biased", "debiased"))
    men = [style_share(pictures, "man") for pictures in (biased, debiased)]
    plain = [style_share(pictures, "flat picture") for pictures in (biased, debiased)]
    right = judge(np.stack([np.asarray(each) for each in debiased])).concept("mechanic")
    print(f"share of man, flat picture: before and after {men}, {plain}; still mechanics: {right:.2f}")
    assert men[1] >= men[0] + 0.1
    assert plain[1] <= plain[0] - 0.2
    assert right >= 0.9
    assert "500 pictures in " in made.text("HapaxInferBiasGroups", 2)
    assert shows_something(made.sheet("HapaxInferBiasGroups", 1))
    assert shows_something(made.sheet("HapaxTrainInvDiffGuidance", 1))
    assert shows_something(made.sheet("HapaxBiasScore", 2))
    told = [line for line in made.text("HapaxBiasScore", 1).splitlines() if "bias" in line]
    assert [line.partition(":")[0] for line in told] == ["before", "after"]
    # What the node counts by CLIP is what the judge sees.
    counted = [int(re.search(r"a man mechanic (\d+)", line)[1]) / 100 for line in told]
    assert counted == pytest.approx(men, abs=0.1)
    assert (made.server.base / "models" / "hapax" / "guidance" / "mechanic.safetensors").exists()


def test_a_second_round_evens_out_what_the_first_left(run):
    made = run(ROUNDS)
    walls = [made.saved(f"hapax/{each}") for each in ("biased", "one-round", "two-rounds")]
    men = [style_share(pictures, "man") for pictures in walls]
    light = [style_share(pictures, "light skin") for pictures in walls]
    right = judge(np.stack([np.asarray(each) for each in walls[2]])).concept("mechanic")
    print(f"share of man, light skin: before and after each round {men}, {light}; still mechanics: {right:.2f}")
    assert abs(men[2] - 0.5) < min(abs(men[0] - 0.5) / 2, abs(men[1] - 0.5) + 0.05)
    assert light[2] < light[1] < light[0]
    assert right >= 0.9
    told = made.text("HapaxInferBiasGroups", 2)
    strays = re.search(r"(\d+) of 500 guided pictures are like none of the model's own", told)
    assert f"{1000 - int(strays[1])} pictures in " in told
    assert (made.server.base / "models" / "hapax" / "guidance" / "mechanic-2.safetensors").exists()


def test_counts_are_scored_without_any_model(server, sibling):
    given = {"prompt": "a cook", "groups": "{}, woman\n{}, man", "concepts": "", "strength": 1.0}
    score = {"class_type": "HapaxBiasScore", "inputs": {**given, "counts": "90, 10", "counts_before": "99 1"}}
    preview = {"class_type": "PreviewImage", "inputs": {"images": ["1", 2]}}
    made = sibling("outputs").Outputs(server, api := {"1": score, "2": preview}, server.run(api))
    assert "".join(made.outputs["1"]["text"]).splitlines()[1].startswith("after: bias 0.80 (")
    assert shows_something(made.sheet("HapaxBiasScore", 2))


def test_sdxl_lacks_nothing_but_its_files(prompt, server, sibling):
    with pytest.raises(sibling("server").ServerError) as refused:
        server.run(prompt(SDXL))
    errors = json.loads(str(refused.value))["node_errors"]
    told = {
        (node["class_type"], error["type"], error["extra_info"]["input_name"])
        for node in errors.values()
        for error in node["errors"]
    }
    assert told == {
        ("CheckpointLoaderSimple", "value_not_in_list", "ckpt_name"),
        ("HapaxLoadCLIPScorer", "custom_validation_failed", "weights"),
    }


def test_a_misfit_turns_red_with_one_sentence(run, prompt, server, sibling):
    made = run(AMPLIFY)
    wrong = json.loads(json.dumps(made.prompt))
    (amplify,) = made.ids("HapaxAmplifyFeature")
    wrong[amplify]["inputs"]["feature"] = "no such style"
    with pytest.raises(sibling("server").ServerError, match=r"HapaxAmplifyFeature: .*no such style"):
        server.run(wrong)


def test_every_other_workflow_runs(run, sibling):
    own_tests = {AUDIT, AMPLIFY, ENCODE, CAPTURE, SDXL, DIAL, MYSTERY, COMPASS, DEBIAS, ROUNDS}
    for name in sorted(set(sibling("workflows").shipped()) - own_tests):
        made = run(name)
        shown = [key for key, output in made.outputs.items() if output.get("images") or output.get("text")]
        assert shown, name
