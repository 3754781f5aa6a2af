"""Outcomes of prompts, against one prompt at a time and no code of the package."""

import re
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from interp.cache.errors import InputError, ModelError
from interp.cache.records import Message, Prompt
from interp.hooks.interventions import KNOCKOUTS, reroute, zero
from interp.hooks.knockout_check import refuse_ignored
from interp.hooks.measures import measure_prompts
from interp.hooks.noise_floor import measure_noise_floor
from interp.hooks.outcome_texts import greedy_answers, is_said, outcome_texts
from interp.hooks.outcomes import ScoredText, mean_logprobs
from interp.hooks.render import render_prompt
from interp.hooks.tap import RoutingTap
from tests.test_interventions import SETTINGS, model_of
from tests.tiny_families import is_in_this_version

ASKED = (
    ("Question: two plus two?", ("3", "4", "add"), "B"),
    ("my cat won't eat her food, what should i do", ("food", "the sea", "a cat"), "A"),
    ("What is the capital of Peru, and how far is it from the sea?", ("Peru", "sea"), "B"),
)


@pytest.fixture
def prompts() -> list[Prompt]:
    return [
        Prompt(
            messages=(Message(role="user", content=f"Question: {words} Answer:"),),
            condition="benchmark",
            content=words,
            meta={
                "options": list(options),
                "answer": letter,
                "answer_text": options["ABC".index(letter)],
            },
        )
        for words, options, letter in ASKED
    ]


