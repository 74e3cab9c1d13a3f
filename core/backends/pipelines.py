"""Diffusers pipelines: loading one from a local folder, what is asked of it, a denoiser's fingerprint."""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import HapaxError

_NEEDED = ("prompt", "num_inference_steps", "guidance_scale", "generator", "latents", "callback_on_step_end")


def check_text_to_image(kind: type) -> None:
    """Raise HapaxError unless a pipeline class makes pictures from prompts alone."""
    asked = inspect.signature(kind.__call__).parameters
    missing = [name for name in _NEEDED if name not in asked]
    if missing or "image" in asked:
        why = "needs an input image" if "image" in asked else f"takes no {', '.join(missing)}"
        raise HapaxError(
            f"{kind.__name__} is not a text-to-image pipeline: it {why}; "
            "give one such as StableDiffusionPipeline, StableDiffusion3Pipeline or FluxPipeline."
        )


def load_pipeline(path: str | Path, *, dtype: torch.dtype, device: str | torch.device) -> Any:
    """Load a text-to-image pipeline from a local folder: safetensors only, no network, no code of its own.

    Raises:
        HapaxError: no such folder, not a pipeline's, not text-to-image, or its files can't be loaded.
    """
    import diffusers

    folder = Path(path)
    index = _index(folder)
    kind = getattr(diffusers, index["_class_name"], None)
    if kind is None:
        raise HapaxError(
            f"{folder} holds a {index['_class_name']!r}, which diffusers {diffusers.__version__} lacks; "
            "update diffusers, or save the pipeline with one of its own classes."
        )
    check_text_to_image(kind)
    parts = [name for name, source in index.items() if isinstance(source, list) and source[0] is not None]
    # Without its folder a tokenizer would come out empty, and fail when it is used.
    if missing := [name for name in parts if not (folder / name).is_dir()]:
        raise HapaxError(f"{folder} lacks its {', '.join(missing)}; give a complete diffusers folder.")
    # The keyword was renamed; each diffusers knows one of the two names without a warning.
    renamed = hasattr(diffusers.utils.deprecation_utils, "_resolve_dtype")
    options = {"dtype" if renamed else "torch_dtype": dtype, "variant": _variant(folder)}
    try:
        pipeline = kind.from_pretrained(str(folder), local_files_only=True, use_safetensors=True, **options)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise HapaxError(
            f"The pipeline in {folder} can't be loaded ({' '.join(str(error).split())}); "
            "give a complete diffusers folder with its weights as .safetensors."
        ) from error
    return pipeline.to(device)


def _index(folder: Path) -> dict[str, Any]:
    """Read `model_index.json`: the pipeline's class name and its parts."""
    if not folder.is_dir():
        raise HapaxError(f"{folder} is not a folder; give the folder of a diffusers pipeline.")
    index = folder / "model_index.json"
    if not index.is_file():
        raise HapaxError(f"{folder} has no model_index.json; give the folder of a diffusers pipeline.")
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        name = content["_class_name"]
    except (ValueError, KeyError, TypeError):
        content, name = {}, None
    if isinstance(name, list):
        raise HapaxError(f"{index} names code of its own, {name}, which isn't run; use a class of diffusers.")
    if not isinstance(name, str):
        raise HapaxError(f"{index} names no pipeline class; give the folder of a diffusers pipeline.")
    return content


def _variant(folder: Path) -> str | None:
    """Return `fp16` for a folder that has its denoiser's weights as `*.fp16.safetensors` only."""
    weights = [file.name for part in ("unet", "transformer") for file in (folder / part).glob("*.safetensors")]
    return "fp16" if weights and all(".fp16" in name for name in weights) else None


def fingerprint(denoiser: nn.Module) -> str:
    """Return the SHA-256 (hex) of a denoiser: its class, its config, and every weight.

    Hashed are, as UTF-8 JSON and a newline each, the class with the config's entries that differ from its
    defaults; then per tensor of the state dict, by ascending name, [name, shape, dtype] and all its bytes.
    """
    digest = hashlib.sha256()
    digest.update(_line([type(denoiser).__name__, _own_config(denoiser)]))
    for name, tensor in sorted(denoiser.state_dict().items()):
        digest.update(_line([name, list(tensor.shape), str(tensor.dtype)]))
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _line(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode() + b"\n"


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _own_config(denoiser: Any) -> dict[str, Any]:
    """Leave out defaults, so that a later diffusers with more of them gives the same fingerprint."""
    defaults = {
        name: parameter.default for name, parameter in inspect.signature(type(denoiser).__init__).parameters.items()
    }
    # Compared as JSON, because a config read from a file has lists where the class has tuples.
    return {
        name: value
        for name, value in denoiser.config.items()
        if name in defaults and _line(value) != _line(defaults[name])
    }
