from __future__ import annotations

import re

import pytest
from hapax.core.report.charts import HEIGHT, WIDTH, Axes, dots, rarity_map, rate_bar


def feature(number: int, frequency: float, distance: float, finding: bool = True) -> dict:
    return {
        "id": f"f{number}",
        "frequency": frequency,
        "frequency_low": frequency / 2,
        "frequency_high": min(frequency * 2, 1),
        "distinctiveness": distance,
        "distinctiveness_low": distance * 0.8,
        "distinctiveness_high": distance * 1.2,
        "finding": finding,
    }


def drawn(rows: list[dict], labels: bool = True) -> str:
    named = [({**row, "label": f"name {row['id']}" if labels else None}, f"name {row['id']}") for row in rows]
    return rarity_map(named, Axes(rows), "title")


def floats(pattern: str, svg: str) -> list[float]:
    return [float(number) for number in re.findall(pattern, svg)]


@pytest.mark.parametrize(("rate", "low", "high"), [(0.25, 0.2, 0.3), (0.0, 0.0, 0.01), (1.0, 0.99, 1.0)])
def test_the_bar_and_its_whisker_are_to_scale(rate: float, low: float, high: float) -> None:
    svg = rate_bar(rate, low, high)
    (width,) = floats(r'class="bar" x="0" y="4" width="([\d.]+)"', svg)
    assert width == max(400 * rate, 1)
    assert floats(r'<line x1="([\d.]+)" x2="[\d.]+" y1="8"', svg) == [400 * low]
    assert floats(r'<line x1="[\d.]+" x2="([\d.]+)" y1="8"', svg) == [400 * high]


@pytest.mark.parametrize(("share", "number"), [(0.5, 2), (0.042, 24), (1 / 120, 120)])
def test_one_dot_in_n_is_lit(share: float, number: int) -> None:
    svg = dots(share)
    assert svg.count("<circle") == number
    assert svg.count('class="lit"') == 1


@pytest.mark.parametrize("share", [0.0, 0.001, 0.7, 1.0])
def test_no_dots_where_they_say_nothing(share: float) -> None:
    assert dots(share) == ""


def test_the_axes_are_logarithmic_and_linear() -> None:
    axes = Axes([feature(0, 0.02, 0.4), feature(1, 0.5, 0.1)])
    decade = axes.x(0.1) - axes.x(0.01)
    assert axes.x(1.0) - axes.x(0.1) == pytest.approx(decade)
    assert axes.y(0.1) - axes.y(0.2) == pytest.approx(axes.y(0.2) - axes.y(0.3))
    assert axes.x(0.0) == axes.x(1e-9), "what is off the scale stays at its edge"


@pytest.mark.parametrize("frequency", [1e-5, 0.004, 0.3, 1.0])
@pytest.mark.parametrize("distance", [0.0, 1e-6, 0.4, 1.9])
def test_every_mark_is_inside(frequency: float, distance: float) -> None:
    rows = [feature(0, frequency, distance), feature(1, 0.1, 0.2, finding=False)]
    svg = drawn(rows)
    assert "nan" not in svg
    assert "inf" not in svg
    across = floats(r'\b(?:x1|x2|cx)="(-?[\d.]+)"', svg) + floats(r'd="M(-?[\d.]+) ', svg)
    down = floats(r'\b(?:y1|y2|cy)="(-?[\d.]+)"', svg) + floats(r'd="M-?[\d.]+ (-?[\d.]+)l', svg)
    assert all(0 <= x <= WIDTH for x in across)
    assert all(0 <= y <= HEIGHT for y in down)


def test_findings_differ_in_shape_and_every_mark_is_a_link() -> None:
    svg = drawn([feature(n, 0.02 * (n + 1), 0.1 * n, finding=n % 2 == 0) for n in range(6)])
    assert svg.count('<path class="finding"') == 3
    assert svg.count('<circle class="other"') == 3
    assert set(re.findall(r'href="#feature-(f\d)"', svg)) == {f"f{n}" for n in range(6)}
    assert 'aria-label="name f2: 6.0 % (3.0 to 12.0 %) of pictures, distinctiveness 0.20"' in svg


def test_names_never_cover_each_other() -> None:
    rows = [feature(n, 0.02 + 0.0001 * n, 0.3) for n in range(30)]
    svg = drawn(rows)
    spots = re.findall(r'class="name" x="([\d.]+)" y="([\d.]+)">([^<]+)<', svg)
    assert 0 < len(spots) < 30, "names are left out where there is no room"
    boxes = [(float(x), float(y) - 11, float(x) + 6.6 * len(name), float(y) + 3) for x, y, name in spots]
    for at, a in enumerate(boxes):
        assert not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in boxes[:at])


def test_unnamed_and_unfired_features() -> None:
    assert 'class="name"' not in drawn([feature(0, 0.1, 0.2)], labels=False)
    silent = {**feature(1, 0.0, 0.2, finding=False), "distinctiveness_high": None}
    assert "#feature-f1" not in drawn([feature(0, 0.1, 0.2), silent])
    assert "#feature" not in drawn([silent])
