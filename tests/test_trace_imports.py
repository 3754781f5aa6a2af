"""Imports of traces: every value where it belongs, every faulty or empty trace named."""

import base64
import gzip
import json
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.cache import trace_npz_files
from interp.cache.errors import InputError
from interp.cache.reader import Store
from interp.cache.records import SEGMENTS
from interp.cache.trace_lines import whole_numbers
from interp.cache.trace_npz import import_npz
from interp.cache.trace_olmoe import import_olmoe
from interp.cache.trace_routing import routing_array
from interp.cache.trace_vllm import import_vllm
from tests.store_samples import expect_valid

PAGE = Path(__file__).resolve().parents[1] / "docs/imports.md"
PROMPT, ANSWER = [11, 12, 13], [21, 22, 23]
"""Five tokens are put in: the last of the answer never is."""


def expert(token: int, layer: int, slot: int) -> int:
    """Routing of a model with 2 of 8 experts that can be foretold."""
    return (3 * token + layer + 4 * slot) % 8


def nested(tokens: Sequence[int], n_layers: int = 3) -> list[list[list[int]]]:
    return [
        [[expert(token, layer, slot) for slot in range(2)] for layer in range(n_layers)]
        for token in tokens
    ]


def flat(routing: list[list[list[int]]]) -> list[int]:
    return [each for token in routing for layer in token for each in layer]


def raw_int32(routing: list[list[list[int]]]) -> str:
    """As SGLang sends it: int32, lowest byte first, without a shape."""
    values = flat(routing)
    return base64.b64encode(struct.pack(f"<{len(values)}i", *values)).decode()


def npy(routing: list[list[list[int]]]) -> str:
    """As vLLM sends it: an .npy file of uint8, put together by hand."""
    shape = (len(routing), len(routing[0]), len(routing[0][0]))
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    padded = header + " " * (63 - (10 + len(header)) % 64) + "\n"
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode()
    return base64.b64encode(head + bytes(flat(routing))).decode()


def completion(**replaced: Any) -> dict[str, Any]:
    """A response of vLLM's /v1/completions with return_token_ids."""
    choice = {
        "index": 0,
        "text": " Paris.",
        "logprobs": None,
        "token_ids": ANSWER,
        "prompt_token_ids": PROMPT,
        "routed_experts": npy(nested(range(5))),
    }
    return {"id": "cmpl-1", "model": "tiny", "choices": [choice | replaced]}


def split(**replaced: Any) -> dict[str, Any]:
    """A response of vLLM 0.21, which lists prompt and answer apart."""
    choice = {"token_ids": ANSWER, "routed_experts": nested(range(3, 5))}
    response = {
        "choices": [choice],
        "prompt_token_ids": PROMPT,
        "prompt_routed_experts": nested(range(3)),
    }
    return response | replaced


def sglang(**replaced: Any) -> dict[str, Any]:
    """A response of SGLang's /generate, with the ids that were sent added to it."""
    meta = {
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "routed_experts": raw_int32(nested(range(5))),
    }
    return {"output_ids": ANSWER, "input_ids": PROMPT, "meta_info": meta | replaced}


def saved(folder: Path, *records: Mapping[str, Any], name: str = "a.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def vllm(files: Sequence[Path], out: Path, **options: Any) -> Store:
    defaults = {"model": "tiny", "n_experts": 8, "condition": "organic"}
    return import_vllm(files, out, **defaults | options)


def expect_routing(store: Store, tokens: Sequence[int], n_layers: int = 3) -> None:
    found = store.router().expert_indices
    assert found.shape == (len(tokens), n_layers, 2)
    for row, token in enumerate(tokens):
        for layer in range(n_layers):
            chosen = [expert(token, layer, slot) for slot in range(2)]
            assert found[row, layer].tolist() == chosen


OBJECT = {
    "data": base64.b64encode(struct.pack("<30h", *flat(nested(range(5))))).decode(),
    "shape": [5, 3, 2],
    "dtype": "int16",
}
EXTENSION = {"routed_experts": raw_int32(nested(range(5)))}


@pytest.mark.parametrize(
    ("response", "options"),
    [
        (completion(), {}),
        (completion(routed_experts=nested(range(5))), {}),
        (completion(routed_experts=OBJECT), {}),
        (completion(routed_experts=None, sgl_ext=EXTENSION), {"top_k": 2}),
        (completion(routed_experts=None) | {"sglext": EXTENSION}, {"top_k": 2}),
        (split(), {}),
        (sglang(), {"top_k": 2}),
    ],
    ids=["npy", "list", "object", "sgl_ext", "sglext", "split", "sglang"],
)
def test_every_form_gives_the_same_tokens_and_experts(
    tmp_path: Path, response: dict[str, Any], options: dict[str, Any]
) -> None:
    store = vllm([saved(tmp_path, response)], tmp_path / "s.moe", **options)
    expect_routing(store, range(5))
    assert store.token_id.tolist() == [11, 12, 13, 21, 22]
    assert store.generated.tolist() == [False] * 3 + [True] * 2
    assert store.position.tolist() == [0, 1, 2, 3, 4]
    assert {SEGMENTS[segment] for segment in store.segment} == {"other"}
    assert not store.layout.vocab_local
    expect_valid(store.path)


@given(values=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=12, max_size=12))
def test_base64_is_little_endian_int32(values: list[int]) -> None:
    packed = b"".join(
        bytes((each >> shift) & 0xFF for shift in (0, 8, 16, 24))  # lowest byte first, by hand
        for each in values
    )
    text = base64.b64encode(packed).decode()
    array, start = routing_array(text, where="a: b", start=1, n_rows=(4,), top_k=2)
    assert start == 1
    assert array.shape == (3, 2, 2)
    assert array.ravel().tolist() == values


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=3), st.lists, max_leaves=9
    )
)
def test_what_is_no_list_of_whole_numbers_is_refused(found: Any) -> None:
    if found == []:
        return
    with pytest.raises(InputError, match=r"a: b is .*expected a list of token ids"):
        whole_numbers("a: b", found, n_dims=1)


