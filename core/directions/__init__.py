"""Directions from captions: build an index of a bank, look directions up, read biases.

Decoding Diffusion (arXiv 2410.21314) and SCALEX (arXiv 2511.13750) link prompts to the denoiser's bottleneck. Their
equations could not be read, so what is here is our own specification of the idea.
"""

from ..clusters import cluster
from ..direction import Direction
from .bank import GENERAL_BANK, behind, check_captions, read_bank
from .combine import combine
from .compass import Lean, Reading, compare
from .dial import Dial, record_dial
from .index import ALPHA, CaptionIndex, Naming
from .labels import CaptionLabeller
from .maps import flat_map
from .pictures import picture_activations
from .pooled import PooledRecorder
from .recording import Recipe

__all__ = [
    "ALPHA",
    "GENERAL_BANK",
    "CaptionIndex",
    "CaptionLabeller",
    "Dial",
    "Direction",
    "Lean",
    "Naming",
    "PooledRecorder",
    "Reading",
    "Recipe",
    "behind",
    "check_captions",
    "cluster",
    "combine",
    "compare",
    "flat_map",
    "picture_activations",
    "read_bank",
    "record_dial",
]
