"""Recall, precision and honest rates of the features that an audit lists, against truth and against other methods.

    python benchmarks/findings.py --cache DIR [--model DIR] [--concepts choose|report|NAME ...] [--images 1000]
        [--arms hapax ...] [--shared] [--repeats R] [--json FILE] [--trust]

Per concept of the emoji world: 1,000 bare pictures, an autoencoder, and what each arm lists. Targets are the
attributes that the judge sees in at least 16 and at most 100 of them. A listed feature finds an attribute when at
least 8 of its 10 exemplars have it and it is no commoner than 15 %; all other arms list as many features as Hapax.
`--shared` adds one autoencoder for all the concepts; `--repeats` audits R times as many pictures in R parts and
counts how often intervals hold the rate over all of them. `--trust` writes the figures that reports quote.
About 2 CPU minutes a concept with its pictures, 40 s with pictures cached, a few seconds with autoencoders cached.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emoji_eval import Collection, Lab, Truth, concepts_of, lab_options
from finding_arms import ARMS, LISTED, Case, Listed, Pictures, train
from hapax.core.durable import write_file
from hapax.core.findings import SAESize
from hapax.core.statistics import wilson_interval

SIZE = SAESize(latents=1280, coarse=256, k=12, epochs=6)
STEPS = (1, 3, 5, 7, 9)
SHARED, PLAIN = "shared autoencoder", "plain autoencoder"
TRUST = Path(__file__).parents[1] / "core" / "report" / "trust.json"


@dataclass
class Score:
    """Sums over concepts for one arm."""

    targets: int = 0
    recalled: int = 0
    listed: int = 0
    good: int = 0
    within: int = 0
    covered: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, concept: str, truth: Truth, listed: list[Listed], rates: dict[str, float] | None = None) -> None:
        """Count one list; `rates` are the true ones for intervals, by default those of the same pictures."""
        hits = [truth.found(entry.exemplars) for entry in listed]
        found = {hit for hit in hits if hit}
        self.targets += len(truth.targets)
        self.recalled += len(found & set(truth.targets))
        self.listed += len(listed)
        for entry, hit in zip(listed, hits, strict=True):
            true = (rates or truth.rates)[hit] if hit else None
            if true is not None:
                self.good += 1
                self.within += 0.5 * true <= entry.rate <= 2 * true
                self.covered += entry.low <= true <= entry.high
            self.rows.append({"concept": concept, "finds": hit, "rate": entry.rate, "true": true})
        self.rows.append({"concept": concept, "missed": sorted(set(truth.targets) - found)})

    def shares(self) -> dict[str, tuple[int, int]]:
        """(count, of how many) by name."""
        return {
            "recall": (self.recalled, self.targets),
            "precision": (self.good, self.listed),
            "within_factor_2": (self.within, self.good),
            "coverage": (self.covered, self.good),
        }

    def line(self, name: str) -> str:
        """One line of the table."""
        return f"{name:26s}" + "  ".join(f"{_share(*pair):>22s}" for pair in self.shares().values())


def _share(count: int, total: int) -> str:
    if not total:
        return "-"
    low, high = wilson_interval(count, total)
    return f"{count / total:.2f} ({float(low):.2f}-{float(high):.2f}) {count}/{total}"


def _which(samples: list[int]) -> tuple[int, str | int]:
    """Pictures in a file's name: how many, and from which on or, where they don't follow one another, a digest."""
    first = samples[0]
    if samples == list(range(first, first + len(samples))):
        return len(samples), first
    return len(samples), hashlib.sha256(repr(samples).encode()).hexdigest()[:12]


def case_of(lab: Lab, collection: Collection, size: SAESize = SIZE, steps: tuple[int, ...] = STEPS, **how: Any) -> Case:
    """A concept's pictures with their own autoencoder, trained now or found in the cache."""
    name = "-".join(map(str, (size.latents, size.coarse, size.k, size.epochs, *_which(collection.samples), *steps)))
    kind = "plain" if how.get("plain") else "sae"
    pictures = Pictures([collection], steps)
    return Case(
        collection, pictures, train(pictures, size, lab.cache / collection.concept / f"{kind}-{name}.st", **how)
    )