def test_weights_that_were_not_recorded_are_even_and_said_to_be(tmp_path: Path) -> None:
    store = vllm([saved(tmp_path, completion())], tmp_path / "s.moe")
    assert set(store.router().expert_weights.ravel().tolist()) == {0.5}
    assert store.layout.weights_sum == "family"
    assert store.provenance["expert_weights"] == "not recorded; 1/top_k stands in"
    assert "Expert weights were not recorded" in store.provenance["caveats"][0]


def test_rows_left_out_in_front_keep_their_positions(tmp_path: Path) -> None:
    given_start = completion(routed_experts=nested(range(2, 5)))
    said = completion(routed_experts=OBJECT | {
        "data": base64.b64encode(struct.pack("<18h", *flat(nested(range(2, 5))))).decode(),
        "shape": [3, 3, 2],
        "start": 2,
    })  # fmt: skip
    first = vllm([saved(tmp_path, given_start)], tmp_path / "s.moe", prompt_start=2)
    second = vllm([saved(tmp_path, said, name="b.jsonl")], tmp_path / "t.moe")
    for store in (first, second):
        expect_routing(store, range(2, 5))
        assert store.position.tolist() == [2, 3, 4]
        assert store.token_id.tolist() == [13, 21, 22]
        assert store.generated.tolist() == [False, True, True]


def test_tokens_marked_as_cached_are_left_out_and_counted(tmp_path: Path) -> None:
    gone = [[[-1, -1]] * 3] * 2
    response = split(prompt_routed_experts=gone + nested([2]))
    store = vllm([saved(tmp_path, response)], tmp_path / "s.moe")
    expect_routing(store, range(2, 5))
    assert store.position.tolist() == [2, 3, 4]
    assert store.provenance["tokens_without_routing"] == 2
    expect_valid(store.path)


def test_choices_of_one_response_share_prompt_and_item(tmp_path: Path) -> None:
    response = completion()
    other = response["choices"][0] | {"token_ids": [24], "routed_experts": npy(nested(range(3)))}
    response["choices"].append(other)
    store = vllm([saved(tmp_path, response)], tmp_path / "s.moe")
    assert store.prompts["n_tokens"].tolist() == [5, 3]
    assert store.prompts["prompt_id"].nunique() == store.prompts["item_id"].nunique() == 1
    assert store.generated.tolist() == [False] * 3 + [True] * 2 + [False] * 3


@pytest.mark.parametrize(
    "given",
    [
        {"token_logprobs": [-0.5, None, -2.0]},
        {"token_logprobs": [None, -9.0, -9.0, -0.5, None, -2.0]},
        {"content": [{"logprob": -0.5}, {"logprob": None}, {"logprob": -2.0}]},
    ],
    ids=["completions", "echo", "chat"],
)
def test_logprobs_belong_to_the_answer(tmp_path: Path, given: dict[str, Any]) -> None:
    store = vllm([saved(tmp_path, completion(logprobs=given))], tmp_path / "s.moe")
    assert store.logprob[3] == -0.5
    assert np.isnan(store.logprob[4])
    assert np.isnan(store.logprob[0])


