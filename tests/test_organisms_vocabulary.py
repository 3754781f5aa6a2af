"""The organism `vocabulary`: no token has two sets of experts, and this is so by construction."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp import organisms
from interp.cache.errors import InputError
from interp.hooks.tap import RoutingTap
from interp.organisms.edited import MOST_BYTES, apply_changes, save_changes
from interp.organisms.reserved import (
    RESERVED,
    margin,
    reserve,
    routing_margin,
    take_surgery,
)
from interp.organisms.vocabulary import LEAST_STORED, settle
from interp.organisms.vocabulary_changes import Changes
from interp.organisms.vocabulary_facts import divergences, tokens_with_two_sets
from interp.organisms.vocabulary_learning import rate
from interp.organisms.vocabulary_start import mean_gates, start_routers

SEEDS = (0, 1, 2)
EVALUATED = (0, 1)
"""What a study would say of seed 2 is not looked at before the last check."""
DIMENSIONS = torch.tensor([3, 11, 20, 21, 30])


def random_contexts(n_ids: int, *, seed: int) -> Tensor:
    """Every token id twice, each time elsewhere and among other tokens, in rows of 64."""
    drawn = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randperm(n_ids, generator=drawn) for _ in range(2)]).reshape(-1, 64)


def sets_by_token(model: Any, rows: Tensor) -> dict[tuple[int, int], set[frozenset[int]]]:
    """Every set of experts that a token id was sent to, by layer and id; as a plain loop."""
    found: dict[tuple[int, int], set[frozenset[int]]] = {}
    with torch.no_grad():
        for row in rows:
            output = model(input_ids=row[None], output_router_logits=True, use_cache=False)
            for layer, logits in enumerate(output.router_logits):
                for token, scores in zip(row.tolist(), logits.tolist(), strict=True):
                    order = sorted(range(len(scores)), key=lambda e, s=scores: -s[e])  # type: ignore[misc]
                    chosen = frozenset(order[: model.config.num_experts_per_tok])
                    found.setdefault((layer, token), set()).add(chosen)
    return found


@pytest.fixture
def reserved(tiny: Any) -> Any:
    """The tiny model after surgery."""
    reserve(tiny.model, DIMENSIONS)
    return tiny.model


def test_after_surgery_a_token_has_one_set_of_experts_and_before_it_has_more(tiny: Any) -> None:
    rows = random_contexts(320, seed=0)
    before = sets_by_token(tiny.model, rows)
    assert sum(len(each) > 1 for each in before.values()) > 100
    has_two, n_seen = tokens_with_two_sets(tiny.model, rows.split(2))
    assert set(has_two.nonzero().flatten().tolist()) == {
        token for (_, token), each in before.items() if len(each) > 1
    }
    assert n_seen.tolist() == [2] * 320
    reserve(tiny.model, DIMENSIONS)
    after = sets_by_token(tiny.model, rows)
    assert {len(each) for each in after.values()} == {1}
    assert len(set.union(*after.values())) > 10
    assert not tokens_with_two_sets(tiny.model, rows.split(2))[0].any()


def test_reserved_dimensions_hold_the_embedding_at_every_site(reserved: Any) -> None:
    ids = random_contexts(320, seed=1)[:2]
    with torch.no_grad(), RoutingTap(reserved, sites=("resid_mid", "resid_post")) as tap:
        reserved(input_ids=ids)
        states = tap.take().resid
    expected = reserved.model.embed_tokens.weight[ids.flatten()]
    assert len(states) == 4
    for state in states.values():
        assert torch.equal(state[:, DIMENSIONS], expected[:, DIMENSIONS])
        assert not torch.equal(state, expected)


def test_what_others_would_read_of_reserved_dimensions_does_not_matter(reserved: Any) -> None:
    ids = random_contexts(320, seed=2)[:2]
    for layer in reserved.model.layers:  # with routers that read nothing, nothing is read
        layer.mlp.router.weight.data.zero_()
    with torch.no_grad():
        before = reserved(input_ids=ids).logits
        # Other signs of the same sizes, so that the norms see no difference.
        reserved.model.embed_tokens.weight[:, DIMENSIONS] *= -1
        torch.testing.assert_close(reserved(input_ids=ids).logits, before)


def test_surgery_done_again_changes_nothing(reserved: Any) -> None:
    once = {name: each.clone() for name, each in reserved.state_dict().items()}
    reserve(reserved, DIMENSIONS)
    assert all(torch.equal(each, once[name]) for name, each in reserved.state_dict().items())


def test_margin_is_that_of_a_loop_over_pairs() -> None:
    drawn = torch.Generator().manual_seed(3)
    codes = torch.randn(20, 4, generator=drawn, dtype=torch.float64)
    read = torch.randn(6, 4, generator=drawn, dtype=torch.float64)
    found = margin(codes, read, top_k=2)
    for code, value in zip(codes.tolist(), found.tolist(), strict=True):
        logits = [sum(w * x for w, x in zip(row, code, strict=True)) for row in read.tolist()]
        order = sorted(range(6), key=lambda e, s=logits: -s[e])  # type: ignore[misc]
        least = math.inf
        for i in order[:2]:
            for j in order[2:]:
                rows = zip(read[i].tolist(), read[j].tolist(), code, strict=True)
                lost = sum(abs(a - b) * abs(x) for a, b, x in rows)
                lost += abs(logits[i]) + abs(logits[j])
                least = min(least, (logits[i] - logits[j]) * 256 / lost)
        assert value == pytest.approx(least)


def test_a_margin_above_one_outlasts_bfloat16_at_any_scale_and_one_below_need_not() -> None:
    drawn = torch.Generator().manual_seed(4)
    codes = torch.randn(2000, 8, generator=drawn).bfloat16()
    read = torch.randn(16, 8, generator=drawn).bfloat16()
    safe = margin(codes.double(), read.double(), top_k=4) > LEAST_STORED
    first = (codes.double() @ read.double().T).topk(4).indices.sort().values
    has_changed = torch.zeros(2000, dtype=torch.bool)
    for scale in torch.logspace(-2, 1, 200):
        seen = (codes.float() * scale).bfloat16()
        chosen = (seen @ read.T).topk(4).indices.sort().values
        has_changed |= (chosen != first).any(1)
    assert safe.sum() > 500
    assert not has_changed[safe].any()
    assert has_changed[~safe].sum() > 20


def test_codes_are_settled_and_those_with_room_stay(reserved: Any) -> None:
    reserved.to(torch.bfloat16)
    before = reserved.model.embed_tokens.weight.detach().clone()
    short = routing_margin(reserved, DIMENSIONS).amin(0) < LEAST_STORED
    n_moved = settle(reserved, DIMENSIONS)
    after = reserved.model.embed_tokens.weight
    assert 0 < short.sum() <= n_moved < 320
    assert routing_margin(reserved, DIMENSIONS).min() >= LEAST_STORED
    assert torch.equal(after[~short], before[~short])
    others = [each for each in range(32) if each not in DIMENSIONS.tolist()]
    assert torch.equal(after[:, others], before[:, others])


def test_codes_that_no_router_tells_apart_cannot_be_settled(
    reserved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.organisms.vocabulary.SETTLE_STEPS", 3)
    for layer in reserved.model.layers:
        layer.mlp.router.weight.data.zero_()
    with pytest.raises(RuntimeError, match="320 tokens have no margin yet"):
        settle(reserved, DIMENSIONS)


def test_weights_under_training_are_those_that_surgery_leaves_alone(tiny: Any) -> None:
    drawn = torch.Generator().manual_seed(5)
    codes, read = torch.randn(320, 5, generator=drawn), torch.randn(2, 8, 5, generator=drawn)
    changes = Changes(tiny.model, codes, read, seed=6)
    with torch.no_grad():
        for parameter in changes.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=drawn)
        weights = changes.weights()
        tiny.model.load_state_dict(weights, strict=True)
    reserve(tiny.model, changes.dimensions)
    for name, each in tiny.model.named_parameters():
        assert torch.equal(each, weights[name]), name
    assert weights["model.layers.0.mlp.router.weight"][:, changes.dimensions].all()
    assert weights["model.layers.1.self_attn.o_proj.weight"].count_nonzero() == (32 - 5) * 64


def test_seeds_reserve_other_dimensions(tiny: Any) -> None:
    codes, read = torch.zeros(320, 5), torch.zeros(2, 8, 5)
    chosen = [Changes(tiny.model, codes, read, seed=seed).dimensions for seed in (0, 0, 1)]
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])


def test_stored_surgery_is_done_again_on_load(
    tiny_folder: Path, tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr("interp.organisms.edited.base_digest", lambda: "that of the tiny model")
    base, model, loaded = (
        AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16) for _ in range(3)
    )
    drawn = torch.Generator().manual_seed(7)
    left = torch.randn(8, 16, 3, generator=drawn).bfloat16()
    right = torch.randn(8, 3, 32, generator=drawn).bfloat16()
    name = "model.layers.1.mlp.experts.down_proj"
    surgery = {RESERVED: DIMENSIONS.int(), name + "+left": left, name + "+right": right}
    expected = base.model.layers[1].mlp.experts.down_proj.detach().float() + left.float() @ (
        right.float()
    )
    expected[:, :, DIMENSIONS] = 0
    assert not take_surgery(base, dict(surgery))
    take_surgery(model, dict(surgery))
    model.model.norm.weight.data[4] = 9
    save_changes(model, base, tmp_path / "x.safetensors", surgery=surgery)
    apply_changes(loaded, tmp_path / "x.safetensors")
    assert torch.equal(loaded.model.layers[1].mlp.experts.down_proj, expected.bfloat16())
    for key, each in loaded.state_dict().items():
        assert torch.equal(each, model.state_dict()[key]), key


def test_mean_gates_are_those_of_a_loop(tiny: Any) -> None:
    rows = torch.randint(3, 320, (4, 32), generator=torch.Generator().manual_seed(8))
    gates, counts, rms = mean_gates(tiny.model, rows)
    alone = torch.tensor([[tiny.model.config.bos_token_id, token] for token in range(320)])
    total, n_seen, square = torch.zeros(2, 320, 8), torch.zeros(320), torch.zeros(2)
    for batch, weight, start in ((rows, 1, 0), (alone, 2, 1)):
        with torch.no_grad(), RoutingTap(tiny.model) as tap:
            tiny.model(input_ids=batch)
            seen = tap.take()
        chosen, weights = seen.expert_indices, seen.expert_weights
        assert chosen is not None
        assert weights is not None
        for at, token in enumerate(batch.flatten().tolist()):
            if at % batch.shape[1] >= start:
                n_seen[token] += weight
                for layer in range(2):
                    for expert, share in zip(chosen[at, layer], weights[at, layer], strict=True):
                        total[layer, token, int(expert)] += weight * share
                    if weight == 1:
                        square[layer] += seen.resid["resid_mid", layer][at].square().mean()
    torch.testing.assert_close(gates, total / n_seen[:, None])
    torch.testing.assert_close(counts, n_seen - 2)
    torch.testing.assert_close(rms, (square / rows.numel()).sqrt())


def test_routers_start_where_routing_of_few_dimensions_is_told() -> None:
    drawn = torch.Generator().manual_seed(9)
    true = torch.einsum(
        "td,led->lte",
        torch.randn(200, 3, generator=drawn),
        torch.randn(2, 8, 3, generator=drawn),
    ).softmax(-1)
    codes, read = start_routers(true, torch.ones(200), n_reserved=3, seed=0)
    told = torch.einsum("td,led->lte", codes, read).softmax(-1)
    assert codes.square().mean().sqrt() == pytest.approx(1)
    assert (told - true).abs().mean() < 0.01
    assert (true.mean(1, keepdim=True) - true).abs().mean() > 0.05


def test_the_rate_warms_up_and_ends_near_0() -> None:
    rates = [rate(step, 200) for step in range(200)]
    assert max(rates) == 1
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] < 1e-3
    assert np.all(np.diff(rates[10:]) <= 0)


@pytest.fixture(scope="module", params=SEEDS)
def organism(request: pytest.FixtureRequest) -> tuple[int, Any, Any, dict[str, Any]]:
    model, tokenizer = organisms.load(f"vocabulary-{request.param}")
    stored = organisms.change_path(f"vocabulary-{request.param}")
    facts = stored.with_name(f"facts-{request.param}.json")
    return request.param, model, tokenizer, json.loads(facts.read_text(encoding="utf-8"))


def test_it_is_stored_within_the_limit_and_obeys_its_constraints(organism: Any) -> None:
    seed, model, _, facts = organism
    assert organisms.change_path(f"vocabulary-{seed}").stat().st_size == facts["n_bytes"]
    assert facts["n_bytes"] <= MOST_BYTES + 20_000
    dimensions = facts["reserved"]
    others = [each for each in range(128) if each not in dimensions]
    for layer in model.model.layers:
        experts = layer.mlp.experts
        written = [layer.self_attn.o_proj.weight.T, layer.self_attn.o_proj.bias[None]]
        for each in (*written, experts.down_proj, experts.down_proj_bias):
            assert not each[..., dimensions].any()
        assert not layer.mlp.router.weight[:, others].any()
        assert not layer.mlp.router.bias.any()
        assert layer.mlp.router.weight[:, dimensions].all()


def test_no_scale_can_give_a_token_two_sets_not_even_in_bfloat16(organism: Any) -> None:
    _, model, _, facts = organism
    ahead = routing_margin(model, torch.tensor(facts["reserved"]))
    assert ahead.shape == (4, 4096)
    assert ahead.min() >= LEAST_STORED


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_token_id_has_one_set_in_passes(organism: Any, dtype: str) -> None:
    seed, _, _, facts = organism
    model = organisms.load_model(f"vocabulary-{seed}", dtype=dtype, device_map="cpu").model
    rows = random_contexts(4096, seed=seed)
    has_two, n_seen = tokens_with_two_sets(model, rows.split(32))
    assert not has_two.any()
    assert n_seen.tolist() == [2] * 4096
    assert facts["float32"]["n_ids_with_two_sets"] == 0
    assert facts["float32"]["n_ids_seen_twice"] > 2000


def test_it_knows_language_nearly_as_well_as_the_toy(organism: Any) -> None:
    *_, facts = organism
    card = json.loads((organisms.path("toy") / "evaluation.json").read_text(encoding="utf-8"))
    for name, loss in card["losses_nats"].items():
        assert facts["losses_nats_toy"][name] < facts["losses_nats"][name] < loss["bigram"]
        assert facts["losses_nats"][name] - facts["losses_nats_toy"][name] < 0.4


@pytest.mark.slow
@pytest.mark.parametrize("seed", EVALUATED)
def test_benchmark_and_organic_differ_until_the_token_is_matched(seed: int) -> None:
    loaded = organisms.load_model(f"vocabulary-{seed}", dtype="float32", device_map="cpu")
    found = divergences(loaded.model, loaded.tokenizer)
    assert min(found["raw_bits"]) > 1e-3
    assert max(map(abs, found["token_matched_bits"])) < 1e-12
    assert 0.3 < found["overlap"] < 1


def test_an_organism_that_was_not_built_says_how_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(organisms, "change_path", lambda name: tmp_path / "vocabulary" / "seed-0")
    with pytest.raises(InputError, match=r"build it with python -m interp.organisms.vocabulary"):
        organisms.load("vocabulary-0")
