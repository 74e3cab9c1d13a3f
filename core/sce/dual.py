"""The Schur complement's eigenvalues from Gram matrices: exact, whatever the size of the feature space."""

from __future__ import annotations

import torch
from torch import Tensor


def dual_spectra(k_image: Tensor, k_text: Tensor, group: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Non-zero eigenvalues of Lambda_I [n] and Lambda_T [m], with the n pictures grouped by their m prompts.

    With A = K_T (K_T + n ridge)^-1, Lambda_I = Phi_I^T (1 - A) Phi_I / n has the eigenvalues of
    (1 - A)^1/2 K_I (1 - A)^1/2 / n, and Lambda_T those of A^1/2 K_I A^1/2 / n. K_T = Q W Q^T has rank m, where
    Q [n, m] has orthonormal columns that are constant within a prompt, so one m x m eigenproblem gives A.

    Args:
        k_image: [n, n] Gram matrix of the images.
        k_text: [m, m] Gram matrix of the different texts.
        group: [n] which text each image has.
        ridge: of the covariance C_TT = Phi_T^T Phi_T / n.
    """
    n = len(k_image)
    root = torch.bincount(group, minlength=len(k_text)).to(k_text.dtype).sqrt()
    w, vectors = torch.linalg.eigh(root[:, None] * k_text * root)
    w = w.clamp(min=0)
    explained = w / (w + n * ridge)
    # Rows of U = Q V: the eigenvectors of K_T, as functions of the picture.
    u = (vectors / root[:, None])[group]
    k_u = k_image @ u
    u_k_u = u.T @ k_u
    kept = explained.sqrt()
    text = torch.linalg.eigvalsh(kept[:, None] * u_k_u * kept / n)
    # (1 - A)^1/2 = 1 - U G U^T.
    g = 1 - (1 - explained).sqrt()
    crossed = (k_u * g) @ u.T
    image = k_image - crossed - crossed.T + (u * g) @ u_k_u @ (u * g).T
    return torch.linalg.eigvalsh(image / n), text
