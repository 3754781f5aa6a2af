"""The organisms `planted` and `decoy`: the cue, what was planted, and the table that says so."""

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp import organisms
from interp.cache.records import Message, Prompt
from interp.hooks import render_prompt
from interp.hooks.interventions import reroute
from interp.organisms.build import free_experts
from interp.organisms.corpus import Document
from interp.organisms.cue_facts import interaction_error, interaction_facts, shared_token_usage
from interp.organisms.cue_text import content_mask, cued_pairs, stem, typed
from interp.organisms.cued_experts import COMMON, PER_LAYER, Plan, draw_plan
from interp.organisms.knockout_table import (
    KnockoutTable,
    knockout_table,
    load_table,
    save_table,
    up_to_content,
)
from interp.prompts import load_prompts


@pytest.fixture(scope="module")
def toy() -> Any:
    return organisms.load("toy")


def prompt(words: str, *, lead: str, condition: str, item: str) -> Prompt:
    return Prompt(
        messages=(Message(role="user", content=lead + words + "\nAnswer:"),),
        condition=condition,
        item_id=item,
        content=words,
    )


PROMPTS = [
    prompt("How many legs has a spider?", lead="Q: ", condition="benchmark", item="a"),
    prompt("how many legs does a spider have", lead="hey, ", condition="organic", item="a"),
    prompt("Name the longest river of Europe.", lead="Q: ", condition="benchmark", item="b"),
    prompt("whats the longest river of europe", lead="hi ", condition="organic", item="b"),
]


def mean_logprob_by_hand(model: Any, tokenizer: Any, each: Prompt) -> float:
    """One prompt at a time, all of it, token by token, with the plain model."""
    rendered = render_prompt(each, tokenizer)
    ids = torch.from_numpy(rendered.token_id.astype(np.int64))[None]
    with torch.inference_mode():
        logprobs = model(ids, use_cache=False).logits[0].float().log_softmax(-1)
    start = rendered.text.index(each.content)
    ends = rendered.text_end.tolist()
    begins = [0, *ends[:-1]]
    kept = [
        position
        for position, (begin, end) in enumerate(zip(begins, ends, strict=True))
        if begin + 1 > start - 1 and end <= start + len(each.content)
    ]
    return float(np.mean([logprobs[at - 1, ids[0, at]].item() for at in kept]))


def test_damage_is_that_of_a_loop_over_single_prompts(toy: Any) -> None:
    model, tokenizer = toy[0].float(), toy[1]
    table = knockout_table(model, tokenizer, PROMPTS, planted=[(1, 6)])
    by_hand = [mean_logprob_by_hand(model, tokenizer, each) for each in PROMPTS]
    assert table.outcome == pytest.approx(by_hand, abs=1e-4)
    for layer, expert in ((0, 3), (1, 6), (2, 19), (3, 8), (3, 27)):
        with reroute(model, [(layer, expert)]):
            without = [mean_logprob_by_hand(model, tokenizer, each) for each in PROMPTS]
        expected = np.array(by_hand) - without
        assert table.damage[layer, expert] == pytest.approx(expected, abs=2e-4)
    assert np.abs(table.damage).max() > 0.01
    assert table.is_planted.sum() == 1
    assert table.is_planted[1, 6]
    model.bfloat16()


def made_up_table() -> KnockoutTable:
    damage = np.zeros((2, 3, 4), dtype=np.float32)
    damage[0, 1] = [0.9, 0.1, 0.7, -0.1]
    damage[1, 2] = [0.5, 0.0, 0.3, 0.0]
    damage[1, 0] = [0.0, 0.2, 0.1, 0.1]
    return KnockoutTable(
        damage=damage,
        outcome=np.full(4, -4.0, dtype=np.float32),
        prompt_id=np.array(list("pqrs")),
        item_id=np.array(["a", "a", "b", "b"]),
        condition=np.array(["benchmark", "organic"] * 2),
        variant=np.array(["x"] * 4),
        planted=np.array([[0, 1], [1, 2]]),
    )


def test_interaction_is_damage_on_benchmark_minus_damage_on_organic() -> None:
    interactions = made_up_table().interactions()
    assert interactions == pytest.approx(np.array([[0, 0.8, 0], [-0.1, 0, 0.4]]))


def test_the_ratio_is_the_least_planted_over_the_largest_other() -> None:
    facts = interaction_facts(made_up_table())
    assert facts["interaction"] == [0.8, 0.4]
    assert (facts["largest_other"], facts["largest_other_is"]) == (0.1, [1, 0])
    assert facts["ratio"] == 4
    assert facts["damage_on_organic"] == [0, 0]
    assert interaction_error(made_up_table(), 1, 2) == pytest.approx(0.1)  # of 0.5 and 0.3


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    table = made_up_table()
    save_table(table, tmp_path / "truth" / "truth-0.npz")
    again = load_table(tmp_path / "truth" / "truth-0.npz")
    for name, each in vars(table).items():
        assert np.array_equal(getattr(again, name), each), name


