"""How the tests are shared out when pytest runs several processes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

# Tests that run on a ComfyUI have the checkout's name, such as ComfyUI-0.33, as their first parameter.
ON_COMFYUI = re.compile(r"nodes/test_(on_comfyui|browser|queue|server|tab)\.py::\w+\[(\w+(?:-[\d.]+)?)")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep together the tests of one file and those of one ComfyUI server, in the order of `modifyitems`.

    xdist's own marker for groups does nothing under pytest 9.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            found = ON_COMFYUI.search(nodeid)
            if not found:
                return nodeid.partition("::")[0]
            return f"{'inside' if found[1] == 'on_comfyui' else 'server of'} {found[2]}"

    return Together(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with ComfyUI, which takes longest; an open page redraws until the end, so what needs none goes first."""
    items.sort(key=lambda item: ("checkout" not in _fixtures(item), "page" in _fixtures(item)))


def _fixtures(item: pytest.Item) -> Sequence[str]:
    return getattr(item, "fixturenames", ())
