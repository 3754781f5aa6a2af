"""The matrix that says what a router reads, against what the routers of every family were given."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp.hooks.blocks import RoutedBlock, routed_blocks
from interp.hooks.router_space import router_weights
from tests.tiny_families import FAMILIES, is_in_this_version, tiny_family


def seen_by(model: Any, block: RoutedBlock) -> tuple[Tensor, Tensor]:
    """The residual stream before the norm, and what the routed layer was given after it."""
    seen: dict[str, Tensor] = {}
    handles = [
        block.resid_mid.register_forward_pre_hook(lambda _, args: seen.update(mid=args[0])),
        block.moe.register_forward_pre_hook(lambda _, args: seen.update(read=args[0])),
    ]
    with torch.no_grad():
        model(input_ids=torch.arange(12)[None])
    for handle in handles:
        handle.remove()
    return seen["mid"].flatten(0, -2), seen["read"].flatten(0, -2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_matrix_gives_the_logits_of_the_normalised_residual(family: str) -> None:
    if not is_in_this_version(family):
        assert family in FAMILIES
        return
    model = tiny_family(family).eval()
    weights = router_weights(model)
    blocks = routed_blocks(model)
    assert list(weights) == [block.layer for block in blocks]
    for block in blocks:
        mid, read = seen_by(model, block)
        offset = getattr(block.resid_mid, "bias", None)
        if family == "phimoe":
            mid = mid - mid.mean(dim=-1, keepdim=True)
        size = mid.square().mean(dim=-1, keepdim=True).sqrt() if family != "flex_olmo" else 1.0
        read = read if offset is None else read - offset
        expected = read @ block.weight.float().T
        found = mid / size @ torch.from_numpy(weights[block.layer]).T
        np.testing.assert_allclose(found.detach(), expected.detach(), rtol=1e-2, atol=2e-3)
