"""What a workflow left on a server."""

from __future__ import annotations

import io

from PIL import Image


class Outputs:
    """What a run left, asked for by the node it came from."""

    def __init__(self, server, prompt, outputs):
        self.server, self.prompt, self.outputs = server, prompt, outputs

    def ids(self, kind):
        return [key for key, node in self.prompt.items() if node["class_type"] == kind]

    def of(self, kind, slot=None):
        """The ids of `kind` nodes, or of those previews that show output `slot` of one."""
        return [
            key
            for key, node in self.prompt.items()
            if any(
                isinstance(value, list) and self.prompt[value[0]]["class_type"] == kind and slot in (None, value[1])
                for value in node["inputs"].values()
            )
            and key in self.outputs
        ]

    def text(self, kind, slot=None):
        """The text that a Preview Any on output `slot` of a `kind` node shows."""
        (key,) = [key for key in self.of(kind, slot) if "text" in self.outputs[key]]
        return "".join(self.outputs[key]["text"])

    def pictures(self, key):
        return [Image.open(io.BytesIO(self.server.file(each))).convert("RGB") for each in self.outputs[key]["images"]]

    def sheet(self, kind, slot=0):
        """The picture that a Preview Image on output `slot` of a `kind` node shows."""
        (key,) = [key for key in self.of(kind, slot) if "images" in self.outputs[key]]
        (picture,) = self.pictures(key)
        return picture

    def saved(self, prefix):
        """The pictures of the Save Image node with this prefix."""
        (key,) = [key for key in self.ids("SaveImage") if self.prompt[key]["inputs"]["filename_prefix"] == prefix]
        return self.pictures(key)
