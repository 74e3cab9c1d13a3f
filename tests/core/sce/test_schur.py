"""The score against its definition, the published sequence of operations, and the properties it must have."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.sce import DEFAULT_RIDGE, SCE, orthogonal_frequencies, schur_complement_entropy, vendi_score
from torch import Tensor

PARTS = ("image", "image_effective", "trace_image", "text", "text_effective", "trace_text")


def unit(x: Tensor) -> np.ndarray:
    return (x / x.norm(dim=1, keepdim=True)).numpy()


def same(found: SCE, expected: dict[str, float], tolerance: float) -> None:
    for name in PARTS:
        assert getattr(found, name) == pytest.approx(expected[name], rel=tolerance, abs=tolerance), name


@pytest.mark.parametrize("ridge", [1e-1, DEFAULT_RIDGE, 1e-6])
@pytest.mark.parametrize(("n", "d", "prompts"), [(120, 12, 8), (30, 40, 5), (60, 7, 60), (50, 6, 1)])
@pytest.mark.filterwarnings("ignore:.*prompts are different")
def test_cosine_is_the_definition(make_pairs: Callable, oracle: Callable, n: int, d: int, prompts: int, ridge: float):
    image, text = make_pairs(n, d, prompts, scale=7.0)
    found = schur_complement_entropy(image, text, ridge=ridge)
    same(found, oracle(unit(image), unit(text), ridge), 1e-8)
    assert (found.ridge, found.n) == (ridge, n)
    assert found.unique_texts == len(np.unique(text.numpy(), axis=0))


@pytest.mark.parametrize("ridge", [1e-1, DEFAULT_RIDGE, 1e-5])
@pytest.mark.parametrize(("n", "prompts"), [(80, 6), (60, 60), (40, 1)])
@pytest.mark.filterwarnings("ignore:.*prompts are different")
def test_dual_is_the_definition(
    make_pairs: Callable, oracle: Callable, exact_features: Callable, n: int, prompts: int, ridge: float
):
    image, text = make_pairs(n, 5, prompts)
    found = schur_complement_entropy(image, text, kernel="gaussian", sigma=3.0, ridge=ridge)
    same(found, oracle(*exact_features(image, text, 3.0), ridge), 1e-8)


def published(image: Tensor, text: Tensor, omegas: Tensor, ridge: float) -> tuple[float, float]:
    """The published code's sequence of operations, from its description: features, covariances as means of outer
    products, a pseudo-inverse, both parts' eigenvalues clamped at 1e-10, exp of minus the sum of lam ln(lam / tau).
    """

    def phi(x: Tensor) -> Tensor:
        product = x @ omegas
        return torch.cat([torch.cos(product), torch.sin(product)], dim=-1) / omegas.shape[1] ** 0.5

    y, x = phi(image), phi(text)
    c_xx = torch.einsum("na,nb->ab", x, x) / len(x) + ridge * torch.eye(x.shape[1], dtype=x.dtype)
    c_xy, c_yy = torch.einsum("na,nb->ab", x, y) / len(x), torch.einsum("na,nb->ab", y, y) / len(y)
    explained = c_xy.T @ torch.linalg.pinv(c_xx) @ c_xy
    scores = []
    for part in (c_yy - explained, explained):
        lam = torch.linalg.eigh(part).eigenvalues.clamp(min=1e-10)
        scores.append(float(torch.exp(-(lam * torch.log(lam / lam.sum())).sum())))
    return scores[0], scores[1]


@pytest.mark.parametrize("ridge", [1e-2, DEFAULT_RIDGE])
@pytest.mark.parametrize("prompts", [10, 150])
@pytest.mark.filterwarnings("ignore:.*prompts are different")
def test_published_random_features(make_pairs: Callable, prompts: int, ridge: float):
    image, text = make_pairs(150, 16, prompts)
    omegas = orthogonal_frequencies(16, 60, 4.0, torch.Generator().manual_seed(3))
    found = schur_complement_entropy(
        image, text, kernel="gaussian", sigma=4.0, ridge=ridge, rff_dim=60, generator=torch.Generator().manual_seed(3)
    )
    expected = published(image, text, omegas, ridge)
    assert (found.image, found.text) == pytest.approx(expected, rel=1e-4)


def test_more_frequencies_come_closer_to_the_exact_form(make_pairs: Callable):
    image, text = make_pairs(100, 6, 5)
    exact = schur_complement_entropy(image, text, kernel="gaussian", sigma=3.0).image
    errors = []
    for count in (6, 60, 600):
        draws = [
            schur_complement_entropy(
                image,
                text,
                kernel="gaussian",
                sigma=3.0,
                rff_dim=count,
                generator=torch.Generator().manual_seed(seed),
            ).image
            for seed in range(5)
        ]
        errors.append(np.mean([abs(draw - exact) for draw in draws]))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.02 * exact


def test_random_features_are_the_same_every_time(make_pairs: Callable):
    image, text = make_pairs()
    options = {"kernel": "gaussian", "sigma": 3.0, "rff_dim": 30}
    assert schur_complement_entropy(image, text, **options) == schur_complement_entropy(image, text, **options)


def test_parts_share_out_the_whole(make_pairs: Callable):
    image, text = make_pairs()
    for options in ({}, {"kernel": "gaussian", "sigma": 2.0}):
        found = schur_complement_entropy(image, text, **options)
        assert found.trace_image + found.trace_text == pytest.approx(1, abs=1e-10)
        assert 0 < found.trace_image < 1


def test_coded_and_normalised_values_differ_by_the_trace(make_pairs: Callable):
    found = schur_complement_entropy(*make_pairs())
    assert math.log(found.image) == pytest.approx(found.trace_image * math.log(found.image_effective))
    assert math.log(found.text) == pytest.approx(found.trace_text * math.log(found.text_effective))


def test_one_constant_prompt_leaves_what_differs_from_the_mean(make_pairs: Callable):
    image, text = make_pairs(prompts=1)
    found = schur_complement_entropy(image, text, ridge=1e-9)
    x = unit(image)
    assert found.trace_image == pytest.approx(1 - np.square(x.mean(0)).sum(), abs=1e-6)


def test_prompts_that_say_nothing_leave_nearly_all(make_pairs: Callable):
    image, _ = make_pairs(4000, 12, seed=1)
    image = image - image.mean(0)
    _, text = make_pairs(4000, 12, prompts=50, seed=2)
    found = schur_complement_entropy(image, text)
    assert found.trace_image > 0.97
    assert found.image_effective == pytest.approx(vendi_score(image), rel=0.02)


def test_order_of_pairs_scale_and_dtype_do_not_matter(make_pairs: Callable):
    image, text = make_pairs()
    whole = schur_complement_entropy(image, text)
    turned = schur_complement_entropy(3 * image.flip(0).float(), text.flip(0).float() / 5)
    assert turned.image == pytest.approx(whole.image, rel=1e-6)
    assert turned.unique_texts == whole.unique_texts


def test_a_larger_ridge_puts_less_down_to_the_prompts(make_pairs: Callable):
    image, text = make_pairs()
    traces = [schur_complement_entropy(image, text, ridge=ridge).trace_text for ridge in (1e-6, 1e-3, 1e-1, 10)]
    assert traces == sorted(traces, reverse=True)
    assert traces[0] > 5 * traces[-1]


def test_without_a_ridge_distinct_prompts_would_explain_everything_and_a_warning_says_so():
    image, text = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)), torch.randn(200, 8)
    with pytest.warns(UserWarning, match="200 of 200 prompts are different"):
        tiny = schur_complement_entropy(image, text, kernel="gaussian", sigma=1.0, ridge=1e-12)
    assert tiny.trace_image < 1e-6
    with pytest.warns(UserWarning, match="folds=5"):
        schur_complement_entropy(image, text)


def test_no_warning_where_prompts_repeat(make_pairs: Callable):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schur_complement_entropy(*make_pairs())
        schur_complement_entropy(*make_pairs(60, prompts=60), folds=5)


def test_cross_fitting_undoes_what_interpolation_explains():
    """Texts that know nothing of the pictures: the plain score puts much down to them, the cross-fitted none."""
    g = torch.Generator().manual_seed(0)
    image, text = torch.randn(120, 40, generator=g), torch.randn(120, 40, generator=g)
    with pytest.warns(UserWarning, match="120 of 120"):
        plain = schur_complement_entropy(image, text, ridge=1e-4)
    fitted = schur_complement_entropy(image, text, ridge=1e-4, folds=5)
    assert plain.trace_image < 0.75
    assert fitted.trace_image > 1.0


def test_cross_fitting_changes_little_where_there_is_plenty(make_pairs: Callable):
    image, text = make_pairs(6000)
    plain, fitted = schur_complement_entropy(image, text), schur_complement_entropy(image, text, folds=5)
    assert fitted.image == pytest.approx(plain.image, rel=0.005)
    assert fitted.trace_image > plain.trace_image


@pytest.mark.parametrize("kernel", ["cosine", "gaussian"])
@pytest.mark.parametrize("prompts", [6, 60])
def test_cross_fitting_is_the_definition(make_pairs: Callable, exact_features: Callable, prompts: int, kernel: str):
    from hapax.core.sce.pairs import blocks, unique_texts

    image, text = make_pairs(60, 4, prompts)
    if kernel == "cosine":
        found = schur_complement_entropy(image, text, folds=3)
        phi_i, phi_t = unit(image), unit(text)
    else:
        found = schur_complement_entropy(image, text, kernel="gaussian", sigma=2.0, folds=3)
        phi_i, phi_t = exact_features(image, text, 2.0)
    fold, total = blocks(unique_texts(text)[0], 3).numpy(), 0
    for k in range(3):
        held, rest = fold == k, fold != k
        inner = phi_t[rest].T @ phi_t[rest] / rest.sum() + DEFAULT_RIDGE * np.eye(phi_t.shape[1])
        b = np.linalg.solve(inner, phi_t[rest].T @ phi_i[rest] / rest.sum())
        r = phi_i[held] - phi_t[held] @ b
        total = total + r.T @ r + held.sum() * DEFAULT_RIDGE * b.T @ b
    image_part = total / 60
    text_part = phi_i.T @ phi_i / 60 - image_part
    for part, value in ((image_part, found.image), (text_part, found.text)):
        lam = np.linalg.eigvalsh(part).clip(1e-300)
        assert value == pytest.approx(np.exp(-(lam * np.log(lam / lam.sum())).sum()), rel=1e-8)


X = torch.ones(4, 3)


@pytest.mark.parametrize(
    ("image", "text", "options", "said"),
    [
        (X[:1], X[:1], {}, "There is 1 pair; diversity needs at least 2 pairs"),
        (X[:0], X[:0], {}, "image has 0 rows; give at least 1"),
        (X, X[:3], {}, "There are 4 images but 3 texts; give one text for each image"),
        (X, torch.ones(4, 5), {}, "Images have 3 dimensions but texts 5; embed both with the same model"),
        (X[0], X, {}, r"image has the shape \(3,\); expected one embedding a row"),
        (X, X * torch.tensor([[1.0], [1], [0], [1]]), {}, "text has only zeros in row 2"),
        (X / torch.tensor([[1.0], [0], [1], [1]]), X, {}, "image is not finite in row 1"),
        (X, X + torch.tensor([[0], [0], [0], [math.nan]]), {}, "text is not finite in row 3"),
        (X, X, {"ridge": 0.0}, "ridge is 0.0; give a finite number above 0"),
        (X, X, {"ridge": -1e-3}, "ridge is -0.001; give a finite number above 0"),
        (X, X, {"ridge": math.nan}, "ridge is nan; give a finite number above 0"),
        (X, X, {"kernel": "rbf"}, "kernel is 'rbf'; give 'cosine' or 'gaussian'"),
        (X, X, {"kernel": "gaussian"}, "The Gaussian kernel needs sigma"),
        (X, X, {"kernel": "gaussian", "sigma": 0.0}, "sigma is 0.0; give a finite number above 0"),
        (X, X, {"sigma": 1.0}, "sigma is 1.0, but the cosine kernel has none"),
        (X, X, {"rff_dim": 10}, "rff_dim is 10, but the cosine kernel has none"),
        (X, X, {"kernel": "gaussian", "sigma": 1.0, "rff_dim": 0}, "rff_dim is 0; give the number"),
        (X, X, {"folds": 1}, "folds is 1; give 2 or more"),
        (X, X, {"folds": 5}, "5 blocks can't be made of 4 pairs"),
    ],
)
def test_bad_input_in_one_sentence(image: Tensor, text: Tensor, options: dict, said: str):
    with pytest.raises(HapaxError, match=said) as caught:
        schur_complement_entropy(image, text, **options)
    assert "\n" not in str(caught.value)
