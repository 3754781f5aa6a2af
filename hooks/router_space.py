"""What the routers of a model read of the residual stream, as one matrix a layer."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.hooks.blocks import RoutedBlock, routed_blocks


def router_weights(model: nn.Module) -> dict[int, Float[np.ndarray, "experts d_model"]]:
    """Router weight of each routed layer times the scale of the norm before it.

    With `r` the root mean square of a row of `resid_mid`, that row's router logits are
    `weight resid_mid / r + bias`, so what is orthogonal to all rows of `weight` moves them through
    `r` alone. The scale is what the norm makes of a row of ones, which serves families whose
    scale is stored as it is and those whose is stored less 1. Where the norm takes the mean off
    first, as in phimoe, so does `weight`, and `r` is the standard deviation; without a norm, as in
    flex_olmo, `r` is 1.

    Args:
        model: From `from_pretrained`, of a family that capture knows.

    Returns:
        By number of the layer; float32, in the unit of logits per unit of `resid_mid` over `r`.

    Raises:
        InputError: If the model has no routed layer of a known family.
    """
    with torch.no_grad():
        return {block.layer: _weight(block).cpu().numpy() for block in routed_blocks(model)}


def _weight(block: RoutedBlock) -> Float[Tensor, "experts d_model"]:
    weight = block.weight.detach().float()
    if block.resid_mid is block.moe:
        return weight
    if isinstance(block.resid_mid, nn.LayerNorm):
        weight = weight * block.resid_mid.weight.float().to(weight.device)
        return weight - weight.mean(dim=-1, keepdim=True)
    device = next((each.device for each in block.resid_mid.parameters()), weight.device)
    scale = block.resid_mid(torch.ones(1, block.d_model, dtype=block.weight.dtype, device=device))
    scaled: Tensor = weight * scale[0].float().to(weight.device)
    return scaled
