"""HTML that is safe by construction: every string is escaped unless it is already `Html`."""

from __future__ import annotations

import json
from html import escape
from typing import Any

_VOID = frozenset({"input", "meta", "br", "image", "use", "circle", "line", "rect", "path"})


class Html(str):
    """Markup that was built here, and is put in as it is."""

    __slots__ = ()


Child = Any


def join(*children: Child) -> Html:
    """Children in a row: `Html` as it is, text escaped, lists opened, None and False left out.

    >>> join("a < b", None, [el("b", "c")])
    'a &lt; b<b>c</b>'
    """
    parts: list[str] = []
    for child in children:
        if isinstance(child, (list, tuple)):
            parts.append(join(*child))
        elif child is not None and child is not False:
            parts.append(child if isinstance(child, Html) else escape(str(child)))
    return Html("".join(parts))


def el(tag: str, *children: Child, **attributes: Any) -> Html:
    """One element. In attribute names ``_`` stands for ``-``, and one at the end is dropped.

    None and False leave an attribute out, True writes it bare.

    >>> el("p", "1 < 2", class_="x", aria_label='say "hi"', hidden=True, title=None)
    '<p class="x" aria-label="say &quot;hi&quot;" hidden>1 &lt; 2</p>'
    """
    written = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in _VOID and not children:
        return Html(f"<{tag}{written}>" if tag in {"input", "meta", "br"} else f"<{tag}{written}/>")
    return Html(f"<{tag}{written}>{join(*children)}</{tag}>")


def _attribute(name: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'


def data_island(name: str, data: Any) -> Html:
    r"""JSON in the page that can't end its own script element, whatever its strings say.

    >>> data_island("x", {"a": "</script>"})
    '<script type="application/json" id="x">{"a":"\\u003c/script\\u003e"}</script>'
    """
    body = json.dumps(data, separators=(",", ":"), sort_keys=True, allow_nan=False)
    for sign in "<>&":
        body = body.replace(sign, f"\\u{ord(sign):04x}")
    return Html(f'<script type="application/json" id="{escape(name)}">{body}</script>')
