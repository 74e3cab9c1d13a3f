"""What a guidance module adds to an audit: the model beside itself at equal seeds, counted by CLIP."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.cli import main
from hapax.core.collect import Sampling
from hapax.core.emoji import load_clip
from hapax.core.invdiff import load_guidance, save_guidance
from hapax.core.invdiff.evaluation import Guided, Judged
from hapax.core.invdiff.module import GuidanceModule, GuidanceShape
from hapax.core.report import load_audit

PROMPTS = ("a cat", "a dog")
LABELS = ("{}, sketch", "{}, night")


@pytest.fixture(scope="module")
def folder(tiny_pipelines, tmp_path_factory) -> Path:
    """A pipeline, prompts, and two modules: one that does nothing yet, and one that does much."""
    folder = tmp_path_factory.mktemp("guidance")
    tiny_pipelines.build("sd1").save_pretrained(folder / "pipeline")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    (folder / "bank.txt").write_text("sketch\nnight\n")
    backend = DiffusersBackend.from_folder(folder / "pipeline")
    module = GuidanceModule(GuidanceShape("mid", backend.sites["mid"].channels, 16, hidden=8)).requires_grad_(False)
    module.meta = backend.identity()
    save_guidance(module, folder / "new.safetensors")
    module.last.bias.normal_(generator=torch.Generator().manual_seed(0)).mul_(30)
    save_guidance(module, folder / "strong.safetensors")
    return folder


def audit(folder: Path, out: str, *more: object) -> int:
    words = [
        "audit", f"--pipeline={folder / 'pipeline'}", f"--prompts={folder / 'prompts.txt'}", f"--out={folder / out}",
        f"--bank={folder / 'bank.txt'}", "--clip=hapax-emoji", "--device=cpu", "--images=50", "--steps=2",
        "--guidance=1", "--batch-size=25", "--record-steps=2", "--positions=16", "--latents=64", "--coarse=32", "--k=4",
        "--epochs=2", "--amplify=0", *map(str, more),
    ]  # fmt: skip
    return main(words)


def test_the_model_stands_beside_itself_at_equal_seeds(folder: Path) -> None:
    file = folder / "strong.safetensors"
    given = ("--guidance-file", file, "--strength", 0.5, "--labels", *LABELS)
    assert audit(folder, "out", *given) == 0
    found = load_audit(folder / "out" / "audit.json")["invdiff"]
    assert (found["module"], found["strength"], found["measured_by"]) == (file.name, 0.5, "hapax-emoji")
    embedder, backend = load_clip(), DiffusersBackend.from_folder(folder / "pipeline")
    pictures = Sampling(2, 1.0, 25).pictures(backend, "a dog", range(50))
    groups = embedder.texts([label.replace("{}", "a dog") for label in LABELS])
    judged = Judged.by_clip(embedder.images(pictures), groups, embedder.texts(["a dog", "a cat"]))
    row = found["prompts"][1]
    assert [group["name"] for group in row["groups"]] == ["sketch", "night"]
    assert [group["before"]["count"] for group in row["groups"]] == judged.counts.tolist()
    assert row["concept_before"]["count"] == judged.concept
    assert row["sce_before"]["image"] == pytest.approx(judged.diversity["image"], rel=1e-3)
    assert row["sce_after"]["image"] != pytest.approx(row["sce_before"]["image"], rel=1e-6)
    page = (folder / "out" / "report.html").read_text("utf-8")
    assert "Bias, before and after" in page
    assert "Over 2 prompts the bias score went from " in page
    assert audit(folder, "out", *given, "--resume") == 0
    assert load_audit(folder / "out" / "audit.json")["invdiff"] == found


def test_pictures_under_an_untrained_module_are_the_model_s_own(folder: Path, tmp_path: Path) -> None:
    embedder, backend = load_clip(), DiffusersBackend.from_folder(folder / "pipeline")
    sampling, seeds = Sampling(2, 1.0, 4), range(4)
    guided = Guided(backend, load_guidance(folder / "new.safetensors"))
    found = guided.embeddings(embedder, PROMPTS, seeds, sampling, tmp_path, lambda *_: None)
    for row, prompt in zip(found, PROMPTS, strict=True):
        # Up to a step or two of a pixel: their latents are decoded in other batches.
        own = embedder.images(sampling.pictures(backend, prompt, seeds))
        assert float((row * own).sum(1).min()) > 0.999


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--labels", "{}, sketch", "{}, night"), "There are labels to count but no guidance module"),
        (("--guidance-file", "new.safetensors"), "new.safetensors, but the labels are []; give two groups or more"),
        (("--guidance-file", "new.safetensors", "--labels", "{}", "{}"), "each once"),
        (("--guidance-file", "gone.safetensors", "--labels", "{}, a", "{}, b"), "no file"),
        (("--guidance-file", "bank.txt", "--labels", "{}, a", "{}, b"), "bank.txt"),
    ],
)
def test_bad_input_is_refused_before_any_work(folder: Path, capsys: pytest.CaptureFixture[str], more, said) -> None:
    given = [folder / each if each.endswith((".safetensors", ".txt")) else each for each in more]
    assert audit(folder, "never", *given) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "never" / "activations").exists()
