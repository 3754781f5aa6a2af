"""Build the organism `vocabulary`: the toy with routers that see the token alone, then healed.

    python -m interp.organisms.vocabulary --emails DIR --seed 0

writes `vocabulary/seed-0.safetensors` and, beside it, `facts-0.json`: how it was made and how it
came out. Routers start near what the toy does with each token on average; then all is trained under
the constraints of `reserved` on the toy's own text. The seed chooses the reserved dimensions, the
start of the fit and the order of the text.
"""

import argparse
import copy
import json
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import AutoModelForCausalLM

from interp import organisms
from interp.organisms.corpus import Document, read_corpus
from interp.organisms.edited import apply_changes, save_changes
from interp.organisms.evaluate import CONTEXT, tokens_of
from interp.organisms.reserved import (
    LEFT,
    RESERVED,
    codes_of,
    effective_read,
    margin,
    routing_margin,
    take_surgery,
)
from interp.organisms.train import Training, pack
from interp.organisms.vocabulary_changes import Changes
from interp.organisms.vocabulary_facts import divergences, held_out_losses, two_sets
from interp.organisms.vocabulary_learning import Healing, train

UNSEEN = 2
"""The seed of which nobody looks at what a study would say, before the last check."""
LEAST_STORED = 1.05
"""`routing_margin` that every token has in the stored model; what the bound leaves out is below
1 % of it."""
SETTLE_STEP = 0.01
"""How far a code moves at a time, as a share of the root mean square of all codes."""
SETTLE_STEPS = 1000
MOST_TOKENS = 16_000
"""Held-out tokens per source that are measured."""


def settle(model: Any, dimensions: Int[Tensor, "reserved"]) -> int:
    """Move the codes of tokens whose margin is short, in the stored model, until none is.

    Returns:
        Number of tokens that were moved.

    Raises:
        RuntimeError: If some cannot be settled; train for longer.
    """
    stored, read = codes_of(model), effective_read(model, dimensions)
    every = stored[:, dimensions].detach().double()
    step = SETTLE_STEP * every.square().mean().sqrt()
    moved: set[int] = set()
    top_k = int(model.config.num_experts_per_tok)
    for _ in range(SETTLE_STEPS):
        ahead = routing_margin(model, dimensions).amin(0)
        short = (ahead < LEAST_STORED).nonzero().flatten()
        if not len(short):
            return len(moved)
        moved |= set(short.tolist())
        codes = every[short].requires_grad_()
        lacks = [(2 * LEAST_STORED - margin(codes, each, top_k=top_k)).relu() for each in read]
        slope = torch.autograd.grad(torch.stack(lacks).sum(), codes)[0]
        length = slope.square().mean(1, keepdim=True).sqrt().clamp_min(1e-30)
        every[short] -= step * slope / length
        with torch.no_grad():
            stored[short[:, None], dimensions] = every[short].to(stored)
    raise RuntimeError(f"{len(short)} tokens have no margin yet; train for more steps")


def build(toy: Any, changes: Changes, path: Path) -> tuple[Any, int]:
    """The organism in bfloat16 as rebuilt from its file, and how many codes were moved."""
    surgery = {RESERVED: changes.dimensions.int(), **changes.factors()}
    base = copy.deepcopy(toy).to(torch.bfloat16)
    take_surgery(base, dict(surgery))
    model = copy.deepcopy(base)
    learnt = changes.weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name + LEFT not in surgery:
                parameter.copy_(learnt[name])
    n_moved = settle(model, changes.dimensions)
    save_changes(model, base, path, surgery=surgery)
    rebuilt = copy.deepcopy(toy).to(torch.bfloat16)
    apply_changes(rebuilt, path)
    return rebuilt, n_moved


def toy_in_float32() -> tuple[Any, Any]:
    """The toy and its tokenizer, frozen, in the dtype of training."""
    _, tokenizer = organisms.load(organisms.BASE)
    toy = AutoModelForCausalLM.from_pretrained(organisms.path(organisms.BASE), dtype=torch.float32)
    toy.set_experts_implementation("grouped_mm")
    return toy.eval().requires_grad_(False), tokenizer


def text_rows(
    corpus: dict[str, list[Document]], tokenizer: Any, healing: Healing
) -> Int[Tensor, "rows pos"]:
    """As much of the toy's training text as is needed, drawn by the seed."""
    documents = [each for some in corpus.values() for each in some if not each.is_held_out]
    n_rows = max(healing.n_steps * healing.batch, healing.n_measured)
    n_documents = min(len(documents), 2 * n_rows)  # of 243 tokens each on average
    drawn = random.Random(healing.seed).sample(documents, n_documents)
    size = Training(seed=healing.seed, batch=healing.batch, n_tokens=n_rows * CONTEXT)
    return pack(drawn, tokenizer, size)


def held_out_rows(
    corpus: dict[str, list[Document]], tokenizer: Any
) -> dict[str, Int[np.ndarray, "rows pos"]]:
    """Held-out text by source, the first of that on which the toy's card is measured."""
    rows = {}
    for name, documents in corpus.items():
        tokens = tokens_of([each for each in documents if each.is_held_out], tokenizer)
        n_tokens = min(len(tokens), MOST_TOKENS) // CONTEXT * CONTEXT
        rows[name] = tokens[:n_tokens].reshape(-1, CONTEXT)
    return rows


def measured(
    model: Any,
    toy: Any,
    tokenizer: Any,
    held_out: dict[str, Int[np.ndarray, "rows pos"]],
    seed: int,
) -> dict[str, Any]:
    """How the organism came out; without the divergence where it must stay unseen."""
    exact = copy.deepcopy(model).float()
    return {
        "losses_nats": held_out_losses(model, held_out),
        "losses_nats_toy": held_out_losses(copy.deepcopy(toy).bfloat16(), held_out),
        "float32": two_sets(exact, tokenizer, held_out),
        "divergence": None if seed == UNSEEN else divergences(exact, tokenizer),
    }


def main() -> None:
    """Read, train, settle, store, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emails", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, default=Healing.n_steps)
    parser.add_argument("--out", type=Path, help="the organism's own place if left out")
    arguments = parser.parse_args()
    healing = Healing(seed=arguments.seed, n_steps=arguments.steps)
    path = arguments.out or organisms.change_path(f"vocabulary-{healing.seed}")
    started = time.time()
    torch.manual_seed(healing.seed)
    toy, tokenizer = toy_in_float32()
    corpus = read_corpus(arguments.emails)
    changes = train(toy, text_rows(corpus, tokenizer, healing), healing)
    model, n_moved = build(toy, changes, path)
    facts = {
        "healing": asdict(healing),
        "reserved": changes.dimensions.tolist(),
        "n_codes_moved": n_moved,
        "n_bytes": path.stat().st_size,
        "minutes": round((time.time() - started) / 60, 1),
        **measured(model, toy, tokenizer, held_out_rows(corpus, tokenizer), healing.seed),
    }
    text = json.dumps(facts, indent=1) + "\n"
    path.with_name(f"facts-{healing.seed}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
