"""Surface-adjusted effect: what is left of the effect at the same token, neighbour and position."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped
from scipy.sparse import csr_array, vstack

from interp.analyses.cells import ClusterSums, ColumnSums
from interp.analyses.cells_contrast import Units, number_units
from interp.analyses.slot_tables import TABLE_BYTES, cell_index, slot_tables
from interp.analyses.surface_basis import MAX_PREVIOUS, SurfaceBasis, surface_basis
from interp.analyses.surface_design import SurfaceDesign
from interp.analyses.token_stream import CellIndex, TokenStream, stream_of_arrays
from interp.analyses.usage import check_routing

MAX_FOLDS = 10
"""Parts of the cross-fit; each cluster is its own up to this many."""


@dataclass(frozen=True, kw_only=True)
class SurfaceAdjustment:
    """Sums for the surface-adjusted effect, and what the surface was."""

    sums: ClusterSums
    """Sums by cluster, columns are (layer, expert)."""
    adjusted_for: tuple[str, ...]
    """What was taken out: of `token`, `previous_token`, `position` and `logprob`."""
    left_out: tuple[str, ...]
    """What could not be taken out, each with its reason in a sentence."""
    n_tokens: int
    """Tokens that count: those whose id occurs under both conditions."""


def surface_adjusted_sums(
    expert_indices: Integer[np.ndarray, "tokens layers top_k"],
    *,
    benchmark: Bool[np.ndarray, "tokens"],
    cluster: Shaped[np.ndarray, "tokens"],
    token_id: Integer[np.ndarray, "tokens"],
    previous_token_id: Integer[np.ndarray, "tokens"],
    position: Integer[np.ndarray, "tokens"],
    logprob: Float[np.ndarray, "tokens"],
    n_experts: int,
    rng: np.random.Generator,
    ridge: float = 1.0,
) -> SurfaceAdjustment:
    """Sums for the effect of the condition on every expert, beyond what the surface explains.

    Share and condition are regressed on one constant for each token id, one for each previous
    token (ridge), and on position and log-probability (piecewise linear, knots at quantiles). The
    fit for a token comes from other clusters, so that a cluster cannot explain itself away. Then
    the token-adjusted estimator is applied to the residuals: the partially linear regression of
    Robinson 1988 (doi:10.2307/1912705), cross-fitted as in Chernozhukov et al. 2018
    (arXiv:1608.00060), by cluster as in Chiang et al. 2019 (arXiv:1909.03489). The constants of
    token ids are within-token means of all clusters, since the estimator takes them out again.
    Folds do not look at the condition, and the regression is linear in it: so exchanged labels
    are residualised anew at no cost.

    Args:
        expert_indices: Experts chosen, in any order within a token.
        benchmark: True for a token of a benchmark prompt.
        cluster: What is resampled and kept whole in a fold.
        token_id: Vocabulary id.
        previous_token_id: Vocabulary id of the token before; -1 for none.
        position: Position in its sequence.
        logprob: Log-probability in nats. Tokens that lack it have a constant of their own; where
            all do, it is left out and named so.
        n_experts: Experts in a layer.
        rng: Puts clusters into folds where there are more than 10.
        ridge: Tokens that a feature must be seen on, within token ids, to be believed by half.

    Returns:
        Sums for `max_t_test` and `cluster_jackknife`, and what was adjusted for.

    Raises:
        ValueError: If there is no token, or an expert is out of range.
    """
    check_routing(
        expert_indices, np.zeros(len(benchmark), dtype=int), n_prompts=1, n_experts=n_experts
    )
    units = number_units(benchmark, cluster)
    stream = stream_of_arrays(
        expert_indices,
        row=units.unit,
        token_id=token_id,
        previous_token_id=previous_token_id,
        position=position,
        logprob=logprob,
        n_experts=n_experts,
        layer_indices=tuple(range(expert_indices.shape[1])),
    )
    return streamed_surface(stream, units, cell_index(stream), rng=rng, ridge=ridge).adjustment()


@dataclass(frozen=True, kw_only=True)
class StreamedSurface:
    """The surface-adjusted estimator of tokens that come in parts."""

    design: SurfaceDesign
    """What does not depend on the experts."""

    def adjustment(self, table_bytes: int = TABLE_BYTES) -> SurfaceAdjustment:
        """Go over the tokens for the sums of all experts."""
        design = self.design
        tables = slot_tables(
            design.stream, design.cells, surface=design.slots, table_bytes=table_bytes
        )
        return self.of_columns([each for table in tables for each in design.columns(table)])

    def of_columns(self, columns: list[ColumnSums]) -> SurfaceAdjustment:
        """The sums of all experts, and what was adjusted for."""
        adjusted_for, left_out = _named(self.design.basis)
        return SurfaceAdjustment(
            sums=self.design.joined(columns),
            adjusted_for=("token", *adjusted_for),
            left_out=left_out,
            n_tokens=int(self.design.cells.n_tokens[self.design.kept].sum()),
        )


def streamed_surface(
    stream: TokenStream,
    units: Units,
    cells: CellIndex,
    *,
    rng: np.random.Generator,
    ridge: float = 1.0,
) -> StreamedSurface:
    """Prepare the estimator: about eight passes over the tokens, none of them reads experts."""
    n_folds = min(units.n_clusters, MAX_FOLDS)
    design = SurfaceDesign(
        stream=stream,
        basis=surface_basis(stream, max_previous=MAX_PREVIOUS),
        cells=cells,
        units=units,
        fold_of_cluster=rng.permutation(np.arange(units.n_clusters) % n_folds),
        ridge=ridge,
    )
    return StreamedSurface(design=design)


def surface_features(
    previous_token_id: Integer[np.ndarray, "tokens"],
    position: Integer[np.ndarray, "tokens"],
    logprob: Float[np.ndarray, "tokens"],
) -> tuple[csr_array, tuple[str, ...], tuple[str, ...]]:
    """Previous token, position and log-probability as sparse columns, and what was left out."""
    none = np.zeros(len(position), dtype=int)
    stream = stream_of_arrays(
        none[:, None, None],
        row=none,
        token_id=none,
        previous_token_id=previous_token_id,
        position=position,
        logprob=logprob,
        n_experts=1,
        layer_indices=(0,),
    )
    basis = surface_basis(stream, max_previous=MAX_PREVIOUS)
    parts = [basis.features(part) for part in stream.parts(slice(0, 0))]
    return csr_array(vstack(parts, format="csr")), *_named(basis)


def _named(basis: SurfaceBasis) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is adjusted for beside the token, and what is left out."""
    if len(basis.curves) == 2:
        return ("previous_token", "position", "logprob"), ()
    sentence = "logprob is NaN for every token, so the effect is not adjusted for it."
    return ("previous_token", "position"), (sentence,)
