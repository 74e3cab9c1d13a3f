"""A small world of drawn faces, and an audit of it with the structure and the numbers of a real one."""

from __future__ import annotations

import copy
import math
import random
import shutil
from pathlib import Path

import pytest
from hapax.core.invdiff.metrics import bias_floor, kl_to_uniform
from PIL import Image, ImageDraw

SKIN = {"light": "#ffdbb4", "medium": "#d8a071", "dark": "#6b4226"}
COAT = {"firefighter": "#c0392b", "nurse": "#3d9bd6"}
IMAGES = 500

# label, count of 500, distinctiveness, z, what the face wears
FEATURES = (
    ("line sketch", 9, 0.47, 14.2, {"style": "sketch"}),
    ("woman", 21, 0.34, 9.1, {"hair": "long"}),
    ("dark skin", 15, 0.30, 6.4, {"skin": "dark"}),
    ("night", 31, 0.29, 7.7, {"style": "night"}),
    ("red hair", 12, 0.22, 4.2, {"tint": "#c4501b"}),
    (None, 7, 0.24, 3.3, {"tint": "#2f8f4e"}),
    ("glasses", 44, 0.17, 5.0, {"glasses": True}),
    ("medium skin", 104, 0.12, 4.9, {"skin": "medium"}),
    (None, 8, 0.21, 1.4, {}),
    ("looking left", 61, 0.05, 0.7, {}),
    (None, 4, 0.31, 1.1, {"skin": "dark"}),
    ("light skin", 388, 0.02, 0.9, {"skin": "light"}),
)


