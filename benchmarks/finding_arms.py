"""The ways to list a prompt's rare features that benchmarks/findings.py compares: Hapax, its parts, other methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from emoji_eval import SHOWN, Collection
from hapax.core.exemplars import exemplars
from hapax.core.findings import Found, SAESize, find_features, image_activations, train_on
from hapax.core.firing import firing
from hapax.core.grouping import group_latents
from hapax.core.prevalence import share
from hapax.core.rarity import FeatureTable, pool_activations, score_features, score_official
from hapax.core.sae import SAEConfig, TrainedSAE, load_sae, save_sae
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA, FastICA
from torch import Tensor

LISTED, RARE, SUPPORT, CLUSTERS, COMPONENTS = 10, 0.15, 10, 50, 10


@dataclass(frozen=True)
class Listed:
    """One listed feature: its exemplars, best first, and the rate that is claimed for it with its interval."""

    exemplars: list[int]
    rate: float
    low: float
    high: float


class Pictures:
    """Recorded pictures of one or more collections, some of the steps only; what `train_on` and scoring read."""

    def __init__(self, parts: Sequence[Collection], steps: Sequence[int]) -> None:
        self.rows = [(part, sample) for part in parts for sample in part.samples]
        self.steps = list(steps)

    def tokens(self, samples: Sequence[int]) -> Tensor:
        """[n, S, P, C] of some pictures, counted over all parts."""
        parts: dict[int, tuple[Collection, list[int], list[int]]] = {}
        for target, index in enumerate(samples):
            part, sample = self.rows[index]
            _, chosen, targets = parts.setdefault(id(part), (part, [], []))
            chosen.append(sample)
            targets.append(target)
        out: Tensor | None = None
        for part, chosen, targets in parts.values():
            x = part.store.tokens(chosen)[:, self.steps]
            out = x.new_empty((len(samples), *x.shape[1:])) if out is None else out
            out[targets] = x
        assert out is not None
        return out

    def embeddings(self, samples: Sequence[int]) -> Tensor:
        """[n, E]."""
        return torch.stack([self.rows[i][0].store.embeddings([self.rows[i][1]])[0] for i in samples])


def train(pictures: Pictures, size: SAESize, path: Path, *, seed: int = 0, plain: bool = False) -> TrainedSAE:
    """An autoencoder of these pictures, kept at `path`; plain is one without a coarse prefix."""
    if path.exists():
        sae = load_sae(path)
        return TrainedSAE(sae, sae.meta["metrics"])
    samples = list(range(len(pictures.rows)))
    steps, positions, channels = pictures.tokens(samples[:1]).shape[1:]
    config = size.config(channels, len(samples) * steps * positions, seed)
    if plain:
        fields = {name: getattr(config, name) for name in ("d_in", "d_sae", "k", "lr", "batch_size", "epochs", "seed")}
        config = SAEConfig(**fields, prefix_sizes=(config.d_sae,))
    trained = train_on(pictures, samples, config)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_sae(trained.sae, path, meta={"metrics": trained.metrics})
    return trained


class _Nameless:
    def label(self, feature: object) -> list[tuple[str, float]]:
        return []


@dataclass(frozen=True, eq=False)
class Case:
    """One prompt's pictures with an autoencoder: what every arm gets, and what they share."""

    collection: Collection
    pictures: Pictures
    trained: TrainedSAE

    @cached_property
    def samples(self) -> list[int]:
        """All pictures."""
        return list(range(len(self.pictures.rows)))

    @cached_property
    def tokens(self) -> Tensor:
        """[N, S, P, C]."""
        return self.pictures.tokens(self.samples)

    @cached_property
    def embeddings(self) -> Tensor:
        """[N, E]."""
        return self.pictures.embeddings(self.samples)

    @cached_property
    def pooled(self) -> Tensor:
        """[N, coarse] as Hapax pools."""
        return image_activations(self.trained.sae, self.tokens)

    @cached_property
    def table(self) -> FeatureTable:
        """Hapax's scores."""
        return score_features(self.pooled, self.embeddings, normalize="rank", min_support=SUPPORT)

    def found(self) -> Found:
        """What an audit finds."""
        return find_features(
            self.pictures,  # type: ignore[arg-type]
            self.samples,
            self.trained,
            lambda _: _Nameless(),
            listed=LISTED,
            rare=RARE,
            normalize="rank",
            min_support=SUPPORT,
            seed=0,
        )


def hapax(case: Case, length: int) -> list[Listed]:
    """What an audit lists, with the prevalence that it reports."""
    found = case.found()
    return [_listed(found.exemplars(i), found.prevalence(i)) for i in range(len(found.groups))][:length]


