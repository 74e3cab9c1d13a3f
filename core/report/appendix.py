"""The page's second half: all numbers in a table, diversity, trust, provenance, glossary, credits."""

from __future__ import annotations

from typing import Any

from .markup import Html, el
from .numbers import count, decimal, duration
from .rules import FEWEST
from .tables import distance_text, frequency_text, spread, table
from .view import Item, Row, View, quoted
from .words import GLOSSARY, TRUST, measured, papers

_HEADS = (
    "Feature",
    "Prompt",
    "Rank",
    "Latent",
    "Pictures",
    "Frequency",
    "Distinctiveness",
    "z",
    "Score",
    "Finding",
)


def features_table(view: View) -> Html:
    """Every feature shown, as numbers."""
    rows = [_row(item) for item in view.items]
    caption = "All features shown on this page, with their numbers"
    return el("section", el("h2", "All numbers"), table(_HEADS, rows, caption, words=2), id="numbers")


def _row(item: Item) -> Html:
    f = item.feature
    numbers = (
        str(item.rank),
        str(f["latent"]),
        f"{count(f['count'])} / {count(item.prompt['images'])}",
        frequency_text(f),
        distance_text(f),
        decimal(f["distinctiveness_z"], 1),
        decimal(f["score"], 3),
        "yes" if f["finding"] else "no",
    )
    return el(
        "tr",
        el("th", el("a", item.name, href=item.link), scope="row"),
        el("td", el("span", quoted(item.prompt["prompt"])), class_="text"),
        [el("td", number, class_="num") for number in numbers],
        class_="finding" if f["finding"] else None,
    )


def diversity(view: View) -> Html | None:
    """Schur Complement Entropy with its intervals, and the ridge that it depends on."""
    sce = view.audit.get("sce")
    if not sce:
        return None
    known = (
        ("Beyond what the prompts ask for (SCE)", "image"),
        ("Owed to the prompts", "text"),
        ("Effective number of kinds beyond the prompts", "image_effective"),
        ("Effective number of kinds owed to the prompts", "text_effective"),
    )
    rows = [_pair(term, spread(sce, name)) for term, name in known if name in sce]
    texts = f", {count(sce['unique_texts'])} different prompts" if sce.get("unique_texts") else ""
    note = (
        f"Schur Complement Entropy over {count(sce['n'])} pictures{texts}, {sce.get('kernel', 'default')} "
        f"kernel, ridge {sce['ridge']:g}. Compare only scores of the same ridge: it is part of them."
    )
    facts = el("dl", rows, class_="facts")
    return el("section", el("h2", "Diversity"), facts, el("p", note), _by_prompt(view, sce), id="diversity")


def _by_prompt(view: View, sce: Row) -> Html | None:
    """How diverse each prompt's own pictures are."""
    prompts = {prompt["index"]: prompt["prompt"] for prompt in view.audit["prompts"]}
    rows = [
        el(
            "tr",
            el("th", quoted(prompts[row["index"]]), scope="row"),
            [el("td", spread(row, name), class_="num") for name in ("image", "image_effective")],
            el("td", count(row["n"]), class_="num"),
        )
        for row in sce.get("prompts", [])
    ]
    heads = ("Prompt", "SCE", "Effective kinds", "Pictures")
    return table(heads, rows, "Diversity among each prompt's own pictures", words=1) if rows else None


def trust(view: View) -> Html:
    """How far all this carries."""
    support = max(FEWEST, view.audit["settings"]["min_support"])
    points = [el("div", el("h3", head), el("p", body.format(support=support))) for head, body in TRUST]
    limits = view.audit["limits"]
    own = el(
        "div",
        el("h3", "Limits of this audit"),
        el("ul", [el("li", sentence) for sentence in limits]),
        class_="limits",
    )
    return el(
        "section",
        el("h2", "How far can this be trusted?"),
        own if limits else None,
        _measured(),
        el("div", points, class_="points"),
        id="trust",
    )


