"""Sites: the named places in a denoiser where activations are read and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from .errors import HapaxError

# block family of a site name -> the module list that holds the blocks, per denoiser class of diffusers
_BLOCK_LISTS: dict[str, dict[str, str]] = {
    "UNet2DConditionModel": {},
    "SD3Transformer2DModel": {"double": "transformer_blocks"},
    "FluxTransformer2DModel": {"double": "transformer_blocks", "single": "single_transformer_blocks"},
}


@dataclass(frozen=True)
class Site:
    """A named place in a denoiser.

    Attributes:
        name: `mid` (output of a UNet's middle block), `double.N` and `single.N` (block N of a DiT),
            `eps` (the denoiser's own output, whatever it predicts: noise, v or flow).
        kind: `output` is what the block returns; `update` is output - input, the block's own contribution.
        channels: C of the activations there.
        tokens: which tokens the activations hold; `img` means the picture's only (the text tokens of a DiT's
            block pass by untouched), `joint` the text's and then the picture's.

    >>> str(Site("mid", "update", 1280, "img"))
    'mid:update'
    """

    name: str
    kind: Literal["output", "update"]
    channels: int
    tokens: Literal["img", "joint"]

    def __str__(self) -> str:
        return self.name if self.kind == "output" else f"{self.name}:{self.kind}"


def find_sites(denoiser: nn.Module) -> dict[str, Site]:
    """List the sites of a diffusers denoiser by name, each of kind `output` and with image tokens only.

    Raises:
        HapaxError: the denoiser's class is none of those whose blocks are known.
    """
    family = type(denoiser).__name__
    if family not in _BLOCK_LISTS:
        known = ", ".join(_BLOCK_LISTS)
        raise HapaxError(f"The denoiser is a {family}, whose blocks are unknown here; use one of {known}.")
    widths = _unet_widths(denoiser) if family == "UNet2DConditionModel" else _dit_widths(denoiser)
    return {name: Site(name, "output", width, "img") for name, width in widths.items()}


def _unet_widths(unet: Any) -> dict[str, int]:
    mid = {} if unet.mid_block is None else {"mid": unet.config.block_out_channels[-1]}
    return mid | {"eps": unet.config.out_channels}


def _dit_widths(dit: Any) -> dict[str, int]:
    family = type(dit).__name__
    widths = {
        f"{block}.{i}": dit.inner_dim
        for block, attribute in _BLOCK_LISTS[family].items()
        for i in range(len(getattr(dit, attribute)))
    }
    # Flux leaves its output packed in tokens; SD3 unpacks it into channels itself.
    return widths | {"eps": dit.proj_out.out_features if family.startswith("Flux") else dit.out_channels}


def select_site(sites: Mapping[str, Site], key: str | Site) -> Site:
    """Find the site that `key` means: a name (`mid`), name and kind (`mid:update`), or a Site to be checked.

    >>> sites = {"mid": Site("mid", "output", 1280, "img")}
    >>> select_site(sites, "mid:update").kind
    'update'

    Raises:
        HapaxError: no such site, or the Site given has other channels or tokens than the denoiser's.
    """
    name, _, kind = str(key).partition(":")
    if name not in sites:
        raise HapaxError(f"There is no site {name!r} in this denoiser; it has {_summary(sites)}.")
    kinds = ("output",) if name == "eps" else ("output", "update")
    if (kind or "output") not in kinds:
        raise HapaxError(f"Site {str(key)!r} has the kind {kind!r}; {name} can be read as {' or '.join(kinds)}.")
    site = replace(sites[name], kind=kind or "output")
    if isinstance(key, Site) and key != site:
        raise HapaxError(
            f"Site {str(key)!r} stands for {key.channels} channels of {key.tokens} tokens, but this denoiser "
            f"has {site.channels} of {site.tokens} there; use it with the model that it was made for."
        )
    return site


def site_module(denoiser: Any, site: Site) -> nn.Module:
    """Return the module whose forward pass yields the activations of `site`."""
    if site.name == "eps":
        return denoiser
    if site.name == "mid":
        return denoiser.mid_block
    block, _, index = site.name.partition(".")
    return getattr(denoiser, _BLOCK_LISTS[type(denoiser).__name__][block])[int(index)]


def _summary(sites: Mapping[str, Site]) -> str:
    """Name the sites briefly: runs of numbered blocks as `double.0 to double.18`."""
    runs: dict[str, list[str]] = {}
    for name in sites:
        runs.setdefault(name.partition(".")[0], []).append(name)
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs.values())
