"""The whole audit: sample, record, train, score, name, amplify, report. Resumable, on one process or several."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .activations import ActivationStore
from .audit_document import audit_document, now, settings_row, versions
from .audit_settings import AuditSettings, claim
from .backends.diffusers import DiffusersBackend
from .collect import Progress, Recording, batches, collect, plan_recording
from .debias_audit import DebiasAudit
from .directions import compare
from .directions.compass import compass_rows
from .distributed import barrier, mine, rank
from .embed import ClipEmbedder
from .errors import HapaxError
from .findings import train_on
from .naming import Namer
from .prompt_audit import PromptAudit
from .report import save_audit, write_report
from .sae import MatryoshkaSAE, TrainedSAE, load_sae, save_sae
from .sce.summary import audit_rows

# Where a prompt leans is settled in few steps.
COMPASS_STEPS = 8


class Audit:
    """One audit in one folder."""

    def __init__(
        self,
        backend: DiffusersBackend,
        embedder: ClipEmbedder,
        settings: AuditSettings,
        out: Path,
        report: Progress,
        model_name: str,
        credits: Sequence[str] = (),
    ) -> None:
        self.backend, self.embedder, self.settings, self.out = backend, embedder, settings, out
        self.report, self.model_name, self.credits = report, model_name, list(credits)
        self.timings: dict[str, float] = {}
        self.fingerprint = backend.fingerprint()
        self.recording: Recording
        self.namer: Namer
        self.debias: DebiasAudit | None = None

    def run(self, *, resume: bool, command: str) -> Path:
        """Do all that is not done yet and write the report; returns its path.

        Raises:
            HapaxError: the folder holds another audit, or this one and `resume` is False.
        """
        started = now()
        settings = self.settings
        self.recording = plan_recording(
            self.backend, settings.sampling, settings.site, settings.record_steps, settings.positions
        )
        self._check_autoencoder()
        if settings.guidance_file is not None:
            self.debias = DebiasAudit(self.backend, self.embedder, settings, self.out, self.report)
        fits = {"architecture": type(self.backend.denoiser).__name__, "channels": self.recording.channels}
        self.namer = Namer.of(settings.bank, settings.index, fits | self._fits(), settings.seed)
        if rank() == 0:
            made = {"model": self.fingerprint, "clip": self.embedder.fingerprint} | asdict(settings)
            if self.debias is not None:
                made["guidance"] = self.debias.fingerprint
            claim(self.out, made, resume)
        barrier()
        with self._timed("sampling"):
            self._sample()
        store = ActivationStore.open(self.out / "activations")
        samples = {index: [] for index in range(len(settings.prompts))}
        for row, sample in enumerate(store.samples):
            samples[int(sample.prompt)].append(row)
        with self._timed("training"):
            trained = [self._train(store, index, samples[index]) for index in samples]
        compass = self._compass()
        guided = None
        if self.debias is not None:
            with self._timed("guiding"):
                guided = self.debias.embeddings()
        if rank() != 0:
            barrier()
            return self.out / "report.html"
        prompts = [self._prompt(store, index, samples[index], trained[index]) for index in samples]
        measured = {"sce": self._diversity(store), "naming": self.namer.row(), "compass": compass}
        if self.debias is not None and guided is not None:
            measured["invdiff"] = self.debias.row(store, samples, guided)
        audit = self._document(prompts, started, command, **measured)
        save_audit(audit, self.out / "audit.json")
        path = write_report(audit, self.out)
        barrier()
        return path

    def _check_autoencoder(self) -> None:
        """Refuse an autoencoder that can't be used or trained, before hours of sampling."""
        settings, recording = self.settings, self.recording
        if settings.sae_file:
            path = Path(settings.sae_file)
            check_fits(load_sae(path), path, self._fits(), recording.channels)
            return
        tokens = settings.images * len(recording.progress) * len(recording.positions)
        settings.sae.config(recording.channels, tokens, settings.seed)
        # A tenth of the pictures is held out.
        if 9 * tokens // 10 < recording.channels:
            raise HapaxError(
                f"{settings.images} pictures of {tokens // settings.images} tokens each are too few to train on: "
                f"{recording.channels} are needed, one for each channel; raise --images, --positions or --record-steps."
            )

    def _fits(self) -> dict[str, str]:
        """What an autoencoder must have been trained for."""
        return {"model": self.fingerprint, "site": self.settings.site}

    def _sample(self) -> None:
        """Record what is missing: each process into its own store, which the first one then merges."""
        settings, root = self.settings, self.out / "activations"
        provenance = {
            "model": self.fingerprint,
            "site": settings.site,
            "clip": self.embedder.fingerprint,
            "sampling": asdict(settings.sampling),
            "grid": list(self.recording.grid),
            "steps": list(self.recording.progress),
        }
        if rank() == 0:
            with ActivationStore.open_or_create(root, provenance) as store:
                store.verify()
                store.drop_damaged()
                self._merge_ranks(store)
        barrier()
        work = [(i, prompt, seed) for i, prompt in enumerate(settings.prompts) for seed in settings.seeds()]
        with ActivationStore.open(root) as held:
            blocks = [
                block
                for block in batches(work, settings.sampling.batch_size)
                if any((index, seed) not in held for index, _, seed in block)
            ]
        own = [item for i in mine(len(blocks)) for item in blocks[i]]
        folder = root if rank() == 0 else root.with_name(f"activations-{rank()}")
        with ActivationStore.open_or_create(folder, provenance) as store:
            collect(self.backend, store, self.embedder, own, settings.sampling, self.recording, self.report)
        barrier()
        if rank() == 0:
            with ActivationStore.open(root) as store:
                self._merge_ranks(store)
        barrier()

    def _merge_ranks(self, store: ActivationStore) -> None:
        for folder in sorted(self.out.glob("activations-*")):
            with ActivationStore.open(folder) as other:
                other.verify()
                other.drop_damaged()
                if len(other):
                    store.merge(other)
            shutil.rmtree(folder)

    def _train(self, store: ActivationStore, index: int, samples: list[int]) -> TrainedSAE:
        """Train the autoencoder of one prompt, or load it if that was done; all processes train as one."""
        path = self._sae_path(index)
        meta = self._fits()
        own = meta | {"prompt": self.settings.prompts[index], "pictures": len(samples)}
        if self.settings.sae_file:
            given = Path(self.settings.sae_file)
            sae = load_sae(given)
            check_fits(sae, given, meta, self.recording.channels)
            # Beside the audit it goes where the audit goes. A copy from an earlier run may be of another file.
            if rank() == 0 and index == 0:
                save_sae(sae, path)
            barrier()
            return TrainedSAE(sae, sae.meta["metrics"])
        if path.exists():
            sae = load_sae(path)
            if {key: sae.meta.get(key) for key in own} == own:
                return TrainedSAE(sae, sae.meta["metrics"])
        steps, positions, channels = store.layout.shapes()["tokens"]
        config = self.settings.sae.config(channels, len(samples) * steps * positions, self.settings.seed)
        stage = f"training {index + 1}"
        share = [samples[i] for i in mine(len(samples))]
        trained = train_on(
            store,
            share,
            config,
            progress=lambda done, total, _: self.report(stage, done, total),
            device=self.backend.denoiser.device,
        )
        # The store's tokens, which are scored next, are on the CPU.
        trained.sae.cpu()
        if rank() == 0:
            path.parent.mkdir(exist_ok=True)
            save_sae(trained.sae, path, meta=own | {"metrics": trained.metrics})
        barrier()
        return trained

    def _sae_path(self, index: int) -> Path:
        return self.out / "sae" / ("given.safetensors" if self.settings.sae_file else f"p{index}.safetensors")

    def _prompt(self, store: ActivationStore, index: int, samples: list[int], trained: TrainedSAE) -> dict[str, Any]:
        """What is found in the pictures of one prompt."""
        found = PromptAudit(
            self.out,
            index,
            self.backend,
            self.embedder,
            self.settings,
            self.recording,
            self.namer,
            self.report,
            self._timed,
        )
        return found.row(store, samples, trained, self._sae_path(index).relative_to(self.out).as_posix())

    def _diversity(self, store: ActivationStore) -> dict[str, Any]:
        with self._timed("diversity"):
            texts = self.embedder.texts(self.settings.prompts)
            return audit_rows(store.embeddings(), texts, [int(sample.prompt) for sample in store.samples])

    def _compass(self) -> dict[str, Any] | None:
        """Read where the prompts lie between the poles, if there are any; all processes take part."""
        settings = self.settings
        if not settings.poles:
            return None
        recipe = {"steps": min(COMPASS_STEPS, settings.sampling.steps), "site": settings.site}
        with self._timed("compass"):
            readings = compare(
                self.backend,
                settings.prompts,
                settings.poles,
                seeds=range(settings.seed, settings.seed + settings.compass_seeds),
                guidance=settings.sampling.guidance,
                batch_size=settings.sampling.batch_size,
                size=settings.sampling.size,
                folder=self.out / "compass",
                progress=lambda _, done, total: self.report("compass", done, total),
                **recipe,
            )
        return compass_rows(readings, settings.poles, recipe)

    def _document(self, prompts: list[dict[str, Any]], started: str, command: str, **measured: Any) -> dict[str, Any]:
        settings, recording, clip = self.settings, self.recording, self.embedder
        return audit_document(
            model={
                "name": self.model_name,
                "fingerprint": self.fingerprint,
                "site": settings.site,
                "architecture": type(self.backend.denoiser).__name__,
                "channels": recording.channels,
                "grid": list(recording.grid),
            },
            settings=settings_row(settings, recording, {"name": clip.name, "fingerprint": clip.fingerprint}),
            prompts=prompts,
            provenance={
                "command": command,
                "reproduce": command,
                "started": started,
                "versions": versions(),
                "fingerprints": {"denoiser": self.fingerprint, "clip": clip.fingerprint},
                "timings": self.timings,
            },
            credits=self.credits,
            **measured,
        )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        spent = self.timings.get(stage, 0.0) + time.perf_counter() - begun
        self.timings[stage] = round(spent, 1)


def check_fits(sae: MatryoshkaSAE, path: Path, wanted: dict[str, str], channels: int) -> None:
    """Raise HapaxError unless an autoencoder was trained at this site of this model."""
    found = {key: sae.meta.get(key) for key in wanted} | {"channels": sae.d_in}
    for key, value in (wanted | {"channels": channels}).items():
        if found[key] != value:
            raise HapaxError(
                f"{path} was trained for {key} {found[key]}, but the audit has {key} {value}; "
                "use the model and site that it was made for, or leave --sae out to train a new one."
            )
