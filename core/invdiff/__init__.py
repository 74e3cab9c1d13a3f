"""InvDiff (arXiv 2412.08480): find bias groups without labels, learn a small guidance module, sample toward balance."""

from .data import PictureSet, make_pictures, read_pictures
from .evaluation import Judged, bias_row
from .files import check_fits, load_guidance, save_guidance
from .groups import balanced_weights, infer_groups
from .metrics import bias_floor, bias_interval, bias_score, coverage, kl_interval, kl_to_uniform, recall
from .module import GuidanceModule, GuidanceShape
from .objective import group_losses, group_objective
from .probes import Probes, probe_losses
from .spread import spread_probabilities
from .training import GuidanceConfig, train_guidance

__all__ = [
    "GuidanceConfig",
    "GuidanceModule",
    "GuidanceShape",
    "Judged",
    "PictureSet",
    "Probes",
    "balanced_weights",
    "bias_floor",
    "bias_interval",
    "bias_row",
    "bias_score",
    "check_fits",
    "coverage",
    "group_losses",
    "group_objective",
    "infer_groups",
    "kl_interval",
    "kl_to_uniform",
    "load_guidance",
    "make_pictures",
    "probe_losses",
    "read_pictures",
    "recall",
    "save_guidance",
    "spread_probabilities",
    "train_guidance",
]
