"""The Matryoshka sparse autoencoder at one site: model, training, metrics, files."""

from .config import SAEConfig
from .files import export_saelens, load_sae, load_saelens, save_sae
from .info import describe_sae
from .metrics import calibrate_threshold, sae_metrics
from .mixing import mixed_batches
from .model import MatryoshkaSAE
from .training import TrainedSAE, train_sae

__all__ = [
    "MatryoshkaSAE",
    "SAEConfig",
    "TrainedSAE",
    "calibrate_threshold",
    "describe_sae",
    "export_saelens",
    "load_sae",
    "load_saelens",
    "mixed_batches",
    "sae_metrics",
    "save_sae",
    "train_sae",
]
