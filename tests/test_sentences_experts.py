"""What the report says of single experts: in words, also where there is no number."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from interp.sentences_experts import KINDS, expert_sentences, power_sentence
from tests.synthetic_study import synthetic_results

EXPERTS = pd.DataFrame(
    {
        "smallest_effect": [0.02, 0.04, 0.06],
        "power_at_margin": [0.2, 0.5, 0.9],
        "surface_adjusted_inside_margin": [1.0, 0.0, 0.0],
    }
)


def test_power_is_that_of_the_median_expert() -> None:
    said = power_sentence(EXPERTS, 0.016)
    assert "An effect of 0.040 of the slots would have been found" in said
    assert "for the margin of 0.016 it is 50 %. 1 expert of 3" in said


@pytest.mark.parametrize(
    ("smallest", "said"),
    [(441.0, "no effect, not even of all slots, would have been"), (np.nan, "is not known")],
)
def test_an_effect_that_cannot_be_is_not_given_as_a_number(smallest: float, said: str) -> None:
    sentence = power_sentence(EXPERTS.assign(smallest_effect=smallest), 0.016)
    assert said in sentence
    assert "441" not in sentence
    assert "nan" not in sentence


def test_the_smallest_p_of_all_experts_is_not_called_that_of_the_null() -> None:
    tested = EXPERTS.assign(is_confirmed=False)
    for p_max_t, q_bh in KINDS.values():
        tested = tested.assign(**{p_max_t: [0.3, 0.0001, 0.2], q_bh: [0.5, 0.04, 0.5]})
    results = replace(synthetic_results(n_layers=1, n_experts=2), experts=tested)
    raw = expert_sentences(results)[0]
    assert raw.startswith("Raw: 1 expert of 3 at a false discovery rate of 5 %; smallest max-T p")
    assert "p = 0.0001 (largest of all experts against resampled labels)" in raw
    assert "none differs" not in raw
