"""Load CLIP Scorer and Save Audit."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hapax.core.emoji import CLIP_FOLDER, CLIP_NAME
from hapax.core.errors import HapaxError
from hapax.core.report import load_audit
from hapax.core.sae import load_sae
from hapax.nodes.scoring import LoadCLIPScorer, SaveAudit
from PIL import Image

pytestmark = pytest.mark.usefixtures("as_the_server_runs")


class Queued(SaveAudit):
    """The node with what the server adds to a run."""

    hidden = SimpleNamespace(prompt={"1": {"class_type": "X"}}, extra_pnginfo={"workflow": {"nodes": []}})


@pytest.fixture
def saved(findings):
    report = Path(Queued.execute(findings[0], "an audit", "tiny").result[0])
    return report, load_audit(report.with_name("audit.json"))


def test_the_audit_is_valid_and_has_the_numbers(saved, findings):
    report, audit = saved
    features = findings[0]
    assert report.name == "report.html"
    assert audit["model"] == {
        "name": "tiny",
        "fingerprint": features.provenance["model"],
        "site": "mid",
        "architecture": "TinySD15",
        "channels": 128,
        "grid": [2, 2],
    }
    assert [f["latent"] for f in audit["prompts"][0]["features"]] == [f.latent for f in features.features]
    assert audit["prompts"][0]["images"] == 150
    assert audit["settings"]["guidance"] == 5.0


def test_its_files_are_beside_it(saved, findings):
    report, audit = saved
    folder = report.parent
    sae = load_sae(folder / audit["prompts"][0]["sae"]["path"])
    assert torch.equal(sae.W_dec, findings[3].W_dec)
    for exemplar in audit["prompts"][0]["features"][0]["exemplars"]:
        with Image.open(folder / exemplar["image"]) as picture:
            assert picture.getpixel((0, 0)) == (30, 40, 200)
        assert (folder / exemplar["heatmap"]).is_file()
    assert json.loads((folder / "workflow.json").read_text()) == {"nodes": []}
    assert "workflow.json" in audit["provenance"]["reproduce"]
    assert len(audit["provenance"]["prompt_sha256"]) == 64


def test_an_audit_is_never_written_over(findings):
    first, second = (Path(Queued.execute(findings[0], "again", "").result[0]).parent for _ in range(2))
    assert first != second
    assert (first / "audit.json").is_file()


def test_it_stays_in_the_output_folder(findings, base_directory):
    with pytest.raises(HapaxError, match="is not a file or folder name"):
        Queued.execute(findings[0], "../../elsewhere", "")
    assert Path(Queued.execute(findings[0], "x", "").result[0]).is_relative_to(base_directory / "output" / "hapax")


def test_the_scorer_names_what_it_sees(scorer):
    picture = Image.new("RGB", (64, 64), "white")
    assert scorer.images([picture]).shape == scorer.texts(["a"]).shape
    assert len(scorer.phrases) > 2
    assert not any(each.is_inference() for each in scorer.embedder.model.parameters())


def test_comfyui_counts_the_scorer(scorer):
    import comfy.model_management as management

    scorer.texts(["a"])
    assert any(loaded.model.model is scorer.embedder.model for loaded in management.current_loaded_models)


def test_weights_that_do_not_fit_are_refused(base_directory):
    folder = base_directory / "models" / "hapax" / "clip"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.safetensors").write_bytes((CLIP_FOLDER / f"{CLIP_NAME}.safetensors").read_bytes())
    with pytest.raises(HapaxError, match="does not fit the CLIP architecture ViT-B-32"):
        LoadCLIPScorer.execute("clip/tiny.safetensors", "ViT-B-32")
    with pytest.raises(HapaxError, match="There is no file"):
        LoadCLIPScorer.execute("clip/none.safetensors", "ViT-B-32")
