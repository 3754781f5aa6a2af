"""A tiny random model of each supported family, with settings under which its rule shows."""

from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

COMMON: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 24,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "eager",
}
GROUPED = {
    "n_routed_experts": 8,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "routed_scaling_factor": 2.5,
    "num_experts_per_tok": 3,
}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
FIRST_VERSIONS = {"granitemoe": "5.21", "granitemoeshared": "5.21", "flint": "5.21"}
"""Of transformers, where it is not the oldest supported: before, routers of granitemoe and of
granitemoeshared returned their triple reversed, which is refused, and flint did not exist."""


def is_in_this_version(family: str) -> bool:
    """Whether this transformers has the family in the form that can be recorded."""
    return Version(transformers.__version__) >= Version(FIRST_VERSIONS.get(family, "0"))


OF_SPECS: dict[str, dict[str, Any]] = {
    "gpt_oss": {
        "num_local_experts": 8,
        "sliding_window": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "mixtral": {"num_local_experts": 8},
    "olmoe": {"num_experts": 8, "norm_topk_prob": False},
    "qwen3_moe": {"num_experts": 8, "norm_topk_prob": True, "mlp_only_layers": [1]},
    "deepseek_v3": GROUPED | LATENT | {"norm_topk_prob": True},
    "qwen2_moe": {
        "num_experts": 8,
        "norm_topk_prob": False,
        "shared_expert_intermediate_size": 16,
        "decoder_sparse_step": 1,
    },
    "granitemoe": {"num_local_experts": 8, "residual_multiplier": 0.5},
    "phimoe": {"num_local_experts": 8, "router_jitter_noise": 0.1},
    "deepseek_v2": GROUPED | LATENT | {"topk_method": "group_limited_greedy"},
    "glm4_moe": GROUPED | {"norm_topk_prob": False},
    "ernie4_5_moe": {
        "moe_num_experts": 8,
        "moe_k": 2,
        "moe_layer_start_index": 1,
        "moe_layer_end_index": 2,
        "moe_num_shared_experts": 1,
        "moe_layer_interval": 1,
    },
    "minimax": {
        "num_local_experts": 8,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "block_size": 8,
    },
    "hunyuan_v1_moe": {"num_experts": 8, "moe_topk": 2},
    "flex_olmo": {"num_experts": 8, "norm_topk_prob": True},
}
"""Settings by family, beside `COMMON`."""
FAMILIES = {family: each for family, each in OF_SPECS.items() if is_in_this_version(family)}
"""Those that this version of transformers lets one record."""
SPARSE_AFTER_FIRST = {"mlp_layer_types": ["dense", "sparse", "sparse"]}
OTHERS: dict[str, dict[str, Any]] = {
    "dots1": GROUPED,
    "glm4_moe_lite": GROUPED | LATENT | SPARSE_AFTER_FIRST,
    "granitemoeshared": {"num_local_experts": 8, "shared_intermediate_size": 16},
    "mellum": {"num_experts": 8},
    "qwen3_next": {
        "num_experts": 8,
        "shared_expert_intermediate_size": 16,
        "layer_types": ["full_attention"] * 3,
    },
    "solar_open": GROUPED,
    "flint": {"num_experts": 8, "shared_expert_intermediate_size": 16},
    "hy_v3": {"num_local_experts": 8} | SPARSE_AFTER_FIRST,
    "jamba": {"num_experts": 8, "attn_layer_period": 1, "attn_layer_offset": 0},
    "lfm2_moe": {
        "num_experts": 8,
        "layer_types": ["full_attention"] * 3,
        "num_dense_layers": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "minimax_m2": {"num_local_experts": 8},
    "qwen2": {},
    "dbrx": {
        "d_model": 32,
        "n_heads": 4,
        "n_layers": 2,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "hidden_size": 32},
    },
    "jetmoe": {"num_local_experts": 4, "kv_channels": 8},
    "llama4_text": {"num_local_experts": 4, "intermediate_size_mlp": 16},
}
"""Settings of routed families that no spec is named after, and of a dense one."""

FIXED = ("inv_freq", "slope", "decay")
"""Buffers that follow from the config: of rotations, and of how linear attention forgets."""


def tiny_family(family: str, *, dtype: torch.dtype = torch.float32, **settings: Any) -> nn.Module:
    """A random model in evaluation mode, seeded; weights wide enough that every term matters."""
    fields = COMMON | (OF_SPECS | OTHERS)[family] | settings
    implementation = fields.pop("attn_implementation")
    config = AutoConfig.for_model(family, **fields)
    model = AutoModelForCausalLM.from_config(
        config, dtype=dtype, attn_implementation=implementation
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            is_fixed = any(each in name for each in FIXED)
            if tensor.is_floating_point() and not is_fixed:
                mean = 1.0 if "norm" in name and "bias" not in name else 0.0
                noise = torch.randn(tensor.shape, generator=generator) * 0.3 + mean
                tensor.copy_(noise.to(tensor.dtype))
    return model.eval()
