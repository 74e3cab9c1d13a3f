"""The score of pairs that come in batches, from several processes, or in numbers that no memory holds."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import HapaxError
from .kernels import DEFAULT_RFF_DIM, Features, Kernel, check_kernel, features
from .moments import Moments, schur_complement
from .pairs import check_count, check_pairs, check_ridge, check_size, row_keys, warn_if_unique
from .problem import summed
from .schur import DEFAULT_RIDGE, SCE, score

_LOOSE = 1 << 16


class SchurComplementEntropy:
    """`schur_complement_entropy`, streamed: the sums of features are all that is kept, in fp64.

    Memory is three m x m matrices, constant in the number of pairs, and 8 bytes for each different prompt; m is
    d, or twice the frequencies. The Gaussian kernel is always that of random features here, so that a stream
    of any length is treated alike; equal generators make accumulators that merge.

    Args:
        kernel, sigma, ridge, rff_dim, generator: as in `schur_complement_entropy`.

    Example:
        >>> x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
        >>> prompts = torch.eye(8)[torch.arange(60) % 3]
        >>> one, other = SchurComplementEntropy(), SchurComplementEntropy()
        >>> one.update(x[:20], prompts[:20])
        >>> other.update(x[20:], prompts[20:])
        >>> one.merge(other)
        >>> one.compute().n, one.compute().unique_texts
        (60, 3)
    """

    def __init__(
        self,
        *,
        kernel: Kernel = "cosine",
        sigma: float | None = None,
        ridge: float = DEFAULT_RIDGE,
        rff_dim: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        check_kernel(kernel, sigma, rff_dim)
        check_ridge(ridge)
        self.kernel: Kernel = kernel
        self.sigma, self.ridge, self.rff_dim = sigma, ridge, rff_dim
        self._generator = generator
        self._phi: Features | None = None
        self.dim: int | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all pairs; the random frequencies stay."""
        self._moments: Moments | None = None
        self._keys = PromptKeys()

    def update(self, image: Tensor, text: Tensor) -> None:
        """Add pairs of embeddings [n, d].

        Raises:
            HapaxError: bad pairs, or of another size than those before; nothing is added then.
        """
        image, text = check_pairs(image, text, least=1)
        self._expect(image.shape[1])
        assert self._phi is not None
        self._keys.add(row_keys(text))
        self._moments = summed(self._phi, image, text, self._moments)

    def merge(self, other: SchurComplementEntropy) -> None:
        """Add all pairs of another accumulator, which stays as it is.

        Raises:
            HapaxError: it has other settings, other frequencies, or embeddings of another size.
        """
        self._check_same(other)
        if other._moments is None:
            return
        assert other.dim is not None
        self._expect(other.dim)
        assert self._phi is not None
        assert other._phi is not None
        w, other_w = self._phi.frequencies, other._phi.frequencies
        if w is not None and other_w is not None and not torch.equal(w, other_w):
            raise HapaxError("The accumulators have other random frequencies; make both with equal generators.")
        self._moments = other._moments.plus(
            self._moments or Moments.zeros(len(other._moments.ii), other._moments.ii.device)
        )
        self._keys.add(other._keys.tidy())

    def compute(self) -> SCE:
        """The score of all pairs so far; a warning if nearly all prompts differ.

        Raises:
            HapaxError: fewer than 2 pairs.
        """
        n = self._moments.n if self._moments else 0
        check_count(n)
        assert self._moments is not None
        unique = len(self._keys.tidy())
        warn_if_unique(unique, n)
        parts = schur_complement(self._moments, self.ridge)
        return score(torch.linalg.eigvalsh(parts.image), torch.linalg.eigvalsh(parts.text), self.ridge, n, unique)

    def state_dict(self) -> dict[str, Tensor]:
        """The sums as tensors, to be kept or sent to another process; {} before the first pair."""
        if self._moments is None or self._phi is None:
            return {}
        n, ii, it, tt = self._moments
        state = {"n": torch.tensor(n), "ii": ii, "it": it, "tt": tt, "keys": self._keys.tidy()}
        return state | ({} if self._phi.frequencies is None else {"frequencies": self._phi.frequencies})

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` of an accumulator with the same settings gave.

        Raises:
            HapaxError: it is of another kernel or has another number of frequencies.
        """
        self.reset()
        if not state:
            return
        frequencies = state.get("frequencies")
        if (frequencies is None) != (self.kernel == "cosine"):
            raise HapaxError(f"The state is of another kernel than {self.kernel}; make the accumulator as it was made.")
        wanted = self.rff_dim or DEFAULT_RFF_DIM
        if frequencies is not None and frequencies.shape[1] != wanted:
            raise HapaxError(
                f"The state has {frequencies.shape[1]} random frequencies, but the accumulator {wanted}; make it with "
                f"rff_dim={frequencies.shape[1]}."
            )
        self._phi = Features(frequencies)
        self.dim = len(state["ii"]) if frequencies is None else len(frequencies)
        # The sums go on in place, so they may not be the caller's own.
        self._moments = Moments(int(state["n"]), *(state[name].clone() for name in ("ii", "it", "tt")))
        self._keys.add(state["keys"])

    def _expect(self, dim: int) -> None:
        if self.dim is None:
            self._phi = features(dim, self.kernel, self.sigma, self.rff_dim, self._generator)
            self.dim = dim
        check_size(dim, self.dim)

    def _check_same(self, other: SchurComplementEntropy) -> None:
        for name in ("kernel", "sigma", "ridge", "rff_dim"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise HapaxError(f"An accumulator of {name} {theirs} can't be merged into one of {name} {mine}.")


class PromptKeys:
    """The different keys of rows, at 8 bytes each and a few not yet sorted in."""

    def __init__(self) -> None:
        self._sorted, self._loose, self._count = torch.empty(0, dtype=torch.long), [], 0

    def add(self, keys: Tensor) -> None:
        """Add keys [n]."""
        new = torch.unique(keys.cpu())
        self._loose.append(new)
        self._count += len(new)
        # Sorting in seldom keeps the work per key small; sorting in once an eighth is loose keeps memory small.
        if self._count > _LOOSE + len(self._sorted) // 8:
            self.tidy()

    def tidy(self) -> Tensor:
        """All different keys, ascending."""
        if self._loose:
            self._sorted = torch.unique(torch.cat([self._sorted, *self._loose]))
            self._loose, self._count = [], 0
        return self._sorted
