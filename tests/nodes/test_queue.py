"""What people's queues do on real servers, with models of random weights: nothing here needs the demo model."""

from __future__ import annotations

import json
import time

import pytest
import torch
from hapax.core.activations import ActivationStore
from hapax.core.direction import Direction

RUNS = 50
FAMILIES = {"sd15": ("mid", 128), "sdxl": ("mid", 128), "sd3": ("double.0", 128), "flux": ("double.0", 96)}


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def sampler(model, seed, **changed):
    """KSampler behind `model`, on the TinyModel that is node 1 and the latent that is node 2."""
    given = {"positive": ["1", 1], "negative": ["1", 2], "latent_image": ["2", 0], "denoise": 1.0}
    how = {"seed": seed, "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
    return node("KSampler", model=model, **(given | how | changed))


def harvest(run, **changed):
    wired = {"model": ["1", 0], "positive": ["1", 1], "negative": ["1", 2], "vae": ["1", 3]}
    made = {"count": 4, "first_seed": 0, "steps": 4, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
    size = {"width": 64, "height": 64, "batch_size": 2}
    kept = {"run": run, "prompt": "a photo", "site": "auto", "record_steps": 2, "positions": 64}
    return node("HapaxHarvestActivations", **(wired | made | size | kept | changed))


def steered(direction, seed, family="sd15", strength=3.0):
    """Record from a model that is pushed along a saved direction."""
    how = {"start_percent": 0.0, "end_percent": 1.0, "conditioning": "positive", "norm_limit": 0.0}
    return {
        "1": node("TinyModel", family=family),
        "2": node("EmptyLatentImage", width=64, height=64, batch_size=2),
        "3": node("HapaxLoadDirection", direction_name=direction, any_checkpoint=False),
        "4": node("HapaxApplyDirection", model=["1", 0], direction=["3", 0], strength=strength, **how),
        "5": node("HapaxCapture", model=["4", 0], site="auto", record_steps=2, positions=64),
        "6": sampler(["5", 0], seed),
        "7": node(
            "HapaxCollect", recording=["5", 1], latent=["6", 0], run=f"queue {family}", prompt="a photo", vae=["1", 3]
        ),
    }


@pytest.fixture(scope="session")
def direction(server):
    """`direction(site, channels)` saves one on the server and returns its name there."""

    def save(site, channels, **meta):
        folder = server.base / "models" / "hapax" / "directions"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{site} {channels} {meta.get('architecture', 'any')}.safetensors"
        vector = torch.randn(channels, generator=torch.Generator().manual_seed(1))
        Direction(vector, site, 5.0, meta).save(folder / name)
        return f"directions/{name}"

    return save


def held(server):
    """Tensors and bytes of a server that has let go of all that it may."""
    server.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(2)
    outputs = server.run({"1": node("TinyHeld")})
    return json.loads(outputs["1"]["text"][0])


def test_fifty_runs_leave_nothing_behind(server, direction):
    name = direction("mid", 128)

    def run(number):
        # Another strength each time: every run clones and patches the model anew.
        outputs = server.run(steered(name, seed=number, strength=1.0 + number / 100))
        assert "2 new" in "".join(outputs["7"]["text"])

    for number in range(3):
        run(number)
    before = held(server)
    for number in range(3, 3 + RUNS):
        run(number)
    after = held(server)
    print(before, after)
    assert after["tensors"] <= before["tensors"] + 5, "less than one tensor in ten runs"
    assert after["bytes"] <= before["bytes"] + 100_000


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_recorded_and_steered(server, direction, family):
    site, channels = FAMILIES[family]
    outputs = server.run(steered(direction(site, channels), seed=1000, family=family))
    assert f"at {'mid' if site == 'mid' else 'double.1'} of" in "".join(outputs["7"]["text"])
    outputs = server.run({"1": node("TinyModel", family=family), "2": harvest(f"families {family}")})
    assert "".join(outputs["2"]["text"]).startswith("4 pictures (4 new)")


def test_a_harvest_that_is_stopped_goes_on_where_it_was(server):
    prompt = {"1": node("TinyModel", family="sd15"), "2": harvest("stopped", count=400, steps=20)}
    asked = server.queue(prompt)
    recordings = server.base / "output" / "hapax"
    end = time.monotonic() + 300
    while not list(recordings.glob("stopped-*")):
        assert time.monotonic() < end, "the harvest did not begin"
        time.sleep(0.2)
    time.sleep(5)
    server.post("/interrupt", {})
    entry = server.wait(asked)
    assert "execution_interrupted" in [name for name, _ in entry["status"]["messages"]]
    (folder,) = recordings.glob("stopped-*")
    kept = len(ActivationStore.open(folder))
    print(f"stopped after {kept} pictures")
    assert kept < 400
    prompt["2"]["inputs"]["count"] = kept + 3
    outputs = server.run(prompt)
    # What was under way when it was stopped is made again, whole.
    assert "".join(outputs["2"]["text"]).startswith(f"{kept + 3} pictures (3 new)")
    assert sorted(sample.seed for sample in ActivationStore.open(folder).samples)[: kept + 3] == list(range(kept + 3))


def red(server, prompt, sibling):
    """The class of the node that turns red, and what it says."""
    with pytest.raises(sibling("server").ServerError) as failed:
        server.run(prompt)
    text = str(failed.value)
    if not text.startswith("{"):
        kind, _, said = text.partition(": ")
        return kind, said
    (refused,) = json.loads(text)["node_errors"].values()
    (error,) = refused["errors"]
    return refused["class_type"], error["details"].partition(" - ")[2]


def is_a_sentence(said):
    """One line that ends, and that has what to do behind a semicolon."""
    return "\n" not in said and said.endswith(".") and ";" in said


def test_a_direction_of_another_family_is_refused(server, direction, sibling):
    prompt = steered(direction("mid", 128, architecture="TinySD15", model="x", versions={"comfyui": "x"}), 1, "sd3")
    kind, said = red(server, prompt, sibling)
    assert kind == "HapaxApplyDirection"
    assert "architecture TinySD15, but here it is SD3" in said
    assert is_a_sentence(said), said


def test_a_direction_of_another_width_is_refused(server, direction, sibling):
    kind, said = red(server, steered(direction("mid", 64), 1), sibling)
    assert kind == "HapaxApplyDirection"
    assert "channels 64, but here it is 128" in said
    assert is_a_sentence(said), said


def test_a_site_that_the_model_lacks_is_refused(server, sibling):
    prompt = {"1": node("TinyModel", family="flux"), "2": harvest("nowhere", site="mid")}
    kind, said = red(server, prompt, sibling)
    assert kind == "HapaxHarvestActivations"
    assert "no site 'mid' in this denoiser; it has double.0 to double.1, single.0 to single.1, eps" in said
    assert is_a_sentence(said), said


def test_an_empty_recording_is_refused(server, sibling):
    outputs = server.run({"1": node("TinyModel", family="sd15"), "2": harvest("full", count=1)})
    assert outputs["2"]["text"]
    (full,) = (server.base / "output" / "hapax").glob("full-*")
    ActivationStore.create(full.with_name("empty"), ActivationStore.open(full).provenance).close()
    prompt = {"1": node("HapaxLoadActivations", run="empty"), "2": node("PreviewAny", source=["1", 2])}
    kind, said = red(server, prompt, sibling)
    assert kind == "HapaxLoadActivations"
    assert "'empty' holds no pictures yet" in said
    assert is_a_sentence(said), said


def test_too_few_pictures_are_refused(server, sibling):
    how = {"latents": 0, "epochs": 1, "seed": 0, "k": 8, "coarse": 0}
    prompt = {"1": node("TinyModel", family="sd15"), "2": harvest("few", count=2, record_steps=1)}
    prompt |= {"3": node("HapaxTrainSAE", activations=["2", 0], **how), "4": node("HapaxSAEInfo", sae=["3", 0])}
    kind, said = red(server, prompt, sibling)
    assert kind == "HapaxTrainSAE"
    assert "at least 128 are needed" in said
    assert is_a_sentence(said), said


@pytest.mark.parametrize(
    ("kind", "given", "slot", "said"),
    [
        ("HapaxLoadSAE", {"sae_name": "sae/no.safetensors", "site": "", "k": 0, "any_checkpoint": False}, 0, "file"),
        ("HapaxLoadDirection", {"direction_name": "directions/no.safetensors", "any_checkpoint": False}, 2, "file"),
        ("HapaxLoadCaptionIndex", {"index_name": "captions/no.safetensors", "any_checkpoint": False}, 1, "file"),
        ("HapaxLoadCLIPScorer", {"weights": "clip/no.safetensors", "architecture": "ViT-B-32"}, 0, "file"),
        ("HapaxLoadActivations", {"run": "no"}, 2, "recording"),
        ("HapaxLoadSAE", {"sae_name": "../../no.safetensors", "site": "", "k": 0, "any_checkpoint": False}, 0, "file"),
    ],
)
def test_a_missing_file_is_said_before_anything_runs(server, sibling, kind, given, slot, said):
    prompt = {"1": node(kind, **given), "2": node("PreviewAny", source=["1", slot])}
    refused, sentence = red(server, prompt, sibling)
    assert refused == kind
    name = given.get("run") or next(value for value in given.values() if str(value).endswith(".safetensors"))
    assert sentence.startswith(f"There is no {said} {name!r} in ComfyUI's ")
    assert is_a_sentence(sentence), sentence
