"""Train the denoiser and its text encoder on latents of the emoji world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from .lessons import BATCH, Batch, Lessons
from .tokens import CONTEXT
from .trainer import Trainer

WIDTH = 128


def build_unet() -> Any:
    """SD1.x's shape in small, where what a picture shows is decided in the middle block.

    With cross-attention in the upper blocks and open skips, the trained model hardly used its bottleneck: pictures
    kept their looks when all of it was exchanged for another picture's, so nothing could be shown that acts there.
    """
    config = {
        "sample_size": 8,
        "in_channels": 8,
        "out_channels": 8,
        "layers_per_block": 2,
        "block_out_channels": [64, 192],
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 32,
    }
    unet: Any = UNet2DConditionModel.from_config(config)
    close_skips(unet)
    return unet


def close_skips(unet: Any) -> None:
    """Keep at zero what the decoder reads from the encoder, but for the first convolution's output.

    What the last convolutions can't see within their reach has to pass the bottleneck then.
    """
    for block in unet.up_blocks:
        for resnet in block.resnets:
            if resnet is unet.up_blocks[-1].resnets[-1]:
                continue
            for layer in (resnet.conv1, resnet.conv_shortcut):
                own = torch.ones_like(layer.weight)
                own[:, _from_below(unet, block, resnet) :] = 0
                with torch.no_grad():
                    layer.weight.mul_(own)
                layer.weight.register_hook(lambda gradient, own=own: gradient * own)


def _from_below(unet: Any, block: Any, resnet: Any) -> int:
    """Channels of a decoder's resnet that come from below; the rest come from the encoder."""
    if resnet is not block.resnets[0]:
        return resnet.out_channels
    return unet.config.block_out_channels[-1]


def build_text_encoder(tokenizer: Any) -> Any:
    """A two-layer CLIP text model on the small vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            projection_dim=WIDTH,
        )
    )


class Phase(NamedTuple):
    """A run of the trainer; half of its training times lie in `focus`, a share of the schedule.

    `cosine`: steps after which the learning rate would be zero. `pairs`: of each batch, how many pairs of rows
    differ in one attribute alone; half of their times lie in `CONTRAST`. `rivals`: the weight of leaning towards them.
    """

    name: str
    steps: int
    lr: float
    focus: tuple[float, float]
    cosine: int
    pairs: int = 0
    rivals: float = 0.0


# The whole first, then the words. Minding rivals and pairs from the start makes gradients so uneven that the whole
# hardly moves: its squared error stood at .5 for 1,500 steps, and fell to .14 in 1,500 without them.
PHASES = (
    Phase("learn", 4500, 1e-3, (0.15, 0.75), cosine=9000, rivals=0.005),
    Phase("name", 4500, 8e-4, (0.05, 0.7), cosine=4500, pairs=12, rivals=0.03),
)
CONTRAST, CONTRAST_WEIGHT = (0.3, 0.95), 8.0


class Denoiser(nn.Module):
    """UNet and text encoder as one module, so that they train and checkpoint together."""

    def __init__(self, unet: Any, text: Any) -> None:
        super().__init__()
        self.unet, self.text = unet, text

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Predicted v [B, 8, 8, 8]."""
        return self.unet(x, t, self.text(tokens).last_hidden_state, return_dict=False)[0]


def compiled(model: Denoiser) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The model's forward in bf16, made for these CPUs: v [B, 8, 8, 8] in fp32 of x, t and tokens."""
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    # PyTorch's fused attention is slow backwards on CPUs: it took 60 % of a step.
    model.unet.set_attn_processor(AttnProcessor())
    model.text.set_attn_implementation("eager")
    forward = torch.compile(model)

    def call(x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return forward(x.contiguous(memory_format=torch.channels_last), t, tokens).float()

    return call


def joined(parts: list[Batch]) -> Batch:
    """One batch of several."""
    return Batch(*(torch.cat(part) for part in zip(*parts, strict=True)))


def paired_error(lessons: Lessons, error: Tensor, batch: Batch, pairs: int, rivals: float) -> Tensor:
    """The squared error of v [B, 8, 8, 8], and that of the differences within the pairs that the batch ends with."""
    mean = lessons.squared_error(error, batch, rivals)
    if not pairs:
        return mean
    one, other = error[-2 * pairs :].chunk(2)
    differ = lessons.squared_error(one - other, batch, rivals, slice(-pairs, None))
    return mean + CONTRAST_WEIGHT * pairs / BATCH * differ


def train_unet(folder: Path, lessons: Lessons, tokenizer: Any) -> Denoiser:
    """Train (or resume) in `folder`; returns the model with its EMA weights."""
    torch.manual_seed(0)
    model = Denoiser(build_unet(), build_text_encoder(tokenizer))
    predict = compiled(model)

    def run(phase: Phase) -> None:
        def loss(step: int) -> Tensor:
            parts = [lessons.draw(step, phase.focus, size=BATCH - 2 * phase.pairs)]
            if phase.pairs:
                parts.append(lessons.contrast(step, CONTRAST, pairs=phase.pairs))
            batch = joined(parts)
            error = predict(batch.x, batch.t, batch.tokens) - batch.target
            return paired_error(lessons, error, batch, phase.pairs, phase.rivals)

        run = folder / phase.name
        Trainer(model, loss, run, steps=phase.steps, cosine=phase.cosine, lr=phase.lr, ema=0.999).run()

    for phase in PHASES:
        run(phase)
    return model
