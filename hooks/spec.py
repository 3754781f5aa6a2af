"""Families of models: where each keeps its routed experts, and how its routers choose.

A family is found by the structure of its modules, never by a name; a name only decides between
families that read alike. `SPECS` is also what the table in docs/models.md is made from.
"""

from dataclasses import dataclass
from typing import Literal

Scoring = Literal["softmax_of_chosen", "softmax", "sigmoid", "sparsemixer"]
"""How logits become expert weights; see `interp.hooks.routing`."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One family: names of its modules, from the model downwards, and the rule of its routers."""

    family: str
    """Name of the family, as transformers calls it."""
    layers: str = "model.layers"
    """Path of the list of decoder layers."""
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    """All norms that are children of a decoder layer."""
    resid_mid: str = "post_attention_layernorm"
    """The module within a decoder layer whose *input* is `resid_mid`."""
    moe: str = "mlp"
    """The routed block within a decoder layer."""
    router: str = "gate"
    """The router within the routed block; returns logits, expert weights and expert indices."""
    experts: str = "experts"
    """The experts within the routed block; called with hidden states, indices and weights."""
    shared_experts: str = ""
    """Experts within the routed block that all tokens pass, unrouted; empty if there are none."""
    dense_layers: str = ""
    """Field of the config that says which layers are not routed; empty if all are."""
    weight: str = "weight"
    """The router's weight, `[n_experts, d_model]`."""
    bias: str = ""
    """The router's bias, `[n_experts]`, part of the logits; empty if it has none."""
    float32_logits: bool = False
    """Whether logits are computed in float32, whatever the dtype of the model."""
    scoring: Scoring
    """How logits become expert weights."""
    correction_bias: str = ""
    """Added to the scores for the choice only, never to the weights; empty if there is none."""
    group_score: Literal["", "max", "sum_of_two"] = ""
    """How groups of experts are ranked where only the best groups may be chosen from: by their
    best score, or by the sum of their two best; empty if there are no groups."""
    normalised: str = "always"
    """Whether weights are divided by their sum: `always`, `never`, or the router's attribute that
    says so."""
    scaling: str = ""
    """Attribute of the router with which weights are multiplied at last; empty if there is none."""
    weights_dtype: Literal["float32", "hidden", "logits"] = "hidden"
    """Dtype that expert weights are rounded to: that of the hidden states, or of the logits."""
    remark: str = ""
    """What is particular about its residual stream; for readers, no rule depends on it."""

    @property
    def reads(self) -> frozenset[str]:
        """Attributes of the router that the rule reads; tells families with like modules apart."""
        names = {self.scaling, self.normalised} - {"", "always", "never"}
        jitter = {"router_jitter_noise"} if self.scoring == "sparsemixer" else set()
        return self.tensors | names | jitter

    @property
    def tensors(self) -> frozenset[str]:
        """Parameters and buffers of the router; the rule reads all of them."""
        return frozenset({self.weight, self.bias, self.correction_bias} - {""})


SPECS = (
    ModelSpec(
        family="gpt_oss",
        router="router",
        bias="bias",
        scoring="softmax_of_chosen",
    ),
    ModelSpec(family="mixtral", scoring="softmax", weights_dtype="float32"),
    ModelSpec(family="olmoe", scoring="softmax", normalised="norm_topk_prob"),
    ModelSpec(
        family="qwen3_moe",
        dense_layers="mlp_only_layers, decoder_sparse_step",
        scoring="softmax",
        normalised="norm_topk_prob",
    ),
    ModelSpec(
        family="deepseek_v3",
        shared_experts="shared_experts",
        dense_layers="first_k_dense_replace",
        float32_logits=True,
        scoring="sigmoid",
        correction_bias="e_score_correction_bias",
        group_score="sum_of_two",
        normalised="norm_topk_prob",
        scaling="routed_scaling_factor",
        weights_dtype="float32",
    ),
    ModelSpec(
        family="qwen2_moe",
        shared_experts="shared_expert",
        dense_layers="mlp_only_layers, decoder_sparse_step",
        scoring="softmax",
        normalised="norm_topk_prob",
    ),
    ModelSpec(
        family="granitemoe",
        moe="block_sparse_moe",
        router="router",
        scoring="softmax_of_chosen",
        remark="each add is scaled by `residual_multiplier`",
    ),
    ModelSpec(family="phimoe", router="router", scoring="sparsemixer", normalised="never"),
    ModelSpec(
        family="deepseek_v2",
        shared_experts="shared_experts",
        dense_layers="first_k_dense_replace",
        float32_logits=True,
        scoring="softmax",
        group_score="max",
        normalised="never",
        scaling="routed_scaling_factor",
        weights_dtype="float32",
    ),
    ModelSpec(
        family="glm4_moe",
        shared_experts="shared_experts",
        dense_layers="first_k_dense_replace",
        float32_logits=True,
        scoring="sigmoid",
        correction_bias="e_score_correction_bias",
        group_score="sum_of_two",
        normalised="norm_topk_prob",
        scaling="routed_scaling_factor",
        weights_dtype="float32",
    ),
    ModelSpec(
        family="ernie4_5_moe",
        shared_experts="shared_experts",
        dense_layers="moe_layer_start_index, moe_layer_end_index, moe_layer_interval",
        float32_logits=True,
        scoring="softmax",
        correction_bias="moe_statics.e_score_correction_bias",
    ),
    ModelSpec(
        family="minimax",
        scoring="softmax",
        weights_dtype="float32",
        remark="normed at each add, and both terms are scaled",
    ),
    ModelSpec(
        family="hunyuan_v1_moe",
        shared_experts="shared_mlp",
        weight="wg.weight",
        scoring="softmax",
        weights_dtype="logits",
    ),
    ModelSpec(
        family="flex_olmo",
        norms=("post_attention_layernorm", "post_feedforward_layernorm"),
        resid_mid="mlp",
        scoring="softmax",
        normalised="norm_topk_prob",
        remark="what attention and experts add is normed; the router reads `resid_mid` unnormed",
    ),
)

UNSUPPORTED = {
    "dbrx": "its block chooses the experts itself, outside of the router",
    "jetmoe": "its attention is routed as well, and its router hands on tokens sorted by expert",
    "llama4": "its experts read inputs that are scaled by their scores, and no weights follow",
    "llama4_text": "its experts read inputs that are scaled by their scores, and no weights follow",
    "switch_transformers": "its experts have a capacity and drop the tokens beyond it",
}
"""Known routed families that no spec describes, and why."""
