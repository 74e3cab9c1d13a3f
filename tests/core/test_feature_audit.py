"""An audit written from a feature set is one that the report's own checks accept."""

from __future__ import annotations

from dataclasses import replace

import torch
from hapax.core.feature_audit import write_feature_audit
from hapax.core.report import load_audit
from hapax.core.sae import TrainedSAE, load_sae


def write(features, folder, **changed):
    return write_feature_audit(features, folder, provenance={"reproduce": "Run it again."}, **changed)


def test_it_is_a_valid_audit_with_its_files(feature_set, tmp_path):
    report = write(feature_set, tmp_path, model_name="mine", files={"workflow.json": b"{}"}, credits=["thanks"])
    audit = load_audit(tmp_path / "audit.json")
    assert report == tmp_path / "report.html"
    assert "line sketch" in report.read_text("utf-8")
    assert (audit["settings"]["steps"], audit["settings"]["guidance"]) == (20, 7.0)
    first = audit["prompts"][0]["features"][0]
    assert (first["id"], first["label"], first["group"], first["count"]) == ("p0-f3", "line sketch", [6], 6)
    assert len(first["exemplars"]) == 6
    assert all((tmp_path / e[key]).is_file() for e in first["exemplars"] for key in ("image", "heatmap"))
    assert torch.equal(load_sae(tmp_path / "sae/p0.safetensors").W_dec, feature_set.trained.sae.W_dec)
    assert (tmp_path / "workflow.json").read_bytes() == b"{}"


def test_little_is_needed(feature_set, tmp_path):
    """An autoencoder without metrics, a recording that says nothing of its sampler, nothing found."""
    bare = replace(
        feature_set,
        trained=TrainedSAE(feature_set.trained.sae, {}),
        provenance={"site": "mid"},
        features=(),
        sheet=feature_set.sheet[:3],
    )
    write(bare, tmp_path)
    audit = load_audit(tmp_path / "audit.json")
    assert audit["model"]["name"] == "unknown"
    assert audit["prompts"][0]["sae"] is None
