"""On which pictures a latent fires: the pictures on the high side of the split that fits its activations best.

The paper counts any activation above 0 at any position (RAIGen, Sec. 4.2). Over several steps and positions weak
activations add up, and on the emoji world rates came out three times too high; with the split they agree with what
is in the pictures. For the paper's count leave this step out.
"""

from __future__ import annotations

import torch
from torch import Tensor


def otsu_thresholds(z: Tensor) -> Tensor:
    """Per latent, the threshold that maximises the variance between the two classes (Otsu 1979, Eq. 14).

    Args:
        z: [N, L] image-level activations, N >= 2.

    Returns:
        [L] fp64: half-way between the two neighbouring values that are split; ties go to the lowest split.

    Example:
        >>> otsu_thresholds(torch.tensor([[0.0], [0.2], [0.1], [5.0], [5.2]]))
        tensor([2.6000], dtype=torch.float64)
    """
    ordered = z.double().sort(0).values
    n, total = len(ordered), ordered.sum(0)
    below = ordered.cumsum(0)[:-1]
    k = torch.arange(1, n, dtype=torch.float64, device=z.device)[:, None]
    between = (k / n) * (1 - k / n) * (below / k - (total - below) / (n - k)).square()
    split = between.argmax(0, keepdim=True)
    return ((ordered.gather(0, split) + ordered.gather(0, split + 1)) / 2)[0]


def firing(z: Tensor) -> Tensor:
    """Image-level activations [N, L] with those of pictures on which a latent does not fire set to 0.

    Example:
        >>> firing(torch.tensor([[0.0], [0.2], [0.1], [5.0], [5.2]])).T
        tensor([[0.0000, 0.0000, 0.0000, 5.0000, 5.2000]])
    """
    return torch.where(z > otsu_thresholds(z), z, torch.zeros_like(z))
