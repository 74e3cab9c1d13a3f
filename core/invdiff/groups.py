"""Bias groups without labels: soft clusters of pictures by how the model errs on them, and what evens them out."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import HapaxError

# Below this many pictures a prompt has no groups of its own.
_FEWEST = 32
# Chosen on half of the emoji model's professions, where more of them let rare kinds drown (tried: 4 to 24).
COMPONENTS = 6
# A group of fewer pictures says more about them than about a kind of picture.
_LEAST_MASS = 3.0


def infer_groups(
    losses: Tensor,
    n_groups: int,
    *,
    seed: int,
    prompt: Tensor | None = None,
    temperature: float = 1.0,
    balance: float = 0.0,
    components: int = COMPONENTS,
    restarts: int = 4,
    iterations: int = 60,
) -> Tensor:
    """Split pictures into soft groups that differ in their losses as much as possible (InvDiff's first phase).

    Columns are brought to zero mean and unit variance, within each prompt, and reduced to the leading principal
    components of all of them: what one prompt hardly shows, another shows often. Then, within each prompt, W maximises
    the spread between the groups' means at all probes, as EIIL does at one (arXiv 2010.07249), with a price on deciding
    and on unequal groups:

        sum_g M_g |L_g - L|^2 / s^2 + 2 T H(W) - 2 (1 - balance) T sum_g M_g log(1 / M_g),   M_g = mean_n W_ng

    whose alternating solution is W_ng ~ M_g^(1 - balance) exp(-|l_n - L_g|^2 / (2 s^2 T)), with s^2 the mean square
    of what the groups leave unexplained in one component. At balance 0 that is the EM of a mixture of round
    Gaussians, in which small groups are as good as large ones; at 1 groups are drawn to equal size, and a rare
    one is lost inside a common one. Groups come in ascending order of their mean loss: the first is what the
    model knows best. Losses that don't differ leave the weights even.

    Any other table with a row per picture can stand in for losses: SAE features, or CLIP embeddings.

    Args:
        losses: `[N, P]` at P probes, the same for all pictures.
        n_groups: G, between 1 and N.
        seed: of the first means.
        prompt: `[N]` each picture's prompt; normalised and split apart from the others'. Prompts of fewer than 32
            pictures are treated as one. None: all are of one prompt.
        temperature: T > 0; near 0 the groups are hard.
        balance: 0 to 1, see above.
        components: at most as many principal components are kept.
        restarts, iterations: starts, of which the one with the largest objective counts, and steps from each.

    Returns:
        `[N, G]` float32 weights; rows sum to 1.

    Raises:
        HapaxError: not a finite table, or a number of groups that can't be.
    """
    x = checked_table(losses)
    if not 1 <= n_groups <= len(x):
        raise HapaxError(f"{n_groups} groups can't be made of {len(x)} pictures; give 1 to {len(x)}.")
    if not temperature > 0 or not 0 <= balance <= 1:
        raise HapaxError(f"temperature is {temperature} and balance {balance}; give T > 0 and 0 <= balance <= 1.")
    weights = torch.full((len(x), n_groups), 1 / n_groups, dtype=torch.float64)
    parts = strata(prompt, len(x))
    scores = principal_scores(x, parts, components)
    for rows in parts:
        count = min(n_groups, len(rows))
        if count == 1 or not bool(scores[rows].any()):
            continue
        generator = torch.Generator().manual_seed(seed)
        fits = [_cluster(scores[rows], count, temperature, balance, iterations, generator) for _ in range(restarts)]
        _, found = max(fits, key=lambda fit: fit[0])
        weights[rows] = 0
        weights[rows[:, None], torch.arange(count)] = _by_loss(found, x[rows])
    return weights.float()


def strata(prompt: Tensor | None, n: int) -> list[Tensor]:
    """Return the rows of each prompt that has at least 32 pictures, and those of all others together."""
    if prompt is None:
        return [torch.arange(n)]
    if len(prompt) != n:
        raise HapaxError(f"There are {len(prompt)} prompts for {n} pictures; give one for each.")
    rows = [(prompt == u).nonzero().flatten() for u in prompt.unique()]
    small = [each for each in rows if len(each) < _FEWEST]
    return [each for each in rows if len(each) >= _FEWEST] + ([torch.cat(small)] if small else [])


def balanced_weights(weights: Tensor, prompt: Tensor | None = None) -> Tensor:
    """Probabilities `[N]` of pictures under which the groups are even: p_n = 1 / G sum_g W_ng / M_g, M_g = sum_n W_ng.

    Under them the mean of a loss is the mean of the groups' means (plain balancing). Groups of next to no pictures
    count for nothing. Where groups are clusters, several may be of one kind: see `spread_probabilities`.

    Args:
        weights: `[N, G]` as `infer_groups` returns it.
        prompt: `[N]` each picture's prompt; probabilities sum to 1 within each. None: all are of one prompt.

    >>> balanced_weights(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    tensor([0.2500, 0.2500, 0.5000], dtype=torch.float64)
    """
    w = checked_weights(weights, len(weights)).double()
    p = torch.zeros(len(w), dtype=torch.float64)
    prompts = torch.zeros(len(w), dtype=torch.long) if prompt is None else prompt
    for u in prompts.unique():
        rows = (prompts == u).nonzero().flatten()
        mass = w[rows].sum(0)
        held = mass >= min(_LEAST_MASS, float(mass.max()) / 2)
        p[rows] = (w[rows][:, held] / mass[held]).mean(1)
        p[rows] /= p[rows].sum()
    return p


def checked_table(table: Tensor) -> Tensor:
    """Return a table of finite numbers [N, P] in float64 on the CPU, else raise HapaxError."""
    x = table.detach().double().cpu()
    if x.ndim != 2 or not bool(torch.isfinite(x).all()):
        raise HapaxError(f"The table has shape {tuple(table.shape)}; give finite numbers, a row per picture: [N, P].")
    return x


def checked_weights(weights: Tensor, count: int) -> Tensor:
    """Return `weights` if it is a table of group shares for `count` pictures, else raise HapaxError."""
    if weights.ndim != 2 or len(weights) != count:
        raise HapaxError(f"The weights have shape {tuple(weights.shape)}; give [N, G] with N = {count} pictures.")
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()) or not bool((weights.sum(1) > 0).all()):
        raise HapaxError("Some weights are negative, not finite, or all zero for a picture; give shares in groups.")
    return weights


def principal_scores(table: Tensor, parts: list[Tensor], components: int) -> Tensor:
    """Scores on the leading principal components of a table [N, P] that is standardised within parts: [N, <= D]."""
    x = torch.zeros_like(table)
    for rows in parts:
        x[rows] = standardised(table[rows])
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    return (u * s)[:, :components]


def standardised(x: Tensor) -> Tensor:
    """Columns at zero mean and unit variance; those that are constant are 0."""
    spread = x.std(0)
    held = spread > 1e-9 * x.abs().amax(0).clamp(min=1e-30)
    return torch.where(held, (x - x.mean(0)) / spread, 0.0)


def _cluster(
    x: Tensor, count: int, temperature: float, balance: float, iterations: int, generator: torch.Generator
) -> tuple[float, Tensor]:
    """Alternate between weights and means from one start; return the objective and the weights [N, G]."""
    means, shares = _spread_out(x, count, generator), torch.full((count,), 1 / count, dtype=x.dtype)
    # At first each mean is a single picture: half of the whole variance is a cautious guess at what is unexplained.
    variance = x.var(0).mean() / 2
    objective, weights = -torch.inf, torch.empty(0)
    for _ in range(iterations):
        distance = torch.cdist(x, means).square()
        logits = (1 - balance) * shares.clamp(min=1e-12).log() - distance / (2 * variance * temperature)
        weights = logits.softmax(1)
        objective = float(logits.logsumexp(1).mean() - x.shape[1] / 2 * variance.log())
        shares = weights.mean(0)
        means = (weights.T @ x) / weights.sum(0).clamp(min=1e-12)[:, None]
        variance = ((weights * torch.cdist(x, means).square()).sum() / x.numel()).clamp(min=1e-9)
    return objective, weights


def _spread_out(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """First means: pictures drawn with probability by squared distance from those before (k-means++)."""
    chosen = [int(torch.randint(len(x), (1,), generator=generator))]
    nearest = (x - x[chosen[0]]).square().sum(1)
    while len(chosen) < count:
        p = nearest if float(nearest.sum()) > 0 else torch.ones(len(x), dtype=x.dtype)
        chosen.append(int(torch.multinomial(p, 1, generator=generator)))
        nearest = torch.minimum(nearest, (x - x[chosen[-1]]).square().sum(1))
    return x[chosen]


def _by_loss(weights: Tensor, losses: Tensor) -> Tensor:
    """Put groups in ascending order of their mean loss."""
    mean = (weights.T @ losses.mean(1)) / weights.sum(0).clamp(min=1e-12)
    return weights[:, mean.argsort()]
