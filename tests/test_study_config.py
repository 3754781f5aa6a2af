"""The configuration of a study: what is read from study.toml, and what is refused."""

from pathlib import Path

import pytest

from interp.analyses.evidence import Rule
from interp.cache.errors import InputError
from interp.experiment_pipeline import PipelineSettings
from interp.experiment_trials import ExperimentSettings
from interp.study_config import AnalysisSettings, StudyConfig, read_study_config

LEAST = 'model = "toy"\nprompts = ["matched"]\n'


def read(tmp_path: Path, text: str) -> StudyConfig:
    (tmp_path / "study.toml").write_text(text)
    return read_study_config(tmp_path / "study.toml")


def test_a_model_and_prompts_are_enough(tmp_path: Path) -> None:
    config = read(tmp_path, LEAST)

    assert (config.model, config.prompts, config.dtype) == ("toy", ("matched",), "auto")
    assert (config.rule, config.analysis) == (Rule(), AnalysisSettings())
    assert config.capture == {"logprobs": True}
    assert config.experiments is None


def test_every_part_is_read(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        'model = "toy"\nprompts = ["matched", "more.jsonl"]\nlimit = 7\nseed = 3\n'
        '[capture]\nsites = ["resid_post"]\n[analysis]\nn_permutations = 9\n'
        "[rule]\nalpha = 0.01\nmargin_in_even_shares = 1\n"
        '[experiments]\nintervention = "zero"\nsecond_model = "untrained-0"\n'
        "[experiments.pipeline]\nn_matched = 5\n",
    )

    assert (config.limit, config.seed) == (7, 3)
    assert config.capture == {"sites": ["resid_post"]}
    assert config.analysis.n_permutations == 9
    assert config.rule == Rule(alpha=0.01, margin_in_even_shares=1.0)
    assert config.experiments == ExperimentSettings(
        intervention="zero",
        pipeline=PipelineSettings(n_matched=5),
        second_model="untrained-0",
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (LEAST + "modell = 1", "modell is not a setting; did you mean model?"),
        (LEAST + "xyzzy = 1", "xyzzy is not a setting; known are model, prompts"),
        (LEAST + "[rule]\nalfa = 0.1", "rule.alfa is not a setting; did you mean rule.alpha?"),
        (LEAST + "[rule]\nalpha = 7", "rule.alpha is 7.0, expected between 0 and 1"),
        (LEAST + 'limit = "ten"', "limit is 'ten', expected a whole number"),
        (LEAST + "seed = true", "seed is True, expected a whole number"),
        (LEAST + "rule = 1", r"rule is 1, expected a table; write \[rule\] above it"),
        ('model = "toy"', "lacks prompts; add it"),
        ('model = "toy"\nprompts = "matched"', r"prompts is 'matched', expected a list of texts"),
        (
            LEAST + "[experiments.pipeline]\nn_match = 5",
            "did you mean experiments.pipeline.n_matched?",
        ),
        (LEAST + "[experiments]\nn_noise = -1", "experiments.n_noise is -1, expected 0 or more"),
        ("model = toy", "is not TOML"),
        (
            LEAST + '[experiments]\nsecond_model = "toy"',
            "experiments.second_model is 'toy', which is the model of the study itself",
        ),
        (
            LEAST + "[experiments]\nsecond_model = 2",
            "experiments.second_model is 2, expected a text",
        ),
    ],
)
def test_a_wrong_key_or_value_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read(tmp_path, text)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_study_config(tmp_path / "none.toml")