def hapax_firing(case: Case, length: int) -> list[Listed]:
    """The same list with the latents' firing rates in place of the prevalence."""
    found = case.found()
    firsts = [group[0] for group in found.groups]
    return [_listed(found.exemplars(i), share(found.pooled[:, latent] > 0)) for i, latent in enumerate(firsts)][:length]


def without_looks(case: Case, length: int) -> list[Listed]:
    """Groups of findings that fire rarely: no look, exemplars and rates by the latent alone."""
    rare = case.table.findings()
    rare = rare[rare.frequency <= RARE]
    groups = group_latents(case.pooled, case.embeddings, rare)
    return _by_latents(case.pooled, [group[0] for group in groups[:length]])


def frequency_alone(case: Case, length: int) -> list[Listed]:
    """The same autoencoder, its rarest latents first (RAIGen, Table 8)."""
    enough = case.table[case.table.count >= SUPPORT]
    return _by_latents(case.pooled, enough.latent[enough.count.argsort(stable=True)][:length].tolist())


def distinctiveness_alone(case: Case, length: int) -> list[Listed]:
    """The same autoencoder, the latents whose centroids lie furthest first."""
    enough = case.table[case.table.count >= SUPPORT]
    order = enough.distinctiveness.argsort(descending=True, stable=True)
    return _by_latents(case.pooled, enough.latent[order][:length].tolist())


def official(case: Case, length: int) -> list[Listed]:
    """RAIGen's published scoring as it is: last step, tokens not centred, any activation counts, its own pruning."""
    sae = case.trained.sae
    coarse = sae.prefix_sizes[0]
    pooled = pool_activations(lambda x: sae.encode(x.float() + sae.b_dec)[:, :coarse], case.tokens, which="last")
    return _by_latents(pooled, score_official(pooled, case.embeddings)[0][:length].tolist())


def smallest_clusters(case: Case, length: int) -> list[Listed]:
    """k-means on CLIP embeddings, the smallest of 50 clusters (RAIGen, Table 6)."""
    return _clusters(case, CLUSTERS, length)


def few_clusters(case: Case, length: int) -> list[Listed]:
    """The same with 10 clusters, each about as large as what is looked for."""
    return _clusters(case, LISTED, length)


def _clusters(case: Case, k: int, length: int) -> list[Listed]:
    e = case.embeddings.numpy()
    fitted: Any = KMeans(k, random_state=0).fit(e)
    distance, label = fitted.transform(e), fitted.labels_
    sizes = np.bincount(label, minlength=k)
    enough = [int(i) for i in np.argsort(sizes, kind="stable") if sizes[i] >= SUPPORT]
    nearest = [np.argsort(np.where(label == i, distance[:, i], np.inf))[:SHOWN].tolist() for i in enough[:length]]
    rates = [share(torch.from_numpy(label == i)) for i in enough[:length]]
    return [_listed(rows, rate) for rows, rate in zip(nearest, rates, strict=True)]


def directions(method: Callable[..., Any], where: str) -> Callable[[Case, int], list[Listed]]:
    """Both ends of PCA or ICA directions in place of latents, of CLIP embeddings or of mean tokens; then as Hapax."""

    def arm(case: Case, length: int) -> list[Listed]:
        x = case.embeddings if where == "clip" else case.tokens.float().mean((1, 2))
        y = torch.from_numpy(method(COMPONENTS, random_state=0).fit_transform(x.numpy())).float()
        pooled = firing(torch.cat([y, -y], 1).clamp_min(0))
        findings = score_features(pooled, case.embeddings, normalize="rank", min_support=SUPPORT).findings()
        groups = group_latents(pooled, case.embeddings, findings[findings.frequency <= RARE])
        return _by_latents(pooled, [group[0] for group in groups[:length]])

    return arm


ARMS: dict[str, Callable[[Case, int], list[Listed]]] = {
    "hapax": hapax,
    "hapax, firing rates": hapax_firing,
    "hapax without looks": without_looks,
    "frequency alone": frequency_alone,
    "distinctiveness alone": distinctiveness_alone,
    "official recipe": official,
    "k-means on CLIP, 50": smallest_clusters,
    "k-means on CLIP, 10": few_clusters,
    "PCA of CLIP": directions(PCA, "clip"),
    "ICA of CLIP": directions(FastICA, "clip"),
    "PCA of activations": directions(PCA, "mid"),
    "ICA of activations": directions(FastICA, "mid"),
}


def _listed(rows: Tensor | Sequence[int], rate: dict[str, float | int]) -> Listed:
    shown = rows.tolist() if isinstance(rows, Tensor) else list(rows)
    return Listed(shown, float(rate["rate"]), float(rate["low"]), float(rate["high"]))


def _by_latents(pooled: Tensor, latents: Sequence[int]) -> list[Listed]:
    return [_listed(exemplars(pooled[:, i], SHOWN), share(pooled[:, i] > 0)) for i in latents]
