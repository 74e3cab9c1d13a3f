from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hapax.core.errors import HapaxError
from hapax.core.report import SCHEMA_VERSION, load_audit, save_audit, shape, validate
from hapax.core.report.kinds import Either, Kind, Listing, Maybe, Record

FEATURE = "prompts[0].features[0]"
CHANGE = f"{FEATURE}.amplified"


def steps(path: str) -> list[str | int]:
    return [int(step) if step.isdigit() else step for step in re.findall(r"\w+", path)]


def place(audit: dict, path: str) -> tuple[Any, str | int]:
    *way, last = steps(path)
    for step in way:
        audit = audit[step]
    return audit, last


def put(audit: dict, path: str, value: Any) -> None:
    parent, key = place(audit, path)
    parent[key] = value


def sentence(audit: Any) -> str:
    with pytest.raises(HapaxError) as caught:
        validate(audit)
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


def keys(kind: Kind, path: str = "") -> Iterator[tuple[str, bool]]:
    """(path, is it required) of every key that the shape knows; lists are entered at their first item."""
    if isinstance(kind, Maybe):
        yield from keys(kind.kind, path)
    elif isinstance(kind, Listing):
        yield from keys(kind.item, f"{path}[0]")
    elif isinstance(kind, Either):
        yield from keys(kind.listing, path)
    elif isinstance(kind, Record):
        for required, table in ((True, kind.required), (False, kind.optional)):
            for key, inner in table.items():
                spot = f"{path}.{key}" if path else key
                yield spot, required
                yield from keys(inner, spot)


KEYS = list(keys(shape.AUDIT))


def test_the_fixture_is_valid(audit: dict) -> None:
    validate(audit)


@pytest.mark.parametrize("path", [path for path, required in KEYS if required])
def test_a_missing_required_key_is_named(audit: dict, path: str) -> None:
    parent, key = place(audit, path)
    del parent[key]
    said = sentence(audit)
    assert said.startswith(f"audit.json has nothing at {path}; expected ")


# What measured_by may miss, and when, is among the contradictions.
@pytest.mark.parametrize("path", [path for path, required in KEYS if not required and "measured" not in path])
def test_optional_keys_may_be_missing(audit: dict, path: str) -> None:
    parent, key = place(audit, path)
    parent.pop(key, None)
    if path.endswith(("rate_before", "rate_after")):
        parent.pop("rate_before", None)
        parent.pop("rate_after", None)
    validate(audit)


@pytest.mark.parametrize("path", [path for path, _ in KEYS])
def test_the_wrong_kind_is_named(audit: dict, path: str) -> None:
    parent, key = place(audit, path)
    # An object where the list or the scalar belongs, and a scalar where the object does.
    parent[key] = 0.5 if isinstance(parent.get(key), dict) else {"": [None]}
    assert path in sentence(audit)


def test_every_key_is_documented() -> None:
    for path, _ in KEYS:
        name = str(steps(path)[-1]) if not path.endswith("]") else path.split(".")[-1].split("[")[0]
        assert re.search(rf"\b{name}\b", shape.__doc__ or ""), path


