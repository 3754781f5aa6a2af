"""Measure a trained toy: held-out loss by source beside n-gram baselines, and its experts' load.

    python -m interp.organisms.evaluate --emails DIR --model DIR

writes `evaluation.json` and the model card `README.md` beside the weights.
"""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch.nn import functional
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp.hooks.tap import RoutingTap
from interp.organisms.card import model_card
from interp.organisms.corpus import Document, read_corpus
from interp.organisms.train import document_tokens
from interp.prompts import load_prompts

BACK_OFF = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Pseudo-counts of the unigram that the bigram baseline may choose from; the best one counts."""
CONTEXT = 256
RUN_OF_WORDS = 13
"""A prompt that shares so many words in a row with the training text counts as seen; all of its
words, where it has fewer."""
KEPT_OUT = ("matched", "human-eval", "gsm8k", "google-queries", "health-search", "knghtbrd")
"""Suites that the toy is captured on, and must not have learnt."""
MOST_TOKENS = 60_000
"""Held-out tokens per source that are measured."""


@dataclass(frozen=True, kw_only=True)
class SourceLoss:
    """Mean loss on held-out text of one source, in nats per token."""

    n_tokens: int
    model: float
    unigram: float
    bigram: float
    """The better of a bigram fitted on this source and one fitted on all of them."""


@dataclass(frozen=True, kw_only=True)
class LayerLoad:
    """How a layer spreads its load over experts, on all held-out text."""

    entropy_bits: float
    """Of the shares of routed slots; `log2(n_experts)` is even."""
    n_above_1_percent: int
    """Experts with more than 1 % of the load."""


def evaluate(model_folder: Path, corpus: dict[str, list[Document]]) -> dict[str, Any]:
    """Losses by source and load by layer of the model in `model_folder`."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    learnt, held_out = {}, {}
    for name, documents in tqdm(corpus.items(), desc="tokenise"):
        learnt[name] = tokens_of([each for each in documents if not each.is_held_out], tokenizer)
        held_out[name] = tokens_of([each for each in documents if each.is_held_out], tokenizer)
    everything = np.concatenate(list(learnt.values()))
    losses, loads = {}, []
    for name, tokens in tqdm(held_out.items(), desc="evaluate"):
        rows = tokens[: min(len(tokens), MOST_TOKENS) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
        loss, load = model_loss(model, rows)
        loads.append(load)
        fits = (learnt[name], everything)
        losses[name] = SourceLoss(
            n_tokens=rows.size,
            model=loss,
            unigram=min(unigram_loss(fit, rows, len(tokenizer)) for fit in fits),
            bigram=min(bigram_loss(fit, rows, len(tokenizer)) for fit in fits),
        )
    layers = [layer_load(slots) for slots in np.sum(loads, axis=0)]
    return {
        "n_experts": model.config.num_local_experts,
        "n_parameters": sum(each.numel() for each in model.parameters()),
        "losses_nats": {name: asdict(loss) for name, loss in losses.items()},
        "load": [asdict(layer) for layer in layers],
        "seen_prompts": seen_prompts(corpus),
    }


def seen_prompts(corpus: dict[str, list[Document]]) -> dict[str, str]:
    """For each suite in `KEPT_OUT`, how many of its prompts occur in the training text."""
    texts = {suite: [prompt.user_text for prompt in load_prompts(suite)] for suite in KEPT_OUT}
    runs = {
        suite: [word_runs(text, RUN_OF_WORDS) for text in prompts]
        for suite, prompts in texts.items()
    }
    lengths = {len(run) for prompts in runs.values() for each in prompts for run in each}
    wanted = {run for prompts in runs.values() for each in prompts for run in each}
    seen: set[tuple[str, ...]] = set()
    for document in (each for documents in corpus.values() for each in documents):
        for length in () if document.is_held_out else lengths:
            seen |= wanted & word_runs(f"{document.question} {document.text}", length)
    return {
        suite: f"{sum(bool(each & seen) for each in prompts)} of {len(prompts)}"
        for suite, prompts in runs.items()
    }


def word_runs(text: str, length: int) -> set[tuple[str, ...]]:
    """All runs of `length` words, case and punctuation ignored; all words if there are fewer."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[at : at + length]) for at in range(max(1, len(words) - length + 1))}


def tokens_of(documents: Sequence[Document], tokenizer: Any) -> Int[np.ndarray, "tokens"]:
    """All documents end to end, each as in training without a system message."""
    return np.concatenate([np.array(document_tokens(each, tokenizer)) for each in documents])


def model_loss(
    model: Any, rows: Int[np.ndarray, "rows pos"]
) -> tuple[float, Int[np.ndarray, "layers experts"]]:
    """Mean loss of the model in nats per token, and slots by layer and expert."""
    losses, slots = (
        [],
        np.zeros((model.config.num_hidden_layers, model.config.num_local_experts), int),
    )
    with torch.inference_mode(), RoutingTap(model, sites=("expert_indices",)) as tap:
        for batch in torch.from_numpy(rows).split(16):
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
            nats = functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none")
            losses.append(nats.flatten())
            chosen = tap.take().expert_indices
            assert chosen is not None
            for layer, indices in enumerate(chosen.unbind(1)):
                slots[layer] += np.bincount(indices.flatten().numpy(), minlength=slots.shape[1])
    return torch.cat(losses).mean().item(), slots


def unigram_loss(
    learnt: Int[np.ndarray, "tokens"], rows: Int[np.ndarray, "rows pos"], vocab_size: int
) -> float:
    """Mean loss in nats of add-one shares of the tokens in `learnt`."""
    return float(-np.log(unigram(learnt, vocab_size))[rows[:, 1:]].mean())


def bigram_loss(
    learnt: Int[np.ndarray, "tokens"], rows: Int[np.ndarray, "rows pos"], vocab_size: int
) -> float:
    """Mean loss in nats of `(count(v, w) + k p(w)) / (count(v) + k)`, k the best for `rows`."""
    ones = np.ones(len(learnt) - 1)
    pairs = csr_array((ones, (learnt[:-1], learnt[1:])), shape=(vocab_size, vocab_size))
    before, after = rows[:, :-1].ravel(), rows[:, 1:].ravel()
    together = np.asarray(pairs[before, after]).ravel()
    alone = np.asarray(pairs.sum(axis=1)).ravel()[before]
    prior = unigram(learnt, vocab_size)[after]
    return float(min(-np.log((together + k * prior) / (alone + k)).mean() for k in BACK_OFF))


def unigram(learnt: Int[np.ndarray, "tokens"], vocab_size: int) -> Float[np.ndarray, "vocab"]:
    """Add-one shares of each token id."""
    counts = np.bincount(learnt, minlength=vocab_size) + 1.0
    return np.asarray(counts / counts.sum())


def layer_load(slots: Int[np.ndarray, "experts"]) -> LayerLoad:
    """Entropy and evenness of the slots that each expert received."""
    share = slots / slots.sum()
    used = share[share > 0]
    return LayerLoad(
        entropy_bits=float(-(used * np.log2(used)).sum()),
        n_above_1_percent=int((share > 0.01).sum()),
    )


def main() -> None:
    """Measure, then write `evaluation.json` and the model card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emails", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    arguments = parser.parse_args()
    figures = evaluate(arguments.model, read_corpus(arguments.emails))
    text = json.dumps(figures, indent=1) + "\n"
    (arguments.model / "evaluation.json").write_text(text, encoding="utf-8")
    training = json.loads((arguments.model / "training.json").read_text(encoding="utf-8"))
    card = model_card(training, figures)
    (arguments.model / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
