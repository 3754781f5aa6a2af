"""Unpacking of MXFP4 weights through a table of bytes, as fast as memory allows.

Each byte holds two numbers of 4 bits (1 sign, 2 exponent, 1 mantissa), and each group of 32 numbers
shares a power of two, whose exponent is stored with 127 added (Open Compute Project, Microscaling
Formats v1.0, section 5). All of them are exact in bfloat16.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import BFloat16, UInt8
from torch import Tensor

NUMBERS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""What the lower three bits stand for; the fourth is the sign."""
SCALE_BIAS = 127
BLOCKS, SCALES = "_blocks", "_scales"
"""Ends of the names of the two tensors that hold a packed weight."""


def unpack_mxfp4(
    blocks: UInt8[Tensor, "experts rows groups bytes"], scales: UInt8[Tensor, "experts rows groups"]
) -> BFloat16[Tensor, "experts columns rows"]:
    """The weights of the experts of a layer, columns first as the experts of gpt-oss read them.

    Bit for bit what transformers makes of them; but a scale of 255, which no checkpoint has, is NaN
    as the format says.

    Args:
        blocks: Two numbers a byte, the lower half first.
        scales: Exponents of the groups, plus 127.
    """
    n_experts, n_rows, n_groups, n_bytes = blocks.shape
    table, powers = _pairs(), _powers()
    found = torch.empty(n_experts, n_groups * n_bytes * 2, n_rows, dtype=torch.bfloat16)
    for expert in range(n_experts):
        pairs = torch.from_numpy(np.take(table, blocks[expert].numpy()))
        numbers = pairs.view(torch.bfloat16)
        numbers *= powers[scales[expert].int()].unsqueeze(-1)
        found[expert] = numbers.view(n_rows, -1).T
    return found


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with every pair of `_blocks` and `_scales` unpacked under the weight's name."""
    packed = {name.removesuffix(BLOCKS) for name in tensors if name.endswith(BLOCKS)}
    ends = (BLOCKS, SCALES)
    parts = {name + end for name in packed for end in ends}
    found = {name: each for name, each in tensors.items() if name not in parts}
    return found | {name: unpack_mxfp4(*(tensors[name + end] for end in ends)) for name in packed}


def _pairs() -> np.ndarray:
    """For each byte its two numbers, as the 32 bits of two bfloat16."""
    numbers = torch.tensor([*NUMBERS, *(-each for each in NUMBERS)], dtype=torch.bfloat16)
    byte = torch.arange(256)
    pairs = torch.stack([numbers[byte & 15], numbers[byte >> 4]], dim=-1)
    return pairs.view(torch.int32).flatten().numpy()


def _powers() -> BFloat16[Tensor, "256"]:
    """For each stored exponent its power of two; the last stands for NaN."""
    exponent = torch.arange(256, dtype=torch.float64) - SCALE_BIAS
    powers = torch.exp2(exponent).to(torch.bfloat16)
    powers[-1] = torch.nan
    return powers
