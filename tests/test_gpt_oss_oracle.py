"""The tap on transformers' gpt-oss against OpenAI's own torch code, with the same weights.

`gpt_oss` is imported plainly: a skip while collecting would pass the guard in conftest.py, and
CI would be green without it.
"""

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GptOssConfig, GptOssForCausalLM

from interp.hooks.tap import RoutingTap
from tests.openai_gpt_oss import openai_model, run_openai

TOLERANCE = 1e-5
"""Largest difference allowed, in float32, between values of order 1."""

# The rotary embedding of the real gpt-oss; OpenAI's code knows no other.
ROPE = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What differs between the models compared; even layers slide, odd ones see everything."""

    n_layers: int
    n_experts: int
    top_k: int
    d_model: int
    d_expert: int
    head_dim: int
    n_heads: int
    n_key_heads: int
    window: int
    n_pos: int
    swiglu_limit: float = 7.0


SIZES = {
    "two_layers_top_2_of_8": Sizes(
        n_layers=2,
        n_experts=8,
        top_k=2,
        d_model=32,
        d_expert=16,
        head_dim=16,
        n_heads=4,
        n_key_heads=2,
        window=8,
        n_pos=48,
    ),
    "heads_of_gpt_oss_top_4_of_32": Sizes(
        n_layers=4,
        n_experts=32,
        top_k=4,
        d_model=64,
        d_expert=48,
        head_dim=64,
        n_heads=8,
        n_key_heads=1,
        window=16,
        n_pos=80,
    ),
    "window_of_gpt_oss_no_shared_keys": Sizes(
        n_layers=3,
        n_experts=16,
        top_k=4,
        d_model=48,
        d_expert=64,
        head_dim=64,
        n_heads=2,
        n_key_heads=2,
        window=128,
        n_pos=300,
    ),
    "deep_and_often_clamped": Sizes(
        n_layers=8,
        n_experts=12,
        top_k=2,
        d_model=40,
        d_expert=24,
        head_dim=16,
        n_heads=6,
        n_key_heads=3,
        window=3,
        n_pos=40,
        swiglu_limit=1.0,
    ),
}
N_SEQUENCES = 2


@dataclass(frozen=True)
class Compared:
    """One batch through both; the first axis of every tensor is `(batch pos)`."""

    found: Any
    """What the tap took: `interp.hooks` calls it `PassRecords`."""
    found_logits: Tensor
    router_logits: Tensor
    mixed_weights: Tensor
    resid_post: list[Tensor]
    logits: Tensor
    top_k: int

    def expert_indices(self) -> Tensor:
        """Experts in OpenAI's sum, the heaviest first: `[tokens, layers, top_k]`."""
        return self.mixed_weights.argsort(dim=-1, descending=True)[..., : self.top_k]


def random_model(sizes: Sizes) -> GptOssForCausalLM:
    """Random weights that keep every value of order 1, and let each part count."""
    config = GptOssConfig(
        vocab_size=96,
        hidden_size=sizes.d_model,
        intermediate_size=sizes.d_expert,
        num_hidden_layers=sizes.n_layers,
        num_attention_heads=sizes.n_heads,
        num_key_value_heads=sizes.n_key_heads,
        head_dim=sizes.head_dim,
        num_local_experts=sizes.n_experts,
        num_experts_per_tok=sizes.top_k,
        sliding_window=sizes.window,
        swiglu_limit=sizes.swiglu_limit,
        rope_parameters=ROPE,
    )
    model = GptOssForCausalLM._from_config(config, dtype=torch.float32).eval()
    if not hasattr(GptOssConfig, "swiglu_limit"):  # before 5.19 the experts did not read the config
        for layer in model.model.layers:
            layer.mlp.experts.limit = sizes.swiglu_limit
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1 or name.endswith("_bias"):
                mean, std = (1.0 if "norm" in name else 0.0), 0.3
            else:
                fan_in = weight.shape[1]  # of a matrix and of a stack of experts alike
                mean, std = 0.0, 1.0 if "embed" in name else fan_in**-0.5
            weight.normal_(mean, std, generator=generator)
    return model


@pytest.fixture(scope="module", params=SIZES.values(), ids=SIZES.keys())
def compared(request: pytest.FixtureRequest) -> Compared:
    sizes: Sizes = request.param
    model = random_model(sizes)
    ids = torch.randint(
        model.config.vocab_size,
        (N_SEQUENCES, sizes.n_pos),
        generator=torch.Generator().manual_seed(1),
    )
    sites = ("router_logits", "expert_indices", "expert_weights", "resid_post")
    with torch.no_grad(), RoutingTap(model, sites=sites) as tap:
        found_logits = model(ids).logits.flatten(0, 1)
        found = tap.take()
    openai = openai_model(model)
    runs = [run_openai(openai, token_id) for token_id in ids]
    layers = list(zip(*(run.layers for run in runs), strict=True))
    return Compared(
        found=found,
        found_logits=found_logits,
        router_logits=torch.stack(
            [torch.cat([each.router_logits for each in layer]) for layer in layers], dim=1
        ),
        mixed_weights=torch.stack(
            [torch.cat([each.mixed_weights for each in layer]) for layer in layers], dim=1
        ),
        resid_post=[torch.cat([each.resid_post for each in layer]) for layer in layers],
        logits=torch.cat([run.logits for run in runs]),
        top_k=sizes.top_k,
    )


def assert_equal_within_tolerance(found: Tensor | None, expected: Tensor) -> None:
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def test_router_logits_are_those_of_openai(compared: Compared) -> None:
    assert_equal_within_tolerance(compared.found.router_logits, compared.router_logits)


def test_experts_and_their_order_are_those_of_openai(compared: Compared) -> None:
    assert ((compared.mixed_weights != 0).sum(-1) == compared.top_k).all()
    assert compared.found.expert_indices is not None
    assert torch.equal(compared.found.expert_indices, compared.expert_indices())


def test_expert_weights_are_those_in_the_sum_of_openai(compared: Compared) -> None:
    expected = compared.mixed_weights.gather(-1, compared.expert_indices())
    assert_equal_within_tolerance(compared.found.expert_weights, expected)


def test_resid_post_of_every_layer_is_that_of_openai(compared: Compared) -> None:
    assert len(compared.found.resid) == len(compared.resid_post)
    for layer, expected in enumerate(compared.resid_post):
        assert_equal_within_tolerance(compared.found.resid["resid_post", layer], expected)


def test_logits_over_the_vocabulary_are_those_of_openai(compared: Compared) -> None:
    assert_equal_within_tolerance(compared.found_logits, compared.logits)


def test_values_are_of_order_one_and_ranks_are_no_matter_of_rounding(compared: Compared) -> None:
    for values in (compared.router_logits, *compared.resid_post, compared.logits):
        assert 0.5 < values.std() < 5
    best = compared.router_logits.topk(compared.top_k + 1, dim=-1).values
    assert -best.diff(dim=-1).max() > TOLERANCE


@pytest.mark.slow
def test_the_oracle_loads_no_code_of_transformers_or_ours() -> None:
    program = (
        "import sys, gpt_oss.torch.model;"
        "sys.exit(str({'transformers', 'interp', 'tests'} & set(sys.modules) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert done.stderr.strip() == ""
