"""Training: BatchTopK Matryoshka with exact sparse gradients, on one process or many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, autocast

from ..distributed import average_gradients, least, rank, same_everywhere, summed, world_size
from ..errors import HapaxError
from .config import SAEConfig
from .metrics import calibrate_threshold, sae_metrics
from .mixing import StreamSample, checked_tokens, mixed_batches
from .model import MatryoshkaSAE
from .sparse import batch_topk, sparse_encode

Progress = Callable[[int, "int | None", dict[str, Any]], None]

# Batches that give the input scale and the first b_dec, and tokens that calibrate the threshold.
_HEAD_BATCHES = 8
_SAMPLE_TOKENS = 32768


class TrainedSAE(NamedTuple):
    """What `train_sae` returns.

    Fields:
        sae: the autoencoder, in the tokens' units, frozen, on the training device.
        metrics: as `sae_metrics` returns it, plus `held_out` (whether on held-out tokens) and `steps`.
    """

    sae: MatryoshkaSAE
    metrics: dict[str, Any]


# ComfyUI calls its nodes in inference mode, in which nothing can be trained.
@torch.inference_mode(False)
@torch.enable_grad()
def train_sae(
    tokens: Tensor | Iterable[Tensor],
    config: SAEConfig,
    *,
    held_out: Tensor | None = None,
    progress: Progress | None = None,
    device: torch.device | str | None = None,
) -> TrainedSAE:
    """Train a Matryoshka SAE with BatchTopK, as RAIGen does (arXiv 2602.06806, Eq. 1 and App. E.1).

    Where the official code errs this doesn't: b_enc is used, master weights are fp32, tokens are scaled by
    one number to E||x|| = sqrt(d_in), decoder rows have unit norm after each step, the auxiliary loss gets a
    detached residual, batches mix many pictures, and the threshold is a quantile, taken after training.
    b_dec starts at the mean token. Equal seed, tokens and thread count give bit-equal weights.

    Under `torch.distributed` each process brings its own tokens: gradients are averaged, each process takes
    BatchTopK over its share of the batch, and an epoch ends when the first of them has no batch left.

    Args:
        tokens: `[N, d_in]`, or an iterable of such tensors. An iterable is read again for each epoch; an
            iterator can be read only once, so it is one epoch.
        config: shape and hyperparameters.
        held_out: `[M, d_in]` tokens that are not trained on, best of other pictures. Threshold and metrics
            are taken on them; without them on a sample of at most 32,768 tokens of the first epoch.
        progress: called as progress(step, steps, info) after each step; steps is None while unknown, info has
            `epoch`, `loss`, `fvu` (of the batch) and `dead`. What it raises ends the training.
        device: where to train; by default where the tokens are.

    Raises HapaxError for tokens that are too few (fewer than d_in), of another width, all zero, not finite.
    """
    if held_out is not None and len(checked_tokens(held_out, config.d_in)) < 2:
        raise HapaxError(f"There are {len(held_out)} held-out tokens; give at least 2, or none at all.")
    # Order and sample must differ between processes, the initial weights must not.
    generator = torch.Generator().manual_seed(config.seed + 1_000_003 * rank())
    batch_size = max(1, config.batch_size // world_size())
    first = mixed_batches(tokens, config.d_in, batch_size, generator)
    head = list(islice(first, _HEAD_BATCHES))
    trainer = _Trainer(config, head, torch.device(device or (head[0].device if head else "cpu")))
    epochs = 1 if isinstance(tokens, Iterator) else config.epochs
    steps = max(1, len(tokens) // batch_size) * epochs if isinstance(tokens, Tensor) else None
    sample = StreamSample(_sample_size(), generator)
    for epoch in range(epochs):
        batches = mixed_batches(tokens, config.d_in, batch_size, generator) if epoch else chain(head, first)
        for x in _in_step(batches, trainer.device):
            if not epoch:
                sample.add(x)
            info = trainer.step(x)
            if progress:
                progress(trainer.steps, steps, {"epoch": epoch, **info})
        steps = trainer.steps * epochs if not epoch else steps
    return trainer.finish(sample.tokens(), held_out)


def _sample_size() -> int:
    return max(1, _SAMPLE_TOKENS // world_size())


def _in_step(batches: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Yield batches as long as every process has one."""
    for x in chain(batches, [None]):
        if not least(x is not None, device):
            return
        assert x is not None
        yield x


