"""What the Hapax tab costs the browser with 5,000 features, in ComfyUI's real frontend.

    python benchmarks/tab_features.py [--features 5000] [--rounds 5]

Needs a ComfyUI as the tests do (COMFYUI_PATH, or under ~/comfy), Chromium and Playwright. Per ComfyUI it prints one
JSON object, medians over the rounds: seconds from the click on the tab to the list and from the click on the audit to
its wall; our own time while ComfyUI's page loads, by the browser's profiler, in ms; and our own tasks that took longer
than 50 ms, by the browser's long animation frames, while the wall opened and while all of it was scrolled through.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

TESTS = Path(__file__).resolve().parents[1] / "tests" / "nodes"
OURS = "/extensions/hapax/"
LONG = 50
# Scripts of ours in frames that the browser calls long, from now on.
WATCH = f"""() => {{
    window.hapaxLong = [];
    new PerformanceObserver((list) => {{
        for (const frame of list.getEntries())
            for (const script of frame.scripts)
                if (script.sourceURL.includes("{OURS}")) window.hapaxLong.push(script.duration);
    }}).observe({{ type: "long-animation-frame" }});
}}"""
# To the end in steps of most of a screen, a frame each.
SCROLL = """async () => {
    const wall = document.querySelector(".hapax-scroll");
    const frame = () => new Promise(requestAnimationFrame);
    let steps = 0;
    for (let top = 0; top < wall.scrollHeight; top += 0.9 * wall.clientHeight) {
        wall.scrollTop = top;
        await frame();
        steps += 1;
    }
    // Long frames are told a moment after they were drawn.
    await new Promise((done) => setTimeout(done, 500));
    return steps;
}"""
SECONDS = """async ([click, shown]) => {
    const start = performance.now();
    document.querySelector(click).click();
    while (!document.querySelector(shown)) await new Promise(requestAnimationFrame);
    return (performance.now() - start) / 1000;
}"""


def helper(name: str) -> ModuleType:
    """A module of the tests."""
    spec = importlib.util.spec_from_file_location(f"hapax_tests_{name}", TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def own_load(page: Any, url: str) -> float:
    """Milliseconds in our functions while the page loads, by samples of 100 microseconds."""
    client = page.context.new_cdp_session(page)
    client.send("Profiler.enable")
    client.send("Profiler.setSamplingInterval", {"interval": 100})
    client.send("Profiler.start")
    page.goto(url, wait_until="commit")
    page.wait_for_function("window.app?.extensionManager && window.LiteGraph?.registered_node_types")
    page.wait_for_selector(".hapax-tab-button")
    page.wait_for_timeout(2000)
    profile = client.send("Profiler.stop")["profile"]
    client.detach()
    ours = {node["id"] for node in profile["nodes"] if OURS in node["callFrame"]["url"]}
    parents = {child: node["id"] for node in profile["nodes"] for child in node.get("children", [])}

    def within(node: int | None) -> bool:
        while node is not None and node not in ours:
            node = parents.get(node)
        return node is not None

    inside = {node["id"]: within(node["id"]) for node in profile["nodes"]}
    pairs = zip(profile["samples"], profile["timeDeltas"], strict=True)
    return sum(delta for node, delta in pairs if inside[node]) / 1000


def measure(page: Any, url: str) -> dict[str, float]:
    """One round."""
    row = {"load_ms": own_load(page, url)}
    page.keyboard.press("Escape")
    page.evaluate(WATCH)
    row["list_s"] = page.evaluate(SECONDS, [".hapax-tab-button", ".hapax-audit"])
    row["wall_s"] = page.evaluate(SECONDS, [".hapax-audit", ".hapax-card"])
    page.wait_for_timeout(1500)
    row["opening_long"] = sum(task > LONG for task in page.evaluate("window.hapaxLong"))
    page.evaluate("window.hapaxLong = []")
    row["screens"] = page.evaluate(SCROLL)
    tasks = page.evaluate("window.hapaxLong")
    row["scrolling_long"], row["longest_ms"] = sum(task > LONG for task in tasks), max(tasks, default=0)
    return row


def main() -> None:
    """Measure on every ComfyUI and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    server, browser, audits = helper("server"), helper("browser"), helper("made_audits")
    checkouts = server.checkouts()
    if not checkouts or browser.chromium() is None:
        print("NOTHING WAS MEASURED: this needs a ComfyUI (set COMFYUI_PATH) and Chromium")
        return
    for checkout in checkouts:
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder, "base")
            with server.Server(checkout, base) as running:
                audits.many(base / "output" / "hapax" / "many", options.features)
                with browser.opened(running.url) as page:
                    rows = [measure(page, running.url) for _ in range(options.rounds)]
        medians = {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}
        print(json.dumps({"comfyui": checkout.name, "features": options.features, **medians}), flush=True)


if __name__ == "__main__":
    main()
