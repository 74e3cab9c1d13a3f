"""The bias compass: where the pictures of an unqualified prompt lie between poles, and how sure that is.

Our own reading of the idea of SCALEX (arXiv 2511.13750), whose formula could not be read. A prompt's pictures are a
mixture of kinds, so whatever is measured of each picture alone has a mean that is the mixture of the kinds' means. Here
the denoiser looks at the finished latent again, with noise on it, under the unqualified prompt, and what is measured is
the pole that the activation at a site looks most like. The poles' latents are looked at under that same prompt, and
judged by discriminants that were fitted to other seeds: so these err on the poles as they do on the prompt.

While pictures are made, activations also hold the words of their own caption, and the mean under the prompt is no
mixture of those under the poles: on the emoji model, firefighters were read as 27 % women, of whom there are 3 %. And
means of activations hardly tell kinds apart that lie on one line, such as skin tones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import HapaxError
from ..sites import select_site
from ..statistics import bootstrap_weights, permutation_p, recentred_interval
from .evidence import agreement, sign_flip_null
from .mixture import counting_error, mixture_shares, paired_gram, pole_likeness
from .parts import Parts, kept
from .recording import LatentRecipe, check_seeds

REPLICATES = 1000
# Mixtures are fitted by trying every subset of the poles.
MOST_POLES = 8


class Lean(NamedTuple):
    """Where a prompt lies between two poles.

    Attributes:
        first, second: the poles, as given.
        value: 1 where its pictures are all of the first kind, -1 all of the second, 0 half and half; a little beyond
            is possible. NaN where the poles are not told apart at all.
        low, high: 95 % bootstrap interval over seeds.
        p: how often seeds that tell the poles apart by chance alone agree as much; above .05 the lean says nothing.
    """

    first: str
    second: str
    value: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        """The value with its interval."""
        if math.isnan(self.value):
            return "not told apart"
        return f"{self.value:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


@dataclass(frozen=True)
class Reading:
    """What the compass says of one prompt.

    Attributes:
        prompt: the unqualified prompt.
        shares: pole -> (share, low, high): the mixture of the poles that comes nearest, shares from 0 to 1.
        leans: of every pair of poles, in order.
        seeds: how many pictures a caption.
    """

    prompt: str
    shares: dict[str, tuple[float, float, float]]
    leans: list[Lean]
    seeds: int

    @property
    def lean(self) -> Lean:
        """Between the first two poles."""
        return self.leans[0]

    def row(self) -> dict[str, Any]:
        """As JSON-able values; a lean that can't be read is null."""
        shares = [
            {"pole": pole, "share": share, "low": low, "high": high} for pole, (share, low, high) in self.shares.items()
        ]
        leans = [
            {key: None if value != value else value for key, value in lean._asdict().items()} for lean in self.leans
        ]
        return {"prompt": self.prompt, "shares": shares, "leans": leans, "seeds": self.seeds}


