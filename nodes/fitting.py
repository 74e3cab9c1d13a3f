"""Whether what was made with one MODEL fits another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfyui_version import __version__ as comfyui_version

from ..core.errors import HapaxError
from ..core.fits import check_fits
from ..core.sites import Site
from .comfy_sites import site_of
from .fingerprint import architecture, model_fingerprint


def identity(model: Any) -> dict[str, Any]:
    """What a MODEL is known by, as provenance has it."""
    return {
        "architecture": architecture(model),
        "model": model_fingerprint(model),
        "versions": {"comfyui": comfyui_version},
    }


def fitting_site(model: Any, made_for: Mapping[str, Any], said: str, remedy: str) -> Site:
    """The site of a MODEL at which a thing belongs.

    Args:
        model: the MODEL.
        made_for: what the thing's provenance says: site, channels, architecture, model, versions.
        said: how the sentence begins, as in "The features were found".
        remedy: how it ends.

    Raises:
        HapaxError: it was made for another family, site, number of channels or checkpoint.
    """
    known = identity(model)
    check_fits(said, made_for, known, remedy)
    try:
        site = site_of(model, made_for.get("site") or "auto")
    except HapaxError as error:
        raise HapaxError(f"{said} for site {made_for.get('site')}: {error}") from error
    check_fits(said, made_for, {**known, "channels": site.channels}, remedy)
    return site
