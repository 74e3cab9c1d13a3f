"""What the tests of training sets, bias groups and guidance modules share, on the tiny models."""

from __future__ import annotations

import torch
from hapax.core.invdiff.module import GuidanceModule, GuidanceShape
from hapax.nodes.bias_groups import LOSSES, InferBiasGroups
from hapax.nodes.comfy_sites import site_of
from hapax.nodes.fitting import identity
from hapax.nodes.guidance import ApplyInvDiffGuidance
from hapax.nodes.guidance_training import TrainInvDiffGuidance

SAMPLING = {
    "seeds": 3,
    "first_seed": 10,
    "steps": 2,
    "cfg": 1.0,
    "sampler_name": "euler",
    "scheduler": "normal",
    "width": 64,
    "height": 64,
    "batch_size": 2,
    "run": "set",
}
TRAINING = {
    "steps": 3,
    "batch_size": 4,
    "accumulation": 1,
    "learning_rate": 1e-2,
    "seed": 1,
    "site": "auto",
    "start_percent": 0.0,
    "end_percent": 1.0,
    "variance_weight": 0.0,
    "risk": "variance",
}


def latents_of(subject, tiny_models, count=6, seed=3):
    """Pictures in the VAE's scale, such that the denoiser's is about 1."""
    noise = tiny_models.noise_like(subject.latent(count), seed)
    return [{"samples": subject.model.model.process_latent_out(noise)}]


def infer(subject, vae, latents, conditioning=None, **changed):
    given = {"groups": 2, "by": LOSSES, "seed": 0, "shown": 2, "batch_size": 4} | changed
    lists = {name: value if name.startswith("guided") else [value] for name, value in given.items()}
    conditioning = [subject.positive] if conditioning is None else conditioning
    return InferBiasGroups.execute([subject.model], [vae], latents, conditioning, **lists).result


class FakeVAE:
    """Decodes latents of any number of channels, which the tiny VAE can't: their first three as colours."""

    def decode(self, latents):
        return latents[:, :3].movedim(1, -1).sigmoid()


def train(subject, groups, run, **changed):
    return TrainInvDiffGuidance.execute(subject.model, groups, run=run, **TRAINING | changed).result


def trained_module(subject, site="auto", seed=0, **options):
    """A module that changes something, made for a subject."""
    with torch.inference_mode(False), torch.no_grad():
        chosen = site_of(subject.model, site)
        module = GuidanceModule(GuidanceShape(str(chosen), chosen.channels, 64, hidden=8), seed=seed, **options)
        module.last.weight.normal_(generator=torch.Generator().manual_seed(seed))
        module.requires_grad_(False)
    module.meta = identity(subject.model)
    return module


def apply(subject, module, strength=1.0, start=0.0, end=1.0, rows="positive", mask=None, model=None):
    model = subject.model if model is None else model
    return ApplyInvDiffGuidance.execute(model, module, strength, start, end, rows, mask).result[0]
