"""Names for findings: a bank of captions, asked of the model itself where it was indexed, of CLIP where not.

Recording a bank takes as long as many pictures do, and pays where it is kept for many audits of one checkpoint. CLIP's
embeddings of the same captions cost nothing, but know a look only as far as CLIP does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .directions import CaptionIndex, CaptionLabeller
from .errors import HapaxError
from .labels import Labeller, PhraseLabeller


@dataclass(frozen=True, eq=False)
class Namer:
    """Names what was found under any prompt.

    Attributes:
        captions: the bank, M >= 2; without an index it is ranked by CLIP.
        index: of a bank at the site that was recorded; it is used in place of `captions`.
        seed: of the random pictures that CLIP's ranking is compared with.
        file: where the index lies, as far as that is known.
    """

    captions: tuple[str, ...]
    index: CaptionIndex | None = None
    seed: int = 0
    file: str | None = None

    def __post_init__(self) -> None:
        if self.index is None and len(self.captions) < 2:
            raise HapaxError(
                f"The bank has {len(self.captions)} captions to name features with; give at least 2, because each is "
                "told by its difference from the others."
            )

    @classmethod
    def of(cls, captions: Sequence[str], file: str | Path | None, fits: Mapping[str, Any], seed: int = 0) -> Namer:
        """A namer by a file's index, or by captions where there is no file.

        Raises HapaxError for a bank of fewer than 2 captions, and for a file that is none or doesn't fit.
        """
        index = None if file is None else CaptionIndex.load(file, fits)
        return cls(tuple(captions), index, seed, file and str(file))

    def labeller(self, prompt: str, embed: Callable[[Sequence[str]], Tensor]) -> Callable[[Tensor], Labeller]:
        """A function from the image embeddings [N, E] of a prompt's pictures to what names their features.

        Args:
            prompt: what was asked; "" where that isn't known. CLIP is asked for the captions behind it.
            embed: CLIP's embeddings [M, E] of texts.
        """
        if self.index is not None:
            named = CaptionLabeller(self.index)
            return lambda embeddings: named
        texts = embed([f"{prompt}, {caption}" if prompt else caption for caption in self.captions])
        return lambda embeddings: PhraseLabeller(self.captions, texts, embeddings, seed=self.seed)

    def row(self) -> dict[str, Any]:
        """How names are found, for audit.json."""
        if self.index is not None:
            return {"by": "index", "captions": len(self.index)} | ({"index": self.file} if self.file else {})
        return {"by": "clip", "captions": len(self.captions)}
