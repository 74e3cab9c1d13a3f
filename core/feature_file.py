"""The features of a prompt in one file beside its audit, to be shown and turned up without the recording."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import HapaxError
from .feature_set import Feature, FeatureSet
from .feature_table import FeatureTable
from .library import content_hash, features_file
from .pattern import Pattern
from .sae import MatryoshkaSAE, TrainedSAE, load_sae
from .tensor_file import as_json, check_header, check_tensor, read_tensors, write_tensors

SAE_FILE = "sae/p0.safetensors"
_SAE_NAME = re.compile(r"sae/[\w-]+\.safetensors", re.ASCII)
_FORMAT, _VERSION = "hapax.features", 1
_REPAIR = "save the audit again"
_SET = ("provenance", "prompt", "seeds", "settings")
_FEATURE = ("number", "latents", "row", "prevalence", "labels", "seeds", "activations", "threshold")


def save_features(features: FeatureSet, folder: Path, *, prompt: int = 0, sae: str = SAE_FILE) -> Path:
    """Write the features of one of an audit's prompts into its folder, in which their autoencoder already is.

    The file names that one by its hash, so that its own hash stands for all that amplifying needs.

    Args:
        features: what was found.
        folder: the audit's.
        prompt: the prompt's number in the audit, from 0.
        sae: the autoencoder's file in the folder.

    Returns:
        The file, named as `library.features_file` says.

    Raises HapaxError if it can't be written.
    """
    tensors = {"sheet": features.sheet, **{f"table.{name}": t for name, t in features.table.columns().items()}}
    for place, feature in enumerate(features.features):
        pattern = {each.name: getattr(feature.pattern, each.name) for each in fields(Pattern)}
        held = {"pictures": feature.pictures, "heat": feature.heat, **pattern}
        tensors |= {f"{place}.{name}": tensor for name, tensor in held.items()}
    meta = {key: getattr(features, key) for key in _SET}
    meta["metrics"] = features.trained.metrics
    meta["features"] = [{key: getattr(feature, key) for key in _FEATURE} for feature in features.features]
    header = {
        "format": _FORMAT,
        "version": str(_VERSION),
        "sae": content_hash(folder / sae),
        "sae_file": sae,
        "meta": as_json(meta),
    }
    path = folder / features_file(prompt)
    write_tensors(path, tensors, header)
    return path


def load_features(folder: Path, prompt: int = 0) -> FeatureSet:
    """Read what `save_features` wrote of a prompt; everything is on the CPU.

    Raises HapaxError if a file is missing, damaged, of another kind or a newer version, or if the autoencoder isn't
    the one that the features were saved with.
    """
    path = folder / features_file(prompt)
    tensors, header = read_tensors(path, "file of saved features")
    check_header(path, header, _FORMAT, _VERSION, "a file of features; give an audit's folder")
    name = header.get("sae_file", SAE_FILE)
    if not _SAE_NAME.fullmatch(name):
        raise HapaxError(f"{path} has its autoencoder in {name!r}, not in the folder sae; {_REPAIR}.")
    sae = load_sae(folder / name)
    if header.get("sae") != content_hash(folder / name):
        raise HapaxError(f"{folder / name} is not the autoencoder of {path.name}; {_REPAIR}.")
    try:
        meta = json.loads(header["meta"])
        columns = {each.name: tensors[f"table.{each.name}"] for each in fields(FeatureTable)}
        listed = [_feature(path, row, tensors, place, sae) for place, row in enumerate(meta["features"])]
        whole = {key: meta[key] for key in _SET}
        trained, sheet = TrainedSAE(sae, meta["metrics"]), _pixels(path, "sheet", tensors)
        return FeatureSet(trained=trained, features=tuple(listed), table=FeatureTable(**columns), sheet=sheet, **whole)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise HapaxError(f"{path} has a damaged header ({error!r}); {_REPAIR}.") from error


def _feature(path: Path, row: Any, tensors: Mapping[str, Tensor], place: int, sae: MatryoshkaSAE) -> Feature:
    plain = {key: row[key] for key in _FEATURE}
    plain["latents"] = tuple(int(latent) for latent in row["latents"])
    plain["labels"] = [(str(text), float(score)) for text, score in row["labels"]]
    pictures = _pixels(path, f"{place}.pictures", tensors)
    heat = tensors[f"{place}.heat"]
    heat = check_tensor(path, f"{place}.heat", heat, [len(pictures), *heat.shape[1:3]], _REPAIR)
    if not len(pictures) == len(row["seeds"]) == len(row["activations"]):
        raise ValueError(f"feature {place + 1} has {len(pictures)} pictures and {len(row['seeds'])} seeds")
    return Feature(**plain, pattern=_pattern(path, tensors, place, sae), pictures=pictures, heat=heat)


def _pattern(path: Path, tensors: Mapping[str, Tensor], place: int, sae: MatryoshkaSAE) -> Pattern:
    latents, progress = tensors[f"{place}.latents"], tensors[f"{place}.progress"]
    grid = list(tensors[f"{place}.shown"].shape[1:3])
    shape = [len(progress), *grid, len(latents)]
    shown, others = (
        check_tensor(path, f"{place}.{n}", tensors[f"{place}.{n}"], shape, _REPAIR) for n in ("shown", "others")
    )
    within = latents.dtype == torch.int64 and bool(((latents >= 0) & (latents < sae.d_sae)).all())
    if not within or not bool((progress.diff() > 0).all()) or 0 in shape or len(shape) != 4:
        raise ValueError(f"feature {place + 1} has a pattern that doesn't fit the autoencoder")
    return Pattern(latents, shown, others, progress)


def _pixels(path: Path, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    found = tensors[name]
    if found.dtype != torch.uint8 or found.ndim != 4 or found.shape[3] != 3:
        raise HapaxError(f"{path} has {found.dtype} {list(found.shape)} for {name}; expected pictures of bytes.")
    return found
