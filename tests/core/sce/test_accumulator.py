"""The streamed score: equal to the whole, however the pairs are cut, merged, stored; small whatever their number."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.sce import SchurComplementEntropy, schur_complement_entropy
from hapax.core.sce.accumulator import PromptKeys
from hapax.core.sce.pairs import row_keys
from safetensors.torch import load, save

RFF = {"kernel": "gaussian", "sigma": 3.0, "rff_dim": 25}


@pytest.mark.parametrize("options", [{}, {"ridge": 0.1}, RFF])
@pytest.mark.parametrize("size", [1, 7, 50, 120])
def test_any_cut_gives_the_whole(make_pairs: Callable, options: dict, size: int):
    image, text = make_pairs()
    stream = SchurComplementEntropy(**options)
    for images, texts in zip(image.split(size), text.split(size), strict=True):
        stream.update(images, texts)
    assert stream.compute() == pytest.approx(schur_complement_entropy(image, text, **options), rel=1e-9)


@pytest.mark.parametrize("options", [{}, RFF])
def test_merging_is_adding(make_pairs: Callable, options: dict):
    image, text = make_pairs()
    parts = [SchurComplementEntropy(**options) for _ in range(4)]
    for part, images, texts in zip(parts, image.split(40), text.split(40), strict=False):
        part.update(images, texts)
    before = parts[1].compute()
    for part in parts[1:]:
        parts[0].merge(part)
    assert parts[0].compute() == pytest.approx(schur_complement_entropy(image, text, **options), rel=1e-9)
    assert parts[1].compute() == before
    empty = parts[3]
    empty.merge(parts[0])
    empty.update(image, text)
    assert empty.compute().n == 240
    assert parts[0].compute().n == 120


@pytest.mark.parametrize("options", [{}, RFF])
def test_state_goes_through_a_file(make_pairs: Callable, options: dict):
    image, text = make_pairs()
    one, other = SchurComplementEntropy(**options), SchurComplementEntropy(**options)
    one.update(image[:50], text[:50])
    other.load_state_dict(load(save(one.state_dict())))
    other.update(image[50:], text[50:])
    assert other.compute() == pytest.approx(schur_complement_entropy(image, text, **options), rel=1e-9)
    assert one.compute().n == 50
    other.load_state_dict(SchurComplementEntropy(**options).state_dict())
    with pytest.raises(HapaxError, match="There are 0 pairs"):
        other.compute()


def test_reset_forgets_the_pairs_and_keeps_the_frequencies(make_pairs: Callable):
    image, text = make_pairs()
    stream = SchurComplementEntropy(**RFF, generator=torch.Generator().manual_seed(5))
    stream.update(image, text)
    first = stream.compute()
    stream.reset()
    stream.update(image, text)
    assert stream.compute() == first


def test_memory_does_not_grow_with_the_pairs(make_pairs: Callable):
    image, text = make_pairs()
    stream = SchurComplementEntropy()
    sizes = []
    for _ in range(3):
        stream.update(image, text)
        sizes.append(sum(tensor.nbytes for tensor in stream.state_dict().values()))
    assert sizes[0] == sizes[2] == 8 + 3 * 8 * 12**2 + 8 * 8


def test_prompts_are_counted_once_wherever_they_come(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hapax.core.sce.accumulator._LOOSE", 10)
    keys, rng = PromptKeys(), torch.Generator().manual_seed(0)
    everything = torch.randint(300, (40, 25), generator=rng)
    for part in everything:
        keys.add(part)
        assert keys._count <= 10 + len(keys._sorted) // 8
    assert keys.tidy().tolist() == sorted(set(everything.flatten().tolist()))


def test_keys_tell_rows_apart_and_only_those():
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(20_000, 16, generator=g).double()
    near = rows[0].expand(64, -1).clone()
    bits = near[:16, :].view(torch.int64)
    bits[torch.arange(16), torch.arange(16)] ^= 1 << 29  # one step of fp32, in one coordinate each
    near[16:32] = rows[0].roll(1)
    near[32:] = -rows[0]
    keys = row_keys(torch.cat([rows, near]))
    assert len(keys.unique()) == 20_000 + 16 + 1 + 1
    assert torch.equal(row_keys(torch.tensor([[0.0, 1.0]]).double()), row_keys(torch.tensor([[-0.0, 1.0]]).double()))
    # Accumulators of other machines and versions must agree, so the keys are fixed for good.
    assert row_keys(torch.tensor([[1.0, 2.0]], dtype=torch.float64)).tolist() == [4756039118306148352]


def test_a_refused_batch_adds_nothing(make_pairs: Callable):
    image, text = make_pairs()
    stream = SchurComplementEntropy()
    stream.update(image, text)
    before = stream.compute()
    for bad in ((image[:3], text[:2]), (image[:2] * torch.nan, text[:2]), (image[:2, :5], text[:2, :5])):
        with pytest.raises(HapaxError):
            stream.update(*bad)
    assert stream.compute() == before


@pytest.mark.parametrize(
    ("options", "other", "said"),
    [
        ({}, {"ridge": 0.1}, "An accumulator of ridge 0.1 can't be merged into one of ridge 0.001"),
        ({}, RFF, "An accumulator of kernel gaussian can't be merged into one of kernel cosine"),
        (RFF, {**RFF, "sigma": 1.0}, "of sigma 1.0 can't be merged into one of sigma 3.0"),
        (RFF, {**RFF, "generator": torch.Generator().manual_seed(9)}, "other random frequencies"),
    ],
)
def test_only_equals_merge(make_pairs: Callable, options: dict, other: dict, said: str):
    image, text = make_pairs()
    one, two = SchurComplementEntropy(**options), SchurComplementEntropy(**other)
    one.update(image, text)
    two.update(image, text)
    with pytest.raises(HapaxError, match=said):
        one.merge(two)


def test_bad_settings_and_too_few_pairs(make_pairs: Callable):
    image, text = make_pairs()
    with pytest.raises(HapaxError, match="The Gaussian kernel needs sigma"):
        SchurComplementEntropy(kernel="gaussian")
    with pytest.raises(HapaxError, match="ridge is 0"):
        SchurComplementEntropy(ridge=0)
    stream = SchurComplementEntropy()
    stream.update(image[:1], text[:1])
    with pytest.raises(HapaxError, match="There are 1 pairs so far"):
        stream.compute()
    gaussian = SchurComplementEntropy(**RFF)
    gaussian.update(image, text)
    with pytest.raises(HapaxError, match="another kernel than cosine"):
        stream.load_state_dict(gaussian.state_dict())
    with pytest.raises(
        HapaxError, match="has 25 random frequencies, but the accumulator 2500; make it with rff_dim=25"
    ):
        SchurComplementEntropy(kernel="gaussian", sigma=3.0).load_state_dict(gaussian.state_dict())


def test_embeddings_of_another_size_are_refused(make_pairs: Callable):
    image, text = make_pairs()
    stream, narrow = SchurComplementEntropy(), SchurComplementEntropy()
    stream.update(image, text)
    narrow.update(image[:, :5], text[:, :5])
    for act in (lambda: stream.update(image[:, :5], text[:, :5]), lambda: stream.merge(narrow)):
        with pytest.raises(HapaxError, match="have 5 dimensions, but 12 are expected"):
            act()
    assert stream.compute().n == 120


def test_warns_where_nearly_all_prompts_differ(make_pairs: Callable):
    stream = SchurComplementEntropy()
    stream.update(*make_pairs(30, prompts=30))
    with pytest.warns(UserWarning, match="30 of 30 prompts are different"):
        stream.compute()


def test_processes_merge_by_files(make_pairs: Callable, tmp_path):
    """Two real processes write their sums; what is merged from the files is the whole."""
    import subprocess
    import sys

    from safetensors.torch import load_file, save_file

    image, text = make_pairs()
    save_file({"image": image.contiguous(), "text": text.contiguous()}, str(tmp_path / "pairs.safetensors"))
    code = (
        "import sys; from safetensors.torch import load_file, save_file\n"
        "from hapax.core.sce import SchurComplementEntropy\n"
        "folder, part = sys.argv[1], int(sys.argv[2]); x = load_file(folder + '/pairs.safetensors')\n"
        "s = SchurComplementEntropy(kernel='gaussian', sigma=3.0, rff_dim=25)\n"
        "s.update(x['image'][part::2], x['text'][part::2]); save_file(s.state_dict(), f'{folder}/{part}.safetensors')"
    )
    whole = SchurComplementEntropy(**RFF)
    for part in ("0", "1"):
        subprocess.run([sys.executable, "-P", "-c", code, str(tmp_path), part], check=True, timeout=300)
        share = SchurComplementEntropy(**RFF)
        share.load_state_dict(load_file(str(tmp_path / f"{part}.safetensors")))
        whole.merge(share)
    assert whole.compute() == pytest.approx(schur_complement_entropy(image, text, **RFF), rel=1e-9)
