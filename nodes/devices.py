"""Our own modules on the accelerator, counted and freed by ComfyUI like any model of its own."""

from __future__ import annotations

import torch
from comfy.model_management import get_torch_device, load_models_gpu, unet_offload_device
from comfy.model_patcher import ModelPatcher
from torch import nn

_PATCHER = "_hapax_patcher"


def load(module: nn.Module) -> None:
    """Move a module to ComfyUI's device, which makes room for it; ComfyUI takes it off again when it needs to."""
    load_models_gpu([patcher_of(module)])


def patcher_of(module: nn.Module) -> ModelPatcher:
    """The one ModelPatcher of a module: two of them would each think that they alone move it."""
    patcher = module.__dict__.get(_PATCHER)
    if patcher is None:
        patcher = ModelPatcher(module, load_device=get_torch_device(), offload_device=unet_offload_device())
        # It has to live as long as the module: ComfyUI takes a module without its patcher for a leak.
        object.__setattr__(module, _PATCHER, patcher)
    return patcher


@torch.inference_mode(False)
def put_back(module: nn.Module) -> None:
    """Move a module that is not ComfyUI's yet, such as one just trained, off the accelerator."""
    module.to(unet_offload_device())
