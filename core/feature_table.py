"""The ranked table of scored latents: what reports list and nodes show."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .errors import HapaxError


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Scored latents, one row each, best first; every column is a tensor [K] on the CPU.

    Columns:
        latent: index of the latent in the SAE (int64).
        count: pictures on which it fires (int64).
        effective: effective number of pictures, (sum z)^2 / sum z^2; below count when few dominate.
        frequency, frequency_low, frequency_high: share of pictures on which it fires, 95 % Wilson interval.
        distinctiveness, distinctiveness_low, distinctiveness_high: cosine distance of its centroid to the
            mean of all pictures (0 to 2), 95 % bootstrap interval; [0, 2] where it is not known.
        distinctiveness_z: standard deviations by which that distance exceeds chance's.
        distinctiveness_p: one-sided p-value of the same, for a null that is skewed.
        score: minority score in [0, 1]; comparable within one table only.
        finding: z > 3 and p < .00135 on enough pictures; nothing else may be called rare (bool).
    """

    latent: Tensor
    count: Tensor
    effective: Tensor
    frequency: Tensor
    frequency_low: Tensor
    frequency_high: Tensor
    distinctiveness: Tensor
    distinctiveness_low: Tensor
    distinctiveness_high: Tensor
    distinctiveness_z: Tensor
    distinctiveness_p: Tensor
    score: Tensor
    finding: Tensor

    def __post_init__(self) -> None:
        shapes = {name: tuple(column.shape) for name, column in self.columns().items()}
        if len(set(shapes.values())) != 1 or self.latent.dim() != 1:
            raise HapaxError(f"columns of a feature table must be 1-D and equally long; found {shapes}")

    def __len__(self) -> int:
        return len(self.latent)

    def __getitem__(self, rows: slice | Tensor) -> FeatureTable:
        """Some of the rows, in order: a slice of ranks, a mask [K], or ranks [M]."""
        if not isinstance(rows, (slice, Tensor)):
            raise HapaxError(
                f"a feature table is sliced by a slice, a mask or a tensor of ranks, not by {rows!r}; "
                "for one row as a dict use rows()[rank]"
            )
        return FeatureTable(**{name: column[rows] for name, column in self.columns().items()})

    def columns(self) -> dict[str, Tensor]:
        """The columns by name, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def findings(self) -> FeatureTable:
        """The rows that may be reported, still ranked."""
        return self[self.finding]

    def rows(self) -> list[dict[str, int | float | bool]]:
        """One JSON-able dict per row, best first."""
        columns = {name: column.tolist() for name, column in self.columns().items()}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def rank_of(self, latent: int) -> int:
        """The row of a latent.

        Raises:
            HapaxError: the latent is not in the table, because it is dead or was sliced away.
        """
        hit = torch.nonzero(self.latent == latent)
        if len(hit) == 0:
            raise HapaxError(f"latent {latent} is not among the {len(self)} in the table; it fired on no picture")
        return int(hit[0])
