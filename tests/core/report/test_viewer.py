"""The viewer of the browser side in report.html, in a real browser under the page's own policy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hapax.core.report import write_report
from hapax.core.report.modules import joined

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
in_browser = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed: the report is NOT opened in a browser")


def opened(drawn: tuple[Path, dict], use: Callable[[Any], None]) -> None:
    """Call `use(page)` with report.html, whose every complaint is an error."""
    from playwright.sync_api import sync_playwright

    def run() -> list[str]:
        folder, audit = drawn
        said: list[str] = []
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.goto(write_report(audit, folder).as_uri())
            use(page)
            browser.close()
        return said

    # Playwright allows one loop a thread, and the tests of the nodes keep theirs for the whole session.
    with ThreadPoolExecutor(1) as thread:
        assert not thread.submit(run).result()


def seen(page: Any) -> list[str]:
    return page.locator(".feature:visible h4").all_inner_texts()


@in_browser
def test_features_are_filtered_and_sorted(drawn: tuple[Path, dict]) -> None:
    opened(drawn, lambda page: filtered(page, drawn[1]))


def filtered(page: Any, audit: dict) -> None:
    rows = [(feature, prompt) for prompt in audit["prompts"] for feature in prompt["features"]]
    assert len(seen(page)) == len(rows)
    page.get_by_role("checkbox", name="findings only").check()
    findings = sum(feature["finding"] for feature, _ in rows)
    page.wait_for_function("n => document.querySelectorAll('.feature:not([hidden])').length === n", arg=findings)
    assert page.locator(".hapax-tally").inner_text() == f"{findings} of {len(rows)} features"
    page.get_by_role("checkbox", name="findings only").uncheck()

    page.locator("select[name=order]").select_option("rare")
    first = page.locator(".prompt").first
    page.wait_for_timeout(300)
    shown = first.locator(".feature").evaluate_all("cards => cards.map((card) => card.id.slice('feature-'.length))")
    rates = {f["id"]: (f.get("prevalence") or {"rate": f["frequency"]})["rate"] for f, _ in rows}
    assert [rates[name] for name in shown] == sorted(rates[name] for name in shown)

    page.get_by_role("searchbox").fill("no such word")
    page.wait_for_selector(".hapax-nothing:visible")
    assert not seen(page)
    assert not page.locator(".prompt:visible").count()
    # A link to a card that is hidden takes the filters away.
    page.evaluate("id => { location.hash = id }", f"feature-{rows[-1][0]['id']}")
    page.wait_for_function("n => document.querySelectorAll('.feature:not([hidden])').length === n", arg=len(rows))
    assert page.get_by_role("searchbox").input_value() == ""


@in_browser
def test_a_picture_opens_its_feature(drawn: tuple[Path, dict]) -> None:
    opened(drawn, lambda page: enlarged(page, drawn[1]))


def enlarged(page: Any, audit: dict) -> None:
    feature = audit["prompts"][0]["features"][0]
    page.locator(f"#feature-{feature['id']} .strip .shot").nth(1).click()
    dialog = page.locator("dialog.hapax-detail")
    for place in (1, 2):
        shot = feature["exemplars"][place]
        assert f"Seed {shot['seed']}, activation {shot['activation']:.2f}" in dialog.inner_text()
        assert dialog.locator(".hapax-caption a").get_attribute("href") == shot["image"]
        sizes = dialog.locator(".hapax-pair img").evaluate_all("all => all.map((image) => image.naturalWidth)")
        assert sizes == [64, 64]
        page.keyboard.press("ArrowRight")
    # Nothing here could be turned up or renamed.
    assert not dialog.get_by_role("button", name="Amplify").count()
    assert not dialog.get_by_role("button", name="Change the label").count()
    page.keyboard.press("Escape")
    assert not dialog.count()
    page.locator(".samples .shot").first.click()
    assert page.get_by_role("dialog", name="One picture, large").locator("img").count() == 1


def module(folder: Path, name: str, source: str) -> Path:
    path = folder / name
    path.write_text(source)
    return path


def test_modules_run_once_and_before_those_that_import_them(tmp_path: Path) -> None:
    module(tmp_path, "low.js", "export const one = 1;\nexport default { two: 2 };\n")
    module(tmp_path, "high.js", 'import { one } from "./low.js";\nexport async function three() {}\n')
    entry = module(
        tmp_path,
        "entry.js",
        'import low from "./low.js";\nimport {\n  one as first,\n} from "./low.js";\n'
        'import { three } from "./high.js";\nthree();\n',
    )
    assert joined(entry).splitlines() == [
        '"use strict";',
        "const module0 = (() => {",
        "const one = 1;",
        "const whole = { two: 2 };",
        "return { one, default: whole };",
        "})();",
        "const module1 = (() => {",
        "const { one } = module0;",
        "async function three() {}",
        "return { three };",
        "})();",
        "const module2 = (() => {",
        "const low = module0.default;",
        "const { one: first, } = module0;",
        "const { three } = module1;",
        "three();",
        "return {  };",
        "})();",
    ]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ('import * as all from "./entry.js";\n', "of another form"),
        ("export { name };\n", "of another form"),
        ('import { one } from "./entry.js";\n', "imports itself"),
    ],
)
def test_modules_that_cannot_be_joined_are_refused(tmp_path: Path, source: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        joined(module(tmp_path, "entry.js", source))