def compare(
    backend: Any,
    prompts: str | Sequence[str],
    poles: Sequence[str],
    *,
    seeds: Sequence[int] | int,
    steps: int = 4,
    site: str = "mid",
    guidance: float | None = None,
    at: Sequence[float] = (0.85,),
    batch_size: int = 8,
    size: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> list[Reading]:
    """Read where prompts lie between poles.

    Args:
        backend, steps, site, guidance, batch_size, size: as in `CaptionIndex.build`.
        folder: holds a folder for each prompt's recording, by which it resumes; None keeps nothing.
        prompts: unqualified ones, such as "a photo of a doctor".
        poles: 2 to 8 captions; `{}` stands for the prompt: "{}, woman" is far more exact than "a woman".
        seeds: R >= 4 of them, or how many. The prompt's share of a rare kind needs many.
        at: points of the way, in [0, 1], whose noise is put on the latents; activations at all of them are averaged.
        progress: called as progress("recording", captions done, of so many).

    Returns:
        One reading a prompt.

    Raises:
        HapaxError: fewer than 2 poles or more than 8, doubles, an empty text, or too few seeds.
    """
    prompts = _checked("prompts", [prompts] if isinstance(prompts, str) else prompts, 1)
    poles, listed = check_poles(poles), check_seeds(seeds)
    if len(listed) < 4:
        raise HapaxError(f"There are {len(listed)} seeds; give at least 4.")
    site = str(select_site(backend.sites, site))
    recipe = LatentRecipe(site, steps, guidance, tuple(sorted(at)), batch_size, dict(size or {}))
    readings = []
    with kept(folder) as place:
        for number, prompt in enumerate(prompts):

            def report(done: int, of: int, number: int = number) -> None:
                if progress is not None:
                    progress("recording", number * of + done, len(prompts) * of)

            texts = [prompt, *(pole.replace("{}", prompt) for pole in poles)]
            x = _seen(backend, place / _folder_of(prompt), texts, listed, replace(recipe, reads=prompt), report)
            readings.append(read_mixture(prompt, poles, x))
    return readings


def _seen(
    backend: Any, folder: Path, texts: list[str], seeds: list[int], recipe: LatentRecipe, report: Callable
) -> Tensor:
    """What a site shows of each text's latents: [texts, R, C], averaged over the recipe's points of the way."""
    captions = tuple(dict.fromkeys(texts))
    parts = Parts(folder, captions, seeds, recipe, backend.identity()["model"])
    parts.record(backend, report)
    means = {captions[row]: part.by_seed[i] for span, part in parts for i, row in enumerate(span)}
    return torch.stack([means[text] for text in texts])


def _folder_of(prompt: str) -> str:
    return sha256(prompt.encode()).hexdigest()[:16]


def read_mixture(prompt: str, poles: Sequence[str], x: Tensor, *, replicates: int = REPLICATES) -> Reading:
    """Read one prompt.

    Args:
        prompt: for the reading.
        poles: K names.
        x: [K + 1, R, C] activations at R paired seeds, the prompt's first.
        replicates: of the bootstrap over seeds.
    """
    r = x.shape[1]
    weights = torch.cat([torch.ones(1, r, dtype=torch.float64), bootstrap_weights(r, replicates, seed=0)])
    gram = paired_gram(pole_likeness(x), weights)
    shares, low, high = _with_interval(mixture_shares(gram[:, 1:, 1:], gram[:, 1:, 0]))
    smooth, error = counting_error(shares, r)
    low, high = torch.minimum(low, smooth - error), torch.maximum(high, smooth + error)
    spread = zip(shares.tolist(), low.clamp(0, 1).tolist(), high.clamp(0, 1).tolist(), strict=True)
    leans = [_lean(x, gram, poles, shares, i, j) for i, j in combinations(range(len(poles)), 2)]
    return Reading(prompt, dict(zip(poles, spread, strict=True)), leans, r)


def _lean(x: Tensor, gram: Tensor, poles: Sequence[str], shares: Tensor, i: int, j: int) -> Lean:
    first, second = i + 1, j + 1
    axis = gram[:, first, first] - 2 * gram[:, first, second] + gram[:, second, second]
    along = gram[:, 0, first] - gram[:, 0, second] - gram[:, second, first] + gram[:, second, second]
    values = torch.where(axis > 0, 2 * along / axis - 1, torch.nan)
    value, low, high = (float(each) for each in _with_interval(values[:, None]))
    smooth, error = (float(each) for each in counting_error(shares, x.shape[1], [(i, j)]))
    low, high = min(low, smooth - error), max(high, smooth + error)
    apart = x[first].double() - x[second].double()
    p = permutation_p(float(agreement(apart)), sign_flip_null(apart))
    return Lean(poles[i], poles[j], value, low, high, p)


def _with_interval(draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Point estimates [K], which are the first of draws [1 + B, K], and their intervals."""
    return draws[0], *recentred_interval(draws[0], draws[1:].T)


def pole_name(pole: str) -> str:
    """A pole as it is shown: what it adds to the prompt.

    >>> pole_name("{}, woman"), pole_name("a woman {}")
    ('woman', 'a woman ...')
    """
    return pole.removeprefix("{}, ").replace("{}", "...").strip()


def check_poles(poles: Sequence[str]) -> list[str]:
    """Return the poles of a compass, or raise HapaxError: fewer than 2 or more than 8, an empty one, or doubles."""
    poles = _checked("poles", poles, 2)
    if len(poles) > MOST_POLES:
        raise HapaxError(f"There are {len(poles)} poles; give at most {MOST_POLES}.")
    return poles


def compass_rows(readings: Sequence[Reading], poles: Sequence[str], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What audit.json keeps of the readings of its prompts, in their order.

    Args:
        recipe: `steps` and `site` that they were recorded with.
    """
    rows = [reading.row() for reading in readings]
    prompts = [{"index": i, "shares": row["shares"], "leans": row["leans"]} for i, row in enumerate(rows)]
    how = {"seeds": readings[0].seeds, "steps": recipe["steps"], "site": recipe["site"]}
    return {"poles": list(poles), **how, "prompts": prompts}


def _checked(what: str, texts: Sequence[str], least: int) -> list[str]:
    if isinstance(texts, str):
        raise HapaxError(f"The {what} are one text, {texts!r}; give a list of texts.")
    texts = [str(text) for text in texts]
    if len(texts) < least or len(set(texts)) != len(texts) or not all(text.strip() for text in texts):
        raise HapaxError(f"The {what} are {texts}; give at least {least}, none empty and each once.")
    return texts