def test_logprobs_of_sglang_are_read(tmp_path: Path) -> None:
    response = sglang(output_token_logprobs=[[-0.5, 21, None], [-1.5, 22, None], [-2.0, 23, None]])
    store = vllm([saved(tmp_path, response)], tmp_path / "s.moe", top_k=2)
    assert store.logprob[3:].tolist() == [-0.5, -1.5]


def test_fields_of_a_line_come_before_the_options(tmp_path: Path) -> None:
    named = completion() | {"condition": "benchmark", "source": "mmlu", "item_id": "7"}
    unnamed = split()
    prompts = vllm([saved(tmp_path, named, unnamed, name="mine.jsonl")], tmp_path / "s.moe").prompts
    assert prompts["condition"].tolist() == ["benchmark", "organic"]
    assert prompts["source"].tolist() == ["mmlu", "mine"]
    assert prompts["item_id"].tolist() == ["7", prompts["prompt_id"][1]]


def test_text_is_kept_where_prompt_and_answer_have_it(tmp_path: Path) -> None:
    files = [saved(tmp_path, completion() | {"prompt_text": "Capital?"}, split())]
    store = vllm(files, tmp_path / "s.moe")
    assert store.text(0) == "Capital? Paris."
    assert store.text(1) == ""


def test_dense_layers_are_left_out_by_number(tmp_path: Path) -> None:
    """SGLang has a row for each hidden layer, and zeros where one is dense."""
    routing = [[[0, 0], *layers] for layers in nested(range(5))]
    file = saved(tmp_path, completion(routed_experts=routing))
    with pytest.raises(InputError, match=r"a\.jsonl line 1: .*routing of layers \[0\] is all zero"):
        vllm([file], tmp_path / "s.moe")
    store = vllm([file], tmp_path / "s.moe", layers=[1, 2, 3])
    assert store.layout.layer_indices == (1, 2, 3)
    expect_routing(store, range(5))


def test_layers_are_named_where_as_many_as_recorded_are_given(tmp_path: Path) -> None:
    store = vllm([saved(tmp_path, completion())], tmp_path / "s.moe", layers=[1, 5, 9])
    assert store.layout.layer_indices == (1, 5, 9)
    expect_routing(store, range(5))


def test_token_texts_come_from_a_vocabulary(tmp_path: Path) -> None:
    vocab = tmp_path / "vocab.json"
    vocab.write_text(json.dumps([f"<{number}>" for number in range(30)]))
    store = vllm([saved(tmp_path, completion())], tmp_path / "s.moe", vocab=vocab)
    assert store.token_texts(0) == ["<11>", "<12>", "<13>", "<21>", "<22>"]
    expect_valid(store.path)


def test_gzipped_and_plain_lines_give_the_same_part(tmp_path: Path) -> None:
    plain = saved(tmp_path, completion())
    packed = tmp_path / "packed" / "a.jsonl"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    stores = [vllm([file], file.parent / "s.moe") for file in (plain, packed)]
    assert len({(store.path / "part-00000.h5").read_bytes() for store in stores}) == 1


def test_importing_again_changes_nothing(tmp_path: Path) -> None:
    files = [saved(tmp_path, completion())]
    vllm(files, tmp_path / "s.moe")
    before = (tmp_path / "s.moe" / "manifest.json").stat().st_mtime_ns
    assert vllm(files, tmp_path / "s.moe").n_tokens == 5
    assert (tmp_path / "s.moe" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"differs in condition_where_unnamed"):
        vllm(files, tmp_path / "s.moe", condition="benchmark")


def test_the_same_record_twice_is_refused(tmp_path: Path) -> None:
    files = [saved(tmp_path, split(), completion()), saved(tmp_path, completion(), name="b.jsonl")]
    with pytest.raises(InputError, match=r"b\.jsonl line 1 and .*a\.jsonl line 2 hold the same re"):
        vllm(files, tmp_path / "s.moe")


