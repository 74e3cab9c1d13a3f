"""The bias compass on the tiny models, through ComfyUI's samplers."""

from __future__ import annotations

import pytest
import torch
from captions import SAMPLING, Words, text
from hapax.core.directions import PooledRecorder
from hapax.core.directions.compass import pole_name
from hapax.core.directions.latents import read_latents
from hapax.core.errors import HapaxError
from hapax.nodes.backend import ComfyBackend
from hapax.nodes.comfy_taps import add_tap
from hapax.nodes.compass import BiasCompass
from hapax.nodes.probing import probe

pytestmark = pytest.mark.usefixtures("as_the_server_runs")


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "flux"])
def test_the_compass_looks_again_as_one_call_of_the_denoiser_does(subject, tiny_models, family):
    tested, clip = subject(family), Words(tiny_models, family)
    backend = ComfyBackend(tested.model, clip, "euler", "normal")
    made = {"steps": 2, "guidance": 1.0, "batch_size": 2, "width": 64, "height": 64}
    latents = backend.sample("a cat", [1, 2], {}, **made)
    found = read_latents(backend, latents, [7, 8], prompt="a dog", progress=[0.5], site=tested.site, batch_size=2)
    for row, seed in enumerate((7, 8)):
        recorder = PooledRecorder([0.5])
        tapped = add_tap(tested.model, tested.site, recorder)
        probe(tapped, text(clip, "a dog"), latents[row : row + 1], [0.5], seed, lambda done: None)
        torch.testing.assert_close(found[row], recorder.take(0), atol=2e-3, rtol=1e-3)


def test_the_compass_reads_a_pole_as_itself(sd15, clip, run):
    given = {"model": sd15.model, "clip": clip, "prompts": "a cat\na dog", "poles": "{}\na tree", "run": run}
    table, plot = BiasCompass.execute(**given, **{**SAMPLING, "seeds": 6}).result
    lines = table.splitlines()
    # Six seeds can't be surer than six pictures.
    assert lines[:3] == ["a cat", "  ...: 100 % (65 to 100)", "  a tree: 0 % (0 to 35)"]
    assert lines[3].startswith("  a tree -1 .. +1 ...: +1.00 (")
    assert lines[4] == "a dog"
    assert plot.shape[0] == 1
    assert plot.shape[3] == 3
    assert 0 <= float(plot.min()) < float(plot.max()) <= 1
    again = BiasCompass.execute(**given, **{**SAMPLING, "seeds": 6}).result
    assert again[0] == table
    assert pole_name("{}, woman") == "woman"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"poles": "{}"}, r"poles are \['{}'\]; give at least 2"),
        ({"poles": "{}\n{}"}, "each once"),
        ({"prompts": ""}, r"prompts are \[\]; give at least 1"),
        ({"seeds": 3}, "There are 3 seeds; give at least 4"),
    ],
)
def test_bad_input_is_one_clear_sentence(sd15, clip, run, changed, said):
    given = {"model": sd15.model, "clip": clip, "prompts": "a cat", "poles": "{}, woman\n{}, man", "run": run}
    with pytest.raises(HapaxError, match=said) as caught:
        BiasCompass.execute(**given | SAMPLING | changed)
    assert "\n" not in str(caught.value)