@pytest.mark.parametrize(
    ("path", "value", "found", "expected"),
    [
        ("schema_version", "2.0", "'2.0'", "1.x, the version that this Hapax reads and writes"),
        ("schema_version", 1.0, "1.0", "1.x, the version that this Hapax reads and writes"),
        ("created", " ", "' '", "a string that isn't blank"),
        ("prompts", [], "a list of 0", "a list of at least 1 items, each a prompt: an object with prompt"),
        ("prompts[0]", "x", "'x'", "a prompt: an object with prompt, index"),
        ("prompts[0].images", 0, "0", "a whole number of at least 1"),
        ("prompts[0].images", 500.0, "500.0", "a whole number of at least 1"),
        ("prompts[0].prompt", None, "null", "a string"),
        (f"{FEATURE}.count", -3, "-3", "a whole number of at least 0"),
        (f"{FEATURE}.count", True, "true", "a whole number of at least 0"),
        (f"{FEATURE}.frequency", 4.2, "4.2", "a number from 0 to 1"),
        (f"{FEATURE}.frequency", "4.2 %", "'4.2 %'", "a number from 0 to 1"),
        (f"{FEATURE}.score", 10**400, "1000", "a number from 0 to 1"),
        (f"{FEATURE}.distinctiveness_z", "9", "'9'", "a number, or null"),
        (f"{FEATURE}.finding", 1, "1", "true or false"),
        (f"{FEATURE}.id", "p0 f1", "'p0 f1'", "an id of letters, digits"),
        (f"{FEATURE}.id", "</script>", "'</script>'", "an id of letters, digits"),
        (f"{FEATURE}.label", "", "''", "a string that isn't blank, or null"),
        (f"{FEATURE}.labels[0]", ["a"], "a list of 1", "a list of 2 items"),
        (f"{FEATURE}.exemplars[0].image", "../secret.png", "'../secret.png'", "a picture's path relative"),
        (f"{FEATURE}.exemplars[0].image", "/etc/a.png", "'/etc/a.png'", "a picture's path relative"),
        (f"{FEATURE}.exemplars[0].image", "C:/a.png", "'C:/a.png'", "a picture's path relative"),
        (f"{FEATURE}.exemplars[0].image", "images\\a.png", "a.png'", "a picture's path relative"),
        (f"{FEATURE}.exemplars[0].heatmap", "javascript:alert(1)", "'javascript", "a picture's path"),
        (f"{CHANGE}.window", [0.4], "a list of 1", "a list of 2 items, each a number from 0 to 1"),
        (f"{CHANGE}.window[1]", 1.5, "1.5", "a number from 0 to 1"),
        ("settings.normalize", "zscore", "'zscore'", "'minmax' or 'rank'"),
        ("sae.dead", 12, "12", "a number from 0 to 1"),
        ("sce", 3, "3", "a diversity score: an object with image"),
        ("limits[1]", 3, "3", "a string that isn't blank"),
        ("provenance.reproduce", "", "''", "a string that isn't blank"),
    ],
)
def test_one_sentence_names_place_found_and_expected(
    audit: dict, path: str, value: Any, found: str, expected: str
) -> None:
    put(audit, path, value)
    said = sentence(audit)
    assert said.startswith("audit.json has ")
    assert f" at {path}; expected {expected}" in said
    assert found in said.split(" at ")[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({f"{FEATURE}.count": 501}, f"{FEATURE}.count is 501; expected at most the prompt's 500 images"),
        (
            {f"{FEATURE}.frequency": 0.5},
            f"{FEATURE}.frequency is 0.5; expected count / total, which is 9 / 500 = 0.018",
        ),
        (
            {f"{FEATURE}.frequency_low": 0.02},
            f"{FEATURE}.frequency is 0.018; expected it inside its interval",
        ),
        (
            {f"{FEATURE}.distinctiveness_low": 1.0},
            f"{FEATURE}.distinctiveness_low is 1; expected at most distinctiveness_high",
        ),
        ({f"{FEATURE}.distinctiveness_low": None}, "expected both, or null for both"),
        (
            {f"{FEATURE}.distinctiveness_low": None, f"{FEATURE}.distinctiveness_high": None},
            f"{FEATURE}.finding is true without an interval",
        ),
        ({f"{FEATURE}.distinctiveness_z": 3.0}, "a distinctiveness_z of 3; expected more than 3"),
        ({f"{FEATURE}.distinctiveness_z": None}, "a distinctiveness_z of null; expected more than 3"),
        ({"settings.min_support": 10}, "a count of 9; expected at least 10 pictures"),
        ({"prompts[0].features[1].id": "p0-f37"}, "prompts[0].features[1].id is 'p0-f37' again"),
        ({f"{FEATURE}.score": 0.1}, "prompts[0].features[1].score is 0.678583, above the 0.1"),
        ({"prompts[0].seeds": [0, 1, 2]}, "prompts[0].seeds has 3 items for 500 images"),
        ({"prompts[0].scored": 11}, "prompts[0].scored is 11; expected at least the 12 features"),
        ({"prompts[0].seeds": [0, 500]}, "prompts[0].seeds has 2 items for 500 images"),
        ({f"{FEATURE}.labels[0]": ["word", "0.3"]}, f"{FEATURE}.labels[0] is ['word', '0.3']"),
        ({f"{CHANGE}.window": [0.8, 0.2]}, f"{CHANGE}.window is [0.8, 0.2]; expected the earlier"),
        ({f"{CHANGE}.seeds": [1]}, f"{CHANGE}.before has 8 pictures for 1 seeds"),
        ({f"{CHANGE}.rate_after": None}, f"{CHANGE} has one of rate_before and rate_after"),
        ({f"{CHANGE}.measured_by": None}, f"{CHANGE}.measured_by is missing; expected who counted"),
        ({f"{CHANGE}.rate_after.count": 251}, f"{CHANGE}.rate_after.count is 251; expected at most n"),
        ({f"{CHANGE}.rate_after.rate": 0.1}, f"{CHANGE}.rate_after.rate is 0.1; expected count / total"),
        ({f"{CHANGE}.mixed.rate.low": 0.9}, f"{CHANGE}.mixed.rate.rate is 0.488; expected it inside"),
        (
            {"invdiff.prompts[0].groups[1].after.high": 0.1},
            "invdiff.prompts[0].groups[1].after.rate is 0.688; expected it inside",
        ),
        ({"invdiff.prompts[0].bias_after": 0.5}, "invdiff.prompts[0].bias_after is 0.5; expected 0.376, which its"),
        ({"invdiff.prompts[0].kl_before": 0.1}, "invdiff.prompts[0].kl_before is 0.1; expected 0.4047"),
        (
            {"invdiff.prompts[0].bias_before_interval": [0.1, 0.2]},
            "invdiff.prompts[0].bias_before is 0.832; expected it inside its interval",
        ),
        ({"invdiff.prompts[0].concept_after.count": 251}, "concept_after.count is 251; expected at most n"),
        (
            {"invdiff.prompts[0].sce_after.image_interval": [3.0, 4.0]},
            "invdiff.prompts[0].sce_after.image is 2.4; expected it inside",
        ),
    ],
)
def test_contradictions(audit: dict, changes: dict[str, Any], said: str) -> None:
    for path, value in changes.items():
        put(audit, path, value)
    whole = sentence(audit)
    assert whole.startswith("audit.json contradicts itself: ")
    assert said in whole


