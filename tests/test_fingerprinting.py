"""Import of recorded routing: every value where it belongs, every faulty record named."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.cache.errors import InputError
from interp.cache.fingerprinting import import_fingerprinting
from interp.cache.harmony import harmony_segments
from interp.cache.reader import open_store
from interp.cache.records import SEGMENTS
from tests.store_samples import expect_valid

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "data" / "gpt-oss-20b-routing"

HEAD = ["<|start|>", "user", "<|message|>", "Why", "?", "<|end|>", "<|start|>", "assistant"]
GENERATED = ["<|channel|>", "analysis", "<|message|>", "Hm", ".", "Hm", "<|end|>"]
"""The last token is never put in, so its routing is not recorded."""


def layers_of(position: int) -> dict[str, Any]:
    """Routing that differs by position and layer, and can be foretold."""
    return {
        f"layer_{layer}": {
            "selected_experts": [(position + layer + slot) % 32 for slot in range(4)],
            "selected_probs": [0.5, 0.25, 0.125, 0.125],
        }
        for layer in range(24)
    }


def record(**replaced: Any) -> dict[str, Any]:
    return {
        "row_index": 7,
        "dataset": "mmlu_validation",
        "category": "astronomy",
        "finished_successfully": True,
        "has_repetition": False,
        "original_prompt": "Why?",
        "full_text": HEAD + GENERATED,
        "generated_only": GENERATED,
        "router_data": [{f"token_{p}": layers_of(p)} for p in range(8, 14)],
    } | replaced


def saved(folder: Path, name: str = "a.json", **replaced: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps(record(**replaced)), encoding="utf-8")
    return path


def test_every_value_of_a_record_is_where_it_belongs(tmp_path: Path) -> None:
    store = import_fingerprinting([saved(tmp_path)], tmp_path / "s.moe")
    routing = store.router()
    for token, position in enumerate(range(8, 14)):
        for layer in range(24):
            expected = layers_of(position)[f"layer_{layer}"]
            assert routing.expert_indices[token, layer].tolist() == expected["selected_experts"]
            assert routing.expert_weights[token, layer].tolist() == expected["selected_probs"]
    assert store.position.tolist() == list(range(8, 14))
    assert store.generated.all()
    assert np.isnan(store.logprob).all()
    expect_valid(store.path)


def test_ids_are_local_and_follow_first_appearance(tmp_path: Path) -> None:
    store = import_fingerprinting([saved(tmp_path)], tmp_path / "s.moe")
    assert store.token_id.tolist() == [0, 1, 2, 3, 4, 3]
    assert store.token_texts(0) == GENERATED[:-1]
    assert store.text(0) == "".join(HEAD + GENERATED)


def test_condition_source_domain_and_item_are_filled_in(tmp_path: Path) -> None:
    files = [
        saved(tmp_path, "a.json"),
        saved(tmp_path, "b.json", has_repetition=True, row_index=8),
        saved(tmp_path, "c.json", dataset="tulu3_persona_if", original_prompt="Sing."),
    ]
    prompts = import_fingerprinting(files, tmp_path / "s.moe").prompts
    assert prompts["condition"].tolist() == ["benchmark", "benchmark", "organic"]
    assert prompts["source"].tolist() == ["mmlu_validation"] * 2 + ["tulu3_persona_if"]
    assert prompts["domain"].tolist() == ["astronomy"] * 3
    first = "mmlu_validation/astronomy/7"
    assert prompts["item_id"].tolist() == [first, first, "tulu3_persona_if/astronomy/7"]
    assert prompts["prompt_id"].nunique() == 2


def test_gzipped_and_plain_records_give_the_same_part(tmp_path: Path) -> None:
    plain = saved(tmp_path, "a.json")
    packed = tmp_path / "packed" / "a.json"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    stores = [import_fingerprinting([f], f.parent / "s.moe") for f in (plain, packed)]
    assert len({(store.path / "part-00000.h5").read_bytes() for store in stores}) == 1


def test_provenance_names_files_and_outcomes(tmp_path: Path) -> None:
    store = import_fingerprinting([saved(tmp_path)], tmp_path / "s.moe")
    (file,) = store.provenance["files"]
    assert store.provenance["model"] == "openai/gpt-oss-20b"
    assert store.provenance["license"] == "Apache-2.0"
    assert (file["name"], file["finished_successfully"]) == ("a.json", True)


def test_importing_again_changes_nothing(tmp_path: Path) -> None:
    files = [saved(tmp_path)]
    import_fingerprinting(files, tmp_path / "s.moe")
    before = (tmp_path / "s.moe" / "manifest.json").stat().st_mtime_ns
    assert import_fingerprinting(files, tmp_path / "s.moe").n_tokens == 6
    assert (tmp_path / "s.moe" / "manifest.json").stat().st_mtime_ns == before


def test_importing_other_files_to_the_same_store_is_refused(tmp_path: Path) -> None:
    import_fingerprinting([saved(tmp_path)], tmp_path / "s.moe")
    other = saved(tmp_path, "b.json", original_prompt="When?")
    with pytest.raises(InputError, match=r"holds another capture, which differs in files"):
        import_fingerprinting([other], tmp_path / "s.moe")


def test_weights_too_small_for_float16_are_kept_in_float32(tmp_path: Path) -> None:
    entries = record()["router_data"]
    tiny = float(np.float32(2.0**-30))
    entries[0]["token_8"]["layer_5"]["selected_probs"] = [0.5, 0.5, tiny, 0.0]
    store = import_fingerprinting([saved(tmp_path, router_data=entries)], tmp_path / "s.moe")
    assert store.router().expert_weights[0, 5].tolist() == [0.5, 0.5, tiny, 0.0]


def with_entry(change: dict[str, Any]) -> list[dict[str, Any]]:
    """Router entries whose second token has another layer 3."""
    entries: list[dict[str, Any]] = record()["router_data"]
    entries[1]["token_9"]["layer_3"] |= change
    return entries


def without_layer() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = record()["router_data"]
    del entries[1]["token_9"]["layer_3"]
    return entries


@pytest.mark.parametrize(
    ("replaced", "sentence"),
    [
        ({"dataset": "trivia"}, "dataset is 'trivia', expected one of mmlu_validation, mmlu_pro"),
        ({"category": None}, "category is NoneType, expected str"),
        ({"category": "a\0b"}, r"domain is 'a\\x00b', which holds a NUL"),
        ({"row_index": True}, "row_index is bool, expected int"),
        ({"original_prompt": " "}, "original_prompt cannot be used"),
        ({"full_text": [*HEAD, 3]}, r"full_text\[8\] is 3, expected the text of a token"),
        ({"full_text": [*HEAD, "\ud800"]}, "full_text is no valid Unicode"),
        ({"full_text": HEAD}, "tokens that rise within the 8 of full_text"),
        ({"router_data": []}, "router_data must hold at least one token"),
        ({"router_data": [{"token_x": {}}]}, r"router_data\[0\] is \{'token_x': \{\}\}, expected"),
        ({"router_data": [7]}, r"router_data\[0\] is 7, expected one key"),
        ({"router_data": [{"token_8": []}]}, r"router_data\[0\]\.token_8 must have layer_0 to"),
        ({"router_data": without_layer()}, r"token_9 must have layer_0 to .*not so: \['layer_3'\]"),
        (
            {"router_data": with_entry({"selected_experts": [1, 2, 3]})},
            r"token_9 layer_3 selected_experts is \[1, 2, 3\], expected 4 numbers",
        ),
        (
            {"router_data": with_entry({"selected_experts": [1, 2, 3, "4"]})},
            r"token_9 layer_3 selected_experts is \[1, 2, 3, '4'\], expected 4 numbers",
        ),
        (
            {"router_data": with_entry({"selected_probs": None})},
            r"token_9 layer_3 selected_probs is None, expected 4 numbers",
        ),
        (
            {"router_data": with_entry({"selected_experts": [1, 2, 3, 32]})},
            r"expert_indices holds expert 32",
        ),
        (
            {"router_data": with_entry({"selected_experts": [1, 2, 3, 3]})},
            r"expert_indices names one expert twice",
        ),
        (
            {"router_data": with_entry({"selected_probs": [0.5, 0.2, 0.1, 0.1]})},
            r"expert_weights sum to 1 only within 0\.1",
        ),
        (
            {"router_data": with_entry({"selected_probs": [0.5, 0.5, 0.0, float("nan")]})},
            r"expert_weights must be finite",
        ),
        (
            {"router_data": [{f"token_{p}": layers_of(8)} for p in range(8, 14)]},
            "routes every token alike",
        ),
    ],
)
def test_faulty_record_is_refused_by_file_and_key(
    tmp_path: Path, replaced: dict[str, Any], sentence: str
) -> None:
    file = saved(tmp_path, "faulty.json", **replaced)
    with pytest.raises(InputError, match=rf"faulty\.json: .*{sentence}"):
        import_fingerprinting([saved(tmp_path), file], tmp_path / "s.moe")
    assert not (tmp_path / "s.moe").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"hello", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"\xff", "is no JSON"),
        (b"[1]", "holds a list, expected one record"),
        (gzip.compress(b"{}" * 99, mtime=0)[:-9], "cannot be read"),
        (b"\x1f\x8b\x00", "cannot be read"),
    ],
)
def test_files_that_are_no_record_are_refused(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    (tmp_path / "odd.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"odd\.json {sentence}"):
        import_fingerprinting([tmp_path / "odd.json"], tmp_path / "s.moe")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json cannot be read"):
        import_fingerprinting([tmp_path / "none.json"], tmp_path / "s.moe")


def test_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file to import"):
        import_fingerprinting([], tmp_path / "s.moe")


def test_the_same_record_twice_is_refused(tmp_path: Path) -> None:
    files = [saved(tmp_path, "a.json"), saved(tmp_path, "b.json")]
    with pytest.raises(InputError, match=r"b\.json and .*a\.json hold the same record"):
        import_fingerprinting(files, tmp_path / "s.moe")


def segment_names(*token_texts: str) -> list[str]:
    return [SEGMENTS[segment] for segment in harmony_segments(token_texts)]


def test_only_content_of_harmony_messages_belongs_to_a_segment() -> None:
    found = segment_names(*HEAD, *GENERATED)
    head = ["template"] * 3 + ["user"] * 2 + ["template"] * 3
    assert found == head + ["template"] * 3 + ["analysis"] * 3 + ["template"]


def test_channel_is_read_before_the_recipient_of_a_tool_call() -> None:
    found = segment_names(
        "<|start|>", "assistant", "<|channel|>", "commentary", " to=f", "<|message|>", "x"
    )
    assert found == ["template"] * 6 + ["commentary"]


def test_channel_without_a_new_start_ends_the_message_before() -> None:
    found = segment_names(*HEAD, *GENERATED[:4], "<|channel|>", "final", "<|message|>", "Yes")
    assert found[-5:] == ["analysis", "template", "template", "template", "final"]


def test_unknown_roles_are_other_and_text_outside_of_messages_is_template() -> None:
    found = segment_names("x", "<|start|>", "critic", "<|message|>", "y", "<|end|>", "z")
    assert found == ["template"] * 4 + ["other"] + ["template"] * 2


@pytest.mark.slow
def test_recorded_routing_is_imported_in_full(tmp_path: Path) -> None:
    if not RECORDED.exists():
        pytest.skip("the recorded routing lies beside the repository, and is not there")
    files = sorted(RECORDED.glob("*.json.gz"))
    listed = [line.split("\t") for line in (RECORDED / "MANIFEST.tsv").read_text().splitlines()[1:]]
    by_source: Counter[str] = Counter()
    for _, dataset, _, n_tokens in listed:
        by_source[dataset] += int(n_tokens)
    store = import_fingerprinting(files, tmp_path / "s.moe")
    found = store.prompts.groupby("source")["n_tokens"].sum()
    assert found.to_dict() == dict(by_source)
    assert store.router().expert_indices.shape == (35_143, 24, 4)
    assert store.prompts["condition"].value_counts().to_dict() == {"benchmark": 84, "organic": 28}
    expect_valid(store.path)
    expect_same_as_file(open_store(store.path), files, prompt=50)


def expect_same_as_file(store: Any, files: list[Path], *, prompt: int) -> None:
    """One prompt of the real store against its file, value by value."""
    with gzip.open(files[prompt]) as file:
        given = json.load(file)
    ours = np.flatnonzero(store.prompt_index == prompt)
    routing = store.router(layers=[11])
    for token, entry in zip(ours, given["router_data"], strict=True):
        chosen = next(iter(entry.values()))["layer_11"]
        assert routing.expert_indices[token, 0].tolist() == chosen["selected_experts"]
        assert routing.expert_weights[token, 0].tolist() == chosen["selected_probs"]
    assert store.token_texts(prompt) == given["generated_only"][:-1]
