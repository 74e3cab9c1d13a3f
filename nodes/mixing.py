"""Mix Prompts: one CONDITIONING in which each row of a batch has its own prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.errors import HapaxError
from ..core.prompt_mixing import chosen_rows
from .schema import io, schema, widget
from .steering import SEARCH
from .widgets import seed_widget

_POOLED = "pooled_output"
# ComfyUI pads a prompt of 77 tokens to another's 154 by repeating it, up to this often.
_REPEATS = 4


def mixed(usual: list, naming: list, rows: Sequence[bool]) -> list:
    """Give each row of a batch one of two CONDITIONINGs: `naming` where `rows` says so.

    ComfyUI hands row i of a conditioning's tensors to row i of the latent's batch. Where all rows get the same, it is
    passed on as it is.

    Raises:
        HapaxError: different ones are needed in a batch, but one of the two is a combination of several prompts,
            they differ in anything but the prompt, or in size.
    """
    if len(set(rows)) == 1:
        return naming if rows[0] else usual
    (text, options), (other, others) = (_single(each) for each in (usual, naming))
    if not _alike(options, others):
        raise HapaxError(
            "The two prompts differ in areas, masks, ControlNets or the like; put these behind Mix Prompts, or use "
            "batch_size 1."
        )
    pair = _evened(text, other)
    out = {**options}
    if options.get(_POOLED) is not None:
        out[_POOLED] = _rows(options[_POOLED], others[_POOLED], rows)
    return [[_rows(*pair, rows), out]]


def _single(conditioning: list) -> tuple[Tensor, dict[str, Any]]:
    if len(conditioning) != 1:
        raise HapaxError(
            f"One of the prompts is a combination of {len(conditioning)}; mix single prompts, or use batch_size 1."
        )
    return conditioning[0][0], conditioning[0][1]


def _alike(a: dict[str, Any], b: dict[str, Any]) -> bool:
    def same(x: Any, y: Any) -> bool:
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return x.shape == y.shape and torch.equal(x, y)
        return x is y or (type(x) is type(y) and not isinstance(x, Tensor) and x == y)

    shared = (a.get(_POOLED) is None) == (b.get(_POOLED) is None)
    return shared and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if key != _POOLED)


def _evened(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both with as many tokens, by repeating them, which changes nothing in cross-attention."""
    length = math.lcm(a.shape[1], b.shape[1])
    if a.shape[2] != b.shape[2] or length > _REPEATS * min(a.shape[1], b.shape[1]):
        raise HapaxError(
            f"The prompts have the shapes {tuple(a.shape[1:])} and {tuple(b.shape[1:])}; encode both with the same "
            "CLIP and about the same number of words."
        )
    return a.repeat(1, length // a.shape[1], 1), b.repeat(1, length // b.shape[1], 1)


def _rows(usual: Tensor, naming: Tensor, rows: Sequence[bool]) -> Tensor:
    return torch.cat([(naming if chosen else usual)[:1] for chosen in rows])


class MixPrompts(io.ComfyNode):
    """Mix Prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "MixPrompts",
            "Mix Prompts",
            "steering",
            description="Make a share of the pictures from a prompt that names the rare attribute, and the others from "
            "the usual one. This is how the RAIGen paper amplifies what is rare. Each picture of a batch gets one or "
            "the other; with a batch size of 1, let the seed count up with each run.",
            search_aliases=[*SEARCH, "prompt mixing", "fair prompts", "random prompt"],
            inputs=[
                io.Conditioning.Input("usual", tooltip="The bare prompt, as in: a photo of a firefighter."),
                io.Conditioning.Input(
                    "naming", tooltip="The prompt that names the attribute, as in: a photo of a woman firefighter."
                ),
                widget(
                    io.Float,
                    "share",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the pictures that are made from the naming prompt.",
                ),
                seed_widget(
                    "Decides which: consecutive seeds take turns, so that the share is exact. Set it to increment, "
                    "like the sampler's.",
                    control=True,
                ),
                widget(
                    io.Int,
                    "batch_size",
                    default=1,
                    min=1,
                    max=4096,
                    tooltip="Pictures in the latent's batch. Picture i of it counts as seed + i.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("CONDITIONING", display_name="positive", tooltip="For the sampler's positive."),
                io.String.Output("CHOICE", display_name="choice", tooltip="Which pictures the naming prompt makes."),
            ],
        )

    @classmethod
    def execute(cls, usual: list, naming: list, share: float, seed: int, batch_size: int) -> io.NodeOutput:
        """Choose for each picture."""
        rows = chosen_rows(share, seed, batch_size)
        said = ", ".join(f"{i + 1} {'naming' if chosen else 'usual'}" for i, chosen in enumerate(rows))
        return io.NodeOutput(mixed(usual, naming, rows), said)


NODES = [MixPrompts]
