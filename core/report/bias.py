"""What a guidance module changed: groups, bias, concept and diversity, before and after."""

from __future__ import annotations

from .markup import Html, el
from .numbers import count, decimal, percent, plural
from .tables import rate_text, spread, table
from .view import Row, View, quoted

_ENDS = ("before", "after")


def debiasing(view: View) -> Html | None:
    """Groups before and after a guidance module, with the InvDiff paper's bias score and what it cost."""
    invdiff = view.audit.get("invdiff")
    if not invdiff:
        return None
    prompts = invdiff["prompts"]
    rows = [row for entry in prompts for row in _groups(entry)]
    note = (
        f"Guidance module {invdiff['module']} at strength {invdiff['strength']:g}, counted by "
        f"{invdiff['measured_by']}. A bias of 0 means that all groups are equally common."
    )
    heads = ("Prompt", "Group", "Before", "After", "Bias before", "Bias after")
    return el(
        "section",
        el("h2", "Bias, before and after"),
        el("p", note, _floor(prompts)),
        el("p", _headline(prompts)),
        table(heads, rows, "Groups and bias before and after, by prompt", words=2),
        _costs(prompts),
        id="bias",
    )


def _headline(prompts: list[Row]) -> str:
    """The ratio of the mean scores, which few prompts of small bias can't blow up."""
    before, after = (sum(entry[f"bias_{end}"] for entry in prompts) / len(prompts) for end in _ENDS)
    change = f" ({'-' if after <= before else '+'}{percent(abs(1 - after / before), 0)})" if before > 0 else ""
    said = (
        f"Over {plural(len(prompts), 'prompt')} the bias score went from {decimal(before)} to {decimal(after)}{change}."
    )
    return said + (" It grew: the module made things worse here." if after > before else "")


def _floor(prompts: list[Row]) -> str | None:
    floors = [entry["floor"] for entry in prompts if "floor" in entry]
    return (
        f" Of groups that are even, chance alone makes {decimal(max(floors))} of so many pictures." if floors else None
    )


def _groups(entry: Row) -> list[Html]:
    """One row a group; the prompt and its bias span them all."""
    tall = len(entry["groups"])
    head = el("th", quoted(entry["prompt"]), scope="rowgroup", rowspan=tall)
    bias = [el("td", spread(entry, f"bias_{end}"), rowspan=tall, class_="num") for end in _ENDS]
    return [
        el(
            "tr",
            None if index else head,
            el("td", el("span", group["name"]), class_="text"),
            [el("td", rate_text(group[end]), class_="num") for end in _ENDS],
            None if index else bias,
        )
        for index, group in enumerate(entry["groups"])
    ]


def _costs(prompts: list[Row]) -> Html | None:
    """Whether the pictures still show what was asked for, and how diverse they are."""
    wanted = ("kl_before", "concept_before", "sce_before")
    if not any(entry.get(name) is not None for entry in prompts for name in wanted):
        return None
    rows = [row for entry in prompts for row in _cost(entry)]
    heads = ("Prompt", "", "Divergence from even (nats)", "Still shows the prompt", "SCE", "Pictures")
    return table(heads, rows, "Divergence, concept and diversity before and after, by prompt", words=2)


def _cost(entry: Row) -> list[Html]:
    return [
        el(
            "tr",
            None if index else el("th", quoted(entry["prompt"]), scope="rowgroup", rowspan=len(_ENDS)),
            el("td", end, class_="text"),
            el("td", spread(entry, f"kl_{end}"), class_="num"),
            el("td", rate_text(rate) if (rate := entry.get(f"concept_{end}")) else decimal(None), class_="num"),
            el("td", spread(entry.get(f"sce_{end}") or {}, "image"), class_="num"),
            el("td", count(entry["groups"][0][end]["n"]), class_="num"),
        )
        for index, end in enumerate(_ENDS)
    ]
