"""What a MODEL and a CONDITIONING are known by, in a fraction of a second and whatever is loaded where."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# Of each weight so many values are read, evenly spread; two checkpoints that differ, differ nearly everywhere.
_VALUES = 64
# These differ from run to run and mean nothing.
_PASSING = ("uuid", "model_conds")


def architecture(model: Any) -> str:
    """Return ComfyUI's name for the model's family, such as SD15 or SDXL."""
    return type(model.model.model_config).__name__


def model_fingerprint(model: Any) -> str:
    """Return the SHA-256 (hex) of a MODEL's denoiser: names, shapes and some values of all its own weights.

    LoRAs are left out, loaded or not, as are dtypes: it names the checkpoint.
    """
    digest = hashlib.sha256(architecture(model).encode())
    weights = model.model.diffusion_model.state_dict(prefix="diffusion_model.")
    for name in sorted(weights):
        kept = model.backup.get(name)
        weight = weights[name] if kept is None else getattr(kept, "weight", kept)
        digest.update(json.dumps([name, list(weight.shape)]).encode())
        digest.update(_sampled(weight))
    return digest.hexdigest()


def patches_fingerprint(model: Any) -> str | None:
    """Return the SHA-256 (hex) of what LoRAs and their like add to a MODEL's weights, or None where nothing does."""
    if not model.patches:
        return None
    digest = hashlib.sha256()
    for name in sorted(model.patches, key=str):
        digest.update(repr(name).encode())
        _walk(digest, model.patches[name])
    return digest.hexdigest()


def conditioning_fingerprint(conditioning: Any) -> str:
    """Return the SHA-256 (hex) of a CONDITIONING: its tensors and settings; of objects such as ControlNets the type."""
    digest = hashlib.sha256()
    _walk(digest, conditioning)
    return digest.hexdigest()


def _walk(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(repr(tuple(value.shape)).encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    elif isinstance(value, Mapping):
        for key in sorted((key for key in value if key not in _PASSING), key=str):
            digest.update(repr(key).encode())
            _walk(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"[{len(value)}]".encode())
        for each in value:
            _walk(digest, each)
    elif value is None or isinstance(value, str | int | float | bool):
        digest.update(repr(value).encode())
    else:
        # A LoRA's adapter is an object that holds its matrices in `weights`.
        digest.update(type(value).__name__.encode())
        _walk(digest, getattr(value, "weights", None))


def _sampled(weight: Tensor) -> bytes:
    flat = weight.detach().reshape(-1)
    count = min(_VALUES, len(flat))
    if not count:
        return b""
    # Few kernels can pick float8 values.
    flat = flat.view(torch.uint8) if flat.element_size() == 1 else flat
    spread = torch.linspace(0, len(flat) - 1, count, dtype=torch.float64).round().long().to(flat.device)
    return flat[spread].float().cpu().numpy().tobytes()
