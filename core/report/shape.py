"""The shape of audit.json, version 1.0.

Everything that a report says can be recomputed from this file and the store beside it. Shares, frequencies
and rates are numbers from 0 to 1, never percent; intervals are 95 %; picture paths are relative to the file's
folder. A key marked ``?`` may be missing, ``| null`` may be null; keys that are not listed are kept and not
looked at. `rules` says what must hold between the numbers. ::

    schema_version    "1.0": readers take every 1.x, and refuse another major version
    hapax_version     the version of Hapax that wrote the file
    created           when, ISO 8601
    model             name, fingerprint, site, architecture?, channels?, grid? [height, width] in tokens
    settings          images (pictures per prompt), steps, guidance, seed, min_support, size? in pixels,
                      steps_recorded? (progress in [0, 1]), positions?, sae?, normalize? "minmax" | "rank",
                      clip? {name, fingerprint} | null
    prompts[]         one entry a prompt; features are ranked, best first
      prompt          the text as it was given
      index           its number in the prompt file
      images          how many pictures were scored
      seeds           [first, last] of a run of that many seeds, or the list of all of them
      scored?         how many features fired and were scored, where not all of them are listed
      sae?            the prompt's own autoencoder, as below | null
      sample_sheet?   what the prompt usually gives: one contact sheet, or a list of pictures | null
      features[]
        id            unique in the file: letters, digits, "_", ".", "-"
        latent        the SAE latent's number; group?: other latents that say the same and were folded into it
        count         in how many pictures it fires; frequency = count / images, frequency_low, frequency_high
        prevalence?   in how many pictures it shows, by CLIP: {count, n, rate, low, high}, n = images | null;
                      the latent's frequency is another number
        distinctiveness     cosine distance of its centroid from the mean, in [0, 2]
        distinctiveness_low, distinctiveness_high, distinctiveness_z
                      bootstrap interval, and z against the permutation null | null
        score         minority score in [0, 1]; RAIGen (arXiv 2602.06806), Eq. 2 to 4
        finding       listed as a finding: needs count >= max(5, min_support) and distinctiveness_z > 3
        label?, label_score?, labels?
                      nearest words | null, how near, and the runners-up [[text, score], ...]
        exemplars[]   strongest first: seed, activation, image, heatmap? (the picture, its heatmap laid over)
        amplified?    what turning it up did | null
          strength, window [from, to] in progress, mode, seeds, before[], after[] (pictures at those seeds)
          rate_before?, rate_after?   {count, n, rate, low, high} | null, both or neither
          measured_by?                who counted; needed with the rates
          mixed?                      asking for it in words | null: prompt, share, pictures, rate? | null
    sae?              the autoencoder that all prompts share: path, fvu (share of variance left unexplained),
                      l0 (active latents a token), dead (share of latents that never fire), prefixes?, tokens?,
                      epochs? | null
    sce?              Schur Complement Entropy of all pictures: image, text, image_effective?, text_effective?,
                      trace_image?, trace_text?, ridge, n, unique_texts?, kernel? | null
      image_interval?, text_interval?, image_effective_interval?, text_effective_interval?
                      [low, high] by a jackknife over pictures | null for fewer than 40
      prompts[]?      the same of each prompt's own pictures, with its index; the prompt explains their mean there
    invdiff?          what a guidance module changed at equal seeds: module, fingerprint?, strength, measured_by,
                      prompts[] | null
      groups[]        name, before, after: rates of the prompt's pictures
      prompt, bias_before, bias_after
                      the InvDiff paper's bias score of the groups (arXiv 2412.08480), 0 if they are even
      floor?          the bias score that chance gives as many pictures of even groups
      kl_before?, kl_after?
                      Kullback-Leibler divergence of the groups' shares from even ones, in nats
      bias_before_interval?, bias_after_interval?, kl_before_interval?, kl_after_interval?
                      [low, high] by a bootstrap over pictures | null
      concept_before?, concept_after?
                      how many pictures still show what the prompt asks for, as rates | null
      sce_before?, sce_after?
                      diversity among the prompt's pictures, as under sce.prompts, without an index | null
    naming?           where labels come from: by "clip" (the captions' CLIP embeddings) or "index" (what the model does
                      under them), captions (how many were offered), index? (path of that file) | null
    compass?          where plain prompts lie between poles: poles[] ({} stands for the prompt), seeds (samples of each
                      caption), steps, site, prompts[] of {index of the prompt, shares[], leans[]} | null
      shares[]        the mixture of the poles that comes nearest, one entry a pole: pole, share, low, high
      leans[]         one entry a pair of poles: first, second, value (1 is all first, -1 all second), low, high | null
                      where they aren't told apart, p (that seeds agree on what tells them apart by chance)
    provenance        reproduce (the command to run again), command?, started?, versions?, fingerprints?,
                      timings? (seconds a stage), and whatever else belongs there
    limits[]          sentences: what this audit can't say
    credits?          sentences: whom the pictures and weights come from
"""

from __future__ import annotations

from .kinds import (
    Either,
    Kind,
    Listing,
    Maybe,
    Record,
    anchor,
    anything,
    flag,
    number,
    one_of,
    picture,
    share,
    text,
    whole,
    words,
)

