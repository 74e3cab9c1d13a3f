from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hapax.core.errors import HapaxError
from hapax.core.report import MAX_FEATURES, load_audit, save_audit, write_report
from hapax.core.report.numbers import interval
from PIL import Image

VOID = {"meta", "link", "input", "br", "image", "use", "circle", "line", "rect", "path"}
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>${body} $style </title></style> &lt;b&gt;"


class Page(HTMLParser):
    """The page as a browser without scripts holds it: elements with attributes, and text by element."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text("utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self._open), data))

    def all(self, tag: str, class_: str = "") -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and class_ in [*(a.get("class") or "").split(), ""]]

    def inside(self, tag: str) -> str:
        return "".join(data for way, data in self.texts if tag in way)

    @property
    def seen(self) -> str:
        """What a reader can see, as one line."""
        hidden = {"script", "style", "title"}
        words = "".join(data for way, data in self.texts if not hidden & set(way))
        return re.sub(r"\s+", " ", words)

    @property
    def ids(self) -> list[str]:
        return [a["id"] or "" for _, a in self.elements if "id" in a]

    @property
    def island(self) -> dict:
        (body,) = re.findall(r'<script type="application/json" id="audit">(.*?)</script>', self.source)
        assert "<" not in body
        return json.loads(body)


@pytest.fixture(scope="module")
def page(drawn: tuple[Path, dict]) -> Page:
    folder, audit = drawn
    return Page(write_report(audit, folder))


def features(audit: dict) -> list[dict]:
    return [feature for prompt in audit["prompts"] for feature in prompt["features"]]


def test_it_is_one_file_that_loads_nothing(page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            target = attributes.get(name)
            if target is None or target.startswith(("#", "data:image/")):
                continue
            assert (tag, name) == ("a", "href")
            assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", target)
    assert not re.search(r"@import|url\(", page.inside("style"))
    assert not re.search(r"\b(fetch|XMLHttpRequest|eval|innerHTML)\b|\bimport\s*[({]", page.inside("script"))


def test_the_content_policy_lets_only_its_own_style_and_script_run(page: Page) -> None:
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    for tag, pattern in (("style", r"<style>(.*?)</style>"), ("script", r"<script>(.*?)</script>")):
        (body,) = re.findall(pattern, page.source, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    # The policy forbids these, so the page would be broken where one slipped in.
    assert not [a for _, a in page.elements if "style" in a or any(name.startswith("on") for name in a)]


def test_without_scripts_every_name_number_and_picture_is_there(page: Page, audit: dict) -> None:
    cards = {a["id"] for a in page.all("article", "feature")}
    for feature in features(audit):
        assert f"feature-{feature['id']}" in cards
        assert (feature["label"] or "unnamed feature") in page.seen
        rate = interval(feature["frequency"], feature["frequency_low"], feature["frequency_high"])
        # Once on the card, once in the table.
        assert page.seen.count(rate) >= 2
        assert f"{feature['count']} of 500 pictures" in page.seen
        assert f"{feature['count']} / 500" in page.seen
        assert f"{feature['score']:.3f}" in page.seen
        for shot in feature["exemplars"]:
            assert f": seed {shot['seed']}, activation {shot['activation']:.2f}" in page.inside("title")
        change = feature["amplified"] or {}
        for end in ("rate_before", "rate_after"):
            if change:
                rate = change[end]
                said = f"{interval(rate['rate'], rate['low'], rate['high'])} {rate['count']} of {rate['n']}"
                assert said in page.seen
    for prompt in audit["prompts"]:
        assert f"\u201c{prompt['prompt']}\u201d 500 pictures, 12 features scored, 8 findings" in spaced(page)
    for sentence in (*audit["limits"], *audit["credits"], audit["provenance"]["reproduce"]):
        assert sentence in page.seen
    assert audit["model"]["fingerprint"] in page.seen


def spaced(page: Page) -> str:
    return re.sub(r"\s+", " ", " ".join(data for way, data in page.texts if "script" not in way))


def test_every_picture_and_its_heatmap_is_shown(page: Page, audit: dict) -> None:
    heats = sum(len(feature["exemplars"]) for feature in features(audit))
    assert len(page.all("svg", "heat")) == heats
    changes = [feature["amplified"] for feature in features(audit) if feature["amplified"]]
    pairs = sum(2 * len(change["seeds"]) + len(change["mixed"]["pictures"]) for change in changes)
    usual = sum(len(prompt["sample_sheet"]) for prompt in audit["prompts"])
    tiles = len(re.findall(r"The strongest picture of", page.inside("title")))
    assert 0 < tiles <= 6
    assert len(page.all("svg", "picture")) == heats + pairs + usual + tiles


def test_nothing_essential_needs_the_script(page: Page) -> None:
    inner = re.findall(r'class="js-only[^"]*"[^>]*>(.*?)</(?:div|button)>', page.source)
    assert inner == ["", "Copy", "Save the numbers on this page (JSON)"]
    # The heatmap switch works by style, so it stands outside of what needs the script.
    assert '<div class="tools"><label class="check"><input type="checkbox" id="heatmaps">' in page.source


def test_every_link_and_picture_leads_somewhere(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    targets = {a["href"] for _, a in page.elements if (a.get("href") or "").startswith("#")}
    assert targets <= {f"#{name}" for name in page.ids}
    pictures = {f"#{a['id']}" for a in page.all("image")}
    assert pictures == {a["href"] for a in page.all("use")}, "no picture is stored for nothing"
    labelled = {a["for"] for a in page.all("label") if "for" in a}
    assert not labelled


@pytest.mark.parametrize(
    "change",
    [
        {"sce": None, "invdiff": None, "sae": None},
        {"sce": None, "credits": [], "limits": []},
    ],
)
def test_parts_that_are_missing_leave_no_trace(audit: dict, folder: Path, change: dict) -> None:
    audit.update(change)
    for feature in features(audit):
        feature |= {"amplified": None, "labels": [], "group": []}
    for prompt in audit["prompts"]:
        prompt |= {"sample_sheet": None, "sae": None}
    page = Page(write_report(audit, folder))
    test_every_link_and_picture_leads_somewhere(page)
    for head in ("Turned up", "Diversity", *(["Bias, before and after"] if "invdiff" in change else [])):
        assert head not in page.inside("h2")
        assert head not in page.inside("nav")
    assert "What it usually gives" not in page.seen
    assert "None" not in re.sub(r"None of its", "", page.seen)


def test_hostile_words_are_inert(page: Page, audit: dict, folder: Path) -> None:
    clean = page
    audit["model"]["name"] = audit["provenance"]["reproduce"] = HOSTILE
    audit["limits"][0] = audit["credits"][0] = HOSTILE
    audit["provenance"]["versions"] = {HOSTILE: HOSTILE}
    audit["invdiff"]["prompts"][0]["groups"][0]["name"] = HOSTILE
    for prompt in audit["prompts"]:
        prompt["prompt"] = HOSTILE
        for feature in prompt["features"]:
            feature["label"] = HOSTILE
            feature["labels"] = [[HOSTILE, 0.3]]
            if feature["amplified"]:
                feature["amplified"] |= {"mode": HOSTILE, "measured_by": HOSTILE}
                feature["amplified"]["mixed"]["prompt"] = HOSTILE
    page = Page(write_report(audit, folder))
    assert len(page.all("script")) == 2
    assert not page.all("img")
    assert not page.all("b", "onerror")
    for tag, attributes in page.elements:
        assert tag in {name for name, _ in clean.elements}
        assert not [name for name in attributes if name.startswith("on")]
    assert page.inside("h4").count(HOSTILE) == 24
    assert page.inside("code") == HOSTILE
    assert page.island["prompts"][1]["features"][3]["label"] == HOSTILE


def test_the_page_carries_its_numbers(page: Page, audit: dict) -> None:
    assert page.island == audit


def test_only_the_first_200_are_shown(audit: dict, folder: Path) -> None:
    for prompt in audit["prompts"]:
        template = prompt["features"][-1]
        for number in range(130):
            extra = copy.deepcopy(template)
            extra |= {"id": f"{template['id']}-{number}", "label": f"extra {number}", "score": 0.0}
            prompt["features"].append(extra)
        prompt["features"].sort(key=lambda feature: -feature["score"])
    page = Page(write_report(audit, folder))
    cards = page.all("article", "feature")
    assert len(cards) == MAX_FEATURES == 200
    assert "84 more were left out; they are in audit.json" in page.seen
    # 16 findings first, then rank by rank, each prompt in turn: 100 from each.
    for number in range(2):
        ranks = [int(a["data-rank"] or 0) for a in cards if (a["id"] or "").startswith(f"feature-p{number}-")]
        assert ranks == list(range(1, 101))
    assert len(page.all("article", "finding")) == 16
    assert sum(len(prompt["features"]) for prompt in page.island["prompts"]) == 200
    assert "scored 284 features" in page.seen
    assert "142 features scored" in page.seen


def test_findings_come_before_better_ranks(audit: dict, folder: Path) -> None:
    audit["prompts"], audit["sce"]["prompts"] = audit["prompts"][:1], audit["sce"]["prompts"][:1]
    audit["compass"]["prompts"] = audit["compass"]["prompts"][:1]
    rows = audit["prompts"][0]["features"]
    late = [f for f in rows if f["finding"]][-1]
    filler = next(f for f in rows if not f["finding"])
    crowd = [{**copy.deepcopy(filler), "id": f"crowd-{n}", "score": 1.0} for n in range(300)]
    audit["prompts"][0]["features"] = [*crowd, *rows]
    page = Page(write_report(audit, folder))
    assert f"feature-{late['id']}" in page.ids
    assert len(page.all("article", "feature")) == 200
    assert "112 more were left out" in page.seen


def test_nothing_left_out_is_not_mentioned(page: Page) -> None:
    assert "left out" not in page.seen


def test_the_headline_counts_things_of_one_name_once(page: Page, audit: dict) -> None:
    # 16 findings: 7 names met in both prompts, and an unnamed one in each.
    assert page.inside("h1") == "9 things this model knows but seldom shows"
    assert "lists 16 as findings (some share a name, which leaves 9 different ones)" in page.seen
    assert "woman went from 4.8 % to 58 %" in page.seen


def test_no_finding_no_claim(audit: dict, folder: Path) -> None:
    for feature in features(audit):
        feature["finding"] = False
    page = Page(write_report(audit, folder))
    assert page.inside("h1") == "Nothing rare was found that this audit can vouch for"
    assert not page.all("article", "finding")
    assert "lists 0 as findings" in page.seen


def test_what_is_common_is_not_called_seldom(audit: dict, folder: Path) -> None:
    for feature in features(audit):
        feature["finding"] = feature["label"] == "light skin"
        feature["distinctiveness_z"] = 9.0
    page = Page(write_report(audit, folder))
    assert page.inside("h1") == "1 thing that stands apart in what this model shows"


def test_features_that_were_scored_but_not_listed_are_counted(audit: dict, folder: Path) -> None:
    audit["prompts"][0]["scored"] = 1037
    page = Page(write_report(audit, folder))
    assert "It scored 1,049 features and lists 16 as findings" in page.seen
    assert "1,037 features scored, 8 findings" in page.seen
    assert "Autoencoder of \u201ca photo of a nurse\u201d" in page.inside("h3")
    assert "sae/p1.safetensors" in page.seen


def test_a_contact_sheet_keeps_its_size(audit: dict, folder: Path) -> None:
    Image.new("RGB", (512, 192)).save(folder / "images/sheet.png")
    audit["prompts"][0]["sample_sheet"] = "images/sheet.png"
    page = Page(write_report(audit, folder))
    (sheet,) = page.all("svg", "sheet")
    assert (sheet["width"], sheet["viewbox"]) == ("512", "0 0 512 192")


def test_few_pictures_are_called_too_few(page: Page) -> None:
    assert "Seen in only 4 pictures: too few to say anything." in page.seen


def test_an_audit_without_features_still_makes_a_page(audit: dict, folder: Path) -> None:
    for prompt in audit["prompts"]:
        prompt["features"] = []
    page = Page(write_report(audit, folder))
    test_every_link_and_picture_leads_somewhere(page)
    assert "0 features scored" in page.seen


def test_headings_descend_and_tables_have_heads(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    tables = page.all("table")
    assert len(tables) == 7
    assert len(page.all("caption")) == 7
    assert all(a.get("scope") for a in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"


def test_pictures_have_words_and_overlays_are_silent(page: Page) -> None:
    for svg in page.all("svg"):
        kinds = (svg.get("class") or "").split()
        if "pic" in kinds and "heat" not in kinds:
            assert svg["role"] == "img"
        elif "map" not in kinds:
            assert svg["aria-hidden"] == "true"
    named = len(re.findall(r'role="img"><title>[^<]+</title>', page.source))
    assert named == len(page.all("svg", "picture"))


def test_the_same_audit_makes_the_same_page(audit: dict, folder: Path) -> None:
    first = write_report(audit, folder).read_bytes()
    again = load_audit(save_audit(audit, folder / "audit.json"))
    assert write_report(again, folder).read_bytes() == first
    assert sorted(entry.name for entry in folder.iterdir()) == ["audit.json", "images", "report.html"]


def test_an_invalid_audit_makes_no_page(audit: dict, folder: Path) -> None:
    audit["prompts"][0]["features"][0]["count"] = 2
    with pytest.raises(HapaxError, match=r"prompts\[0\]\.features\[0\]"):
        write_report(audit, folder)
    assert not (folder / "report.html").exists()


def test_a_full_page_of_small_pictures_can_be_sent(audit: dict, folder: Path) -> None:
    """200 features with 10 pictures and heatmaps each, none like another, stay under 16 MB."""
    rows = audit["prompts"][0]["features"]
    base = Image.open(folder / rows[0]["exemplars"][0]["image"]).convert("RGB")
    shots = []
    for number in range(1000):
        noisy = Image.blend(base, Image.effect_noise((64, 64), 60 + number % 90).convert("RGB"), 0.05)
        noisy.save(folder / f"images/n{number}.png", compress_level=1)
        shots.append({"seed": number, "activation": 1.0, "image": f"images/n{number}.png"})
    features = [{**rows[-1], "id": f"f{n}", "exemplars": shots[10 * n : 10 * n + 10]} for n in range(100)]
    audit["prompts"] = [{**audit["prompts"][0], "features": features, "sample_sheet": None}]
    audit["sce"]["prompts"] = audit["sce"]["prompts"][:1]
    audit["compass"]["prompts"] = audit["compass"]["prompts"][:1]
    for feature in features:
        for shot in feature["exemplars"]:
            shot["heatmap"] = rows[0]["exemplars"][0]["heatmap"]
    page = write_report(audit, folder)
    distinct = page.read_text("utf-8").count("<image ")
    assert distinct == 1001
    assert page.stat().st_size < 16e6 / 4000 * distinct


COLOURS = re.compile(r"--(\w+): (#[0-9a-f]{6});")


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_and_marks_stand_out(page: Page, scheme: str) -> None:
    """WCAG 2.1 AA: 4.5 for words, 3 for graphics and the edges of controls."""
    light, dark = page.inside("style").split("prefers-color-scheme: dark")[:2]
    colours = dict(COLOURS.findall(light if scheme == "light" else dark.split("*", 1)[0]))
    for ground in ("paper", "sheet", "wash"):
        for words in ("ink", "soft", "mark"):
            assert contrast(colours[words], colours[ground]) >= 4.5, (words, ground)
    for ground in ("paper", "sheet"):
        assert contrast(colours["bar"], colours[ground]) >= 3.0, ground


def test_pictures_are_stored_once(page: Page, audit: dict, folder: Path) -> None:
    before = len(page.all("image"))
    first, second = audit["prompts"][0]["features"][:2]
    original = folder / first["exemplars"][0]["image"]
    with Image.open(original) as picture:
        # The same pixels in another file, packed in another way.
        picture.save(folder / "images/copy.png", compress_level=0)
    second["exemplars"][0]["image"] = "images/copy.png"
    page = Page(write_report(audit, folder))
    assert len(page.all("image")) == before - 1
    assert len(page.all("svg", "picture")) > before / 2


def decoded(page: Page) -> list[tuple[dict, Image.Image]]:
    pictures = []
    for attributes in page.all("image"):
        head, payload = (attributes["href"] or "").split(",", 1)
        assert head in ("data:image/png;base64", "data:image/webp;base64")
        pictures.append((attributes, Image.open(io.BytesIO(base64.b64decode(payload)))))
    return pictures


def test_small_pictures_keep_every_pixel(page: Page, drawn: tuple[Path, dict]) -> None:
    exact = 0
    for attributes, picture in decoded(page):
        assert picture.size == (64, 64) == (int(attributes["width"] or 0), int(attributes["height"] or 0))
        if picture.format == "PNG":
            with Image.open(drawn[0] / (attributes["data-file"] or "")) as original:
                assert original.convert("RGB").tobytes() == picture.convert("RGB").tobytes()
            exact += 1
    assert exact > 200
    assert all("px" in (svg["class"] or "") for svg in page.all("svg", "picture"))
    assert ".px { image-rendering: pixelated; }" in page.inside("style")