def wilson(count: int, total: int) -> tuple[float, float]:
    z, rate = 1.96, count / total
    middle = (rate + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def rate(count: int, total: int) -> dict:
    low, high = wilson(count, total)
    return {"count": count, "n": total, "rate": count / total, "low": low, "high": high}


def face(concept: str, seed: int, *, size: int = 64, **wears) -> Image.Image:
    """One picture: a person in a coat, drawn large and made small; the seed moves it a little."""
    dice, big = random.Random(f"{concept}{seed}"), 256
    style = wears.get("style")
    dx, dy = dice.randint(-10, 10), dice.randint(-6, 6)
    image = Image.new("RGB", (big, big), {"night": "#141a33"}.get(style, "#ffffff"))
    draw = ImageDraw.Draw(image)
    skin, tint = SKIN[wears.get("skin", "light")], wears.get("tint", "#4b3022")

    def blob(box, fill):
        box = [box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy]
        draw.ellipse(
            box,
            fill="#ffffff" if style == "sketch" else fill,
            outline="#222222" if style == "sketch" else None,
            width=5,
        )

    if wears.get("hair") == "long":
        blob((58, 48, 198, 230), tint)
    blob((40, 176, 216, 330), COAT[concept])
    blob((70, 50, 186, 190), skin)
    blob((66, 34, 190, 98), COAT[concept] if concept == "firefighter" else tint)
    for x in (104, 152):
        blob((x - 7, 112, x + 7, 128), "#2a1a12")
        if wears.get("glasses"):
            draw.ellipse((x - 20 + dx, 100 + dy, x + 20 + dx, 140 + dy), outline="#111111", width=6)
    draw.arc((108 + dx, 130 + dy, 148 + dx, 166 + dy), 20, 160, fill="#7a2d20", width=6)
    return image.resize((size, size), Image.Resampling.LANCZOS)


def heat(picture: Image.Image, seed: int) -> Image.Image:
    """The picture with a warm spot laid over it, as the audit saves it."""
    dice = random.Random(seed)
    small = Image.new("RGB", (4, 4))
    for place in range(16):
        warm = dice.random() ** 3
        small.putpixel((place % 4, place // 4), (int(255 * warm), int(90 * warm), int(200 * (1 - warm))))
    return Image.blend(picture, small.resize(picture.size, Image.Resampling.BILINEAR), 0.5)


def _exemplars(folder: Path, concept: str, latent: int, count: int, size: int, wears: dict) -> list[dict]:
    shots = []
    for place in range(min(count, 10)):
        seed = (latent * 31 + place * 17) % IMAGES
        picture = face(concept, seed, size=size, **wears)
        names = f"images/{concept}-{latent}-{place}.png", f"images/{concept}-{latent}-{place}-heat.png"
        picture.save(folder / names[0])
        heat(picture, seed).save(folder / names[1])
        shots.append({"seed": seed, "activation": 4.2 / (1 + place / 5), "image": names[0], "heatmap": names[1]})
    return shots


def _amplified(folder: Path, concept: str, label: str, count: int, size: int, wears: dict) -> dict:
    rows: dict[str, list[str]] = {"before": [], "after": []}
    for seed in range(8):
        for row, worn in (("before", {}), ("after", wears if seed % 3 else {})):
            name = f"images/{concept}-{label.replace(' ', '-')}-{row}-{seed}.png"
            face(concept, seed, size=size, **worn).save(folder / name)
            rows[row].append(name)
    mixed = {
        "prompt": f"a {label} {concept}",
        "share": 0.5,
        "pictures": rows["after"][1:3],
        "rate": rate(122, 250),
    }
    return {
        "strength": 4.0,
        "window": [0.4, 1.0],
        "mode": "add along the decoder row",
        "seeds": list(range(8)),
        **rows,
        "rate_before": rate(count // 2, 250),
        "rate_after": rate(120 + count, 250),
        "measured_by": "the emoji judge",
        "mixed": mixed,
    }


def _feature(folder: Path, concept: str, number: int, rank: int, row: tuple, size: int) -> dict:
    label, count, distance, z, wears = row
    count, distance = max(count + 3 * number, 1), distance - 0.01 * number
    latent = 37 + 113 * rank
    low, high = wilson(count, IMAGES)
    finding = count >= 5 and z > 3
    turned_up = finding and rank < 3
    return {
        "id": f"p{number}-f{latent}",
        "latent": latent,
        "group": [latent + 1, latent + 5] if rank % 3 == 0 else [],
        "count": count,
        "frequency": count / IMAGES,
        "frequency_low": low,
        "frequency_high": high,
        "distinctiveness": distance,
        "distinctiveness_low": max(distance - 0.9 / count**0.5 / 3, 0),
        "distinctiveness_high": distance + 0.9 / count**0.5 / 3,
        "distinctiveness_z": z,
        "prevalence": {"count": count, "n": IMAGES, "rate": count / IMAGES, "low": low, "high": high},
        "score": distance / 0.48 * (1 - count / IMAGES),
        "finding": finding,
        "label": label,
        "label_score": 0.31 if label else None,
        "labels": [[label, 0.31], ["portrait", 0.22], ["smiling", 0.2]] if label else [],
        "exemplars": _exemplars(folder, concept, latent, count, size, wears),
        "amplified": _amplified(folder, concept, label, count, size, wears) if turned_up else None,
    }


def _prompt(folder: Path, concept: str, number: int, size: int) -> dict:
    samples = []
    for seed in range(12):
        samples.append(f"images/{concept}-usual-{seed}.png")
        face(concept, seed, size=size).save(folder / samples[-1])
    features = [_feature(folder, concept, number, rank, row, size) for rank, row in enumerate(FEATURES)]
    features.sort(key=lambda feature: -feature["score"])
    return {
        "prompt": f"a photo of a {concept}",
        "index": number,
        "images": IMAGES,
        "seeds": [0, IMAGES - 1],
        "features": features,
        "sample_sheet": samples,
        "sae": {
            "path": f"sae/p{number}.safetensors",
            "fvu": 0.31,
            "l0": 12.0,
            "dead": 0.0,
            "prefixes": [256, 1280],
            "tokens": 65536,
            "epochs": 6,
        },
    }


def _reading(index: int, share: float) -> dict:
    """What a prompt leans to, with intervals of .08 to either side."""
    shares = [
        {"pole": pole, "share": part, "low": part - 0.08, "high": part + 0.08}
        for pole, part in (("{}, woman", share), ("{}, man", 1 - share))
    ]
    lean = {"first": "{}, woman", "second": "{}, man", "value": 2 * share - 1, "p": 0.001}
    ends = {"low": 2 * share - 1.16, "high": 2 * share - 0.84}
    return {"index": index, "shares": shares, "leans": [lean | ends]}


def build_audit(folder: Path, size: int = 64) -> dict:
    """Draw every picture into ``folder/images`` and return the audit that names them."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    command = "hapax audit --pipeline models/faces --prompts prompts.txt --out audit --images 500 --seed 0"
    return {
        "schema_version": "1.0",
        "hapax_version": "0.1.0",
        "created": "2026-11-20T21:40:00+00:00",
        "model": {
            "name": "drawn-faces",
            "fingerprint": "sha256:9f2c4e0d7b1a",
            "architecture": "UNet2DConditionModel",
            "site": "mid",
            "channels": 192,
            "grid": [4, 4],
        },
        "settings": {
            "steps": 20,
            "guidance": 1.5,
            "images": IMAGES,
            "size": size,
            "steps_recorded": [0.4, 0.6, 0.8, 1.0],
            "positions": "all",
            "sae": {"d_sae": 1280, "k": 12},
            "normalize": "minmax",
            "min_support": 5,
            "seed": 0,
            "clip": {"name": "tiny-clip", "fingerprint": "sha256:77aa"},
        },
        "prompts": [_prompt(folder, concept, number, size) for number, concept in enumerate(COAT)],
        "sae": {
            "path": "sae/mid.safetensors",
            "fvu": 0.28,
            "l0": 12.1,
            "dead": 0.004,
            "prefixes": [256, 1280],
            "tokens": 131072,
            "epochs": 6,
        },
        "sce": {
            "image": 2.31,
            "text": 1.44,
            "image_effective": 11.7,
            "text_effective": 3.2,
            "trace_image": 0.3,
            "trace_text": 0.7,
            "ridge": 1e-4,
            "n": 1000,
            "unique_texts": 2,
            "kernel": "cosine",
            "image_interval": [2.2, 2.43],
            "prompts": [
                {"index": number, "image": 2.1, "text": 1.3, "ridge": 1e-4, "n": IMAGES} for number in range(len(COAT))
            ],
        },
        "invdiff": {
            "module": "invdiff/module.safetensors",
            "strength": 1.0,
            "measured_by": "the emoji judge",
            "prompts": [
                {
                    "prompt": "a photo of a nurse",
                    "bias_before": 0.832,
                    "bias_after": 0.376,
                    "floor": bias_floor(2, 250),
                    "bias_before_interval": [0.76, 0.9],
                    "bias_after_interval": [0.26, 0.5],
                    "kl_before": kl_to_uniform([21, 229]),
                    "kl_after": kl_to_uniform([78, 172]),
                    "kl_before_interval": [0.32, 0.5],
                    "kl_after_interval": [0.03, 0.13],
                    "concept_before": rate(250, 250),
                    "concept_after": rate(247, 250),
                    "sce_before": {"image": 2.1, "text": 0.0, "ridge": 1e-4, "n": 250},
                    "sce_after": {"image": 2.4, "text": 0.0, "ridge": 1e-4, "n": 250, "image_interval": [2.3, 2.5]},
                    "groups": [
                        {"name": "man", "before": rate(21, 250), "after": rate(78, 250)},
                        {"name": "woman", "before": rate(229, 250), "after": rate(172, 250)},
                    ],
                }
            ],
        },
        "naming": {"by": "index", "captions": 612, "index": "bank/index.safetensors"},
        "compass": {
            "poles": ["{}, woman", "{}, man"],
            "seeds": 128,
            "steps": 8,
            "site": "mid",
            "prompts": [_reading(number, share) for number, share in enumerate((0.13, 0.82))],
        },
        "provenance": {
            "reproduce": command,
            "command": "hapax demo --out audit",
            "fingerprints": {"world.json": "sha256:51be"},
            "started": "2026-11-20T21:22:10+00:00",
            "versions": {"python": "3.11.9", "torch": "2.9.0", "diffusers": "0.35.1"},
            "timings": {"sample": 912.4, "train": 45.2, "score": 3.1},
        },
        "limits": ["The world is drawn: every picture is a face.", "Two prompts were looked at."],
        "credits": ["The faces were drawn for this test."],
    }


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("drawn")
    return folder, build_audit(folder)


@pytest.fixture
def folder(drawn: tuple[Path, dict], tmp_path: Path) -> Path:
    """A folder with the audit's pictures."""
    shutil.copytree(drawn[0] / "images", tmp_path / "images")
    return tmp_path


@pytest.fixture
def audit(drawn: tuple[Path, dict]) -> dict:
    """An audit to change at will."""
    return copy.deepcopy(drawn[1])
