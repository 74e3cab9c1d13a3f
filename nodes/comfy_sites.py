"""The sites of ComfyUI's models: which they have, and the token grid there. Imports nothing of ComfyUI by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.errors import HapaxError
from ..core.sites import Site, select_site


@dataclass(frozen=True)
class _Family:
    """How the denoisers of one class are built: the module lists of its blocks and the name that patches use."""

    double: str | None = None
    single: str | None = None
    packed: bool = False


_FAMILIES = {
    "UNetModel": _Family(),
    "MMDiT": _Family(double="joint_blocks"),
    "Flux": _Family(double="double_blocks", single="single_blocks", packed=True),
}


def family_of(denoiser: Any) -> str:
    """Return the class of the denoiser as the blocks' layout knows it.

    Raises:
        HapaxError: the blocks of the denoiser's class are unknown.
    """
    # While a compiled model is called, the compiled module stands in the denoiser's place.
    for kind in type(getattr(denoiser, "_orig_mod", denoiser)).__mro__:
        if kind.__name__ in _FAMILIES:
            return kind.__name__
    raise HapaxError(
        f"The model is a {type(denoiser).__name__}, whose blocks are unknown to Hapax; "
        "use SD1.x, SD2.x, SDXL, SD3 or Flux."
    )


def is_packed(denoiser: Any) -> bool:
    """Whether the denoiser's own tokens are 2 x 2 cells of the latent, as Flux's are."""
    return _FAMILIES[family_of(denoiser)].packed


def sites_of(model: Any) -> tuple[Site, ...]:
    """List the sites of a ModelPatcher, with the names and channels that the diffusers backend gives them.

    Raises:
        HapaxError: the model is none of those whose blocks are known.
    """
    denoiser = model.model.diffusion_model
    name = family_of(denoiser)
    if name == "UNetModel":
        mid = {} if denoiser.middle_block is None else {"mid": denoiser.model_channels * denoiser.channel_mult[-1]}
        widths = mid | {"eps": denoiser.out_channels}
    else:
        family = _FAMILIES[name]
        lists = {"double": family.double, "single": family.single}
        widths = {
            f"{block}.{i}": denoiser.hidden_size
            for block, attribute in lists.items()
            if attribute
            for i in range(len(getattr(denoiser, attribute)))
        } | {"eps": denoiser.out_channels}
    return tuple(Site(site, "output", width, "img") for site, width in widths.items())


def site_of(model: Any, site: str | Site) -> Site:
    """Find the site that is meant: a name (`mid`, `mid:update`, `double.9`), a Site to be checked, or `auto`.

    `auto` is the middle block of a UNet, and the middle one of a DiT's double blocks.

    Raises:
        HapaxError: the model has no such site, or other channels there.
    """
    sites = {each.name: each for each in sites_of(model)}
    if site == "auto":
        doubles = [name for name in sites if name.startswith("double.")]
        site = doubles[len(doubles) // 2] if doubles else "mid"
    return select_site(sites, site)


def grid_at(model: Any, site: Site, height: int, width: int) -> tuple[int, int]:
    """Return the token grid `(H, W)` of a site for a latent of `height` x `width`."""
    denoiser = model.model.diffusion_model
    if site.name == "mid":
        for _ in range(len(denoiser.channel_mult) - 1):
            height, width = _halved(height), _halved(width)
        return height, width
    if site.name == "eps" and not is_packed(denoiser):
        return height, width
    return -(-height // denoiser.patch_size), -(-width // denoiser.patch_size)


def _halved(side: int) -> int:
    return (side + 1) // 2
