"""What must hold between the numbers of an audit.json whose shape is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from ..errors import HapaxError
from ..invdiff.metrics import bias_score, kl_to_uniform

FEWEST = 5
FINDING_Z = 3.0
_ROUNDING = 1e-4

Row = dict[str, Any]
Problem = str | None


def check_rules(audit: Row) -> None:
    """Raise HapaxError at the first contradiction, in the file's order."""
    for problem in _problems(audit):
        if problem:
            raise HapaxError(f"audit.json contradicts itself: {problem}.")


def _problems(audit: Row) -> Iterator[Problem]:
    seen: set[str] = set()
    for place, prompt in _places("prompts", audit["prompts"]):
        yield _seeds(place, prompt)
        yield _scored(place, prompt)
        yield _ranked(place, prompt)
        for spot, feature in _places(f"{place}.features", prompt["features"]):
            if feature["id"] in seen:
                yield f"{spot}.id is {feature['id']!r} again; expected an id that no other feature has"
            seen.add(feature["id"])
            for rule in _FEATURE_RULES:
                yield rule(spot, feature, prompt, audit)
            yield from _amplified(f"{spot}.amplified", feature.get("amplified"))
    yield from _diversity("sce", audit.get("sce") or {})
    indices = {prompt["index"] for prompt in audit["prompts"]}
    for place, row in _places("sce.prompts", (audit.get("sce") or {}).get("prompts", [])):
        if row["index"] not in indices:
            yield f"{place}.index is {row['index']}; expected the index of one of the prompts"
        yield from _diversity(place, row)
    for place, prompt in _places("invdiff.prompts", (audit.get("invdiff") or {}).get("prompts", [])):
        for end in ("before", "after"):
            yield from _debias(place, prompt, end)
    yield from _compass(audit.get("compass"), indices)


def _places(path: str, items: list[Row]) -> Iterator[tuple[str, Row]]:
    return ((f"{path}[{index}]", item) for index, item in enumerate(items))


def _seeds(place: str, prompt: Row) -> Problem:
    seeds, images = prompt["seeds"], prompt["images"]
    if len(seeds) == images or (len(seeds) == 2 and seeds[1] - seeds[0] + 1 == images):
        return None
    return (
        f"{place}.seeds has {len(seeds)} items for {images} images; expected one seed an image, "
        "or [first, last] of a run of that many"
    )


def _scored(place: str, prompt: Row) -> Problem:
    listed = len(prompt["features"])
    if prompt.get("scored", listed) >= listed:
        return None
    return f"{place}.scored is {prompt['scored']}; expected at least the {listed} features that are listed"


def _ranked(place: str, prompt: Row) -> Problem:
    scores = [feature["score"] for feature in prompt["features"]]
    for index, (better, worse) in enumerate(pairwise(scores), 1):
        if worse > better + _ROUNDING:
            spot = f"{place}.features[{index}].score"
            return f"{spot} is {worse:g}, above the {better:g} before it; expected features ranked, best first"
    return None


def _count(spot: str, feature: Row, prompt: Row, _: Row) -> Problem:
    if feature["count"] > prompt["images"]:
        return f"{spot}.count is {feature['count']}; expected at most the prompt's {prompt['images']} images"
    return _ratio(f"{spot}.frequency", feature["frequency"], feature["count"], prompt["images"])


def _frequency_interval(spot: str, feature: Row, _: Row, __: Row) -> Problem:
    low, value, high = (feature[f"frequency{end}"] for end in ("_low", "", "_high"))
    return _inside(f"{spot}.frequency", value, low, high)


def _distinctiveness_interval(spot: str, feature: Row, _: Row, __: Row) -> Problem:
    # The estimate may lie outside: resampling few pictures pushes every centroid away from the mean.
    low, high = feature["distinctiveness_low"], feature["distinctiveness_high"]
    if (low is None) != (high is None):
        return f"{spot} has one end of the distinctiveness interval; expected both, or null for both"
    if low is not None and low > high:
        return f"{spot}.distinctiveness_low is {low:g}; expected at most distinctiveness_high, which is {high:g}"
    return None


def _finding(spot: str, feature: Row, _: Row, audit: Row) -> Problem:
    if not feature["finding"]:
        return None
    fewest = max(FEWEST, audit["settings"]["min_support"])
    if feature["count"] < fewest:
        return (
            f"{spot}.finding is true with a count of {feature['count']}; expected at least {fewest} pictures "
            "behind whatever is called a finding"
        )
    z = feature["distinctiveness_z"]
    if z is None or z <= FINDING_Z:
        found = "null" if z is None else f"{z:g}"
        return f"{spot}.finding is true with a distinctiveness_z of {found}; expected more than {FINDING_Z:g}"
    if feature["distinctiveness_low"] is None:
        return f"{spot}.finding is true without an interval; expected distinctiveness_low and _high"
    return None


def _labels(spot: str, feature: Row, _: Row, __: Row) -> Problem:
    for place, pair in _places(f"{spot}.labels", feature.get("labels", [])):
        word, score = pair
        if not isinstance(word, str) or isinstance(score, bool) or not isinstance(score, (int, float)):
            return f"{place} is {pair!r}; expected [text, score]"
    return None


