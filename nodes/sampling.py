"""Sampling many pictures with ComfyUI's own samplers, each from its own seed, with taps on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import latent_preview
import torch
from PIL import Image
from torch import Tensor

from ..core.errors import HapaxError
from .schema import io, to_pictures, widget

# These draw no noise on the way and take no measure over the batch, so a picture is the same in any batch.
_ALONE = frozenset(
    "euler euler_cfg_pp heun heunpp2 exp_heun_2_x0 dpm_2 lms dpm_fast dpmpp_2m dpmpp_2m_cfg_pp ipndm ipndm_v deis "
    "res_multistep res_multistep_cfg_pp gradient_estimation gradient_estimation_cfg_pp uni_pc uni_pc_bh2 ddim".split()
)
SEEDS = 1 << 64


@dataclass(frozen=True)
class Sampling:
    """How pictures are made; `width` and `height` in pixels."""

    positive: list
    negative: list
    vae: Any
    sampler_name: str
    scheduler: str
    steps: int
    cfg: float
    width: int
    height: int
    batch_size: int

    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latent.

        Raises:
            HapaxError: the VAE makes no pictures, or the size is smaller than one cell.
        """
        ratio = self.vae.spacial_compression_decode()
        size = self.height // ratio, self.width // ratio
        if min(size) < 1:
            raise HapaxError(
                f"{self.width} x {self.height} pixels is less than this VAE's {ratio} x {ratio}; give a larger size."
            )
        return size

    def batch(self) -> int:
        """Pictures made at once: 1 with a sampler that draws its noise for a whole batch."""
        return at_once(self.sampler_name, self.batch_size)

    def sigmas(self, model: Any) -> Tensor:
        """The noise levels that the sampler steps through, the last one 0."""
        return comfy.samplers.KSampler(
            model, self.steps, model.load_device, self.sampler_name, self.scheduler, 1.0, model.model_options
        ).sigmas

    def pictures(
        self, model: Any, seeds: Sequence[int], report: Callable[[int, Image.Image | None], None]
    ) -> list[Image.Image]:
        """Make one picture per seed in one batch; `report(step, preview)` is called after each step."""
        how = (self.steps, self.cfg, self.sampler_name, self.scheduler)
        latents = sample_latents(model, seeds, self.latent_size(), *how, self.positive, self.negative, report)
        return to_pictures(self.vae.decode(latents))


def sampling_widgets(*, steps: int, cfg: float, batch_size: int, tips: Mapping[str, str]) -> list[Any]:
    """The inputs that say how pictures are made, with these defaults: KSampler's, the size, how many at once.

    `tips` has what is to be known of steps, cfg, sampler_name and batch_size.
    """
    size = {"default": 512, "min": 8, "max": 16384, "step": 8}
    return [
        widget(io.Int, "steps", default=steps, min=1, max=10000, tooltip=tips["steps"]),
        widget(io.Float, "cfg", default=cfg, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=tips["cfg"]),
        widget(
            io.Combo,
            "sampler_name",
            options=comfy.samplers.SAMPLER_NAMES,
            default="euler",
            tooltip=f"The sampler, as in KSampler. {tips['sampler_name']}",
        ),
        widget(
            io.Combo,
            "scheduler",
            options=comfy.samplers.SCHEDULER_NAMES,
            default="normal",
            tooltip="The spacing of the noise levels, as in KSampler.",
        ),
        widget(io.Int, "width", **size, tooltip="Width in pixels; use what the model was made for."),
        widget(io.Int, "height", **size, tooltip="Height in pixels."),
        widget(io.Int, "batch_size", default=batch_size, min=1, max=4096, tooltip=tips["batch_size"]),
    ]


def at_once(sampler_name: str, batch_size: int) -> int:
    """The batch size, or 1 with a sampler that draws its noise for a whole batch."""
    return batch_size if sampler_name in _ALONE else 1


def sample_latents(
    model: Any,
    seeds: Sequence[int],
    size: tuple[int, int],
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: list,
    negative: list,
    report: Callable[[int, Image.Image | None], None],
) -> Tensor:
    """Latents [B, C, h, w] of `size` (h, w), one per seed in one batch; `report(step, preview)` after each step."""
    shape = (model.get_model_object("latent_format").latent_channels, *size)
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed % SEEDS)) for seed in seeds])
    return comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        sampler_name,
        scheduler,
        positive,
        negative,
        torch.zeros_like(noise),
        callback=_preview(model, report),
        disable_pbar=True,
        seed=seeds[0] % SEEDS,
    )


def _preview(model: Any, report: Callable[[int, Image.Image | None], None]) -> Callable[..., None]:
    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def callback(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        picture = previewer.decode_latent_to_preview_image("JPEG", x0)[1] if previewer else None
        report(step + 1, picture)

    return callback
