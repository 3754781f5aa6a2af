"""What the report says of the controls of probes, from rows made by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd

from interp.report_probes import (
    added_sentences,
    control_sentences,
    grid_sentences,
    probe_control_section,
)
from interp.report_sections import first_readout
from tests.synthetic_study import synthetic_results

GRID = pd.DataFrame(
    {
        "site": ["length"] * 4 + ["resid_post"] * 4,
        "layer": [np.nan] * 4 + [2.0] * 4,
        "readout": [""] * 4 + ["last_content"] * 4,
        "baseline": ["length"] * 4 + [""] * 4,
        "cell": ["organic-chat", "organic-exam", "benchmark-chat", "benchmark-exam"] * 2,
        "called_benchmark": [0.4, 0.6, 0.4, 0.6, 0.05, 0.11, 0.92, 0.98],
        "called_benchmark_low": [0.3] * 4 + [0.02, 0.06, 0.82, 0.94],
        "called_benchmark_high": [0.5] * 4 + [0.1, 0.21, 0.96, 0.99],
    }
)


def test_the_grid_names_both_kinds_of_false_alarm() -> None:
    assert grid_sentences(GRID) == [
        "resid_post (last_content) at layer 2, fitted on the diagonal, calls 11 % (6 to 21) of the "
        "organic wordings in an exam wrapper benchmark, and 92 % (82 to 96) of the benchmark "
        "wordings in chat."
    ]


def test_what_is_added_has_its_interval() -> None:
    numbers = {"auroc_gain": 0.011, "auroc_gain_low": -0.003, "auroc_gain_high": 0.024}
    numbers |= {"bits_saved": 0.096, "bits_saved_low": 0.018, "bits_saved_high": 0.174}
    row = {"added": "routing", "to": "resid_post", "readout": "last_content", "layer": 2.0}
    assert added_sentences(pd.DataFrame([row | numbers])) == [
        "routing adds +0.011 AUROC (-0.003 to +0.024) to resid_post (last_content, layer 2), and "
        "saves 0.096 bits a prompt (+0.018 to +0.174)."
    ]


def test_controls_without_an_untrained_model_do_not_speak_of_one() -> None:
    controls = pd.DataFrame(
        {
            "selectivity": [0.2, 0.4],
            "compression": [1.5, 3.0],
            "shuffled_compression": [0.98, 0.99],
            "untrained_auroc": [np.nan, np.nan],
            "gain_over_untrained_low": [np.nan, np.nan],
        }
    )
    said = control_sentences(controls)
    assert said == [
        "Selectivity lies between 0.20 and 0.40, compression between 1.50 and 3.00 (up to 0.99 "
        "with shuffled labels)."
    ]
    untrained = controls.assign(untrained_auroc=[0.9, 0.8], gain_over_untrained_low=[0.01, -0.01])
    assert control_sentences(untrained)[1].startswith(
        "On an untrained model the same probes reach up to 0.90; 1 of 2 are better"
    )


def test_tables_are_drawn_and_missing_ones_say_why() -> None:
    results = replace(synthetic_results(), grid=GRID, absent={"added": "No <stream> was kept."})
    page = probe_control_section(results)
    assert "<h3>Wording or wrapper</h3>" in page
    assert "No &lt;stream&gt; was kept." in page
    assert "What routing adds" not in page


def test_one_curve_is_drawn_for_each_site() -> None:
    probes = pd.DataFrame(
        {"site": ["a", "a", "b"], "readout": ["last_content", "mean_content", "prompt"]}
    )
    assert first_readout(probes)["readout"].tolist() == ["last_content", "prompt"]
