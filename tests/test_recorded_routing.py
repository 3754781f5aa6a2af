"""Divergence of the recorded routing of gpt-oss-20b against a plain loop over its JSON records.

The loop shares no code with the package: it reads the files itself, knows messages by their
markers, and computes from the definitions with dictionaries.
"""

import gzip
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.analyses.divergence import Divergence, usage_divergence
from interp.analyses.store_divergence import store_divergence
from interp.analyses.usage import Usage, expert_usage
from interp.cache.fingerprinting import import_fingerprinting
from interp.cache.reader import Store
from interp.compared import COMPARED, compared

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "data" / "gpt-oss-20b-routing"
OPEN = ("sorry_bench_base", "tulu3_persona_if")
LAYERS = range(24)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not RECORDED.is_dir(), reason="the recorded routing lies beside the repository"
    ),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    files = sorted(RECORDED.glob("*.json.gz"))
    return import_fingerprinting(files, tmp_path_factory.mktemp("recorded") / "20b.moe")


@pytest.fixture(scope="module")
def ours(store: Store) -> Divergence:
    pair = compared(store, COMPARED)
    return usage_divergence(
        pair.expert_indices,
        benchmark=pair.benchmark,
        token_id=store.token_id[pair.token],
        prompt_index=pair.prompt_index,
        cluster=pair.item,
        n_experts=32,
        layer_indices=store.layout.layer_indices,
        rng=np.random.default_rng(0),
        n_permutations=200,
    )


def content_tokens() -> list[tuple[str, bool, str, dict[str, Any]]]:
    """File, whether of an open request, text and routing of each token inside a message."""
    found = []
    for path in sorted(RECORDED.glob("*.json.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            record = json.load(file)
        text, inside, within = record["full_text"], False, []
        for word in text:
            if word in ("<|start|>", "<|channel|>", "<|end|>", "<|return|>", "<|call|>"):
                inside = False
            within.append(inside)
            if word == "<|message|>":
                inside = True
        for entry in record["router_data"]:
            ((name, layers),) = entry.items()
            place = int(name.removeprefix("token_"))
            if within[place]:
                found.append((path.name, record["dataset"] in OPEN, text[place], layers))
    return found


def bits(a: list[float], b: list[float]) -> float:
    """Jensen-Shannon divergence as the mean of two relative entropies to the middle."""
    total = 0.0
    for p, q in zip(a, b, strict=True):
        middle = (p + q) / 2
        total += sum(x * math.log2(x / middle) / 2 for x in (p, q) if x > 0)
    return total


@pytest.fixture(scope="module")
def tokens() -> list[tuple[str, bool, str, dict[str, Any]]]:
    return content_tokens()


def test_raw_divergence_and_usage_are_those_of_the_loop(
    store: Store, ours: Divergence, tokens: list[tuple[str, bool, str, dict[str, Any]]]
) -> None:
    slots = {is_open: [[0] * 32 for _ in LAYERS] for is_open in (True, False)}
    by_file: dict[str, list[list[int]]] = defaultdict(lambda: [[0] * 32 for _ in LAYERS])
    is_open_of = {}
    for name, is_open, _, layers in tokens:
        is_open_of[name] = is_open
        for layer in LAYERS:
            for expert in layers[f"layer_{layer}"]["selected_experts"]:
                slots[is_open][layer][expert] += 1
                by_file[name][layer][expert] += 1
    n = {of: sum(slots[of][0]) / 4 for of in slots}
    assert ours.n_tokens_organic == n[True]
    assert ours.n_tokens_benchmark == n[False]
    share = {of: [[x / (4 * n[of]) for x in row] for row in slots[of]] for of in slots}
    expected = [bits(share[False][layer], share[True][layer]) for layer in LAYERS]
    np.testing.assert_allclose(ours.raw_bits, expected, rtol=1e-9)
    usage = _usage(store)
    np.testing.assert_allclose(usage.usage, [share[False], share[True]], rtol=1e-12)
    for row, of in enumerate((False, True)):
        files = [name for name in by_file if is_open_of[name] == of]
        mean = [
            [
                sum(by_file[f][layer][e] / sum(by_file[f][layer]) for f in files) / len(files)
                for e in range(32)
            ]
            for layer in LAYERS
        ]
        np.testing.assert_allclose(usage.mean()[row], mean, rtol=1e-9)


def _usage(store: Store) -> Usage:
    pair = compared(store, COMPARED)
    return expert_usage(
        pair.expert_indices,
        condition=pair.condition,
        prompt_index=pair.prompt_index,
        n_experts=32,
        layer_indices=store.layout.layer_indices,
    )


def test_token_matched_divergence_and_overlap_are_those_of_the_loop(
    ours: Divergence, tokens: list[tuple[str, bool, str, dict[str, Any]]]
) -> None:
    count: dict[tuple[str, bool], int] = defaultdict(int)
    for _, is_open, text, _ in tokens:
        count[text, is_open] += 1
    n = {of: sum(c for (_, side), c in count.items() if side == of) for of in (True, False)}
    common = {
        text: min(count[text, True] / n[True], count[text, False] / n[False])
        for text in {text for text, _ in count}
        if (text, True) in count and (text, False) in count
    }
    overlap = sum(common.values())
    assert ours.overlap == pytest.approx(overlap, rel=1e-9)
    usage = {of: [[0.0] * 32 for _ in LAYERS] for of in (True, False)}
    for _, is_open, text, layers in tokens:
        if text in common:
            weight = common[text] / overlap / count[text, is_open] / 4
            for layer in LAYERS:
                for expert in layers[f"layer_{layer}"]["selected_experts"]:
                    usage[is_open][layer][expert] += weight
    expected = [bits(usage[True][layer], usage[False][layer]) for layer in LAYERS]
    np.testing.assert_allclose(ours.token_matched_bits, expected, rtol=1e-9)


def test_the_store_read_part_by_part_gives_the_same(store: Store, ours: Divergence) -> None:
    def take(batch: Any) -> np.ndarray:
        return ~np.isin(batch.segment, [0, 1, 2])

    streamed = store_divergence(
        store,
        cluster=store.prompts["item_id"].to_numpy(dtype=str),
        rng=np.random.default_rng(0),
        n_permutations=20,
        take=take,
        table_bytes=2**22,
    )
    for name in ("raw_bits", "token_matched_bits", "overlap", "n_tokens_benchmark"):
        np.testing.assert_allclose(getattr(streamed, name), getattr(ours, name), rtol=1e-9)


def test_what_the_page_says_of_the_records_holds(ours: Divergence) -> None:
    assert (ours.p_value == 1 / 201).all()
    assert (ours.raw_bits > ours.raw_null_high_bits).all()
    assert (ours.token_matched_p_value == 1 / 201).all()
    assert ours.share_explained_by_vocabulary[0] > 0.8
    assert ours.share_explained_by_vocabulary[11:14].max() < 0.6
