"""CaptionIndex: a bank of captions as directions at a site. Build it, look a direction up, take one out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..direction import Direction
from ..errors import HapaxError
from ..fits import check_fits
from ..statistics import permutation_p
from .assemble import assemble
from .bank import ADDED, check_captions
from .faiss_rows import FaissRows
from .files import read_index, write_index
from .parts import Parts, kept
from .pictures import picture_activations
from .recording import Recipe, check_seeds
from .search import Rows
from .texts import Texts

# A name is given where fewer than 1 in 100 directions without meaning lie as near to any caption.
ALPHA = 0.01
# A caption whose own direction is no more than noise names nothing.
RELIABLE = 0.05
# Shrinkage of an index for pictures: 98 % of the attributes named on the half of the emoji model that it was chosen on,
# against 82 % without whitening (there on latents that were not decoded, and without the test against chance).
PICTURES_WHITEN = 0.5


class Naming(NamedTuple):
    """What a direction is called.

    Attributes:
        names: (name, cosine), best first, each once; empty where there is no good name. A name is a caption, or what a
            caption adds to a shorter one of the bank behind its last comma.
        nearest: the same, good or not.
        p: how often directions without meaning come as near to some caption.
    """

    names: list[tuple[str, float]]
    nearest: list[tuple[str, float]]
    p: float


class CaptionIndex:
    """Directions of M captions at one site of one model, each relative to the bank's mean.

    Attributes:
        captions: the bank, a sequence of M texts.
        meta: JSON-able provenance: model (fingerprint), architecture, site, channels, recipe, seeds, neutral.
    """

    def __init__(self, captions: Texts, tensors: Mapping[str, Tensor], meta: dict[str, Any]) -> None:
        """Use `build` or `load`."""
        self.captions = captions
        self.meta = meta
        self._tensors = dict(tensors)
        self._all = Rows(tensors["rows"], tensors["lengths"], float(meta["reach"]))
        m = len(tensors["rows"]) - len(tensors["contrasts"])
        self._rows = Rows(tensors["rows"][:m], tensors["lengths"][:m], float(meta["reach"]))

    @classmethod
    def build(
        cls,
        backend: Any,
        captions: Sequence[str],
        *,
        seeds: Sequence[int] | int,
        steps: int = 4,
        neutral: str | None = "",
        site: str = "mid",
        guidance: float | None = None,
        at: Sequence[float] | None = None,
        batch_size: int = 8,
        size: Mapping[str, Any] | None = None,
        whiten: float | None = None,
        for_pictures: bool = False,
        folder: str | Path | None = None,
        progress: Callable[[str, int, int], object] | None = None,
    ) -> CaptionIndex:
        """Record a bank of captions and index their directions.

        Args:
            backend: has `sites`, `sample` and `identity` as `DiffusersBackend` has.
            captions: M >= 2 of them, each once.
            seeds: R >= 2 of them, or how many; all captions get the same noise.
            steps, guidance, batch_size, size: of the sampler; a few steps are enough, and `guidance=1` halves the
                cost of classifier-free guidance.
            neutral: a prompt to compare with beside the bank's mean, or None.
            site: where.
            at: progress of the calls that are averaged, in [0, 1]; None is all of the sampler's calls.
            whiten: compare directions after whitening by the bank's covariance, shrunk by this share (up to 1) towards
                the identity; 0 compares them as they are. None is what was best on the emoji model: .5 for pictures,
                else 0, though .5 also helps a bank without contrasts (80 % of attributes named against 71 %).
            for_pictures: record what the model sees in the pictures that captions make, under the neutral prompt, in
                place of what it does while it makes them, at twice the cost or more. That is what `describe` compares
                pictures with; directions and features are best looked up in an index without it.
            folder: where the recording is kept, to resume it or to share it out over processes; None is a
                temporary one.
            progress: called as progress("recording", captions done, M).

        Raises:
            HapaxError: a bank that is empty or has doubles, an unknown site, too few seeds, or a folder that
                holds something else.
        """
        captions = check_captions(captions)
        if whiten is None:
            whiten = PICTURES_WHITEN if for_pictures else 0.0
        if not 0 <= whiten <= 1:
            raise HapaxError(f"whiten is {whiten}; give a share from 0 to 1, or None.")
        extra = () if neutral is None or neutral in captions else (neutral,)
        reads = (neutral or "") if for_pictures else None
        wanted = Recipe(site, steps, guidance, None if at is None else tuple(at), batch_size, dict(size or {}), reads)
        recipe, made = wanted.planned(backend), backend.identity()
        with kept(folder) as place:
            parts = Parts(place, (*captions, *extra), check_seeds(seeds), recipe, made["model"])
            parts.record(backend, lambda done, of: progress and progress("recording", done, of))
            tensors, reach = assemble(parts, len(captions), whiten)
        meta = {
            **made,
            "site": str(recipe.site),
            "channels": len(tensors["mean"]),
            "recipe": vars(recipe),
            "seeds": parts.seeds,
            "neutral": neutral,
            "reach": reach,
        }
        return cls(Texts.of([*captions, *extra]), tensors, meta)

    def __len__(self) -> int:
        """How many captions are looked up."""
        return len(self._rows.data)

    @property
    def site(self) -> str:
        """The site that it was recorded at."""
        return self.meta["site"]

    @property
    def reliable(self) -> Tensor:
        """[M] whether a caption's direction is more than noise: permutation p of at most .05."""
        return self._tensors["p"] <= RELIABLE

    def evidence(self, caption: str) -> dict[str, float]:
        """Of one caption: `split_half` cosine, `agreement` between seeds, its permutation `p`, and `scale`."""
        row = self._row(caption)
        numbers = {name: float(self._tensors[name][row]) for name in ("split_half", "agreement", "p")}
        return numbers | {"scale": float(self._offset(row).norm())}

    def lookup(self, vector: Tensor | Direction, k: int = 5) -> list[tuple[str, float]]:
        """The k captions nearest to a direction: (caption, cosine), best first.

        Args:
            vector: [C] of any length, or a Direction, which must fit the index.
            k: how many.

        Raises:
            HapaxError: another number of channels, values that are not finite, no direction at all, or a
                Direction of another site or model.
        """
        if k < 1:
            raise HapaxError(f"k is {k}; ask for at least 1 caption.")
        cosines, rows = self._rows.top(self._query(vector), k)
        return [(self.captions[row], cosine) for row, cosine in zip(rows.tolist(), cosines.tolist(), strict=True)]

    def name(self, vector: Tensor | Direction, k: int = 3, *, alpha: float = ALPHA) -> Naming:
        """Name a direction, or say that there is no good name.

        Beside the bank's captions their contrasts are looked up: where "a cook" is in the bank, "a cook, line sketch"
        also stands for what it adds, under the name "line sketch". Some name is always nearest; so the best cosine is
        compared with the best cosines of isotropic random directions. Captions whose own direction is noise are no
        names.
        """
        if k < 1:
            raise HapaxError(f"k is {k}; ask for at least 1 name.")
        query, wanted = self._query(vector), 8 * k
        while True:
            cosines, rows = self._all.top(query, wanted)
            nearest, good = self._distinct(cosines.tolist(), rows.tolist())
            if len(nearest) >= k or wanted >= len(self._all.data):
                break
            wanted *= 4
        nearest, chance = nearest[:k], [permutation_p(cosine, self._tensors["null"]) for _, cosine in nearest[:k]]
        names = [each for each, fine, p in zip(nearest, good, chance, strict=False) if fine and p <= alpha]
        return Naming(names, nearest, chance[0])

    def _distinct(self, cosines: list[float], rows: list[int]) -> tuple[list[tuple[str, float]], list[bool]]:
        """Names of rows of the bank and its contrasts, each once, and whether their captions are reliable."""
        found: dict[str, tuple[float, bool]] = {}
        for cosine, row in zip(cosines, rows, strict=True):
            caption = row if row < len(self) else int(self._tensors["contrasts"][row - len(self)])
            text = self.captions[caption]
            name = text if row < len(self) else text.rpartition(ADDED)[2]
            found.setdefault(name, (cosine, bool(self._tensors["p"][caption] <= RELIABLE)))
        return [(name, cosine) for name, (cosine, _) in found.items()], [fine for _, fine in found.values()]

    def direction(self, caption: str, versus: str | None = None, *, profiled: bool = False) -> Direction:
        """The direction of a caption of the bank.

        Args:
            caption: as it is written in the bank (or the neutral prompt).
            versus: the caption that it is relative to; None is the mean of the bank.
            profiled: give it the profile over progress that was recorded; only relative to the bank's mean.

        Raises:
            HapaxError: no such caption, or a profile where none was recorded.
        """
        row = self.captions.index(caption)
        if profiled and (versus is not None or row >= len(self)):
            raise HapaxError(
                "A profile was recorded of the bank's captions relative to its mean only; leave out what the direction "
                "is compared with, or the profile."
            )
        offset, label = self._offset(row), caption
        if versus is not None:
            offset, label = offset - self._offset(self.captions.index(versus)), f"{caption} - {versus}"
        if not float(offset.norm()) > 0:
            raise HapaxError(f"{caption!r} and {versus!r} have the same activations; compare two captions that differ.")
        evidence = {key: self.evidence(caption)[key] for key in ("split_half", "p") if row < len(self)}
        kept = {key: self.meta[key] for key in ("model", "architecture", "versions", "recipe") if key in self.meta}
        meta = {**kept, **evidence, "label": label, "source": "caption", "seeds": len(self.meta["seeds"])}
        profile = None
        if profiled:
            places = self.meta["recipe"]["progress"]
            profile = list(zip(places, self._tensors["profile"][row].tolist(), strict=True))
        return Direction(offset, self.site, float(offset.norm()), meta, profile)

    def describe(
        self, what: Any, against: Any = None, k: int = 3, *, backend: Any = None, seeds: Sequence[int] | int = 4
    ) -> Naming:
        """Name what sets pictures apart, or their activations.

        Args:
            what: pictures, or pooled activations [..., C] at the index's site and progress, of one picture or many;
                their mean is named.
            against: the same of what they are compared with. None is what pictures of the neutral prompt have, for
                pictures, and the mean of the bank, for activations.
            k: how many names.
            backend, seeds: for pictures: the model that the index was built for, and the noise that they are read at.

        Raises:
            HapaxError: as `lookup` and `picture_activations` do.
        """
        target = self._activations(what, backend, seeds)
        if against is not None:
            base = self._activations(against, backend, seeds)
        else:
            base = self._tensors["mean"].double()
            if not isinstance(what, Tensor) and self.meta["neutral"] is not None:
                base = base + self._offset(self.captions.index(self.meta["neutral"])).double()
        return self.name(target - base, k)

    def through_faiss(self, factory: str = "HNSW32", parameters: str = "efSearch=256") -> CaptionIndex:
        """The same index with its look-ups through FAISS, an approximate search in memory.

        `lookup` and `name` answer as before, with exact cosines, but may miss a caption now and then. The exact search
        reads all rows; this pays for millions of captions that are looked up again and again.

        Args:
            factory, parameters: of FAISS: "HNSW32" is fast and takes 4 bytes a value, "IVF4096,SQ8" with "nprobe=64"
                takes 1.

        Raises:
            HapaxError: faiss-cpu is not installed, or can't make such an index.
        """
        made = CaptionIndex(self.captions, self._tensors, self.meta)
        made._all = FaissRows.of(self._all, factory, parameters)
        whole = len(self._rows.data) == len(self._all.data)
        made._rows = made._all if whole else FaissRows.of(self._rows, factory, parameters)
        return made

    def check_fits(self, found: Mapping[str, Any]) -> None:
        """Raise HapaxError unless what is found (see `fits.check_fits`) is what the index was built for."""
        check_fits("The index was built", self.meta, found, "use what it was built with, or build it anew")

    def offsets(self) -> Tensor:
        """All captions' directions, as stored: [M, C] bfloat16, relative to the bank's mean."""
        return self._rows.data

    def save(self, path: str | Path) -> None:
        """Write it to one safetensors file, whole or not at all."""
        write_index(path, self._tensors, self.captions, self.meta)

    @classmethod
    def load(cls, path: str | Path, expect: Mapping[str, Any] | None = None) -> CaptionIndex:
        """Open an index that `save` wrote; its tensors are mapped, so memory is used for what a look-up reads.

        Args:
            path: the file.
            expect: what it has to fit, as in `check_fits`.

        Raises HapaxError if the file is missing, damaged, of another kind or a newer version, or doesn't fit.
        """
        index = cls(*read_index(path))
        index.check_fits(expect or {})
        return index

    def _row(self, caption: str) -> int:
        """The row of a caption of the bank."""
        row = self.captions.index(caption)
        if row >= len(self):
            raise HapaxError(f"{caption!r} is the neutral prompt, not a caption of the bank; give one of these.")
        return row

    def _offset(self, row: int) -> Tensor:
        """Offset of a caption, or of the neutral prompt, which is stored behind the bank."""
        return (self._tensors["rows"][row] if row < len(self) else self._tensors["neutral"]).float()

    def _activations(self, what: Any, backend: Any, seeds: Sequence[int] | int) -> Tensor:
        """The mean activations [C] fp64 of pictures, or of activations."""
        if not isinstance(what, Tensor):
            if backend is None:
                raise HapaxError("Pictures can be described only with the model at hand; give its backend.")
            self.check_fits(backend.identity())
            listed = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
            pictures = list(what) if isinstance(what, Sequence) else [what]
            recipe, prompt = self.meta["recipe"], self.meta["neutral"] or ""
            what = picture_activations(
                backend, pictures, seeds=listed, progress=recipe["progress"], site=self.site, prompt=prompt
            )
        return what.detach().double().cpu().reshape(-1, what.shape[-1]).mean(0)

    def _query(self, vector: Tensor | Direction) -> Tensor:
        """The query whose product with a row, over the row's length, is their cosine."""
        if isinstance(vector, Direction):
            self.check_fits(vector.made_for)
            vector = vector.vector
        v = torch.as_tensor(vector).detach().cpu().double()
        if v.shape != (self.meta["channels"],):
            raise HapaxError(
                f"The vector has shape {tuple(v.shape)}, but the index holds directions of {self.meta['channels']} "
                "channels; give a vector of the site that it was built at."
            )
        if not bool(torch.isfinite(v).all()) or not bool(v.any()):
            raise HapaxError("The vector holds NaN or infinity, or is all zero; give one that points somewhere.")
        metric = self._tensors.get("metric")
        if metric is None:
            return v / v.norm()
        shaped = metric.double() @ v
        return shaped / (v @ shaped).sqrt()
