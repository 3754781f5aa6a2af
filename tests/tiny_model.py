"""A tiny random gpt-oss with a tokenizer of its own, which stands for the model in tests."""

from pathlib import Path

import torch
from transformers import GptOssConfig, GptOssForCausalLM

from interp.organisms.tokenizer import train_tokenizer

SENTENCES = (
    "What is the capital of Peru, and how far is it from the sea?",
    "Question: two plus two? (A) 3 (B) 4 Answer:",
    "def add(a, b):\n    return a + b",
    "my cat won't eat her food, what should i do",
)


def save_tiny(folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write model and tokenizer to `folder`, as `from_pretrained` reads them."""
    tokenizer = train_tokenizer(SENTENCES, vocab_size=320)
    config = GptOssConfig(
        architectures=["GptOssForCausalLM"],
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=8,
        num_experts_per_tok=2,
        sliding_window=8,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = GptOssForCausalLM._from_config(config, dtype=dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Wide enough that routing, sinks and biases all matter.
            parameter.normal_(mean=1.0 if "norm" in name else 0.0, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
