"""Conditions by lot know no words; untrained models are drawn from a seed and have no changes."""

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

from interp import organisms
from interp.cache.errors import InputError
from interp.cache.records import Prompt
from interp.organisms.null import null_labels
from interp.organisms.untrained import load_untrained_model
from interp.prompts import load_prompts

MATCHED = load_prompts("matched")
DESIGNS = ("between", "within")


def fields_but_condition(prompt: Prompt) -> dict[str, object]:
    return {name: value for name, value in vars(prompt).items() if name != "condition"}


@pytest.mark.parametrize("design", DESIGNS)
def test_nothing_but_the_condition_changes(design: str) -> None:
    drawn = null_labels(MATCHED, np.random.default_rng(0), design=design)
    assert [fields_but_condition(each) for each in drawn] == [
        fields_but_condition(each) for each in MATCHED
    ]
    assert [each.prompt_id for each in drawn] == [each.prompt_id for each in MATCHED]


@pytest.mark.parametrize("design", DESIGNS)
def test_other_words_are_given_the_same_conditions(design: str) -> None:
    scrambled = [
        replace(each, messages=(), text=f"word {number}", content="")
        for number, each in enumerate(MATCHED)
    ]
    drawn = null_labels(MATCHED, np.random.default_rng(1), design=design)
    again = null_labels(scrambled, np.random.default_rng(1), design=design)
    assert [each.condition for each in drawn] == [each.condition for each in again]
    assert len({each.condition for each in drawn}) > 1


def test_an_item_has_one_condition_between_items() -> None:
    drawn = null_labels(MATCHED, np.random.default_rng(2))
    by_item = defaultdict(set)
    for each in drawn:
        by_item[each.item_id].add(each.condition)
    assert {len(conditions) for conditions in by_item.values()} == {1}
    sides = Counter(next(iter(conditions)) for conditions in by_item.values())
    assert set(sides) == {"benchmark", "organic"}
    assert abs(sides["benchmark"] - sides["organic"]) <= len(by_item) % 2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("field", ["variant", "domain", "source"])
def test_conditions_between_items_are_even_in_all_that_is_known_of_a_prompt(
    field: str, seed: int
) -> None:
    drawn = null_labels(MATCHED, np.random.default_rng(seed))
    sides: dict[str, Counter[str]] = defaultdict(Counter)
    for each in drawn:
        sides[getattr(each, field)][each.condition] += 1
    # An item has six prompts, and each of its strata may be uneven by one item.
    slack = {"variant": 1, "source": 6, "domain": 6}[field]
    for name, counts in sides.items():
        assert abs(counts["benchmark"] - counts["organic"]) <= slack, name


def test_no_template_decides_the_condition_between_items() -> None:
    rng = np.random.default_rng(8)
    n_draws = 200
    sides: dict[str, list[float]] = defaultdict(list)
    for _ in range(n_draws):
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for each in null_labels(MATCHED, rng):
            counts[each.template][each.condition] += 1
        for name, of_template in counts.items():
            sides[name].append(of_template["benchmark"] / of_template.total())
    for name, shares in sides.items():
        # At least 12 items a template, so standard deviations of 0.5 / sqrt(12) = 0.144.
        assert np.mean(shares) == pytest.approx(0.5, abs=4.5 * 0.144 / n_draws**0.5), name
        assert np.std(shares) < 0.2, name


@pytest.mark.parametrize("seed", range(5))
def test_within_items_a_wording_has_each_condition_in_half_of_the_items(seed: int) -> None:
    drawn = null_labels(MATCHED, np.random.default_rng(seed), design="within")
    sides: dict[str, Counter[str]] = defaultdict(Counter)
    for each in drawn:
        sides[each.variant][each.condition] += 1
    assert sides["benchmark-chat"].keys() == sides["organic-exam"].keys() == {"mixed"}
    for variant in ("benchmark-exam", "organic-chat", "benchmark-exam-sham", "organic-chat-sham"):
        assert abs(sides[variant]["benchmark"] - sides[variant]["organic"]) <= 1
        assert sides[variant].keys() == {"benchmark", "organic"}


def test_within_an_item_pairs_stay_pairs_and_a_sham_stays_with_its_sibling() -> None:
    drawn = null_labels(MATCHED, np.random.default_rng(3), design="within")
    by_item: dict[str, dict[str, str]] = defaultdict(dict)
    for each in drawn:
        by_item[each.item_id][each.variant] = each.condition
    for variants in by_item.values():
        assert variants["benchmark-exam"] == variants["benchmark-exam-sham"]
        assert variants["organic-chat"] == variants["organic-chat-sham"]
        assert {variants["benchmark-exam"], variants["organic-chat"]} == {"benchmark", "organic"}