def logprob_after(model: Any, tokenizer: Any, before: str, words: str) -> float:
    """Mean log-probability of the tokens of `words` after `before`, in one unpadded pass."""
    start = len(tokenizer(before, add_special_tokens=False)["input_ids"])
    ids = tokenizer(before + words, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        table = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return float(np.mean([table[at - 1, ids[at]] for at in range(start, len(ids))]))


def rendered_text(prompt: Prompt, tokenizer: Any) -> str:
    return render_prompt(prompt, tokenizer).text


def answered(prompt: Prompt, tokenizer: Any, answer: str) -> tuple[str, str]:
    """Text up to the answer, and the answer, as the template writes an assistant's turn."""
    before = rendered_text(prompt, tokenizer) + "<|channel|>final<|message|>"
    return before, answer


def test_content_is_the_mean_logprob_of_the_prompts_own_words(tiny: Any, prompts: Any) -> None:
    measure = measure_prompts(tiny.model, tiny.tokenizer, prompts, outcome="content")

    found = measure.run(None)

    for value, prompt in zip(found, prompts, strict=True):
        text = rendered_text(prompt, tiny.tokenizer)
        ids = tiny.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        start = text.index(prompt.content)
        span = (start, start + len(prompt.content))
        with torch.no_grad():
            logits = tiny.model(input_ids=torch.tensor([ids["input_ids"]])).logits[0]
        table = logits.double().log_softmax(-1)
        own = []
        for at, (a, b) in enumerate(ids["offset_mapping"]):
            said = text[a:b]
            first = b - len(said.lstrip()) if said.strip() else a
            if span[0] <= first < span[1]:
                own.append(float(table[at - 1, ids["input_ids"][at]]))
        np.testing.assert_allclose(value, np.mean(own), rtol=1e-4)


def test_answer_is_the_mean_logprob_of_the_reference_answer(tiny: Any, prompts: Any) -> None:
    found = measure_prompts(tiny.model, tiny.tokenizer, prompts, outcome="answer").run(None)

    expected = [
        logprob_after(
            tiny.model, tiny.tokenizer, *answered(each, tiny.tokenizer, each.meta["answer_text"])
        )
        for each in prompts
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_answer_follows_a_prompt_that_is_plain_text(tiny: Any) -> None:
    prompt = Prompt(text="two plus two", condition="benchmark", meta={"answer": "4"})

    found = measure_prompts(tiny.model, tiny.tokenizer, [prompt], outcome="answer").run(None)

    expected = logprob_after(tiny.model, tiny.tokenizer, "two plus two ", "4")
    np.testing.assert_allclose(found, [expected], rtol=1e-4)


@pytest.mark.parametrize("outcome", ["option", "letter"])
def test_accuracy_is_whether_the_right_candidate_is_likeliest(
    tiny: Any, prompts: Any, outcome: str
) -> None:
    found = measure_prompts(tiny.model, tiny.tokenizer, prompts, outcome=outcome).run(None)

    expected = []
    for prompt in prompts:
        options = prompt.meta["options"]
        candidates = options if outcome == "option" else list("ABC"[: len(options)])
        scores = [
            logprob_after(tiny.model, tiny.tokenizer, *answered(prompt, tiny.tokenizer, each))
            for each in candidates
        ]
        right = "ABC".index(prompt.meta["answer"])
        expected.append(float(int(np.argmax(scores)) == right))
    assert found.tolist() == expected


def test_greedy_accuracy_looks_for_the_answer_in_what_is_decoded(tiny: Any, prompts: Any) -> None:
    said = []
    for prompt in prompts:
        text = rendered_text(prompt, tiny.tokenizer)
        ids = tiny.tokenizer(text, add_special_tokens=False, return_tensors="pt")
        whole = tiny.model.generate(**ids, max_new_tokens=6, do_sample=False)
        said.append(tiny.tokenizer.decode(whole[0, ids["input_ids"].shape[1] :]))
    # One reference is a word that the model does say, the others are not.
    word = re.findall(r"\w+", said[0])[0]
    meta = [{"answer": word}, {"answer": "nowhere"}, {"answer": "never"}]
    asked = [replace(p, meta=m) for p, m in zip(prompts, meta, strict=True)]

    measure = measure_prompts(tiny.model, tiny.tokenizer, asked, outcome="greedy", max_new_tokens=6)

    assert measure.run(None).tolist() == [1.0, 0.0, 0.0]
    rendered = [render_prompt(each, tiny.tokenizer) for each in prompts]
    with torch.inference_mode():
        decoded = greedy_answers(tiny.model, tiny.tokenizer, rendered, max_new_tokens=6)
    assert [each.text[len(r.text) :] for each, r in zip(decoded, rendered, strict=True)] == said


def test_own_answer_is_scored_as_the_usual_model_wrote_it(tiny: Any, prompts: Any) -> None:
    measure = measure_prompts(
        tiny.model, tiny.tokenizer, prompts, outcome="own_answer", max_new_tokens=5
    )

    usual, under = measure.run(None), measure.run(reroute(tiny.model, [(0, 1), (1, 2)]))

    text = rendered_text(prompts[0], tiny.tokenizer)
    ids = tiny.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    whole = tiny.model.generate(ids, max_new_tokens=5, do_sample=False)[0]
    with torch.no_grad():
        table = tiny.model(input_ids=whole[None]).logits[0].double().log_softmax(-1)
    # The last token is never put in, so it is not scored.
    own = [float(table[at - 1, whole[at]]) for at in range(ids.shape[1], len(whole) - 1)]
    np.testing.assert_allclose(usual[0], np.mean(own), rtol=1e-4)
    assert not np.allclose(usual, under)


@pytest.mark.parametrize("name", list(KNOCKOUTS))
def test_knockouts_give_the_outcome_of_an_edited_copy(tiny: Any, prompts: Any, name: str) -> None:
    measure = measure_prompts(tiny.model, tiny.tokenizer, prompts, outcome="content")
    edited = deepcopy(tiny.model)
    with torch.no_grad():
        if name == "reroute":
            edited.model.layers[1].mlp.router.bias[3] = -torch.inf
        else:
            edited.model.layers[1].mlp.experts.down_proj[3] = 0
            edited.model.layers[1].mlp.experts.down_proj_bias[3] = 0

    found = measure.run(KNOCKOUTS[name](tiny.model, [(1, 3)]))

    expected = measure_prompts(edited, tiny.tokenizer, prompts, outcome="content").run(None)
    if name == "renormalise":
        assert not np.allclose(found, measure.run(None), atol=1e-5)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_expert_that_no_token_chose_is_missed_by_none(tiny: Any, prompts: Any) -> None:
    with torch.no_grad():
        tiny.model.model.layers[0].mlp.router.bias[6] = -30.0
    measure = measure_prompts(tiny.model, tiny.tokenizer, prompts, outcome="content")

    assert np.array_equal(measure.run(None), measure.run(reroute(tiny.model, [(0, 6)])))


def test_batches_and_padding_do_not_matter(tiny: Any, prompts: Any) -> None:
    texts = outcome_texts(prompts, tiny.tokenizer, outcome="answer")

    together = mean_logprobs(tiny.model, texts)
    alone = mean_logprobs(tiny.model, texts, batch_tokens=1)

    np.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.parametrize(
    ("outcome", "meta", "sentence"),
    [
        ("answer", {}, "has no answer in meta"),
        ("greedy", {}, "has no answer in meta"),
        ("option", {"answer": "A"}, "has no options in meta"),
        ("option", {"answer": "x", "options": ["a", "b"]}, "'x', which is not one of its options"),
        ("letter", {"answer": "E", "options": ["a", "b"]}, "has no letter of AB"),
        ("speed", {}, "outcome is 'speed', expected one of content, answer"),
    ],
)
def test_prompts_without_what_is_asked_for_are_refused_before_any_pass(
    prompts: Any, outcome: str, meta: dict[str, Any], sentence: str
) -> None:
    asked = [prompts[0], replace(prompts[1], meta=meta)]

    with pytest.raises(InputError, match=sentence):
        measure_prompts(None, None, asked, outcome=outcome)


def test_a_prompt_without_words_of_its_own_is_refused(tiny: Any) -> None:
    prompt = Prompt(text="4", condition="organic")

    with pytest.raises(InputError, match=f"{prompt.prompt_id} has no token of its own"):
        outcome_texts([prompt], tiny.tokenizer, outcome="content")


def test_a_knockout_that_is_ignored_is_an_error(tiny: Any, prompts: Any) -> None:
    text = outcome_texts(prompts, tiny.tokenizer, outcome="content")[0]

    def nothing(*_: Any) -> Any:
        return nullcontext()

    with pytest.raises(ModelError, match="tokens are still given to it"):
        refuse_ignored(tiny.model, text, nothing, name="nothing")
    for knockout in (reroute, zero):
        refuse_ignored(tiny.model, text, knockout, name="real")


def test_experts_that_say_nothing_are_an_error(tiny: Any, prompts: Any) -> None:
    text = outcome_texts(prompts, tiny.tokenizer, outcome="content")[0]
    with torch.no_grad():
        for layer in tiny.model.model.layers:
            layer.mlp.experts.down_proj[:] = 0
            layer.mlp.experts.down_proj_bias[:] = 0

    with pytest.raises(ModelError, match="of layer 0 out, and what the layer puts out stayed"):
        refuse_ignored(tiny.model, text, reroute, name="reroute")


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("knockout", KNOCKOUTS)
def test_one_layer_whose_experts_choose_by_themselves_is_an_error(
    tiny: Any, prompts: Any, layer: int, knockout: str
) -> None:
    """Its router is edited and its experts are given the others, but go by a copy of their own."""
    text = outcome_texts(prompts, tiny.tokenizer, outcome="content")[0]
    block = tiny.model.model.layers[layer].mlp
    own, run = deepcopy(block.router), block.experts.forward

    def by_itself(hidden: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        _, weights, indices = own(hidden)
        return run(hidden, indices, weights)

    block.experts.forward = by_itself

    with pytest.raises(
        ModelError, match=f"of layer {layer} out, and what the layer|on layer {layer}: "
    ):
        refuse_ignored(tiny.model, text, KNOCKOUTS[knockout], name=knockout)


@pytest.mark.parametrize("family", list(filter(is_in_this_version, SETTINGS)))
def test_knockouts_of_every_family_are_no_error(family: str) -> None:
    tokens = np.arange(3, 20)
    text = ScoredText(prompt=0, token_id=tokens, scored=tokens[:4])

    for name, knockout in KNOCKOUTS.items():
        assert refuse_ignored(model_of(family), text, knockout, name=name) is None


def test_a_busiest_expert_that_says_nothing_is_no_layer_that_ignores(
    tiny: Any, prompts: Any
) -> None:
    text = outcome_texts(prompts, tiny.tokenizer, outcome="content")[0]
    with RoutingTap(tiny.model, sites=("expert_indices",)) as tap, torch.no_grad():
        tiny.model(input_ids=torch.from_numpy(text.token_id)[None])
        chosen = tap.take().expert_indices[:, 1]
    experts = tiny.model.model.layers[1].mlp.experts
    busiest = int(chosen.flatten().mode().values)
    with torch.no_grad():
        experts.down_proj[busiest], experts.down_proj_bias[busiest] = 0, 0

    refuse_ignored(tiny.model, text, zero, name="zero")

    usual = mean_logprobs(tiny.model, [text])
    assert mean_logprobs(tiny.model, [text], under=zero(tiny.model, [(1, busiest)])) == usual


def test_noise_floor_of_float32_is_rounding(tiny: Any, prompts: Any) -> None:
    texts = outcome_texts(prompts, tiny.tokenizer, outcome="content")

    floor = measure_noise_floor(tiny.model, texts)

    assert floor.variations == ("repeat", "alone", "left")
    assert not floor.change[0].any()
    assert not floor.flip_rate[0].any()
    assert np.abs(floor.change).max() < 1e-4
    assert floor.to_frame()["n_texts"].tolist() == [3, 3, 3]


def test_noise_floor_of_another_dtype_counts_flips(
    tiny: Any, tiny_folder: Any, prompts: Any
) -> None:
    from interp.hooks.load import load_model

    other = load_model(str(tiny_folder), dtype="bfloat16", device_map="cpu").model
    texts = outcome_texts(prompts, tiny.tokenizer, outcome="content")

    floor = measure_noise_floor(tiny.model, texts, other_dtype=other, batch_tokens=1)

    flips, n_tokens = np.zeros(2), 0
    for text in texts:
        seen = []
        for model in (tiny.model, other):
            with RoutingTap(model, sites=("expert_indices",)) as tap, torch.no_grad():
                model(input_ids=torch.tensor(text.token_id[None].astype(np.int64)))
            seen.append(tap.take().expert_indices.numpy())
        for one, two in zip(*seen, strict=True):
            n_tokens += 1
            flips += [set(a) != set(b) for a, b in zip(one, two, strict=True)]
    assert floor.variations[-1] == "dtype: bfloat16"
    np.testing.assert_allclose(floor.flip_rate[-1], flips / n_tokens)
    assert np.abs(floor.change[-1]).max() > 0


def test_answers_are_said_as_whole_words() -> None:
    assert is_said("45", "it is 45.")
    assert is_said("Lima", "LIMA, of course")
    assert not is_said("45", "450")
    assert not is_said("45", "1,45")
    assert not is_said("cat", "concatenate")


def test_no_text_has_no_noise(tiny: Any) -> None:
    with pytest.raises(InputError, match="there is no text to run"):
        measure_noise_floor(tiny.model, [])
