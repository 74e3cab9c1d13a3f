"""Bias groups on the tiny models, as a server runs them."""

from __future__ import annotations

import pytest
import torch
from guiding import SAMPLING, FakeVAE, infer, latents_of
from hapax.core.errors import HapaxError
from hapax.nodes.bias_groups import CLIP, InferBiasGroups
from hapax.nodes.training_set import SampleTrainingSet

pytestmark = pytest.mark.usefixtures("as_the_server_runs")


class TestGroups:
    def test_sheets_say_what_the_groups_are(self, sd15, vae, tiny_models):
        found, sheets, table = infer(sd15, vae, latents_of(sd15, tiny_models))
        assert found.weights.shape == (6, 2)
        torch.testing.assert_close(found.weights.sum(1), torch.ones(6))
        assert float(found.probabilities.sum()) == pytest.approx(1.0)
        assert len(sheets) == 1
        assert sheets[0].ndim == 4
        assert "prompt 1: 6 pictures in " in table
        assert "times as often" in table
        again = infer(sd15, vae, latents_of(sd15, tiny_models))[0]
        assert torch.equal(again.weights, found.weights)

    def test_each_prompt_of_many_pictures_has_a_sheet(self, sd15, vae, tiny_models):
        latents = [*latents_of(sd15, tiny_models, 32), *latents_of(sd15, tiny_models, 33, seed=4)]
        words = [[[each[0][0], {**each[0][1], "hapax_prompt": said}]] for each, said in
                 ((sd15.positive, "a cat"), (sd15.negative, "a dog"))]  # fmt: skip
        _, sheets, table = infer(sd15, vae, latents, words, batch_size=33)
        assert len(sheets) == 2
        assert "a cat: 32 pictures in " in table
        assert "a dog: 33 pictures in " in table

    def test_clip_groups_pictures_by_their_looks(self, sd15, tiny_models, scorer):
        vae = FakeVAE()
        latents = latents_of(sd15, tiny_models)
        latents[0]["samples"][:3] = 9.0
        found = infer(sd15, vae, latents, by=CLIP, scorer=scorer)[0]
        main = found.weights.argmax(1)
        assert len(main[:3].unique()) == 1
        assert int(main[0]) not in main[3:].tolist()
        assert found.by == CLIP


class TestSecondRounds:
    """Groups of the model's own pictures and of pictures that were made under guidance."""

    def test_guided_pictures_join_the_model_s_own(self, sd15, vae, tiny_models):
        own, guided = latents_of(sd15, tiny_models), latents_of(sd15, tiny_models, count=4, seed=9)
        found, _, table = infer(sd15, vae, own, guided_latents=guided, guided_conditioning=[sd15.positive])
        together = torch.cat([own[0]["samples"], guided[0]["samples"]])
        expected = sd15.model.model.process_latent_in(together).float()
        assert "prompt 1: 10 pictures in " in table
        assert "0 of 4 guided pictures are like none" in table
        assert found.pictures.prompts == ("prompt 1",)
        assert torch.equal(found.pictures.latents, expected)

    def test_strays_are_left_out(self, sd15, tiny_models, scorer):
        own = latents_of(sd15, tiny_models, count=8)
        guided = [{"samples": own[0]["samples"][:3].clone()}]
        guided[0]["samples"][1] = 9.0
        given = {"guided_latents": guided, "guided_conditioning": [sd15.positive]}
        found, sheets, table = infer(sd15, FakeVAE(), own, by=CLIP, scorer=scorer, **given)
        assert len(found.weights) == len(found.probabilities) == len(found.pictures) == 10
        assert "1 of 3 guided pictures are like none" in table
        assert found.pictures.ids == (*map(str, range(9)), "10")
        assert len(sheets) == 1

    def test_their_prompts_may_come_in_another_order(self, sd15, vae, tiny_models):
        own = [*latents_of(sd15, tiny_models, 3), *latents_of(sd15, tiny_models, 3, seed=4)]
        said = [sd15.positive, sd15.negative]
        found = infer(sd15, vae, own, said, guided_latents=own[::-1], guided_conditioning=said[::-1])[0]
        assert found.pictures.prompt.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0]
        with pytest.raises(HapaxError, match="The guided pictures are also of 'prompt 2', of which latents has none"):
            infer(sd15, vae, own[:1], said[:1], guided_latents=own[1:], guided_conditioning=said[1:])
        with pytest.raises(HapaxError, match="There are 1 latents and 0 prompts"):
            infer(sd15, vae, own, said, guided_latents=own[1:])


class TestBadInput:
    @pytest.mark.parametrize(
        ("what", "said"),
        [
            ("no prompt", "No prompt is given"),
            ("one picture", "There is 1 picture; groups need at least two"),
            ("prompts missing", "There are 3 latents and 2 prompts"),
            ("other channels", "The latents have 16 channels, but this model's have 4"),
            ("other sizes", "give pictures of one size"),
            ("not finite", "Some latents are not finite"),
            ("no scorer", "Groups by clip need a CLIP scorer"),
        ],
    )
    def test_is_one_sentence(self, sd15, clip, vae, tiny_models, what, said):
        latents = latents_of(sd15, tiny_models)
        single = [{"samples": latents[0]["samples"][:1]}]
        odd = [*latents, {"samples": torch.zeros(1, 4, 4, 4)}]
        broken = [{"samples": latents[0]["samples"] * torch.nan}]
        acts = {
            "no prompt": lambda: SampleTrainingSet.execute(sd15.model, clip, " \n", **SAMPLING),
            "one picture": lambda: infer(sd15, vae, single),
            "prompts missing": lambda: infer(sd15, vae, single * 3, [sd15.positive] * 2),
            "other channels": lambda: infer(sd15, vae, [{"samples": torch.zeros(2, 16, 8, 8)}]),
            "other sizes": lambda: infer(sd15, vae, odd),
            "not finite": lambda: infer(sd15, vae, broken),
            "no scorer": lambda: infer(sd15, vae, latents, by=CLIP),
        }
        with pytest.raises(HapaxError, match=said):
            acts[what]()


def test_lists_are_declared_as_comfyui_wants_them():
    assert InferBiasGroups.define_schema().is_input_list
    assert InferBiasGroups.define_schema().outputs[1].is_output_list
