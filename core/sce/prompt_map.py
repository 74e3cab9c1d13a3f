"""Prompts removed from embeddings, or all that prompts explain kept: a regression fitted on pairs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import HapaxError
from ..tensor_file import as_json, check_header, check_tensor, read_tensors, write_tensors
from .kernels import Features, Kernel, check_kernel, features
from .moments import cholesky
from .pairs import CHUNK, check_pairs, check_ridge, check_rows, unique_texts

# The map must follow the mean picture of each prompt closely: a share ridge / (lam + ridge) of a direction stays.
# So its ridge is far below any direction that a prompt set has (a thousand prompts give 1e-3 each), and far above
# what fp64 rounds away. It is smaller than the score's, which has to weigh directions against each other.
MAP_RIDGE = 1e-6
_FORMAT, _VERSION = "hapax.prompt_map", 1


@dataclass(frozen=True, eq=False)
class PromptMap:
    """What a prompt's embedding says about a picture's: x_hat = phi(text) B (arXiv 2412.18645, Gamma*).

    The roles are free: images by texts, texts by images, texts by texts. Embeddings are taken by their direction;
    the removed part has the scale of the embedding that it is removed from. So a linear probe is at chance on the rest
    of unit embeddings, as CLIP's are here; where lengths differ with the prompt, they still tell it.

    Attributes:
        b: [m, d] the map, fp64.
        phi: the features of the text side, with the frequencies that they were drawn with.
        ridge, n, unique_texts: of the fit.
        meta: provenance, such as the encoder's fingerprint; JSON-able.
    """

    b: Tensor
    phi: Features
    ridge: float
    n: int
    unique_texts: int
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        """Size of the embeddings."""
        return self.b.shape[1]

    def keep(self, text: Tensor) -> Tensor:
        """The part of a unit embedding that these prompts explain: [n, d], of the texts' dtype and device.

        Raises:
            HapaxError: bad rows, or embeddings of another size than those of the fit.
        """
        return self._explained(text).to(text)

    def remove(self, image: Tensor, text: Tensor, strength: float = 1.0, *, unit: bool = False) -> Tensor:
        """Embeddings without what their prompts explain: x - strength |x| phi(text) B, like `image`.

        Args:
            image: [n, d] embeddings to take it from.
            text: [n, d] their prompts', or [1, d] one prompt's for all.
            strength: 0 changes nothing, bit for bit; 1 removes all; below 0 adds.
            unit: give rows the norm that they had, for consumers that expect it.

        Raises:
            HapaxError: bad rows, counts that don't fit, a strength that is not finite, or another size than that
                of the fit.
        """
        if not math.isfinite(strength):
            raise HapaxError(f"strength is {strength}; give a finite number, such as 1 to remove all.")
        if len(text) == 1 and len(image) > 1:
            text = text.expand(len(image), -1)
        x, prompts = check_pairs(image, text, least=1)
        if strength == 0:
            return image.clone()
        x = x.double()
        norms = x.norm(dim=1, keepdim=True)
        rest = x - strength * norms * self._explained(prompts)
        if unit:
            rest = rest / rest.norm(dim=1, keepdim=True).clamp(min=torch.finfo(rest.dtype).tiny) * norms
        return rest.to(image)

    def _explained(self, text: Tensor) -> Tensor:
        rows = check_rows(text, "text")
        if rows.shape[1] != self.dim:
            raise HapaxError(
                f"These embeddings have {rows.shape[1]} dimensions, but the map was fitted on {self.dim}; "
                "use the encoder that it was fitted with."
            )
        return self.phi(rows) @ self.b.to(rows.device)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all.

        Raises:
            HapaxError: the file can't be written, or `meta` is no JSON.
        """
        fit = {"ridge": self.ridge, "n": self.n, "unique_texts": self.unique_texts, "meta": self.meta}
        tensors = {"b": self.b} | ({} if self.phi.frequencies is None else {"frequencies": self.phi.frequencies})
        write_tensors(path, tensors, {"format": _FORMAT, "version": str(_VERSION), "fit": as_json(fit)})

    @classmethod
    def load(cls, path: str | Path) -> PromptMap:
        """Read what `save` wrote; on the CPU.

        Raises:
            HapaxError: the file is missing, damaged, of another kind, or of a newer version.
        """
        tensors, header = read_tensors(path, "saved prompt map")
        check_header(path, header, _FORMAT, _VERSION, "a prompt map of Hapax; give a file that PromptMap.save wrote")
        try:
            fit = json.loads(header["fit"])
            phi = Features(tensors.get("frequencies"))
            made = cls(tensors["b"], phi, fit["ridge"], fit["n"], fit["unique_texts"], dict(fit["meta"]))
        except (KeyError, TypeError, ValueError) as error:
            raise HapaxError(f"{path} has a damaged header ({error!r}); save the map again.") from error
        rows = made.dim if phi.frequencies is None else 2 * phi.frequencies.shape[1]
        for name, tensor, shape in (
            ("b", made.b, [rows, made.dim]),
            ("frequencies", phi.frequencies, [made.dim, rows // 2]),
        ):
            if tensor is not None:
                check_tensor(path, name, tensor, shape, "fit the map again")
        return made


def fit_prompt_map(
    image: Tensor,
    text: Tensor,
    *,
    ridge: float = MAP_RIDGE,
    kernel: Kernel = "cosine",
    sigma: float | None = None,
    rff_dim: int | None = None,
    generator: torch.Generator | None = None,
    meta: dict[str, Any] | None = None,
) -> PromptMap:
    """Fit what prompts say about pictures: B = (C_TT + ridge)^-1 C_TI (arXiv 2412.18645, Gamma*), in fp64.

    Args:
        image: [n, d] embeddings that parts are to be removed from, of any scale.
        text: [n, d] embeddings of what is to be removed.
        ridge: above 0; raise it where nearly all prompts differ, or the map learns noise by heart.
        kernel: of the texts. "cosine" makes the map linear in the direction of the text, "gaussian" a smooth
            function of the text; pictures are predicted as they are.
        sigma, rff_dim, generator: of the Gaussian kernel, as in `schur_complement_entropy`.
        meta: what to write into its file.

    Raises:
        HapaxError: bad pairs or settings.

    Example:
        >>> prompts = torch.eye(4)[[0, 0, 1, 1]]
        >>> pictures = prompts + torch.eye(4)[[2, 3, 2, 3]]
        >>> rest = fit_prompt_map(pictures, prompts).remove(pictures, prompts)
        >>> bool((rest[0] - rest[2]).norm() < 1e-4)  # what their prompts say differed, what they don't is equal
        True
    """
    check_kernel(kernel, sigma, rff_dim)
    check_ridge(ridge)
    image, text = check_pairs(image, text)
    phi = features(image.shape[1], kernel, sigma, rff_dim, generator)
    target, n, size = Features(), len(image), phi(text[:1]).shape[1]
    tt = torch.zeros(size, size, dtype=torch.float64, device=image.device)
    ti = torch.zeros(size, image.shape[1], dtype=torch.float64, device=image.device)
    for images, texts in zip(image.split(CHUNK), text.split(CHUNK), strict=True):
        rows = phi(texts)
        tt.addmm_(rows.T, rows)
        ti.addmm_(rows.T, target(images))
    b = torch.cholesky_solve(ti / n, cholesky(tt / n, ridge))
    return PromptMap(b, phi, ridge, n, len(unique_texts(text)[1]), dict(meta or {}))
