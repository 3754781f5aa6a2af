"""Simulated studies: the truth that they state is what they draw. Counted by plain loops."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.organisms.simulated import Simulated, simulated
from interp.organisms.simulated_design import Simulation

SMALL = Simulation(n_sources=3, items_per_source=4, n_layers=2, n_experts=8, n_token_ids=40)
PLANTED = ((0, 3, 5), (0, 1, 2), (1, 7, 0))


def drawn(design: Simulation, seed: int = 0) -> Simulated:
    return simulated(design, rng=np.random.default_rng(seed))


def prompt_usage(study: Simulated, layer: int, expert: int) -> np.ndarray:
    """Share of each prompt's slots, by a loop over its tokens."""
    of_prompt: list[list[float]] = [[] for _ in study.prompts.benchmark]
    rows = zip(study.tokens.prompt_index, study.tokens.expert_indices[:, layer], strict=True)
    for prompt, chosen in rows:
        of_prompt[prompt].append(list(chosen).count(expert) / len(chosen))
    return np.array([np.mean(shares) for shares in of_prompt])


def z_of_effects(study: Simulated) -> np.ndarray:
    """(realised - stated effect) / standard error over prompts, of every layer and expert."""
    benchmark = study.prompts.benchmark
    z = []
    for layer, expert in np.ndindex(study.effect.shape):
        usage = prompt_usage(study, layer, expert)
        sides = usage[benchmark], usage[~benchmark]
        error = sum(side.var(ddof=1) / len(side) for side in sides) ** 0.5
        realised = sides[0].mean() - sides[1].mean()
        z.append((realised - study.effect[layer, expert]) / error)
    return np.array(z)


@pytest.mark.parametrize("delta", [0.1, -0.07, 0.25])
@pytest.mark.parametrize("seed", [1, 2])
def test_realised_effect_is_the_asked_one_within_its_standard_error(
    delta: float, seed: int
) -> None:
    design = replace(SMALL, items_per_source=25, delta=delta, planted=PLANTED, previous_sd=0.5)
    z = z_of_effects(drawn(design, seed))
    assert np.abs(z).max() < 4.5  # of 16, at 1 in 9,000 each if normal
    assert 0.3 < np.mean(z**2) < 2.5


def test_every_token_id_has_the_asked_effect() -> None:
    design = replace(SMALL, items_per_source=60, delta=0.2, planted=((0, 3, 5),), token_sd=2.0)
    study = drawn(design)
    benchmark = study.prompts.benchmark[study.tokens.prompt_index]
    holds = (study.tokens.expert_indices[:, 0] == 3).any(axis=1) / 2
    for token in [token for token, _ in Counter(study.tokens.token_id.tolist()).most_common(8)]:
        a, b = (holds[(study.tokens.token_id == token) & side] for side in (benchmark, ~benchmark))
        error = (a.var() / len(a) + b.var() / len(b)) ** 0.5
        assert abs(a.mean() - b.mean() - 0.2) < 4.5 * error


def test_without_an_effect_the_truth_is_zero_and_no_routing_depends_on_the_planted_cells() -> None:
    none, zero = drawn(SMALL), drawn(replace(SMALL, planted=PLANTED))
    assert not zero.effect.any()
    assert np.array_equal(none.tokens.expert_indices, zero.tokens.expert_indices)


@pytest.mark.parametrize("overlap", [0.1, 0.5, 0.9, 1.0])
def test_overlap_is_as_asked(overlap: float) -> None:
    design = replace(SMALL, items_per_source=40, tokens_per_prompt=400, overlap=overlap)
    study = drawn(design)
    assert np.minimum(*study.vocabulary).sum() == pytest.approx(overlap, abs=1e-9)
    benchmark = study.prompts.benchmark[study.tokens.prompt_index]
    counts = [Counter(study.tokens.token_id[side].tolist()) for side in (benchmark, ~benchmark)]
    shares = [{t: n / c.total() for t, n in c.items()} for c in counts]
    realised = sum(min(share, shares[1].get(token, 0.0)) for token, share in shares[0].items())
    # Multinomial noise of 48,000 tokens a side over 40 ids: 40 * sqrt(1/40 / 48,000) at most.
    assert abs(realised - overlap) < 0.03


def test_the_same_state_gives_the_same_study_and_another_one_does_not() -> None:
    once, again, other = drawn(SMALL, 5), drawn(SMALL, 5), drawn(SMALL, 6)
    assert np.array_equal(once.tokens.expert_indices, again.tokens.expert_indices)
    assert np.array_equal(once.tokens.token_id, again.tokens.token_id)
    assert np.array_equal(once.tokens.logprob, again.tokens.logprob, equal_nan=True)
    assert not np.array_equal(once.tokens.token_id[:100], other.tokens.token_id[:100])


