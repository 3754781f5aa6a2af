"""Equivalence: is every expert's effect small, and not only not shown to be large."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import stats

from interp.analyses.usage import check_layers


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """Two one-sided tests for every expert. See docs/calibration.md for its error rate."""

    layer_indices: tuple[int, ...]
    """Numbers of the layers in the model."""
    margin: float
    """Largest effect that counts as none, in usage share."""
    confidence: float
    """Coverage of the intervals, `1 - 2 * alpha`."""
    effect: Float[np.ndarray, "layers experts"]
    """As given."""
    low: Float[np.ndarray, "layers experts"]
    """Lower end of the interval."""
    high: Float[np.ndarray, "layers experts"]
    """Upper end of the interval."""
    p_value: Float[np.ndarray, "layers experts"]
    """The larger of the two one-sided p-values: small where the effect is inside the margin."""
    inside: Bool[np.ndarray, "layers experts"]
    """The interval lies inside +-`margin`; False where the standard error is NaN."""

    @property
    def all_inside(self) -> bool:
        """Every expert of every layer is inside: the claim `no_difference`."""
        return bool(self.inside.all())

    def to_frame(self) -> pd.DataFrame:
        """One row per layer and expert."""
        n_layers, n_experts = self.effect.shape
        return pd.DataFrame(
            {
                "layer": np.repeat(self.layer_indices, n_experts),
                "expert": np.tile(np.arange(n_experts), n_layers),
                "effect": self.effect.ravel(),
                "low": self.low.ravel(),
                "high": self.high.ravel(),
                "margin": self.margin,
                "p_equivalence": self.p_value.ravel(),
                "inside": self.inside.ravel(),
            }
        )


def two_one_sided_tests(
    effect: Float[np.ndarray, "layers experts"],
    standard_error: Float[np.ndarray, "layers experts"],
    degrees_of_freedom: Float[np.ndarray, "layers experts"],
    *,
    margin: float,
    layer_indices: Sequence[int],
    alpha: float = 0.05,
) -> Equivalence:
    """Two one-sided t-tests of each expert against +-`margin`, at level `alpha`.

    Inside, where `effect -+ t(1 - alpha; df) * standard_error` stays within +-`margin`; this is the
    same as rejecting both `effect <= -margin` and `effect >= margin` at `alpha` (Schuirmann 1987,
    doi:10.1007/BF01068419). "All are inside" needs no correction for their number, since each must
    be (intersection-union test, Berger 1982, doi:10.1080/00401706.1982.10487790). The claim is as
    hard as its noisiest expert: with many experts near the margin it is almost never made.

    Args:
        effect: Difference of usage, of any kind.
        standard_error: Of each effect, with whole clusters as the unit; from a jackknife.
        degrees_of_freedom: Of each standard error, by Satterthwaite.
        margin: Above 0; by DESIGN.md `0.5 / n_experts`, fixed before the data are seen.
        layer_indices: Number in the model of each layer.
        alpha: Level of each one-sided test; 0.05 gives 90 % intervals.

    Returns:
        Effects and intervals in usage share; p-values from 0 to 1, NaN where no standard error is.

    Raises:
        ValueError: If `margin` is not above 0, `alpha` is not between 0 and 0.5, or layer numbers
            are missing.

    Example:
        >>> found = two_one_sided_tests(
        ...     np.array([[0.001, 0.02]]), np.array([[0.004, 0.004]]), np.array([[20.0, 20.0]]),
        ...     margin=0.016, layer_indices=[0],
        ... )
        >>> found.inside, found.all_inside
        (array([[ True, False]]), False)
    """
    check_layers(layer_indices, len(effect))
    if not margin > 0:
        raise ValueError(f"margin is {margin}, but must be above 0; give 0.5 / n_experts")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha is {alpha}, but must lie between 0 and 0.5; give 0.05")
    reach = stats.t.isf(alpha, degrees_of_freedom) * standard_error
    low, high = effect - reach, effect + reach
    return Equivalence(
        layer_indices=tuple(int(layer) for layer in layer_indices),
        margin=margin,
        confidence=1 - 2 * alpha,
        effect=effect,
        low=low,
        high=high,
        p_value=_larger_p(effect, standard_error, degrees_of_freedom, margin),
        inside=(low > -margin) & (high < margin),
    )


def _larger_p(
    effect: Float[np.ndarray, "layers experts"],
    standard_error: Float[np.ndarray, "layers experts"],
    degrees_of_freedom: Float[np.ndarray, "layers experts"],
    margin: float,
) -> Float[np.ndarray, "layers experts"]:
    """P-value of the nearer margin; without any error 0 inside the margin, 1 outside."""
    distance = margin - np.abs(effect)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(distance == 0, 0.0, distance / standard_error)
    return np.asarray(stats.t.sf(t, degrees_of_freedom))
