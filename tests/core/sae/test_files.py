"""Files: exact round trips, and a sentence for each file that is not ours."""

from __future__ import annotations

import json

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.sae import MatryoshkaSAE, export_saelens, load_sae, load_saelens, save_sae
from safetensors import safe_open
from safetensors.torch import load_file, save_file


@pytest.fixture
def sae() -> MatryoshkaSAE:
    sae = MatryoshkaSAE(8, 32, (8, 32), 4, seed=1)
    generator = torch.Generator().manual_seed(2)
    for tensor in (sae.W_enc, sae.b_enc, sae.b_dec):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    sae.threshold.fill_(0.3)
    sae.scale.fill_(0.125)
    sae.meta = {"site": "mid", "seeds": [1, 2]}
    return sae


X = torch.randn(20, 8, generator=torch.Generator().manual_seed(3))


def assert_same(a: MatryoshkaSAE, b: MatryoshkaSAE) -> None:
    assert (a.d_in, a.d_sae, a.prefix_sizes, a.k) == (b.d_in, b.d_sae, b.prefix_sizes, b.k)
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name]), name
    assert torch.equal(a.encode(X), b.encode(X))


def test_a_saved_sae_comes_back_bit_for_bit(sae, tmp_path):
    save_sae(sae, tmp_path / "new" / "a.safetensors", meta={"fingerprint": "abc"})
    again = load_sae(tmp_path / "new" / "a.safetensors")
    assert_same(sae, again)
    assert again.meta == {"site": "mid", "seeds": [1, 2], "fingerprint": "abc"}
    assert sae.meta == {"site": "mid", "seeds": [1, 2]}
    assert not any(p.requires_grad for p in again.parameters())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.safetensors"]


