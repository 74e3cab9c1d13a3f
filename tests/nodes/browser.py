"""ComfyUI's real frontend in a headless Chromium, driven by Playwright."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

SIZE = {"width": 1600, "height": 1000}
# A machine that does other work needs more.
PATIENCE = float(os.environ.get("HAPAX_BROWSER_SECONDS", "120"))


def chromium() -> str | None:
    """The browser's path: CHROMIUM, or the system's."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@contextlib.contextmanager
def opened(url: str) -> Iterator[Any]:
    """A page on a server's frontend, ready, with an empty graph; `page.errors` collects what went wrong in it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # No sandbox: containers, where tests often run as root, offer none.
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=chromium(), args=options)
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(1000 * PATIENCE)
        page.set_default_navigation_timeout(1000 * PATIENCE)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.errors = errors
        go(page, url)
        yield page
        browser.close()


def go(page: Any, url: str) -> None:
    """Load the frontend, wait until it is ready, and empty the graph."""
    page.goto(url, wait_until="commit")
    page.wait_for_function(
        "window.app?.extensionManager && window.app.graph && window.LiteGraph?.registered_node_types"
    )
    page.wait_for_function("Object.keys(LiteGraph.registered_node_types).some(id => id.startsWith('Hapax'))")
    page.wait_for_timeout(1000)
    page.keyboard.press("Escape")
    page.evaluate("app.graph.clear()")


def load(page: Any, workflow: dict[str, Any], name: str) -> None:
    """Open a workflow as the template browser does."""
    page.evaluate("([graph, name]) => app.loadGraphData(graph, true, true, name)", [workflow, name])
    page.wait_for_timeout(500)


def api_form(page: Any) -> dict[str, Any]:
    """The prompt that the frontend would send for the open graph."""
    return page.evaluate("async () => (await app.graphToPrompt()).output")


def serialised(page: Any) -> dict[str, Any]:
    """The open graph as the frontend saves it."""
    return page.evaluate("() => JSON.parse(JSON.stringify(app.graph.serialize()))")


def fit(page: Any) -> None:
    """Zoom so that the whole graph is seen."""
    page.evaluate("app.canvas.deselectAll()")
    page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1200)
