from __future__ import annotations

import html
import json
import re

from hapax.core.report.markup import Html, data_island, el, join
from hypothesis import given
from hypothesis import strategies as st

WORDS = st.text(st.characters(codec="utf-8")) | st.sampled_from(["</script>", "<!--", "]]>", "&lt;", "'\"", "${x}"])


@given(WORDS)
def test_text_and_attributes_come_back_as_they_went_in(words: str) -> None:
    assert "<" not in join(words)
    assert html.unescape(join(words)) == words
    found = re.fullmatch(r'<p title="([^"<>]*)">([^<>]*)</p>', el("p", words, title=words))
    assert found
    assert [html.unescape(part) for part in found.groups()] == [words, words]


@given(st.recursive(WORDS | st.none() | st.integers(), lambda inner: st.dictionaries(WORDS, inner) | st.lists(inner)))
def test_data_comes_back_and_never_ends_its_element(data: object) -> None:
    found = re.fullmatch(r'<script type="application/json" id="x">([^<>&]*)</script>', data_island("x", data))
    assert found
    assert json.loads(found[1]) == data


def test_built_markup_is_kept_and_equal_strings_are_not() -> None:
    assert el("p", el("b", "<")) == "<p><b>&lt;</b></p>"
    assert el("p", str(Html("<b>"))) == "<p>&lt;b&gt;</p>"
    assert type(join("a")) is Html
    assert el("use", href="#a") == '<use href="#a"/>'
    assert el("input", checked=True, disabled=False) == "<input checked>"
    assert el("dd", 0, "", None, False, [1, (2,)]) == "<dd>012</dd>"
