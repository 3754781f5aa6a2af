"""Routing of one run in another against copies whose experts are handed it by the test itself."""

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import config
from torch import Tensor, nn

from interp.cache.errors import InputError, ModelError
from interp.cache.reader import Store, open_store
from interp.cache.records import Prompt
from interp.hooks import (
    CaptureSettings,
    PassRecords,
    SharedTokens,
    find_shared_tokens,
    patch_routing,
    replay_stored,
    reroute,
)
from interp.hooks.blocks import routed_blocks
from interp.hooks.capture import capture
from interp.hooks.load import LoadedModel
from tests.test_interventions import (
    assert_untouched,
    bits,
    fail,
    indices_of,
    logits_of,
    model_of,
    recorded,
    recorded_experts,
    shifted,
)
from tests.test_interventions_weights import IMPLEMENTATIONS, run_by
from tests.test_tap import all_hooks

FIRST = np.array([11, 40, 7, 19, 33, 52, 8])
SECOND = np.array([60, 7, 19, 80, 52, 8, 9, 14, 23])
SHARED = SharedTokens(first=np.array([2, 3, 5, 6]), second=np.array([1, 2, 4, 5]))


def ids_of(prompt: np.ndarray) -> Tensor:
    return torch.from_numpy(prompt)[None]


def handed_by_the_test(model: Any, given: Any, *, layers: list[int] | None = None) -> Any:
    """A copy whose experts get, at the rows of `SHARED`, what was given in another run."""
    edited = copy.deepcopy(model)
    for column, block in enumerate(routed_blocks(edited)):
        if layers is not None and block.layer not in layers:
            continue

        def hook(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], column: int = column
        ) -> tuple[Any, ...]:
            hidden, indices, weights = (*args, *kwargs.values())
            indices, weights = indices.clone(), weights.clone()
            for first, second in zip(SHARED.first.tolist(), SHARED.second.tolist(), strict=True):
                indices[second] = given.indices[first, column]
                weights[second] = given.weights[first, column]
            return (hidden, indices, weights), {}

        block.experts.register_forward_pre_hook(hook, with_kwargs=True)
    return edited


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("family", ["gpt_oss", "mixtral"])
def test_shared_tokens_go_where_they_went_in_the_other_run(
    family: str, implementation: str
) -> None:
    model, ids = model_of(family), ids_of(SECOND)
    with run_by(model, implementation):
        before, usual = bits(model), logits_of(model, ids)
        records = recorded(model, ids_of(FIRST))
        given = recorded_experts(model, ids_of(FIRST))
        expected = logits_of(handed_by_the_test(model, given), ids)
        with patch_routing(model, records, SHARED):
            assert torch.equal(logits_of(model, ids), expected)
        assert not torch.equal(usual, expected)
        assert torch.equal(logits_of(model, ids), usual)
    assert_untouched(model, before)


def test_only_some_layers_are_patched_where_they_are_named() -> None:
    model = model_of("gpt_oss")
    edited = handed_by_the_test(model, recorded_experts(model, ids_of(FIRST)), layers=[1])
    expected = logits_of(edited, ids_of(SECOND))
    with patch_routing(model, recorded(model, ids_of(FIRST)), SHARED, layers=[1]):
        assert torch.equal(logits_of(model, ids_of(SECOND)), expected)


def test_without_weights_only_the_experts_are_those_of_the_other_run() -> None:
    model = model_of("gpt_oss")
    other = recorded(model, ids_of(FIRST))
    with patch_routing(model, other, SHARED, weights=False):
        found = recorded(model, ids_of(SECOND))
    assert found.expert_weights is not None
    assert other.expert_weights is not None
    assert found.router_logits is not None
    for first, second in zip(SHARED.first.tolist(), SHARED.second.tolist(), strict=True):
        chosen = indices_of(found)[second, 0].tolist()
        assert sorted(chosen) == sorted(indices_of(other)[first, 0].tolist())
        expected = found.router_logits[second, 0, chosen].softmax(-1)
        torch.testing.assert_close(found.expert_weights[second, 0], expected)
    rows = SHARED.first
    assert not torch.equal(
        found.expert_weights[SHARED.second][:, 0], other.expert_weights[rows][:, 0]
    )


def test_a_run_patched_with_itself_is_itself() -> None:
    model = model_of("deepseek_v3")
    every = np.arange(len(FIRST))
    shared = SharedTokens(first=every, second=every)
    usual = logits_of(model, ids_of(FIRST))
    with patch_routing(model, recorded(model, ids_of(FIRST)), shared):
        assert torch.equal(logits_of(model, ids_of(FIRST)), usual)