def test_nothing_is_a_finding_on_fewer_than_five(audit: dict) -> None:
    audit["settings"]["min_support"] = 1
    feature = audit["prompts"][0]["features"][0]
    feature |= {"count": 4, "frequency": 0.008, "frequency_low": 0.003, "frequency_high": 0.02}
    assert "a count of 4; expected at least 5 pictures" in sentence(audit)
    feature["finding"] = False
    validate(audit)


def test_seeds_may_be_listed(audit: dict) -> None:
    audit["prompts"][0]["seeds"] = [7 * seed for seed in range(500)]
    validate(audit)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("path", [f"{FEATURE}.score", "provenance.timings.sample", "sae.extra"])
def test_numbers_that_json_lacks_are_refused_everywhere(audit: dict, path: str, wrong: float) -> None:
    put(audit, path, wrong)
    said = sentence(audit)
    assert f"{wrong} at {path}; expected a finite number" in said


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        (f"{FEATURE}.score", np.float32(0.5), "a numpy.float32"),
        (f"{FEATURE}.group", (1, 2), "a builtins.tuple"),
        ("provenance.extra", Path("x"), "Path"),
        ("provenance.extra", "half \ud800", "'half"),
        ("provenance.extra", {3: "x"}, "3"),
    ],
)
def test_only_plain_json_is_taken(audit: dict, path: str, value: Any, found: str) -> None:
    put(audit, path, value)
    said = sentence(audit)
    assert found in said
    assert f" at {path}; expected" in said


@pytest.mark.parametrize("wrong", [[], "x", None, 3])
def test_an_audit_is_an_object(wrong: Any) -> None:
    assert "at its top; expected an audit: a JSON object" in sentence(wrong)


def test_unknown_keys_and_later_minor_versions_are_kept(audit: dict, tmp_path: Path) -> None:
    audit["schema_version"] = "1.7"
    audit["prompts"][0]["features"][0]["novel"] = {"a": [1, None]}
    assert load_audit(save_audit(audit, tmp_path / "audit.json")) == audit


def test_round_trip_and_stable_bytes(audit: dict, tmp_path: Path) -> None:
    audit["model"]["name"] = 'm\u00f6del \u2028 "\u05d0" \U0001f692'
    first = save_audit(audit, tmp_path / "first.json")
    again = save_audit(dict(reversed(audit.items())), tmp_path / "audit.json")
    assert load_audit(first) == audit
    assert first.read_bytes() == again.read_bytes()
    assert SCHEMA_VERSION == json.loads(first.read_text("utf-8"))["schema_version"]


def test_an_invalid_audit_leaves_the_old_file(audit: dict, tmp_path: Path) -> None:
    path = save_audit(audit, tmp_path / "audit.json")
    before = path.read_bytes()
    audit["prompts"][0]["features"][0]["score"] = math.nan
    with pytest.raises(HapaxError):
        save_audit(audit, path)
    assert path.read_bytes() == before


def test_a_failed_write_leaves_nothing_half_done(audit: dict, tmp_path: Path) -> None:
    (tmp_path / "audit.json").mkdir()
    with pytest.raises(HapaxError, match=r"audit\.json"):
        save_audit(audit, tmp_path / "audit.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["audit.json"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is not an audit.json"),
        (b"\xff\xfe", "is not an audit.json"),
        (b'{"a": NaN}', "it holds NaN, which JSON has no number for"),
        (b"[" * 100_000, "is not an audit.json"),
        (b"9" * 5000, "is not an audit.json"),
        (b"[]", "at its top; expected an audit"),
        (None, "No audit can be read at"),
    ],
)
def test_files_that_are_no_audit(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "audit.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HapaxError) as caught:
        load_audit(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
