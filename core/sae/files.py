"""SAEs on disk: our own single safetensors file, and SAELens' folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import HapaxError
from ..tensor_file import as_json, check_header, check_tensor, read_tensors, write_bytes, write_tensors
from .model import MatryoshkaSAE

_FORMAT = "hapax.sae"
_VERSION = 1
_SHAPE = ("d_in", "d_sae", "prefix_sizes", "k")
# SAELens reads configurations of the form that its release 6 introduced.
_SAELENS_VERSION = "6.0.0"


def save_sae(sae: MatryoshkaSAE, path: str | Path, *, meta: dict[str, Any] | None = None) -> None:
    """Write an SAE to one safetensors file, whole or not at all; its shape and provenance in the header.

    Args:
        sae: the autoencoder.
        path: the file; its folder is made if missing.
        meta: JSON-able provenance to add to `sae.meta`: model fingerprint, site, seeds.

    Raises HapaxError if meta is not JSON-able or the file can't be written.
    """
    header = {
        "format": _FORMAT,
        "version": str(_VERSION),
        "config": json.dumps(_shape(sae)),
        "meta": as_json({**sae.meta, **(meta or {})}),
    }
    write_tensors(path, sae.state_dict(), header)


def load_sae(path: str | Path) -> MatryoshkaSAE:
    """Read an SAE that `save_sae` wrote; on the CPU, with its provenance in `.meta`.

    Raises HapaxError if the file is missing, damaged, of another kind, or of a newer version.
    """
    tensors, header = read_tensors(path, "saved SAE")
    check_header(path, header, _FORMAT, _VERSION, "an SAE of Hapax; give a file that save_sae wrote")
    try:
        config, meta = json.loads(header["config"]), dict(json.loads(header["meta"]))
        shape = [config[name] for name in _SHAPE]
    except (KeyError, TypeError, ValueError) as error:
        raise HapaxError(f"{path} has a damaged header ({error}); save the SAE again.") from error
    return _build(path, shape, tensors, meta)


def export_saelens(sae: MatryoshkaSAE, folder: str | Path) -> None:
    """Write an SAE as a JumpReLU SAE that `sae_lens.SAE.load_from_disk` (SAELens 6) reads.

    The folder gets `cfg.json` and `sae_weights.safetensors`. Prefixes, k, scale and provenance are in the
    configuration's metadata under `hapax`.

    Raises HapaxError if the files can't be written.
    """
    weights = {
        "W_enc": sae.W_enc.detach().T.contiguous(),
        "W_dec": sae.W_dec.detach(),
        "b_enc": sae.b_enc.detach(),
        "b_dec": sae.b_dec.detach(),
        "threshold": sae.threshold.expand(sae.d_sae).contiguous(),
    }
    config = {
        "architecture": "jumprelu",
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": _SAELENS_VERSION,
            "sae_lens_training_version": None,
            "hapax": {**_shape(sae), "scale": float(sae.scale), "meta": sae.meta},
        },
    }
    folder = Path(folder)
    # The configuration last: a folder that has one is complete.
    write_tensors(folder / "sae_weights.safetensors", weights)
    write_bytes(folder / "cfg.json", as_json(config, indent=2).encode())


def load_saelens(
    folder: str | Path, *, prefix_sizes: Sequence[int] | None = None, k: int | None = None
) -> MatryoshkaSAE:
    """Read a JumpReLU SAE from SAELens' folder, if it is of our form.

    Args:
        folder: has `cfg.json` and `sae_weights.safetensors`.
        prefix_sizes, k: needed if the SAE is not from `export_saelens`, which records them; by default it
            then has a single prefix.

    Raises HapaxError if it has another architecture, normalised inputs, uncentred inputs, or thresholds that
    differ between latents (a BatchTopK SAE has one for all), or if k is unknown.
    """
    folder = Path(folder)
    config = _saelens_config(folder / "cfg.json")
    tensors, _ = read_tensors(folder / "sae_weights.safetensors", "saved SAE")
    try:
        ours = (config.get("metadata") or {}).get("hapax") or {}
        d_in, d_sae = config["d_in"], config["d_sae"]
        prefix_sizes, k = prefix_sizes or ours.get("prefix_sizes") or (d_sae,), k or ours.get("k")
        meta = dict(ours.get("meta") or {})
        threshold = tensors["threshold"]
        tensors = {**tensors, "W_enc": tensors["W_enc"].T, "threshold": threshold.flatten()[0]}
        tensors["scale"] = torch.tensor(float(ours.get("scale", 1.0)))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise HapaxError(f"{folder} is no JumpReLU SAE of SAELens: {error!r} is missing or wrong.") from error
    if not bool((threshold == tensors["threshold"]).all()):
        raise HapaxError(f"{folder} has a threshold for each latent; only SAEs with one for all can be read.")
    if k is None:
        raise HapaxError(f"{folder} doesn't say how many latents are active; give k, its mean L0.")
    return _build(folder, [d_in, d_sae, prefix_sizes, k], tensors, meta)


def _saelens_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HapaxError(f"{path} can't be read as JSON ({error}); give a folder of SAELens.") from error
    expected = {
        "architecture": "jumprelu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    for name, value in expected.items():
        found = config.get(name) if isinstance(config, dict) else None
        if found != value:
            raise HapaxError(f"{path} has {name} {found!r}; only SAEs with {value!r} can be read.")
    return config


def _shape(sae: MatryoshkaSAE) -> dict[str, Any]:
    return dict(zip(_SHAPE, (sae.d_in, sae.d_sae, list(sae.prefix_sizes), sae.k), strict=True))


def _build(path: str | Path, shape: list[Any], tensors: dict[str, Tensor], meta: dict) -> MatryoshkaSAE:
    # Before the SAE is made: its size must come from the tensors that are there, not from a header's claim.
    _check(path, "W_dec", tensors.get("W_dec"), [shape[1], shape[0]])
    try:
        sae = MatryoshkaSAE(*shape)
    except HapaxError as error:
        raise HapaxError(f"{path} describes no SAE: {error}") from error
    for name, tensor in sae.state_dict().items():
        tensor.copy_(_check(path, name, tensors.get(name), list(tensor.shape)))
    sae.meta = meta
    return sae


def _check(path: str | Path, name: str, found: Tensor | None, shape: list[int]) -> Tensor:
    return check_tensor(path, name, found, shape, "the SAE is damaged, train it again")