def zeros(n_tokens: int, n_layers: int) -> list[list[list[int]]]:
    return [[[0, 0]] * n_layers] * n_tokens


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        (
            completion(routed_experts=npy(zeros(5, 3))),
            r"choices\[0\]\.routed_experts: routing of layers \[0, 1, 2\] is all zero; vLLM "
            "returns this when the kernel in use does not report routing",
        ),
        (sglang(routed_experts=raw_int32(zeros(5, 3))), r"layers \[0, 1, 2\] is all zero"),
        (
            completion(routed_experts=[[layers[0], [0, 0], [0, 0]] for layers in nested(range(5))]),
            r"layers \[1, 2\] is all zero",
        ),
        (
            completion(routed_experts=[[layers[0], [-1, -1]] for layers in nested(range(5))]),
            r"layers \[1\] is all -1",
        ),
        (completion(routed_experts=[[[-1, -1]] * 3] * 5), "has no routing of any token"),
        (
            completion(routed_experts=[nested([1])[0]] * 5),
            r"layers \[0, 1, 2\] is the same for every token \(\[3, 7\] at layer 0\)",
        ),
        (
            completion(routed_experts=[[*each[:2], [5, 1]] for each in nested(range(5))]),
            r"layers \[2\] is the same for every token \(\[5, 1\] at layer 2\)",
        ),
    ],
    ids=[
        "zero",
        "zero-sglang",
        "zero-layers",
        "minus-layer",
        "minus",
        "constant",
        "constant-layer",
    ],
)
def test_routing_that_was_not_reported_is_refused_by_layer(
    tmp_path: Path, response: dict[str, Any], sentence: str
) -> None:
    options = {"top_k": 2} if "meta_info" in response else {}
    with pytest.raises(InputError, match=rf"odd\.jsonl line 1.*{sentence}"):
        vllm([saved(tmp_path, response, name="odd.jsonl")], tmp_path / "s.moe", **options)
    assert not (tmp_path / "s.moe").exists()


def test_a_faulty_response_among_good_ones_is_named_by_its_line(tmp_path: Path) -> None:
    file = saved(tmp_path, split(), completion(routed_experts=npy(zeros(5, 3))))
    with pytest.raises(InputError, match=r"a\.jsonl line 2: .*is all zero"):
        vllm([file], tmp_path / "s.moe")


def test_one_expert_per_token_may_be_expert_0_by_chance(tmp_path: Path) -> None:
    routing = [[[0], [token % 8]] for token in range(3)]
    answer = {"token_ids": [21], "routed_experts": routing}
    store = vllm([saved(tmp_path, completion(**answer))], tmp_path / "s.moe")
    assert store.router().expert_indices.ravel().tolist() == [0, 0, 0, 1, 0, 2]


BASE64 = base64.b64encode(b"12345").decode()


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        ({}, "choices is None, expected the list of a response"),
        ({"choices": [3]}, r"choices is \[3\], expected"),
        (completion(token_ids=None), "token_ids and output_ids are absent; ask the server"),
        (completion(prompt_token_ids=None), "prompt_token_ids and input_ids are absent"),
        (
            completion(token_ids=[1.5]),
            r"choices\[0\]\.token_ids is \[1\.5\], expected a list of token ids",
        ),
        (completion(token_ids=[True]), r"token_ids is \[True\], expected"),
        (completion(routed_experts=None), "routed_experts is absent; serve with --enable-return-r"),
        (completion(routed_experts="&"), r"routed_experts is no base64 \("),
        (completion(routed_experts=BASE64), "is raw int32 as SGLang sends it.* give --top-k"),
        (completion(routed_experts=nested(range(4))), "has 4 tokens, expected 5"),
        (completion(routed_experts=[[1, 2]]), r"is \[\[1, 2\]\], expected a list of expert ids"),
        (completion(routed_experts=OBJECT | {"dtype": "object"}), r"dtype is 'object', expected"),
        (completion(routed_experts=OBJECT | {"shape": [5, 3]}), r"shape is \[5, 3\], expected tok"),
        (completion(routed_experts=OBJECT | {"shape": [5, 3, 3]}), "holds 60 bytes, expected 90"),
        (completion(routed_experts=OBJECT | {"start": 9}), "said to start at token 9, expected 0"),
        (completion(routed_experts=OBJECT | {"start": "a"}), r"start is 'a', expected a whole num"),
        (completion(routed_experts=OBJECT | {"data": None}), "data is None, expected base64"),
        (
            completion(routed_experts=[*nested(range(4)), [[8, 1], [0, 1], [0, 1]]]),
            r"token 4 at layer 0 chose expert 8, but the layer has only 8 experts",
        ),
        (
            completion(routed_experts=[*nested(range(4)), [[0, 1], [2, 2], [0, 1]]]),
            r"token 4 at layer 1 names one expert twice, in \[2, 2\]",
        ),
        (split(prompt_routed_experts=nested(range(2))), r"prompt_routed_experts has 2 tokens"),
        (
            split(prompt_routed_experts=nested(range(3), n_layers=2)),
            r"have shapes \(3, 2, 2\) and \(2, 3, 2\)",
        ),
        (split(choices=[{"token_ids": ANSWER, "routed_experts": []}]), "is empty, expected 2 tok"),
        (completion(logprobs={"token_logprobs": [-1.0]}), "token_logprobs has 1 entries, expected"),
        (completion(logprobs={"content": [{}] * 3}), "content is .*expected log-probabilities"),
        (completion(logprobs={"token_logprobs": [3.0] * 3}), "logprob holds 3; the log of"),
        (completion(token_ids=[-1, 2, 3]), "token_id holds -1 to 13, expected 0 or more"),
        (completion() | {"condition": "odd"}, "condition is 'odd'; add it to the record"),
        (completion() | {"domain": 3}, "domain is 3, expected a text"),
    ],
)
def test_faulty_response_is_refused_by_file_line_and_key(
    tmp_path: Path, response: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=rf"faulty\.jsonl line 1.*{sentence}"):
        vllm([saved(tmp_path, response, name="faulty.jsonl")], tmp_path / "s.moe")
    assert not (tmp_path / "s.moe").exists()


