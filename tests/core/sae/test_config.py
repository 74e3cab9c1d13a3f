"""SAEConfig: the paper's defaults, and a sentence for each impossible value."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hapax.core.errors import HapaxError
from hapax.core.sae import MatryoshkaSAE, SAEConfig


def test_defaults_are_the_papers():
    config = SAEConfig(1280, 20480, (2048, 20480))
    found = (config.k, config.lr, config.batch_size, config.epochs, config.aux_coefficient, config.aux_k)
    assert found == (32, 3e-4, 4096, 5, 1 / 32, 512)
    assert (config.dead_after, config.seed, config.bf16) == (20, 0, False)


def test_is_frozen_and_takes_lists_from_json():
    config = SAEConfig(8, 32, [8, 32], 4)  # pyright: ignore[reportArgumentType]
    assert config.prefix_sizes == (8, 32)
    with pytest.raises(FrozenInstanceError):
        config.k = 5  # pyright: ignore[reportAttributeAccessIssue]


GOOD = {"d_in": 8, "d_sae": 32, "prefix_sizes": (8, 32), "k": 4}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"d_in": 0}, "d_in is 0"),
        ({"d_in": 8.0}, "d_in is 8.0"),
        ({"k": 0}, "k is 0"),
        ({"k": 33}, "k is 33, but there are only 32 latents"),
        ({"prefix_sizes": ()}, "prefix_sizes is []"),
        ({"prefix_sizes": 8}, "ends with 8, but d_sae is 32"),
        ({"prefix_sizes": ("8", "32")}, "prefix_sizes is ['8', '32']"),
        ({"prefix_sizes": (0, 32)}, "whole numbers"),
        ({"prefix_sizes": (16, 8, 32)}, "does not increase"),
        ({"prefix_sizes": (8, 8, 32)}, "does not increase"),
        ({"prefix_sizes": (8, 24)}, "ends with 24, but d_sae is 32"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"aux_coefficient": -1.0}, "aux_coefficient is -1.0"),
        ({"aux_k": 0}, "aux_k is 0"),
        ({"dead_after": 0}, "dead_after is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_values_are_refused(change, sentence):
    with pytest.raises(HapaxError) as error:
        SAEConfig(**{**GOOD, **change})
    assert sentence in str(error.value)


def test_the_model_refuses_what_the_config_refuses():
    with pytest.raises(HapaxError, match="does not increase"):
        MatryoshkaSAE(8, 32, (16, 8, 32), 4)
