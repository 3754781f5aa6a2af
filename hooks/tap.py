"""A tap records routing and residual streams of a model's forward passes and changes nothing."""

from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, cast

from einops import rearrange
from jaxtyping import Int
from torch import Tensor, nn

from interp.cache.errors import InputError, ModelError
from interp.cache.records import RESID_SITES, SITES
from interp.hooks.attach import Arguments, after, before, refuse_compiled
from interp.hooks.blocks import RoutedBlock, routed_blocks
from interp.hooks.check import check_fired, check_values, is_unchecked
from interp.hooks.expert_norms import given_choice, record_norms
from interp.hooks.pass_records import Observed, PassRecords, is_varied, pass_records, recompute
from interp.hooks.routing import Choice, router_output


class RoutingTap:
    """Records the chosen sites of every forward pass while it is open.

    What the model's own router returned and its experts were given is taken where it can be seen.
    Where it cannot, as under fused kernels, logits are recomputed from the input of the routed
    block and the router's weights, and the choice from them. After the first pass both are
    compared, with what the router itself says when it is asked if the model did not call it;
    `compared_layers` names the layers where it was called and no hook of an intervention sat on it.

    Taps may be nested and closed in any order. Interventions of this package are seen by every tap,
    whichever was opened first.

    Args:
        model: A transformers model of one of the families in `interp.hooks.spec.SPECS`.
        sites: Which sites to record; see `interp.cache.records.SITES`.
        layers: Numbers of the layers to record; all routed layers if None.

    Raises:
        InputError: If the model has no router or was compiled, or a site or layer is not known.
        ModelError: From `take`, if the first pass fails a check; it names the layer and the site.

    Example:
        >>> from interp import organisms
        >>> model, tokenizer = organisms.load("toy")
        >>> with RoutingTap(model, sites=("expert_indices",)) as tap:
        ...     _ = model(**tokenizer("two plus two", return_tensors="pt"))
        >>> tap.take().expert_indices.shape[1:]
        torch.Size([4, 4])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sites: Sequence[str] = SITES,
        layers: Sequence[int] | None = None,
    ) -> None:
        self.sites = chosen_sites(sites)
        self.blocks = chosen_blocks(model, layers)
        self._model = model
        self.is_checked = False
        self.compared_layers: tuple[int, ...] = ()
        self._token_rows: Tensor | None = None
        self._resid_rows: Tensor | None = None
        self._undo: list[Callable[[], None]] = []
        self._forget()

    def select(
        self,
        *,
        tokens: Int[Tensor, "tokens"] | None = None,
        resid: Int[Tensor, "rows"] | None = None,
    ) -> None:
        """Name the rows of the next passes to keep, as positions in `(batch pos)` flattened.

        Args:
            tokens: Rows of router sites to keep; all if None.
            resid: Rows of residual sites to keep; all if None.
        """
        self._token_rows, self._resid_rows = tokens, resid

    def __enter__(self) -> "RoutingTap":
        if self._undo:
            raise ModelError("this tap is open already; make another one to nest them")
        self._forget()
        try:
            self._register()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._remove()

    def take(self) -> PassRecords:
        """The records of the one forward pass since the last call; the tap is empty afterwards.

        Raises:
            ModelError: If a site did not fire exactly once, or the first pass fails its check.
        """
        try:
            if self._n_passes > 1:
                raise ModelError(
                    f"{self._n_passes} passes were made and a tap holds one; call take() after "
                    "each, and for generation use interp.hooks.generate"
                )
            check_fired(self.blocks, self.sites, self._fired)
            if not self.is_checked:
                self.compared_layers = check_values(self.blocks, self._observed, self._resid)
                self.is_checked = not any(map(is_unchecked, self._observed.values()))
            return pass_records(
                self.blocks,
                self.sites,
                observed=self._observed,
                resid=self._resid,
                rows=self._token_rows,
            )
        finally:
            self._forget()

    def discard(self) -> None:
        """Forget the passes since the last `take`, such as one that failed half-way."""
        self._forget()

    def _remove(self) -> None:
        for undo in self._undo:
            undo()
        self._undo.clear()

    def _forget(self) -> None:
        self._n_passes = 0
        self._start()

    def _start(self, *_: Any) -> None:
        """Begin a pass: what one that failed half-way left behind is dropped."""
        self._observed = {block.layer: Observed() for block in self.blocks}
        self._resid: dict[tuple[str, int], Tensor] = {}
        self._fired: Counter[tuple[str, int]] = Counter()

    def _end(self, _: Any) -> None:
        self._n_passes += 1

    def _register(self) -> None:
        self._before(self._model, self._start)
        for block in self.blocks:
            self._register_block(block)
        self._after(self._model, self._end)

    def _register_block(self, block: RoutedBlock) -> None:
        layer = block.layer
        if set(self.sites) - set(RESID_SITES):
            self._before(block.moe, self._on_moe_input(layer))
            self._after(block.router, self._on_router(layer))
            self._before(block.experts, self._on_experts(layer))
            self._after(block.moe, self._on_moe_output(block))
        if "expert_output_norms" in self.sites:
            self._undo.append(record_norms(block, self._keep_norms))
        for site, module in (("resid_pre", block.decoder), ("resid_mid", block.resid_mid)):
            if site in self.sites:
                self._before(module, self._on_resid_input(site, layer))
        if "resid_post" in self.sites:
            self._after(block.decoder, self._on_resid_output(layer))

    def _before(self, module: nn.Module, read: Arguments) -> None:
        self._undo.append(before(module, read).remove)

    def _after(self, module: nn.Module, read: Callable[[Any], None]) -> None:
        self._undo.append(after(module, read).remove)

    def _on_moe_input(self, layer: int) -> Arguments:
        def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._observed[layer].hidden = _flat(_hidden_states(args, kwargs))

        return read

    def _on_router(self, layer: int) -> Callable[[Any], None]:
        def read(output: Any) -> None:
            logits, weights, indices = router_output(layer, output)
            observed = self._observed[layer]
            observed.is_router_called = True
            if not self.is_checked or "router_logits" in self.sites:
                observed.logits = logits.detach().clone()
            observed.choice = _copied(weights, indices)

        return read

    def _on_experts(self, layer: int) -> Arguments:
        """What the experts are given is what counts, also where somebody changed it on the way."""

        def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            others = {name: each for name, each in kwargs.items() if name != "hidden_states"}
            given = given_choice(args[1:], others)
            self._observed[layer].choice = _copied(given.expert_weights, given.expert_indices)

        return read

    def _on_moe_output(self, block: RoutedBlock) -> Callable[[Any], None]:
        """Where router or experts were not seen, or are to be checked, recompute their part.

        A router under an intervention returns what its rule does not give, so it is not checked.
        """

        def read(_: Any) -> None:
            observed = self._observed[block.layer]
            hidden, observed.hidden = observed.hidden, None
            if hidden is None:
                return
            if not self.is_checked:
                observed.is_input_varied = is_varied(hidden)
            is_trusted = self.is_checked or block.is_edited
            if not (is_trusted and observed.is_router_called):
                recompute(block, observed, hidden, is_first=not is_trusted)
            for site in set(self.sites) - set(RESID_SITES) - {"expert_output_norms"}:
                self._fired[site, block.layer] += 1

        return read

    def _keep_norms(self, layer: int, norms: Tensor) -> None:
        self._observed[layer].norms = norms
        self._fired["expert_output_norms", layer] += 1

    def _on_resid_input(self, site: str, layer: int) -> Arguments:
        def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._keep_resid(site, layer, _hidden_states(args, kwargs))

        return read

    def _on_resid_output(self, layer: int) -> Callable[[Any], None]:
        def read(output: Tensor | tuple[Tensor, ...]) -> None:
            hidden = output if isinstance(output, Tensor) else output[0]
            self._keep_resid("resid_post", layer, hidden.detach())

        return read

    def _keep_resid(self, site: str, layer: int, hidden: Tensor) -> None:
        rows = _flat(hidden)
        if self._resid_rows is not None:
            rows = rows[self._resid_rows.to(rows.device)]
        self._resid[site, layer] = rows.to("cpu", copy=self._resid_rows is None)
        self._fired[site, layer] += 1


def chosen_sites(sites: Sequence[str]) -> tuple[str, ...]:
    """The sites asked for, in the order of `SITES`.

    Raises:
        InputError: If a site is not known, or none is given.
    """
    unknown = [site for site in sites if site not in SITES]
    if unknown or not sites:
        raise InputError(f"sites holds {unknown or 'nothing'}, expected some of {', '.join(SITES)}")
    return tuple(site for site in SITES if site in sites)


def chosen_blocks(model: nn.Module, layers: Sequence[int] | None) -> tuple[RoutedBlock, ...]:
    """The routed layers with these numbers, rising; all of them if `layers` is None.

    Raises:
        InputError: If the model has no router or was compiled, or a number is not that of a routed
            layer.
    """
    refuse_compiled(model)
    blocks = {block.layer: block for block in routed_blocks(model)}
    if layers is None:
        return tuple(blocks.values())
    unknown = sorted(set(layers) - blocks.keys())
    if unknown or not layers:
        raise InputError(
            f"layers holds {unknown or 'nothing'}, but the routed layers are {list(blocks)}"
        )
    return tuple(blocks[layer] for layer in sorted(set(layers)))


def _copied(weights: Tensor, indices: Tensor) -> Choice:
    return Choice(weights.detach().clone(), indices.detach().clone())


def _hidden_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    hidden = args[0] if args else kwargs["hidden_states"]
    return cast(Tensor, hidden).detach()


def _flat(hidden: Tensor) -> Tensor:
    if hidden.ndim != 3:
        raise ModelError(
            f"a routed layer received states of shape {tuple(hidden.shape)}, expected "
            "[batch pos d_model]; this model's layers are not built as expected"
        )
    return rearrange(hidden, "batch pos d_model -> (batch pos) d_model")
