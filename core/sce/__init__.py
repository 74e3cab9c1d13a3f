"""Schur Complement Entropy and its neighbours: diversity beyond the prompts, and prompts removed from embeddings."""

from .accumulator import SchurComplementEntropy
from .intervals import Interval, SCEInterval, sce_interval
from .kernels import DEFAULT_RFF_DIM, Kernel, orthogonal_frequencies
from .modes import Mode, diversity_modes
from .pairs import median_distance
from .prompt_map import MAP_RIDGE, PromptMap, fit_prompt_map
from .removal import linear_probe, official_map
from .schur import DEFAULT_RIDGE, SCE, schur_complement_entropy
from .vendi import rke_score, vendi_score

__all__ = [
    "DEFAULT_RFF_DIM",
    "DEFAULT_RIDGE",
    "MAP_RIDGE",
    "SCE",
    "Interval",
    "Kernel",
    "Mode",
    "PromptMap",
    "SCEInterval",
    "SchurComplementEntropy",
    "diversity_modes",
    "fit_prompt_map",
    "linear_probe",
    "median_distance",
    "official_map",
    "orthogonal_frequencies",
    "rke_score",
    "sce_interval",
    "schur_complement_entropy",
    "vendi_score",
]
