"""CLIP from local safetensors only, and clear words when that fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hapax.core.embed import ClipEmbedder, file_digest
from hapax.core.emoji import CLIP_FOLDER, load_clip
from hapax.core.errors import HapaxError
from PIL import Image


@pytest.fixture(scope="module")
def clip() -> ClipEmbedder:
    return load_clip()


def test_embeddings_are_unit_vectors_whatever_the_batch(clip: ClipEmbedder) -> None:
    colours = ["red", "green", "blue", "white", "black"]
    pictures = [Image.new("RGBA", (90, 70), colour) for colour in colours]
    together, apart = clip.images(pictures), clip.images(pictures, batch_size=1)
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(clip.texts(["a cat", "a dog"]).norm(dim=1), torch.ones(2))


def test_nothing_to_embed(clip: ClipEmbedder) -> None:
    with pytest.raises(HapaxError, match="No pictures"):
        clip.images([])
    with pytest.raises(HapaxError, match="No texts"):
        clip.texts([])


def test_weights_of_another_architecture() -> None:
    with pytest.raises(HapaxError, match="does not fit the CLIP architecture ViT-B-32"):
        ClipEmbedder.load("ViT-B-32", CLIP_FOLDER / "hapax-emoji.safetensors")


def test_unknown_architecture() -> None:
    with pytest.raises(HapaxError, match="'ViT-Q-1' is not an open_clip architecture"):
        ClipEmbedder.load("ViT-Q-1", CLIP_FOLDER / "hapax-emoji.safetensors")


def test_a_tokenizer_of_the_hub_is_not_fetched() -> None:
    with pytest.raises(HapaxError, match="needs the tokenizer facebook/nllb-200-distilled-600M, which is not on this"):
        ClipEmbedder.load("nllb-clip-base-siglip", CLIP_FOLDER / "hapax-emoji.safetensors")


@pytest.mark.parametrize("name", ["gone.safetensors", "weights.pt"])
def test_only_local_safetensors(tmp_path: Path, name: str) -> None:
    (tmp_path / "weights.pt").write_bytes(b"")
    with pytest.raises(HapaxError, match=r"must be a local \.safetensors file"):
        ClipEmbedder.load("ViT-B-32", tmp_path / name)


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"one")
    (tmp_path / "c").write_bytes(b"two")
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b") != file_digest(tmp_path / "c")