def test_in_a_batch_the_rows_begin_at_the_first_of_the_prompt() -> None:
    model = model_of("gpt_oss")
    records = recorded(model, ids_of(FIRST))
    with patch_routing(model, records, SHARED):
        alone = recorded(model, ids_of(SECOND))
    batch = torch.cat([ids_of(SECOND).flip(-1), ids_of(SECOND)])
    with patch_routing(model, records, SHARED, first_row=len(SECOND)):
        both = recorded(model, batch)
    assert torch.equal(indices_of(both)[len(SECOND) :], indices_of(alone))
    usual = recorded(model, batch)
    assert torch.equal(indices_of(both)[: len(SECOND)], indices_of(usual)[: len(SECOND)])


def test_everything_is_put_back_when_the_body_fails() -> None:
    model = model_of("mixtral")
    before, records = bits(model), recorded(model, ids_of(FIRST))
    with pytest.raises(ZeroDivisionError), patch_routing(model, records, SHARED):
        fail()
    assert_untouched(model, before)


def test_what_cannot_be_patched_is_refused() -> None:
    model = model_of("gpt_oss")
    records = recorded(model, ids_of(FIRST))
    beyond = SharedTokens(first=np.array([2, 7]), second=np.array([1, 2]))
    refused: list[tuple[dict[str, Any], str]] = [
        ({"shared": beyond}, "token 7 of the first prompt, but records holds only 7 tokens"),
        ({"layers": [3]}, r"layers holds \[3\], but recorded were \[0, 1, 2\]"),
        ({"layers": []}, "layers holds nothing, but recorded were"),
        ({"records": replace(records, expert_weights=None)}, "records holds no expert_indices or"),
        ({"first_row": -2}, "rows holds a negative position or one twice"),
    ]
    for settings, sentence in refused:
        with pytest.raises(InputError, match=sentence):
            patch_routing(model, **({"records": records, "shared": SHARED} | settings)).__enter__()
    with (
        reroute(model, [(1, 0)]),
        pytest.raises(InputError, match="layer 1 is under reroute already"),
    ):
        patch_routing(model, records, SHARED).__enter__()
    assert not all_hooks(model)


def test_a_pass_without_those_rows_is_an_error() -> None:
    model = model_of("gpt_oss")
    with (
        patch_routing(model, recorded(model, ids_of(FIRST)), SHARED),
        pytest.raises(ModelError, match="rows holds 5, but layer 0 routes only 4 tokens"),
    ):
        logits_of(model, ids_of(SECOND[:4]))


# Which tokens are shared


def longest_by_trying(first: list[int], second: list[int]) -> int:
    """Length of a longest common subsequence, by all choices of tokens of the first."""
    for size in range(len(first), 0, -1):
        for chosen in itertools.combinations(first, size):
            left = iter(second)
            if all(token in left for token in chosen):
                return size
    return 0


def span_by_trying(first: list[int], second: list[int]) -> int:
    found = [
        stop - start
        for start in range(len(first))
        for stop in range(start + 1, len(first) + 1)
        for place in range(len(second))
        if second[place : place + stop - start] == first[start:stop]
    ]
    return max(found, default=0)


@pytest.mark.parametrize(
    ("how", "by_trying"), [("subsequence", longest_by_trying), ("span", span_by_trying)]
)
def test_as_many_tokens_are_paired_as_there_can_be(
    how: Any, by_trying: Callable[[list[int], list[int]], int]
) -> None:
    generator = np.random.default_rng(3)
    n_found = 0
    for _ in range(60):
        first, second = (generator.integers(0, 4, generator.integers(1, 9)) for _ in range(2))
        expected = by_trying(first.tolist(), second.tolist())
        if not expected:
            with pytest.raises(InputError, match="the prompts share none of their"):
                find_shared_tokens(first, second, how=how)
            continue
        shared = find_shared_tokens(first, second, how=how)
        n_found += 1
        assert len(shared) == expected
        assert (first[shared.first] == second[shared.second]).all()
        steps = [np.diff(each) for each in (shared.first, shared.second)]
        assert all((each == 1).all() if how == "span" else (each > 0).all() for each in steps)
    assert n_found > 40


def test_only_content_is_paired() -> None:
    """The template is the same in both and would be all that is found."""
    first, second = np.array([1, 2, 3, 50, 51, 9, 9]), np.array([1, 2, 3, 60, 51, 50, 9, 9])
    is_content = np.array([False] * 3 + [True] * 2 + [False] * 2)
    shared = find_shared_tokens(
        first,
        second,
        is_content_of_first=is_content,
        is_content_of_second=np.array([False] * 3 + [True] * 3 + [False] * 2),
    )
    assert (shared.first.tolist(), shared.second.tolist()) in (([3], [5]), ([4], [4]))
    with pytest.raises(InputError, match="share none of their 2 and 1 content tokens, so no rout"):
        find_shared_tokens(
            first,
            second,
            is_content_of_first=is_content,
            is_content_of_second=np.array([False] * 3 + [True] + [False] * 4),
        )


