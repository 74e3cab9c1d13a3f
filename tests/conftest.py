"""Which tests share a process when pytest runs several: those of one file, and all that use one ComfyUI server."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Name each test's group for `--dist loadgroup`: fixtures of a module or a server are then made once."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        if "server" in getattr(item, "fixturenames", ()):
            group = f"server of {item.callspec.params['checkout']}"  # type: ignore[attr-defined]
        elif "checkout" in getattr(item, "fixturenames", ()):
            group = f"{item.path.name} in {item.callspec.params['checkout']}"  # type: ignore[attr-defined]
        else:
            group = str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
