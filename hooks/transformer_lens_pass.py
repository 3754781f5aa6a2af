"""What the hook points of a `TransformerBridge` show of one pass."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from einops import rearrange
from torch import Tensor

from interp.cache.errors import InputError
from interp.cache.records import RESID_SITES
from interp.hooks.blocks import RoutedBlock
from interp.hooks.expert_norms import record_norms
from interp.hooks.pass_records import Observed, is_varied, recompute
from interp.hooks.routing import Choice

ROUTERS = ("router", "gate")
"""What TransformerLens calls the router: `router` in gpt-oss, `gate` elsewhere."""

Hook = Callable[..., None]


class BridgePass:
    """Routing and residual streams of one pass, read at hook points while it runs.

    Args:
        blocks: The layers to record; of the model under the bridge.
        sites: Which sites to record; see `interp.cache.records.SITES`.
        resid_rows: Rows of residual sites to keep; all if None.
    """

    def __init__(
        self, blocks: Sequence[RoutedBlock], sites: Sequence[str], *, resid_rows: Tensor | None
    ) -> None:
        self._blocks, self._sites, self._resid_rows = blocks, sites, resid_rows
        self.observed = {block.layer: Observed() for block in blocks}
        self.resid: dict[tuple[str, int], Tensor] = {}
        self.fired: Counter[tuple[str, int]] = Counter()

    def hooks(self, bridge: Any) -> list[tuple[str, Hook]]:
        """Names of hook points and what to run there, as `bridge.hooks` takes them."""
        names = frozenset(bridge.hook_dict)
        resid_sites = [site for site in self._sites if site in RESID_SITES]
        hooks = [
            (f"blocks.{block.layer}.hook_{site}", self._on_resid(site, block.layer))
            for block in self._blocks
            for site in resid_sites
        ]
        if len(resid_sites) < len(self._sites):
            for block in self._blocks:
                hooks += self._of_routing(block, names)
        return hooks

    @contextmanager
    def norms(self) -> Iterator[None]:
        """Record the norms of the experts' outputs, if they are asked for."""
        with ExitStack() as stack:
            if "expert_output_norms" in self._sites:
                for block in self._blocks:
                    stack.callback(record_norms(block, self._keep_norms))
            yield

    def _of_routing(self, block: RoutedBlock, names: frozenset[str]) -> list[tuple[str, Hook]]:
        observed, moe = self.observed[block.layer], f"blocks.{block.layer}.mlp"
        router = f"{moe}.{_router_name(moe, names)}"
        weights: list[Tensor] = []

        def on_input(value: Tensor, hook: Any) -> None:
            observed.hidden = _flat(value)

        def on_logits(value: Tensor, hook: Any) -> None:
            observed.is_router_called = True
            observed.logits = value.detach().clone()

        def on_weights(value: Tensor, hook: Any) -> None:
            weights[:] = [value.detach()]

        def on_indices(value: Tensor, hook: Any) -> None:
            indices = value.detach().clone()
            observed.choice = Choice(weights[0].gather(-1, indices), indices)

        return [
            (f"{moe}.hook_in", on_input),
            (f"{router}.hook_out", on_logits),
            (f"{router}.hook_expert_weights", on_weights),
            (f"{router}.hook_expert_indices", on_indices),
            (f"{moe}.hook_out", self._on_moe_output(block)),
        ]

    def _on_moe_output(self, block: RoutedBlock) -> Hook:
        """Recompute what the router should have returned, as `RoutingTap` does and for its reasons.

        A router that was not called has it from here; the others are compared with it.
        """

        def on_output(value: Tensor, hook: Any) -> None:
            observed = self.observed[block.layer]
            hidden, observed.hidden = observed.hidden, None
            assert hidden is not None
            observed.is_input_varied = is_varied(hidden)
            if not (block.is_edited and observed.is_router_called):
                recompute(block, observed, hidden)
            for site in set(self._sites) - set(RESID_SITES) - {"expert_output_norms"}:
                self.fired[site, block.layer] += 1

        return on_output

    def _on_resid(self, site: str, layer: int) -> Hook:
        def on_resid(value: Tensor, hook: Any) -> None:
            rows = _flat(value)
            if self._resid_rows is not None:
                rows = rows[self._resid_rows.to(rows.device)]
            self.resid[site, layer] = rows.to("cpu", copy=self._resid_rows is None)
            self.fired[site, layer] += 1

        return on_resid

    def _keep_norms(self, layer: int, norms: Tensor) -> None:
        self.observed[layer].norms = norms
        self.fired["expert_output_norms", layer] += 1


def _router_name(moe: str, names: frozenset[str]) -> str:
    for name in ROUTERS:
        if f"{moe}.{name}.hook_expert_indices" in names:
            return name
    raise InputError(
        f"TransformerLens has no hook points for what the router of {moe} chooses in this family; "
        "open interp.hooks.RoutingTap on plain_model(bridge), which sees it"
    )


def _flat(hidden: Tensor) -> Tensor:
    return rearrange(hidden.detach(), "batch pos d_model -> (batch pos) d_model")
