from __future__ import annotations

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.sites import Site
from hapax.core.taps import Recorder, applied, compose, from_tokens, to_tokens


@pytest.mark.parametrize("shape", [(2, 6, 3, 5), (2, 15, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_and_back(shape, dtype):
    h = torch.randn(shape, dtype=dtype)
    tokens = to_tokens(h)
    assert tokens.shape == (2, 15, 6)
    assert torch.equal(from_tokens(tokens.float(), h), h)
    assert from_tokens(tokens.float(), h).dtype == dtype


def test_tokens_run_row_by_row_from_the_top():
    h = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert to_tokens(h).flatten().tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_memory_format_is_kept(memory_format):
    h = torch.randn(2, 6, 3, 5).to(memory_format=memory_format)
    back = from_tokens(to_tokens(h), h)
    assert back.stride() == h.stride()


def test_compose_calls_in_order_and_hands_on_edits(make_step):
    seen = []
    h = torch.ones(1, 2, 3)

    def look(h, step):
        seen.append(float(h.mean()))

    chain = compose([look, lambda h, step: h + 1, look, lambda h, step: 3 * h, look])
    assert float(chain(h, make_step(h)).mean()) == 6
    assert seen == [1, 2, 6]


def test_compose_of_recorders_returns_the_same_object(make_step):
    h = torch.ones(1, 2, 3)
    assert compose([lambda h, step: None, lambda h, step: None])(h, make_step(h)) is h


@pytest.mark.parametrize("kind", ["output", "update"])
@pytest.mark.parametrize("change", [lambda h, step: None, lambda h, step: h])
def test_a_tap_that_changes_nothing_leaves_the_same_object(make_step, kind, change):
    whole, before = torch.randn(2, 1, 2, 3, 4).unbind()
    site = Site("mid", kind, 2, "img")
    assert applied(change, site, whole, before if kind == "update" else None, make_step(whole)) is whole


def test_an_edit_of_an_update_is_added_to_the_output(make_step):
    whole, before = torch.randn(2, 1, 2, 3, 4).unbind()
    site, step = Site("mid", "update", 2, "img"), make_step(whole)
    seen = []

    def double(update, step):
        seen.append(update)
        return 2 * update

    assert torch.allclose(applied(double, site, whole, before, step), before + 2 * (whole - before), atol=1e-6)
    assert torch.equal(seen[0], whole - before)
    assert torch.equal(applied(lambda update, step: update.clone(), site, whole, before, step), whole)


@pytest.mark.parametrize("wrong", [lambda h, step: h[:, :1], lambda h, step: h.double()])
def test_a_tap_must_return_shape_and_dtype_as_got(make_step, wrong):
    whole = torch.randn(1, 2, 3, 4)
    with pytest.raises(HapaxError, match=r"A tap at mid got \(1, 2, 3, 4\) of torch.float32 and returned"):
        applied(wrong, Site("mid", "output", 2, "img"), whole, None, make_step(whole))


def recorded(recorder, make_step, calls):
    """Feed calls of (progress, h) with rows for samples 0, 1, ... under the prompt."""
    for progress, h in calls:
        assert recorder(h, make_step(h, progress)) is None
    return recorder


@pytest.mark.parametrize("seed", range(5))
def test_the_nearest_call_is_kept_whatever_the_path(make_step, seed):
    """Streaming agrees with a look at all calls at once, on paths that repeat and go back."""
    generator = torch.Generator().manual_seed(seed)
    path = torch.randint(0, 20, (30,), generator=generator) / 20
    targets, n_samples = torch.tensor([0.0, 0.33, 0.5, 0.98]), 5
    h = torch.randn(len(path), n_samples, 7, 3, generator=generator)
    recorder = Recorder(targets, positions=[4, 0])
    for progress, rows in zip(path, h, strict=True):
        order = torch.randperm(n_samples, generator=generator)
        recorder(rows[order], make_step(rows, progress, sample=order))
    nearest = [int((path - target).abs().argmin()) for target in targets]
    for sample in range(n_samples):
        tokens, progress = recorder.take(sample)
        assert torch.equal(progress, path[nearest])
        assert torch.equal(tokens, h[nearest, sample][:, [4, 0]])


def test_of_equally_near_calls_the_first_is_kept(make_step):
    h = torch.zeros(1, 2, 3)
    recorder = recorded(Recorder([0.5]), make_step, [(0.5, h), (0.5, h + 1), (0.5, h + 2)])
    assert float(recorder.take(0)[0].max()) == 0


def test_of_two_rows_of_one_sample_in_one_call_the_first_is_kept(make_step):
    h = torch.tensor([1.0, 2.0]).reshape(2, 1, 1)
    recorder = Recorder([0.5])
    recorder(h, make_step(h, 0.5, sample=[7, 7]))
    assert recorder.take(7)[0].item() == 1


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("layout", ["uncond first", "cond first", "interleaved", "split", "no guidance"])
def test_only_rows_under_the_prompt_are_kept(make_step, n, layout):
    h = torch.randn(2 * n, 4, 3, 3)
    halves = torch.tensor([False] * n + [True] * n)
    sample = torch.arange(2 * n) % n
    calls = {
        "uncond first": [torch.arange(2 * n)],
        "cond first": [torch.arange(2 * n).roll(n)],
        "interleaved": [torch.arange(2 * n).reshape(2, n).T.flatten()],
        "split": [torch.arange(n), torch.arange(n, 2 * n)],
        "no guidance": [torch.arange(n, 2 * n)],
    }[layout]
    recorder = Recorder([0.5])
    for rows in calls:
        recorder(h[rows], make_step(h[rows], 0.5, cond=halves[rows], sample=sample[rows]))
    assert recorder.samples == list(range(n))
    for i in range(n):
        assert torch.equal(recorder.take(i)[0], to_tokens(h[[n + i]]))
    with pytest.raises(HapaxError, match="under the negative prompt"):
        recorder.take(0, cond=False)


def test_both_halves_are_kept_apart_when_asked_for(make_step):
    h = torch.randn(2, 5, 3)
    recorder = Recorder([0.5], cond_only=False)
    recorder(h, make_step(h, 0.5, cond=[False, True], sample=0))
    assert torch.equal(recorder.take(0, cond=False)[0], h[:1])
    assert torch.equal(recorder.take(0, cond=True)[0], h[1:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_float32_is_kept_without_loss(make_step, dtype):
    h = torch.randn(1, 5, 3).to(dtype)
    tokens, progress = recorded(Recorder([0.5]), make_step, [(0.5, h)]).take(0)
    assert tokens.dtype == progress.dtype == torch.float32
    assert torch.equal(tokens.to(dtype), h)


def test_a_chosen_dtype_is_kept(make_step):
    h = torch.randn(1, 5, 3)
    tokens, _ = recorded(Recorder([0.5], dtype=torch.float16), make_step, [(0.5, h)]).take(0)
    assert torch.equal(tokens, h.half())


def test_what_is_kept_is_a_copy(make_step):
    h = torch.zeros(1, 5, 3)
    recorder = recorded(Recorder([0.5]), make_step, [(0.5, h)])
    h.fill_(1)
    assert float(recorder.take(0)[0].max()) == 0


def test_take_forgets_and_clear_forgets_all(make_step):
    h = torch.zeros(3, 5, 3)
    recorder = recorded(Recorder([0.5]), make_step, [(0.5, h)])
    recorder.take(1)
    with pytest.raises(HapaxError, match=r"sample 1 under the prompt; there is \[0, 2\]"):
        recorder.take(1)
    recorder.clear()
    assert recorder.samples == []


@pytest.mark.parametrize("areas_first", [True, False])
def test_the_largest_grid_of_a_sample_wins(make_step, areas_first):
    whole, area = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 2, 2)
    calls = [(0.4, area), (0.5, area), (0.4, whole), (0.5, area)]
    calls = calls if areas_first else calls[::-1]
    tokens, progress = recorded(Recorder([0.5]), make_step, calls).take(0)
    assert torch.equal(tokens, to_tokens(whole))
    assert progress.tolist() == pytest.approx([0.4])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_noticed(make_step, bad):
    h = torch.zeros(3, 5, 3)
    h[1, 2, 0] = bad
    with pytest.raises(HapaxError, match=r"sample 1 at progress 0.500 are not finite"):
        Recorder([0.5])(h, make_step(h))
    Recorder([0.5], positions=[0, 1])(h, make_step(h))


def test_an_overflow_of_the_kept_dtype_is_noticed(make_step):
    h = torch.full((1, 5, 3), 1e6)
    with pytest.raises(HapaxError, match=r"kept in torch.float16"):
        Recorder([0.5], dtype=torch.float16)(h, make_step(h))


def test_a_position_outside_the_grid_is_refused(make_step):
    h = torch.zeros(1, 5, 3)
    with pytest.raises(HapaxError, match="Position 5 lies outside the site's 5 tokens"):
        Recorder([0.5], positions=[0, 5])(h, make_step(h))


@pytest.mark.parametrize("targets", [[], [-0.1], [0.5, 1.5], [float("nan")]])
def test_bad_targets_are_refused(targets):
    with pytest.raises(HapaxError, match="progress_targets"):
        Recorder(targets)


@pytest.mark.parametrize("positions", [[], [-1]])
def test_bad_positions_are_refused(positions):
    with pytest.raises(HapaxError, match="positions"):
        Recorder([0.5], positions)
