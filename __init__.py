"""Hapax: find what a diffusion model knows but almost never shows, say how rare it is, and turn it up."""

__version__ = "0.1.0"
