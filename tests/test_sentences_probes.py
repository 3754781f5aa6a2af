"""What the report says of the controls of probes, from rows made by hand."""

import numpy as np
import pandas as pd

from interp.sentences_probes import added_sentences, control_sentences, readout_sentences
from tests.synthetic_study import synthetic_results


def test_readouts_name_the_tokens_that_were_captured() -> None:
    results = synthetic_results(n_layers=3)
    results.run["settings"]["capture_positions"] = "every:7"
    assert readout_sentences(results)[-1].endswith("(positions: every:7).")


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