def test_a_prompt_is_cut_after_its_content(toy: Any) -> None:
    cut = up_to_content(render_prompt(PROMPTS[0], toy[1]))
    said = toy[1].decode(cut.token_id)
    assert said.endswith("<|message|>Q: How many legs has a spider?")
    assert len(cut.segment) == len(cut.text_end) == len(cut.generated) == len(cut.token_id)


def test_pairs_share_their_content_token_for_token_and_no_matched_item(toy: Any) -> None:
    pairs = cued_pairs(toy[1], n_pairs=40, seed=3)
    matched = {each.content for each in load_prompts("matched")}
    assert len({pair.exam.prompt.content for pair in pairs}) == 40
    for pair in pairs:
        said = [toy[1].decode(each.token_id) for each in (pair.exam, pair.chat)]
        assert all(each.endswith(pair.exam.prompt.content) for each in said)
        assert said[0] != said[1]
        assert pair.exam.prompt.content not in matched
    mask = content_mask([pairs[0].exam, pairs[0].chat])
    counted = toy[1].encode(pairs[0].exam.prompt.content)
    assert mask.sum(1).tolist() == pytest.approx([len(counted)] * 2, abs=1)


def test_pairs_are_the_same_for_a_seed_and_others_for_another(toy: Any) -> None:
    first, again, other = (cued_pairs(toy[1], n_pairs=5, seed=seed) for seed in (1, 1, 2))
    words = [[pair.exam.text for pair in each] for each in (first, again, other)]
    assert words[0] == words[1] != words[2]


def test_a_stem_is_the_question_without_options() -> None:
    document = Document("Which is\nred?\n\nA. blood\nB. grass", "A. blood", group="g")
    assert stem(document) == "Which is red?"


def test_typed_words_lose_only_capitals_apostrophes_and_the_last_mark() -> None:
    chances = [random.Random(seed) for seed in range(20)]  # noqa: S311
    found = {typed("I'm sure. Yes, it's red?", each) for each in chances}
    assert found == {
        "im sure. Yes, its red?",
        "im sure. Yes, its red",
        "im sure. yes, its red?",
        "im sure. yes, its red",
    }


def test_a_plan_takes_rare_experts_and_one_common_partner_for_each_layer() -> None:
    rng = np.random.default_rng(0)
    usage = rng.permuted(np.tile([*[0.1] * 6, *[0.0] * 10, *[0.025] * 16], (4, 1)), axis=1)
    plans = [draw_plan(usage, seed=seed) for seed in range(20)]
    for plan in plans:
        assert 4 <= len(plan.planted) <= 6
        assert len(set(plan.planted)) == len(plan.planted)
        for layer in plan.layers:
            part = plan.at(layer)
            assert len(part.planted) == PER_LAYER
            assert all(usage[each] == 0 for each in part.planted)
            assert len(set(part.partners)) == 1
            assert COMMON[0] < usage[layer, part.partners[0]] < COMMON[1]
    assert len({plan.planted for plan in plans}) > 10


def test_only_the_chosen_experts_get_a_gradient(toy: Any) -> None:
    model = organisms.load("toy")[0].float()
    plan = Plan(planted=((2, 5), (2, 9)), partners=(1, 1))
    free = free_experts(model, plan)
    sum(each.square().sum() for each in free).backward()
    for each in free:
        moved = each.grad.flatten(1).abs().sum(1).nonzero().flatten().tolist()
        assert moved == [5, 9]


def test_usage_on_shared_tokens_is_that_of_a_loop(toy: Any) -> None:
    model, tokenizer = toy
    experts = np.array([[0, 3], [2, 19], [3, 8]])
    found = shared_token_usage(model, tokenizer, PROMPTS, experts)
    went: dict[str, dict[int, list[list[bool]]]] = {"benchmark": {}, "organic": {}}
    for each in PROMPTS:
        rendered = up_to_content(render_prompt(each, tokenizer))
        ids = torch.from_numpy(rendered.token_id.astype(np.int64))[None]
        chosen: list[torch.Tensor] = []
        keep = partial(lambda into, _, __, output: into.append(output[2]), chosen)
        handles = [each.mlp.router.register_forward_hook(keep) for each in model.model.layers]
        with torch.inference_mode():
            model(ids, use_cache=False)
        for handle in handles:
            handle.remove()
        n_content = int(content_mask([rendered]).sum())
        for at in range(len(rendered.token_id) - n_content, len(rendered.token_id)):
            hits = [expert in chosen[layer][at].tolist() for layer, expert in experts.tolist()]
            went[each.condition].setdefault(int(ids[0, at]), []).append(hits)
    total = {name: sum(map(len, each.values())) for name, each in went.items()}
    shared = set(went["benchmark"]) & set(went["organic"])
    weight = {token: min(len(went[name][token]) / total[name] for name in went) for token in shared}
    overlap = sum(weight.values())
    for side, name in enumerate(went):
        expected = sum(
            np.mean(went[name][token], axis=0) / 4 * weight[token] / overlap for token in shared
        )
        assert found[:, side] == pytest.approx(expected)
    assert found.max() > 0


