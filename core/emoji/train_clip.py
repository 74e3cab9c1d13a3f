"""Train the tiny CLIP of the emoji world; captions name attributes, some combinations are held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .render import render_all, shifts
from .tokens import CONTEXT
from .trainer import Trainer
from .world import Kind, World, load_world

STEPS, BATCH, LR = 1600, 128, 1e-3
HELD_OUT, LISTED = 0.1, 0.4
CLIP_CONFIG = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "patch_size": 8, "width": 128, "layers": 4, "head_width": 32},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": 728, "width": 128, "heads": 4, "layers": 2},
}


def build_clip() -> Any:
    """An open_clip model of 1.3 M parameters."""
    return open_clip.CLIP(**CLIP_CONFIG)


def split_kinds(world: World) -> tuple[list[int], list[int]]:
    """Indices into `world.kinds()`: (seen in training, held out). Whole combinations are held out."""
    rng = np.random.default_rng(7)
    held = rng.random(len(world.kinds())) < HELD_OUT
    return [int(i) for i in np.flatnonzero(~held)], [int(i) for i in np.flatnonzero(held)]


def normalise(pictures: Tensor) -> Tensor:
    """uint8 or [0, 255] float [B, H, W, 3] -> open_clip's normalised [B, 3, H, W]."""
    mean, std = torch.tensor(open_clip.OPENAI_DATASET_MEAN), torch.tensor(open_clip.OPENAI_DATASET_STD)
    return ((pictures.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def _true_of(kinds: list[Kind], named: list[set[str]]) -> Tensor:
    """matches[i, j]: whether the caption of pair j, with its named attributes, is true of picture i."""
    return torch.tensor(
        [
            [a.concept == b.concept and all(a[n] == b[n] for n in names) for b, names in zip(kinds, named, strict=True)]
            for a in kinds
        ]
    )


def train_clip(folder: Path, merges: Path, steps: int = STEPS) -> Any:
    """Train (or resume) in `folder`; returns the model with its EMA weights."""
    torch.manual_seed(0)
    world = load_world()
    kinds, pictures, offsets = world.kinds(), torch.from_numpy(render_all(world)), shifts(world)
    seen, _ = split_kinds(world)
    tokenizer = open_clip.tokenizer.SimpleTokenizer(bpe_path=str(merges), context_length=CONTEXT)
    model = build_clip()

    def loss(step: int) -> Tensor:
        rng, generator = np.random.default_rng([3, step]), torch.Generator().manual_seed(step)
        chosen = [seen[i] for i in rng.integers(len(seen), size=BATCH)]
        batch = [kinds[i] for i in chosen]
        named = [{a for a, _ in k.attributes if rng.random() < 0.6} for k in batch]
        texts = [
            world.caption(k, n, int(rng.integers(len(world.templates))), listed=rng.random() < LISTED)
            for k, n in zip(batch, named, strict=True)
        ]
        x = torch.stack([pictures[i].roll(offsets[rng.integers(len(offsets))], (0, 1)) for i in chosen])
        # Generated pictures are a little soft and noisy; the tower must not mind.
        x = x.float() + torch.rand(BATCH, 1, 1, 1, generator=generator) * 16 * torch.randn(x.shape, generator=generator)
        # PyTorch's fused attention is slow backwards on CPUs.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            image = model.encode_image(normalise(x.clamp(0, 255)), normalize=True).float()
            text = model.encode_text(tokenizer(texts), normalize=True).float()
        logits = model.logit_scale.exp().clamp(max=100) * image @ text.T
        # Several captions of a batch are true of one picture, so the targets are spread evenly over them.
        target = _true_of(batch, named).float()
        rows = -(target / target.sum(1, True) * logits.log_softmax(1)).sum(1).mean()
        columns = -(target / target.sum(0, True) * logits.log_softmax(0)).sum(0).mean()
        return (rows + columns) / 2

    Trainer(model, loss, folder, steps=steps, lr=LR, ema=0.99).run()
    return model


@torch.no_grad()
def held_out_accuracy(model: Any, merges: Path) -> dict[str, float]:
    """For held-out kinds: how often the right value's caption is ranked first, per attribute and in all."""
    world = load_world()
    kinds, pictures = world.kinds(), torch.from_numpy(render_all(world))
    tokenizer = open_clip.tokenizer.SimpleTokenizer(bpe_path=str(merges), context_length=CONTEXT)
    hits: dict[str, list[bool]] = {}
    for i in split_kinds(world)[1]:
        image = model.encode_image(normalise(pictures[i : i + 1]), normalize=True)[0]
        for attribute, value in kinds[i].attributes:
            values = list(world.truth[kinds[i].concept][attribute])
            texts = [world.caption(Kind(kinds[i].concept, ((attribute, v),)), {attribute}) for v in values]
            best = int((model.encode_text(tokenizer(texts), normalize=True) @ image).argmax())
            hits.setdefault(attribute, []).append(values[best] == value)
    everything = [hit for row in hits.values() for hit in row]
    return {**{a: float(np.mean(row)) for a, row in hits.items()}, "all": float(np.mean(everything))}
