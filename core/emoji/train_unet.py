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

from .lessons import Lessons
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
        "layers_per_block": 1,
        "block_out_channels": [64, 128],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 32,
    }
    unet: Any = UNet2DConditionModel.from_config(config)
    close_skips(unet)
    return unet


class FromBelow(nn.Conv2d):
    """A convolution that skips its inputs from `below` on, whose weights are and stay zero."""

    below: int

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] of [B, >= below, H, W]."""
        return self._conv_forward(input[:, : self.below], self.weight[:, : self.below], self.bias)


def close_skips(unet: Any) -> None:
    """Keep at zero what the decoder reads from the encoder, but for the first convolution's output.

    What the last convolutions can't see within their reach has to pass the bottleneck then.
    """
    for block in unet.up_blocks:
        for resnet in block.resnets:
            if resnet is unet.up_blocks[-1].resnets[-1]:
                continue
            for layer in (resnet.conv1, resnet.conv_shortcut):
                layer.__class__, layer.below = FromBelow, _from_below(unet, block, resnet)
                with torch.no_grad():
                    layer.weight[:, layer.below :] = 0


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

    `muon` is the learning rate of inner weights, `lr` that of all others; both fall to zero along a cosine.
    """

    name: str
    steps: int
    lr: float
    muon: float
    focus: tuple[float, float]


# In trials of 300 steps Muon took half of AdamW's steps to the same error.
# Which kind a picture becomes is decided within the focus.
LEARN = Phase("learn", 4600, 1e-3, 0.02, (0.3, 0.95))


class Denoiser(nn.Module):
    """UNet and text encoder as one module, so that they train and checkpoint together."""

    def __init__(self, unet: Any, text: Any) -> None:
        super().__init__()
        self.unet, self.text = unet, text

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Predicted v [B, 8, 8, 8]."""
        return self.unet(x, t, self.text(tokens).last_hidden_state, return_dict=False)[0]


def compiled(model: Denoiser) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The model's forward, made for CPUs, in bf16 where they have it: v [B, 8, 8, 8] in fp32 of x, t and tokens."""
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    # PyTorch's fused attention is slow backwards on CPUs: it took 60 % of a step.
    model.unet.set_attn_processor(AttnProcessor())
    model.text.set_attn_implementation("eager")
    forward, short = torch.compile(model), torch.cpu._is_avx512_bf16_supported()

    def call(x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=short):
            return forward(x.contiguous(memory_format=torch.channels_last), t, tokens).float()

    return call


def train_unet(folder: Path, lessons: Lessons, tokenizer: Any) -> Denoiser:
    """Train (or resume) in `folder`; returns the model with its EMA weights."""
    torch.manual_seed(0)
    model = Denoiser(build_unet(), build_text_encoder(tokenizer))
    predict = compiled(model)

    def loss(step: int) -> Tensor:
        batch = lessons.draw(step, LEARN.focus)
        return (predict(batch.x, batch.t, batch.tokens) - batch.target).square().mean()

    Trainer(model, loss, folder / LEARN.name, steps=LEARN.steps, lr=LEARN.lr, muon=LEARN.muon, ema=0.999).run()
    return model
