"""Fixtures that start a real ComfyUI.

Set COMFYUI_PATH to checkouts, separated as PATH is; without it, those under ~/comfy are taken. A checkout has its own
Python in .venv. What is inside inprocess/ runs within ComfyUI: test_on_comfyui.py starts it with that Python, which
needs pytest beside what ComfyUI needs, open_clip_torch for the CLIP scorer, and diffusers to be compared with.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
collect_ignore = [] if os.environ.get("HAPAX_COMFYUI") else ["inprocess"]


def _sibling(name: str) -> ModuleType:
    """Import a module beside this file; tests run in importlib mode, where siblings can't be imported by name."""
    full = f"hapax_nodes_tests_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, HERE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


server_module = _sibling("server")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run whatever asks for a checkout on each of them, one after the other."""
    if "checkout" in metafunc.fixturenames:
        found = server_module.checkouts() or [None]
        ids = [folder.name if folder else "none" for folder in found]
        metafunc.parametrize("checkout", found, ids=ids, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a ComfyUI say so once, not once for each test that needs one."""
    idle = [
        item for item in items if getattr(item, "callspec", None) and item.callspec.params.get("checkout", "") is None
    ]
    if len(idle) > 1:
        config.hook.pytest_deselected(items=idle[1:])
        items[:] = [item for item in items if item not in idle[1:]]


@pytest.fixture(scope="session")
def checkout(request: pytest.FixtureRequest) -> Path:
    """A ComfyUI folder with main.py and .venv in it."""
    if request.param is None:
        pytest.skip("THE NODES WERE NOT TESTED: no ComfyUI found; set COMFYUI_PATH to checkouts with a .venv inside")
    return request.param


@pytest.fixture(scope="session")
def server(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A running server of `checkout` with this pack in its custom_nodes."""
    with server_module.Server(checkout, tmp_path_factory.mktemp(checkout.name)) as running:
        yield running


@pytest.fixture(scope="session")
def sibling() -> object:
    """`sibling("workflows")` imports a module beside this file."""
    return _sibling


@pytest.fixture(scope="session")
def info(server: object) -> dict:
    """What the server says of all nodes."""
    return server.get("/object_info")


@pytest.fixture(scope="session")
def prompt(info: dict, sibling: object) -> Callable[[str], dict]:
    """`prompt("1 Audit the demo model")`: the API form of a shipped workflow."""
    workflows, schema_files = sibling("workflows"), sibling("schema_files")
    return lambda name: workflows.to_api(workflows.shipped()[name], info, schema_files)


@pytest.fixture(scope="session")
def run(server: object, prompt: Callable[[str], dict], sibling: object) -> Callable[[str], object]:
    """`run(name)`: the outputs of a shipped workflow on the demo model; it runs once."""
    if not server.has_demo_model:
        pytest.skip("THE WORKFLOWS WERE NOT RUN: the pack has no core/emoji/model")
    done: dict[str, tuple[dict, dict]] = {}

    def result(name):
        if name not in done:
            api = prompt(name)
            done[name] = api, server.run(api)
        return sibling("outputs").Outputs(server, *done[name])

    return result


@pytest.fixture(scope="session")
def browser() -> ModuleType:
    """What drives a headless Chromium: browser.py."""
    pytest.importorskip("playwright", reason="THE FRONTEND WAS NOT TESTED: Playwright is not installed")
    module = _sibling("browser")
    if module.chromium() is None:
        pytest.skip("THE FRONTEND WAS NOT TESTED: no Chromium found; set CHROMIUM to one")
    return module


@pytest.fixture(scope="session")
def page(server: object, browser: ModuleType) -> Iterator[object]:
    """A page on the server's frontend, one for all tests."""
    with browser.opened(server.url) as opened:
        yield opened


@pytest.fixture
def look(page: object, checkout: Path, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """`look("wired")` keeps a screenshot where HAPAX_SCREENSHOTS says."""

    def keep(name: str) -> None:
        folder = os.environ.get("HAPAX_SCREENSHOTS")
        if folder:
            page.screenshot(path=Path(folder, f"{checkout.name} {request.node.originalname} {name}.png"))

    return keep


@pytest.fixture
def clean(page: object) -> object:
    """An empty graph."""
    page.keyboard.press("Escape")
    page.evaluate("app.graph.clear()")
    page.errors.clear()
    return page


@pytest.fixture(scope="session")
def tab_page() -> ModuleType:
    """How the tab is used: tab_page.py."""
    return _sibling("tab_page")


@pytest.fixture(scope="session")
def made(server: object, sibling: object) -> Path:
    """The server's output folder with audits in it."""
    audits, base = sibling("made_audits"), server.base / "output" / "hapax"
    audits.many(base / "many", 5000)
    audits.hostile(base / "hostile")
    audits.tuned(base / "faces tuned")
    audits.faces(base / "faces")
    audits.cooks(base / "cooks")
    return base


@pytest.fixture
def tab(clean: object, made: Path) -> Iterator[object]:
    """The page with the list of audits open."""
    if clean.locator("section.hapax").count():
        clean.keyboard.press("Escape")
        clean.click(".hapax-tab-button")
    clean.evaluate("async () => (await import('/extensions/hapax/js/tab.js')).forget()")
    clean.click(".hapax-tab-button")
    clean.wait_for_selector(".hapax-audit")
    yield clean
    clean.evaluate("document.querySelectorAll('dialog[open]').forEach((each) => each.close())")
    assert clean.errors == []
