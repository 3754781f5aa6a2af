"""The self-check: one batch with and without taps, and everything that can be compared."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp.cache.errors import ModelError
from interp.hooks.agreement import compare_batched, compare_decoding
from interp.hooks.batches import padded, run_batch
from interp.hooks.blocks import RoutedBlock, routed_blocks
from interp.hooks.check import LOGIT_TOLERANCE
from interp.hooks.render import RenderedPrompt
from interp.hooks.settings import CaptureSettings
from interp.hooks.tap import RoutingTap


def self_check(
    model: Any,
    tokenizer: Any,
    batch: Sequence[RenderedPrompt],
    *,
    settings: CaptureSettings,
) -> dict[str, Any]:
    """Pass a few prompts through the model, check what the tap saw, and say what was checked.

    The checks of the tap come first: every site fired once per layer, shapes, no NaN, the family's
    rule gives what the router returned. Then: the taps left the output as it was, and the logits
    are those that transformers reports, where it does. Prompts of several lengths route alike in
    one batch and alone. Where prompts are to be answered, decoding and one teacher-forced pass
    route alike.

    Returns:
        Plain values: sites, layers, the layers compared with the model's own router and with
        `output_router_logits`, whether the output was unchanged, the agreement of the batch with
        each prompt alone, the path that ran the experts, and the agreement of decoding where there
        was any.

    Raises:
        ModelError: If a check fails; names the layer and the site.
    """
    bare = _output(model, batch)
    with RoutingTap(model, sites=settings.sites, layers=settings.layers) as tap:
        run_batch(model, tap, batch, settings.positions)
        tapped = _output(model, batch)
    checked: dict[str, Any] = {
        "sites": list(tap.sites),
        "layers": [block.layer for block in tap.blocks],
        "layers_compared_with_router": list(tap.compared_layers),
        "layers_compared_with_output_router_logits": _compare_reported(model, batch, settings),
        "output": _compare_outputs(model, batch, bare, tapped),
        "batched": compare_batched(model, batch, settings=settings),
        "experts_path": experts_path(tap.blocks, tap.compared_layers),
    }
    if settings.generation is not None:
        checked["decoding"] = compare_decoding(model, tokenizer, batch, settings=settings)
    return checked


def experts_path(blocks: Sequence[RoutedBlock], compared_layers: Sequence[int]) -> list[str]:
    """What ran the experts, one sentence for all layers where it was the same."""
    return sorted({_path(block, block.layer in compared_layers) for block in blocks})


def _path(block: RoutedBlock, is_router_called: bool) -> str:
    # Where accelerate moves weights, it keeps the forward that it wrapped.
    forward = getattr(block.moe, "_old_forward", block.moe.forward)
    name = f"{forward.__module__}.{forward.__qualname__}"
    if block.is_edited:
        return f"{name}, experts {block.experts_implementation}, under an intervention"
    if not is_router_called:
        return f"{name}, which does not call its router; routing recomputed from its input"
    return f"{name}, experts {block.experts_implementation}"


def _output(model: Any, batch: Sequence[RenderedPrompt]) -> tuple[Tensor, Tensor]:
    """States of all rows behind the last layer, and logits of the last row of each prompt."""
    states: list[Tensor] = []
    handle = model.base_model.register_forward_hook(
        lambda module, args, output: states.append(output.last_hidden_state)
    )
    try:
        with torch.inference_mode():
            output = model(**padded(batch, model), use_cache=False, logits_to_keep=1)
    finally:
        handle.remove()
    return states[0], output.logits


def _compare_outputs(
    model: Any,
    batch: Sequence[RenderedPrompt],
    bare: tuple[Tensor, Tensor],
    tapped: tuple[Tensor, Tensor],
) -> str:
    """The taps changed no bit; on a device that does not repeat itself, nothing can be said."""
    if _is_same(bare, tapped):
        return "bit-identical with and without taps"
    if not _is_same(bare, _output(model, batch)):
        return "not compared: without taps, too, two passes differ"
    pairs = zip(bare, tapped, strict=True)
    difference = max((one.float() - two.float()).abs().max() for one, two in pairs)
    raise ModelError(
        f"the taps change the model's output by up to {difference:.3g}; leave out "
        "expert_output_norms, which needs to know how the experts are summed"
    )


def _is_same(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def _compare_reported(
    model: Any, batch: Sequence[RenderedPrompt], settings: CaptureSettings
) -> list[int]:
    """Layers whose logits are those that transformers reports itself; none where it does not."""
    with RoutingTap(model, sites=("router_logits",), layers=settings.layers) as tap:
        reported = _reported(model, batch)
        if reported is None:
            return []
        logits = tap.take().router_logits
    assert logits is not None
    routed = [block.layer for block in routed_blocks(model)]
    if len(reported) != len(routed):
        return []
    for column, block in enumerate(tap.blocks):
        theirs, ours = reported[routed.index(block.layer)].cpu().float(), logits[:, column].float()
        largest = max(1.0, float(ours[ours.isfinite()].abs().max()))
        if theirs.shape != ours.shape or not torch.allclose(
            theirs, ours, rtol=0, atol=LOGIT_TOLERANCE * largest
        ):
            raise ModelError(
                f"router_logits of layer {block.layer} are not those that output_router_logits "
                "reports; this version of transformers is not supported for this family"
            )
    return [block.layer for block in tap.blocks]


def _reported(model: Any, batch: Sequence[RenderedPrompt]) -> list[Tensor] | None:
    """Router logits as transformers reports them, one tensor per routed layer; None where not."""
    try:
        with torch.inference_mode():
            output = model(
                **padded(batch, model),
                use_cache=False,
                logits_to_keep=1,
                output_router_logits=True,
            )
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return None  # as under fused kernels, where transformers counts on its router
    reported = getattr(output, "router_logits", None)
    return list(reported) if reported else None
