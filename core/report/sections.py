"""The page's first half: headline, the audit at a glance, the map."""

from __future__ import annotations

from .charts import Axes, dots, rarity_map
from .markup import Html, el
from .numbers import count, one_in, percent, plural
from .tables import distance_text, frequency_text, table
from .view import UNNAMED, Item, Row, View, quoted, scored

_TILES = 6


def headline(view: View) -> Html:
    """What was found, in one line, one paragraph and a few pictures."""
    audit, findings = view.audit, view.findings
    return el(
        "header",
        el(
            "div",
            el(
                "p",
                el("b", "Hapax"),
                f" audit of {audit['model']['name']}, {audit['created'][:10]}",
                class_="kicker",
            ),
            el("h1", _claim(view)),
            _summary(view),
            el("p", el("i", "hapax"), ", n.: a word that occurs only once.", class_="epigraph"),
            class_="lead",
        ),
        el("ul", [_tile(item, view) for item in _faces(findings)], class_="tiles") if findings else None,
        class_="top",
        id="top",
    )


def _claim(view: View) -> list[str | Html]:
    number = _things(view)
    if not number:
        return ["Nothing rare was found that this audit can vouch for"]
    if all(finding["frequency_high"] < 0.5 for finding in _all_findings(view)):
        claim = f"thing{'' if number == 1 else 's'} this model knows but seldom shows"
    else:
        claim = "thing that stands apart" if number == 1 else "things that stand apart"
        claim += " in what this model shows"
    return [el("em", count(number)), f" {claim}"]


def _all_findings(view: View) -> list[Row]:
    return [f for prompt in view.audit["prompts"] for f in prompt["features"] if f["finding"]]


def _things(view: View) -> int:
    """How many different findings: those of one name count once, for they may be one thing met twice."""
    findings = _all_findings(view)
    named = {feature["label"] for feature in findings if feature.get("label")}
    return len(named) + sum(not feature.get("label") for feature in findings)


def _summary(view: View) -> Html:
    prompts = view.audit["prompts"]
    images = sum(prompt["images"] for prompt in prompts)
    findings, things = len(_all_findings(view)), _things(view)
    same = f" (some share a name, which leaves {count(things)} different ones)" if things < findings else ""
    said: list[str | Html] = [
        f"Hapax looked inside the model while it drew {plural(images, 'picture')} for "
        f"{plural(len(prompts), 'prompt')}. It scored {plural(sum(map(scored, prompts)), 'feature')} and lists "
        f"{count(findings)} as {'finding' if findings == 1 else 'findings'}{same}. "
    ]
    if view.findings:
        rarest = min(view.findings, key=lambda item: item.feature["frequency"])
        article = "an " if rarest.name == UNNAMED else ""
        said += [
            "The rarest, ",
            article,
            el("a", rarest.name, href=rarest.link),
            ", fires in ",
            el("b", frequency_text(rarest.feature)),
        ]
        said += [f" of the pictures for {quoted(rarest.prompt['prompt'])}."]
    change = _largest_change(view)
    if change:
        before, after = (change.feature["amplified"][f"rate_{end}"] for end in ("before", "after"))
        link = el("a", change.name, href=f"#change-{change.feature['id']}")
        said += [" Turned up, ", link, f" went from {percent(before['rate'])} to {percent(after['rate'])}."]
    return el("p", said, class_="summary")


def _largest_change(view: View) -> Item | None:
    measured = [i for i in view.items if (i.feature.get("amplified") or {}).get("rate_before")]
    return max(measured, key=lambda item: _rise(item.feature["amplified"]), default=None)


def _rise(change: Row) -> float:
    return change["rate_after"]["rate"] - change["rate_before"]["rate"]


def _faces(findings: list[Item]) -> list[Item]:
    """The findings for the headline: one a name, the named ones first."""
    named = {item.name: item for item in reversed(findings) if item.name != UNNAMED}
    first = sorted(named.values(), key=findings.index)
    return [*first, *(item for item in findings if item.name == UNNAMED)][:_TILES]


def _tile(item: Item, view: View) -> Html:
    feature = item.feature
    picture = [
        el("span", view.pictures.show(shot["image"], f"The strongest picture of {item.name}"), class_="shot")
        for shot in feature["exemplars"][:1]
    ]
    natural = one_in(feature["frequency"]) or percent(feature["frequency"])
    return el(
        "li",
        el("a", picture, el("b", item.name), el("span", natural), href=item.link),
        dots(feature["frequency"]),
    )


def glance(view: View) -> Html:
    """Overall and by prompt, in one table."""
    prompts = view.audit["prompts"]
    shown = {item.feature["id"] for item in view.items}
    rows = [_glance_row("All prompts", prompts, shown)] if len(prompts) > 1 else []
    for group in view.groups:
        link = el("a", group.title, href=f"#prompt-{group.number}")
        rows.append(_glance_row(link, [group.prompt], shown))
    heads = ("Prompt", "Pictures", "Features scored", "Findings", "Rarest finding", "Most distinct finding")
    return el(
        "section",
        el("h2", "At a glance"),
        table(heads, rows, "Pictures, features and findings, overall and by prompt"),
        id="glance",
    )


def _glance_row(name: str | Html, prompts: list[Row], shown: set[str]) -> Html:
    features = [feature for prompt in prompts for feature in prompt["features"]]
    findings = [feature for feature in features if feature["finding"]]
    rarest = min(findings, key=lambda f: f["frequency"], default=None)
    furthest = max(findings, key=lambda f: f["distinctiveness"], default=None)
    cells = (
        count(sum(prompt["images"] for prompt in prompts)),
        count(sum(map(scored, prompts))),
        count(len(findings)),
        [_linked(rarest, shown), " ", frequency_text(rarest)] if rarest else "-",
        [_linked(furthest, shown), " ", distance_text(furthest)] if furthest else "-",
    )
    return el("tr", el("th", name, scope="row"), [el("td", cell, class_="num") for cell in cells])


def _linked(feature: Row, shown: set[str]) -> str | Html:
    name = feature.get("label") or UNNAMED
    return el("a", name, href=f"#feature-{feature['id']}") if feature["id"] in shown else name


def maps(view: View) -> Html:
    """Rarity against distance, one map a prompt, because distance is from that prompt's own average."""
    axes = Axes([item.feature for item in view.items])
    figures = [
        el(
            "figure",
            rarity_map(
                [(item.feature, item.name) for item in group.items],
                axes,
                f"Frequency and distinctiveness of the features of {group.title}",
            ),
            el("figcaption", group.title),
        )
        for group in view.groups
        if group.items
    ]
    key = el(
        "p",
        el("span", "\u25c6", class_="key-finding", aria_hidden="true"),
        " finding, with its 95 % intervals  ",
        el("span", "\u25cb", class_="key-other", aria_hidden="true"),
        " scored, but no finding. Select a mark to get to its pictures. The rare and unlike lie in the upper left.",
        class_="key",
    )
    return el("section", el("h2", "Rare and unlike the rest"), key, el("div", figures, class_="maps"), id="map")
