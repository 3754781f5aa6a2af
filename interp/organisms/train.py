"""Train the toy: a small gpt-oss with the real architecture, on real text, on a CPU.

    python -m interp.organisms.train --emails DIR --out DIR

writes model.safetensors (bfloat16), config, tokenizer, chat template and `training.json`;
`python -m interp.organisms.evaluate` then measures it. About one hour on two cores.
"""

import argparse
import json
import math
import random
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm
from transformers import GptOssConfig, GptOssForCausalLM, PreTrainedTokenizerFast

from interp.hooks.render import pin_date
from interp.organisms.corpus import Document, read_corpus
from interp.organisms.tokenizer import train_tokenizer


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the toy is trained."""

    seed: int = 0
    vocab_size: int = 4096
    context: int = 256
    """Tokens per row."""
    batch: int = 32
    """Rows per step."""
    n_tokens: int = 21_000_000
    """Tokens seen, over all epochs."""
    learning_rate: float = 3e-3
    """Peak of a cosine with a linear warm-up over the first 5 % of the steps."""
    weight_decay: float = 0.1
    router_aux_loss_coef: float = 0.02
    """Weight of the load-balancing loss."""
    n_processes: int = 2
    """One core each; `batch` is split between them."""
    chat_system_share: float = 0.25
    """Share of chats that begin with the template's system message."""

    @property
    def n_steps(self) -> int:
        """Optimiser steps."""
        return math.ceil(self.n_tokens / (self.context * self.batch))


def toy_config(tokenizer: PreTrainedTokenizerFast, *, router_aux_loss_coef: float) -> GptOssConfig:
    """The real architecture, small: sinks, sliding windows, clamped SwiGLU, top-4 of 32 experts."""
    return GptOssConfig(
        architectures=["GptOssForCausalLM"],
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_local_experts=32,
        num_experts_per_tok=4,
        sliding_window=64,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        router_aux_loss_coef=router_aux_loss_coef,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def document_tokens(
    document: Document, tokenizer: PreTrainedTokenizerFast, *, system: str = ""
) -> list[int]:
    """One document as the model reads it: a Harmony chat, or plain text and its end."""
    if not document.question:
        return [*tokenizer.encode(document.text), tokenizer.pad_token_id]
    answer = f"<|channel|>final<|message|>{document.text}<|return|>" if document.text else ""
    chat = f"<|start|>user<|message|>{document.question}<|end|><|start|>assistant{answer}"
    return list(tokenizer.encode(system + chat))


def pack(corpus: list[Document], tokenizer: PreTrainedTokenizerFast, training: Training) -> Tensor:
    """All training documents in random order, epoch after epoch, as rows of `context` tokens."""
    shuffled = random.Random(training.seed)
    system = system_message(tokenizer)
    wanted = training.n_steps * training.batch * training.context
    tokens: list[int] = []
    while len(tokens) < wanted:
        for document in tqdm(shuffled.sample(corpus, len(corpus)), desc="tokenise", leave=False):
            has_system = shuffled.random() < training.chat_system_share
            tokens += document_tokens(document, tokenizer, system=system if has_system else "")
    return torch.tensor(tokens[:wanted]).reshape(-1, training.context)


def system_message(tokenizer: PreTrainedTokenizerFast) -> str:
    """The template's own system message, with a fixed date."""
    chat = [{"role": "user", "content": "?"}]
    pinned = pin_date(tokenizer.chat_template, date(2025, 8, 5))
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, chat_template=pinned)
    return str(rendered).split("<|start|>user")[0]


def learning_rate(step: int, training: Training) -> float:
    """Linear warm-up, then a cosine down to a twentieth of the peak."""
    warm_up = training.n_steps // 20
    if step < warm_up:
        return training.learning_rate * (step + 1) / warm_up
    done = (step - warm_up) / (training.n_steps - warm_up)
    return training.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def fit(
    rank: int, config: GptOssConfig, rows: Tensor, training: Training, out: Path, meeting: Path
) -> None:
    """Train on one core of `training.n_processes`; gradients are averaged over all of them.

    Two processes of one thread are twice as fast here as one process of two threads: the many
    small matrix products of the experts do not split well.
    """
    torch.set_num_threads(1)
    torch.manual_seed(training.seed)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=training.n_processes
    )
    model = GptOssForCausalLM._from_config(config, dtype=torch.float32)
    model.set_experts_implementation("grouped_mm")
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), weight_decay=training.weight_decay, betas=(0.9, 0.95)
    )
    model.train()
    bar = tqdm(rows.split(training.batch), desc="train", disable=rank > 0, mininterval=5)
    for step, batch in enumerate(bar):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, training)
        mine = batch.chunk(training.n_processes)[rank]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = parallel(input_ids=mine, labels=mine, output_router_logits=True).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if rank == 0 and (step % 500 == 499 or step == training.n_steps - 1):
            save(model, out)
    distributed.destroy_process_group()


def save(model: GptOssForCausalLM, out: Path) -> None:
    """Write the weights in bfloat16; the model itself stays as it is."""
    state = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    config = type(model.config).from_dict(model.config.to_dict() | {"dtype": "bfloat16"})
    shell = GptOssForCausalLM._from_config(config, dtype=torch.bfloat16)
    shell.load_state_dict(state)
    shell.save_pretrained(out)


def main() -> None:
    """Read, tokenise, train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emails", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    training = Training()
    torch.manual_seed(training.seed)
    started = time.time()
    corpus = read_corpus(arguments.emails)
    learn = {name: [d for d in docs if not d.is_held_out] for name, docs in corpus.items()}
    documents = [document for documents in learn.values() for document in documents]
    sample = random.Random(training.seed).sample(documents, len(documents) // 4)
    tokenizer = train_tokenizer(
        (d.question + d.text for d in sample), vocab_size=training.vocab_size
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(arguments.out)
    config = toy_config(tokenizer, router_aux_loss_coef=training.router_aux_loss_coef)
    rows = pack(documents, tokenizer, training)
    with tempfile.TemporaryDirectory() as scratch:
        work = (config, rows, training, arguments.out, Path(scratch) / "meeting")
        spawn(fit, work, nprocs=training.n_processes)
    figures = {
        "training": asdict(training),
        "n_steps": training.n_steps,
        "n_documents": {name: len(documents) for name, documents in learn.items()},
        "minutes": round((time.time() - started) / 60, 1),
        "torch": torch.__version__,
    }
    text = json.dumps(figures, indent=1) + "\n"
    (arguments.out / "training.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
