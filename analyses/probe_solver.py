"""Logistic regression at several penalties at once, for rows that are fewer than columns.

With n fitted rows and d columns, n < d, the best weights are `w = rows' a`: they lie in the span
of the rows. So one product `rows rows'` [n n] stands for the features at every penalty and for
every Newton step, and d is not met again until the weights are written out. See docs/probes.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.sparse import csr_array

Features = Float[np.ndarray, "prompts d"] | csr_array
"""[prompts d]: dense features are standardised, sparse ones (`bag_of_tokens`) only scaled."""

SMALL = 400
"""Up to this many unknowns, a Newton step is solved outright; above, by conjugate gradients."""


@dataclass(frozen=True, kw_only=True)
class LogisticPath:
    """Weights of one logistic regression at several penalties."""

    inverse_penalties: tuple[float, ...]
    """`C` of scikit-learn: how much the loss of a prompt weighs against half the squared norm."""
    centre: Float[np.ndarray, "d"]
    """Mean of each column over the fitted prompts; 0 for sparse features."""
    scale: Float[np.ndarray, "d"]
    """Standard deviation of each column over its column weight; 1 where constant or sparse."""
    weights: Float[np.ndarray, "penalties d"]
    """Log-odds per `scale` of a column."""
    bias: Float[np.ndarray, "penalties"]
    """Log-odds at the centre."""

    def log_odds(self, features: Features) -> Float[np.ndarray, "penalties prompts"]:
        """Log-odds of True for each row, at each penalty."""
        rows = _scaled(features, self.centre, self.scale)
        weights = self.weights.astype(rows.dtype)
        product = weights @ rows.T if isinstance(rows, np.ndarray) else (rows @ weights.T).T
        return np.asarray(product + self.bias[:, None], dtype=np.float64)


def logistic_path(
    features: Features,
    *,
    target: Bool[np.ndarray, "prompts"],
    inverse_penalties: Sequence[float],
    prompt_weight: Float[np.ndarray, "prompts"] | None = None,
    column_weight: Float[np.ndarray, "d"] | None = None,
    tolerance: float = 1e-2,
    max_steps: int = 50,
) -> LogisticPath:
    """Weights that minimise `|w|^2 / 2 + C sum_i weight_i log(1 + exp(-y_i (w x_i + b)))`.

    The problem of scikit-learn's `LogisticRegression` after `StandardScaler`; the bias is free.
    Solved by Newton steps, each penalty starting from the solution of the one before (strongest
    first), until a step changes the weights by less than `tolerance` of their norm.

    Args:
        features: Rows to fit on, as they come; centre and scale are learnt here.
        target: What to tell apart.
        inverse_penalties: Values of C, in any order.
        prompt_weight: Weight of each prompt's loss; 1 if None.
        column_weight: Multiplies each column once it is standardised, so that it is penalised
            less where this is above 1; 1 if None.
        tolerance: See above.
        max_steps: Newton steps for one penalty, at most.

    Returns:
        Weights in the order of `inverse_penalties`.

    Raises:
        ValueError: If all prompts have one label, or a penalty is not above 0.

    Example:
        >>> path = logistic_path(
        ...     np.array([[0.0], [2.0], [4.0], [6.0]]),
        ...     target=np.array([False, False, True, True]),
        ...     inverse_penalties=[1.0],
        ... )
        >>> path.centre, path.weights.round(2)
        (array([3.]), array([[0.94]]))
    """
    if target.all() or not target.any():
        raise ValueError(f"all {len(target)} prompts have the same label; give prompts of both")
    if not min(inverse_penalties) > 0:
        raise ValueError(f"inverse penalty {min(inverse_penalties)} is not above 0; give larger")
    centre, scale, rows = _standardised(features, column_weight)
    space = _space(rows)
    loss_weight = np.ones(len(target)) if prompt_weight is None else prompt_weight
    order = np.argsort(inverse_penalties)
    n_unknowns = space.matrix.shape[1]
    unknowns, bias = np.empty((len(order), n_unknowns)), np.empty(len(order))
    found, small = _State.zero(space, len(target)), np.zeros(n_unknowns + 1)
    for place in order:
        losses = float(inverse_penalties[place]) * loss_weight
        if space.is_small:
            assert isinstance(space.matrix, np.ndarray)
            small = _minimise_small(
                space.matrix, small, target.astype(float), losses, tolerance, max_steps
            )
            unknowns[place], bias[place] = small[:-1], small[-1]
        else:
            with single_threaded():
                found = _minimise(space, found, target.astype(float), losses, tolerance, max_steps)
            unknowns[place], bias[place] = found.unknowns, found.bias
    return LogisticPath(
        inverse_penalties=tuple(float(each) for each in inverse_penalties),
        centre=centre,
        scale=scale,
        weights=space.weights(rows, unknowns),
        bias=bias,
    )


def _standardised(
    features: Features, column_weight: Float[np.ndarray, "d"] | None
) -> tuple[Float[np.ndarray, "d"], Float[np.ndarray, "d"], Features]:
    """Centre, scale and rows; one copy of dense rows is made, and sparse ones stay uncentred."""
    n, d = features.shape
    if not isinstance(features, np.ndarray):
        scale = np.ones(d) if column_weight is None else 1.0 / column_weight
        return np.zeros(d), scale, _scaled(features, np.zeros(d), scale)
    centre = features.mean(axis=0, dtype=np.float64)
    rows = features - centre.astype(features.dtype)
    rest = np.ones(n, dtype=rows.dtype) @ rows / n  # what rounding left of the mean
    variance = np.einsum("ij,ij->j", rows, rows) / n - np.square(rest)
    scale = np.sqrt(np.maximum(variance, 0.0).astype(np.float64))
    noise = np.finfo(features.dtype).eps * np.abs(centre)
    scale = np.where(scale > noise, scale, 1.0)
    if column_weight is not None:
        scale = scale / column_weight
    rows *= (1.0 / scale).astype(rows.dtype)
    return centre, scale, rows


def _scaled(
    features: Features, centre: Float[np.ndarray, "d"], scale: Float[np.ndarray, "d"]
) -> Features:
    """In the dtype of `features`; sparse rows are not centred."""
    per_scale = (1.0 / scale).astype(features.dtype)
    if isinstance(features, np.ndarray):
        return np.asarray((features - centre.astype(features.dtype)) * per_scale)
    return csr_array(features * per_scale[None, :])


@cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def single_threaded() -> Any:
    """Context in which BLAS has one thread.

    Products of a matrix with one vector are so short that two threads mostly wait for each other:
    on a busy machine this was ten times slower.
    """
    return _controller().limit(limits=1, user_api="blas")


@dataclass(frozen=True, kw_only=True)
class _Space:
    """Where the unknowns live: the columns (`w`), or the rows (`w = rows' a`).

    In the second, `rows rows' a` are the log-odds and `a' rows rows' a` is the squared norm, so
    the same steps run on [n n] alone.
    """

    matrix: Shaped[np.ndarray, "prompts unknowns"] | csr_array
    of_rows: bool
    back: Float[np.ndarray, "unknowns n"] | None = None
    """From unknowns to coefficients of the rows, where these were rotated."""

    @property
    def is_small(self) -> bool:
        """Whether a Newton step is solved outright."""
        few = self.matrix.shape[1] <= SMALL and isinstance(self.matrix, np.ndarray)
        return few and not self.of_rows

    def forward(self, unknowns: Float[np.ndarray, "u"]) -> Float[np.ndarray, "prompts"]:
        """Log-odds without bias."""
        found = self.matrix @ unknowns.astype(self.matrix.dtype)
        return np.asarray(found, dtype=np.float64)

    def adjoint(self, of_prompts: Float[np.ndarray, "prompts"]) -> Float[np.ndarray, "u"]:
        """`rows'` times a value per prompt."""
        if self.of_rows:
            return of_prompts
        found = self.matrix.T @ of_prompts.astype(self.matrix.dtype)
        return np.asarray(found, dtype=np.float64)

    def inner(
        self,
        one: Float[np.ndarray, "u"],
        other: Float[np.ndarray, "u"],
        forward_other: Float[np.ndarray, "prompts"],
    ) -> float:
        """Inner product of two sets of weights."""
        return float(one @ (forward_other if self.of_rows else other))

    def weights(
        self, rows: Features, unknowns: Float[np.ndarray, "penalties u"]
    ) -> Float[np.ndarray, "penalties d"]:
        """Weights of the standardised columns."""
        if not self.of_rows and self.back is None:
            return unknowns
        of_rows = unknowns if self.back is None else unknowns @ self.back
        found = of_rows.astype(rows.dtype) @ rows
        return np.asarray(found, dtype=np.float64)


def _space(rows: Features) -> _Space:
    """Columns where they are fewer than rows; else the rows, rotated where there are few."""
    n, d = rows.shape
    if d <= n:
        narrow = isinstance(rows, np.ndarray) and d <= SMALL
        return _Space(matrix=rows.astype(np.float64) if narrow else rows, of_rows=False)
    if n > SMALL:
        if isinstance(rows, np.ndarray):
            single = rows.astype(np.float32, copy=False)
            return _Space(matrix=single @ single.T, of_rows=True)
        return _Space(matrix=(rows @ rows.T).toarray().astype(np.float32), of_rows=True)
    product = rows @ rows.T if isinstance(rows, np.ndarray) else (rows @ rows.T).toarray()
    values, vectors = np.linalg.eigh(product.astype(np.float64))
    kept = values > 1e-6 * max(float(values[-1]), 1e-300)  # single precision is no better
    root = np.sqrt(values[kept])
    rotated = vectors[:, kept] * root
    return _Space(matrix=rotated, of_rows=False, back=(vectors[:, kept] / root).T)


@dataclass(frozen=True, kw_only=True)
class _State:
    """Unknowns with what they imply, so that nothing is multiplied twice."""

    unknowns: Float[np.ndarray, "u"]
    bias: float
    forward: Float[np.ndarray, "prompts"]
    """Log-odds without bias."""

    @classmethod
    def zero(cls, space: _Space, n_prompts: int) -> "_State":
        return cls(unknowns=np.zeros(space.matrix.shape[1]), bias=0.0, forward=np.zeros(n_prompts))

    def moved(self, step: "_State", length: float) -> "_State":
        return _State(
            unknowns=self.unknowns + length * step.unknowns,
            bias=self.bias + length * step.bias,
            forward=self.forward + length * step.forward,
        )


def _minimise(
    space: _Space,
    start: _State,
    target: Float[np.ndarray, "prompts"],
    loss_weight: Float[np.ndarray, "prompts"],
    tolerance: float,
    max_steps: int,
) -> _State:
    """Newton's method with step halving."""
    at = start
    for _ in range(max_steps):
        chance = 0.5 + 0.5 * np.tanh((at.forward + at.bias) / 2)
        slope = loss_weight * (chance - target)
        curve = loss_weight * np.maximum(chance * (1 - chance), 1e-12)
        gradient = at.unknowns + space.adjoint(slope)
        step = _conjugate_step(space, gradient, float(slope.sum()), curve)
        fall = space.inner(gradient, step.unknowns, step.forward) + float(slope.sum()) * step.bias
        if not -fall > 1e-14 * float(loss_weight.sum()):
            return at
        at = _shortened(space, at, step, target, loss_weight, fall)
        if -fall <= tolerance**2 * space.inner(at.unknowns, at.unknowns, at.forward):
            return at
    return at


