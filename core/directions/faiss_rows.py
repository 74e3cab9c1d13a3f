"""Look-ups through FAISS: for banks so large, or look-ups so many, that the exact search takes too long."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ..errors import HapaxError
from .search import BLOCK, Rows

# Rows that a quantiser is trained on, and candidates ranked anew for each that is asked for.
_TRAINING, _OVERSAMPLE = 1 << 18, 16


@dataclass(frozen=True, eq=False)
class FaissRows(Rows):
    """Rows whose candidates come from a FAISS index by inner product, ranked anew by their exact cosines.

    Attributes:
        index: a faiss.Index of the rows over their lengths.
    """

    index: Any = None

    @classmethod
    def of(cls, rows: Rows, factory: str, parameters: str = "") -> FaissRows:
        """Build the index of some rows; it lives in memory only.

        Args:
            rows: [M, C].
            factory: FAISS's own description, such as "HNSW32" or "IVF1024,SQ8".
            parameters: of its search, in FAISS's own words, such as "efSearch=128" or "nprobe=32".

        Raises:
            HapaxError: the package is not here, or FAISS can't make or search such an index.
        """
        faiss = _faiss()
        try:
            index = faiss.index_factory(rows.data.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
            if not index.is_trained:
                generator = torch.Generator().manual_seed(0)
                chosen = torch.randperm(len(rows.data), generator=generator)[:_TRAINING].sort().values
                index.train(_scaled(rows, chosen).numpy())
            for start in range(0, len(rows.data), BLOCK):
                index.add(_scaled(rows, torch.arange(start, min(start + BLOCK, len(rows.data)))).numpy())
            if parameters:
                faiss.ParameterSpace().set_index_parameters(index, parameters)
        except RuntimeError as error:
            reason = str(error).splitlines()[0].rpartition("Error: ")[2]
            raise HapaxError(
                f"FAISS can't make {factory!r}{parameters and f' with {parameters!r}'} of {len(rows.data)} rows of "
                f"{rows.data.shape[1]} channels ({reason}); see its index factory, or look up exactly."
            ) from error
        return cls(rows.data, rows.lengths, rows.reach, index)

    def top(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """At most k large cosines with `query` [C] and their rows, best first.

        The cosines are exact; that none larger was missed is as sure as the index is good.
        """
        wanted = min(_OVERSAMPLE * k, len(self.data))
        found = torch.from_numpy(self.index.search(query.float()[None].numpy(), wanted)[1][0])
        return self.ranked(query, found[found >= 0].sort().values, k)


def _scaled(rows: Rows, chosen: Tensor) -> Tensor:
    return rows.data[chosen].float() / rows.lengths[chosen, None]


def _faiss() -> Any:
    try:
        return import_module("faiss")
    except ImportError as error:
        raise HapaxError(
            "Look-ups through FAISS need the package faiss-cpu, which is not here; install it, or look up exactly."
        ) from error
