"""Writes a gpt-oss checkpoint in the layout of the published openai/gpt-oss-20b, only smaller.

Every width, name, dtype and field is the published one; there are 2 layers of 24, 4 experts of 32,
top-2 instead of top-4, and a vocabulary of 512. The weights are random.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from interp.organisms.tokenizer import train_tokenizer
from tests.tiny_model import SENTENCES

D_MODEL = 2880
D_EXPERT = 2880
N_LAYERS, N_EXPERTS, TOP_K, VOCABULARY = 2, 4, 2, 512
HEADS, KV_HEADS, HEAD_DIM = 64, 8, 64
GROUP = 32
"""Weights that share one scale; they are packed into 16 bytes."""

UNQUANTISED = [
    "model.layers.*.self_attn",
    "model.layers.*.mlp.router",
    "model.embed_tokens",
    "lm_head",
]


def save_published(folder: Path) -> Path:
    """Write config, tokenizer, chat template and sharded MXFP4 weights to `folder`."""
    folder.mkdir(parents=True)
    tokenizer = train_tokenizer(SENTENCES, vocab_size=VOCABULARY)
    tokenizer.save_pretrained(folder)
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    write_json(folder / "config.json", published_config() | special)
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": tokenizer.bos_token_id, "do_sample": True} | special,
    )
    save_shards(folder, published_shards(torch.Generator().manual_seed(0)))
    return folder


def published_config() -> dict[str, Any]:
    """`config.json` as published, but for the number of layers and experts and the vocabulary."""
    return {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "experts_per_token": TOP_K,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": D_MODEL,
        "initial_context_length": 4096,
        "initializer_range": 0.02,
        "intermediate_size": D_EXPERT,
        "layer_types": ["sliding_attention", "full_attention"] * (N_LAYERS // 2),
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "num_attention_heads": HEADS,
        "num_experts_per_tok": TOP_K,
        "num_hidden_layers": N_LAYERS,
        "num_key_value_heads": KV_HEADS,
        "num_local_experts": N_EXPERTS,
        "output_router_logits": False,
        "quantization_config": {"modules_to_not_convert": UNQUANTISED, "quant_method": "mxfp4"},
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "transformers_version": "4.55.0.dev0",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }


def published_shards(random: torch.Generator) -> Iterator[dict[str, Tensor]]:
    """One shard a layer, and one for what stands around the layers."""
    for layer in range(N_LAYERS):
        prefix = f"model.layers.{layer}"
        yield {
            f"{prefix}.{name}": each
            for group in (attention(random), router(random), experts(random))
            for name, each in group.items()
        }
    yield {
        "model.embed_tokens.weight": normal(random, VOCABULARY, D_MODEL, std=1.0),
        "model.norm.weight": normal(random, D_MODEL, std=0.1, mean=1.0),
        "lm_head.weight": normal(random, VOCABULARY, D_MODEL),
    }


def attention(random: torch.Generator) -> dict[str, Tensor]:
    """Attention with sinks, and the two norms of a layer."""
    widths = {"q": HEADS * HEAD_DIM, "k": KV_HEADS * HEAD_DIM, "v": KV_HEADS * HEAD_DIM}
    return {
        "input_layernorm.weight": normal(random, D_MODEL, std=0.1, mean=1.0),
        "post_attention_layernorm.weight": normal(random, D_MODEL, std=0.1, mean=1.0),
        "self_attn.sinks": normal(random, HEADS, std=1.0),
        "self_attn.o_proj.weight": normal(random, D_MODEL, HEADS * HEAD_DIM),
        "self_attn.o_proj.bias": normal(random, D_MODEL),
        **{
            f"self_attn.{name}_proj.weight": normal(random, widths[name], D_MODEL) for name in "qkv"
        },
        **{f"self_attn.{name}_proj.bias": normal(random, widths[name]) for name in "qkv"},
    }


def router(random: torch.Generator) -> dict[str, Tensor]:
    """Router with a bias large enough that leaving it out changes choices."""
    return {
        "mlp.router.weight": normal(random, N_EXPERTS, D_MODEL, std=0.05),
        "mlp.router.bias": normal(random, N_EXPERTS, std=1.0),
    }


def experts(random: torch.Generator) -> dict[str, Tensor]:
    """Packed expert weights: rows are outputs, the last two axes are groups and their bytes."""
    rows = {"gate_up_proj": 2 * D_EXPERT, "down_proj": D_MODEL}
    columns = {"gate_up_proj": D_MODEL, "down_proj": D_EXPERT}
    found = {}
    for name, n_rows in rows.items():
        groups = (N_EXPERTS, n_rows, columns[name] // GROUP)
        packed = torch.randint(0, 256, (*groups, GROUP // 2), generator=random, dtype=torch.uint8)
        # Shared exponents of -9 to -6 give weights of about 1 / sqrt(d_model).
        scales = torch.randint(118, 122, groups, generator=random, dtype=torch.uint8)
        found[f"mlp.experts.{name}_blocks"] = packed
        found[f"mlp.experts.{name}_scales"] = scales
        found[f"mlp.experts.{name}_bias"] = normal(random, N_EXPERTS, n_rows, std=0.1)
    return found


def normal(random: torch.Generator, *shape: int, std: float = 0.02, mean: float = 0.0) -> Tensor:
    """Random bfloat16, the dtype of all that is not packed."""
    return (mean + std * torch.randn(shape, generator=random)).to(torch.bfloat16)


def save_shards(folder: Path, shards: Iterator[dict[str, Tensor]]) -> None:
    """Write `model-0000N-of-0000M.safetensors`, N from 0 to M as published, and their index."""
    total = 0
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards):
        name = f"model-{number:05}-of-{N_LAYERS:05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, name)
        total += sum(each.nbytes for each in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2, sort_keys=True), encoding="utf-8")
