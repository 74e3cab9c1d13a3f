"""What ComfyUI asks for when it loads the pack: the list of nodes."""

from __future__ import annotations

import importlib
import pkgutil

from . import __path__ as _here
from . import folders, routes
from .schema import ComfyExtension, io


class HapaxExtension(ComfyExtension):
    """The nodes of every family: the modules of this folder that list their own in `NODES`."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Make ComfyUI know the folder of our files and our routes, and return the nodes."""
        folders.register()
        routes.register()
        names = sorted(module.name for module in pkgutil.iter_modules(_here))
        modules = [importlib.import_module(f".{name}", __package__) for name in names]
        return [node for module in modules for node in getattr(module, "NODES", ())]
