"""What a MODEL and a CONDITIONING are known by, in a fraction of a second and whatever is loaded where."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# Of each weight so many values are read, evenly spread; two checkpoints that differ, differ nearly everywhere.
_VALUES = 64
# These differ from run to run and mean nothing.
_PASSING = ("uuid", "model_conds")
# Functions and objects that lie within each other; nodes of one kind in a row may each hold the one before.
_ROOM = 12
# Models and what leads to them, whose weights have fingerprints of their own, and what belongs to the server.
_KNOWN_BY_CLASS = (
    "comfy.controlnet",
    "comfy.ldm",
    "comfy.model_base",
    "comfy.model_patcher",
    "comfy.sd",
    "torch._dynamo",
    "aiohttp",
    "asyncio",
    "execution",
    "logging",
    "server",
    "threading",
)


def architecture(model: Any) -> str:
    """Return ComfyUI's name for the model's family, such as SD15 or SDXL."""
    return type(model.model.model_config).__name__


def model_fingerprint(model: Any) -> str:
    """Return the SHA-256 (hex) of a MODEL's denoiser: names, shapes and some values of all its own weights.

    LoRAs are left out, loaded or not, as are dtypes: it names the checkpoint.
    """
    digest = hashlib.sha256(architecture(model).encode())
    weights = model.model.diffusion_model.state_dict(prefix="diffusion_model.")
    for name, kept in model.backup.items():
        if name in weights:
            weights[name] = getattr(kept, "weight", kept)
    _weights(digest, weights)
    return digest.hexdigest()


def vae_fingerprint(vae: Any) -> str:
    """Return the SHA-256 (hex) of a VAE: names, shapes and some values of all its weights."""
    digest = hashlib.sha256()
    _weights(digest, vae.first_stage_model.state_dict())
    return digest.hexdigest()


def patches_fingerprint(model: Any) -> str | None:
    """Return the SHA-256 (hex) of all that was put on a MODEL, or None where nothing was.

    That is what LoRAs and their like add to its weights; and the functions that other nodes hung on it, such as
    FreeU's, a model-sampling shift's or ours, with the settings that they hold.
    """
    hung = {name: value for name, value in _hung(model).items() if value}
    if not model.patches and not hung:
        return None
    digest = hashlib.sha256()
    for name in sorted(model.patches, key=str):
        digest.update(repr(name).encode())
        _walk(digest, model.patches[name])
    for name, value in hung.items():
        digest.update(name.encode())
        _walk(digest, value, _ROOM)
    return digest.hexdigest()


def _weights(digest: Any, weights: Mapping[str, Tensor]) -> None:
    """Take in names, shapes and some values, in the order of the names."""
    for name in sorted(weights):
        digest.update(json.dumps([name, list(weights[name].shape)]).encode())
        digest.update(_sampled(weights[name]))


def _hung(model: Any) -> dict[str, Any]:
    """What nodes hang on a MODEL without touching its weights; the keys of wrappers mean nothing."""
    options = dict(model.model_options)
    inner = {name: value for name, value in options.pop("transformer_options", {}).items() if value}
    wrappers = {kind: [each for each in keyed.values() if each] for kind, keyed in model.wrappers.items()}
    return {
        "options": {name: value for name, value in options.items() if value},
        "transformer": inner,
        "wrappers": {kind: each for kind, each in wrappers.items() if each},
        "objects": model.object_patches,
    }


def conditioning_fingerprint(conditioning: Any) -> str:
    """Return the SHA-256 (hex) of a CONDITIONING: its tensors and settings; of objects such as ControlNets the type."""
    digest = hashlib.sha256()
    _walk(digest, conditioning)
    return digest.hexdigest()


def _walk(digest: Any, value: Any, room: int = 0) -> None:
    """Add a value's content to a digest, whatever is loaded where.

    Of functions and objects it is the class and, of a LoRA's adapter, the matrices that it holds in `weights`; with
    `room` for so many, one within the other, it is what they hold as well.
    """
    if isinstance(value, Tensor):
        digest.update(repr(tuple(value.shape)).encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    elif isinstance(value, Mapping):
        for key in sorted((key for key in value if key not in _PASSING), key=str):
            digest.update(repr(key).encode())
            _walk(digest, value[key], room)
    elif isinstance(value, list | tuple):
        digest.update(f"[{len(value)}]".encode())
        for each in value:
            _walk(digest, each, room)
    elif value is None or isinstance(value, str | int | float | bool | torch.dtype):
        digest.update(repr(value).encode())
    elif not room or hasattr(value, "weights"):
        digest.update(type(value).__name__.encode())
        _walk(digest, getattr(value, "weights", None))
    elif inspect.isfunction(value) or inspect.ismethod(value):
        _walk_function(digest, value, room - 1)
    else:
        _walk_object(digest, value, room - 1)


def _walk_function(digest: Any, function: Any, room: int) -> None:
    """A node's function by its name and what it was made with: the variables it closes over, or its object."""
    # torch.compiler.disable wraps a function in one that says nothing of it.
    function = inspect.unwrap(function)
    digest.update(function.__qualname__.encode())
    cells = [cell for cell in getattr(function, "__closure__", None) or () if not _empty(cell)]
    _walk(digest, [getattr(function, "__self__", None), *(cell.cell_contents for cell in cells)], room)


def _empty(cell: Any) -> bool:
    """Whether a variable of a closure has no value yet."""
    try:
        return cell.cell_contents is cell
    except ValueError:
        return True


def _walk_object(digest: Any, value: Any, room: int) -> None:
    """An object by its classes and what it shows; of models and the like, which have names already, the class."""
    kind = value if inspect.isclass(value) else type(value)
    digest.update(" ".join(each.__qualname__ for each in kind.__mro__).encode())
    if kind is value or kind.__module__.startswith(_KNOWN_BY_CLASS):
        return
    if isinstance(value, nn.Module):
        for name, weight in sorted(value.state_dict().items()):
            digest.update(name.encode())
            digest.update(_sampled(weight))
    elif isinstance(value, partial):
        _walk(digest, [value.func, value.args, value.keywords], room)
    else:
        own = getattr(value, "__dict__", {})
        _walk(digest, {name: each for name, each in own.items() if not name.startswith("_")}, room)


def _sampled(weight: Tensor) -> bytes:
    flat = weight.detach().reshape(-1)
    count = min(_VALUES, len(flat))
    if not count:
        return b""
    # Few kernels can pick float8 values.
    flat = flat.view(torch.uint8) if flat.element_size() == 1 else flat
    spread = torch.linspace(0, len(flat) - 1, count, dtype=torch.float64).round().long().to(flat.device)
    return flat[spread].float().cpu().numpy().tobytes()
