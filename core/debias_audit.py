"""The stage of an audit that compares a model with itself under a guidance module, at equal seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .activations import ActivationStore
from .audit_settings import AuditSettings
from .backends.diffusers import DiffusersBackend
from .collect import Progress
from .directions.compass import pole_name
from .embed import ClipEmbedder
from .invdiff.evaluation import Guided, Judged, bias_row
from .invdiff.files import check_fits, load_guidance, module_fingerprint


class DebiasAudit:
    """Makes the audit's pictures again under guidance and counts groups before and after.

    Raises:
        HapaxError: no such module, or one of another model.
    """

    def __init__(
        self, backend: DiffusersBackend, embedder: ClipEmbedder, settings: AuditSettings, out: Path, report: Progress
    ) -> None:
        assert settings.guidance_file is not None
        self.embedder, self.settings, self.out, self.report = embedder, settings, out, report
        self.module = load_guidance(settings.guidance_file)
        check_fits(self.module, backend)
        self.module.set_strength(settings.strength)
        self.guided, self.fingerprint = Guided(backend, self.module), module_fingerprint(self.module)

    def embeddings(self) -> Tensor:
        """Unit embeddings [U, S, E] of the pictures under guidance; all processes take part."""
        settings, folder = self.settings, self.out / "guided"
        return self.guided.embeddings(
            self.embedder, settings.prompts, settings.seeds(), settings.sampling, folder, self.report
        )

    def row(self, store: ActivationStore, samples: dict[int, list[int]], after: Tensor) -> dict[str, Any]:
        """What audit.json holds under `invdiff`.

        Args:
            store: the audit's own pictures.
            samples: rows of the store by prompt.
            after: what `embeddings` returned.
        """
        settings, texts = self.settings, self.embedder.texts
        prompts, rows = list(settings.prompts), []
        for index, prompt in enumerate(prompts):
            groups = texts([label.replace("{}", prompt) for label in settings.labels])
            # The audit's other prompts are what a picture could show instead.
            others = [prompt, *(each for each in prompts if each != prompt)]
            concepts = texts(others) if len(others) > 1 else None
            before = torch.as_tensor(store.embeddings(samples[index])).float()
            sides = [Judged.by_clip(each, groups, concepts) for each in (before, after[index])]
            rows.append(bias_row(prompt, [pole_name(label) for label in settings.labels], *sides))
        return {
            "module": Path(str(settings.guidance_file)).name,
            "fingerprint": self.fingerprint,
            "strength": settings.strength,
            "measured_by": self.embedder.name,
            "prompts": rows,
        }
