"""How the tests are shared out when pytest runs several processes: `-n 2 --dist loadgroup --no-loadscope-reorder`."""

from __future__ import annotations

from collections.abc import Sequence

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep together the tests of one file and those of one ComfyUI server; start with ComfyUI, which takes longest."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    # An open page redraws for as long as it is open: what needs none goes first.
    items.sort(key=lambda item: ("checkout" not in _fixtures(item), "page" in _fixtures(item)))


def _fixtures(item: pytest.Item) -> Sequence[str]:
    return getattr(item, "fixturenames", ())


def _group(item: pytest.Item) -> str:
    names = _fixtures(item)
    if "checkout" not in names:
        return str(item.path)
    checkout = item.callspec.params["checkout"]  # type: ignore[attr-defined]
    return f"{'server' if 'server' in names else item.path.name} of {checkout}"
