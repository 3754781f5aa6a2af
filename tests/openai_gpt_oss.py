"""OpenAI's own torch code (PyPI `gpt-oss`), given the weights of a transformers model: an oracle.

Nothing here is needed but the mapping of names: the model runs as published, with plain hooks.
"""

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from gpt_oss.torch.model import MLPBlock, ModelConfig, Transformer
from torch import Tensor, nn

AXIS_LENGTH = 2.0**20
"""Beside it the residual stream that the block adds to is small, and costs the weights no digit."""


@dataclass(frozen=True)
class OpenaiLayer:
    """What one layer of OpenAI's code does to one sequence; first axis is the token."""

    resid_post: Tensor
    router_logits: Tensor
    mixed_weights: Tensor
    """`[tokens, n_experts]`: the factor on each expert's output in the sum, 0 if not chosen."""


@dataclass(frozen=True)
class OpenaiRun:
    """One sequence through OpenAI's code."""

    layers: list[OpenaiLayer]
    logits: Tensor
    """`[tokens, vocabulary]`."""


def openai_model(model: Any) -> Transformer:
    """OpenAI's model with the sizes and weights of `model`, in float32 on the CPU.

    Its constructor knows only bfloat16, but its forward pass names no dtype of its own: norms and
    rotary embedding return that of their input, which is that of the embedding. So `.float()`
    *before* the weights are copied makes every value float32, and no weight is rounded on the way.
    """
    config, rope = model.config, model.config.rope_parameters
    openai = Transformer(
        ModelConfig(
            num_hidden_layers=config.num_hidden_layers,
            num_experts=config.num_local_experts,
            experts_per_token=config.num_experts_per_tok,
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            swiglu_limit=config.swiglu_limit,
            head_dim=config.head_dim,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            sliding_window=config.sliding_window,
            initial_context_length=rope["original_max_position_embeddings"],
            rope_theta=rope["rope_theta"],
            rope_scaling_factor=rope["factor"],
            rope_ntk_alpha=rope["beta_slow"],
            rope_ntk_beta=rope["beta_fast"],
        ),
        device=torch.device("cpu"),
    )
    openai.float().load_state_dict(_openai_names(model), strict=True)
    return openai


def run_openai(openai: Transformer, token_id: Tensor) -> OpenaiRun:
    """One sequence through OpenAI's code, layer by layer, as its modules received and gave it."""
    kept: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        kept[module] = (args[0].detach().clone(), output.detach().clone())

    watched = [each for block in openai.block for each in (block, block.mlp, block.mlp.gate)]
    handles = [module.register_forward_hook(keep) for module in watched]
    with torch.no_grad():
        logits = openai(token_id)
    for handle in handles:
        handle.remove()
    layers = [
        OpenaiLayer(
            resid_post=kept[block][1],
            router_logits=kept[block.mlp.gate][1],
            mixed_weights=_mixed_weights(block.mlp, kept[block.mlp][0]),
        )
        for block in openai.block
    ]
    return OpenaiRun(layers, logits)


def _mixed_weights(mlp: MLPBlock, resid_mid: Tensor) -> Tensor:
    """The weight of each expert in the block's own sum, read out of the block itself.

    The block keeps choice and weights to itself. But expert e adds `weight_e * (... + bias_e)`: if
    it adds nothing but a bias, along an axis of its own, what the block adds *is* the weights.
    So OpenAI's forward runs once more on what it received, and no top-k or softmax is written here.
    """
    only_biases = {
        "mlp2_weight": torch.zeros_like(mlp.mlp2_weight),
        "mlp2_bias": AXIS_LENGTH * torch.eye(*mlp.mlp2_bias.shape),
    }
    with torch.no_grad():
        block_output = torch.func.functional_call(mlp, only_biases, (resid_mid,))
    return ((block_output - resid_mid) / AXIS_LENGTH)[:, : mlp.num_experts]


def _openai_names(model: Any) -> dict[str, Tensor]:
    """The weights of a transformers gpt-oss under the names and axes of OpenAI's code."""
    theirs = {
        "embedding.weight": model.model.embed_tokens.weight,
        "norm.scale": model.model.norm.weight,
        "unembedding.weight": model.lm_head.weight,
    }
    for number, layer in enumerate(model.model.layers):
        of_layer = _attention_names(layer) | _mlp_names(layer)
        theirs |= {f"block.{number}.{name}": weight for name, weight in of_layer.items()}
    return theirs


def _attention_names(layer: Any) -> dict[str, Tensor]:
    attention = layer.self_attn
    qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
    return {
        "attn.norm.scale": layer.input_layernorm.weight,
        "attn.qkv.weight": torch.cat([each.weight for each in qkv]),
        "attn.qkv.bias": torch.cat([each.bias for each in qkv]),
        "attn.out.weight": attention.o_proj.weight,
        "attn.out.bias": attention.o_proj.bias,
        "attn.sinks": attention.sinks,
    }


def _mlp_names(layer: Any) -> dict[str, Tensor]:
    router, experts = layer.mlp.router, layer.mlp.experts
    return {
        "mlp.norm.scale": layer.post_attention_layernorm.weight,
        "mlp.gate.weight": router.weight,
        "mlp.gate.bias": router.bias,
        "mlp.mlp1_weight": rearrange(
            experts.gate_up_proj, "experts d_in d_out -> experts d_out d_in"
        ),
        "mlp.mlp1_bias": experts.gate_up_proj_bias,
        "mlp.mlp2_weight": rearrange(experts.down_proj, "experts d_in d_out -> experts d_out d_in"),
        "mlp.mlp2_bias": experts.down_proj_bias,
    }
