"""ComfyUI's samplers as a backend of the library: what records captions there records them here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from PIL import Image
from torch import Tensor

from .. import __version__
from ..core.directions import PooledRecorder
from ..core.errors import HapaxError
from ..core.sites import Site
from ..core.taps import Step, Tap
from .comfy_sites import sites_of
from .comfy_taps import add_tap
from .denoising import ComfyDenoising, call_denoiser
from .fingerprint import patches_fingerprint
from .fitting import identity
from .probing import probe
from .sampling import at_once, sample_latents
from .schema import to_image, to_pictures

# Of the families that Hapax knows; ComfyUI 0.3.64 doesn't say it.
_CELL = 8


@dataclass(eq=False)
class ComfyBackend:
    """A MODEL with its CLIP, sampled as KSampler does; what `CaptionIndex.build`, `compare` and `record_dial` need.

    Attributes:
        model: a MODEL; each run taps a clone of it.
        clip: a CLIP, which encodes prompts as CLIPTextEncode does; the negative prompt is empty.
        sampler_name, scheduler: KSampler's.
        vae: a VAE, needed to read pictures only.
    """

    model: Any
    clip: Any
    sampler_name: str
    scheduler: str
    vae: Any = None
    _encoded: dict[str, list] = field(default_factory=dict)

    @property
    def sites(self) -> dict[str, Site]:
        """The denoiser's sites by name."""
        return {site.name: site for site in sites_of(self.model)}

    def identity(self) -> dict[str, Any]:
        """What the model is known by, and how it is sampled."""
        known = identity(self.model)
        versions = {**known["versions"], "hapax": __version__, "torch": str(torch.__version__)}
        how = {"sampler": self.sampler_name, "scheduler": self.scheduler}
        return {**known, "versions": versions, "patches": patches_fingerprint(self.model), **how}

    def sample(
        self,
        prompts: str | Sequence[str],
        seeds: Sequence[int],
        taps: Mapping[str | Site, Tap],
        *,
        steps: int,
        guidance: float | None,
        batch_size: int,
        width: int,
        height: int,
        output: str = "latent",
        progress: Callable[[int, int], object] | None = None,
    ) -> Any:
        """Sample with taps and return the latents [N, C, h, w], or pictures; a batch holds one prompt.

        Args:
            prompts: one per seed, or one for all.
            seeds: one per sample.
            taps: one tap a site.
            steps, guidance: of the sampler; guidance is KSampler's cfg, None is 1.
            batch_size: samples a batch, at most.
            width, height: in pixels.
            output: `latent`, or `pil` for a list of pictures, which takes a VAE.
            progress: called with (done, total) in steps of one sample; an exception that it raises ends the run.

        Raises:
            HapaxError: a size smaller than one cell.
        """
        assert output == "latent" or self.vae is not None
        texts = [prompts] * len(seeds) if isinstance(prompts, str) else list(prompts)
        found: list[Any] = []
        for rows in _batches(texts, at_once(self.sampler_name, batch_size)):
            model = self.model
            for site, tap in taps.items():
                model = add_tap(model, site, _from(rows.start, tap))

            def report(step: int, preview: Image.Image | None, rows: range = rows) -> None:
                throw_exception_if_processing_interrupted()
                if progress is not None:
                    progress(rows.start * steps + len(rows) * step, len(seeds) * steps)

            latents = sample_latents(
                model,
                [seeds[row] for row in rows],
                self.latent_size(width, height),
                steps,
                1.0 if guidance is None else guidance,
                self.sampler_name,
                self.scheduler,
                self.encode(texts[rows.start]),
                self.encode(""),
                report,
            )
            found += [latents] if output == "latent" else to_pictures(self.vae.decode(latents))
        return torch.cat(found) if output == "latent" else found

    def encode(self, prompt: str) -> list:
        """The CONDITIONING of a prompt; that of the empty one and of the last one are kept."""
        if prompt not in self._encoded:
            kept = {"": self._encoded[""]} if "" in self._encoded else {}
            self._encoded = {**kept, prompt: self.clip.encode_from_tokens_scheduled(self.clip.tokenize(prompt))}
        return self._encoded[prompt]

    def latent_size(self, width: int, height: int) -> tuple[int, int]:
        """Height and width of the latent for a size in pixels.

        Raises:
            HapaxError: less than one cell.
        """
        cell = getattr(self.model.get_model_object("latent_format"), "spacial_downscale_ratio", _CELL)
        size = height // cell, width // cell
        if min(size) < 1:
            raise HapaxError(f"{width} x {height} pixels is less than a cell of {cell} x {cell}; give a larger size.")
        return size

    def denoise_under(
        self,
        prompt: str,
        latents: Tensor,
        rows: int,
        site: str | Site,
        body: Callable[[ComfyDenoising, Tensor], Tensor],
    ) -> Tensor:
        """Return `body(denoising, latents)` under a prompt, the latents [N, C, h, w] in the denoiser's own scale.

        Args:
            rows: the most that `body` gives to one call.
            site: where it puts its taps.
        """
        inside = self.model.model.process_latent_in(latents).float().clone()

        def within(model: ComfyDenoising) -> Tensor:
            return body(model, inside)

        return call_denoiser(self.model, [prompt], [self.encode(prompt)], inside.shape[1:], rows, within, site=site)

    def picture_activations(
        self,
        pictures: Sequence[Image.Image],
        *,
        seeds: Sequence[int],
        progress: Sequence[float],
        site: str | Site,
        prompt: str,
        batch_size: int = 1,
    ) -> Tensor:
        """Pooled activations [n, R, S, C] when the model looks at noised pictures; see core's function of the name.

        Pictures are looked at one by one, so that a seed's noise is the same for each; `batch_size` changes nothing.

        Raises:
            HapaxError: no pictures, or no VAE to encode them with.
        """
        if not pictures:
            raise HapaxError("There are no pictures to describe; wire at least one.")
        if self.vae is None:
            raise HapaxError("Pictures can be described only with the VAE at hand; wire the checkpoint's.")
        positive, found = self.encode(prompt), []
        for picture in pictures:
            latent = self.vae.encode(to_image([picture]))
            for seed in seeds:
                recorder = PooledRecorder(progress)
                probe(add_tap(self.model, site, recorder), positive, latent, progress, seed, lambda done: None)
                found.append(recorder.take(0))
        return torch.stack(found).unflatten(0, (len(pictures), len(seeds)))


def _batches(texts: Sequence[str], size: int) -> Iterator[range]:
    """Runs of equal texts, cut to a size."""
    start = 0
    while start < len(texts):
        end = start + 1
        while end < min(len(texts), start + size) and texts[end] == texts[start]:
            end += 1
        yield range(start, end)
        start = end


def _from(first: int, tap: Tap) -> Callable[[Tensor, Step], Tensor | None]:
    """The tap with the samples of a batch counted from `first`."""

    def numbered(h: Tensor, step: Step) -> Tensor | None:
        return tap(h, replace(step, sample=step.sample + first))

    return numbered
