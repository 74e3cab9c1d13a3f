"""The diffusers backend: sample from any local text-to-image pipeline with taps on its denoiser."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from ..errors import HapaxError
from ..sites import Site, find_sites, select_site
from ..taps import Tap, compose
from .hooks import Rows, tapped
from .noise import check_sampler, initial_noise, is_flux, picture_size
from .pipelines import check_text_to_image, fingerprint, load_pipeline
from .schedules import TrainingSchedule
from .steps import remaining

Taps: TypeAlias = Mapping[str | Site, Tap | Sequence[Tap]]
Progress: TypeAlias = Callable[[int, int], object]

# What of a pipeline's own __call__ a caller may set; all of it is the same for every row and adds no calls.
_OPTIONS = (
    "height",
    "width",
    "eta",
    "clip_skip",
    "guidance_rescale",
    "max_sequence_length",
    "original_size",
    "target_size",
    "crops_coords_top_left",
)


class DiffusersBackend:
    """Drives a diffusers pipeline with taps on it: UNets (SD1.x, SD2.x, SDXL), SD3 and Flux.

    The pipeline's own `__call__` runs, so any scheduler set on it works. It is left as it was.

    Attributes:
        pipeline: the pipeline; give it another scheduler at any time.
        denoiser: its UNet or transformer.
        sites: the denoiser's sites by name.

    Raises:
        HapaxError: the pipeline isn't text-to-image, or its denoiser's blocks are unknown.
    """

    def __init__(self, pipeline: Any) -> None:
        check_text_to_image(type(pipeline))
        self.pipeline = pipeline
        self.denoiser: Any = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
        self.sites: dict[str, Site] = find_sites(self.denoiser)

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> DiffusersBackend:
        """Load a local diffusers folder: safetensors only, no network, no code from the folder.

        Raises:
            HapaxError: no such folder, not a pipeline's, not text-to-image, or its files can't be loaded.
        """
        return cls(load_pipeline(path, dtype=dtype, device=device))

    def fingerprint(self) -> str:
        """Return the SHA-256 of the denoiser's class, config and all its weights, in their dtype."""
        return fingerprint(self.denoiser)

    def identity(self) -> dict[str, Any]:
        """Return what things made with this model are known by: `architecture`, `model` (fingerprint), `versions`."""
        import diffusers

        from ... import __version__

        versions = {"hapax": __version__, "torch": str(torch.__version__), "diffusers": diffusers.__version__}
        return {"architecture": type(self.denoiser).__name__, "model": self.fingerprint(), "versions": versions}

    def tapped(self, taps: Taps, rows: Rows) -> AbstractContextManager[None]:
        """Put taps on the denoiser for calls of one's own (training, probing), with rows labelled `rows`.

        Call the denoiser with return_dict=False inside. Keys of `taps` are site names (`mid`, `mid:update`)
        or Sites; values are taps or lists of taps, called in order.
        """
        return self._tapped(taps, rows, None)

    def _tapped(
        self, taps: Taps, rows: Rows, remaining: Callable[[float], float] | None
    ) -> AbstractContextManager[None]:
        if not taps:
            return nullcontext()
        chosen = {select_site(self.sites, key): tap for key, tap in taps.items()}
        chains = {site: compose(tap) if isinstance(tap, Sequence) else tap for site, tap in chosen.items()}
        return tapped(self.denoiser, chains, TrainingSchedule.of(self.pipeline.scheduler), rows, remaining)

    def sample(
        self,
        prompts: str | Sequence[str],
        seeds: Sequence[int],
        taps: Taps | None = None,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        batch_size: int = 4,
        negative: str | Sequence[str] | None = None,
        output: Literal["pil", "pt", "latent"] = "pil",
        progress: Progress | None = None,
        **size: Any,
    ) -> Any:
        """Make one picture per prompt and seed, with taps on the way.

        Each sample's noise is drawn in float32 from a CPU generator with its own seed, for the sample alone,
        so a picture is the same in any batch, up to the rounding of batched kernels: measured on a CPU over
        small models of the four architectures, at most 3e-6 of the range [0, 1] in float32, .008 (two of its
        own steps at 1) in bfloat16. Only batches of the same size are bit-equal.

        Args:
            prompts: one per seed, or one for all.
            seeds: one per picture.
            taps: by site (`mid`, `mid:update`, a Site): a tap, or a list of taps called in order.
            steps, guidance: the pipeline's own defaults if None. Guidance of 1 or less runs no rows under
                the negative prompt; Flux never does, its guidance is an input of the model.
            batch_size: samples per batch; with guidance the denoiser sees twice as many rows.
            negative: one per seed, or one for all; refused where it would do nothing.
            output: `pil` for a list of pictures; `pt` `[N, 3, H, W]` in [0, 1] or `latent` (as the pipeline
                returns it, packed for Flux) for one float32 tensor on the CPU.
            progress: called with (done, total) after each denoising step, in steps of one sample; an
                exception that it raises ends the run and leaves no hook behind.
            size: height, width in pixels, and other options of the pipeline's `__call__` that are the same
                for all rows (eta, clip_skip, guidance_rescale, max_sequence_length, SDXL's sizes).

        Raises:
            HapaxError: unknown site, mismatched lists, an unknown or useless option, a size that doesn't fit
                the model, a sampler whose noise depends on the batch, or an asymmetric edit with a sampler whose
                steps have no two paths.
        """
        if output not in ("pil", "pt", "latent"):
            raise HapaxError(f"output is {output!r}; give 'pil', 'pt' or 'latent'.")
        text = self._text(prompts, negative, seeds)
        check_sampler(self.pipeline)
        call = self._call(steps, guidance, size)
        guided, pixels = self._guided(call["guidance_scale"], negative), (call["height"], call["width"])
        left = partial(remaining, self.pipeline.scheduler, float(size.get("eta") or 0))
        pictures: list[Any] = []
        with _no_progress_bar(self.pipeline):
            for batch in _batches(len(seeds), batch_size):
                generators = [torch.Generator("cpu").manual_seed(int(seeds[i])) for i in batch]
                with self._tapped(taps or {}, Rows.of(batch, guided=guided), left):
                    result = self.pipeline(
                        **{name: [values[i] for i in batch] for name, values in text.items()},
                        **call,
                        generator=generators,
                        latents=initial_noise(self.pipeline, self.denoiser, generators, pixels),
                        output_type=output,
                        callback_on_step_end=_reporter(progress, batch, len(seeds)),
                    )
                pictures.append(result.images)
        if output == "pil":
            return [picture for batch in pictures for picture in batch]
        return torch.cat([batch.float().cpu() for batch in pictures])

    def _text(
        self, prompts: str | Sequence[str], negative: str | Sequence[str] | None, seeds: Sequence[int]
    ) -> dict[str, list[str]]:
        if not len(seeds):
            raise HapaxError("There are no seeds; give one per picture.")
        text = {"prompt": _per_seed("prompts", prompts, len(seeds))}
        if negative is not None:
            text["negative_prompt"] = _per_seed("negative", negative, len(seeds))
        return text

    def _call(self, steps: int | None, guidance: float | None, size: dict[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments that all batches share, defaults filled in."""
        if steps is not None and steps < 1:
            raise HapaxError(f"steps is {steps}; give 1 or more.")
        asked = inspect.signature(type(self.pipeline).__call__).parameters
        allowed = [name for name in _OPTIONS if name in asked]
        if unknown := [name for name in size if name not in allowed]:
            raise HapaxError(
                f"{type(self.pipeline).__name__} can't be given {', '.join(unknown)} here; "
                f"the options are {', '.join(allowed)}."
            )
        height, width = picture_size(self.pipeline, self.denoiser, size.get("height"), size.get("width"))
        return size | {
            "num_inference_steps": asked["num_inference_steps"].default if steps is None else steps,
            "guidance_scale": float(asked["guidance_scale"].default if guidance is None else guidance),
            "height": height,
            "width": width,
        }

    def _guided(self, guidance: float, negative: object) -> bool:
        """Tell whether the pipeline will add rows under the negative prompt."""
        config = self.denoiser.config
        distilled = is_flux(self.denoiser) or getattr(config, "time_cond_proj_dim", None) is not None
        guided = guidance > 1 and not distilled
        if negative is not None and not guided:
            why = "takes guidance as an input" if distilled else f"runs with guidance {guidance:g}, not above 1"
            raise HapaxError(
                f"A negative prompt was given, but would do nothing: the model {why}; leave the negative out."
            )
        return guided


def _per_seed(name: str, texts: str | Sequence[str], count: int) -> list[str]:
    """Give each seed its text."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    if len(texts) not in (1, count):
        raise HapaxError(f"{name} has {len(texts)} entries for {count} seeds; give one for all or one for each.")
    return texts if len(texts) == count else texts * count


def _batches(count: int, size: int) -> Iterator[range]:
    if size < 1:
        raise HapaxError(f"batch_size is {size}; give 1 or more.")
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def _reporter(progress: Progress | None, batch: range, count: int) -> Callable[..., dict[str, Any]] | None:
    """Make a step callback that counts sample-steps over all batches."""
    if progress is None:
        return None

    def report(pipeline: Any, step: int, timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
        per_sample = pipeline.num_timesteps
        progress(batch.start * per_sample + len(batch) * (step + 1), count * per_sample)
        return tensors

    return report


@contextmanager
def _no_progress_bar(pipeline: Any) -> Iterator[None]:
    before = getattr(pipeline, "_progress_bar_config", {})
    pipeline.set_progress_bar_config(**(before | {"disable": True}))
    try:
        yield
    finally:
        pipeline.set_progress_bar_config(**before)
