"""What captions tell: the names of the findings, and what plain prompts lean to."""

from __future__ import annotations

from .charts import rate_bar
from .markup import Html, el
from .numbers import count, decimal, interval, plural
from .tables import table
from .view import Item, Row, View, quoted

NAMELESS = "no good name"


def captions(view: View) -> Html | None:
    """The section; nothing where the audit has neither."""
    parts = [_names(view), _compass(view)]
    if not any(parts):
        return None
    return el("section", el("h2", "In the words of captions"), parts, id="captions")


def _names(view: View) -> Html | None:
    naming = view.audit.get("naming")
    if not naming:
        return None
    findings = view.findings
    bank = plural(naming["captions"], "caption")
    if naming["by"] == "index":
        note = (
            f"Each finding was named by an index of {bank}: by the one that changes the model's state in the same way, "
            "where that is nearer than chance. The score is their cosine."
        )
    else:
        note = (
            f"Each finding was named by a bank of {bank}: by the one that CLIP sees in what sets its pictures apart, "
            "where that is nearer than chance. The score is their cosine. An index of captions asks the model itself."
        )
    heads = ("Finding", "Prompt", "Next nearest", "Score")
    rows = [_name(item) for item in findings]
    said = table(heads, rows, "Findings and their names by captions", words=3) if rows else None
    return el("div", el("h3", "What the findings are"), el("p", note), said)


def _name(item: Item) -> Html:
    feature = item.feature
    others = ", ".join(word for word, _ in (feature.get("labels") or [])[1:4])
    return el(
        "tr",
        el("th", el("a", feature.get("label") or NAMELESS, href=item.link), scope="row"),
        el("td", el("span", quoted(item.prompt["prompt"])), class_="text"),
        el("td", el("span", others or "-"), class_="text"),
        el("td", decimal(feature.get("label_score")), class_="num"),
        class_="finding" if feature.get("label") else None,
    )


def _compass(view: View) -> Html | None:
    compass = view.audit.get("compass")
    if not compass:
        return None
    prompts = {prompt["index"]: prompt["prompt"] for prompt in view.audit["prompts"]}
    two = len(compass["poles"]) == 2
    rows = [row for entry in compass["prompts"] for row in _shares(entry, prompts[entry["index"]], two)]
    note = (
        "No picture is counted here. The model looks again at what it made under the plain prompt and under prompts "
        "that say the answer; the first is read as the mixture of the others that comes nearest: "
        f"{count(compass['seeds'])} seeds a prompt, "
        f"{plural(compass['steps'], 'step')}, at {compass['site']}. Whiskers are 95 % intervals over seeds."
    )
    if two:
        first, second = map(_said, compass["poles"])
        note += f" The lean is 1 where all is {first}, -1 where all is {second}."
    heads = ("Prompt", "Answer", "0 to 100 %", "Share", *(("Lean",) if two else ()))
    said = table(heads, rows, "What plain prompts lean to, with intervals", words=3)
    return el("div", el("h3", "What plain prompts lean to"), el("p", note), said, id="compass")


def _shares(entry: Row, prompt: str, two: bool) -> list[Html]:
    """One row a pole; the prompt and its lean span them all."""
    tall = len(entry["shares"])
    return [
        el(
            "tr",
            None if index else el("th", quoted(prompt), scope="rowgroup", rowspan=tall),
            el("td", el("span", _said(share["pole"])), class_="text"),
            el("td", rate_bar(share["share"], share["low"], share["high"]), class_="text"),
            el("td", interval(share["share"], share["low"], share["high"]), class_="num"),
            el("td", _lean(entry["leans"][0]), rowspan=tall, class_="num") if two and not index else None,
        )
        for index, share in enumerate(entry["shares"])
    ]


def _lean(lean: Row) -> str:
    if lean["value"] is None:
        return "not told apart"
    return f"{decimal(lean['value'])} ({decimal(lean['low'])} to {decimal(lean['high'])})"


def _said(pole: str) -> str:
    """A pole as it is shown: what it adds to the prompt."""
    return pole.removeprefix("{}, ").replace("{}", "\u2026").strip()
