"""Whether a thing that was made with one model fits another: one sentence when it doesn't."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import HapaxError

# In the order in which a mismatch says most.
KEYS = ("architecture", "site", "channels", "model")


def check_fits(name: str, made_for: Mapping[str, Any], found: Mapping[str, Any], remedy: str) -> None:
    """Raise HapaxError at the first of `KEYS` that both know and in which they differ.

    ComfyUI and diffusers name models differently, so across them only site and channels are compared.

    Args:
        name: of the thing, as the sentence begins.
        made_for: `architecture`, `site`, `channels` and `model` (fingerprint) that it was made for, and the
            `versions` that made it.
        found: the same of what it is to be used with.
        remedy: what to do.

    >>> check_fits("The SAE", {"channels": 320}, {"channels": 320, "site": "mid"}, "train it anew")
    """
    hosts = {"comfyui" in (each.get("versions") or {}) for each in (made_for, found)}
    for key in KEYS if len(hosts) == 1 else KEYS[1:3]:
        wanted, here = made_for.get(key), found.get(key)
        if wanted is not None and here is not None and wanted != here:
            raise HapaxError(f"{name} for {key} {wanted}, but here it is {here}; {remedy}.")
