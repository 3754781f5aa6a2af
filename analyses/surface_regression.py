"""Ridge regression on sparse features within token ids, fitted for each fold on all others."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One part of the tokens and the regression fitted on all others."""

    features: csr_array
    """[tokens of the fold, features]."""
    tokens: Integer[np.ndarray, "_"]
    """Which tokens are in the fold."""
    by_id: csr_array
    """[ids, tokens of the fold]: ones."""
    mean_features: csr_array
    """[features, ids]: mean over the training tokens of each id."""
    factor: tuple[Float[np.ndarray, "features features"], bool]
    """Cholesky factor of the training tokens' products of features within ids, plus ridge."""


def fold_regressions(
    features: csr_array,
    token: Integer[np.ndarray, "tokens"],
    fold: Integer[np.ndarray, "tokens"],
    *,
    ridge: float,
) -> list[Fold]:
    """Everything of the regressions that does not depend on what is regressed."""
    n_ids = int(token.max()) + 1
    members = [np.flatnonzero(fold == number) for number in range(int(fold.max()) + 1)]
    ones = [
        csr_array((np.ones(len(of)), (token[of], np.arange(len(of)))), shape=(n_ids, len(of)))
        for of in members
    ]
    crossed = [csr_array(features[of].T @ by.T) for of, by in zip(members, ones, strict=True)]
    squares = [(features[of].T @ features[of]).toarray() for of in members]
    n_of_id: Float[np.ndarray, "folds ids"] = np.stack([by.sum(axis=1) for by in ones])
    all_crossed, all_squares = sum(crossed[1:], crossed[0]), sum(squares)
    regressions = []
    for number, of in enumerate(members):
        n_outside = np.maximum(n_of_id.sum(axis=0) - n_of_id[number], 1.0)
        outside = csr_array(all_crossed - crossed[number])
        mean = csr_array(outside.multiply(1.0 / n_outside))
        within = all_squares - squares[number] - (mean @ outside.T).toarray()
        regressions.append(
            Fold(
                features=csr_array(features[of]),
                tokens=of,
                by_id=ones[number],
                mean_features=mean,
                factor=cho_factor(within + ridge * np.eye(len(within))),
            )
        )
    return regressions


def residuals(
    values: Float[np.ndarray, "tokens columns"], folds: list[Fold]
) -> Float[np.ndarray, "tokens columns"]:
    """Values less the part of each token's fit that is not its id's constant.

    Each fold's coefficients come from the others; the constants are left to the estimator.
    """
    products = [fold.features.T @ values[fold.tokens] for fold in folds]
    by_id = [fold.by_id @ values[fold.tokens] for fold in folds]
    all_products, all_by_id = sum(products), sum(by_id)
    rest = np.empty_like(values)
    for fold, product, of_id in zip(folds, products, by_id, strict=True):
        right = all_products - product - fold.mean_features @ (all_by_id - of_id)
        coefficients = cho_solve(fold.factor, right)
        rest[fold.tokens] = values[fold.tokens] - fold.features @ coefficients
    return rest
