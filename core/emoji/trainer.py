"""One training loop for the three models of the emoji world: EMA, cosine schedule, exact checkpoints."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .muon import Muon


def is_inner(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon may train a parameter: a matrix or a convolution between two hidden layers."""
    return parameter.ndim >= 2 and not any(part in name for part in ("embedding", "conv_in", "conv_out"))


class Trainer:
    """AdamW on `model` with a warm-up and a cosine to zero, an EMA of the weights, and resumable checkpoints.

    With `muon`, the learning rate of Muon, that trains the weights of inner linear and convolution layers instead.
    `loss(step)` draws everything random from `step`, so that a resumed run is the unbroken one.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[int], Tensor],
        folder: Path,
        *,
        steps: int,
        lr: float,
        muon: float = 0.0,
        warmup: int = 100,
        ema: float = 0.998,
        weight_decay: float = 1e-4,
    ) -> None:
        self.model, self.loss, self.folder = model, loss, folder
        self.steps, self.warmup, self.ema_decay = steps, warmup, ema
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.ema = {n: p.detach().clone() for n, p in self.parameters.items()}
        inner = [p for n, p in self.parameters.items() if muon and is_inner(n, p)]
        others = [p for n, p in self.parameters.items() if not (muon and is_inner(n, p))]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
        ]
        if inner:
            self.optimizers.append(Muon(inner, lr=muon))
        self.rates = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.step = 0

    @property
    def checkpoint(self) -> Path:
        """The one checkpoint file; it is replaced whole."""
        return self.folder / "checkpoint.safetensors"

    def save(self) -> None:
        """Write weights, EMA and optimizer state."""
        tensors = {f"model.{n}": p.detach() for n, p in self.parameters.items()}
        tensors |= {f"ema.{n}": e for n, e in self.ema.items()}
        for name, parameter in self.parameters.items():
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer.{name}.{key}"] = value
        partial = self.checkpoint.with_suffix(".partial")
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, {"step": str(self.step)})
        os.replace(partial, self.checkpoint)

    def resume(self) -> None:
        """Load the checkpoint if there is one."""
        if not self.checkpoint.exists():
            return
        with safe_open(self.checkpoint, "pt") as file, torch.no_grad():
            self.step = int(file.metadata()["step"])
            for name, parameter in self.parameters.items():
                parameter.copy_(file.get_tensor(f"model.{name}"))
                self.ema[name].copy_(file.get_tensor(f"ema.{name}"))
            for optimizer in self.optimizers:
                self._resume_state(optimizer, file)

    def _resume_state(self, optimizer: torch.optim.Optimizer, file: Any) -> None:
        names = {id(p): n for n, p in self.parameters.items()}
        for parameter in optimizer.param_groups[0]["params"]:
            prefix = f"optimizer.{names[id(parameter)]}."
            keys = [key for key in file.keys() if key.startswith(prefix)]
            optimizer.state[parameter] = {key.removeprefix(prefix): file.get_tensor(key) for key in keys}

    def _rate(self) -> float:
        """The share of the full learning rates at this step."""
        warm = min(1.0, (self.step + 1) / self.warmup)
        return warm * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))

    def run(self, report_every: int = 50, save_every: int = 250) -> None:
        """Train to the last step, then leave the EMA weights in the model."""
        self.resume()
        started, total = time.time(), 0.0
        while self.step < self.steps:
            for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
                optimizer.param_groups[0]["lr"] = rate * self._rate()
            loss = self.loss(self.step)
            self.model.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
            self.step += 1
            self._update_ema()
            total += loss.item()
            if self.step % report_every == 0:
                line = {
                    "step": self.step,
                    "loss": round(total / report_every, 6),
                    "s": round(time.time() - started),
                }
                print(json.dumps(line), flush=True)
                total = 0.0
            if self.step % save_every == 0 or self.step == self.steps:
                self.save()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.ema[name])

    def _update_ema(self) -> None:
        decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.values()), [p.detach() for p in self.parameters.values()], 1 - decay)
