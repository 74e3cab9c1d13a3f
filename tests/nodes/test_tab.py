"""The Hapax tab in ComfyUI's real frontend: the wall, labels, two audits side by side, zips, themes.

Set HAPAX_SCREENSHOTS to a folder to look at what the browser saw.
"""

from __future__ import annotations

import json

MANY = 5000


def names(page):
    """Of the cards in the page, in order."""
    return page.eval_on_selector_all(
        ".hapax-card", "cards => cards.map(c => c.querySelector('.hapax-label').innerText)"
    )


def tally(page):
    page.wait_for_timeout(400)
    return page.inner_text(".hapax-tally")


def test_audits_are_listed_newest_first(tab, made, look):
    (made / "broken").mkdir(exist_ok=True)
    (made / "broken" / "audit.json").write_text("{}")
    tab.click("[aria-label='Look for new audits']")
    tab.wait_for_selector(".hapax-audit.broken")
    newest_first = ["broken", "cooks", "faces", "faces tuned", "hostile", "many"]
    # Workflows that ran on this server before have left audits of their own.
    assert [name for name in tab.locator(".hapax-audits b").all_inner_texts() if name in newest_first] == newest_first
    assert (
        f"{findings(made)} findings in 1000 pictures"
        in tab.locator(".hapax-audit", has_text="faces").first.inner_text()
    )
    look("list")


def findings(made):
    """How many findings the faces have."""
    prompts = json.loads((made / "faces" / "audit.json").read_text("utf-8"))["prompts"]
    return sum(feature["finding"] for prompt in prompts for feature in prompt["features"])


def test_the_wall_shows_and_filters(tab, made, look, tab_page):
    tab_page.open_audit(tab, "faces")
    assert tally(tab) == "24 of 24 features"
    first = tab.locator(".hapax-card").first
    assert first.locator(".hapax-label").inner_text() == "line sketch"
    assert "1.8" in first.locator(".hapax-rate").inner_text()
    shot = first.locator(".hapax-shot").first
    shot.hover()
    tab.wait_for_function("document.querySelector('.hapax-shot:hover .heat')?.naturalWidth > 0")
    look("wall")
    tab.fill("[name=text]", "sketch nurse")
    assert tally(tab) == "1 of 24 features"
    tab.fill("[name=text]", "")
    tab.click(".hapax-unfold")
    tab.check("[name=findings]")
    assert tally(tab) == f"{findings(made)} of 24 features"
    tab.select_option("[name=most]", "0.05")
    tab.select_option("[name=order]", "rare")
    assert tally(tab) != f"{findings(made)} of 24 features"
    rates = [float(text.split()[0]) for text in tab.locator(".hapax-card .hapax-rate b").all_inner_texts()]
    assert rates == sorted(rates)
    assert max(rates) <= 5
    tab.fill("[name=text]", "no such thing")
    assert tally(tab) == "0 of 24 features"
    tab.click("text=Show all")
    assert tally(tab) == "24 of 24 features"


def test_a_label_is_saved_and_taken_back(tab, made, look, tab_page):
    tab_page.open_audit(tab, "faces")
    card = tab.locator(".hapax-card").first
    card.hover()
    card.locator(".hapax-rename").click()
    field = card.locator("input")
    field.fill("drawn by hand")
    look("editing")
    field.press("Enter")
    tab.wait_for_selector(".hapax-label .own:has-text('drawn by hand')")
    saved = json.loads((made / "faces" / "labels.json").read_text("utf-8"))
    assert list(saved["labels"].values()) == ["drawn by hand"]
    # Everything is asked for anew.
    tab.click("[aria-label='Back to all audits']")
    tab_page.open_audit(tab, "faces")
    assert names(tab)[0] == "drawn by hand"
    card.hover()
    card.locator(".hapax-rename").click()
    field.fill("something else")
    field.press("Escape")
    assert names(tab)[0] == "drawn by hand"
    card.locator(".hapax-rename").click()
    field.fill("")
    field.press("Enter")
    tab.wait_for_function("document.querySelector('.hapax-label').innerText === 'line sketch'")
    assert json.loads((made / "faces" / "labels.json").read_text("utf-8"))["labels"] == {}


def test_all_pictures_of_a_feature(tab, look, tab_page):
    tab_page.open_audit(tab, "faces")
    tab.locator(".hapax-card .hapax-shot").nth(1).click()
    dialog = tab.locator("dialog.hapax-detail")
    dialog.wait_for()
    seed = dialog.locator(".hapax-caption span").inner_text()
    tab.keyboard.press("ArrowRight")
    assert dialog.locator(".hapax-caption span").inner_text() != seed
    tab.keyboard.press("ArrowLeft")
    assert dialog.locator(".hapax-caption span").inner_text() == seed
    tab.wait_for_function("[...document.querySelectorAll('.hapax-pair img')].every(i => i.naturalWidth > 0)")
    look("detail")
    assert dialog.locator(".hapax-pair img").count() == 2
    assert dialog.locator(".hapax-amplify").count() == 0
    tab.keyboard.press("Escape")
    dialog.wait_for(state="detached")


def test_it_uses_the_whole_window(tab, look, tab_page):
    tab_page.open_audit(tab, "faces")
    before = tab.locator("section.hapax").bounding_box()["width"]
    tab.click(".hapax-wide")
    tab.wait_for_timeout(400)
    assert tab.locator("section.hapax").bounding_box()["width"] > 2 * before
    columns = tab.eval_on_selector_all(".hapax-card", "cards => new Set(cards.map(c => c.style.left)).size")
    assert columns >= 4
    look("wide")
    tab.click(".hapax-wide")
    tab.wait_for_timeout(400)
    assert tab.locator("section.hapax").bounding_box()["width"] == before


