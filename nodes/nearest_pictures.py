"""Nearest Pictures: what an embedding is near to, and was before something was done to it."""

from __future__ import annotations

import torch

from ..core.contact_sheet import Row, draw_sheet
from ..core.errors import HapaxError
from .embeddings import PICTURES, TEXTS, Embeddings
from .prompt_map import SEARCH
from .schema import EMBEDDINGS, io, schema, to_image, widget

Found = list[tuple[int, float]]


class NearestPictures(io.ComfyNode):
    """Nearest Pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "NearestPictures",
            "Nearest Pictures",
            "diversity",
            description="Find the pictures that are nearest to an embedding, of a picture or of words. After Remove "
            "Prompt it shows two lines: what was nearest before, and what is nearest now.",
            search_aliases=[*SEARCH, "similar pictures", "search", "retrieval", "neighbours"],
            inputs=[
                EMBEDDINGS.Input("query", tooltip="What to look for; one line of the sheet, or two, for each."),
                EMBEDDINGS.Input("pictures", tooltip="Where to look: embeddings of pictures."),
                widget(io.Int, "count", default=7, min=1, max=30, tooltip="How many pictures to show for each."),
                widget(io.Int, "queries", default=4, min=1, max=50, tooltip="For how many of the queries, at most."),
            ],
            outputs=[
                io.Image.Output("SHEET", display_name="sheet", tooltip="The nearest pictures, nearest first."),
                io.String.Output("TABLE", display_name="table", tooltip="Their numbers and cosines."),
            ],
        )

    @classmethod
    def execute(cls, query: Embeddings, pictures: Embeddings, count: int, queries: int) -> io.NodeOutput:
        """Search, and draw."""
        if not pictures.pictures:
            raise HapaxError("There are no pictures to look among, only texts; wire embeddings of pictures.")
        if query.scorer.fingerprint != pictures.scorer.fingerprint:
            raise HapaxError(
                f"The query is of {query.scorer.name}, the pictures are of {pictures.scorer.name}; use one CLIP scorer."
            )
        shown = min(queries, len(query))
        # Before the change the query is looked for among the pictures as they were then.
        lines = [(query, pictures)]
        if query.before is not None:
            lines.insert(0, (query.before, pictures.before or pictures))
        found = [_nearest(asked, among, shown, count) for asked, among in lines]
        rows = [_row(i, query, pictures, [line[i] for line in found], count) for i in range(shown)]
        subtitle = f"above: as it was, below: {query.change}" if query.before else f"among {len(pictures):,} pictures"
        sheet = draw_sheet("Nearest pictures", subtitle, rows, columns=count + 1)
        return io.NodeOutput(to_image([sheet]), "\n".join(_lines(query, found, shown)))


def _nearest(query: Embeddings, among: Embeddings, shown: int, count: int) -> list[Found]:
    """For each query the numbers and cosines of its nearest pictures; a picture isn't its own neighbour."""
    unit = torch.nn.functional.normalize
    cosines = unit(query.vectors[:shown].float(), dim=1) @ unit(among.vectors.float(), dim=1).T
    for i, picture in enumerate(query.pictures[:shown]):
        for j, other in enumerate(among.pictures):
            if torch.equal(picture, other):
                cosines[i, j] = -torch.inf
    values, indices = cosines.topk(min(count, len(among)), dim=1)
    return [
        [(j, value) for j, value in zip(*row, strict=True) if value > -torch.inf]
        for row in zip(indices.tolist(), values.tolist(), strict=True)
    ]


def _row(i: int, query: Embeddings, pictures: Embeddings, lines: list[Found], count: int) -> Row:
    blank, shown = torch.empty(0), []
    for number, line in enumerate(lines):
        shown.append(query.pictures[i] if query.pictures and not number else blank)
        shown += [pictures.pictures[j] for j, _ in line] + [blank] * (count - len(line))
    words = ["first: the picture itself"] if query.pictures else []
    words += [query.names[i]] if query.names else []
    words += ["above: nearest as it was", "below: nearest now"] if len(lines) > 1 else ["its nearest pictures"]
    kind = "picture" if query.pictures else {PICTURES: "embedding", TEXTS: "text"}[query.kind]
    return Row(kind, words, shown, badge=str(i + 1))


def _lines(query: Embeddings, found: list[list[Found]], shown: int) -> list[str]:
    names = ["as it was", query.change] if len(found) > 1 else ["nearest"]
    return [
        f"{i + 1} {name}: " + ", ".join(f"{j + 1} ({cosine:.2f})" for j, cosine in line[i])
        for i in range(shown)
        for name, line in zip(names, found, strict=True)
    ]


NODES = [NearestPictures]
