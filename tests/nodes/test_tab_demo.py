"""From an audit of the demo model to a picture of a rare style, all by hand in ComfyUI's real frontend.

Set HAPAX_SCREENSHOTS to a folder to look at what the browser saw.
"""

from __future__ import annotations

import io
import json

import numpy as np
from hapax.core.emoji.judge import judge
from PIL import Image

AUDIT, STYLE = "1 Audit the demo model", "line sketch"
SAMPLES = 8
# Several pictures at once, shown beside the graph in which they were made.
SEVERAL = """(count) => {
    const latent = app.graph._nodes.find((node) => node.type.startsWith("Empty") && node.type.includes("Latent"));
    latent.widgets.find((widget) => widget.name === "batch_size").value = count;
}"""
# 4 is how the frontend bypasses a node.
BYPASS = "(mode) => { app.graph._nodes.find((node) => node.type === 'HapaxAmplifyFeature').mode = mode; }"
SHOWN = """() => app.graph._nodes.filter((node) => /^(Save|Preview)Image$/.test(node.type))
    .flatMap((node) => node.imgs ?? []).map((image) => image.src)"""


def made(page, server, before=()):
    """Press Run; the share of the style in what the graph shows then, and its addresses."""
    page.evaluate("app.queuePrompt(0, 1)")
    page.wait_for_function(
        f"([count, before]) => {{ const all = ({SHOWN})(); return all.length === count && !before.includes(all[0]); }}",
        arg=[SAMPLES, list(before)],
    )
    addresses = page.evaluate(SHOWN)
    paths = [address.removeprefix(server.url.rstrip("/")) for address in addresses]
    pictures = [np.asarray(Image.open(io.BytesIO(server.get_bytes(path))).convert("RGB")) for path in paths]
    return judge(np.stack(pictures)).share(STYLE), addresses


def test_a_rare_style_is_found_and_turned_up(run, tab, server, browser, look, tab_page):
    run(AUDIT)
    tab.click("[aria-label='Look for new audits']")
    tab_page.open_audit(tab, "firefighter")
    tab.fill("[name=text]", STYLE)
    tab.wait_for_function("document.querySelector('.hapax-tally').textContent.startsWith('1 of')")
    look("found")
    tab_page.amplify(tab)
    tab.wait_for_selector("text=Nothing samples in that graph")
    tab.evaluate(SEVERAL, SAMPLES)
    browser.fit(tab)
    often, addresses = made(tab, server)
    look("turned up")
    tab.evaluate(BYPASS, 4)
    seldom, _ = made(tab, server, addresses)
    look("as usual")
    print(f"share of {STYLE}: {seldom:.2f}, amplified {often:.2f}")
    assert seldom <= 2 / SAMPLES
    assert often >= seldom + 0.5


def test_the_graph_of_an_exemplar_makes_it_again(run, server):
    run(AUDIT)
    folder = server.base / "output" / "hapax" / "firefighter"
    (audit,) = [row["id"] for row in server.get("/hapax/audits") if row["name"] == "firefighter"]
    (prompt,) = json.loads((folder / "audit.json").read_text("utf-8"))["prompts"]
    for feature in prompt["features"][:3]:
        shot = feature["exemplars"][0]
        outputs = server.run(server.get(f"/hapax/audits/{audit}/seeds/{shot['seed']}"))
        (shown,) = [each for output in outputs.values() for each in output.get("images", [])]
        made = np.asarray(Image.open(io.BytesIO(server.file(shown))).convert("RGB")).astype(int)
        kept = np.asarray(Image.open(folder / shot["image"]).convert("RGB")).astype(int)
        assert made.shape == kept.shape
        assert np.abs(made - kept).max() <= 2