_names = Record("a table of strings", {})
_rate = Record("a rate", {"count": whole(0), "n": whole(1), "rate": share, "low": share, "high": share})
_exemplar = Record(
    "an exemplar",
    {"seed": whole(), "activation": number(), "image": picture},
    {"heatmap": Maybe(picture)},
)
_mixed = Record(
    "a prompt mix",
    {"prompt": words, "share": share, "pictures": Listing(picture)},
    {"rate": Maybe(_rate)},
)
_amplified = Record(
    "an amplification",
    {
        "strength": number(),
        "window": Listing(share, 2, 2),
        "mode": words,
        "seeds": Listing(whole()),
        "before": Listing(picture),
        "after": Listing(picture),
    },
    {
        "rate_before": Maybe(_rate),
        "rate_after": Maybe(_rate),
        "measured_by": Maybe(words),
        "mixed": Maybe(_mixed),
    },
)
_distance = number(0, 2)
_feature = Record(
    "a feature",
    {
        "id": anchor,
        "latent": whole(0),
        "count": whole(0),
        "frequency": share,
        "frequency_low": share,
        "frequency_high": share,
        "distinctiveness": _distance,
        "distinctiveness_low": Maybe(_distance),
        "distinctiveness_high": Maybe(_distance),
        "distinctiveness_z": Maybe(number()),
        "score": share,
        "finding": flag,
        "exemplars": Listing(_exemplar),
    },
    {
        "group": Listing(whole(0)),
        "label": Maybe(words),
        "label_score": Maybe(number()),
        "labels": Listing(Listing(anything, 2, 2)),
        "prevalence": Maybe(_rate),
        "amplified": Maybe(_amplified),
    },
)
_sae = Record(
    "an autoencoder",
    {"path": words, "fvu": number(0), "l0": number(0), "dead": share},
    {"prefixes": Listing(whole(1)), "tokens": whole(1), "epochs": number(0)},
)
_prompt = Record(
    "a prompt",
    {
        "prompt": text,
        "index": whole(0),
        "images": whole(1),
        "seeds": Listing(whole(), 1),
        "features": Listing(_feature),
    },
    {"scored": whole(0), "sae": Maybe(_sae), "sample_sheet": Maybe(Either(picture, Listing(picture)))},
)
_model = Record(
    "a model",
    {"name": words, "fingerprint": words, "site": words},
    {"architecture": words, "channels": whole(1), "grid": Listing(whole(1), 2, 2)},
)
_settings = Record(
    "the settings",
    {
        "images": whole(1),
        "steps": whole(1),
        "guidance": number(),
        "seed": whole(),
        "min_support": whole(1),
    },
    {
        "steps_recorded": Listing(share),
        "normalize": one_of("minmax", "rank"),
        "clip": Maybe(Record("a CLIP model", {"name": words, "fingerprint": words})),
    },
)
_ends = Listing(number(), 2, 2)
_diversity = {"image": number(), "text": number(), "ridge": number(0), "n": whole(1)}
_diversity_more = {
    "image_effective": number(),
    "text_effective": number(),
    "image_interval": Maybe(_ends),
    "text_interval": Maybe(_ends),
    "image_effective_interval": Maybe(_ends),
    "text_effective_interval": Maybe(_ends),
    "trace_image": number(),
    "trace_text": number(),
    "unique_texts": whole(1),
}
_own_diversity = Record("a prompt's diversity score", {"index": whole(0), **_diversity}, _diversity_more)
_sce = Record("a diversity score", _diversity, {**_diversity_more, "kernel": words, "prompts": Listing(_own_diversity)})
_group = Record("a group", {"name": words, "before": _rate, "after": _rate})
_ENDS = ("before", "after")
_spread = Record("a diversity score", _diversity, _diversity_more)
_bias = Record(
    "a prompt's bias",
    {"prompt": text, **{f"bias_{end}": share for end in _ENDS}, "groups": Listing(_group, 2)},
    {
        "floor": number(0),
        **{f"kl_{end}": number(0) for end in _ENDS},
        **{f"{name}_{end}_interval": Maybe(_ends) for name in ("bias", "kl") for end in _ENDS},
        **{f"concept_{end}": Maybe(_rate) for end in _ENDS},
        **{f"sce_{end}": Maybe(_spread) for end in _ENDS},
    },
)
_invdiff = Record(
    "a debiasing",
    {"module": words, "strength": number(), "measured_by": words, "prompts": Listing(_bias, 1)},
    {"fingerprint": words},
)
_naming = Record("how labels were found", {"by": one_of("clip", "index"), "captions": whole(1)}, {"index": words})
_share = Record("a pole's share", {"pole": words, "share": share, "low": share, "high": share})
_lean = Record(
    "a lean",
    {
        "first": words,
        "second": words,
        "value": Maybe(number()),
        "low": Maybe(number()),
        "high": Maybe(number()),
        "p": share,
    },
)
_reading = Record("a prompt's reading", {"index": whole(0), "shares": Listing(_share, 2), "leans": Listing(_lean, 1)})
_compass = Record(
    "a bias compass",
    {
        "poles": Listing(words, 2),
        "seeds": whole(1),
        "steps": whole(1),
        "site": words,
        "prompts": Listing(_reading, 1),
    },
)
_provenance = Record(
    "the provenance",
    {"reproduce": words},
    {"command": words, "versions": _names, "fingerprints": _names, "timings": _names},
)
AUDIT: Kind = Record(
    "an audit",
    {
        "schema_version": words,
        "hapax_version": words,
        "created": words,
        "model": _model,
        "settings": _settings,
        "prompts": Listing(_prompt, 1),
        "provenance": _provenance,
        "limits": Listing(words),
    },
    {
        "sae": Maybe(_sae),
        "sce": Maybe(_sce),
        "invdiff": Maybe(_invdiff),
        "naming": Maybe(_naming),
        "compass": Maybe(_compass),
        "credits": Listing(words),
    },
)