def npy_saying(shape: str, descr: str = "|u1") -> str:
    """An .npy file of 30 bytes whose header says something else."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(30)
    return base64.b64encode(raw).decode()


@pytest.mark.parametrize(
    ("routed", "sentence"),
    [
        (npy_saying("(5, 3, 2000000000000)"), "but holds"),
        (npy_saying("(5, 3, -2)"), "but holds"),
        (npy_saying("(5, 3, 2)", descr="|O"), "has dtype object, expected numbers"),
        (npy_saying("(5, 3, 2)", descr="nonsense"), "is no NumPy array"),
        (npy_saying("(5, 6)"), r"has shape \(5, 6\) and dtype uint8, expected whole numbers along"),
        (base64.b64encode(b"\x93NUMPY\x03\x00").decode(), r"is an array of format \(3, 0\)"),
        (base64.b64encode(b"\x93NUMPY\x01\x00").decode(), "is no NumPy array"),
    ],
)
def test_hostile_arrays_are_refused_by_their_header(
    tmp_path: Path, routed: str, sentence: str
) -> None:
    with pytest.raises(
        InputError, match=rf"a\.jsonl line 1: .*routed_experts {sentence}|{sentence}"
    ):
        vllm([saved(tmp_path, completion(routed_experts=routed))], tmp_path / "s.moe")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"condition": None}, "condition is absent; add it to the record or give --condition"),
        ({"condition": "odd"}, "condition is 'odd', expected one of benchmark"),
        ({"model": " "}, "model is empty, expected the name of the model"),
        ({"n_experts": 0}, "n_experts is 0, expected 1 to"),
        ({"layers": [2, 1]}, r"layers is \[2, 1\], expected rising numbers"),
        ({"layers": [0, 3]}, "layers names 2 layers up to 3, but .* has 3"),
        ({"top_k": 3}, "has 2 experts per token, but top_k is 3"),
        ({"prompt_start": 5}, "is said to start at token 5, expected 0 to 4"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        vllm([saved(tmp_path, completion())], tmp_path / "s.moe", **options)


def test_raw_int32_of_another_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"holds 120 bytes, expected int32 for 5 tokens .* with 4 e"
    ):
        vllm([saved(tmp_path, sglang())], tmp_path / "s.moe", top_k=4)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"hello\n", r"odd\.jsonl line 1 is no JSON"),
        (b"\n\n[1]", r"odd\.jsonl line 3 holds a list, expected one record"),
        (b"[" * 100_000, r"odd\.jsonl line 1 is no JSON"),
        (gzip.compress(b"{}" * 99, mtime=0)[:-9], r"odd\.jsonl cannot be read"),
        (b"", "no record to import"),
    ],
)
def test_files_that_are_no_records_are_refused(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    (tmp_path / "odd.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        vllm([tmp_path / "odd.jsonl"], tmp_path / "s.moe")


def test_lines_without_an_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.cache.trace_lines.MAX_LINE_BYTES", 2**20)
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(b"[" * 2**22))
    with pytest.raises(InputError, match=r"bomb\.jsonl\.gz line 1 is longer than 1 MB"):
        vllm([tmp_path / "bomb.jsonl.gz"], tmp_path / "s.moe")


def test_missing_and_no_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl cannot be read"):
        vllm([tmp_path / "none.jsonl"], tmp_path / "s.moe")
    with pytest.raises(InputError, match="no record to import"):
        vllm([], tmp_path / "s.moe")
    with pytest.raises(InputError, match="no file to import"):
        import_npz([], tmp_path / "s.moe", model="m")


def test_responses_of_two_models_are_refused(tmp_path: Path) -> None:
    other = completion(routed_experts=nested(range(5), n_layers=4))
    with pytest.raises(
        InputError, match=r"line 2: .* has 4 layers of 2 experts, but .*line 1 has 3"
    ):
        vllm([saved(tmp_path, completion(), other)], tmp_path / "s.moe")


@pytest.mark.parametrize("content", [b"{}", b"[1]", b'["\\ud800"]', b"\xff", None])
def test_vocabularies_that_are_none_are_refused(tmp_path: Path, content: bytes | None) -> None:
    vocab = tmp_path / "v.json"
    if content is not None:
        vocab.write_bytes(content)
    with pytest.raises(InputError, match=r"v\.json (is no vocabulary|cannot be read as a vocab)"):
        vllm([saved(tmp_path, completion())], tmp_path / "s.moe", vocab=vocab)


def olmoe_line(n_tokens: int = 4, **replaced: Any) -> dict[str, Any]:
    """As run_moe_analysis.py writes it: experts by token, then slot, then layer."""
    exp_ids = [
        [[expert(token, layer, slot) for layer in range(3)] for slot in range(2)]
        for token in range(n_tokens)
    ]
    ids = list(range(40, 40 + n_tokens))
    return {"input_ids": ids, "predicted_token_ids": ids, "exp_ids": exp_ids} | replaced


def test_layers_come_last_in_olmoe(tmp_path: Path) -> None:
    file = saved(tmp_path, olmoe_line(), olmoe_line(5), name="c4_results.jsonl")
    store = import_olmoe([file], tmp_path / "s.moe", n_experts=8, condition="mixed")
    expect_routing(store, [*range(4), *range(5)])
    assert store.token_id.tolist() == [40, 41, 42, 43, 40, 41, 42, 43, 44]
    assert not store.generated.any()
    assert np.isnan(store.logprob).all()
    assert store.prompts["source"].tolist() == ["c4_results"] * 2
    assert store.provenance["model"] == "allenai/OLMoE-1B-7B-0924"
    assert store.provenance["files"][0]["name"] == "c4_results.jsonl"
    expect_valid(store.path)


@pytest.mark.parametrize(
    ("replaced", "sentence"),
    [
        ({"exp_ids": [[[0] * 3] * 2] * 4}, r"routing of layers \[0, 1, 2\] is all zero"),
        ({"exp_ids": [[[1, 2, 3], [4, 5, 6]]] * 4}, r"layers \[0, 1, 2\] is the same for every"),
        (
            {"exp_ids": [[[1, 2], [3, 2]]] * 4},
            r"exp_ids \(axes tokens, top_k, layers\): token 0 at layer 1 names one expert twice",
        ),
        ({"exp_ids": nested(range(3))}, "exp_ids has 3 tokens, but input_ids has 4"),
        ({"exp_ids": [[1]]}, r"exp_ids is \[\[1\]\], expected"),
        ({"input_ids": "a"}, "input_ids is 'a', expected a list of token ids"),
    ],
)
def test_faulty_line_of_olmoe_is_refused(
    tmp_path: Path, replaced: dict[str, Any], sentence: str
) -> None:
    file = saved(tmp_path, olmoe_line(**replaced))
    with pytest.raises(InputError, match=rf"a\.jsonl line 1: .*{sentence}"):
        import_olmoe([file], tmp_path / "s.moe", n_experts=8, condition="mixed")


def test_line_without_expert_ids_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 1: exp_ids is absent, expected lines of OLMoE's"):
        import_olmoe([saved(tmp_path, {"input_ids": [1]})], tmp_path / "s.moe", condition="mixed")


def archive(folder: Path, name: str = "a.npz", **replaced: Any) -> Path:
    """Two prompts of 3 and 2 tokens; None leaves a key out."""
    arrays = {
        "token_id": np.array([5, 6, 7, 8, 9]),
        "expert_indices": np.array(nested(range(5))),
        "prompt_offset": np.array([0, 3, 5]),
        "condition": np.array(["benchmark", "organic"]),
    } | replaced
    path = folder / name
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def npz(files: Sequence[Path], out: Path, **options: Any) -> Store:
    return import_npz(files, out, **{"model": "tiny", "n_experts": 8} | options)


def test_every_key_of_an_archive_is_where_it_belongs(tmp_path: Path) -> None:
    logits = np.arange(120, dtype=np.float32).reshape(5, 3, 8)
    file = archive(
        tmp_path,
        expert_weights=np.full((5, 3, 2), [0.75, 0.25], dtype=np.float32),
        router_logits=logits,
        generated=np.array([False, True, True, False, False]),
        segment=np.array([3, 7, 7, 3, 3], dtype=np.uint8),
        position=np.array([0, 1, 4, 0, 1]),
        logprob=np.array([np.nan, -1, -2, -3, -4], dtype=np.float32),
        source=np.array([b"mmlu", "é".encode()]),
        item_id=np.array(["i", "j"]),
        text=np.array(["one", "two"]),
    )
    store = npz([file], tmp_path / "s.moe", n_experts=None)
    routing = store.router()
    expect_routing(store, range(5))
    assert routing.expert_weights[4, 2].tolist() == [0.75, 0.25]
    assert routing.router_logits is not None
    assert routing.router_logits.ravel().tolist() == [float(each) for each in range(120)]
    assert store.layout.weights_sum == "one"
    assert store.generated.tolist() == [False, True, True, False, False]
    assert [SEGMENTS[each] for each in store.segment] == ["user", "final", "final", "user", "user"]
    assert store.position.tolist() == [0, 1, 4, 0, 1]
    assert store.logprob[1:].tolist() == [-1, -2, -3, -4]
    assert store.token_id.tolist() == [5, 6, 7, 8, 9]
    assert store.prompts["condition"].tolist() == ["benchmark", "organic"]
    assert store.prompts["source"].tolist() == ["mmlu", "é"]
    assert store.prompts["item_id"].tolist() == ["i", "j"]
    assert [store.text(0), store.text(1)] == ["one", "two"]
    assert store.provenance["expert_weights"] == "recorded"
    assert store.provenance["caveats"] == []
    expect_valid(store.path)


def test_only_token_ids_and_experts_must_be_in_an_archive(tmp_path: Path) -> None:
    file = archive(tmp_path, prompt_offset=None, condition=None)
    store = npz([file], tmp_path / "s.moe", condition="mixed")
    assert store.prompts["n_tokens"].tolist() == [5]
    assert store.position.tolist() == [0, 1, 2, 3, 4]
    assert not store.generated.any()
    assert store.provenance["expert_weights"] == "not recorded; 1/top_k stands in"
    expect_valid(store.path)


def test_weights_that_do_not_sum_to_1_are_of_their_family(tmp_path: Path) -> None:
    weights = np.full((5, 3, 2), [1.5, 0.25], dtype=np.float16)
    store = npz([archive(tmp_path, expert_weights=weights)], tmp_path / "s.moe")
    assert (store.layout.weights_sum, store.layout.weights_dtype) == ("family", "float16")


@pytest.mark.parametrize(
    ("replaced", "sentence"),
    [
        ({"expert_indices": np.zeros((5, 3, 2), np.int32)}, r"layers \[0, 1, 2\] is all zero"),
        ({"expert_indices": None}, "expert_indices is absent"),
        ({"expert_indices": np.ones((4, 3, 2), np.int32)}, r"has shape \(4, 3, 2\), expected axes"),
        ({"expert_indices": np.ones((5, 3))}, "expert_indices has dtype float64, expected whole"),
        ({"expert_weight": np.ones(3)}, "key 'expert_weight' is not among token_id, expert_ind"),
        ({"expert_weights": np.ones((5, 3, 3))}, r"expected axes tokens, layers, top_k of sizes"),
        ({"expert_weights": np.full((5, 3, 2), [0.1, 0.9])}, "prompt 0: expert_weights holds flo"),
        (
            {"expert_weights": np.full((5, 3, 2), [0.25, 0.75])},
            "prompt 0: expert_weights must descend",
        ),
        ({"expert_weights": np.full((5, 3, 2), np.nan)}, "expert_weights must be finite"),
        ({"router_logits": np.ones((5, 3, 9))}, "router_logits has 9 experts, but n_experts is 8"),
        ({"prompt_offset": np.array([0, 5, 3])}, "prompt_offset must rise from 0 to the 5 tokens"),
        ({"prompt_offset": np.array([0, 3, 4])}, "prompt_offset must rise from 0 to the 5 tokens"),
        ({"prompt_offset": np.array([[0, 5]])}, "prompt_offset has shape"),
        ({"token_id": np.array([], int)}, "token_id has shape .*none of them empty"),
        ({"condition": np.array(["benchmark"])}, r"condition has shape \(1,\), expected axes prom"),
        ({"condition": np.array(["odd", "organic"])}, "prompt 0: condition is 'odd'"),
        ({"source": np.array([b"\xff", b"a"])}, "prompt 0: source is no valid UTF-8"),
        ({"source": np.array(["a", None], dtype=object)}, "source has dtype object, expected num"),
        ({"position": np.array([1, 1, 2, 3, 4])}, "prompt 0: position must rise"),
        ({"segment": np.full(5, 9)}, "segment holds 9, expected 0 to 8"),
    ],
)
def test_faulty_archive_is_refused_by_file_and_key(
    tmp_path: Path, replaced: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=rf"faulty\.npz.*{sentence}"):
        npz([archive(tmp_path, "faulty.npz", **replaced)], tmp_path / "s.moe")
    assert not (tmp_path / "s.moe").exists()


def test_number_of_experts_must_be_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.npz: the number of experts is not known without"):
        npz([archive(tmp_path)], tmp_path / "s.moe", n_experts=None)


def test_weights_in_only_one_archive_are_refused(tmp_path: Path) -> None:
    weights = np.full((5, 3, 2), 0.5)
    files = [archive(tmp_path), archive(tmp_path, "b.npz", expert_weights=weights)]
    with pytest.raises(InputError, match=r"expert_weights is in only one of .*a\.npz prompt 0 and"):
        npz(files, tmp_path / "s.moe")


def test_the_same_archive_twice_is_refused(tmp_path: Path) -> None:
    files = [archive(tmp_path), tmp_path / "b.npz"]
    files[1].write_bytes(files[0].read_bytes())
    with pytest.raises(InputError, match=r"b\.npz prompt 0 and .*a\.npz prompt 0 hold the same re"):
        npz(files, tmp_path / "s.moe")


def test_archives_that_unpack_to_too_much_are_refused_before_a_value_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", token_id=np.zeros(2**17, dtype=np.int64))
    assert (tmp_path / "bomb.npz").stat().st_size < 2**14
    monkeypatch.setattr(trace_npz_files, "MAX_NPZ_BYTES", 2**20)
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    with pytest.raises(InputError, match=r"bomb\.npz unpacks to 1,048,704 bytes, expected at most"):
        npz([tmp_path / "bomb.npz"], tmp_path / "s.moe")


def test_archives_with_a_key_twice_or_no_archive_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path)
    with zipfile.ZipFile(path, "a") as opened, pytest.warns(UserWarning, match="Duplicate name"):
        opened.writestr("token_id.npy", b"")
    with pytest.raises(InputError, match=r"a\.npz: key 'token_id' is there twice"):
        npz([path], tmp_path / "s.moe")
    path.write_bytes(b"\x80\x04N.")
    with pytest.raises(InputError, match=r"a\.npz cannot be read \(File is not a zip file\)"):
        npz([path], tmp_path / "s.moe")
    with pytest.raises(InputError, match=r"none\.npz cannot be read"):
        npz([tmp_path / "none.npz"], tmp_path / "s.moe")


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[200] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"a\.npz(: token_id .*| cannot be read \(Bad CRC-32)"):
        npz([path], tmp_path / "s.moe")


def test_other_packing_and_damaged_packing_are_refused(tmp_path: Path) -> None:
    odd, damaged = tmp_path / "odd.npz", tmp_path / "damaged.npz"
    with zipfile.ZipFile(odd, "w", compression=zipfile.ZIP_LZMA) as opened:
        opened.writestr("token_id.npy", b"")
    with pytest.raises(InputError, match=r"odd\.npz: token_id is packed in a way that numpy"):
        npz([odd], tmp_path / "s.moe")
    np.savez_compressed(damaged, token_id=np.arange(999))
    raw = bytearray(damaged.read_bytes())
    raw[60:90] = bytes(30)
    damaged.write_bytes(raw)
    with pytest.raises(InputError, match=r"damaged\.npz cannot be read \(Error -3"):
        npz([damaged], tmp_path / "s.moe")


def test_the_example_of_the_page_is_imported(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    store = npz([tmp_path / "run.npz"], tmp_path / "s.moe", n_experts=4)
    assert store.token_id.tolist() == [101, 102, 103, 201]
    assert store.generated.tolist() == [False, False, False, True]
    assert store.router(layers=[1]).expert_indices[:, 0].tolist() == [
        [2, 1],
        [2, 0],
        [1, 2],
        [0, 3],
    ]


def test_layers_to_keep_are_taken_from_weights_and_logits_alike(tmp_path: Path) -> None:
    weights = np.array([[[0.75, 0.25], [1.0, 0.0], [0.5, 0.5]]] * 5)
    logits = np.broadcast_to(np.arange(3.0)[:, None], (5, 3, 8))
    file = archive(tmp_path, expert_weights=weights, router_logits=logits)
    store = npz([file], tmp_path / "s.moe", layers=[0, 2])
    routing = store.router()
    assert routing.layer_indices == (0, 2)
    assert routing.expert_weights[4].tolist() == [[0.75, 0.25], [0.5, 0.5]]
    assert routing.router_logits is not None
    assert routing.router_logits[4].tolist() == [[0.0] * 8, [2.0] * 8]
    assert routing.expert_indices[4, 1].tolist() == [expert(4, 2, 0), expert(4, 2, 1)]
