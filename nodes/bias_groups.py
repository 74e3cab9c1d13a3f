"""Infer Bias Groups: what kinds of pictures a model makes of a prompt, found without labels, for people to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.collect import batches, thumbnail
from ..core.contact_sheet import Row, draw_sheet
from ..core.errors import HapaxError
from ..core.invdiff.data import PictureSet
from ..core.invdiff.groups import infer_groups, strata
from ..core.invdiff.probes import probe_losses
from ..core.invdiff.rounds import ordinary
from ..core.invdiff.spread import spread_probabilities
from ..core.statistics import wilson_interval
from .caption_runs import caption_bar
from .denoising import call_denoiser
from .fitting import identity
from .schema import CLIP_SCORER, GROUPS, io, schema, to_image, to_pictures, ui, widget
from .scoring import Scorer
from .training_set import SEARCH, one_each, read_set
from .widgets import EXACT, seed_widget

LOSSES, CLIP = "losses", "clip"
_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class BiasGroups:
    """Pictures with their groups, as Train InvDiff Guidance wants them.

    Attributes:
        pictures: in the denoiser's scale.
        conditionings: of its prompts, in their order.
        weights: [N, G] shares in groups.
        probabilities: [N] with which each picture would be drawn if its prompt were even.
        by: what they were inferred from.
        made_for: the model's architecture, fingerprint and versions.
    """

    pictures: PictureSet
    conditionings: tuple[list, ...]
    weights: Tensor
    probabilities: Tensor
    by: str
    made_for: dict[str, Any]


class InferBiasGroups(io.ComfyNode):
    """Infer Bias Groups."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "InferBiasGroups",
            "Infer Bias Groups",
            "debias",
            description="What kinds of pictures are these, and which are rare? Sorts the pictures of each prompt into "
            "groups by how the model itself errs on them: no labels, no names of what to look for. The sheet shows "
            "what the groups are, before anything is trained.",
            search_aliases=[*SEARCH, "environments", "clusters", "subgroups"],
            is_input_list=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to even out, the one that the pictures are for."),
                io.Vae.Input("vae", tooltip="Its VAE, which shows the pictures on the sheet."),
                io.Latent.Input(
                    "latents",
                    tooltip="The pictures: from Sample Training Set, from ComfyUI's Make Training Dataset, or of VAE "
                    "Encode. All of one size.",
                ),
                io.Conditioning.Input(
                    "conditioning", tooltip="Their prompts: one for each latent in the list, or one for all."
                ),
                CLIP_SCORER.Input("scorer", optional=True, tooltip="From Load CLIP Scorer; needed for groups by clip."),
                widget(
                    io.Int,
                    "groups",
                    default=32,
                    min=1,
                    max=1024,
                    tooltip="How many groups to sort each prompt's pictures into, to look at: with many small ones a "
                    "rare kind has one of its own. How often each picture is to be shown doesn't depend on it.",
                ),
                widget(
                    io.Combo,
                    "by",
                    options=[LOSSES, CLIP],
                    default=LOSSES,
                    tooltip="losses: how the model errs when it denoises each picture, which needs nothing else. clip: "
                    "how the pictures look to the CLIP scorer, which evens out about twice as much on the demo model.",
                ),
                seed_widget("Of where the search for groups begins.", most=EXACT),
                widget(
                    io.Int,
                    "shown",
                    default=8,
                    min=1,
                    max=20,
                    tooltip="How many pictures to show of each group.",
                ),
                widget(
                    io.Int,
                    "batch_size",
                    default=16,
                    min=1,
                    max=4096,
                    advanced=True,
                    tooltip="Pictures looked at together: more is faster and needs more memory.",
                ),
                io.Latent.Input(
                    "guided_latents",
                    optional=True,
                    tooltip="For a second round: more pictures of the same prompts, from Sample Training Set on the "
                    "model with guidance. Rare kinds are common among them; strays are left out.",
                ),
                io.Conditioning.Input(
                    "guided_conditioning",
                    optional=True,
                    tooltip="Their prompts, from the same Sample Training Set.",
                ),
            ],
            outputs=[
                GROUPS.Output("GROUPS", display_name="groups", tooltip="For Train InvDiff Guidance."),
                io.Image.Output(
                    "SHEETS",
                    display_name="sheets",
                    is_output_list=True,
                    tooltip="A line a group, a sheet a prompt: see whether rare kinds have lines of their own.",
                ),
                io.String.Output("TABLE", display_name="table", tooltip="How large the groups are."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: list,
        vae: list,
        latents: list,
        conditioning: list,
        groups: list,
        by: list,
        seed: list,
        shown: list,
        batch_size: list,
        scorer: list | None = None,
        guided_latents: list | None = None,
        guided_conditioning: list | None = None,
    ) -> io.NodeOutput:
        """Look at the pictures, and sort them."""
        more, said = guided_latents or [], guided_conditioning or []
        words = [*one_each(latents, conditioning), *one_each(more, said)]
        pictures, prompts = read_set(model[0], [*latents, *more], words)
        own = sum(len(each["samples"]) for each in latents)
        _check_own(pictures, own)
        decode = _Decoder(vae[0], torch.cat([each["samples"] for each in (*latents, *more)]))
        report = caption_bar()
        if by[0] == LOSSES:
            table = _losses(model[0], pictures, prompts, batch_size[0], report)
        else:
            table = _embeddings(scorer, decode, report)
        kept = ordinary(table, pictures.prompt, own)
        strays = int((~kept).sum())
        table, pictures, decode = table[kept], pictures.part(kept), decode.part(kept)
        weights = infer_groups(table, min(groups[0], len(pictures)), seed=seed[0], prompt=pictures.prompt)
        probabilities = spread_probabilities(table, pictures.prompt)
        found = BiasGroups(pictures, tuple(prompts), weights, probabilities, by[0], identity(model[0]))
        sheets, lines = _sheets(found, decode, shown[0])
        if more:
            lines.append(f"{strays} of {len(kept) - own} guided pictures are like none of the model's own: left out")
        text = "\n".join(lines)
        return io.NodeOutput(found, sheets, text, ui=ui.PreviewText(text))


def _check_own(pictures: PictureSet, own: int) -> None:
    """Raise HapaxError if guided pictures, all but the first `own`, are of prompts of which there are no others."""
    foreign = sorted(set(pictures.prompt[own:].tolist()) - set(pictures.prompt[:own].tolist()))
    if foreign:
        raise HapaxError(
            f"The guided pictures are also of {pictures.prompts[foreign[0]]!r}, of which latents has none; sample both "
            "sets from the same prompts with the same CLIP."
        )


def _losses(
    model: Any, pictures: PictureSet, prompts: list, batch_size: int, report: Callable[[str, int, int], None]
) -> Tensor:
    shape = pictures.latents.shape[1:]
    return call_denoiser(
        model,
        pictures.prompts,
        prompts,
        shape,
        batch_size,
        lambda denoising: probe_losses(denoising, pictures, batch_size=batch_size, progress=report),
    )


def _embeddings(scorer: list | None, decode: _Decoder, report: Callable[[str, int, int], None]) -> Tensor:
    if not scorer:
        raise HapaxError("Groups by clip need a CLIP scorer; wire Load CLIP Scorer, or choose losses.")
    given: Scorer = scorer[0]
    found = []
    for rows in batches(range(len(decode)), _AT_ONCE):
        report("embedding", rows[0], len(decode))
        found.append(given.images(decode.pictures(rows)))
    return torch.cat(found)


class _Decoder:
    """Latents as pictures, a few at a time."""

    def __init__(self, vae: Any, latents: Tensor) -> None:
        self.vae, self.latents = vae, latents

    def __len__(self) -> int:
        return len(self.latents)

    def part(self, rows: Tensor) -> _Decoder:
        """Of some of the latents."""
        return _Decoder(self.vae, self.latents[rows])

    def pictures(self, rows: Sequence[int]) -> list[Any]:
        """PIL pictures of some rows."""
        return to_pictures(self.vae.decode(self.latents[list(rows)]))


def _sheets(found: BiasGroups, decode: _Decoder, shown: int) -> tuple[list[Tensor], list[str]]:
    """A sheet for each prompt that has groups of its own, and the sizes in words."""
    sheets, lines, pictures = [], [], found.pictures
    for rows in strata(pictures.prompt, len(pictures)):
        numbers = pictures.prompt[rows].unique()
        name = pictures.prompts[int(numbers[0])] if len(numbers) == 1 else f"{len(numbers)} prompts of few pictures"
        drawn = [_group_row(found, rows, group, decode, shown) for group in _present(found.weights[rows])]
        drawn.sort(key=lambda row: -row.bar[0] if row.bar else 0.0)
        subtitle = f"{len(rows)} pictures in {len(drawn)} groups, by {found.by}"
        sheets.append(to_image([draw_sheet(f'Kinds of "{name}"', subtitle, drawn, columns=shown)]))
        lines += [f"{name}: {subtitle}", *(f"  {row.title}: {', '.join(row.lines)}" for row in drawn)]
    return sheets, lines


def _present(weights: Tensor) -> list[int]:
    return weights.argmax(1).unique().tolist()


def _group_row(found: BiasGroups, rows: Tensor, group: int, decode: _Decoder, shown: int) -> Row:
    """A group's size, how much more often it is to be shown, and the pictures that belong to it most."""
    weights = found.weights[rows]
    inside = rows[weights.argmax(1) == group]
    best = inside[found.weights[inside, group].argsort(descending=True)][:shown]
    share, total = len(inside) / len(rows), found.probabilities[rows].sum()
    factor = float(found.probabilities[inside].sum() / total) / share
    low, high = wilson_interval(len(inside), len(rows))
    thumbnails = [thumbnail(each) for each in decode.pictures(best.tolist())]
    lines = [f"{len(inside)} of {len(rows)} pictures", f"to be shown {factor:.1f} times as often"]
    return Row(f"group {group + 1}", lines, thumbnails, (share, float(low), float(high)))


NODES = [InferBiasGroups]
