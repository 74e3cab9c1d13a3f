"""Hapax: find what a diffusion model knows but almost never shows, say how rare it is, and turn it up."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """Called by ComfyUI when it loads this folder; nothing of ComfyUI is imported before."""
    from .nodes.extension import HapaxExtension

    return HapaxExtension()