def _shortened(
    space: _Space,
    at: _State,
    step: _State,
    target: Float[np.ndarray, "prompts"],
    loss_weight: Float[np.ndarray, "prompts"],
    fall: float,
) -> _State:
    """The step, halved until the objective falls as far as a straight line foretells, nearly."""
    before, length = _objective(space, at, target, loss_weight), 1.0
    while length > 1e-6:
        there = at.moved(step, length)
        if _objective(space, there, target, loss_weight) <= before + 1e-4 * length * fall:
            return there
        length /= 2
    return at


def _objective(
    space: _Space,
    at: _State,
    target: Float[np.ndarray, "prompts"],
    loss_weight: Float[np.ndarray, "prompts"],
) -> float:
    log_odds = at.forward + at.bias
    loss = np.logaddexp(0.0, log_odds) - target * log_odds
    return 0.5 * space.inner(at.unknowns, at.unknowns, at.forward) + float(loss_weight @ loss)


def _minimise_small(
    matrix: Float[np.ndarray, "prompts u"],
    start: Float[np.ndarray, "v"],
    target: Float[np.ndarray, "prompts"],
    loss_weight: Float[np.ndarray, "prompts"],
    tolerance: float,
    max_steps: int,
) -> Float[np.ndarray, "v"]:
    """Newton's method with the Hessian solved outright; the last column of 1 is the free bias."""
    columns = np.column_stack([matrix, np.ones(len(matrix))])
    penalty = np.append(np.ones(matrix.shape[1]), 1e-12)  # the trifle keeps the Hessian regular
    floor = 1e-14 * float(loss_weight.sum())

    def objective(at: Float[np.ndarray, "v"]) -> float:
        log_odds = columns @ at
        loss = np.logaddexp(0.0, log_odds) - target * log_odds
        return 0.5 * float(penalty @ (at * at)) + float(loss_weight @ loss)

    at, now = start, objective(start)
    for _ in range(max_steps):
        chance = 0.5 + 0.5 * np.tanh((columns @ at) / 2)
        gradient = penalty * at + (loss_weight * (chance - target)) @ columns
        curve = loss_weight * np.maximum(chance * (1 - chance), 1e-12)
        hessian = (columns.T * curve) @ columns
        hessian.flat[:: len(at) + 1] += penalty
        step = -np.linalg.solve(hessian, gradient)
        fall, length = float(gradient @ step), 1.0
        if -fall <= floor:
            break
        while (there := objective(at + length * step)) > now + 1e-4 * length * fall:
            length /= 2
            if length < 1e-6:
                return at
        at, now = at + length * step, there
        if -fall <= tolerance**2 * float(at[:-1] @ at[:-1]):
            break
    return at