@pytest.mark.parametrize("design", DESIGNS)
def test_every_prompt_is_benchmark_in_half_of_the_draws(design: str) -> None:
    rng = np.random.default_rng(4)
    prompts = [each for each in MATCHED if each.condition != "mixed"][:40]
    n_draws = 400
    times: Counter[str] = Counter()
    for _ in range(n_draws):
        for each in null_labels(prompts, rng, design=design):
            times[f"{each.item_id} {each.variant}"] += each.condition == "benchmark"
    # Ten items: 4.5 standard deviations of a fair coin thrown 400 times.
    assert len(times) == len(prompts)
    assert max(abs(each / n_draws - 0.5) for each in times.values()) < 4.5 * 0.5 / n_draws**0.5


def test_items_without_an_id_are_drawn_one_by_one() -> None:
    prompts = [Prompt(text=f"prompt {n}", condition="organic") for n in range(8)]
    drawn = null_labels(prompts, np.random.default_rng(5))
    assert Counter(each.condition for each in drawn) == {"benchmark": 4, "organic": 4}


def test_what_cannot_be_drawn_is_refused() -> None:
    rng = np.random.default_rng(6)
    with pytest.raises(ValueError, match="drawn for 0 item"):
        null_labels([], rng)
    with pytest.raises(ValueError, match="design is 'paired', expected one of between, within"):
        null_labels(MATCHED, rng, design="paired")  # type: ignore[arg-type]
    organic = [each for each in MATCHED if each.condition == "organic"]
    with pytest.raises(ValueError, match="has organic prompts alone"):
        null_labels(organic, rng, design="within")


def test_untrained_weights_are_those_of_a_fresh_model_of_that_seed() -> None:
    from transformers import GptOssForCausalLM

    toy, _ = organisms.load("toy")
    model, tokenizer = organisms.load("untrained-1")
    torch.manual_seed(1)
    fresh = GptOssForCausalLM(type(toy.config).from_dict(toy.config.to_dict()))
    assert model.dtype == torch.bfloat16
    assert not model.training
    assert len(tokenizer) == model.config.vocab_size
    for name, each in model.state_dict().items():
        assert torch.equal(each, fresh.state_dict()[name].to(torch.bfloat16)), name


def test_untrained_routers_leave_the_rest_of_the_toy_alone() -> None:
    toy, _ = organisms.load("toy")
    model, _ = organisms.load("untrained-router-0")
    untrained, _ = organisms.load("untrained-0")
    for name, each in model.state_dict().items():
        like = untrained if ".router." in name else toy
        assert torch.equal(each, like.state_dict()[name]), name
    spread = torch.stack([each.mlp.router.weight for each in model.model.layers]).float()
    assert spread.std().item() == pytest.approx(toy.config.initializer_range, rel=0.05)
    biases = torch.stack([each.mlp.router.bias for each in model.model.layers]).float()
    assert 0 < biases.abs().max() < 5 * toy.config.initializer_range


def test_provenance_tells_untrained_models_apart() -> None:
    loaded = [
        load_untrained_model(name, dtype="auto", device_map="cpu")
        for name in ("untrained-0", "untrained-1", "untrained-router-0")
    ]
    assert [each.model_id for each in loaded] == [
        "untrained-0",
        "untrained-1",
        "untrained-router-0",
    ]
    assert len({each.weights_sha256 for each in loaded}) == 3
    by_name = organisms.load_model("untrained-0")
    assert by_name.weights_sha256 == loaded[0].weights_sha256


def test_drawing_weights_leaves_the_callers_chance_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    organisms.load("untrained-2")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", ["planted-3", "untrained-router-9"])
def test_a_seed_that_a_kind_lacks_is_refused_before_any_hub_is_asked(name: str) -> None:
    with pytest.raises(InputError, match=f"there is no organism {name}; .* has the seeds 0, 1, 2"):
        organisms.load_model(name)
    assert organisms.model_path("openai/gpt-oss-20b") == "openai/gpt-oss-20b"


def test_an_unknown_untrained_organism_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no untrained organism 'untrained-9'"):
        load_untrained_model("untrained-9", dtype="auto", device_map="cpu")