class _Trainer:
    """Weights in training: in scaled units, with Adam's state and the count of silent batches a latent."""

    def __init__(self, config: SAEConfig, head: list[Tensor], device: torch.device) -> None:
        self.config, self.device, self.steps = config, device, 0
        self.sae = MatryoshkaSAE(config.d_in, config.d_sae, config.prefix_sizes, config.k, seed=config.seed).to(device)
        self.scale, mean = self._statistics(head)
        self.sae.b_dec.copy_(mean * self.scale)
        same_everywhere(self.sae.parameters())
        self.sae.requires_grad_(True)
        self.optimiser = torch.optim.Adam(self.sae.parameters(), lr=config.lr, betas=(0.9, 0.99), fused=True)
        self.silent = torch.zeros(config.d_sae, dtype=torch.long, device=device)

    def step(self, x: Tensor) -> dict[str, float]:
        """Take one step on the batch `[B, d_in]`; return its loss, FVU and share of dead latents."""
        sae, config = self.sae, self.config
        x = x.to(self.device, torch.float32) * self.scale
        with torch.no_grad(), autocast(x.device.type, torch.bfloat16, enabled=config.bf16):
            pre = sae.pre_activations(x).float()
            active = batch_topk(pre, config.k * len(x))
        z = sparse_encode(x, sae.b_dec, sae.W_enc, sae.b_enc, pre.flatten()[active.flat], active)
        del pre
        errors = sae.prefix_errors(x, z, active)
        # Mean over {b_dec alone, each prefix} of the mean squared error: Eq. 1 with equal weights.
        loss = torch.stack([error.square().mean() for error in errors]).mean()
        dead = self.silent >= config.dead_after
        residual = -errors[-1]
        total = loss + config.aux_coefficient * auxiliary_loss(sae, x, residual, dead, config.aux_k)
        self._update(total)
        fired = summed(torch.bincount(active.cols, minlength=config.d_sae))
        self.silent = torch.where(fired > 0, 0, self.silent + 1)
        fvu = residual.detach().square().sum() / (x - x.mean(0)).square().sum()
        return {"loss": float(loss.detach()), "fvu": float(fvu), "dead": float(dead.float().mean())}

    def _update(self, loss: Tensor) -> None:
        self.optimiser.zero_grad()
        loss.backward()
        average_gradients(self.sae.parameters())
        make_orthogonal(self.sae.W_dec)
        self.optimiser.step()
        self.sae.normalise_decoder()
        self.steps += 1

    def finish(self, sample: Tensor, held_out: Tensor | None) -> TrainedSAE:
        """Go back to the tokens' units, calibrate the threshold, measure."""
        sae, tokens = self.sae.requires_grad_(False), sample if held_out is None else held_out
        sae.unscale(self.scale)
        picked = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(self.config.seed))
        calibrate_threshold(sae, tokens[picked[: _sample_size()].to(tokens.device)])
        metrics = {**sae_metrics(sae, tokens), "held_out": held_out is not None, "steps": self.steps}
        sae.meta = {"training": {**asdict(self.config), "steps": self.steps}}
        return TrainedSAE(sae, metrics)

    def _statistics(self, head: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the scale, sqrt(d_in) / E||x||, and the mean token `[d_in]`, over all processes."""
        d_in = self.config.d_in
        n = int(summed(torch.tensor(sum(map(len, head)), device=self.device)))
        if n < d_in or not least(len(head), self.device):
            raise HapaxError(
                f"There are {n} tokens to train on, but at least {d_in} are needed, one for each channel; "
                "record more pictures, positions or steps."
            )
        norm = torch.zeros((), dtype=torch.float64, device=self.device)
        total = torch.zeros(d_in, dtype=torch.float64, device=self.device)
        for x in head:
            x = x.to(self.device).double()
            norm += x.norm(dim=1).sum()
            total += x.sum(0)
        norm = summed(norm) / n
        if not norm > 0:
            raise HapaxError(f"All {n} tokens are zero; check that the site was recorded.")
        return (d_in**0.5 / norm).float(), (summed(total) / n).float()


@torch.no_grad()
def make_orthogonal(W: Tensor) -> None:
    """Take from the gradient of the unit rows `W` `[d_sae, d_in]` what points along them.

    That part would only change their norm, which is fixed; Adam's state shall not see it.
    """
    assert W.grad is not None
    W.grad.addcmul_(W, torch.linalg.vecdot(W.grad, W)[:, None], value=-1)


def auxiliary_loss(sae: MatryoshkaSAE, x: Tensor, residual: Tensor, dead: Tensor, aux_k: int) -> Tensor:
    """AuxK (arXiv 2406.04093): what the living don't explain, explained by the dead.

    The mean squared error between the residual and its reconstruction by each token's aux_k largest
    activations among the dead latents. Zero if none is dead.

    Args:
        sae: the autoencoder.
        x: tokens `[B, d_in]`.
        residual: x - x_hat `[B, d_in]`; it gets no gradient, or the living would learn to leave something over.
        dead: mask `[d_sae]`.
        aux_k: dead latents a token may use.
    """
    ids = dead.nonzero().squeeze(1)
    if not len(ids):
        return x.new_zeros(())
    # Few are dead, or aux_k of them serve each token: dense products on their rows beat picking pairs.
    a = torch.nn.functional.linear(x - sae.b_dec, sae.W_enc[ids], sae.b_enc[ids]).relu()
    if len(ids) > aux_k:
        top = a.topk(aux_k, dim=1, sorted=False)
        a = torch.zeros_like(a).scatter(1, top.indices, top.values)
    return (a @ sae.W_dec[ids] - residual.detach()).square().mean()
