"""From the recorded pictures of one prompt to its features: train, score, group, name, show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .activation_reader import ActivationReader
from .collect import batches
from .errors import HapaxError
from .exemplars import exemplars
from .feature_stats import FeatureStats
from .firing import firing
from .grouping import group_latents
from .kinds import room
from .labels import FeatureCentroid, Labeller
from .listing import list_looks
from .look import Seen
from .minority import Normalize
from .prevalence import prevalence
from .rarity import FeatureTable, pool_activations, score_features
from .sae import MatryoshkaSAE, SAEConfig, TrainedSAE, train_sae

HELD_OUT, HELD_OUT_PICTURES = 0.1, 128
PROFILE_LATENTS, SILENT_PICTURES = 64, 128
# A latent may fire on this many times the pictures that show what it stands for.
LOOSE = 2.0


@dataclass(frozen=True)
class SAESize:
    """The autoencoder's size; None follows the paper's proportions (RAIGen, App. E.1: 1,280 channels give
    20,480 latents of which the first 2,048 are coarse and scored)."""

    latents: int | None = None
    coarse: int | None = None
    k: int = 32
    epochs: int = 5

    def config(self, channels: int, tokens: int, seed: int) -> SAEConfig:
        """The training configuration for so many tokens of a site of so many channels.

        With few tokens, batches are smaller than the paper's 4,096, for 1,000 steps or so (never below 256), and the
        learning rate is higher: the paper's 3e-4 is far too low to arrive in so few steps (measured).
        """
        batch = min(4096, max(256, tokens * self.epochs // 1000))
        latents = self.latents or 16 * channels
        coarse = self.coarse or max(1, latents // 10)
        if coarse >= latents:
            raise HapaxError(
                f"The coarse prefix has {coarse} latents of {latents}; give fewer coarse latents than latents."
            )
        return SAEConfig(
            d_in=channels,
            d_sae=latents,
            prefix_sizes=(coarse, latents),
            k=self.k,
            epochs=self.epochs,
            batch_size=batch,
            lr=3e-4 if batch == 4096 else 1.5e-3,
            seed=seed,
        )


class Profile(NamedTuple):
    """Latents [R] and the change of their activations [R] that makes a feature show."""

    latents: Tensor
    levels: Tensor

    def displacement(self, sae: MatryoshkaSAE) -> Tensor:
        """The change of the site's activations, [C] on the CPU."""
        rows = sae.W_dec[self.latents.to(sae.W_dec.device)].detach().cpu()
        return self.levels.to(rows) @ rows


@dataclass(frozen=True, eq=False)
class Found:
    """What was found for one prompt.

    Attributes:
        samples: indices of the prompt's pictures in the store, N of them.
        trained: the autoencoder with its metrics.
        pooled: [N, coarse] image-level activations, 0 where a latent does not fire.
        table: all latents that fire, ranked.
        groups: latents that say the same, best first; the first of each is listed.
        leads: per group, its latents that stand for the feature: the first, or several that share it between them.
        looks: per group, what its pictures have in common, and which pictures those are.
        rooms: per group, the share of the other pictures among whose kinds its look is seen; see `kinds.room`.
        labels: names per group, best first; empty when none fits.
        profiles: per group, by how much which latents differ where the feature shows: the unit of strength.
    """

    samples: list[int]
    trained: TrainedSAE
    pooled: Tensor
    table: FeatureTable
    groups: list[list[int]]
    leads: list[list[int]]
    looks: list[Seen]
    rooms: list[float]
    labels: list[list[tuple[str, float]]]
    profiles: list[Profile]

    def activations(self, number: int) -> Tensor:
        """[N] how strongly a listed feature fires on each picture: the largest of its leads' activations."""
        return strongest(self.pooled, self.leads[number])

    def prevalence(self, number: int) -> dict[str, float | int]:
        """In how many pictures a listed feature shows, with an interval; see `prevalence`."""
        seen = self.looks[number]
        return prevalence(seen.shown, self.activations(number) > 0, self.rooms[number], seen.separation)

    def exemplars(self, number: int, k: int = 10) -> Tensor:
        """The pictures that look most like a listed feature and on which it fires, strongest first: [<= k] of N."""
        activations, seen = self.activations(number), self.looks[number]
        scores = torch.where(seen.shown & (activations > 0), seen.scores, -torch.inf)
        alike = scores.topk(min(k, int(scores.isfinite().sum()))).indices
        return alike[activations[alike].argsort(descending=True, stable=True)]