def _measured() -> Html | None:
    """How well audits do on a small model whose truth is known; other models have no such truth."""
    sentences = measured()
    if not sentences:
        return None
    return el(
        "div",
        el("h3", "Where the truth is known"),
        el(
            "p",
            "Hapax ships a small model of emoji whose every attribute can be counted exactly. On prompts that played "
            "no part in choosing the method:",
        ),
        el("ul", [el("li", sentence) for sentence in sentences]),
        el("p", "On larger models nobody knows the truth. Expect less there than this, and look at the pictures."),
        class_="limits",
    )


def provenance(view: View) -> Html:
    """Where every number comes from."""
    audit = view.audit
    origin = {key: value for key, value in audit["provenance"].items() if key not in ("reproduce", "timings")}
    grid = {"grid": " x ".join(map(str, audit["model"]["grid"]))} if "grid" in audit["model"] else {}
    tables = [
        ("Model", {**audit["model"], **grid}),
        ("Settings", audit["settings"]),
        ("Autoencoder", audit.get("sae")),
        *((f"Autoencoder of {group.title}", group.prompt.get("sae")) for group in view.groups),
        ("Run", {"created": audit["created"], "hapax": audit["hapax_version"], **origin}),
        ("Time spent", _times(audit["provenance"].get("timings"))),
    ]
    blocks = [el("div", el("h3", head), _facts(rows)) for head, rows in tables if rows]
    return el(
        "section",
        el("h2", "Where the numbers come from"),
        el("div", blocks, class_="points"),
        id="provenance",
    )


def _times(timings: Row | None) -> Row:
    return {
        stage: duration(seconds) if isinstance(seconds, (int, float)) else seconds
        for stage, seconds in (timings or {}).items()
    }


def _facts(rows: Row) -> Html:
    return el("dl", [_pair(term, said) for term, said in _flat(rows)], class_="facts")


def _flat(rows: Row, prefix: str = "") -> list[tuple[str, str]]:
    """Nested keys as one list of (term, value), sorted as in the file; nulls and empty lists are dropped."""
    flat: list[tuple[str, str]] = []
    for key, value in sorted(rows.items()):
        term = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            flat += _flat(value, f"{term}, ")
        elif value not in (None, [], ""):
            flat.append((term, _said(value)))
    return flat


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_said(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _pair(term: str, said: str) -> Html:
    return el("div", el("dt", term), el("dd", said))


def reproduce(view: View) -> Html:
    """The command that runs the audit again."""
    command = view.audit["provenance"]["reproduce"]
    return el(
        "section",
        el("h2", "Reproduce this"),
        el(
            "p",
            "With the same model file, the same versions and the same seeds, this gives the same numbers.",
        ),
        el(
            "div",
            el("pre", el("code", command), tabindex=0),
            el("button", "Copy", type="button", id="copy", class_="js-only"),
            class_="command",
        ),
        el("button", "Save the numbers on this page (JSON)", type="button", id="save", class_="js-only"),
        id="reproduce",
    )


def glossary() -> Html:
    """The words, for people who make pictures rather than models."""
    terms = [el("div", el("dt", word), el("dd", meaning)) for word, meaning in GLOSSARY]
    return el("section", el("h2", "The words"), el("dl", terms, class_="glossary"), id="words")


def credits(view: View) -> Html:
    """Papers, pictures, weights."""
    cited = [
        el(
            "li",
            said,
            ": ",
            el("a", f"arXiv {number}", href=f"https://arxiv.org/abs/{number}", rel="noreferrer"),
        )
        for said, number in papers(view.audit)
    ]
    own = [el("li", sentence) for sentence in view.audit.get("credits", [])]
    made = f"Made by Hapax {view.audit['hapax_version']}. This page is one file and loads nothing from anywhere."
    return el("footer", el("h2", "Credits"), el("ul", cited, own), el("p", made), id="credits")
