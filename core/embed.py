"""open_clip images and texts to embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import HapaxError


class ClipEmbedder:
    """A CLIP model that turns pictures and texts into unit vectors [n, E] (fp32, on the CPU).

    `name` is an open_clip architecture, `weights` a local safetensors file; nothing is downloaded.
    """

    def __init__(self, model: Any, preprocess: Callable, tokenizer: Callable, name: str, digest: str) -> None:
        self.model, self.preprocess, self.tokenizer = model.eval(), preprocess, tokenizer
        self.name, self.fingerprint = name, digest

    @property
    def device(self) -> torch.device:
        """Where the model is; it may be moved between calls."""
        return next(self.model.parameters()).device

    @classmethod
    def load(cls, name: str, weights: str | Path, device: str = "cpu") -> ClipEmbedder:
        """Load an open_clip architecture with local weights.

        Raises:
            HapaxError: unknown architecture, missing file, not safetensors, weights of another model, or a tokenizer
                that would have to be downloaded.
        """
        import open_clip
        from safetensors import SafetensorError

        create: Any = open_clip.create_model_and_transforms
        path = Path(weights)
        if path.suffix != ".safetensors" or not path.is_file():
            raise HapaxError(
                f"CLIP weights must be a local .safetensors file, but found {str(weights)!r}; "
                "convert the checkpoint with safetensors or give the right path."
            )
        if name not in open_clip.list_models():
            raise HapaxError(
                f"{name!r} is not an open_clip architecture; give one of those that `open_clip.list_models()` lists, "
                "such as ViT-L-14 or ViT-B-32."
            )
        tokenizer = _tokenizer(name)
        try:
            model, _, preprocess = create(name, pretrained=str(path), device=device)
        except (RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise HapaxError(f"{path.name} does not fit the CLIP architecture {name}: {reason}") from error
        return cls(model, preprocess, tokenizer, name, file_digest(path))

    @torch.inference_mode()
    def images(self, pictures: Sequence, batch_size: int = 64) -> Tensor:
        """Unit embeddings [n, E] of PIL pictures."""
        if not pictures:
            raise HapaxError("No pictures were given to embed; expected at least one.")
        parts = [
            self.model.encode_image(
                torch.stack([self.preprocess(p.convert("RGB")) for p in pictures[i : i + batch_size]]).to(self.device)
            )
            for i in range(0, len(pictures), batch_size)
        ]
        return nn.functional.normalize(torch.cat(parts).float(), dim=-1).cpu()

    @torch.inference_mode()
    def texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Unit embeddings [n, E] of texts."""
        if not texts:
            raise HapaxError("No texts were given to embed; expected at least one.")
        parts = [
            self.model.encode_text(self.tokenizer(list(texts[i : i + batch_size])).to(self.device))
            for i in range(0, len(texts), batch_size)
        ]
        return nn.functional.normalize(torch.cat(parts).float(), dim=-1).cpu()


def _tokenizer(name: str) -> Callable:
    """The architecture's own tokenizer, from this machine; SigLIP's are on the Hub, which open_clip would ask."""
    import open_clip

    hub = (open_clip.get_model_config(name) or {}).get("text_cfg", {}).get("hf_tokenizer_name")
    if not hub:
        return open_clip.get_tokenizer(name)
    try:
        return open_clip.get_tokenizer(name, local_files_only=True)
    except (OSError, ValueError) as error:
        raise HapaxError(
            f"{name} needs the tokenizer {hub}, which is not on this machine, and nothing is downloaded unasked; fetch "
            f"it with `hf download {hub}`, or take an architecture that brings its own, such as ViT-L-14."
        ) from error


def file_digest(path: Path) -> str:
    """The first 16 hex digits of a file's sha256."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]
