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
    assert config.capture == {}
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
        pipeline=PipelineSettings(n_matched=5, alpha=0.01, margin_in_even_shares=1.0, seed=3),
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
        (LEAST + "limit = 0", "limit is 0, expected 1 or more"),
        (LEAST + "seed = -1", "seed is -1, expected 0 or more"),
        (LEAST + "seed = -1\n[experiments]", "toml: seed is -1, expected 0 or more"),
        (LEAST + "[analysis]\nn_permutations = -3", "analysis.n_permutations is -3, expected 1"),
        (LEAST + "[analysis]\nn_resamples = 0", "analysis.n_resamples is 0, expected 1 or more"),
        (
            LEAST + '[analysis]\ntargets = ["colour"]',
            "analysis.targets names 'colour', expected fields of a prompt: prompt_id, condition",
        ),
        (
            LEAST + "[rule]\nmargin_in_even_shares = inf",
            "rule.margin_in_even_shares is inf, expected above 0 and finite",
        ),
        (
            LEAST + "[experiments]\n[rule]\nmargin_in_even_shares = nan",
            "toml: rule.margin_in_even_shares is nan, expected above 0 and finite",
        ),
        (
            LEAST + '[experiments]\noutcome = "optoin"',
            "experiments.outcome is 'optoin', expected one of content, answer, option",
        ),
        (
            LEAST + '[experiments]\nintervention = "rerout"',
            "experiments.intervention is 'rerout', expected one of reroute, zero, renormalise",
        ),
        (
            LEAST + "[experiments.pipeline]\nalpha = 0.5",
            "rule.alpha is 0.05 and experiments.pipeline.alpha is 0.5, expected the same",
        ),
        (
            LEAST
            + "[rule]\nmargin_in_even_shares = 1\n"
            + "[experiments.pipeline]\nmargin_in_even_shares = 0.25",
            "rule.margin_in_even_shares is 1.0 and experiments.pipeline.margin_in_even_shares is "
            "0.25, expected the same",
        ),
    ],
)
def test_a_wrong_key_or_value_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read(tmp_path, text)


def test_a_rule_and_a_search_that_disagree_cannot_be_made_in_python() -> None:
    experiments = ExperimentSettings(pipeline=PipelineSettings(alpha=0.1))

    with pytest.raises(InputError, match="give it under rule alone"):
        StudyConfig(model="toy", prompts=("matched",), experiments=experiments)
    same = StudyConfig(
        model="toy", prompts=("matched",), experiments=experiments, rule=Rule(alpha=0.1)
    )
    assert same.experiments == experiments


def test_the_search_keeps_a_seed_of_its_own_where_it_is_given(tmp_path: Path) -> None:
    given = read(tmp_path, LEAST + "seed = 3\n[experiments.pipeline]\nseed = 5\n")
    alike = read(tmp_path, LEAST + "seed = 3\n[experiments.pipeline]\nseed = 3\n")
    taken = read(tmp_path, LEAST + "seed = 3\n[experiments]\n")

    assert given.experiments is not None
    assert (given.seed, given.experiments.pipeline.seed) == (3, 5)
    assert taken == alike


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_study_config(tmp_path / "none.toml")
