"""What guidance is trained on: latents with their prompts, from a folder of pictures or made by the model itself."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..backends.autoencoder import code_shift, encode
from ..backends.diffusers import DiffusersBackend
from ..backends.noise import is_flux, picture_size
from ..collect import Sampling, batches
from ..distributed import gather, mine
from ..errors import HapaxError
from ..tensor_file import as_json, check_header, read_tensors, write_tensors

Progress = Callable[[str, int, int], None]

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_CAPTIONS = (".txt", ".caption")
_AT_ONCE = 8
_FORMAT = "hapax.latents"


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Pictures as the denoiser sees them.

    Attributes:
        latents: `[N, ...]` float32, clean latents in the denoiser's scale and layout (packed for Flux).
        prompt: `[N]` int64, each picture's entry in `prompts`.
        prompts: U different prompts.
        ids: N names, a file's path in its folder or `prompt number:seed`; weights are saved with them.
        size: height and width in pixels, as options for the backend; empty for the model's own.

    Raises:
        HapaxError: fewer than two pictures, or lengths that differ.
    """

    latents: Tensor
    prompt: Tensor
    prompts: tuple[str, ...]
    ids: tuple[str, ...]
    size: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.latents) < 2:
            raise HapaxError(f"There is {len(self.latents)} picture; groups need at least two, better hundreds.")
        if not len(self.latents) == len(self.prompt) == len(self.ids):
            lengths = f"{len(self.latents)} pictures, {len(self.prompt)} prompts and {len(self.ids)} ids"
            raise HapaxError(f"There are {lengths}; give one prompt and one id per picture.")
        if not bool(torch.isfinite(self.latents).all()):
            raise HapaxError("Some latents are not finite; make or encode the pictures in float32 or bfloat16.")

    def __len__(self) -> int:
        return len(self.latents)

    def part(self, rows: Tensor) -> PictureSet:
        """Some of the pictures, by a mask `[N]` or by their numbers; the prompts stay as they are."""
        numbers = torch.arange(len(self))[rows]
        ids = tuple(self.ids[i] for i in numbers.tolist())
        return PictureSet(self.latents[numbers], self.prompt[numbers], self.prompts, ids, self.size)


class Maker(Protocol):
    """Who makes pictures: `DiffusersBackend`, or ComfyUI's samplers."""

    def identity(self) -> dict[str, Any]:
        """What the model is known by, with all that its pictures depend on beside prompt, seed and sampling."""
        ...

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], taps: Any, **options: Any) -> Any:
        """Latents [N, ...], float32 on the CPU; see `DiffusersBackend.sample`."""
        ...


