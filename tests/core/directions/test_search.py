"""Exact search, and texts in tensors."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from hapax.core.directions.faiss_rows import FaissRows
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


NO_FAISS = "faiss-cpu is not installed: that FAISS finds what an exact search does is NOT tested"


@pytest.mark.parametrize("form", [("HNSW32", "efSearch=256"), ("IVF16,SQ8", "nprobe=14"), ("SQ8", ""), ("Flat", "")])
def test_faiss_finds_what_an_exact_search_does(form: tuple[str, str]) -> None:
    """Also where lengths aren't the rows' norms, as in a whitened index."""
    pytest.importorskip("faiss", reason=NO_FAISS)
    g = torch.Generator().manual_seed(0)
    data = torch.randn(4000, 32, generator=g).bfloat16()
    rows = Rows(data, data.double().norm(dim=1).float() * (0.8 + 0.4 * torch.rand(4000, generator=g)), 1.25)
    through, missed = FaissRows.of(rows, *form), 0
    for query in F.normalize(torch.randn(50, 32, generator=g, dtype=torch.float64), dim=1):
        (cosines, which), (found, other) = rows.top(query, 10), through.top(query, 10)
        missed += len(set(which.tolist()) - set(other.tolist()))
        if torch.equal(which, other):
            torch.testing.assert_close(cosines, found, atol=1e-12, rtol=0)
        assert torch.equal(found, found.sort(descending=True).values)
    assert missed <= (0 if form[0] == "Flat" else 25)
    assert FaissRows.of(rows, "Flat").top(torch.randn(32), 9999)[1].sort().values.tolist() == list(range(4000))


def test_what_faiss_cannot_make_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(torch.eye(8).bfloat16(), torch.ones(8))
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "faiss", None)
        with pytest.raises(HapaxError, match="need the package faiss-cpu, which is not here; install it"):
            FaissRows.of(rows, "Flat")
    pytest.importorskip("faiss", reason=NO_FAISS)
    for form, said in (
        (("nonsense",), "can't make 'nonsense' of 8 rows of 8 channels"),
        (("IVF99,Flat",), "can't make 'IVF99,Flat'"),
        (("Flat", "speed=9"), "can't make 'Flat' with 'speed=9'"),
    ):
        with pytest.raises(HapaxError, match=said) as caught:
            FaissRows.of(rows, *form)
        assert "\n" not in str(caught.value)


def test_texts_keep_every_character_and_are_found_by_themselves() -> None:
    words = ["a cat", "", "caf\u00e9, \u4eba", "a cat "]
    texts = Texts.of(words)
    assert list(texts) == words
    assert [texts.index(word) for word in words] == [0, 1, 2, 3]
    assert texts[-1] == "a cat "
    with pytest.raises(HapaxError, match="'a ca' is not in the index of 4"):
        texts.index("a ca")
