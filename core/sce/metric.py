"""The score as a `torchmetrics.Metric`; the class exists only where torchmetrics is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .kernels import Kernel, check_kernel, features
from .moments import Moments, schur_complement
from .pairs import check_count, check_pairs, check_ridge, check_size, row_keys, warn_if_unique
from .problem import summed
from .schur import DEFAULT_RIDGE, score

if TYPE_CHECKING or find_spec("torchmetrics"):
    from torchmetrics import Metric  # pyright: ignore[reportMissingImports]

    class SchurComplementEntropyMetric(Metric):
        """`SchurComplementEntropy` as a Metric: its sums are states that torchmetrics adds up over processes.

        Args:
            dim: size of the embeddings.
            kernel, sigma, ridge, rff_dim: as in `schur_complement_entropy`.
            seed: of the random frequencies, equal in all processes.

        `compute` gives a dict of the four values of `SCE`. It raises HapaxError for fewer than 2 pairs, and `update`
        for bad ones. Give single pairs to `update`: calling the metric itself also scores what it is called on.
        """

        is_differentiable = False
        higher_is_better = True
        full_state_update = False

        n: Tensor
        ii: Tensor
        it: Tensor
        tt: Tensor
        keys: list[Tensor]

        def __init__(
            self,
            dim: int,
            *,
            kernel: Kernel = "cosine",
            sigma: float | None = None,
            ridge: float = DEFAULT_RIDGE,
            rff_dim: int | None = None,
            seed: int = 0,
        ) -> None:
            super().__init__()
            check_kernel(kernel, sigma, rff_dim)
            check_ridge(ridge)
            self.ridge, self.dim = ridge, dim
            self._phi = features(dim, kernel, sigma, rff_dim, torch.Generator().manual_seed(seed))
            size = dim if self._phi.frequencies is None else 2 * self._phi.frequencies.shape[1]
            self.add_state("n", torch.tensor(0), dist_reduce_fx="sum")
            for name in ("ii", "it", "tt"):
                self.add_state(name, torch.zeros(size, size, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state("keys", [], dist_reduce_fx="cat")

        def update(self, image: Tensor, text: Tensor) -> None:
            """Add pairs of embeddings [n, dim]."""
            image, text = check_pairs(image, text, least=1)
            check_size(image.shape[1], self.dim)
            added = summed(self._phi, image, text)
            self.n += added.n
            self.ii += added.ii
            self.it += added.it
            self.tt += added.tt
            self.keys = [torch.unique(torch.cat([*self.keys, row_keys(text)]))]

        def compute(self) -> dict[str, Tensor]:
            """The score of all pairs so far, of all processes."""
            check_count(n := int(self.n))
            keys = self.keys if isinstance(self.keys, Tensor) else torch.cat(self.keys)
            unique = len(torch.unique(keys))
            warn_if_unique(unique, n)
            parts = schur_complement(Moments(n, self.ii, self.it, self.tt), self.ridge)
            found = score(torch.linalg.eigvalsh(parts.image), torch.linalg.eigvalsh(parts.text), self.ridge, n, unique)
            names = ("image", "text", "image_effective", "text_effective")
            return {name: torch.tensor(getattr(found, name), dtype=torch.float64) for name in names}
