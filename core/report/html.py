"""report.html: one file, nothing loaded from anywhere, readable without scripts."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from string import Template
from typing import Any

from ..durable import write_file
from . import appendix, sections
from .bias import debiasing
from .captions import captions
from .cards import wall
from .changes import changes
from .markup import Html, data_island, el, join
from .modules import joined
from .pictures import Pictures
from .schema import validate
from .view import EXEMPLARS, View, choose, picture_slots

MAX_FEATURES = 200
_HERE = Path(__file__).parent
_VIEWER = _HERE.parents[1] / "web/js/viewer"


def write_report(audit: dict[str, Any], folder: str | Path) -> Path:
    """Write ``report.html`` into the folder that holds the audit's pictures.

    The page shows the first `MAX_FEATURES` features and says how many it leaves out. Pictures are put inside
    of it, so it can be sent as it is. A content policy with the hashes of its own style and script keeps
    everything else from running or loading, should a hostile label ever get past the escaping.

    Args:
        audit: what `load_audit` returns; it is validated again.
        folder: where audit.json lies; its picture paths are relative to it.

    Returns:
        The path of the page.

    Raises:
        HapaxError: the audit is not valid, a picture that it names is missing or can't be read, or the page
            can't be written.
    """
    validate(audit)
    folder = Path(folder)
    groups, left_out = choose(audit, MAX_FEATURES)
    view = View(audit, groups, left_out, Pictures(folder, picture_slots(groups)))
    path = folder / "report.html"
    write_file(path, _page(view).encode())
    return path


def _page(view: View) -> str:
    style = _asset("report.css") + (_VIEWER / "viewer.css").read_text("utf-8")
    script = joined(_HERE / "report.js")
    body = _body(view)
    parts = {
        "policy": el("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        "title": el("title", f"Hapax audit of {view.audit['model']['name']}"),
        "style": style,
        "body": body,
        "numbers": data_island("audit", _numbers(view)),
        "script": script,
    }
    return Template(_asset("template.html")).substitute(parts)


def _body(view: View) -> Html:
    story = [
        sections.headline(view),
        sections.glance(view),
        wall(view),
        sections.maps(view),
        changes(view),
        appendix.features_table(view),
        appendix.diversity(view),
        debiasing(view),
        captions(view),
        appendix.trust(view),
        appendix.provenance(view),
        appendix.reproduce(view),
        appendix.glossary(),
    ]
    page = join(_contents(view), el("main", story), appendix.credits(view))
    return join(el("a", "Skip to the features", href="#features", class_="skip"), page, view.pictures.sprite())


def _contents(view: View) -> Html:
    audit = view.audit
    changed = any(item.feature.get("amplified") for item in view.items)
    links = (
        ("glance", "At a glance", True),
        ("features", "Features", True),
        ("map", "Map", True),
        ("changes", "Turned up", changed),
        ("numbers", "All numbers", True),
        ("diversity", "Diversity", audit.get("sce")),
        ("bias", "Bias", audit.get("invdiff")),
        ("captions", "Captions", audit.get("naming") or audit.get("compass")),
        ("trust", "Trust", True),
        ("provenance", "Provenance", True),
        ("reproduce", "Reproduce", True),
        ("words", "Words", True),
    )
    items = [el("li", el("a", said, href=f"#{place}")) for place, said, there in links if there]
    return el("nav", el("ul", items), aria_label="Contents", class_="contents")


def _numbers(view: View) -> dict[str, Any]:
    """The audit, cut to the features on this page, so that the page alone carries its numbers."""
    kept = [{**group.prompt, "features": [_strongest(item.feature) for item in group.items]} for group in view.groups]
    return {**view.audit, "prompts": kept}


def _strongest(feature: dict[str, Any]) -> dict[str, Any]:
    return {**feature, "exemplars": feature["exemplars"][:EXEMPLARS]}


def _asset(name: str) -> str:
    return (_HERE / name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    style_hash, script_hash = (
        b64encode(sha256(source.encode("utf-8")).digest()).decode("ascii") for source in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; "
        f"script-src 'sha256-{script_hash}'; base-uri 'none'; form-action 'none'"
    )
