"""Guidance modules on disk: one safetensors file that says what it fits."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .. import fits
from ..backends.diffusers import DiffusersBackend
from ..errors import HapaxError
from ..sites import select_site
from ..steering import Scope
from ..tensor_file import as_json, check_header, check_tensor, read_tensors, write_tensors
from .module import GuidanceModule, GuidanceShape

_FORMAT, _VERSION = "hapax.guidance", 1
# A header comes from anywhere and must not make this allocate what it claims.
_MOST_PARAMETERS = 1 << 30


def save_guidance(module: GuidanceModule, path: str | Path, *, meta: dict[str, Any] | None = None) -> None:
    """Write a guidance module to one safetensors file, whole or not at all.

    Args:
        module: its shape, window and `meta` go into the file's header.
        path: the file; its folder is made if missing.
        meta: JSON-able provenance to add.

    Raises:
        HapaxError: meta isn't JSON-able, or the file can't be written.
    """
    header = {
        "format": _FORMAT,
        "version": str(_VERSION),
        "shape": as_json(asdict(module.shape)),
        "window": as_json([module.scope.start, module.scope.end]),
        "meta": as_json({**module.meta, **(meta or {})}),
    }
    write_tensors(path, module.state_dict(), header)


def load_guidance(path: str | Path) -> GuidanceModule:
    """Read a guidance module that `save_guidance` wrote: on the CPU, frozen, at strength 1 in its own window.

    Raises:
        HapaxError: the file is missing, damaged, of another kind, or of a newer version.
    """
    tensors, header = read_tensors(path, "saved guidance module")
    check_header(path, header, _FORMAT, _VERSION, "a guidance module of Hapax")
    try:
        shape = GuidanceShape(**json.loads(header["shape"]))
        start, end = json.loads(header["window"])
        scope, meta = Scope(float(start), float(end)), dict(json.loads(header["meta"]))
        claimed, held = shape.parameters, sum(tensor.numel() for tensor in tensors.values())
    except (KeyError, TypeError, ValueError, HapaxError) as error:
        raise HapaxError(f"{path} has a damaged header ({error}); save the guidance module again.") from error
    if claimed != held or claimed > _MOST_PARAMETERS:
        raise HapaxError(f"{path} holds {held} numbers where its header says {claimed}; save the module again.")
    module = GuidanceModule(shape, scope=scope)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            found = tensors.get(name)
            tensor.copy_(check_tensor(path, name, found, list(tensor.shape), "train the module again"))
    module.meta = meta
    return module.requires_grad_(False).eval()


def check_fits(module: GuidanceModule, backend: DiffusersBackend) -> None:
    """Raise HapaxError unless the module was made for the backend's denoiser: its weights, site and channels."""
    site = select_site(backend.sites, module.shape.site)
    if site.channels != module.shape.channels:
        raise HapaxError(
            f"The guidance module fits {module.shape.channels} channels at {site}, but this model has "
            f"{site.channels}; use the model that it was made for."
        )
    remedy = "use that model in the same dtype, or train a module for this one"
    fits.check_fits("The guidance module was made", made_for(module), backend.identity(), remedy)


def describe_guidance(module: GuidanceModule) -> str:
    """What a module is and what it was trained on, one a line."""
    shape, meta, scope = module.shape, module.meta, module.scope
    lines = [
        f"guidance at {shape.site}, {shape.channels} channels, {shape.parameters:,} parameters",
        f"acts from {scope.start:g} to {scope.end:g} of the denoising",
    ]
    if meta.get("architecture"):
        lines.append(f"of a {meta['architecture']}")
    if meta.get("pictures"):
        steps = meta.get("training", {}).get("steps", "some")
        lines.append(f"trained for {steps} steps on {meta['pictures']} pictures in {meta['groups']} groups a prompt")
    prompts = meta.get("prompts", [])
    more = f" and {len(prompts) - 3} more" if len(prompts) > 3 else ""
    return "\n".join([*lines, *([f"prompts: {', '.join(prompts[:3])}{more}"] if prompts else [])])


def module_fingerprint(module: GuidanceModule) -> str:
    """The SHA-256 (hex) of a module's shape, window and weights."""
    digest = hashlib.sha256(as_json([asdict(module.shape), module.scope.start, module.scope.end]).encode())
    for tensor in module.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def made_for(module: GuidanceModule) -> dict[str, Any]:
    """What a module was made for, as `fits.check_fits` compares it."""
    return {**module.meta, "site": module.shape.site, "channels": module.shape.channels}
