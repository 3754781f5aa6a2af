"""Made-up results in which every table that a figure reads has rows, with layers 2, 3 and 5."""

from typing import Any

import numpy as np
import pandas as pd

from interp.results import Results

LAYERS = (2, 3, 5)
N_EXPERTS = 6
SIDES = ("benchmark", "organic")
SITES = ("routing", "routing_within_token", "resid_post")
CELLS = ("organic-chat", "organic-exam", "benchmark-chat", "benchmark-exam")
OBJECTS = [(layer, expert) for layer in LAYERS for expert in range(N_EXPERTS)]


def sample_results(**replaced: Any) -> Results:
    """Results of a small study with an experiment; tables by name replace those made here."""
    rng = np.random.default_rng(4)
    tables: dict[str, Any] = {
        "usage": _usage(rng),
        "experts": _experts(rng),
        "divergence": _divergence(rng),
        "divergence_matched": _matched_on(rng),
        "sources": _sources(rng),
        "probes": _probes(rng),
        "probe_controls": _controls(rng),
        "grid": _grid(rng),
        "coactivation": _coactivation(rng),
        "paths": _paths(rng),
        "load": _load(rng),
        "vocabulary": _vocabulary(rng),
        "experiments": _experiments(rng),
        "experiment_matched": _random_sets(rng),
        "experiment_dose": _doses(rng),
        "run": {
            "model": "tiny-moe",
            "n_layers": len(LAYERS),
            "n_experts": N_EXPERTS,
            "top_k": 2,
            "experts": {"margin": 0.02, "clusters": {"item": 30, "template": 12}},
        },
    }
    rounded = {
        name: table.round(6) if isinstance(table, pd.DataFrame) else table
        for name, table in tables.items()
    }
    return Results(**rounded | replaced)


def _usage(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for side, n_tokens in zip(SIDES, (1200, 900), strict=True):
        for layer in LAYERS:
            shares = rng.dirichlet(np.full(N_EXPERTS, 4.0))
            rows += [
                {"condition": side, "layer": layer, "expert": expert, "usage": share}
                | {"usage_prompt_mean": share, "n_tokens": n_tokens, "n_prompts": 30}
                for expert, share in enumerate(shares)
            ]
    return pd.DataFrame(rows)


def _experts(rng: np.random.Generator) -> pd.DataFrame:
    """Of each kind some q lie below 0.05; two experts are confirmed."""
    rows = []
    for place, (layer, expert) in enumerate(OBJECTS):
        row: dict[str, Any] = {"layer": layer, "expert": expert, "is_confirmed": place in (3, 8)}
        for name, ends, q in (
            ("effect", "effect", "raw_q_bh"),
            ("adjusted_effect", "adjusted", "q_bh"),
            ("surface_adjusted_effect", "surface_adjusted", "surface_adjusted_q_bh"),
        ):
            effect, half = rng.normal(scale=0.04), 0.02 * (0.2 + rng.random())
            row |= {name: effect, f"{ends}_low": effect - half, f"{ends}_high": effect + half}
            row |= {q: 0.001 if place in (3, 8) else float(rng.choice([0.01, 0.3, 0.9]))}
        rows.append(row)
    return pd.DataFrame(rows)


def _divergence(rng: np.random.Generator) -> pd.DataFrame:
    raw, matched = 0.1 + 0.1 * rng.random(3), 0.02 + 0.05 * rng.random(3)
    share = rng.random(3)
    return pd.DataFrame(
        {
            "layer": LAYERS,
            "raw_bits": raw,
            "raw_corrected_bits": raw + 0.005,
            "raw_low_bits": raw - 0.01,
            "raw_high_bits": raw + 0.02,
            "raw_null_bits": 0.002,
            "raw_null_high_bits": 0.004 + 0.001 * rng.random(3),
            "p_value": 1 / 201,
            "token_matched_bits": matched,
            "token_matched_corrected_bits": matched - 0.001,
            "token_matched_low_bits": matched - 0.005,
            "token_matched_high_bits": matched + 0.004,
            "token_matched_null_bits": 0.001,
            "token_matched_null_high_bits": 0.003 + 0.001 * rng.random(3),
            "overlap": 0.6,
            "share_explained_by_vocabulary": share,
            "share_explained_low": share - 0.1,
            "share_explained_high": share + 0.2,
            "n_tokens_benchmark": 1200,
            "n_tokens_organic": 900,
            "n_clusters": 30,
            "n_permutations": 200,
        }
    )


def _matched_on(rng: np.random.Generator) -> pd.DataFrame:
    keys = ("previous_and_token", "position_bin", "position_bin_and_token")
    return pd.DataFrame(
        [
            {"matched_on": key, "layer": layer, "share_explained": rng.random(), "overlap": 0.3}
            for key in keys
            for layer in LAYERS
        ]
    )


def _sources(rng: np.random.Generator) -> pd.DataFrame:
    names = ("across_conditions", "within_benchmark", "within_organic")
    columns = {name: 0.02 + 0.1 * rng.random(4) for name in names}
    return pd.DataFrame({"layer": [*map(float, LAYERS), np.nan], **columns})


def _probes(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for split in ("item", "template"):
        for surface, auroc in (("length", 0.6), ("bag_of_tokens", 0.9)):
            rows.append(_probe(surface, np.nan, split, auroc, surface))
        for site in SITES:
            for layer in LAYERS:
                rows.append(_probe(site, layer, split, 0.7 + 0.2 * rng.random(), ""))
                if split == "item":
                    shuffled = 0.5 + 0.05 * rng.normal()
                    rows.append(_probe(site, layer, split, shuffled, "shuffled"))
    rows.append(_probe("routing", 2, "item", 0.33, "") | {"target": "domain"})
    return pd.DataFrame(rows)


def _probe(site: str, layer: float, split: str, auroc: float, baseline: str) -> dict[str, Any]:
    return {
        "site": site,
        "layer": layer,
        "readout": "" if baseline == site else "prompt",
        "target": "condition",
        "split": split,
        "auroc": auroc,
        "auroc_low": auroc - 0.05,
        "auroc_high": auroc + 0.03,
        "baseline": baseline,
        "n_prompts": 60,
        "n_clusters": 30,
    }


def _controls(rng: np.random.Generator) -> pd.DataFrame:
    rows = [
        {"site": site, "layer": layer, "readout": "prompt", "target": "condition", "split": "item"}
        | {"selectivity": (value := rng.random()), "selectivity_low": value - 0.1}
        | {"selectivity_high": value + 0.1, "untrained_auroc": 0.5 + 0.1 * rng.random()}
        for site in SITES
        for layer in LAYERS
    ]
    return pd.DataFrame(rows)


def _grid(rng: np.random.Generator) -> pd.DataFrame:
    readers = [("length", np.nan, "length"), ("routing", 3.0, ""), ("resid_post", 5.0, "")]
    rows = []
    for site, layer, baseline in readers:
        for cell in CELLS:
            share = 0.1 + 0.8 * rng.random()
            row = {"site": site, "layer": layer, "readout": "", "baseline": baseline, "cell": cell}
            row |= {"called_benchmark": share, "called_benchmark_low": share - 0.08}
            row |= {"called_benchmark_high": share + 0.06, "diagonal_auroc": 0.9, "n_clusters": 30}
            rows.append(row)
    return pd.DataFrame(rows)


def _coactivation(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for side, n_tokens in zip(SIDES, (1200, 900), strict=True):
        for layer in LAYERS:
            for other, sign in ((1, 1), (2, 1), (3, -1), (4, -1)):
                row = {"condition": side, "layer": layer, "expert": 0, "other_expert": other}
                row |= {"tokens_together": 50, "expected_tokens": 30.25, "n_tokens": n_tokens}
                rows.append(row | {"association": sign * rng.random()})
    return pd.DataFrame(rows)


def _paths(rng: np.random.Generator) -> pd.DataFrame:
    """The first path is listed under both rankings, as it is in a study."""
    steps = ["2:0 > 3:1", "2:0 > 3:4", "3:1 > 5:2", "3:4 > 5:0"]
    rows = [
        {"path": path, "share": 0.02, "expected_share": 0.01, "p_max": p}
        | {"share_benchmark": 0.01 + 0.02 * rng.random()}
        | {"share_organic": 0.01 + 0.02 * rng.random()}
        | {"n_permutations": 200, "n_clusters": 30, "cluster": "item", "n_paths": 72}
        for path, p in zip(steps, (0.005, 0.2, 0.01, 1.0), strict=True)
    ]
    frequent = [row | {"ranked_by": "share"} for row in rows]
    return pd.DataFrame([*frequent, rows[0] | {"ranked_by": "specific"}])


def _load(rng: np.random.Generator) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"condition": side, "layer": layer, "entropy_bits": 1.5 + rng.random(), "gini": 0.3}
            | {"n_slots": 2400, "committee_share": np.nan, "committee_members": np.nan}
            for side in SIDES
            for layer in LAYERS
        ]
    )