def shared_cases(lab: Lab, collections: list[Collection]) -> list[Case]:
    """The same pictures with one autoencoder for all, of the same size, trained for as many steps as all others."""
    names = "-".join(each.concept for each in collections)
    trained = train(
        Pictures(collections, STEPS), SIZE, lab.cache / "shared" / f"{names}-{len(collections[0].samples)}.st"
    )
    return [Case(each, Pictures([each], STEPS), trained) for each in collections]


def compare(lab: Lab, concepts: list[str], images: int, arms: list[str], shared: bool, show: Any) -> dict[str, Score]:
    """All arms on all concepts, at the length of Hapax's own list."""
    scores: dict[str, Score] = {}
    collections = [lab.collection(concept, images) for concept in concepts]
    together = shared_cases(lab, collections) if shared else []
    for number, collection in enumerate(collections):
        case, truth = case_of(lab, collection), collection.truth
        own = ARMS["hapax"](case, LISTED)
        lists = {"hapax": own} | {arm: ARMS[arm](case, len(own)) for arm in arms if arm != "hapax"}
        if shared:
            lists[SHARED] = ARMS["hapax"](together[number], LISTED)
            lists[PLAIN] = ARMS["hapax"](case_of(lab, collection, plain=True), LISTED)
        for arm, listed in lists.items():
            scores.setdefault(arm, Score()).add(collection.concept, truth, listed)
        show(f"{collection.concept}: {len(own)} listed")
    return scores


def repeat(lab: Lab, concepts: list[str], images: int, repeats: int, show: Any) -> Score:
    """Hapax on disjoint parts of the pictures; rates are compared with those of all parts together."""
    score = Score()
    for concept in concepts:
        whole = lab.collection(concept, images * repeats)
        for part in range(repeats):
            collection = whole.first(images, part * images)
            score.add(concept, collection.truth, ARMS["hapax"](case_of(lab, collection), LISTED), whole.truth.rates)
        show(f"{concept}: {repeats} audits")
    return score


def write_trust(score: Score, repeated: Score | None) -> None:
    """Put the figures where reports read them, beside those that are there already."""
    figures = json.loads(TRUST.read_text()) if TRUST.is_file() else {}
    shares = {name: count / total for name, (count, total) in score.shares().items() if name != "coverage" and total}
    figures |= shares | {"targets": score.targets, "listed": score.listed}
    if repeated and repeated.good:
        figures["coverage"] = repeated.covered / repeated.good
    write_file(TRUST, (json.dumps(figures, indent=1, sort_keys=True) + "\n").encode())


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    lab_options(parser)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--shared", action="store_true", help="add one autoencoder for all concepts, and plain ones")
    parser.add_argument("--repeats", type=int, default=0, help="disjoint audits a concept, for intervals")
    parser.add_argument("--json", type=Path, help="write all lists and sums here")
    parser.add_argument("--trust", action="store_true", help="write the figures that reports quote")
    options = parser.parse_args()
    lab, concepts = Lab(options.cache, options.model), concepts_of(options.concepts)

    def show(text: str) -> None:
        print(text, flush=True)

    scores = compare(lab, concepts, options.images, options.arms, options.shared, show)
    repeated = repeat(lab, concepts, options.images, options.repeats, show) if options.repeats else None
    print(f"{'':26s}" + "  ".join(f"{name:>22s}" for name in Score().shares()))
    for arm, score in (scores | ({"hapax, repeated": repeated} if repeated else {})).items():
        print(score.line(arm))
    print("\n".join(json.dumps(row) for row in scores["hapax"].rows))
    if options.json:
        whole = {arm: {"shares": score.shares(), "rows": score.rows} for arm, score in scores.items()}
        write_file(options.json, json.dumps(whole, indent=1).encode())
    if options.trust:
        write_trust(scores["hapax"], repeated)


if __name__ == "__main__":
    main()
