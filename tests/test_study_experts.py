"""The tests of single experts in a study: what is resampled, and the cautious end of two tests."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from interp.analyses.effects import expert_effects
from interp.analyses.routed_tokens import Prompts
from interp.compared import COMPARED, compared
from interp.study_experts import (
    clusters_to_test,
    expert_tables,
    larger_p,
    prompts_of,
    routed_tokens,
)
from interp.study_experts import (
    tested_experts as experts_of,
)
from tests.study_samples import N_EXPERTS, stored

DESIGN_COLUMNS = (
    "layer",
    "expert",
    "effect",
    "adjusted_effect",
    "adjusted_low",
    "adjusted_high",
    "p_max_t",
    "q_bh",
    "surface_adjusted_effect",
    "surface_adjusted_low",
    "surface_adjusted_high",
)


def prompts(benchmark: str, *, source: str, item: str, template: str) -> Prompts:
    """One letter for each prompt; b is benchmark."""
    return Prompts(
        benchmark=np.array([each == "b" for each in benchmark]),
        source=np.array(list(source)),
        item=np.array(list(item)),
        template=np.array([each.strip() for each in template]),
    )


@pytest.mark.parametrize(
    ("given", "clusters", "lacks"),
    [
        (prompts("bobo", source="mmmm", item="1122", template="xyxy"), ("item", "template"), False),
        (prompts("bobo", source="mmmm", item="1122", template="    "), ("item",), False),
        (prompts("bboo", source="pqrs", item="1234", template="    "), ("source",), False),
        (prompts("bboo", source="ppqr", item="1234", template="    "), ("item",), True),
        (prompts("bbbooo", source="pqqrss", item="123145", template=" " * 6), ("source",), False),
        (prompts("bbbooo", source="pppqqq", item="123145", template=" " * 6), ("item",), True),
        (prompts("bbbboo", source="mmmmmm", item="123412", template=" " * 6), ("item",), False),
    ],
)
def test_pairs_come_first_then_sources_and_then_a_warning(
    given: Prompts, clusters: tuple[str, ...], lacks: bool
) -> None:
    found, lacking = clusters_to_test(given)
    assert found == clusters
    assert ("of these sources alone" in lacking) == lacks


def test_of_two_tests_the_cautious_end_of_each_number_counts() -> None:
    first = pd.DataFrame(
        {"effect": [0.1], "effect_low": [0.0], "effect_high": [0.2], "p_max_t": [0.01]}
        | {"q_bh": [np.nan], "is_confirmed": [True], "inside_margin": [True]}
        | {"smallest_effect": [0.1], "power_at_margin": [0.9]}
    )
    second = first.assign(
        effect_low=[0.05], effect_high=[0.3], p_max_t=[0.2], q_bh=[0.3], is_confirmed=[False]
    ).assign(inside_margin=[False], smallest_effect=[0.05], power_at_margin=[0.95])
    expected = first.assign(
        effect_high=[0.3], p_max_t=[0.2], q_bh=[0.3], is_confirmed=[False], inside_margin=[False]
    )
    pd.testing.assert_frame_equal(larger_p([first, second]), expected)


def test_the_ratio_of_spreads_is_among_the_facts(tmp_path: Path) -> None:
    pair = compared(stored(tmp_path / "a.moe"), COMPARED)
    _, facts = expert_tables(pair, np.random.default_rng(0), n_resamples=50, margin=0.1)
    assert facts["sd_ratio"] == {"item": None}  # items are paired
    own = np.arange(len(pair.prompt)).astype(str)
    nested = replace(prompts_of(pair), item=own, source=own)
    alike: dict[str, Any] = {"tokens": routed_tokens(pair), "prompts": nested, "n_resamples": 50}
    _, facts = experts_of(rng=np.random.default_rng(0), margin=0.1, **alike)
    found = expert_effects(rng=np.random.default_rng(0), cluster="source", **alike)
    assert facts["sd_ratio"] == {"source": found.surface_adjusted.max_t.sd_ratio}
    assert facts["sd_ratio"]["source"] >= 1


def test_the_token_before_is_the_one_before_in_the_prompt(tmp_path: Path) -> None:
    pair = compared(stored(tmp_path / "a.moe"), COMPARED)
    store, tokens = pair.store, routed_tokens(pair)
    for place, token in enumerate(pair.token):
        before = token - 1
        is_first = before < 0 or store.prompt_index[before] != store.prompt_index[token]
        expected = -1 if is_first else store.token_id[before]
        assert tokens.previous_token_id[place] == expected


def test_the_table_has_a_row_for_each_expert_and_the_columns_of_the_design(tmp_path: Path) -> None:
    pair = compared(stored(tmp_path / "a.moe"), COMPARED)
    table, facts = expert_tables(
        pair, np.random.default_rng(0), n_resamples=200, margin=0.5 / N_EXPERTS
    )
    assert set(DESIGN_COLUMNS) <= set(table)
    assert len(table) == 2 * N_EXPERTS
    usage = {name: np.zeros((2, N_EXPERTS)) for name in COMPARED}
    for place in range(len(pair.token)):
        condition = pair.condition[pair.prompt_index[place]]
        for layer in range(2):
            for expert in pair.expert_indices[place, layer]:
                usage[condition][layer, expert] += 1
    shares = [each / each.sum(axis=1, keepdims=True) for each in usage.values()]
    np.testing.assert_allclose(table["effect"], (shares[0] - shares[1]).ravel(), atol=1e-12)
    planted = table.query("layer == 3 and expert in (0, 1)")
    assert (planted["surface_adjusted_p_max_t"] <= 0.05).all()
    assert table["surface_adjusted_effect"].nlargest(2).index.isin(planted.index).all()
    assert facts["clusters"] == {"item": len(set(pair.item))}
    assert facts["margin"] == 0.5 / N_EXPERTS
