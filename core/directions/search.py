"""Exact nearest neighbours by cosine: one product of all rows with the query, near memory bandwidth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Rows a block when many queries are asked at once: 64k x 1280 are 168 MB in bfloat16.
BLOCK = 1 << 16


@dataclass(frozen=True, eq=False)
class Rows:
    """A matrix to search, in the precision in which it is stored.

    Attributes:
        data: [M, C] bfloat16, perhaps mapped from a file: read once a query, never converted as a whole.
        lengths: [M] fp32, by which a row's product with the query is divided to be a cosine.
        reach: the largest |row| / length: 1 if lengths are the rows' norms.
    """

    data: Tensor
    lengths: Tensor
    reach: float = 1.0

    def top(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest cosines with `query` [C], fp64, and their rows, best first.

        The first pass runs in the stored precision. Its error is bounded (below), so all rows that could be
        among the best k are computed anew in fp64: the answer is exact, ties by the row's number.
        """
        query = query.double()
        near, error = self._approximate(query)
        k = min(k, len(near))
        limit = near.topk(k).values[-1] - 2 * error
        return self.ranked(query, (near >= limit).nonzero().flatten(), k)

    def ranked(self, query: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest cosines with `query` among some rows, ascending by number: fp64, and which, best first."""
        exact = (self.data[rows].double() @ query.double()) / self.lengths[rows].double()
        order = torch.argsort(exact, descending=True, stable=True)[:k]
        return exact[order], rows[order]

    def best(self, queries: Tensor) -> Tensor:
        """The largest cosine with each of `queries` [Q, C]: [Q] fp32."""
        best = torch.full((len(queries),), -torch.inf)
        columns = queries.float().T.contiguous()
        for start in range(0, len(self.data), BLOCK):
            block = self.data[start : start + BLOCK].float() @ columns
            best = torch.maximum(best, (block / self.lengths[start : start + BLOCK, None]).amax(0))
        return best

    def _approximate(self, query: Tensor) -> tuple[Tensor, float]:
        """All cosines [M] fp32 from one product in bfloat16, and a bound on their errors."""
        rounded = query.bfloat16()
        near = (self.data @ rounded).float() / self.lengths
        # Rounding the query moves a cosine by at most its own change in length (Cauchy and Schwarz); sums are
        # kept in fp32 and rounded once, by at most 2^-9 of themselves, and 2^-8 leaves room for the sums.
        error = float((query - rounded.double()).norm()) * self.reach + 2.0**-8 * float(near.abs().max())
        return near, error