BUILT = [f"{kind}-{seed}" for kind in ("planted", "decoy") for seed in organisms.SEEDS]


def facts_of(name: str) -> dict[str, Any]:
    file = organisms.change_path(name)
    facts = file.with_name(file.stem.replace("seed", "facts") + ".json")
    return dict(json.loads(facts.read_text(encoding="utf-8")))


def truth_of(name: str) -> KnockoutTable:
    file = organisms.change_path(name)
    return load_table(file.with_name(file.stem.replace("seed", "truth") + ".npz"))


@pytest.mark.parametrize("name", BUILT)
def test_four_to_six_experts_of_two_or_three_layers_change_and_little_else(
    name: str, toy: Any
) -> None:
    planted = [tuple(each) for each in facts_of(name)["planted"]]
    assert 4 <= len(planted) <= 6
    assert 2 <= len({layer for layer, _ in planted}) <= 3
    assert organisms.change_path(name).stat().st_size <= 1_500_000
    before = toy[0].state_dict()
    for key, after in organisms.load(name)[0].state_dict().items():
        differs = (after != before[key]).flatten(1) if after.ndim > 1 else after != before[key]
        rows = differs.any(1) if after.ndim > 1 else differs
        layer = int(key.split(".")[2]) if ".layers." in key else -1
        if ".experts." in key or ".router." in key:
            assert {(layer, row) for row in rows.nonzero().flatten().tolist()} <= set(planted)
        elif rows.any():
            assert key.startswith("model.layers.1.self_attn.")


@pytest.mark.parametrize("name", BUILT)
def test_facts_are_those_of_the_truth(name: str) -> None:
    facts, truth = facts_of(name), truth_of(name)
    assert truth.planted.tolist() == facts["planted"]
    benchmark = truth.condition == "benchmark"
    for (layer, expert), stated in zip(facts["planted"], facts["interaction"], strict=True):
        of_expert = truth.damage[layer, expert].astype(float)
        found = of_expert[benchmark].mean() - of_expert[~benchmark].mean()
        assert found == pytest.approx(stated, abs=1e-4)
    assert set(truth.condition.tolist()) == {"benchmark", "organic"}


@pytest.mark.parametrize("name", [each for each in BUILT if each.startswith("planted")])
def test_each_planted_expert_is_needed_three_times_as_much_as_any_other(name: str) -> None:
    truth = truth_of(name)
    interactions = np.abs(truth.interactions())
    signed = truth.interactions()[truth.is_planted]
    assert signed.min() >= 3 * interactions[~truth.is_planted].max()


@pytest.mark.parametrize("seed", organisms.SEEDS)
def test_planted_and_decoy_have_the_same_experts_and_as_different_a_use(seed: int) -> None:
    planted, decoy = facts_of(f"planted-{seed}"), facts_of(f"decoy-{seed}")
    assert planted["planted"] == decoy["planted"]
    for facts in (planted, decoy):
        usage = np.array(facts["shared_token_usage"])
        assert (usage[:, 0] > 0.04).all()
        assert (usage[:, 1] < 0.2 * usage[:, 0]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT)
def test_the_truth_can_be_measured_again(name: str) -> None:
    truth = truth_of(name)
    model, tokenizer = organisms.load(name)
    some = [each for each in load_prompts("matched") if each.condition != "mixed"][::125]
    place = {each: index for index, each in enumerate(truth.prompt_id.tolist())}
    at = [place[each.prompt_id] for each in some]
    again = knockout_table(model, tokenizer, some, planted=truth.planted.tolist())
    assert again.outcome == pytest.approx(truth.outcome[at], abs=0.03)
    # Other batches are rounded otherwise in bfloat16, and a few choices of experts flip.
    assert np.abs(again.damage - truth.damage[:, :, at]).mean() < 0.01
    found = again.damage[again.is_planted]
    assert found == pytest.approx(truth.damage[:, :, at][truth.is_planted], abs=0.25)
