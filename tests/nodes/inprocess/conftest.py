"""A ComfyUI in this process, on the CPU, with tiny models: what the tests of the nodes stand on.

Run by test_on_comfyui.py, or by hand with a checkout's own Python:
`HAPAX_COMFYUI=CHECKOUT CHECKOUT/.venv/bin/python -P -m pytest -c tests/pytest.ini --rootdir tests/nodes/inprocess
tests/nodes/inprocess`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

HERE = Path(__file__).parent
PACK = HERE.parents[2]
BASE = tempfile.TemporaryDirectory(prefix="hapax-comfyui-")


def _package(name: str, file: Path, folder: Path | None = None) -> ModuleType:
    """Import one file under a name, as ComfyUI imports a pack's folder."""
    places = None if folder is None else [str(folder)]
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=places)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _enter_comfyui(checkout: Path) -> None:
    """Put the checkout first on the path and settle the device before anything of it reads the settings."""
    sys.path.insert(0, str(checkout))
    from comfy.cli_args import args

    args.cpu = True
    args.base_directory = BASE.name
    torch.set_num_threads(1)
    import comfy.model_management  # noqa: F401


# At import, not in a fixture: the test modules beside this file import comfy and hapax at their top.
_enter_comfyui(Path(os.environ["HAPAX_COMFYUI"]))
_package("hapax", PACK / "__init__.py", PACK)
tiny = _package("tiny_models", HERE / "tiny_models.py")
_package("planted", HERE / "planted.py")
_package("captions", HERE / "captions.py")
_package("guiding", HERE / "guiding.py")
from captions import build, index  # noqa: E402, F401
from planted import findings, planted, scorer  # noqa: E402, F401


@dataclasses.dataclass(frozen=True)
class Subject:
    """A tiny MODEL with what is needed to sample from it."""

    family: str
    model: object
    site: str
    site_channels: int
    latent_channels: int
    positive: list
    negative: list

    def latent(self, rows: int = 1, height: int = 8, width: int = 8) -> Tensor:
        """An empty latent, zeros [rows, C, height, width]."""
        return torch.zeros(rows, self.latent_channels, height, width)

    def sample(
        self,
        model: object | None = None,
        *,
        rows: int = 1,
        seed: int = 1,
        steps: int = 4,
        cfg: float = 5.0,
        sampler: str = "euler",
        scheduler: str = "normal",
        positive: list | None = None,
        negative: list | None = None,
        size: tuple[int, int] = (8, 8),
    ) -> Tensor:
        """Latents [rows, C, H, W] through ComfyUI's own `comfy.sample.sample`."""
        import comfy.sample

        latent = self.latent(rows, *size)
        return comfy.sample.sample(
            self.model if model is None else model,
            tiny.noise_like(latent, seed),
            steps,
            cfg,
            sampler,
            scheduler,
            self.positive if positive is None else positive,
            self.negative if negative is None else negative,
            latent,
            seed=seed,
            disable_pbar=True,
        )


@pytest.fixture(autouse=True)
def _as_in_a_server() -> Iterator[None]:
    """No gradients, as when ComfyUI runs a node; a model that another test loaded so can't give any."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def tiny_models() -> ModuleType:
    """The module beside this file: build_model, build_clip, build_vae, conditioning, FAMILIES."""
    return tiny


@pytest.fixture(scope="session")
def comfyui_version() -> tuple[int, ...]:
    """(0, 3, 64) or (0, 33, 0): to skip what an older ComfyUI lacks, never to loosen what it must hold."""
    from comfyui_version import __version__

    return tuple(int(part) for part in __version__.split("."))


@pytest.fixture(scope="session")
def _built() -> Callable[[str], object]:
    models: dict[str, object] = {}

    def get(family: str) -> object:
        if family not in models:
            models[family] = tiny.build_model(family)
        return models[family]

    return get


@pytest.fixture
def subject(_built: Callable[[str], object]) -> Callable[[str], Subject]:
    """`subject("sd15" | "sdxl" | "sd3" | "flux")`: its MODEL is a fresh clone, the weights are built once a session."""

    def make(family: str) -> Subject:
        known = tiny.FAMILIES[family]
        guidance = 3.5 if family == "flux" else None
        return Subject(
            family=family,
            model=_built(family).clone(),  # type: ignore[attr-defined]
            site=known.site,
            site_channels=known.site_channels,
            latent_channels=known.latent_channels,
            positive=tiny.conditioning(1, guidance),
            negative=tiny.conditioning(2, guidance),
        )

    return make


@pytest.fixture
def sd15(subject: Callable[[str], Subject]) -> Subject:
    return subject("sd15")


@pytest.fixture
def sdxl(subject: Callable[[str], Subject]) -> Subject:
    return subject("sdxl")


@pytest.fixture
def sd3(subject: Callable[[str], Subject]) -> Subject:
    return subject("sd3")


@pytest.fixture
def flux(subject: Callable[[str], Subject]) -> Subject:
    return subject("flux")


@pytest.fixture(params=["sd15", "sdxl", "sd3", "flux"])
def any_subject(request: pytest.FixtureRequest, subject: Callable[[str], Subject]) -> Subject:
    """Each of the four families in turn."""
    return subject(request.param)


@pytest.fixture
def run(request: pytest.FixtureRequest) -> str:
    """A run's name of each test's own."""
    return "".join(each if each.isalnum() else "-" for each in request.node.name)


@pytest.fixture(scope="session")
def clip() -> object:
    return tiny.build_clip()


@pytest.fixture(scope="session")
def vae() -> object:
    return tiny.build_vae()


@pytest.fixture(scope="session")
def untrained_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's folder with random weights, written by the library through diffusers."""
    pytest.importorskip("diffusers", reason="COMFYUI AND DIFFUSERS WERE NOT COMPARED: this Python has no diffusers")
    place = tmp_path_factory.mktemp("untrained")
    return _package("untrained_demo", HERE / "untrained_demo.py").write(place / "model", place)


@pytest.fixture
def base_directory() -> Path:
    """What ComfyUI takes for its folder here: models/, input/, output/, temp/ under it."""
    return Path(BASE.name)


@pytest.fixture
def as_the_server_runs() -> Iterator[None]:
    """Nodes of a real server run under inference mode, where tensors refuse gradients and in-place edits outside."""
    with torch.inference_mode():
        yield
