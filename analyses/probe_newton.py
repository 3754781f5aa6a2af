"""Newton's method for logistic regression, where rows may be fewer than columns."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from scipy.sparse import csr_array

Features = Float[np.ndarray, "prompts d"] | csr_array
"""[prompts d]: dense features are standardised, sparse ones (`bag_of_tokens`) only scaled."""

SMALL = 400
"""Up to this many unknowns, a Newton step is solved outright; above, by conjugate gradients."""


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
class Space:
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


def space_of(rows: Features) -> Space:
    """Columns where they are fewer than rows; else the rows, rotated where there are few."""
    n, d = rows.shape
    if d <= n:
        narrow = isinstance(rows, np.ndarray) and d <= SMALL
        return Space(matrix=rows.astype(np.float64) if narrow else rows, of_rows=False)
    if n > SMALL:
        if isinstance(rows, np.ndarray):
            single = rows.astype(np.float32, copy=False)
            return Space(matrix=single @ single.T, of_rows=True)
        return Space(matrix=(rows @ rows.T).toarray().astype(np.float32), of_rows=True)
    product = rows @ rows.T if isinstance(rows, np.ndarray) else (rows @ rows.T).toarray()
    values, vectors = np.linalg.eigh(product.astype(np.float64))
    kept = values > 1e-6 * max(float(values[-1]), 1e-300)  # single precision is no better
    root = np.sqrt(values[kept])
    rotated = vectors[:, kept] * root
    return Space(matrix=rotated, of_rows=False, back=(vectors[:, kept] / root).T)


@dataclass(frozen=True, kw_only=True)
class State:
    """Unknowns with what they imply, so that nothing is multiplied twice."""

    unknowns: Float[np.ndarray, "u"]
    bias: float
    forward: Float[np.ndarray, "prompts"]
    """Log-odds without bias."""

    @classmethod
    def zero(cls, space: Space, n_prompts: int) -> "State":
        """All 0."""
        return cls(unknowns=np.zeros(space.matrix.shape[1]), bias=0.0, forward=np.zeros(n_prompts))

    def moved(self, step: "State", length: float) -> "State":
        """The state after `length` times a step."""
        return State(
            unknowns=self.unknowns + length * step.unknowns,
            bias=self.bias + length * step.bias,
            forward=self.forward + length * step.forward,
        )


def minimise(
    space: Space,
    start: State,
    target: Float[np.ndarray, "prompts"],
    loss_weight: Float[np.ndarray, "prompts"],
    tolerance: float,
    max_steps: int,
) -> State:
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
    space: Space,
    at: State,
    step: State,
    target: Float[np.ndarray, "prompts"],
    loss_weight: Float[np.ndarray, "prompts"],
    fall: float,
) -> State:
    """The step, halved until the objective falls as far as a straight line foretells, nearly."""
    before, length = _objective(space, at, target, loss_weight), 1.0
    while length > 1e-6:
        there = at.moved(step, length)
        if _objective(space, there, target, loss_weight) <= before + 1e-4 * length * fall:
            return there
        length /= 2
    return at


def _objective(
    space: Space,
    at: State,
    target: Float[np.ndarray, "prompts"],
    loss_weight: Float[np.ndarray, "prompts"],
) -> float:
    log_odds = at.forward + at.bias
    loss = np.logaddexp(0.0, log_odds) - target * log_odds
    return 0.5 * space.inner(at.unknowns, at.unknowns, at.forward) + float(loss_weight @ loss)


def minimise_small(
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
    space: Space,
    gradient: Float[np.ndarray, "u"],
    bias_gradient: float,
    curve: Float[np.ndarray, "prompts"],
    *,
    precision: float = 0.3,
    max_iterations: int = 500,
) -> State:
    """The Newton step to three tenths, one product with the matrix an iteration.

    The bias is preconditioned by its own curvature, without which weak losses leave it behind.
    """
    of_bias = float(curve.sum())
    step = State.zero(space, len(curve))
    rest, bias_rest = -gradient, -bias_gradient
    seen = space.forward(rest)
    search = State(unknowns=rest, bias=bias_rest / of_bias, forward=seen)
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
        residual = State(unknowns=rest, bias=bias_rest / of_bias, forward=seen)
        search = residual.moved(search, size / before)
    return step
