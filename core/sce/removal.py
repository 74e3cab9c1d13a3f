"""How well a prompt is out of embeddings: a linear probe for what they still say, and the published correction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import HapaxError
from .pairs import check_pairs, check_rows

_DECAY, _ITERATIONS = 1e-4, 150


def linear_probe(x: Tensor, y: Tensor, train: Tensor) -> float:
    """Held-out accuracy, 0 to 1, of telling classes from embeddings by multinomial regression on standardised columns.

    Where a prompt was removed, its concept is told no better than by chance; attributes that it didn't name, as before.

    Args:
        x: [n, d] embeddings.
        y: [n] int64 classes, from 0.
        train: [n] bool, the rows that the regression is fitted on; the accuracy is that of the others.

    Raises:
        HapaxError: bad rows, other counts of classes or flags than of rows, or nothing to fit on or to try.

    >>> x = torch.tensor([[-1.0], [1.0], [-2.0], [2.0]])
    >>> linear_probe(x, torch.tensor([0, 1, 0, 1]), train=torch.tensor([True, True, False, False]))
    1.0
    """
    x = check_rows(x, "x")
    if not len(x) == len(y) == len(train):
        raise HapaxError(f"There are {len(x)} rows, {len(y)} classes and {len(train)} flags; give one of each a row.")
    if not 1 < int(train.sum()) < len(x):
        raise HapaxError(
            f"{int(train.sum())} of {len(x)} rows are to be fitted on; give two or more, and leave others."
        )
    x = (x - x[train].mean(0)) / (x[train].std(0) + 1e-12)
    x = torch.cat([x, torch.ones(len(x), 1).to(x)], 1).float()
    weights = torch.zeros(x.shape[1], int(y.max()) + 1, device=x.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(x[train] @ weights, y[train]) + _DECAY * weights.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return float(((x[~train] @ weights).argmax(1) == y[~train]).float().mean())


def official_map(image: Tensor, text: Tensor) -> Tensor:
    """The correction of the paper's code (arXiv 2412.18645): B [d, d], by which an image loses text @ B.

    For comparison with published results: both of its matrices hold the cosines between columns, over d, where
    covariances belong, so concepts stay. See `fit_prompt_map`.

    Args:
        image, text: [n, d] embeddings of n pairs.

    Raises:
        HapaxError: bad pairs.
    """
    image, text = check_pairs(image, text)
    x, y = (each.double() / each.double().norm(dim=0) for each in (text, image))
    d = x.shape[1]
    gram = x.T @ x / d + 1e-12 * torch.eye(d, dtype=x.dtype, device=x.device)
    return (torch.linalg.pinv(gram) @ (x.T @ y / d)).to(image)
