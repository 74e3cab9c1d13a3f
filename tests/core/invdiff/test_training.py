from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace

import diffusers
import pytest
import torch
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.backends.schedules import TrainingSchedule
from hapax.core.errors import HapaxError
from hapax.core.invdiff.data import PictureSet
from hapax.core.invdiff.lessons import posterior_clean
from hapax.core.invdiff.metrics import bias_score
from hapax.core.invdiff.training import GuidanceConfig, train_guidance

SHORT = GuidanceConfig(steps=6, batch_size=8, seats=4, save_every=2, warmup=1, hidden=8)


@pytest.fixture(scope="module")
def backend(tiny_pipelines):
    pipeline = tiny_pipelines.sd1()
    pipeline.unet = tiny_pipelines.unet(block_out_channels=(32, 64))
    return DiffusersBackend(pipeline)


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(40, 4, 16, 16, generator=generator)
    return PictureSet(latents, torch.arange(40) % 2, ("a cat", "a dog"), tuple(map(str, range(40))))


@pytest.fixture(scope="module")
def weights():
    return torch.rand(40, 3, generator=torch.Generator().manual_seed(1)).softmax(1)


def state(module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_base_stays_as_it_was(backend, pictures, weights):
    before, processors = backend.fingerprint(), dict(backend.denoiser.attn_processors)
    wanted = [p.requires_grad for p in backend.denoiser.parameters()]
    module = train_guidance(backend, pictures, weights, SHORT)
    assert backend.fingerprint() == before
    assert backend.denoiser.attn_processors == processors
    assert [p.requires_grad for p in backend.denoiser.parameters()] == wanted
    assert all(p.grad is None for p in backend.denoiser.parameters())
    assert float(module.last.weight.abs().max()) > 0
    assert module.meta["model"] == before
    assert module.meta["architecture"] == "UNet2DConditionModel"
    assert "diffusers" in module.meta["versions"]


@pytest.mark.parametrize("site", ["mid", "eps"])
def test_strength_zero_gives_the_bases_pictures_bit_for_bit(backend, pictures, weights, site):
    module = train_guidance(backend, pictures, weights, replace(SHORT, site=site, hidden=None))
    base = backend.sample("a cat", [1, 2], steps=3, guidance=3.0, output="latent")
    assert not torch.equal(
        backend.sample("a cat", [1, 2], {site: module}, steps=3, guidance=3.0, output="latent"), base
    )
    module.set_strength(0.0)
    assert torch.equal(backend.sample("a cat", [1, 2], {site: module}, steps=3, guidance=3.0, output="latent"), base)


def test_equal_seeds_give_equal_weights_and_other_seeds_others(backend, pictures, weights):
    runs = [state(train_guidance(backend, pictures, weights, replace(SHORT, seed=seed))) for seed in (1, 1, 2)]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_an_interrupted_training_goes_on_to_the_same_weights(backend, pictures, weights, tmp_path):
    def stop(done: int, total: int, info: dict) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_guidance(backend, pictures, weights, SHORT, folder=tmp_path, progress=stop)
    seen: list[int] = []
    resumed = train_guidance(
        backend, pictures, weights, SHORT, folder=tmp_path, progress=lambda done, *_: seen.append(done)
    )
    assert seen == [4, 5, 6]
    assert same(state(resumed), state(train_guidance(backend, pictures, weights, SHORT)))


KILLED = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("here", sys.argv[1])
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
here.train_guidance(
    here.DiffusersBackend.from_folder(sys.argv[2]), here.pictures.__wrapped__(), here.weights.__wrapped__(), here.SHORT,
    folder=sys.argv[3], progress=lambda done, total, info: (print(done, flush=True), time.sleep(1)),
)
"""


def test_kill_minus_nine_and_resume_is_the_unbroken_run(backend, pictures, weights, tmp_path):
    backend.pipeline.save_pretrained(tmp_path / "model")
    loaded = DiffusersBackend.from_folder(tmp_path / "model")
    killed = subprocess.Popen(
        [sys.executable, "-P", "-c", KILLED, __file__, str(tmp_path / "model"), str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert killed.stdout is not None
    while killed.stdout.readline().strip() != "3":
        assert killed.poll() is None
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    seen: list[int] = []
    resumed = train_guidance(
        loaded, pictures, weights, SHORT, folder=tmp_path / "run", progress=lambda done, *_: seen.append(done)
    )
    assert seen == [3, 4, 5, 6]
    assert same(state(resumed), state(train_guidance(loaded, pictures, weights, SHORT)))


def test_accumulation_draws_as_many_pictures(backend, pictures, weights):
    train_guidance(backend, pictures, weights, replace(SHORT, steps=2, accumulation=2))
    train_guidance(backend, pictures, weights, replace(SHORT, steps=2, checkpointing=True, bf16=True))


def test_checkpointing_changes_no_weight(backend, pictures, weights):
    plain, saving = (
        state(train_guidance(backend, pictures, weights, replace(SHORT, steps=2, checkpointing=on)))
        for on in (False, True)
    )
    for name in plain:
        torch.testing.assert_close(plain[name], saving[name], rtol=1e-5, atol=1e-7)


def test_progress_tells_the_groups_losses(backend, pictures, weights):
    told: list[dict] = []
    train_guidance(backend, pictures, weights, SHORT, progress=lambda done, total, info: told.append(info))
    assert len(told) == 6
    assert len(told[0]["groups"]) == 3
    assert all(loss > 0 for loss in told[0]["groups"])


def test_a_checkpoint_of_another_training_is_refused(backend, pictures, weights, tmp_path):
    train_guidance(backend, pictures, weights, SHORT, folder=tmp_path)
    with pytest.raises(HapaxError, match=r"another training \(lr 0.002 instead of 0.1\)"):
        train_guidance(backend, pictures, weights, replace(SHORT, lr=0.1), folder=tmp_path)
    with pytest.raises(HapaxError, match=r"another training .*pictures"):
        train_guidance(backend, pictures, weights.flip(0), SHORT, folder=tmp_path)


def test_a_loss_that_is_not_a_number_ends_it_with_the_last_good_checkpoint(backend, pictures, weights, tmp_path):
    config = replace(SHORT, site="eps", hidden=8)
    train_guidance(backend, pictures, weights, replace(config, steps=6), folder=tmp_path / "good")
    bias = backend.denoiser.conv_out.bias
    kept = bias.detach().clone()
    try:
        with torch.no_grad():
            bias.fill_(torch.nan)
        with pytest.raises(HapaxError, match="not finite at step 1"):
            train_guidance(backend, pictures, weights, config, folder=tmp_path / "bad")
    finally:
        with torch.no_grad():
            bias.copy_(kept)
    assert not (tmp_path / "bad" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"start": 0.6, "end": 0.5}, "window is 0.6 to 0.5"),
        ({"steps": 0}, "steps is 0"),
        ({"lr": -1.0}, "lr is -1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, words):
    with pytest.raises(HapaxError, match=words):
        GuidanceConfig(**change)


def test_pictures_and_weights_that_do_not_fit_are_refused(backend, pictures, weights):
    with pytest.raises(HapaxError, match=r"N = 40 pictures"):
        train_guidance(backend, pictures, weights[:5], SHORT)
    small = PictureSet(pictures.latents[:, :, :8], pictures.prompt, pictures.prompts, pictures.ids)
    with pytest.raises(HapaxError, match="prepare them with this model"):
        train_guidance(backend, small, weights, SHORT)
    with pytest.raises(HapaxError, match="one for each of the 40"):
        train_guidance(backend, pictures, weights, SHORT, probabilities=torch.ones(3))
    with pytest.raises(HapaxError, match="'a dog' have probability 0"):
        train_guidance(backend, pictures, weights, SHORT, probabilities=1.0 - pictures.prompt)


def test_the_target_is_bayes_rule():
    """Three pictures, prior (.5, .3, .2): posterior by hand, in fp64."""
    pictures, prior = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]), torch.tensor([0.5, 0.3, 0.2])
    x, a, b = torch.tensor([[0.3, 0.4]]), torch.tensor([0.8]), torch.tensor([0.6])
    likelihood = torch.exp(-(x - 0.8 * pictures).square().sum(1) / (2 * 0.36))
    posterior = prior * likelihood / (prior * likelihood).sum()
    torch.testing.assert_close(posterior_clean(x, a, b, pictures, prior), (posterior @ pictures)[None])


class UNet2DConditionModel(diffusers.UNet2DConditionModel):
    """The ideal denoiser of two Gaussians with centres +.4 and -.4, of which the first is drawn nine in ten."""

    CENTRE, SPREAD, COMMON = 0.4, 0.1, 0.9

    def forward(self, sample, timestep, encoder_hidden_states, **options):
        schedule = TrainingSchedule.of(self.scheduler)
        a, b = (s.view(-1, 1, 1, 1) for s in schedule.scales(timestep.flatten().expand(len(sample)).float()))
        variance = a**2 * self.SPREAD**2 + b**2
        logit = 2 * a * self.CENTRE * sample.sum((1, 2, 3), keepdim=True) / variance
        common = torch.sigmoid(logit + torch.tensor(self.COMMON / (1 - self.COMMON)).log())
        centre = self.CENTRE * (2 * common - 1)
        clean = centre + a * self.SPREAD**2 / variance * (sample - a * centre)
        return ((sample - a * clean) / b,)


def test_two_gaussians_reach_balance(tiny_pipelines):
    """The base draws one in ten from the second; the groups are its own pictures', by sign, with no more told."""
    pipeline = tiny_pipelines.sd1()
    config = {
        k: v
        for k, v in tiny_pipelines.unet(sample_size=4, block_out_channels=(64, 128)).config.items()
        if not k.startswith("_")
    }
    pipeline.unet = UNet2DConditionModel(**config).eval()
    pipeline.unet.scheduler = pipeline.scheduler
    backend = DiffusersBackend(pipeline)
    drawn = backend.sample("a cat", range(400), steps=20, guidance=1.0, batch_size=100, output="latent")
    rare = drawn.mean((1, 2, 3)) < 0
    assert 0.05 < float(rare.float().mean()) < 0.16
    pictures = PictureSet(drawn, torch.zeros(400, dtype=torch.long), ("a cat",), tuple(map(str, range(400))))
    weights = torch.stack([~rare, rare], 1).float()
    module = train_guidance(backend, pictures, weights, GuidanceConfig(site="eps", steps=250, lr=1e-2, batch_size=64))
    taps = {"eps": module}
    made = backend.sample("a cat", range(1000, 1400), taps, steps=20, guidance=1.0, batch_size=100, output="latent")
    count = int((made.mean((1, 2, 3)) < 0).sum())
    assert bias_score([count, 400 - count]) < 0.2
    # They are still of the two kinds, not something between.
    assert float((made.mean((1, 2, 3)).abs() - 0.4).abs().median()) < 0.05
