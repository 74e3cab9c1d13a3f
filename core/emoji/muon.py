"""Muon, an optimizer that makes the update of every weight matrix orthogonal.

PyTorch's own takes matrices alone; most weights of a UNet are convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Polar Express (Amsel et al. 2025, arXiv 2505.16932, Algorithm 1): the best odd polynomials of degree five, in order.
POLAR = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, then the nearest (semi-)orthogonal matrix (Jordan et al. 2024, "Muon").

    A convolution [out, in, h, w] counts as the matrix [out, in * h * w].
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95) -> None:
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"]).flatten(1)
                rows, columns = update.shape
                scale = group["lr"] * max(1, rows / columns) ** 0.5
                parameter.sub_(scale * orthogonalized(update).view(parameter.shape))


def orthogonalized(matrix: Tensor) -> Tensor:
    """About U V^T of a matrix U S V^T [m, n].

    The polynomials are applied to X X^T of the shorter side, which costs less than to X when one side is longer.

    >>> x = orthogonalized(torch.randn(4, 9, generator=torch.Generator().manual_seed(0)))
    >>> (x @ x.T - torch.eye(4)).abs().max().item() < 0.2
    True
    """
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (1.01 * x.norm() + 1e-7)
    gram, total = x @ x.T, torch.eye(len(x))
    for a, b, c in POLAR:
        step = torch.addmm(b * gram, gram, gram, alpha=c)
        step.diagonal().add_(a)
        total, gram = step @ total, step @ gram @ step
    x = total @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x
