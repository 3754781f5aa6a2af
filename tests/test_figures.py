"""Figures draw what the tables say, and sentences say what the figures draw."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from interp.figure_style import INK
from interp.figures import divergence_figure, probe_figure, usage_figure
from interp.sentences import divergence_sentence, probe_sentence, usage_sentence
from interp.token_view import expert_colors
from tests.synthetic_study import synthetic_results

RESULTS = synthetic_results(n_layers=5, n_experts=8)
FIGURES: list[tuple[Callable[..., go.Figure], pd.DataFrame]] = [
    (divergence_figure, RESULTS.divergence),
    (usage_figure, RESULTS.usage),
    (probe_figure, RESULTS.probes),
]


def small_usage() -> pd.DataFrame:
    """One layer, numbered 3, of four experts; the difference is largest, in size, at expert 2.

    That is so of the prompt means, which are shown; with tokens pooled it is expert 0.
    """
    shares = {"benchmark": [0.40, 0.30, 0.20, 0.10], "organic": [0.30, 0.20, 0.45, 0.05]}
    return pd.DataFrame(
        [
            {
                "condition": name,
                "layer": 3,
                "expert": expert,
                "usage": 0.9 if (name, expert) == ("benchmark", 0) else 0.1 / 3,
                "usage_prompt_mean": share,
                "n_tokens": n,
                "n_prompts": 7,
            }
            for (name, values), n in zip(shares.items(), (1200, 900), strict=True)
            for expert, share in enumerate(values)
        ]
    )


def small_divergence(**changes: float) -> pd.DataFrame:
    row = {
        "layer": 7,
        "raw_bits": 0.2,
        "raw_null_bits": 0.002,
        "raw_null_high_bits": 0.004,
        "p_value": 0.004975,
        "token_matched_bits": 0.11,
        "token_matched_null_bits": 0.004,
        "token_matched_null_high_bits": 0.006,
        "overlap": 0.6,
        "share_explained_by_vocabulary": 0.47,
        "n_tokens_benchmark": 1200,
        "n_tokens_organic": 900,
        "n_clusters": 60,
        "n_permutations": 200,
    }
    low = row | {"layer": 8, "raw_bits": 0.001, "share_explained_by_vocabulary": np.nan}
    return pd.DataFrame([low, row | changes])


def trace_named(figure: go.Figure, name: str) -> go.Scatter:
    (trace,) = [trace for trace in figure.data if trace.name == name]
    return trace


@pytest.mark.parametrize(("draw", "table"), FIGURES)
def test_every_figure_names_its_model_and_n(
    draw: Callable[..., go.Figure], table: pd.DataFrame
) -> None:
    subtitle = draw(table, model="tiny-moe").layout.title.subtitle.text
    assert "tiny-moe" in subtitle
    assert "n = " in subtitle


@pytest.mark.parametrize(("draw", "table"), FIGURES)
def test_every_figure_has_axis_titles_and_a_text_for_readers_who_do_not_see_it(
    draw: Callable[..., go.Figure], table: pd.DataFrame
) -> None:
    layout = draw(table, model="tiny-moe").layout
    assert layout.xaxis.title.text
    assert layout.yaxis.title.text
    assert "layer" in layout.meta["summary"]


@pytest.mark.parametrize(("draw", "table"), FIGURES)
def test_the_order_of_rows_changes_no_figure(
    draw: Callable[..., go.Figure], table: pd.DataFrame
) -> None:
    shuffled = table.sample(frac=1, random_state=3)
    assert draw(shuffled, model="m").to_json() == draw(table, model="m").to_json()


def test_divergence_figure_draws_the_columns_of_the_table() -> None:
    table = RESULTS.divergence
    figure = divergence_figure(table, model="m")
    for name, column in (
        ("raw", "raw_bits"),
        ("token-matched", "token_matched_bits"),
        ("raw null, mean", "raw_null_bits"),
        ("token-matched null, mean", "token_matched_null_bits"),
        ("raw null, 95 % of shuffles", "raw_null_high_bits"),
    ):
        np.testing.assert_array_equal(trace_named(figure, name).y, table[column])
    assert figure.layout.yaxis.title.text == "Jensen-Shannon divergence (bits)"


def test_difference_view_is_benchmark_less_organic_in_points() -> None:
    difference = usage_figure(small_usage(), model="m").data[0]
    np.testing.assert_allclose(difference.z, [[10, 10, -25, 5]])
    assert list(difference.y) == ["3"]
    assert difference.zmin == -difference.zmax


def test_the_heatmap_says_that_it_shows_prompt_means() -> None:
    figure = usage_figure(small_usage(), model="m")
    assert (
        "prompt mean, n = 7 benchmark prompts (1,200 tokens)" in figure.layout.title.subtitle.text
    )
    assert "prompt means" in figure.data[0].colorbar.title.text
    assert "prompt mean" in figure.data[1].colorbar.title.text


def test_both_shares_have_one_colour_scale_with_uniform_marked() -> None:
    _, benchmark, organic = usage_figure(small_usage(), model="m").data
    np.testing.assert_allclose(benchmark.z, [[40, 30, 20, 10]])
    np.testing.assert_allclose(organic.z, [[30, 20, 45, 5]])
    assert (benchmark.zmin, benchmark.zmax) == (organic.zmin, organic.zmax)
    marked = dict(zip(benchmark.colorbar.tickvals, benchmark.colorbar.ticktext, strict=True))
    assert marked[25.0] == "25 (uniform)"


def test_each_button_shows_exactly_one_view() -> None:
    (menu,) = usage_figure(small_usage(), model="m").layout.updatemenus
    shown = [button.args[0]["visible"] for button in menu.buttons]
    assert shown == [[True, False, False], [False, True, False], [False, False, True]]


def test_hover_names_the_prompts_behind_a_share() -> None:
    figure = usage_figure(small_usage(), model="m")
    assert (
        "benchmark: %{customdata[0]:.2f} % of slots (mean of n = 7 prompts)"
        in figure.data[0].hovertemplate
    )
    np.testing.assert_allclose(figure.data[0].customdata[0][2], [20, 45, -25])


def test_one_condition_alone_is_drawn_without_a_difference() -> None:
    usage = small_usage().query("condition == 'organic'")
    figure = usage_figure(usage, model="m")
    assert len(figure.data) == 1
    np.testing.assert_allclose(figure.data[0].z, [[30, 20, 45, 5]])


def test_error_bars_span_the_interval_of_the_table() -> None:
    rows = RESULTS.probes.query("site == 'resid_post' and baseline == ''")
    trace = trace_named(probe_figure(RESULTS.probes, model="m"), "resid_post")
    np.testing.assert_allclose(trace.y + trace.error_y.array, rows["auroc_high"])
    np.testing.assert_allclose(trace.y - trace.error_y.arrayminus, rows["auroc_low"])


def test_surface_baseline_is_a_level_band_across_all_layers() -> None:
    figure = probe_figure(RESULTS.probes, model="m")
    level = trace_named(figure, "length alone")
    assert set(level.y) == {0.81}
    assert (min(level.x), max(level.x)) == (-0.4, 4.4)
    (band,) = [trace for trace in figure.data if trace.legendgroup == "length" and trace.fill]
    assert (min(band.y), max(band.y)) == (pytest.approx(0.77), pytest.approx(0.85))


def test_a_baseline_that_was_not_fitted_is_not_drawn() -> None:
    probes = RESULTS.probes.query("site != 'length'")
    names = [trace.name for trace in probe_figure(probes, model="m").data]
    assert "length alone" not in names
    assert "bag of tokens alone" in names


def test_auroc_axis_runs_over_the_whole_range_with_chance_marked() -> None:
    figure = probe_figure(RESULTS.probes, model="m")
    assert figure.layout.yaxis.range == (0, 1.02)
    assert "chance" in figure.layout.yaxis.ticktext
    assert figure.layout.shapes[0].y0 == 0.5


def test_divergence_sentence_names_the_largest_layer_and_its_null() -> None:
    said = divergence_sentence(small_divergence())
    assert "largest at layer 7: 0.200 bits, against a null with mean 0.0020" in said
    assert "p = 0.005, the least that 200 shuffles of" in said
    assert "In 1 of 2 layers it lies above" in said
    assert "Vocabulary explains 47 % of it, judged on the" in said
    assert "above the 95 % quantile of its own null (flipped signs) in 2 of 2 layers" in said


def test_divergence_sentence_gives_the_range_of_shares_over_the_layers_above_their_null() -> None:
    rows = RESULTS.divergence.assign(overlap=0.6)
    share = 100 * rows["share_explained_by_vocabulary"]
    assert (rows["raw_bits"] > rows["raw_null_high_bits"]).all()
    said = divergence_sentence(rows)
    assert (
        f"explains {share.min():.0f} to {share.max():.0f} % of it, depending on the layer" in said
    )
    assert "on the 60 % of tokens that can be matched" in said


def test_divergence_sentence_explains_nothing_that_is_not_told_from_its_null() -> None:
    said = divergence_sentence(small_divergence(raw_null_high_bits=0.3, p_value=0.34))
    assert "No layer can be told from its null, so no share of vocabulary is given." in said
    assert "p = 0.34, from 200 shuffles" in said


def test_divergence_sentence_says_when_no_token_is_shared() -> None:
    said = divergence_sentence(small_divergence(overlap=0.0, share_explained_by_vocabulary=np.nan))
    assert "The conditions share no token" in said


@pytest.mark.parametrize(("share", "percent"), [(-0.2, "0 %"), (1.06, "100 %")])
def test_divergence_sentence_keeps_the_share_between_none_and_all(
    share: float, percent: str
) -> None:
    said = divergence_sentence(small_divergence(share_explained_by_vocabulary=share))
    assert f"Vocabulary explains {percent} of it" in said


def test_usage_sentence_names_the_expert_that_differs_most_in_size() -> None:
    said = usage_sentence(small_usage())
    assert "expert 2 of layer 3: 20.0 % of benchmark slots and 45.0 % of organic ones" in said
    assert "\u221225.0 points, prompt means" in said
    assert "uniform share would be 25 %" in said


def probe_table(**scores: tuple[float, float, float]) -> pd.DataFrame:
    """One probe on `routing` and the two baselines, each with AUROC, low and high."""
    rows = [
        {
            "site": site,
            "layer": 0.0 if site == "routing" else np.nan,
            "baseline": "" if site == "routing" else site,
            "auroc": auroc,
            "auroc_low": low,
            "auroc_high": high,
            "n_clusters": 20,
        }
        for site, (auroc, low, high) in scores.items()
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("routing", "length", "bag", "expected"),
    [
        ((0.90, 0.85, 0.95), (0.6, 0.5, 0.7), (0.99, 0.98, 1.0), "no higher than a bag of tokens"),
        ((0.90, 0.85, 0.95), (0.99, 0.98, 1.0), (0.6, 0.5, 0.7), "no higher than prompt length"),
        ((0.90, 0.85, 0.95), (0.6, 0.5, 0.7), (0.75, 0.6, 0.87), "cannot be told from a bag of"),
        ((0.90, 0.85, 0.95), (0.6, 0.5, 0.7), (0.7, 0.6, 0.8), "reaches 0.70, below that interval"),
        ((0.52, 0.45, 0.60), (0.5, 0.4, 0.6), (0.30, 0.2, 0.4), "No probe is told from chance"),
        ((1.0, 1.0, 1.0), (0.6, 0.5, 0.7), (0.7, 0.6, 0.8), "that all 20 items agree"),
    ],
)
def test_probe_sentence_says_no_more_than_the_baselines_allow(
    routing: tuple[float, float, float],
    length: tuple[float, float, float],
    bag: tuple[float, float, float],
    expected: str,
) -> None:
    said = probe_sentence(probe_table(routing=routing, length=length, bag_of_tokens=bag))
    assert expected in said


def test_probe_sentence_leaves_the_shuffled_baselines_out() -> None:
    shuffled = RESULTS.probes["baseline"] == "shuffled"
    drawn = RESULTS.probes.loc[shuffled & RESULTS.probes["layer"].notna(), "auroc"]
    said = probe_sentence(RESULTS.probes)
    assert f"With shuffled labels the probes score {drawn.min():.2f} to {drawn.max():.2f}." in said


def test_usage_sentence_of_one_condition_names_one_that_is_drawn() -> None:
    mixed = small_usage().replace({"condition": {"benchmark": "mixed"}})
    assert "of organic slots" in usage_sentence(mixed)


def test_expert_colours_are_distinct_and_leave_text_readable() -> None:
    colors = expert_colors(128)
    assert len(set(colors)) == 128
    assert min(contrast(color, INK) for color in colors) >= 4.5


def test_neighbouring_experts_are_far_apart_in_colour() -> None:
    nearest = min(np.linalg.norm(channels(a) - channels(b)) for a, b in pairs(expert_colors(32)))
    assert nearest > 0.2


def pairs(colors: list[str]) -> list[tuple[str, str]]:
    return [
        (a, b) for a, b in combinations(colors, 2) if abs(colors.index(a) - colors.index(b)) == 1
    ]


def channels(color: str) -> np.ndarray:
    return np.array([int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)])


def contrast(light: str, dark: str) -> float:
    """Contrast ratio of WCAG 2.2, section 1.4.3."""

    def luminance(color: str) -> float:
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels(color)
        ]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    return (luminance(light) + 0.05) / (luminance(dark) + 0.05)
