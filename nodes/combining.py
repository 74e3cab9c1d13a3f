"""Several directions as one."""

from __future__ import annotations

from typing import Any

from ..core.direction import Direction
from ..core.directions import combine
from .schema import DIRECTION, io, schema, widget
from .steering import SEARCH

_PLACES = ("first", "second", "third", "fourth")


def _weight_widget(place: str, *, optional: bool = False) -> Any:
    return widget(
        io.Float,
        f"{place}_weight",
        default=1.0,
        min=-16.0,
        max=16.0,
        step=0.1,
        round=0.001,
        optional=optional,
        tooltip=f"How much of the {place} direction; a negative weight turns it down.",
    )


class CombineDirections(io.ComfyNode):
    """Combine Directions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "CombineDirections",
            "Combine Directions",
            "steering",
            description="Add directions of one model up to a new one, each with a weight: more of this, less of that. "
            "Those that differ from place to place, of features and of Caption to Direction, are applied one after the "
            "other instead.",
            search_aliases=[*SEARCH, "add directions", "mix directions", "subtract"],
            inputs=[
                DIRECTION.Input("first", tooltip="From Look Up Caption or Load Direction."),
                DIRECTION.Input("second", tooltip="One of the same model and site."),
                _weight_widget("first"),
                _weight_widget("second"),
                widget(io.String, "label", default="", tooltip="What it is called; empty joins the names."),
                DIRECTION.Input("third", optional=True, tooltip="A third one."),
                _weight_widget("third", optional=True),
                DIRECTION.Input("fourth", optional=True, tooltip="A fourth one."),
                _weight_widget("fourth", optional=True),
            ],
            outputs=[
                DIRECTION.Output("DIRECTION", display_name="direction", tooltip="For Apply or Save Direction."),
                io.String.Output("INFO", display_name="info", tooltip="What it is, and what it was made with."),
            ],
        )

    @classmethod
    def execute(cls, first: Direction, second: Direction, label: str, **others: Any) -> io.NodeOutput:
        """Add."""
        given = {"first": first, "second": second, **others}
        wired = [place for place in _PLACES if given.get(place) is not None]
        weights = [float(given.get(f"{place}_weight", 1.0)) for place in wired]
        direction = combine([given[place] for place in wired], weights, label.strip())
        return io.NodeOutput(direction, direction.describe())


NODES = [CombineDirections]
