from __future__ import annotations

import pytest
import torch
from hapax.core.cli import main
from hapax.core.invdiff import load_guidance
from safetensors import safe_open

MODEL = ("--steps", "2", "--guidance", "1", "--batch-size", "4", "--device", "cpu")


@pytest.fixture(scope="module")
def pipeline(tiny_pipelines, tmp_path_factory):
    made = tiny_pipelines.sd1()
    made.unet = tiny_pipelines.unet(block_out_channels=(32, 64))
    folder = tmp_path_factory.mktemp("pipeline")
    made.save_pretrained(folder)
    return folder


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\na dog\n")
    return path


def train(pipeline, prompts, out, *more: str) -> list[str]:
    options = ("--images", "6", "--groups", "2", "--train-steps", "3", "--train-batch", "4")
    model = ("--pipeline", str(pipeline), "--prompts", str(prompts), *MODEL)
    return ["invdiff", "train", "--out", str(out), *model, *options, *more]


def test_train_then_sample(pipeline, prompts, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(train(pipeline, prompts, out)) == 0
    assert str(out / "guidance.safetensors") in capsys.readouterr().out
    with safe_open(out / "groups.safetensors", "pt") as file:
        assert file.get_tensor("weights").shape == (12, 2)
        assert '"0:0"' in file.metadata()["samples"]
    sample = ["invdiff", "sample", "--pipeline", str(pipeline), "--prompts", str(prompts), *MODEL]
    sample += ["--guidance-file", str(out / "guidance.safetensors"), "--images", "2"]
    assert main([*sample, "--out", str(tmp_path / "made"), "--seed", "9"]) == 0
    names = ["000-10.png", "000-9.png", "001-10.png", "001-9.png"]
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == names


def test_a_finished_training_is_not_begun_again_unasked(pipeline, prompts, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(train(pipeline, prompts, out)) == 0
    before = load_guidance(out / "guidance.safetensors")
    assert main(train(pipeline, prompts, out)) == 2
    assert "add --resume" in capsys.readouterr().err
    assert main(train(pipeline, prompts, out, "--resume")) == 0
    after = load_guidance(out / "guidance.safetensors")
    assert after.meta == before.meta
    assert all(torch.equal(tensor, after.state_dict()[name]) for name, tensor in before.state_dict().items())
    assert main(train(pipeline, prompts, out, "--resume", "--groups", "3")) == 2
    assert "of other pictures or settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "by"),
    [((), "losses"), (("--clip", "hapax-emoji"), "clip"), (("--clip", "hapax-emoji", "--by", "losses"), "losses")],
)
def test_groups_are_by_clip_where_one_is_given(pipeline, prompts, tmp_path, more, by):
    assert main(train(pipeline, prompts, tmp_path, "--rounds", "1", *more)) == 0
    assert load_guidance(tmp_path / "guidance.safetensors").meta["groups_by"] == by


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--site", "double.3"), "There is no site 'double.3'"),
        (("--by", "clip", "--clip", "ViT-B-32"), "No weights were given for the CLIP model ViT-B-32"),
        (("--by", "clip", "--clip-weights", "its.safetensors"), "name the open_clip architecture"),
        (("--clip", "ViT-B-32"), "No weights were given for the CLIP model ViT-B-32"),
        (("--clip-weights", "its.safetensors"), "name the open_clip architecture"),
        (("--device", "nonsense"), "There is no device 'nonsense'"),
        (("--images", "0"), "no prompts or no seeds"),
        (("--lr", "0"), "lr is 0.0"),
    ],
)
def test_bad_input_is_one_sentence(pipeline, prompts, tmp_path, capsys, more, words):
    assert main(train(pipeline, prompts, tmp_path / "run", *more)) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in said
    assert not (tmp_path / "run" / "guidance.safetensors").exists()


def test_a_module_of_another_model_is_refused(pipeline, prompts, tmp_path, capsys, tiny_pipelines):
    assert main(train(pipeline, prompts, tmp_path / "run")) == 0
    other = tiny_pipelines.sd1()
    other.save_pretrained(tmp_path / "other")
    sample = ["invdiff", "sample", "--pipeline", str(tmp_path / "other"), "--prompts", str(prompts), *MODEL]
    sample += ["--guidance-file", str(tmp_path / "run" / "guidance.safetensors"), "--out", str(tmp_path / "made")]
    assert main(sample) == 2
    assert "use the model that it was made for" in capsys.readouterr().err
