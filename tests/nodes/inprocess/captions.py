"""Captions recorded on the tiny models: what the tests of indices, dials and the compass stand on."""

from __future__ import annotations

import pytest
import torch
from hapax.nodes.captions import BELOW, BuildCaptionIndex

SAMPLING = {
    "seeds": 4,
    "first_seed": 10,
    "steps": 3,
    "cfg": 1.0,
    "sampler_name": "euler",
    "scheduler": "normal",
    "width": 64,
    "height": 64,
    "batch_size": 4,
    "site": "auto",
}
CAPTIONS = "a cat\na dog\nsomething else altogether\na cat, sketch"


class Words:
    """A text encoder of the width that the tiny models of all families take."""

    def __init__(self, tiny_models, family):
        self.encoded = lambda words: tiny_models.conditioning(sum(words.encode()), 3.5 if family == "flux" else None)

    def tokenize(self, words):
        return words

    def encode_from_tokens_scheduled(self, words):
        return self.encoded(words)


def text(clip, prompt):
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


@pytest.fixture
def build(sd15, clip, run):
    def call(**changed):
        given = {"model": sd15.model, "clip": clip, "bank": BELOW, "captions": CAPTIONS, "prompts": "", "neutral": ""}
        return BuildCaptionIndex.execute(**({**given, "whiten": 0.0, "run": run} | SAMPLING | changed)).result

    return call


@pytest.fixture(scope="session")
def index(_built, clip):
    with torch.inference_mode():
        given = {"model": _built("sd15").clone(), "clip": clip, "bank": BELOW, "captions": CAPTIONS, "prompts": ""}
        return BuildCaptionIndex.execute(**given, neutral="", whiten=0.0, run="shared", **SAMPLING).result[0]