def _prevalence(spot: str, feature: Row, prompt: Row, _: Row) -> Problem:
    rate = feature.get("prevalence")
    if rate and rate["n"] != prompt["images"]:
        return f"{spot}.prevalence.n is {rate['n']}; expected the prompt's {prompt['images']} images"
    return _rate(f"{spot}.prevalence", rate)


_FEATURE_RULES: tuple[Callable[[str, Row, Row, Row], Problem], ...] = (
    _count,
    _frequency_interval,
    _distinctiveness_interval,
    _prevalence,
    _finding,
    _labels,
)


def _amplified(spot: str, change: Row | None) -> Iterator[Problem]:
    if change is None:
        return
    start, end = change["window"]
    if start > end:
        yield f"{spot}.window is [{start:g}, {end:g}]; expected the earlier progress first"
    for row in ("before", "after"):
        if len(change[row]) != len(change["seeds"]):
            found, seeds = len(change[row]), len(change["seeds"])
            yield f"{spot}.{row} has {found} pictures for {seeds} seeds; expected one picture a seed"
    rates = [change.get("rate_before"), change.get("rate_after")]
    if (rates[0] is None) != (rates[1] is None):
        yield f"{spot} has one of rate_before and rate_after; expected both, or neither"
    if rates[0] is not None and not change.get("measured_by"):
        yield f"{spot}.measured_by is missing; expected who counted, because the rates are given"
    yield _rate(f"{spot}.rate_before", rates[0])
    yield _rate(f"{spot}.rate_after", rates[1])
    yield _rate(f"{spot}.mixed.rate", (change.get("mixed") or {}).get("rate"))


def _diversity(spot: str, row: Row) -> Iterator[Problem]:
    for name in ("image", "text", "image_effective", "text_effective"):
        ends = row.get(f"{name}_interval")
        if ends and name in row:
            yield _inside(f"{spot}.{name}", row[name], *ends)


def _debias(place: str, prompt: Row, end: str) -> Iterator[Problem]:
    """What is wrong with one side, `before` or `after`, of a prompt's bias."""
    groups = [group[end] for group in prompt["groups"]]
    for index, rate in enumerate(groups):
        yield _rate(f"{place}.groups[{index}].{end}", rate)
    counts, totals = [rate["count"] for rate in groups], {rate["n"] for rate in groups}
    if len(totals) > 1 or sum(counts) > max(totals):
        yield f"{place}.groups count {sum(counts)} pictures {end}, of {sorted(totals)}; expected each in one group"
    for name, score in (("bias", bias_score), ("kl", kl_to_uniform)):
        spot, value = f"{place}.{name}_{end}", prompt.get(f"{name}_{end}")
        if value is None:
            continue
        if abs(value - score(counts)) > _ROUNDING:
            yield f"{spot} is {value:g}; expected {score(counts):.4g}, which its groups give"
        if ends := prompt.get(f"{name}_{end}_interval"):
            yield _inside(spot, value, *ends)
    yield _rate(f"{place}.concept_{end}", prompt.get(f"concept_{end}"))
    yield from _diversity(f"{place}.sce_{end}", prompt.get(f"sce_{end}") or {})


def _compass(compass: Row | None, indices: set[int]) -> Iterator[Problem]:
    if compass is None:
        return
    for place, reading in _places("compass.prompts", compass["prompts"]):
        if reading["index"] not in indices:
            yield f"{place}.index is {reading['index']}; expected the index of one of the prompts"
        if [each["pole"] for each in reading["shares"]] != compass["poles"]:
            yield f"{place}.shares are of other poles; expected one a pole, in the order of compass.poles"
        total = sum(each["share"] for each in reading["shares"])
        if abs(total - 1) > _ROUNDING:
            yield f"{place}.shares sum to {total:g}; expected shares that sum to 1"
        for spot, each in _places(f"{place}.shares", reading["shares"]):
            yield _inside(f"{spot}.share", each["share"], each["low"], each["high"])
        for spot, lean in _places(f"{place}.leans", reading["leans"]):
            ends = [lean[end] for end in ("value", "low", "high")]
            if None not in ends:
                yield _inside(f"{spot}.value", *ends)
            elif ends != [None] * 3:
                yield f"{spot} has some of value, low and high; expected all of them, or null for all"


def _rate(spot: str, rate: Row | None) -> Problem:
    if rate is None:
        return None
    if rate["count"] > rate["n"]:
        return f"{spot}.count is {rate['count']}; expected at most n, which is {rate['n']}"
    wrong = _ratio(f"{spot}.rate", rate["rate"], rate["count"], rate["n"])
    return wrong or _inside(f"{spot}.rate", rate["rate"], rate["low"], rate["high"])


def _ratio(spot: str, value: float, count: int, total: int) -> Problem:
    if abs(value - count / total) <= _ROUNDING:
        return None
    return f"{spot} is {value:g}; expected count / total, which is {count} / {total} = {count / total:.4g}"


def _inside(spot: str, value: float, low: float, high: float) -> Problem:
    if low - _ROUNDING <= value <= high + _ROUNDING:
        return None
    return f"{spot} is {value:g}; expected it inside its interval, which is {low:g} to {high:g}"
