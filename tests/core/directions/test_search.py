"""Exact search, and texts in tensors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hapax.core.directions.search import Rows
from hapax.core.directions.texts import Texts
from hapax.core.errors import HapaxError


@pytest.mark.parametrize("spread", [1.0, 0.02], ids=["spread out", "nearly alike"])
@pytest.mark.parametrize("k", [1, 10, 5000])
def test_the_answer_is_that_of_an_exact_search(spread: float, k: int) -> None:
    """Also where rows differ by less than the stored precision tells apart in the first pass."""
    g = torch.Generator().manual_seed(0)
    data = (torch.randn(1, 48, generator=g) + spread * torch.randn(2000, 48, generator=g)).bfloat16()
    rows = Rows(data, data.double().norm(dim=1).float())
    for query in F.normalize(torch.randn(1, 48, generator=g) + 0.1 * torch.randn(5, 48, generator=g), dim=1):
        cosines = F.cosine_similarity(data.double(), query.double(), dim=1)
        expected = cosines.argsort(descending=True)[:k]
        found, which = rows.top(query / query.norm(), k)
        torch.testing.assert_close(found, cosines[expected], atol=1e-6, rtol=0)
        assert len(set(which.tolist()) ^ set(expected.tolist())) <= 2 * (spread < 1)


def test_the_best_of_many_queries() -> None:
    data, queries = torch.randn(300, 16).bfloat16(), F.normalize(torch.randn(7, 16), dim=1)
    rows = Rows(data, data.double().norm(dim=1).float())
    expected = torch.stack([rows.top(query, 1)[0][0] for query in queries]).float()
    torch.testing.assert_close(rows.best(queries), expected)


def test_texts_keep_every_character_and_are_found_by_themselves() -> None:
    words = ["a cat", "", "caf\u00e9, \u4eba", "a cat "]
    texts = Texts.of(words)
    assert list(texts) == words
    assert [texts.index(word) for word in words] == [0, 1, 2, 3]
    assert texts[-1] == "a cat "
    with pytest.raises(HapaxError, match="'a ca' is not in the index of 4"):
        texts.index("a ca")
