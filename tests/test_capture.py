"""From prompts to a store: batches, padding, positions, order, and doing nothing twice."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.cache.errors import InputError, ModelError
from interp.cache.reader import Store, open_store
from interp.cache.records import SEGMENTS, SITES, Message, Prompt
from interp.cache.sharing import push
from interp.hooks.capture import capture
from interp.hooks.interventions import reroute
from interp.hooks.load import LoadedModel, load_model
from interp.hooks.positions import kept_positions
from interp.hooks.render import render_prompt
from interp.hooks.settings import CaptureSettings, GenerationSettings
from tests.reference_gpt_oss import run_reference
from tests.tiny_model import save_tiny

WORDS = (
    "What is the capital of Peru, and how far is it from the sea?",
    "two plus two",
    "my cat won't eat her food, what should i do",
    "a",
    "def add(a, b):\n    return a + b",
)


def prompts(words: Sequence[str] = WORDS) -> list[Prompt]:
    return [
        Prompt(
            messages=(Message(role="user", content=each),),
            condition=("benchmark", "organic")[number % 2],
            source="test",
        )
        for number, each in enumerate(words)
    ]


def captured(tiny: LoadedModel, out: Path, **settings: Any) -> Store:
    capture(tiny, prompts(), out, settings=CaptureSettings(**settings), progress=False)
    return open_store(out)


def test_a_store_holds_what_gpt_oss_written_out_by_hand_does(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    store = captured(tiny, tmp_path / "a.moe", sites=SITES, positions="all", batch_tokens=200)
    routing = store.router()
    assert routing.router_logits is not None
    for number, prompt in enumerate(prompts()):
        ours = store.prompt_index == number
        token_id = render_prompt(prompt, tiny.tokenizer).token_id
        np.testing.assert_array_equal(store.token_id[ours], token_id)
        for layer, expected in enumerate(run_reference(tiny.model, token_id.tolist())):
            np.testing.assert_array_equal(
                routing.expert_indices[ours, layer], expected.expert_indices
            )
            np.testing.assert_allclose(
                routing.expert_weights[ours, layer], expected.expert_weights, atol=2e-5
            )
            np.testing.assert_allclose(
                routing.router_logits[ours, layer], expected.router_logits, atol=5e-5
            )
            for site in ("resid_pre", "resid_mid", "resid_post"):
                rows = store.resid(site, layer).values[ours]
                wanted = getattr(expected, site).numpy()
                # float32 rounds sums to a share of their largest terms, not of what is left.
                assert np.abs(rows - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_batching_changes_neither_order_nor_routing(tiny: LoadedModel, tmp_path: Path) -> None:
    alone = captured(tiny, tmp_path / "alone.moe", batch_tokens=1, positions="all")
    together = captured(tiny, tmp_path / "together.moe", batch_tokens=100_000, positions="all")
    assert list(together.prompts["prompt_id"]) == [prompt.prompt_id for prompt in prompts()]
    np.testing.assert_array_equal(alone.token_id, together.token_id)
    np.testing.assert_array_equal(alone.router().expert_indices, together.router().expert_indices)
    np.testing.assert_allclose(
        alone.resid("resid_post", 1).values,
        together.resid("resid_post", 1).values,
        rtol=1e-5,
        atol=1e-5,
    )


def test_padding_is_never_stored(tiny: LoadedModel, tmp_path: Path) -> None:
    store = captured(tiny, tmp_path / "a.moe", batch_tokens=100_000)
    lengths = [len(render_prompt(prompt, tiny.tokenizer).token_id) for prompt in prompts()]
    assert list(store.prompts["n_tokens"]) == lengths
    assert store.n_tokens == sum(lengths)
    assert store.position.max() == max(lengths) - 1


def test_last_content_is_the_last_token_of_the_items_own_words(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    asked = Prompt(
        messages=(Message(role="user", content="Question: two plus two?\nAnswer:"),),
        condition="benchmark",
        content="two plus two?",
    )
    capture(tiny, [asked, *prompts()[:1]], tmp_path / "a.moe", progress=False)
    store = open_store(tmp_path / "a.moe")
    first = store.resid("resid_post", 0).token_index[0]
    before = "".join(store.token_texts(0)[: first + 1])
    assert before.rstrip().endswith("Question: two plus two?")
    assert store.segment[first] == SEGMENTS.index("user")


def test_every_nth_token_keeps_its_residuals(tiny: LoadedModel, tmp_path: Path) -> None:
    store = captured(tiny, tmp_path / "a.moe", positions="every:7")
    kept = store.resid("resid_post", 1).token_index
    np.testing.assert_array_equal(kept, np.flatnonzero(store.position % 7 == 0))


@given(st.lists(st.integers(0, len(SEGMENTS) - 1), min_size=1, max_size=30), st.integers(1, 9))
def test_kept_positions_rise_and_lie_within(segments: list[int], step: int) -> None:
    segment = np.array(segments, dtype=np.uint8)
    for positions in ("all", "last_content", f"every:{step}"):
        kept = kept_positions(positions, segment)
        assert kept.size
        assert (np.diff(kept) > 0).all()
        assert kept[0] >= 0
        assert kept[-1] < len(segment)


def test_the_same_capture_again_does_nothing(tiny: LoadedModel, tmp_path: Path) -> None:
    out = tmp_path / "a.moe"
    assert capture(tiny, prompts(), out, progress=False)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert not capture(tiny, prompts(), out, progress=False)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_another_capture_at_the_same_place_is_refused(tiny: LoadedModel, tmp_path: Path) -> None:
    out = tmp_path / "a.moe"
    capture(tiny, prompts(), out, progress=False)
    with pytest.raises(
        InputError, match=r"holds another capture, which differs in settings\.positions;"
    ):
        capture(tiny, prompts(), out, settings=CaptureSettings(positions="all"), progress=False)
    with pytest.raises(InputError, match="differs in prompts_sha256"):
        capture(tiny, prompts()[:2], out, progress=False)


def test_bfloat16_residuals_are_stored_bit_for_bit(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny-bf16", dtype=torch.bfloat16)
    loaded = load_model(str(folder), device_map="cpu")
    capture(
        loaded,
        prompts()[:1],
        tmp_path / "a.moe",
        settings=CaptureSettings(positions="all"),
        progress=False,
    )
    ids = torch.from_numpy(render_prompt(prompts()[0], loaded.tokenizer).token_id.astype(np.int64))
    # Between layers, transformers' own output is the residual stream.
    hidden = loaded.model(ids[None], output_hidden_states=True).hidden_states[1][0]
    stored = open_store(tmp_path / "a.moe").resid("resid_post", 0).values
    assert hidden.dtype == torch.bfloat16
    np.testing.assert_array_equal(stored, hidden.detach().float().numpy())


def test_a_failed_check_leaves_nothing_behind(tiny: LoadedModel, tmp_path: Path) -> None:
    with torch.no_grad():
        tiny.model.model.layers[1].mlp.router.bias[0] = float("nan")
    with pytest.raises(ModelError, match="router_logits of layer 1 hold NaN"):
        capture(tiny, prompts(), tmp_path / "a.moe", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_capture_under_an_intervention_is_refused(tiny: LoadedModel, tmp_path: Path) -> None:
    with (
        reroute(tiny.model, [(1, 3)]),
        pytest.raises(InputError, match=r"experts of layers \[1\] are taken out or routed by"),
    ):
        capture(tiny, prompts(), tmp_path / "a.moe", progress=False)
    assert not list(tmp_path.iterdir())


def test_no_prompt_is_refused(tiny: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no prompt to capture"):
        capture(tiny, [], tmp_path / "a.moe", progress=False)


@pytest.mark.parametrize("positions", ["last", "every:0", "every:x", "every", ""])
def test_unknown_positions_are_refused(positions: str) -> None:
    with pytest.raises(InputError, match="expected all, last_content or every:n"):
        CaptureSettings(positions=positions)


def test_provenance_says_what_was_captured_and_with_what(tiny: LoadedModel, tmp_path: Path) -> None:
    provenance = captured(tiny, tmp_path / "a.moe").provenance
    assert provenance["model"] == "tiny-gpt-oss"
    assert provenance["dtype"] == "float32"
    assert provenance["settings"]["positions"] == "last_content"
    assert provenance["versions"]["torch"] == torch.__version__
    assert len(provenance["weights_sha256"]) == len(provenance["chat_template_sha256"]) == 64
    assert str(tmp_path) not in str(provenance)


def test_what_was_registered_beforehand_stays_in_the_store_and_in_its_copies(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    registered = {"rule": {"alpha": 0.05}, "config_sha256": "ab", "model": "/home/me/model"}
    capture(tiny, prompts(), tmp_path / "a.moe", registered=registered, progress=False)
    push(tmp_path / "a.moe", str(tmp_path / "shelf"), tier="no_text")
    ours, theirs = (open_store(tmp_path / name).provenance for name in ("a.moe", "shelf"))
    assert ours["registered"] == registered
    assert theirs["registered"] == {"rule": {"alpha": 0.05}, "config_sha256": "ab"}


def test_licences_go_to_provenance_where_all_prompts_of_a_source_state_one(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    stated = [("b", "MIT"), ("a", "CC0-1.0"), ("c", "MIT"), ("c", None), ("", "MIT")]
    asked = [
        replace(prompt, source=source, meta={"license": known} if known else {})
        for prompt, (source, known) in zip(prompts(), stated, strict=True)
    ]
    assert capture(tiny, asked, tmp_path / "a.moe", progress=False)
    assert not capture(tiny, asked, tmp_path / "a.moe", progress=False)
    provenance = open_store(tmp_path / "a.moe").provenance
    assert provenance["source_licenses"] == {"a": "CC0-1.0", "b": "MIT"}


def test_a_copy_without_text_says_with_what_settings_it_was_captured(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    settings = CaptureSettings(generation=GenerationSettings(max_new_tokens=1), layers=(0,))
    capture(tiny, prompts(), tmp_path / "a.moe", settings=settings, progress=False)
    push(tmp_path / "a.moe", str(tmp_path / "shelf"), tier="no_text")
    ours, theirs = (open_store(tmp_path / name).provenance for name in ("a.moe", "shelf"))
    assert theirs["settings"] == ours["settings"]
    assert "source_licenses" not in ours


class SmallDevice:
    """A model whose device takes batches of so many rows, padding included, and no more."""

    def __init__(self, model: torch.nn.Module, rows: int) -> None:
        self.rows, self.refused = rows, 0
        model.model.layers[1].register_forward_pre_hook(self.check, with_kwargs=True)  # type: ignore[union-attr, index]

    def check(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[0] * hidden.shape[1] > self.rows:
            self.refused += 1
            raise torch.OutOfMemoryError("no memory left")


def test_a_batch_that_does_not_fit_is_run_in_halves(
    tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = captured(tiny, tmp_path / "a.moe", positions="all", batch_tokens=10_000, logprobs=True)
    monkeypatch.setattr("interp.hooks.capture.self_check", lambda *_, **__: {"experts_path": []})
    device = SmallDevice(tiny.model, rows=300)

    halved = captured(tiny, tmp_path / "b.moe", positions="all", batch_tokens=10_000, logprobs=True)

    assert device.refused > 0
    np.testing.assert_array_equal(halved.token_id, usual.token_id)
    np.testing.assert_array_equal(halved.router().expert_indices, usual.router().expert_indices)
    np.testing.assert_allclose(halved.logprob, usual.logprob, atol=1e-5)


def test_a_prompt_that_does_not_fit_alone_is_refused(
    tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.hooks.capture.self_check", lambda *_, **__: {"experts_path": []})
    SmallDevice(tiny.model, rows=50)
    with pytest.raises(InputError, match=r"a prompt of \d+ tokens does not fit into the memory"):
        captured(tiny, tmp_path / "a.moe")
