"""Bias Score, by CLIP and by counts, and its section in a saved audit."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.invdiff.metrics import bias_score
from hapax.core.invdiff.module import GuidanceModule, GuidanceShape
from hapax.nodes.bias import BiasScore
from hapax.nodes.scoring import SaveAudit

pytestmark = pytest.mark.usefixtures("as_the_server_runs")


class Queued(SaveAudit):
    """The node with what the server adds to a run."""

    hidden = SimpleNamespace(prompt={"1": {"class_type": "X"}}, extra_pnginfo={"workflow": {"nodes": []}})


GIVEN = {
    "prompt": "a photo of a cook",
    "groups": "{}, woman\n{}, man",
    "concepts": "",
    "counts": "",
    "counts_before": "",
    "strength": 1.0,
}


def score(**changed):
    return BiasScore.execute(**GIVEN | changed).result


class Words:
    """A scorer of colours: each text stands for one, so that the truth is known."""

    name = "colours"
    colours = {  # noqa: RUF012
        "a photo of a cook, woman": (1.0, 0.0, 0.0),
        "a photo of a cook, man": (0.0, 1.0, 0.0),
        "a photo of a cook": (1.0, 1.0, 0.0),
        "a photo of a cat": (0.0, 0.0, 1.0),
    }

    def texts(self, texts):
        return torch.nn.functional.normalize(torch.tensor([self.colours[each] for each in texts]), dim=1)

    def images(self, pictures):
        colours = [[value / 255 for value in each.getpixel((0, 0))] for each in pictures]
        return torch.nn.functional.normalize(torch.tensor(colours), dim=1)


def pictures(red, green, blue=0):
    colours = torch.tensor([[1.0, 0.1, 0.0]] * red + [[0.1, 1.0, 0.0]] * green + [[0.1, 0.0, 1.0]] * blue)
    return colours[:, None, None].expand(-1, 8, 8, -1)


def test_counts_are_scored():
    bias, table, plot, _ = score(counts="90, 10")
    assert bias == bias_score([90, 10]) == 0.8
    assert table.startswith("after: bias 0.80 (")
    assert "woman 90, man 10" in table
    assert "even groups would give 0.08 by chance" in table
    assert plot.shape[0] == 1
    assert 0 <= float(plot.min()) < float(plot.max()) <= 1


def test_pictures_are_counted_by_clip_before_and_after():
    given = {"images": pictures(6, 4), "before": pictures(9, 0, 1), "scorer": Words(), "concepts": "a photo of a cat"}
    bias, table, plot, report = score(**given)
    assert bias == pytest.approx(0.2)
    before, *more = table.splitlines()
    assert before.startswith("before: bias 1.00 (")
    assert more[0].strip() == "9 of 10 show the prompt"
    assert "after: bias 0.20 (" in table
    (row,) = report.section()["prompts"]
    assert row["groups"][0]["name"] == "woman"
    assert [row["groups"][0][end]["count"] for end in ("before", "after")] == [10, 6]
    assert [row[f"concept_{end}"]["count"] for end in ("before", "after")] == [9, 10]
    assert row["sce_after"]["n"] == 10
    assert report.section()["measured_by"] == "colours"
    # A panel for each side.
    assert plot.shape[1] > score(counts="6, 4")[2].shape[1]


def test_the_demo_s_own_clip_counts(scorer):
    bias, table, *_ = score(images=pictures(3, 3), scorer=scorer)
    assert 0 <= bias <= 1
    assert "of 6 pictures" in table


def test_the_section_is_saved_with_an_audit(findings, base_directory):
    with torch.inference_mode(False):
        module = GuidanceModule(GuidanceShape("mid", 128, 64, hidden=8)).requires_grad_(False)
    report = score(counts="60, 40", counts_before="90, 10", guidance=module, strength=0.5)[3]
    path = Path(Queued.execute(findings[0], "debiased", "tiny", report).result[0])
    audit = json.loads((path.parent / "audit.json").read_text(encoding="utf-8"))
    section = audit["invdiff"]
    assert (section["strength"], len(section["fingerprint"])) == (0.5, 64)
    assert section["module"] == f"at mid of {module.shape.parameters:,} parameters"
    assert section["prompts"][0]["bias_before"] == pytest.approx(0.8)
    html = path.read_text(encoding="utf-8")
    assert "Bias, before and after" in html
    assert "the bias score went from 0.80 to 0.20 (-75 %)" in html
    plain = Path(Queued.execute(findings[0], "plain", "tiny").result[0])
    assert "Bias, before and after" not in plain.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "There is nothing to count"),
        ({"groups": "{}, woman"}, "give two or more, each once"),
        ({"groups": "{}, woman\n{}, woman"}, "give two or more, each once"),
        ({"counts": "90"}, "give a whole number for each of the 2 groups"),
        ({"counts": "90, -1"}, "give a whole number for each of the 2 groups"),
        ({"counts": "0, 0"}, "a picture at least"),
        ({"images": torch.zeros(2, 8, 8, 3)}, "The pictures can't be counted without a CLIP scorer"),
        ({"counts": "1, 2", "before": torch.zeros(2, 8, 8, 3)}, "The pictures before can't be counted without"),
    ],
)
def test_bad_input_is_one_clear_sentence(changed, said):
    with pytest.raises(HapaxError, match=said):
        score(**changed)


def test_a_report_needs_a_before(findings):
    report = score(counts="60, 40")[3]
    with pytest.raises(HapaxError, match="counted nothing from before"):
        Queued.execute(findings[0], "never", "tiny", report)