def test_the_first_of_several_spans_is_taken() -> None:
    shared = find_shared_tokens(np.array([5, 6, 1, 5, 6]), np.array([2, 5, 6, 3]), how="span")
    assert (shared.first.tolist(), shared.second.tolist()) == ([0, 1], [1, 2])


@pytest.fixture
def as_users_run_it() -> Iterator[None]:
    """Without the checks of types of the tests, which would refuse before the sentence is said."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("as_users_run_it")
def test_another_way_to_align_is_refused() -> None:
    with pytest.raises(InputError, match="how is 'words', expected subsequence or span"):
        find_shared_tokens(FIRST, SECOND, how="words")  # type: ignore[arg-type]


# From a store


@pytest.fixture
def of_another(tiny: LoadedModel, tmp_path: Path) -> tuple[Any, Store]:
    """A model that routes otherwise, and a store of two prompts that it ran."""
    other = shifted(tiny.model)
    texts = ("two plus two", "my cat won't eat her food")
    prompts = [Prompt(text=text, condition="organic", source="here") for text in texts]
    capture(
        replace(tiny, model=other),
        prompts,
        tmp_path / "run.moe",
        settings=CaptureSettings(batch_tokens=1),  # each by itself, as when it is replayed
        progress=False,
    )
    return other, open_store(tmp_path / "run.moe")


def prompt_ids(store: Store, prompt: int) -> Tensor:
    return torch.from_numpy(store.token_id[store.prompt_index == prompt].astype(np.int64))[None]


def test_a_stored_prompt_is_replayed(tiny: LoadedModel, of_another: tuple[Any, Store]) -> None:
    other, store = of_another
    before = bits(tiny.model)
    for prompt in (0, 1):
        ids = prompt_ids(store, prompt)
        with replay_stored(tiny.model, store, prompt):
            assert torch.equal(logits_of(tiny.model, ids), logits_of(other, ids))
        assert not torch.equal(logits_of(tiny.model, ids), logits_of(other, ids))
    assert_untouched(tiny.model, before)


def test_a_stored_prompt_is_replayed_in_a_batch(
    tiny: LoadedModel, of_another: tuple[Any, Store]
) -> None:
    _, store = of_another
    ids = prompt_ids(store, 1)
    batch = torch.cat([ids.flip(-1), ids])
    with replay_stored(tiny.model, store, 1, first_row=ids.shape[1]):
        found = indices_of(recorded(tiny.model, batch))
    stored = store.router().expert_indices[store.prompt_index == 1].astype(np.int64)
    assert found[ids.shape[1] :].sort(-1).values.tolist() == np.sort(stored, -1).tolist()
    usual = indices_of(recorded(tiny.model, batch))
    assert torch.equal(found[: ids.shape[1], 0], usual[: ids.shape[1], 0])


def test_other_tokens_than_those_stored_are_an_error(
    tiny: LoadedModel, of_another: tuple[Any, Store]
) -> None:
    _, store = of_another
    ids = prompt_ids(store, 0)
    for wrong, first_row in ((ids.flip(-1), None), (ids[:, :-1], None), (ids, 1)):
        with (
            replay_stored(tiny.model, store, 0, first_row=first_row),
            pytest.raises(ModelError, match="the pass has other tokens than the stored prompt, wh"),
        ):
            logits_of(tiny.model, wrong)
    with (
        replay_stored(tiny.model, store, 0),
        pytest.raises(ModelError, match="the model was given no input_ids"),
    ):
        tiny.model(inputs_embeds=tiny.model.model.embed_tokens(ids))
    assert not all_hooks(tiny.model)


def test_what_a_store_does_not_hold_is_refused(
    tiny: LoadedModel, of_another: tuple[Any, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store = of_another
    with pytest.raises(InputError, match="prompt is 2, but the store holds 2 prompts"):
        replay_stored(tiny.model, store, 2).__enter__()
    with pytest.raises(InputError, match=r"layers holds \[7\], but recorded were"):
        replay_stored(tiny.model, store, 0, layers=[7]).__enter__()
    monkeypatch.setattr(store, "layout", replace(store.layout, vocab_local=True))
    with pytest.raises(InputError, match="has token ids of its own"):
        replay_stored(tiny.model, store, 0).__enter__()
    assert not all_hooks(tiny.model)


def test_records_of_a_tap_and_of_a_store_patch_alike(
    tiny: LoadedModel, of_another: tuple[Any, Store]
) -> None:
    other, store = of_another
    ids = prompt_ids(store, 0)
    shared = find_shared_tokens(ids[0].numpy(), ids[0].numpy()[1:])
    records: PassRecords = recorded(other, ids)
    found = []
    for source in (records, store.router(prompts=np.array([0]))):
        with patch_routing(tiny.model, source, shared):
            found.append(logits_of(tiny.model, ids[:, 1:]))
    assert torch.equal(*found)
