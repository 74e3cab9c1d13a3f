"""The wall: one card a feature, with its pictures, its heatmaps and its numbers."""

from __future__ import annotations

from .charts import rate_bar
from .markup import Html, el, join
from .numbers import count, decimal, interval, one_in, percent, plural
from .pictures import Pictures
from .rules import FEWEST, FINDING_Z
from .view import EXEMPLARS, UNNAMED, Group, Item, Row, View, scored

_SAMPLES = 12


def wall(view: View) -> Html:
    """Every prompt's features, under the tools that filter them."""
    return el(
        "section",
        el("h2", "The features"),
        _left_out(view),
        _tools(),
        [_group(group, view) for group in view.groups],
        id="features",
    )


def _left_out(view: View) -> Html | None:
    if not view.left_out:
        return None
    shown = len(list(view.items))
    return el(
        "p",
        f"This page shows the first {count(shown)} features: findings first, then by rank, each prompt in "
        f"turn. {count(view.left_out)} more were left out; they are in audit.json.",
        class_="notice",
    )


def _tools() -> Html:
    """The heatmap switch works by style alone; the script puts the viewer's filters beside it."""
    return el(
        "div",
        el("label", el("input", type="checkbox", id="heatmaps"), "Show all heatmaps", class_="check"),
        el("div", "", class_="js-only hapax", id="filters"),
        class_="tools",
    )


def _group(group: Group, view: View) -> Html:
    prompt = group.prompt
    findings = sum(feature["finding"] for feature in prompt["features"])
    facts = ", ".join(
        (
            plural(prompt["images"], "picture"),
            plural(scored(prompt), "feature") + " scored",
            plural(findings, "finding"),
        )
    )
    return el(
        "section",
        el("header", el("h3", group.title), el("p", facts, class_="facts"), class_="prompt-head"),
        _samples(group, view.pictures),
        el("div", [card(item, view.pictures) for item in group.items], class_="cards"),
        None if group.items else el("p", "None of its features is shown here.", class_="quiet"),
        class_="prompt",
        id=f"prompt-{group.number}",
        data_prompt=group.number,
    )


def _samples(group: Group, pictures: Pictures) -> Html | None:
    sheet = group.prompt.get("sample_sheet")
    if not sheet:
        return None
    if isinstance(sheet, str):
        shots = [pictures.show(sheet, f"A sheet of what {group.title} usually gives", "sheet")]
    else:
        usual = f"A usual picture for {group.title}"
        shots = [el("span", pictures.show(path, usual), class_="shot") for path in sheet[:_SAMPLES]]
    return el(
        "figure",
        el("figcaption", "What it usually gives"),
        el("div", shots, class_="samples"),
        class_="usual",
    )


def card(item: Item, pictures: Pictures) -> Html:
    """One feature."""
    feature = item.feature
    return el(
        "article",
        strip(item, pictures),
        _head(item),
        _rate(feature, item.prompt["images"]),
        _numbers(feature),
        _why_not(feature),
        _more(feature),
        class_="feature finding" if feature["finding"] else "feature",
        id=f"feature-{feature['id']}",
        data_rank=item.rank,
    )


def strip(item: Item, pictures: Pictures) -> Html:
    """The strongest pictures, the first one large; each with its heatmap over it, shown on hover."""
    shots = [
        el(
            "span",
            pictures.show(
                shot["image"],
                f"{item.name}: seed {shot['seed']}, activation {decimal(shot['activation'])}",
            ),
            pictures.show(shot["heatmap"], "", "heat") if shot.get("heatmap") else None,
            class_="shot",
        )
        for shot in item.feature["exemplars"][:EXEMPLARS]
    ]
    if not shots:
        return el("p", "No pictures were kept.", class_="quiet")
    said = f"{plural(len(shots), 'picture')} where {item.name} fires most"
    return el("div", shots, class_="strip", tabindex=0, role="group", aria_label=said)


def _head(item: Item) -> Html:
    feature = item.feature
    badge = el("span", "finding", class_="badge") if feature["finding"] else None
    name = el("h4", item.name, class_="unnamed" if item.name == UNNAMED else None)
    return join(el("p", f"No. {item.rank}", badge, class_="rank"), name, _label(feature))


def _label(feature: Row) -> Html:
    parts = [f"latent {feature['latent']}"]
    if feature.get("group"):
        parts.append(f"and {plural(len(feature['group']), 'latent')} that agree")
    if feature.get("label_score") is not None:
        parts.append(f"label match {decimal(feature['label_score'])}")
    return el("p", ", ".join(parts), class_="latent")


def _rate(feature: Row, images: int) -> Html:
    low, high = feature["frequency_low"], feature["frequency_high"]
    natural = one_in(feature["frequency"])
    return el(
        "div",
        el(
            "div",
            rate_bar(feature["frequency"], low, high),
            el("small", "100 %"),
            class_="scale",
            aria_hidden="true",
        ),
        el("p", el("b", interval(feature["frequency"], low, high)), class_="big"),
        el("p", f"{count(feature['count'])} of {plural(images, 'picture')}", natural and f", {natural}"),
        class_="rate",
    )


def _numbers(feature: Row) -> Html:
    low, high = feature["distinctiveness_low"], feature["distinctiveness_high"]
    spread = None if low is None else el("small", f" ({decimal(low)} to {decimal(high)})")
    shown = feature.get("prevalence")
    rows = (
        *((("Shown in", interval(shown["rate"], shown["low"], shown["high"])),) if shown else ()),
        ("Score", decimal(feature["score"])),
        ("Distinctiveness", [decimal(feature["distinctiveness"]), spread]),
        ("z", decimal(feature["distinctiveness_z"], 1)),
    )
    return el("dl", [el("div", el("dt", term), el("dd", said)) for term, said in rows], class_="numbers")


def _why_not(feature: Row) -> Html | None:
    """Why a feature that was scored is no finding."""
    if feature["finding"]:
        return None
    z = feature["distinctiveness_z"]
    if feature["count"] < FEWEST:
        why = f"Seen in only {plural(feature['count'], 'picture')}: too few to say anything."
    elif z is None or z <= FINDING_Z:
        why = "No finding: chance alone could put it this far from the average."
    else:
        why = "Scored, but not listed as a finding."
    return el("p", why, class_="why-not")


def _more(feature: Row) -> Html | None:
    near = feature.get("labels") or []
    change = feature.get("amplified")
    link = None
    if change:
        rates = change.get("rate_before"), change.get("rate_after")
        said = f": {percent(rates[0]['rate'])} to {percent(rates[1]['rate'])}" if all(rates) else ""
        link = el("a", f"Turned up{said}", href=f"#change-{feature['id']}", class_="to-change")
    senses = el(
        "details",
        el("summary", "Words near it"),
        el("ol", [el("li", word, " ", el("small", decimal(score))) for word, score in near]),
    )
    if not near and not link:
        return None
    return el("div", senses if near else None, link, class_="more")
