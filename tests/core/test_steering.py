from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hapax.core.errors import HapaxError
from hapax.core.sae.model import MatryoshkaSAE
from hapax.core.steering import AddDirection, Scope, SteerFeatures
from hapax.core.taps import compose, to_tokens

C, L = 6, 10
LAYOUTS = {"UNet": (4, C, 3, 5), "DiT": (4, 15, C)}


def make_sae(threshold: float = 0.5) -> MatryoshkaSAE:
    """An untrained SAE whose latents fire or don't, and whose biases would show if they were added."""
    sae = MatryoshkaSAE(C, L, (4, L), 2)
    sae.threshold.fill_(threshold)
    sae.b_dec.fill_(0.3)
    sae.b_enc.fill_(0.1)
    return sae


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def h(request):
    return torch.randn(request.param, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def vector():
    return F.normalize(torch.randn(C, generator=torch.Generator().manual_seed(2)), dim=0)


def edits(strength: float, scope: Scope | None = None):
    sae, direction = make_sae(), torch.linspace(-1, 1, C)
    return [
        AddDirection(direction, scale=2.0, strength=strength, scope=scope),
        *(
            SteerFeatures(sae, [3, 7], mode=mode, reference=1.5, strength=strength, scope=scope)
            for mode in SteerFeatures.MODES
        ),
    ]


IDS = ["direction", "add", "scale", "set"]


# What an edit adds


def test_a_direction_is_added_to_each_token(h, vector, make_step):
    out = AddDirection(vector, scale=3.0, strength=0.5)(h, make_step(h))
    assert out.shape == h.shape
    torch.testing.assert_close(to_tokens(out), to_tokens(h) + 1.5 * vector)


@pytest.mark.parametrize("strength", [-1.0, 0.5, 4.0])
def test_add_pushes_along_the_decoder_rows(h, make_step, strength):
    sae, levels = make_sae(), torch.tensor([1.0, 3.0])
    out = SteerFeatures(sae, [3, 7], mode="add", reference=levels, strength=strength)(h, make_step(h))
    torch.testing.assert_close(to_tokens(out), to_tokens(h) + strength * (levels @ sae.W_dec[[3, 7]]))


@pytest.mark.parametrize(("strength", "factor"), [(-3.0, 0.0), (-1.0, 0.0), (-0.5, 0.5), (2.0, 3.0)])
def test_scale_multiplies_what_fires_and_never_below_zero(h, make_step, strength, factor):
    sae, rows = make_sae(), torch.tensor([3, 7])
    out = SteerFeatures(sae, rows, mode="scale", strength=strength)(h, make_step(h))
    z = sae.encode(to_tokens(h).flatten(0, 1))[:, rows].unflatten(0, (4, 15))
    assert 0 < (z > 0).float().mean() < 1
    torch.testing.assert_close(to_tokens(out), to_tokens(h) + (factor - 1) * z @ sae.W_dec[rows])


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_set_moves_latents_to_the_level(h, make_step, strength):
    sae, rows = make_sae(), torch.tensor([3, 7])
    levels = torch.tensor([2.0, 0.0])
    out = SteerFeatures(sae, rows, mode="set", reference=levels, strength=strength)(h, make_step(h))
    z = sae.encode(to_tokens(h).flatten(0, 1))[:, rows].unflatten(0, (4, 15))
    wanted = torch.lerp(z, levels.expand_as(z), strength)
    torch.testing.assert_close(to_tokens(out), to_tokens(h) + (wanted - z) @ sae.W_dec[rows])


def test_an_edit_of_latents_that_do_not_fire_changes_no_bit(h, make_step):
    out = SteerFeatures(make_sae(threshold=100.0), [3, 7], mode="scale", strength=5.0)(h, make_step(h))
    assert torch.equal(out, h)


def test_what_the_sae_does_not_reconstruct_is_carried_through(h, make_step):
    """The edit moves h within the span of the two decoder rows only, by what the code asked for."""
    sae = make_sae()
    change = to_tokens(SteerFeatures(sae, [3, 7], mode="set", reference=2.0)(h, make_step(h)) - h)
    basis = torch.linalg.qr(sae.W_dec[[3, 7]].T).Q
    torch.testing.assert_close(change @ basis @ basis.T, change, atol=1e-5, rtol=0)
    assert change.norm() > 1


# No-ops and rows


@pytest.mark.parametrize("index", range(4), ids=IDS)
def test_strength_zero_returns_the_same_object(h, make_step, index):
    assert edits(0.0)[index](h, make_step(h)) is h


@pytest.mark.parametrize("index", range(4), ids=IDS)
@pytest.mark.parametrize(("progress", "inside"), [(0.199, False), (0.2, True), (0.6, True), (0.601, False)])
def test_the_window_includes_its_ends(h, make_step, index, progress, inside):
    """Also where the end, 0.6, is rounded up in the label's float32."""
    edit = edits(2.0, Scope(start=0.2, end=0.6))[index]
    assert (edit(h, make_step(h, progress)) is h) != inside


@pytest.mark.parametrize("index", range(4), ids=IDS)
@pytest.mark.parametrize(
    ("rows", "edited"),
    [("cond", [False, True, True, False]), ("uncond", [True, False, False, True]), ("both", [True] * 4)],
)
def test_other_rows_are_bit_equal(h, make_step, index, rows, edited):
    edit = edits(2.0, Scope(rows=rows))[index]
    out = edit(h, make_step(h, 0.5, cond=[False, True, True, False]))
    assert [not torch.equal(a, b) for a, b in zip(out, h, strict=True)] == edited


def test_rows_outside_the_window_are_bit_equal(h, vector, make_step):
    """One call may hold rows at different noise levels."""
    out = AddDirection(vector, scope=Scope(end=0.5))(h, make_step(h, [0.2, 0.9, 0.4, 0.6]))
    assert [not torch.equal(a, b) for a, b in zip(out, h, strict=True)] == [True, False, True, False]


@pytest.mark.parametrize("index", range(4), ids=IDS)
def test_the_input_is_left_as_it_was(h, make_step, index):
    before = h.clone()
    edits(2.0)[index](h, make_step(h))
    assert torch.equal(h, before)


@pytest.mark.parametrize("index", range(4), ids=IDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(h, make_step, index, dtype):
    edit, low = edits(2.0, Scope(norm_limit=1.2))[index], h.to(dtype)
    out = edit(low, make_step(low))
    assert out.dtype == dtype
    assert torch.equal(out, edit(low.float(), make_step(low)).to(dtype))


def test_the_memory_format_is_kept(vector, make_step):
    h = torch.randn(2, C, 3, 5).to(memory_format=torch.channels_last)
    assert AddDirection(vector)(h, make_step(h)).is_contiguous(memory_format=torch.channels_last)


# Where and how much


def test_the_mask_weights_places(vector, make_step):
    h = torch.randn(2, C, 2, 4)
    mask = torch.tensor([[0.0, 1.0, 0.5, 0.0], [1.0, 0.0, 0.0, 0.25]])
    out = AddDirection(vector, scale=2.0, scope=Scope(mask=mask))(h, make_step(h))
    torch.testing.assert_close(out - h, (2 * mask * vector[:, None, None]).expand_as(h), atol=1e-6, rtol=0)
    assert torch.equal(out[:, :, mask == 0], h[:, :, mask == 0])


def test_the_mask_is_resampled_to_the_grid(vector, make_step):
    """The left half of 64 x 64 places is the left half of an 8 x 8 grid, also where tokens come in a row."""
    mask = torch.zeros(64, 64)
    mask[:, :32] = 1
    scope = Scope(mask=mask)
    weights = scope.token_mask((8, 8), torch.device("cpu")).reshape(8, 8)
    assert torch.all(weights[:, :3] == 1)
    assert torch.all(weights[:, 5:] == 0)
    assert float(weights.mean()) == pytest.approx(0.5)


@pytest.mark.parametrize("limit", [1.0, 1.5])
@pytest.mark.parametrize("strength", [-3.0, 0.1, 50.0])
def test_the_norm_stays_within_the_limit(h, vector, make_step, limit, strength):
    out = AddDirection(vector, strength=strength, scope=Scope(norm_limit=limit))(h, make_step(h))
    free = AddDirection(vector, strength=strength)(h, make_step(h))
    ratio = to_tokens(out).norm(dim=-1) / to_tokens(h).norm(dim=-1)
    assert float(ratio.max()) <= limit * (1 + 1e-5)
    assert float(ratio.min()) >= (1 - 1e-5) / limit
    cosine = F.cosine_similarity(to_tokens(out), to_tokens(free), dim=-1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


@pytest.mark.parametrize("limit", [1.0, 1.5])
def test_a_norm_limit_changes_no_bit_of_unedited_tokens(vector, make_step, limit):
    h = torch.randn(2, C, 2, 4)
    h[:, :, 0, 0] = 0
    mask = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0]])
    out = AddDirection(vector, scope=Scope(mask=mask, norm_limit=limit))(h, make_step(h))
    assert torch.equal(out[:, :, mask == 0], h[:, :, mask == 0])
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("profile", [[(0.25, 1.0), (0.75, 3.0)], lambda progress: min(max(4 * progress, 1.0), 3.0)])
@pytest.mark.parametrize(("progress", "factor"), [(0.0, 1.0), (0.25, 1.0), (0.5, 2.0), (0.75, 3.0), (1.0, 3.0)])
def test_the_profile_follows_progress(h, vector, make_step, profile, progress, factor):
    out = AddDirection(vector, strength=2.0, scope=Scope(profile=profile))(h, make_step(h, progress))
    torch.testing.assert_close(to_tokens(out), to_tokens(h) + 2 * factor * vector)


