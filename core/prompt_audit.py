"""One prompt of an audit: its features found, kept for ComfyUI, shown and turned up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .activations import ActivationStore
from .amplify import Amplifier, amplify
from .audit_document import sae_row, versions
from .audit_settings import AuditSettings
from .backends.diffusers import DiffusersBackend
from .collect import Progress, Recording
from .embed import ClipEmbedder
from .feature_file import save_features
from .feature_set import FeatureSet
from .findings import Found, find_features
from .gallery import Gallery
from .naming import Namer
from .sae import TrainedSAE

SEARCH_SEEDS, SHOWN_SEEDS = 12, 24


@dataclass(frozen=True, eq=False)
class PromptAudit:
    """What becomes of the recorded pictures of one prompt.

    Attributes:
        out: the audit's folder.
        index: of the prompt.
        backend, embedder, settings, recording, namer, report: the audit's.
        timed: times a stage.
    """

    out: Path
    index: int
    backend: DiffusersBackend
    embedder: ClipEmbedder
    settings: AuditSettings
    recording: Recording
    namer: Namer
    report: Progress
    timed: Callable[[str], AbstractContextManager[None]]

    @property
    def prompt(self) -> str:
        """The prompt."""
        return self.settings.prompts[self.index]

    def row(self, store: ActivationStore, samples: list[int], trained: TrainedSAE, sae: str) -> dict[str, Any]:
        """Find, keep, show and turn up: the prompt's row of audit.json.

        Args:
            store: the recording.
            samples: the prompt's pictures in it.
            trained: the prompt's autoencoder.
            sae: its file, relative to `out`.
        """
        settings = self.settings
        with self.timed("scoring"):
            found = find_features(
                store,
                samples,
                trained,
                self.namer.labeller(self.prompt, self.embedder.texts),
                listed=settings.listed,
                rare=settings.rare,
                normalize=settings.normalize,
                min_support=settings.min_support,
                seed=settings.seed,
            )
        kept = self._keep(store, found, sae)
        gallery = Gallery(
            self.out, self.index, self.backend, settings.sampling, self.recording, self.prompt, store, found
        )
        with self.timed("exemplars"):
            features = gallery.features(self.report)
        with self.timed("amplifying"):
            for number, feature in enumerate(features[: settings.amplified]):
                feature["amplified"] = self._amplify(store, found, kept, number, gallery)
        seeds = settings.seeds()
        return {
            "prompt": self.prompt,
            "index": self.index,
            "images": len(samples),
            "scored": len(found.table),
            "seeds": [seeds[0], seeds[-1]],
            "features": features,
            "sample_sheet": gallery.sheet(),
            "sae": sae_row(trained, sae),
        }

    def _keep(self, store: ActivationStore, found: Found, sae: str) -> FeatureSet:
        """Write what ComfyUI needs to show the features and to turn them up."""
        settings, clip = self.settings, self.embedder
        scored = {"min_support": settings.min_support, "normalize": settings.normalize, "rare": settings.rare}
        scored |= {"seed": settings.seed, "clip": {"name": clip.name, "fingerprint": clip.fingerprint}}
        features = FeatureSet.of(store, found, self.prompt, scored | {"naming": self.namer.row()})
        known = {"architecture": type(self.backend.denoiser).__name__, "versions": versions()}
        features = replace(features, provenance=features.provenance | known)
        save_features(features, self.out, prompt=self.index, sae=sae)
        return features

    def _amplify(
        self, store: ActivationStore, found: Found, kept: FeatureSet, number: int, gallery: Gallery
    ) -> dict[str, Any]:
        """Turn one feature up, as its file will in ComfyUI."""
        feature, settings = kept.features[number], self.settings
        self.report(f"amplifying {self.index + 1}", number, settings.amplified)
        amplifier = Amplifier(
            self.backend,
            self.embedder,
            settings.sampling,
            settings.site,
            self.prompt,
            found.trained.sae,
            feature.pattern,
            found.looks[number].look,
            store.embeddings(found.samples),
        )
        search = settings.seeds()[-1] + 1
        shown = search + SEARCH_SEEDS
        result = amplify(amplifier, range(search, shown), range(shown, shown + SHOWN_SEEDS), feature.label)
        self.report(f"amplifying {self.index + 1}", number + 1, settings.amplified)
        return gallery.amplified(feature.latent, result)
