"""What an autoencoder is, in words."""

from __future__ import annotations

from .model import MatryoshkaSAE


def describe_sae(sae: MatryoshkaSAE) -> str:
    """Size, site, quality and origin, one a line; what isn't known is left out.

    >>> print(describe_sae(MatryoshkaSAE(4, 8, (2, 8), 2)))
    8 latents (2 coarse) over 4 channels
    2 active in a token on average
    """
    meta, sizes = sae.meta, ", ".join(f"{size:,} coarse" for size in sae.prefix_sizes[:-1])
    lines = [
        f"{sae.d_sae:,} latents{f' ({sizes})' if sizes else ''} over {sae.d_in:,} channels",
        f"{sae.k} active in a token on average",
    ]
    for key, said in (("site", "reads at"), ("architecture", "of a"), ("pictures", "trained on pictures:")):
        if meta.get(key):
            lines.append(f"{said} {meta[key]}")
    metrics = meta.get("metrics") or {}
    for size, fvu, l0, dead in zip(
        sae.prefix_sizes, *(metrics.get(key, ()) for key in ("fvu", "l0", "dead")), strict=False
    ):
        lines.append(
            f"first {size:,}: leaves {100 * fvu:.1f} % unexplained, {l0:.1f} active a token, {100 * dead:.0f} % never"
        )
    if meta.get("model"):
        lines.append(f"model {str(meta['model'])[:16]}")
    return "\n".join(lines)
