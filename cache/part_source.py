"""A part that can be read, wherever it lies."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class PartSource(Protocol):
    """Reads rows of the datasets of a part: of a file on this machine, or of one elsewhere."""

    @property
    def name(self) -> str:
        """File name of the part."""
        ...

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every dataset, by its path."""
        ...

    def read(
        self,
        path: str,
        *,
        rows: Sequence[slice] | None = None,
        columns: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Some rows of a dataset; bfloat16 as its raw bits, strings as bytes.

        Args:
            path: Of the dataset, such as `router/expert_indices`.
            rows: Rising, disjoint slices of the first axis, whose rows follow each other in the
                result; all if None.
            columns: Positions along the second axis, in the order in which they are wanted; all if
                None.

        Raises:
            StoreError: If the part is damaged, or another one than when the store was opened.
        """
        ...