def _vocabulary(rng: np.random.Generator) -> pd.DataFrame:
    columns = {"share": 0.8 + 0.2 * rng.random(3), "shuffled_share": 0.3 + 0.1 * rng.random(3)}
    return pd.DataFrame({"layer": LAYERS, **columns, "n_ids": 57, "min_tokens": 10})


def _experiments(rng: np.random.Generator) -> pd.DataFrame:
    main = {"contrast": "benchmark - organic", "experts": "2:1 5:3", "n_found": 2, "role": "main"}
    main |= {"interaction": 0.2, "interaction_low": 0.12, "interaction_high": 0.31}
    main |= {"interaction_of_main_set": 0.2, "n_items": 21, "share_below": 0.97}
    found = main | {"contrast": "domain: code - reading", "experts": "3:0", "n_found": 1}
    found |= {"role": "placebo", "interaction": 0.03, "interaction_of_main_set": -0.02}
    found |= {"interaction_low": -0.01, "interaction_high": 0.05}
    none = found | {"contrast": "wording: benchmark-exam - benchmark-exam-sham", "n_found": 0}
    none |= {"experts": "", "interaction": 0.0, "interaction_of_main_set": 0.01}
    none |= {"interaction_low": None, "interaction_high": None}
    table = pd.DataFrame([main, found, none])
    return table.assign(outcome="content", intervention="reroute")


def _random_sets(rng: np.random.Generator) -> pd.DataFrame:
    sets = ["2:0 5:1", "2:2 5:4", "2:5", "2:3 5:0"]
    return pd.DataFrame({"experts": sets, "usage_ratio": 1.0, "interaction": rng.normal(size=4)})


def _doses(rng: np.random.Generator) -> pd.DataFrame:
    effect = rng.random(3)
    return pd.DataFrame(
        {
            "size": [1, 2, 3],
            "damage_benchmark": effect + 0.1,
            "damage_organic": 0.1,
            "interaction": effect,
            "interaction_low": effect - 0.1,
            "interaction_high": effect + 0.2,
            "n_items": 21,
            "n_paired": 8,
            "matched_low": -0.02 * np.arange(1, 4),
            "matched_high": 0.03 * np.arange(1, 4),
        }
    )
