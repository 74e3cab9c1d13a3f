"""Fit Prompt Map: what prompts say about embeddings, learned from many pictures or texts."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import HapaxError
from ..core.sce import MAP_RIDGE, PromptMap, fit_prompt_map
from .embeddings import Embeddings, embed_texts
from .schema import EMBEDDINGS, io, schema, widget
from .scoring import Scorer

PROMPT_MAP = io.Custom("HAPAX_PROMPT_MAP")
SEARCH = ["hapax", "embedding", "remove prompt", "remove subject", "concept erasure", "debias"]


@dataclass(frozen=True, eq=False)
class FittedMap:
    """A prompt map, the model whose embeddings it fits, and what they are of: PICTURES or TEXTS."""

    map: PromptMap
    scorer: Scorer
    kind: str


class FitPromptMap(io.ComfyNode):
    """Fit Prompt Map."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "FitPromptMap",
            "Fit Prompt Map",
            "diversity",
            description="Learn what prompts say about embeddings, so that it can be removed from them or kept. Give it "
            "embeddings of many pictures of several prompts.",
            search_aliases=[*SEARCH, "regression"],
            inputs=[
                EMBEDDINGS.Input(
                    "embeddings",
                    tooltip="From Embed Images or Embed Texts, with prompts: at least two, with several pictures each.",
                ),
                widget(
                    io.Float,
                    "ridge",
                    default=MAP_RIDGE,
                    min=1e-9,
                    max=1.0,
                    step=1e-6,
                    round=False,
                    advanced=True,
                    tooltip="Raise it to 0.001 or so where nearly all prompts differ, or the map learns noise.",
                ),
            ],
            outputs=[
                PROMPT_MAP.Output(
                    "PROMPT_MAP", display_name="prompt_map", tooltip="For Remove Prompt and Keep Prompt."
                ),
                io.String.Output(
                    "INFO", display_name="info", tooltip="What it was fitted on, and how much it explains."
                ),
            ],
        )

    @classmethod
    def execute(cls, embeddings: Embeddings, ridge: float) -> io.NodeOutput:
        """Fit."""
        if not embeddings.prompts:
            raise HapaxError(
                f"The {embeddings.kind} came without prompts; write them into the node that embedded them."
            )
        scorer = embeddings.scorer
        texts = embed_texts(embeddings.prompts, scorer)
        meta = {"clip": {"name": scorer.name, "fingerprint": scorer.fingerprint}, "kind": embeddings.kind}
        made = fit_prompt_map(embeddings.vectors, texts, ridge=ridge, meta=meta)
        rest = made.remove(embeddings.vectors, texts).double().square().sum() / embeddings.vectors.square().sum()
        info = (
            f"{made.n:,} {embeddings.kind} of {made.unique_texts} prompts by {scorer.name}: "
            f"the prompts explain {100 * (1 - float(rest)):.1f} % of them"
        )
        return io.NodeOutput(FittedMap(made, scorer, embeddings.kind), info)


NODES = [FitPromptMap]
