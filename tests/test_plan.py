"""How large a store will be, said before: never too little, and close to what is written."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interp.cache.manifest import canonical_json
from interp.cache.memory_file import MemoryFile
from interp.cache.part_builder import PartBuilder
from interp.cache.plan import planned, shape_only
from interp.cache.records import Layout, PromptActivations
from interp.cache.sizes import Sizes
from interp.cache.stored import Stored, checked
from interp.cli import main
from tests.store_samples import LAYOUT, PROVENANCE, RESID_LAYOUT, sample, write

DTYPES = ("float32", "float16", "bfloat16")
SITES = ((), ("resid_post",), ("resid_mid", "resid_post"))

layouts = st.fixed_dictionaries(
    {
        "n_layers": st.integers(1, 5),
        "n_experts": st.sampled_from([4, 256, 300]),
        "top_k": st.integers(1, 4),
        "d_model": st.sampled_from([1, 3, 64]),
        "weights_dtype": st.sampled_from(["float16", "float32"]),
        "resid_sites": st.sampled_from(SITES),
        "resid_dtype": st.sampled_from(DTYPES),
        "router_logits": st.booleans(),
        "expert_output_norms": st.booleans(),
    }
)
shapes = st.lists(
    st.tuples(
        st.integers(1, 20) | st.integers(200, 600),
        st.none() | st.integers(0, 300),
        st.text(max_size=9) | st.integers(0, 3000).map(lambda n: "ab…" * n),
    ),
    min_size=1,
    max_size=4,
)


def bound_and_real(
    prompts: list[PromptActivations], layout: Layout, *, provenance: str = "{}"
) -> tuple[int, int]:
    """What was said of the part before its last prompt came, and what it has."""
    file = MemoryFile(1)
    builder = PartBuilder(file, layout=layout, provenance=provenance, vocab=())
    sizes, bound = Sizes(fixed=2 * len(provenance.encode())), 0
    try:
        for each in prompts:
            stored = checked(each, layout, n_vocab=0)
            bound = sizes.with_one_more(stored)
            sizes.add(stored)
            builder.add(stored)
        return bound, len(builder.finish())
    finally:
        file.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(fields=layouts, sizes=shapes, provenance=st.sampled_from([2, 3000, 70_000]))
def test_a_part_is_never_larger_than_said(
    fields: dict[str, Any], sizes: list[tuple[int, int | None, str]], provenance: int
) -> None:
    layout = replace(LAYOUT, layer_indices=tuple(range(fields["n_layers"])), **fields)
    prompts = [
        sample(layout, seed=seed, n_tokens=n_tokens, n_rows=n_rows, text=text)
        for seed, (n_tokens, n_rows, text) in enumerate(sizes)
    ]
    text = json.dumps("x" * provenance)
    bound, real = bound_and_real(prompts, layout, provenance=text)
    assert real <= bound
    assert bound < 4 * real + 30_000


def with_source(activations: PromptActivations, source: str) -> PromptActivations:
    return replace(activations, prompt=dict(activations.prompt) | {"source": source})


LARGE = {
    "many rows of residuals, of which some tokens have none": (
        RESID_LAYOUT,
        [sample(RESID_LAYOUT, seed=n, n_tokens=4000, n_rows=3500) for n in range(50)],
    ),
    "chunks of fields that are not full": (
        LAYOUT,
        [with_source(sample(seed=n, n_tokens=1), "x" * 4000) for n in range(300)],
    ),
    "fields beyond the size of a chunk": (
        LAYOUT,
        [with_source(sample(n_tokens=1), "x" * (2**20 + 1)), sample(seed=1, n_tokens=1)],
    ),
    "very many small chunks": (
        replace(RESID_LAYOUT, d_model=1, resid_dtype="bfloat16"),
        [sample(replace(RESID_LAYOUT, d_model=1, resid_dtype="bfloat16"), n_tokens=300_000)],
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_part_is_never_larger_than_said(name: str) -> None:
    layout, prompts = LARGE[name]
    bound, real = bound_and_real(prompts, layout)
    assert real > 10**6
    assert real <= bound


def shapes_of(prompts: list[PromptActivations], layout: Layout) -> Iterator[Stored]:
    """The prompts as a dry run has them: of router and residuals no value, only the shape."""
    for each in prompts:
        stored = checked(each, layout, n_vocab=0)
        rows = stored.resid_token_index
        hollow: dict[str, Any] = {
            "router": hollowed(stored.router),
            "experts": hollowed(stored.experts),
            "resid": hollowed(stored.resid),
            "resid_token_index": None if rows is None else shape_only(rows.shape, "<i8"),
        }
        yield replace(stored, **hollow)


def hollowed(arrays: dict[Any, np.ndarray]) -> dict[Any, np.ndarray]:
    return {name: shape_only(each.shape, each.dtype.str) for name, each in arrays.items()}


CASES = [
    *product(DTYPES, SITES[1:2], (False,), (False,), (None,), ("float32",)),
    *product(DTYPES, SITES[2:], (False,), (False,), (40,), ("float32",)),
    ("float32", (), True, True, None, "float16"),
    ("float32", (), False, False, None, "float16"),
    ("bfloat16", SITES[2], True, True, 40, "float32"),
]


@pytest.mark.parametrize("part_mb", [512.0, pytest.param(0.3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("resid_dtype", "sites", "logits", "norms", "n_rows", "weights_dtype"), CASES
)
def test_a_plan_is_within_two_per_cent_of_what_is_written(
    tmp_path: Path,
    resid_dtype: str,
    sites: tuple[str, ...],
    logits: bool,
    norms: bool,
    n_rows: int | None,
    weights_dtype: str,
    part_mb: float,
) -> None:
    layout = replace(
        RESID_LAYOUT,
        d_model=48,
        resid_dtype=resid_dtype,
        resid_sites=sites,
        router_logits=logits,
        expert_output_norms=norms,
        weights_dtype=weights_dtype,
    )
    prompts = [sample(layout, seed=n, n_tokens=1000 + n, n_rows=n_rows) for n in range(12)]
    plan = planned(
        shapes_of(prompts, layout),
        layout=layout,
        provenance=canonical_json(PROVENANCE),
        part_bytes=int(part_mb * 10**6),
    )
    path = write(tmp_path / "s.moe", prompts, layout, part_mb=part_mb)
    parts = [each.stat().st_size for each in path.glob("part-*.h5")]
    assert sum(parts) > 200_000
    assert plan.n_parts == len(parts)
    assert plan.n_bytes == pytest.approx(sum(parts), rel=0.02)
    assert (plan.n_prompts, plan.n_tokens) == (12, sum(range(1000, 1012)))
    assert {f"resid/{site}" for site in sites} <= set(plan.bytes_by_dataset)


def test_bytes_of_a_site_are_those_of_its_values(tmp_path: Path) -> None:
    """2 sites of 2 layers and 4096 rows, 16 whole chunks each; routing in 1."""
    layout = replace(RESID_LAYOUT, d_model=64, resid_dtype="bfloat16")
    plan = planned(
        shapes_of([sample(layout, n_tokens=4096)], layout),
        layout=layout,
        provenance="{}",
        part_bytes=10**9,
    )
    found = plan.bytes_by_dataset
    assert found["resid/resid_mid"] == pytest.approx(2 * 4096 * 64 * 2, rel=0.01)
    assert found["router/expert_indices"] == pytest.approx(4096 * 2 * 2, rel=0.05)
    assert found["router/expert_weights"] == pytest.approx(4096 * 2 * 2 * 4, rel=0.02)
    assert set(found) == {
        "prompts and tokens",
        "router/expert_indices",
        "router/expert_weights",
        "resid/resid_mid",
        "resid/resid_post",
    }


DRY_RUNS = {
    "router alone": "--sites expert_indices expert_weights",
    "all sites": "--sites resid_pre resid_mid resid_post expert_indices expert_weights "
    "router_logits expert_output_norms --positions all",
    "one layer in bfloat16": "--sites resid_post expert_indices expert_weights --layers 1 "
    "--dtype bfloat16 --positions every:2",
    "small parts": "--sites resid_post expert_indices expert_weights --positions all --part-mb 0.5",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DRY_RUNS)
def test_a_dry_run_is_within_two_per_cent_of_the_capture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """As a user runs it: nothing is written by the first, and the second writes that much."""
    monkeypatch.chdir(tmp_path)
    command = f"capture toy --prompts matched --limit 8 --out a.moe --json {DRY_RUNS[name]}"
    said = [ran(f"{command} --dry-run", capsys)]
    assert list(tmp_path.iterdir()) == []
    said.append(ran(command, capsys))
    parts = [each.stat().st_size for each in Path("a.moe").glob("part-*.h5")]
    assert sum(parts) > 200_000
    assert said[0]["bytes"] == pytest.approx(sum(parts), rel=0.02)
    manifest = json.loads(Path("a.moe/manifest.json").read_text(encoding="utf-8"))
    found = (manifest["n_prompts"], manifest["n_tokens"], len(parts))
    assert (said[0]["prompts"], said[0]["tokens"], said[0]["parts"]) == found


def ran(command: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What a command says as JSON."""
    main(command.split())
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found