class _Tokens:
    """The tokens of some pictures, read anew in another order at each pass, a few pictures at a time."""

    PICTURES = 64

    def __init__(self, store: ActivationReader, samples: list[int], seed: int) -> None:
        self.store, self.samples = store, samples
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.randperm(len(self.samples), generator=self.generator).tolist()
        for part in batches(order, self.PICTURES):
            yield self.store.tokens([self.samples[i] for i in part]).flatten(0, 2).float()


def train_on(
    store: ActivationReader,
    samples: list[int],
    config: SAEConfig,
    *,
    progress: Callable | None = None,
    device: torch.device | str | None = None,
) -> TrainedSAE:
    """Train an autoencoder on the tokens of some pictures, a tenth of them held out for its metrics."""
    held_out = samples[:: round(1 / HELD_OUT)]
    train = sorted(set(samples) - set(held_out))
    unseen = torch.cat(list(_Tokens(store, held_out[:HELD_OUT_PICTURES], config.seed)))
    return train_sae(_Tokens(store, train, config.seed), config, held_out=unseen, progress=progress, device=device)


def find_features(
    store: ActivationReader,
    samples: list[int],
    trained: TrainedSAE,
    labeller: Callable[[Tensor], Labeller],
    *,
    listed: int,
    rare: float,
    normalize: Normalize,
    min_support: int,
    seed: int,
    embeddings: Tensor | None = None,
) -> Found:
    """Score the coarse latents of one prompt's pictures, group them and name the best `listed` groups.

    Only groups that show in at most the share `rare` of the pictures are listed. `embeddings` [N, E] of the
    pictures are the store's unless others are given.
    """
    embeddings = store.embeddings(samples) if embeddings is None else embeddings
    sae, tokens = trained.sae, store.tokens(samples)
    pooled = image_activations(sae, tokens)
    table = score_features(pooled, embeddings, normalize=normalize, min_support=min_support, seed=seed)
    findings = table.findings()
    candidates = group_latents(pooled, embeddings, findings[findings.frequency <= LOOSE * rare])
    kept = list_looks(pooled, embeddings, candidates, rare=rare, min_support=min_support, listed=listed)
    fires = torch.stack([strongest(pooled, entry.leads) for entry in kept], 1) if kept else pooled[:, :0]
    stats, namer = FeatureStats.of(fires, embeddings), labeller(embeddings)
    profiles = [contrast(sae, tokens, each) for each in fires.T]
    centroids = [
        replace(FeatureCentroid.of(stats, i, profile.displacement(sae)), latent=kept[i].leads[0])
        for i, profile in enumerate(profiles)
    ]
    return Found(
        samples,
        trained,
        pooled,
        table,
        groups=[entry.group for entry in kept],
        leads=[entry.leads for entry in kept],
        looks=[entry.seen for entry in kept],
        rooms=[room(embeddings, entry.seen.shown) for entry in kept],
        labels=[namer.label(centroid) for centroid in centroids],
        profiles=profiles,
    )


def strongest(activations: Tensor, latents: list[int]) -> Tensor:
    """The largest of some latents' activations [..., L]: [...]."""
    return activations[..., latents].amax(-1)


def image_activations(sae: MatryoshkaSAE, tokens: Tensor) -> Tensor:
    """[N, coarse] activations of the coarse latents: at the step that shows most, 0 where a latent does not fire.

    An attribute shows at some steps only, and which ones differs from attribute to attribute.
    """
    coarse = sae.prefix_sizes[0]
    return firing(pool_activations(lambda x: _encode(sae, x, coarse), tokens, how="max"))


@torch.no_grad()
def contrast(sae: MatryoshkaSAE, tokens: Tensor, pooled: Tensor) -> Profile:
    """What the autoencoder says of pictures with the feature that it doesn't say of those without.

    Its latents' mean activations over the tokens of the exemplars, less those over pictures on which the feature's
    latent is silent; the latents that differ most. One decoder row alone points elsewhere than these differences do
    (cosines of .1 to .4 on the emoji model, against .9 for this).

    Args:
        sae: the autoencoder.
        tokens: [N, S, P, C] of the pictures.
        pooled: [N] the latent's image-level activations.
    """
    shows = exemplars(pooled)
    silent = (pooled <= 0).nonzero().flatten()
    silent = silent[:: max(1, len(silent) // SILENT_PICTURES)]
    with_it, without = (pool_activations(lambda x: _encode(sae, x), tokens[i]).mean(0) for i in (shows, silent))
    difference = with_it - without
    latents = difference.abs().topk(min(PROFILE_LATENTS, len(difference))).indices
    return Profile(latents, difference[latents])


def _encode(sae: MatryoshkaSAE, tokens: Tensor, latents: int | None = None) -> Tensor:
    """Encode where the autoencoder is; the first latents or all go to the CPU, where the statistics are."""
    return sae.encode(tokens.to(sae.W_enc))[:, :latents].cpu()
