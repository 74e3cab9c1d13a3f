"""Before and after of every feature that was turned up, at equal seeds."""

from __future__ import annotations

from .charts import rate_bar
from .markup import Html, el
from .numbers import percent
from .tables import rate_text
from .view import Item, Row, View, quoted


def changes(view: View) -> Html | None:
    """Before and after of every feature that was turned up."""
    changed = [item for item in view.items if item.feature.get("amplified")]
    if not changed:
        return None
    intro = el(
        "p",
        "Each column is one seed: above the picture as the model draws it, below the same noise with the "
        "feature turned up.",
        class_="intro",
    )
    return el("section", el("h2", "Turned up"), intro, [_change(item, view) for item in changed], id="changes")


def _change(item: Item, view: View) -> Html:
    change = item.feature["amplified"]
    start, end = change["window"]
    how = f"{change['mode']}, strength {change['strength']:g}, progress {start:g} to {end:g}"
    return el(
        "article",
        el(
            "header",
            el("h3", el("a", item.name, href=item.link)),
            el("p", quoted(item.prompt["prompt"])),
            el("p", how),
            _rates(change),
        ),
        el("div", _pairs(item, view), _mixed(item, view), class_="proof"),
        class_="change",
        id=f"change-{item.feature['id']}",
    )


def _rates(change: Row) -> Html | None:
    if not change.get("rate_before"):
        return None
    rows = [
        el(
            "div",
            el("dt", said),
            el("dd", rate_bar(r["rate"], r["low"], r["high"]), rate_text(r)),
            class_=said,
        )
        for said, r in (("before", change["rate_before"]), ("after", change["rate_after"]))
    ]
    return el("div", el("dl", rows), el("p", f"Counted by {change['measured_by']}."), class_="rates")


def _pairs(item: Item, view: View) -> Html:
    change = item.feature["amplified"]
    columns = [
        el(
            "li",
            el("span", view.pictures.show(before, f"Before, seed {seed}"), class_="shot"),
            el("span", view.pictures.show(after, f"After: {item.name} turned up, seed {seed}"), class_="shot"),
            el("small", seed),
        )
        for seed, before, after in zip(change["seeds"], change["before"], change["after"], strict=True)
    ]
    sides = el(
        "div",
        el("span", "before"),
        el("span", "after"),
        el("small", "seed"),
        class_="sides",
        aria_hidden="true",
    )
    said = f"{item.name} before and after, by seed"
    return el("div", sides, el("ol", columns), class_="pairs", tabindex=0, role="group", aria_label=said)


def _mixed(item: Item, view: View) -> Html | None:
    mixed = item.feature["amplified"].get("mixed")
    if not mixed:
        return None
    shots = [
        el("span", view.pictures.show(path, f"Asked for in words: {mixed['prompt']}"), class_="shot")
        for path in mixed["pictures"]
    ]
    rate = el("p", rate_text(mixed["rate"])) if mixed.get("rate") else None
    said = f"Or asked for in words: {quoted(mixed['prompt'])} in {percent(mixed['share'], 0)} of the pictures"
    return el("div", el("div", shots, class_="samples"), el("div", el("p", said), rate), class_="mixed")
