"""Two kinds of features together: does routing add to the residual stream, and the reverse?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from interp.analyses.probe_choice import WeightedFeatures
from interp.analyses.probe_gain import Gain, gain
from interp.analyses.probe_splits import Splits, cluster_splits
from interp.analyses.probes import STRENGTHS, ProbeScore, probe

SHARES = (0.5, 0.1, 0.01)
"""Shares of the squared norm of a row that the added features can get, for the data to choose."""


@dataclass(frozen=True, kw_only=True)
class Added:
    """What features add to others in a probe of the same prompts."""

    base: ProbeScore
    """Without the added features."""
    joint: ProbeScore
    """With them."""
    auroc_gain: Gain
    """AUROC with them minus without."""
    bits_saved: Gain
    """Cross-entropy without them minus with them, in bits a prompt."""

    def to_frame(self) -> pd.DataFrame:
        """One row."""
        row = {"base_auroc": self.base.auroc, "joint_auroc": self.joint.auroc}
        for name, each in (("auroc_gain", self.auroc_gain), ("bits_saved", self.bits_saved)):
            row |= {name: each.value, f"{name}_low": each.low, f"{name}_high": each.high}
        return pd.DataFrame([row])


def added_by(
    extra: Float[np.ndarray, "prompts d_extra"],
    *,
    to: Float[np.ndarray, "prompts d_base"],
    target: Bool[np.ndarray, "prompts"],
    cluster: Shaped[np.ndarray, "prompts"],
    rng: np.random.Generator,
    splits: Splits | None = None,
    inner_cluster: Shaped[np.ndarray, "prompts"] | None = None,
    strengths: Sequence[float] = STRENGTHS,
) -> Added:
    """Nested models: a probe of `to` alone against a probe of `to` and `extra` side by side.

    Under one penalty, 2,880 columns would drown 32. So columns are scaled until the added ones make
    up a share of a row's squared norm, which is chosen among `SHARES`, with the penalty, within
    the fitted prompts (ours).

    How it fools you: no gain does not say that `extra` holds nothing, only nothing that `to` lacks
    *and* that this many prompts can teach; `extra` that is a noisier copy of `to` can also gain a
    little by averaging noise away.

    Args:
        extra: Features that may add something.
        to: Features that are there already.
        target: What to tell apart.
        cluster: As for `probe`.
        rng: Source of chance for folds.
        splits: As for `probe`.
        inner_cluster: As for `probe`.
        strengths: As for `probe`.

    Returns:
        Both probes with paired differences.

    Raises:
        ValueError: As `probe`.
    """
    if splits is None:
        splits = cluster_splits(target, cluster, rng=rng)

    def fitted(features: object) -> ProbeScore:
        return probe(
            features,  # type: ignore[arg-type]
            target=target,
            cluster=cluster,
            rng=np.random.default_rng(seed),
            splits=splits,
            inner_cluster=inner_cluster,
            strengths=strengths,
        )

    seed = int(rng.integers(2**31))  # the same inner folds for both
    base = fitted(to)
    joint = fitted({f"{share:g}": side_by_side(to, extra, share=share) for share in SHARES})
    return Added(
        base=base,
        joint=joint,
        auroc_gain=gain(joint, base),
        bits_saved=gain(base, joint, metric="bits"),
    )


def side_by_side(
    base: Float[np.ndarray, "prompts d_base"],
    extra: Float[np.ndarray, "prompts d_extra"],
    *,
    share: float = 0.5,
) -> WeightedFeatures:
    """Both blocks of columns, `extra` making up a `share` of the squared norm of a row."""
    dtype = np.result_type(base, extra)
    n_base, n_extra = base.shape[1], extra.shape[1]
    return WeightedFeatures(
        values=np.concatenate([base, extra], axis=1, dtype=dtype),
        column_weight=np.concatenate(
            [
                np.full(n_base, np.sqrt((1 - share) / n_base)),
                np.full(n_extra, np.sqrt(share / n_extra)),
            ]
        ),
    )


@dataclass(frozen=True, kw_only=True)
class RouterSplit:
    """A residual in two parts: what the router can read, and what it cannot."""

    row_space: Float[np.ndarray, "prompts rank"]
    """Coordinates in an orthonormal basis of the rows of the router's weight."""
    complement: Float[np.ndarray, "prompts d_model"]
    """The rest, orthogonal to every row."""
    random_space: Float[np.ndarray, "prompts rank"]
    """Coordinates in as many random orthonormal directions: what so few dimensions give anyway."""
    basis: Float[np.ndarray, "rank d_model"]
    """Orthonormal rows that span the row space."""


def router_split(
    features: Float[np.ndarray, "prompts d_model"],
    *,
    router_weight: Float[np.ndarray, "experts d_model"],
    rng: np.random.Generator,
) -> RouterSplit:
    """Splits what the router reads into its row space and the complement.

    The logits are `router_weight x + bias`, so whatever is orthogonal to all rows cannot move them.
    The router reads the *normalised* residual: give the features as it sees them, or multiply each
    column of `router_weight` with the norm's scale and give `resid_mid` (the division by the root
    mean square changes the length of a token's residual, not its direction).

    How it fools you: probing the row space finds what the router *could* use; compare with
    `random_space`, since 32 directions of 2,880 carry much of any broad signal.

    Args:
        features: Residual of each prompt, in the router's space.
        router_weight: Weight of the router, one row per expert.
        rng: Source of chance for the random directions.

    Returns:
        Parts in the unit of `features`; `row_space @ basis + complement` gives these back.

    Raises:
        ValueError: If the router's weight is 0 everywhere.

    Example:
        >>> split = router_split(
        ...     np.array([[3.0, 4.0]]),
        ...     router_weight=np.array([[0.0, 2.0]]),
        ...     rng=np.random.default_rng(0),
        ... )
        >>> abs(split.row_space).tolist(), split.complement.tolist()
        ([[4.0]], [[3.0, 0.0]])
    """
    _, values, rows = np.linalg.svd(router_weight.astype(np.float64), full_matrices=False)
    rank = int((values > max(router_weight.shape) * np.finfo(np.float32).eps * values[0]).sum())
    if not rank:
        raise ValueError("router_weight is 0 everywhere, so it has no row space; give the weights")
    basis = rows[:rank]
    drawn, _ = np.linalg.qr(rng.normal(size=(features.shape[1], rank)))
    inside = features @ basis.T
    # A column within the row space has nothing left but rounding, which a probe would standardise.
    has_rest = 1.0 - np.square(basis).sum(axis=0) > 1e-9
    return RouterSplit(
        row_space=inside,
        complement=np.where(has_rest, features - inside @ basis, 0.0),
        random_space=features @ drawn,
        basis=basis,
    )