def test_thousands_of_features_are_not_in_the_page_at_once(tab, look, tab_page):
    tab_page.open_audit(tab, "many")
    assert tally(tab) == f"{MANY:,} of {MANY:,} features".replace(",", "")
    assert tab.locator(".hapax-card").count() < 40
    tab.locator(".hapax-card").first.focus()
    tab.keyboard.press("End")
    tab.wait_for_selector(f".hapax-card[aria-posinset='{MANY}']:focus")
    assert tab.locator(".hapax-card").count() < 60
    tab.keyboard.press("ArrowUp")
    tab.wait_for_selector(f".hapax-card[aria-setsize='{MANY}']:focus:not([aria-posinset='{MANY}'])")
    look("end")
    tab.keyboard.press("Home")
    tab.wait_for_selector(".hapax-card[aria-posinset='1']:focus")


def test_markup_in_an_audit_stays_text(tab, tab_page):
    tab_page.open_audit(tab, "hostile")
    assert "<img src=x" in names(tab)[0]
    tab.locator(".hapax-card .hapax-shot").first.click()
    tab.wait_for_selector("dialog.hapax-detail")
    tab.wait_for_timeout(500)
    assert tab.title() != "hacked"
    assert tab.locator(".hapax [onerror], .hapax script").count() == 0


def test_two_audits_side_by_side(tab, look, tab_page):
    tab_page.open_audit(tab, "faces tuned")
    tab.click(".hapax-compare")
    tab.wait_for_selector(".hapax-sides select")
    tab.select_option("[name=after]", label="faces")
    tab.wait_for_selector(".hapax-change")
    tab.click("[aria-label='Swap the two']")
    tab.wait_for_function("document.querySelector('[name=before]')?.selectedOptions[0]?.text === 'faces'")
    tab.wait_for_selector(".hapax-change")
    kinds = {
        row.locator(".hapax-head b").inner_text(): row.get_attribute("class").split()[-1]
        for row in tab.locator(".hapax-change").all()
        if "firefighter" in row.locator(".hapax-prompt").inner_text()
    }
    look("compare")
    assert kinds["line sketch"] == "commoner"
    assert kinds["glasses"] == "rarer"
    assert kinds["woman"] == "unclear"
    assert kinds["night"] == "before_only"
    assert kinds["dusk"] == "after_only"
    tab.locator(".hapax-change", has_text="line sketch").first.locator(".hapax-shot").last.click()
    assert tab.locator("dialog.hapax-detail .hapax-label").inner_text() == "line sketch"
    tab.keyboard.press("Escape")
    assert not tab.locator("dialog.hapax-detail").count()


def test_there_and_back_in_a_zip(tab, made, tmp_path, look, tab_page):
    tab_page.open_audit(tab, "cooks")
    with tab.expect_download() as given:
        tab.click(".hapax-export")
    path = tmp_path / given.value.suggested_filename
    given.value.save_as(path)
    assert path.name == "cooks.hapax.zip"
    tab.click("[aria-label='Back to all audits']")
    tab.set_input_files(".hapax-list input[type=file]", path)
    tab.wait_for_selector(".hapax-card")
    assert tab.inner_text(".hapax-bar h3") == "cooks-2"
    assert (made / "cooks-2" / "features.safetensors").is_file()
    look("imported")
    tab.click("[aria-label='Back to all audits']")
    path.write_bytes(b"PK not really")
    tab.set_input_files(".hapax-list input[type=file]", path)
    tab.wait_for_selector("text=not a zip")


def test_in_the_light_theme_and_in_a_small_window(tab, look, tab_page):
    tab.evaluate("app.extensionManager.setting.set('Comfy.ColorPalette', 'light')")
    tab.set_viewport_size({"width": 900, "height": 640})
    try:
        tab_page.open_audit(tab, "faces")
        tab.wait_for_timeout(800)
        look("light and small")
        assert tab.locator(".hapax-card").first.is_visible()
        assert contrast(tab, ".hapax-card .hapax-rate > span") >= 4.5
        assert contrast(tab, ".hapax-card.finding .hapax-label span") >= 4.5
    finally:
        tab.evaluate("app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
        tab.set_viewport_size({"width": 1600, "height": 1000})
    tab.wait_for_timeout(800)
    assert contrast(tab, ".hapax-card .hapax-rate > span") >= 4.5
    assert contrast(tab, ".hapax-card.finding .hapax-label span") >= 4.5


CONTRAST = """(element) => {
    const canvas = document.createElement("canvas").getContext("2d");
    const rgb = (colour) => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const linear = (c) => (c / 255 <= 0.04045 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4);
    const light = (colour) => {
        const [r, g, b] = rgb(colour).map(linear);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const card = getComputedStyle(element.closest(".hapax-card")).backgroundColor;
    const pair = [light(getComputedStyle(element).color), light(card)].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
}"""


def contrast(page, selector):
    """WCAG's contrast of a text on its card."""
    return page.locator(selector).first.evaluate(CONTRAST)


def test_a_label_survives_a_restart_of_the_server(tab, made, server, browser, look, tab_page):
    tab_page.open_audit(tab, "faces")
    tab.locator(".hapax-card").first.hover()
    tab.locator(".hapax-card .hapax-rename").first.click()
    tab.fill(".hapax-card input", "kept by name")
    tab.press(".hapax-card input", "Enter")
    tab.wait_for_selector(".hapax-label .own:has-text('kept by name')")
    server.restart()
    browser.go(tab, server.url)
    # The page may have missed the server while it was away.
    tab.errors.clear()
    tab.click(".hapax-tab-button")
    tab_page.open_audit(tab, "faces")
    assert names(tab)[0] == "kept by name"
    look("after the restart")
    (made / "faces" / "labels.json").unlink()