def test_the_header_says_what_it_is(sae, tmp_path):
    save_sae(sae, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        header = file.metadata()
    assert (header["format"], header["version"]) == ("hapax.sae", "1")
    assert json.loads(header["config"]) == {"d_in": 8, "d_sae": 32, "prefix_sizes": [8, 32], "k": 4}


def test_a_failed_save_leaves_the_old_file(sae, tmp_path):
    path = tmp_path / "a.safetensors"
    save_sae(sae, path)
    before = path.read_bytes()
    with pytest.raises(HapaxError, match="can't be written as JSON"):
        save_sae(sae, path, meta={"tensor": torch.zeros(1)})
    assert path.read_bytes() == before


def rewritten(path, change_header=None, change_tensors=None):
    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    for change, target in ((change_header, header), (change_tensors, tensors)):
        if change:
            change(target)
    save_file(tensors, path, header)


def setting(key, value):
    return lambda target: target.__setitem__(key, value)


DAMAGES = {
    "is not an SAE of Hapax": lambda p: save_file({"a": torch.zeros(2)}, p),
    "no safetensors file or is damaged": lambda p: p.write_bytes(b"hello"),
    "is damaged": lambda p: p.write_bytes(p.read_bytes()[:-40]),
    "There is no file": lambda p: p.unlink(),
    "format version 2, but this Hapax reads 1": lambda p: rewritten(p, setting("version", "2")),
    "damaged header": lambda p: rewritten(p, setting("config", "{")),
    "damaged header .*'meta'": lambda p: rewritten(p, lambda h: h.pop("meta")),
    "damaged header .*'d_in'": lambda p: rewritten(p, setting("config", '{"width": 3}')),
    "damaged header .*indices": lambda p: rewritten(p, setting("config", "[8, 32]")),
    "damaged header .*iterable": lambda p: rewritten(p, setting("meta", "3")),
    r"prefix_sizes is \['32'\]": lambda p: rewritten(
        p, setting("config", '{"d_in": 8, "d_sae": 32, "prefix_sizes": ["32"], "k": 4}')
    ),
    r"expected floats of shape \[1000000000000, 8\]": lambda p: rewritten(
        p, setting("config", '{"d_in": 8, "d_sae": 1000000000000, "prefix_sizes": [1000000000000], "k": 4}')
    ),
    "k is 99": lambda p: rewritten(p, setting("config", '{"d_in": 8, "d_sae": 32, "prefix_sizes": [8, 32], "k": 99}')),
    "nothing for b_enc": lambda p: rewritten(p, None, lambda t: t.pop("b_enc")),
    r"torch.float32 \[32, 9\] for W_dec; expected floats of shape \[32, 8\]": lambda p: rewritten(
        p, None, setting("W_dec", torch.zeros(32, 9))
    ),
    "torch.int64": lambda p: rewritten(p, None, setting("W_dec", torch.zeros(32, 8).long())),
    "NaN or infinity in b_dec": lambda p: rewritten(p, None, setting("b_dec", torch.full((8,), torch.nan))),
}


@pytest.mark.parametrize("sentence", DAMAGES)
def test_other_files_are_refused(sae, tmp_path, sentence):
    path = tmp_path / "a.safetensors"
    save_sae(sae, path)
    DAMAGES[sentence](path)
    with pytest.raises(HapaxError, match=sentence) as error:
        load_sae(path)
    assert str(path) in str(error.value)


def test_a_saelens_folder_comes_back(sae, tmp_path):
    export_saelens(sae, tmp_path / "lens")
    again = load_saelens(tmp_path / "lens")
    assert_same(sae, again)
    assert again.meta == sae.meta


def test_a_saelens_folder_is_a_jumprelu_sae(sae, tmp_path):
    export_saelens(sae, tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert (config["architecture"], config["d_in"], config["d_sae"]) == ("jumprelu", 8, 32)
    assert config["metadata"]["hapax"]["prefix_sizes"] == [8, 32]
    weights = load_file(tmp_path / "sae_weights.safetensors")
    # SAELens: pre = (x - b_dec) W_enc + b_enc, z = relu(pre) (pre > threshold), x_hat = z W_dec + b_dec.
    pre = (X - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    z = pre.relu() * (pre > weights["threshold"])
    torch.testing.assert_close(z, sae.encode(X))
    torch.testing.assert_close(z @ weights["W_dec"] + weights["b_dec"], sae(X))


def changed(folder, **values):
    path = folder / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def uneven(folder):
    path = folder / "sae_weights.safetensors"
    weights = load_file(path)
    weights["threshold"][3] = 9
    save_file(weights, path)


def without(name):
    def remove(folder):
        weights = load_file(folder / "sae_weights.safetensors")
        del weights[name]
        save_file(weights, folder / "sae_weights.safetensors")

    return remove


FOREIGN = {
    "architecture 'standard'": lambda f: changed(f, architecture="standard"),
    "apply_b_dec_to_input False": lambda f: changed(f, apply_b_dec_to_input=False),
    "normalize_activations 'layer_norm'": lambda f: changed(f, normalize_activations="layer_norm"),
    "a threshold for each latent": uneven,
    "doesn't say how many latents are active": lambda f: changed(f, metadata={}),
    "can't be read as JSON": lambda f: (f / "cfg.json").write_text("{"),
    "is no JumpReLU SAE": without("threshold"),
    "nothing for b_enc": without("b_enc"),
    "There is no file": lambda f: (f / "sae_weights.safetensors").unlink(),
    "expected floats of shape": lambda f: changed(f, d_in=9),
}


@pytest.mark.parametrize("sentence", FOREIGN)
def test_other_saelens_folders_are_refused(sae, tmp_path, sentence):
    export_saelens(sae, tmp_path)
    FOREIGN[sentence](tmp_path)
    with pytest.raises(HapaxError, match=sentence):
        load_saelens(tmp_path)


def test_a_foreign_saelens_sae_needs_only_k(sae, tmp_path):
    export_saelens(sae, tmp_path)
    changed(tmp_path, metadata={})
    again = load_saelens(tmp_path, k=4)
    assert (again.k, again.prefix_sizes) == (4, (32,))
    assert torch.equal(again.encode(X), sae.encode(X))