def _conjugate_step(
    space: _Space,
    gradient: Float[np.ndarray, "u"],
    bias_gradient: float,
    curve: Float[np.ndarray, "prompts"],
    *,
    precision: float = 0.3,
    max_iterations: int = 500,
) -> _State:
    """The Newton step to three tenths, one product with the matrix an iteration.

    The bias is preconditioned by its own curvature, without which weak losses leave it behind.
    """
    of_bias = float(curve.sum())
    step = _State.zero(space, len(curve))
    rest, bias_rest = -gradient, -bias_gradient
    seen = space.forward(rest)
    search = _State(unknowns=rest, bias=bias_rest / of_bias, forward=seen)
    size = first = space.inner(rest, rest, seen) + bias_rest**2 / of_bias
    for _ in range(max_iterations):
        if not size > precision**2 * first or size <= 0:
            break
        log_odds = search.forward + search.bias
        bent = curve * log_odds
        along = space.inner(search.unknowns, search.unknowns, search.forward)
        length = size / (along + float(bent @ log_odds))
        step = step.moved(search, length)
        rest = rest - length * (search.unknowns + space.adjoint(bent))
        bias_rest -= length * float(bent.sum())
        seen = space.forward(rest)
        before, size = size, space.inner(rest, rest, seen) + bias_rest**2 / of_bias
        residual = _State(unknowns=rest, bias=bias_rest / of_bias, forward=seen)
        search = residual.moved(search, size / before)
    return step
