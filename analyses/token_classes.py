"""Which experts go with which classes of tokens, such as segments or digits."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Integer

from interp.analyses.routed_tokens import RoutedTokens
from interp.analyses.usage import slots_by_prompt


def normalised_pmi(
    together: Integer[np.ndarray, "*of"],
    *,
    alone: Integer[np.ndarray, "*of"],
    other: Integer[np.ndarray, "*of"],
    n_tokens: int,
) -> Float[np.ndarray, "*of"]:
    """Normalised pointwise mutual information of two events, from counts.

    `log2(p_xy / (p_x p_y)) / -log2 p_xy` (Bouma 2009, Normalized (pointwise) mutual information
    in collocation extraction).

    Returns:
        -1 (never together), 0 (independent) to 1 (never apart); NaN where an event never happens.

    Example:
        >>> one = np.array([2])
        >>> normalised_pmi(np.array([2]), alone=one, other=one, n_tokens=8)
        array([1.])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        log_joint = np.log(together / n_tokens)
        pmi = log_joint - np.log(alone / n_tokens) - np.log(other / n_tokens)
        found = np.where(together == n_tokens, 1.0, pmi / -log_joint)
    found = np.where(together == 0, -1.0, found)
    return np.asarray(np.where((alone > 0) & (other > 0), np.clip(found, -1.0, 1.0), np.nan))


def class_npmi(
    tokens: RoutedTokens,
    *,
    token_class: Integer[np.ndarray, "tokens"],
    class_names: Sequence[str],
) -> pd.DataFrame:
    """Normalised pointwise mutual information of experts with classes of tokens.

    The events are "the token chose the expert" and "the token is of the class"; the unit is the
    token, not the slot, so that 1 can be reached. The measure is Bouma's (2009); to ask it of
    experts is ours.

    Args:
        tokens: Routed tokens.
        token_class: Class of each token, such as its segment; an index into `class_names`.
        class_names: Names of the classes.

    Returns:
        Rows `layer`, `expert`, `token_class`, `npmi` (-1 to 1), `tokens_together`.

    Raises:
        ValueError: If a class has no name.
    """
    n_tokens, n_classes = len(tokens.token_id), len(class_names)
    served = slots_by_prompt(
        tokens.expert_indices,
        prompt_index=token_class,
        n_prompts=n_classes,
        n_experts=tokens.n_experts,
    )
    alone = np.broadcast_to(served.sum(axis=0), served.shape)
    of_class = np.bincount(token_class, minlength=n_classes)
    other = np.broadcast_to(of_class[:, None, None], served.shape)
    npmi = normalised_pmi(served, alone=alone, other=other, n_tokens=n_tokens)
    kind, layer, expert = np.indices(served.shape)
    return pd.DataFrame(
        {
            "layer": np.array(tokens.layer_indices)[layer.ravel()],
            "expert": expert.ravel(),
            "token_class": np.array(class_names, dtype=object)[kind.ravel()],
            "npmi": npmi.ravel(),
            "tokens_together": served.ravel(),
        }
    )
