"""The probe finds what embeddings say and nothing else; the published correction is as its code has it."""

from __future__ import annotations

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.sce import fit_prompt_map, linear_probe, official_map


def test_the_probe_finds_what_is_said_and_only_that():
    generator = torch.Generator().manual_seed(0)
    said, unsaid = (torch.randint(3, (900,), generator=generator) for _ in range(2))
    x = torch.randn(900, 8, generator=generator)
    x[:, :3] += 4 * torch.nn.functional.one_hot(said, 3)
    # A column that is the same in all rows has no spread to divide by.
    x = torch.cat([x, torch.ones(900, 1)], 1)
    train = torch.arange(900) % 2 == 0
    assert linear_probe(x, said, train) > 0.95
    # Chance is 1/3, of 450 rows: three standard errors are .067.
    assert linear_probe(x, unsaid, train) < 1 / 3 + 0.067


def test_removal_takes_from_the_probe_what_the_published_correction_leaves(make_pairs):
    image, text = make_pairs(n=800, d=12, prompts=4)
    image = torch.nn.functional.normalize(image, dim=1)
    prompt = torch.unique(text, dim=0, return_inverse=True)[1]
    train = torch.arange(800) % 3 > 0
    rest = fit_prompt_map(image[train], text[train]).remove(image, text)
    assert linear_probe(image, prompt, train) > 0.95
    # Chance is 1/4, of 267 rows: three standard errors are .08.
    assert linear_probe(rest, prompt, train) < 0.25 + 0.08
    published = image - text @ official_map(image[train], text[train])
    assert linear_probe(published, prompt, train) > 0.5


def test_lengths_are_not_removed_and_may_tell_the_prompt(make_pairs):
    """The map is of directions: what is left of an embedding keeps its length, which these prompts differ in."""
    image, text = make_pairs(n=800, d=12, prompts=4)
    prompt = torch.unique(text, dim=0, return_inverse=True)[1]
    train, length = torch.arange(800) % 3 > 0, image.norm(dim=1, keepdim=True)
    fitted = fit_prompt_map(image[train], text[train])
    rest = fitted.remove(image, text)
    assert torch.allclose(rest, length * fitted.remove(image / length, text))
    assert linear_probe(length, prompt, train) > 0.25 + 0.08
    # Length goes with direction within a prompt too, so these rows have another mean for each prompt.
    assert linear_probe(rest, prompt, train) > 0.25 + 0.08


def test_the_published_correction_by_explicit_inverse(make_pairs):
    image, text = make_pairs(n=60, d=5)
    x, y = text / text.norm(dim=0), image / image.norm(dim=0)
    assert torch.allclose(official_map(image, text), torch.linalg.inv(x.T @ x) @ (x.T @ y), atol=1e-8)
    assert official_map(image.float(), text.float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("classes", "flags", "said"),
    [
        ([0, 1], [True, False, True], "3 rows, 2 classes and 3 flags"),
        ([0, 1, 0], [True, True, True], "3 of 3 rows"),
        ([0, 1, 0], [True, False, False], "1 of 3 rows"),
    ],
)
def test_bad_input(classes: list, flags: list, said: str):
    with pytest.raises(HapaxError, match=said):
        linear_probe(torch.ones(3, 2), torch.tensor(classes), torch.tensor(flags))
