"""What a run tells the browser beside its outputs: tables to be read and copied, features to be chosen from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.feature_set import FeatureSet
from .schema import to_image, ui

_HEAD = ("number", "feature", "pictures", "share", "low", "high", "score", "z", "latent")

Cell = str | int | float


def table_ui(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> dict[str, list[Any]]:
    """A table for the node that made it."""
    return {"hapax_table": [[list(head), *(list(row) for row in rows)]]}


def feature_ui(features: FeatureSet) -> dict[str, list[Any]]:
    """The list as a table, and each feature with a picture, for the pickers of the nodes that it is wired to."""
    rows, listed = [], []
    shots = [feature.pictures[0] for feature in features.features]
    pictures = ui.PreviewImage(to_image(shots)).as_dict()["images"] if shots else []
    for feature, picture in zip(features.features, pictures, strict=True):
        seen, row = feature.prevalence, feature.row
        shares = [seen[key] for key in ("rate", "low", "high")]
        score, z = row["score"], row["distinctiveness_z"]
        rows.append((feature.number, feature.name, seen["count"], *shares, score, z, feature.latent))
        listed.append(
            {
                "wanted": f"latent {feature.latent}",
                "number": feature.number,
                "name": feature.name,
                "label": feature.label,
                "rate": {"shows": True, **dict(zip(("rate", "low", "high"), shares, strict=True))},
                "picture": dict(picture),
            }
        )
    return {**table_ui(_HEAD, rows), "hapax_features": listed}
