"""Whether a thing fits a model, said in one sentence."""

from __future__ import annotations

import pytest
from hapax.core.errors import HapaxError
from hapax.core.fits import check_fits

COMFYUI = {"versions": {"comfyui": "0.33.0"}}


@pytest.mark.parametrize(
    ("made_for", "found"),
    [
        ({}, {"site": "mid"}),
        ({"site": "mid"}, {}),
        ({"site": "mid", "channels": 4, "model": "a"}, {"site": "mid", "channels": 4, "model": "a"}),
        ({"model": "a", **COMFYUI}, {"model": "b"}),
        ({"model": "a"}, {"model": "b", **COMFYUI}),
        ({"model": None}, {"model": "b"}),
    ],
)
def test_what_agrees_or_is_not_known_fits(made_for, found):
    check_fits("It was made", made_for, found, "help")


@pytest.mark.parametrize(
    ("made_for", "found", "said"),
    [
        ({"site": "mid", "model": "a"}, {"site": "eps", "model": "b"}, "for site mid, but here it is eps"),
        ({"model": "a", **COMFYUI}, {"model": "b", **COMFYUI}, "for model a, but here it is b"),
        ({"channels": 4, **COMFYUI}, {"channels": 8}, "for channels 4, but here it is 8"),
    ],
)
def test_the_first_difference_is_said(made_for, found, said):
    with pytest.raises(HapaxError, match=f"It was made {said}; help."):
        check_fits("It was made", made_for, found, "help")