def test_studies_of_one_world_share_vocabulary_and_routers_but_no_prompts() -> None:
    design = replace(SMALL, items_per_source=40, world_seed=9, prompt_sd=0.0, overlap=0.5)
    one, two = drawn(design, 1), drawn(design, 2)
    assert np.array_equal(one.vocabulary, two.vocabulary)
    assert not np.array_equal(one.tokens.token_id[:100], two.tokens.token_id[:100])
    token = int(one.vocabulary.sum(axis=0).argmax())
    usages = [
        np.bincount(study.tokens.expert_indices[study.tokens.token_id == token, 1].ravel())
        for study in (one, two, drawn(replace(design, world_seed=8), 1))
    ]
    shares = [counts[:8] / counts.sum() for counts in usages]
    assert np.abs(shares[0] - shares[1]).max() < 0.05 < np.abs(shares[0] - shares[2]).max()


def test_prompts_are_nested_in_items_in_sources_in_conditions() -> None:
    prompts = drawn(replace(SMALL, prompts_per_item=2)).prompts
    assert len(prompts.benchmark) == 2 * 3 * 4 * 2
    assert len(set(zip(prompts.source, prompts.benchmark, strict=True))) == 6
    assert set(Counter(prompts.item.tolist()).values()) == {2}
    assert len(set(zip(prompts.item, prompts.source, strict=True))) == 24


def test_paired_items_have_prompts_of_both_conditions() -> None:
    prompts = drawn(replace(SMALL, paired=True)).prompts
    sides = [set(prompts.item[side]) for side in (prompts.benchmark, ~prompts.benchmark)]
    assert sides[0] == sides[1]
    assert len(set(prompts.source)) == 3


@pytest.mark.parametrize(
    ("field", "cluster"), [("source_sd", "source"), ("item_sd", "item"), ("prompt_sd", "prompt")]
)
def test_over_dispersion_is_where_it_was_asked_for(field: str, cluster: str) -> None:
    """Variance between clusters of mean usage, over what a level without it would leave."""
    design = replace(SMALL, n_sources=8, prompts_per_item=3, prompt_sd=0.0, token_sd=0.0)
    ratios = []
    for varied in (design, replace(design, **{field: 0.8})):
        study = drawn(varied, 3)
        of = {
            "source": study.prompts.source,
            "item": study.prompts.item,
            "prompt": np.arange(len(study.prompts.item)),
        }[cluster]
        variances = []
        for expert in range(8):
            usage = prompt_usage(study, 0, expert)
            variances.append(np.var([usage[of == one].mean() for one in np.unique(of)]))
        ratios.append(np.mean(variances))
    assert ratios[1] > 4 * ratios[0]


def test_benchmark_sources_differ_more_where_asked() -> None:
    study = drawn(replace(SMALL, n_sources=30, source_sd=0.2, source_sd_ratio=4.0))
    spread = []
    for side in (study.prompts.benchmark, ~study.prompts.benchmark):
        usage = prompt_usage(study, 0, 2)
        spread.append(
            np.std(
                [usage[study.prompts.source == s].mean() for s in set(study.prompts.source[side])]
            )
        )
    assert spread[0] > 1.8 * spread[1]


def test_longer_benchmark_prompts_are_as_much_longer_as_asked() -> None:
    study = drawn(replace(SMALL, items_per_source=50, length_ratio=2.0, length_sd=0.1))
    length = np.bincount(study.tokens.prompt_index)
    sides = length[study.prompts.benchmark].mean(), length[~study.prompts.benchmark].mean()
    assert sides[0] / sides[1] == pytest.approx(2.0, rel=0.05)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    top_k=st.integers(1, 7),
    overlap=st.floats(0.05, 1.0),
    paired=st.booleans(),
)
def test_tokens_are_well_formed(seed: int, top_k: int, overlap: float, paired: bool) -> None:
    design = replace(
        SMALL, top_k=top_k, overlap=overlap, paired=paired, position_sd=0.5, previous_sd=0.5
    )
    tokens = drawn(design, seed).tokens
    later = tokens.previous_token_id[1:], tokens.token_id[:-1]
    assert all(len(set(row)) == top_k for row in tokens.expert_indices[:, 0].tolist())
    first = tokens.position == 0
    assert (tokens.previous_token_id[first] == -1).all()
    assert np.array_equal(later[0][~first[1:]], later[1][~first[1:]])
    assert np.isnan(tokens.logprob[first]).all()
    assert np.isfinite(tokens.logprob[~first]).all()
    assert (np.diff(tokens.prompt_index) >= 0).all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"overlap": 0.0}, "overlap is 0.0; give a share above 0"),
        ({"top_k": 8}, "top_k is 8 of 8 experts"),
        ({"n_sources": 0}, "below 1; give 1 or more"),
        ({"planted": ((2, 0, 1),)}, "planted names layer 2, expert 0"),
        ({"planted": ((0, 0, 1), (0, 1, 2))}, "planted names an expert twice"),
        ({"planted": PLANTED, "delta": 0.3}, "leave room for 0.25"),
    ],
)
def test_what_cannot_be_simulated_is_refused(change: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(SMALL, **change)