def test_edits_chain_in_order(h, vector, make_step):
    add = AddDirection(vector, strength=3.0)
    suppress = SteerFeatures(make_sae(), [3], mode="scale", strength=-1.0)
    step = make_step(h)
    one = compose([add, suppress])(h, step)
    assert torch.equal(one, suppress(add(h, step), step))
    assert not torch.allclose(one, compose([suppress, add])(h, step))


# Bad input


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"start": 0.6, "end": 0.4}, "window is 0.6 to 0.4"),
        ({"end": 1.5}, "window"),
        ({"rows": "all"}, "rows is 'all'"),
        ({"norm_limit": 0.5}, "norm_limit is 0.5"),
        ({"mask": torch.zeros(3)}, r"mask has shape \(3,\)"),
        ({"mask": torch.full((2, 2), torch.nan)}, "finite"),
        ({"profile": []}, "profile"),
        ({"profile": [(0.5, 1.0), (0.2, 1.0)]}, "ascending"),
        ({"profile": [(0.5, 1.0), (0.6, float("inf"))]}, "finite"),
    ],
)
def test_a_bad_scope_is_refused(options, sentence):
    with pytest.raises(HapaxError, match=sentence):
        Scope(**options)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: AddDirection(torch.zeros(2, 3)), r"shape \(2, 3\)"),
        (lambda: AddDirection(torch.full((3,), torch.nan)), "finite vector"),
        (lambda: AddDirection(torch.ones(3), strength=float("nan")), "strength is nan"),
        (
            lambda: SteerFeatures(make_sae(), [3], mode="boost"),
            "mode is 'boost'; give one of add, scale, set",
        ),
        (lambda: SteerFeatures(make_sae(), [L]), "from 0 to 9"),
        (lambda: SteerFeatures(make_sae(), []), "from 0 to 9"),
        (
            lambda: SteerFeatures(make_sae(), [1, 2], reference=[1.0, 2.0, 3.0]),
            "3 reference levels for 2 latents",
        ),
    ],
)
def test_a_bad_edit_is_refused(make, sentence):
    with pytest.raises(HapaxError, match=sentence):
        make()


@pytest.mark.parametrize("index", range(4), ids=IDS)
def test_an_edit_for_another_width_is_refused(make_step, index):
    h = torch.zeros(1, 4, C + 1)
    with pytest.raises(HapaxError, match="edit has 6 channels but the site has 7"):
        edits(1.0)[index](h, make_step(h))
