"""The graph that makes one picture of an audit again, out of the prompt that ComfyUI ran to make them all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import HapaxError

PROMPT = "prompt.json"
_HARVEST = "HapaxHarvestActivations"
_MOST_BYTES = 4 * 1024 * 1024
_SAME = ("model", "positive", "negative", "steps", "cfg", "sampler_name", "scheduler")

Prompt = dict[str, dict[str, Any]]


def reproduce(folder: Path, seed: int) -> Prompt:
    """The prompt, in the API's form, of the picture of a seed: what fed Harvest Activations, and a plain sampler.

    One KSampler at batch size 1 draws the same noise from the seed as harvesting did.

    Args:
        folder: of an audit that Save Audit wrote.
        seed: of a picture in it.

    Raises:
        HapaxError: the audit has no prompt, or one whose pictures were made in another way.
    """
    prompt = _read(folder / PROMPT)
    made = [node for node in prompt.values() if node["class_type"] == _HARVEST and _holds(node["inputs"], seed)]
    if len(made) != 1:
        raise HapaxError(
            f"{PROMPT} has {len(made)} nodes that harvested seed {seed}, and one is needed; open the audit's "
            "workflow.json and sample there."
        )
    inputs = made[0]["inputs"]
    wires = [inputs.get(name) for name in ("vae", "width", "height", *_SAME)]
    return _sampled(_fed_by(prompt, wires), inputs, seed)


def _read(path: Path) -> Prompt:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        prompt: Any = json.loads(path.read_text("utf-8"))
        for node in prompt.values():
            if not isinstance(node["class_type"], str) or not isinstance(node["inputs"], dict):
                raise ValueError("a node is not one")
    except FileNotFoundError as error:
        raise HapaxError(
            f"The audit has no {PROMPT}, because it wasn't made in ComfyUI; only there are its pictures the same."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HapaxError(f"{path} is not a prompt of ComfyUI ({error}); save the audit again.") from error
    return prompt


def _holds(inputs: dict[str, Any], seed: int) -> bool:
    """Whether a harvest made the picture of a seed; where its numbers come by wire, any seed may be its."""
    first, count = inputs.get("first_seed"), inputs.get("count")
    return not (isinstance(first, int) and isinstance(count, int)) or first <= seed < first + count


def _wire(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _fed_by(prompt: Prompt, values: list[Any]) -> Prompt:
    """The nodes that values come from by wire, and those that they come from."""
    kept: Prompt = {}
    todo = [value[0] for value in values if _wire(value)]
    while todo:
        name = todo.pop()
        if name not in kept and name in prompt:
            kept[name] = {key: prompt[name][key] for key in ("class_type", "inputs", "_meta") if key in prompt[name]}
            todo += [value[0] for value in prompt[name]["inputs"].values() if _wire(value)]
    return kept


def _sampled(kept: Prompt, inputs: dict[str, Any], seed: int) -> Prompt:
    # Ids of nodes inside of subgraphs are numbers with colons between.
    first = 1 + max((int(part) for name in kept for part in name.split(":") if part.isdecimal()), default=0)
    latent, sampler, decoded, shown = (str(first + place) for place in range(4))
    size = {"width": inputs.get("width"), "height": inputs.get("height"), "batch_size": 1}
    same = {name: inputs.get(name) for name in _SAME}
    kept[latent] = {"class_type": "EmptyLatentImage", "inputs": size}
    sampling = {**same, "seed": seed, "latent_image": [latent, 0], "denoise": 1.0}
    kept[sampler] = {"class_type": "KSampler", "inputs": sampling}
    kept[decoded] = {"class_type": "VAEDecode", "inputs": {"samples": [sampler, 0], "vae": inputs.get("vae")}}
    kept[shown] = {"class_type": "PreviewImage", "inputs": {"images": [decoded, 0]}}
    return kept