def make_pictures(
    backend: Maker,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> PictureSet:
    """Let the model make one picture per prompt and seed: training data where there is none.

    Under `torch.distributed` the work is shared out and every process gets all pictures.

    Args:
        backend: the model.
        prompts, seeds: each prompt gets each seed.
        sampling: how.
        folder: keeps each batch as it is made; one that holds some of the pictures is gone on with.
        progress: called as progress("pictures", done, total).

    Raises:
        HapaxError: nothing to make, or the folder holds pictures of another model, other prompts or settings.
    """
    prompts = tuple(dict.fromkeys(prompts))
    work = [(u, seed) for u in range(len(prompts)) for seed in seeds]
    if not work:
        raise HapaxError("There are no prompts or no seeds; give at least one of each.")
    how = [sampling.steps, sampling.guidance, sampling.size]
    kept = None if folder is None else _Kept(folder, [_made_by(backend), list(prompts), how])
    own = [work[i] for i in mine(len(work))]
    made = {} if kept is None else {item: z for item, z in kept.read().items() if item in set(own)}
    for batch in batches([item for item in own if item not in made], sampling.batch_size):
        latents = backend.sample(
            [prompts[u] for u, _ in batch],
            [seed for _, seed in batch],
            {},
            steps=sampling.steps,
            guidance=sampling.guidance,
            batch_size=sampling.batch_size,
            output="latent",
            **sampling.size,
        )
        made |= dict(zip(batch, latents, strict=True))
        if kept:
            kept.write(batch, latents)
        if progress:
            progress("pictures", len(made), len(own))
    made = gather(made)
    return PictureSet(
        torch.stack([made[item] for item in work]),
        torch.tensor([u for u, _ in work]),
        prompts,
        tuple(f"{u}:{seed}" for u, seed in work),
        dict(sampling.size),
    )


def _made_by(backend: Maker) -> dict[str, Any]:
    known = {key: value for key, value in backend.identity().items() if key != "versions"}
    if isinstance(backend, DiffusersBackend):
        known["sampler"] = type(backend.pipeline.scheduler).__name__
    return known


class _Kept:
    """Batches of latents in a folder, one file each, with what they were made with."""

    def __init__(self, folder: Path, identity: Any) -> None:
        self.folder, self.identity = folder, as_json(identity)

    def write(self, items: Sequence[tuple[int, int]], latents: Tensor) -> None:
        header = {"format": _FORMAT, "version": "1", "identity": self.identity, "items": as_json(items)}
        write_tensors(self.folder / f"{items[0][0]}-{items[0][1]}.safetensors", {"latents": latents}, header)

    def read(self) -> dict[tuple[int, int], Tensor]:
        found: dict[tuple[int, int], Tensor] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            tensors, header = read_tensors(path, "batch of latents")
            check_header(path, header, _FORMAT, 1, "a batch of latents")
            if header.get("identity") != self.identity:
                raise HapaxError(
                    f"{path} was made with another model, other prompts or another sampler; "
                    "go on with the same settings, or choose another folder."
                )
            found |= {
                (u, seed): z for (u, seed), z in zip(json.loads(header["items"]), tensors["latents"], strict=True)
            }
        return found


def read_pictures(
    backend: DiffusersBackend, folder: str | Path, *, progress: Progress | None = None, **size: int
) -> PictureSet:
    """Encode a folder of captioned pictures, laid out as kohya's trainers read them.

    Each picture has its caption beside it as `name.txt` or `name.caption`. Pictures in a folder named
    `5_something` count five times. They are cut to the middle and resized to the model's size.

    Raises:
        HapaxError: no such folder, no pictures, captions missing or empty, or a file that is no picture.
    """
    files = _listed(Path(folder))
    captions = [_caption(path) for path in files]
    height, width = picture_size(backend.pipeline, backend.denoiser, size.get("height"), size.get("width"))
    encoded: list[Tensor] = []
    for some in batches(files, _AT_ONCE):
        pixels = torch.stack([_pixels(path, height, width) for path in some])
        encoded.append(encode(backend, pixels))
        if progress:
            progress("encoding", sum(map(len, encoded)), len(files))
    prompts = tuple(dict.fromkeys(captions))
    repeats = torch.tensor([_repeats(path) for path in files])
    rows = torch.arange(len(files)).repeat_interleave(repeats)
    return PictureSet(
        torch.cat(encoded)[rows],
        torch.tensor([prompts.index(caption) for caption in captions])[rows],
        prompts,
        tuple(files[row].relative_to(folder).as_posix() for row in rows.tolist()),
        dict(size),
    )


@torch.inference_mode()
def decode(backend: DiffusersBackend, pictures: PictureSet) -> Iterator[Image.Image]:
    """Yield the pictures of a set's latents."""
    pipeline, vae = backend.pipeline, backend.pipeline.vae
    size = picture_size(pipeline, backend.denoiser, pictures.size.get("height"), pictures.size.get("width"))
    for latents in pictures.latents.split(_AT_ONCE):
        if is_flux(backend.denoiser):
            latents = pipeline._unpack_latents(latents, *size, pipeline.vae_scale_factor)
        z = latents / vae.config.scaling_factor + code_shift(pipeline)
        pixels = vae.decode(z.to(vae.device, vae.dtype), return_dict=False)[0].float().cpu()
        yield from pipeline.image_processor.postprocess(pixels, output_type="pil")


def _listed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise HapaxError(f"{folder} is not a folder; give one with pictures and a caption beside each.")
    found = [Path(where) / name for where, _, names in os.walk(folder) for name in names]
    files = sorted(path for path in found if path.suffix.lower() in _PICTURES)
    if not files:
        raise HapaxError(f"{folder} holds no pictures ({', '.join(_PICTURES)}); give a folder of captioned pictures.")
    return files


def _caption(path: Path) -> str:
    for suffix in _CAPTIONS:
        beside = path.with_suffix(suffix)
        if beside.is_file():
            text = " ".join(beside.read_text("utf-8", errors="replace").split())
            if text:
                return text
    raise HapaxError(f"{path} has no caption; write one into {path.with_suffix('.txt').name} beside it.")


def _repeats(path: Path) -> int:
    """Kohya's number of repeats: the digits before the first underscore of the folder's name."""
    number, underscore, _ = path.parent.name.partition("_")
    return max(1, int(number)) if underscore and number.isdecimal() else 1


def _pixels(path: Path, height: int, width: int) -> Tensor:
    """A picture `[3, H, W]` in [-1, 1]: the largest middle part of that shape, resized."""
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise HapaxError(f"{path} can't be read as a picture ({error}); remove or replace it.") from error
    factor = min(picture.width / width, picture.height / height)
    w, h = factor * width, factor * height
    left, top = (picture.width - w) / 2, (picture.height - h) / 2
    resized = picture.resize((width, height), Image.Resampling.LANCZOS, box=(left, top, left + w, top + h))
    return torch.from_numpy(np.asarray(resized, np.float32) / 127.5 - 1).permute(2, 0, 1)
