"""The errors that a user can meet: one sentence that says what was found, expected, and what to do.

    InterpError
    ├── InputError      a path, prompt file or setting that cannot be used (exit code 2)
    ├── ModelError      a model that cannot be captured, or whose self-check failed (exit code 1)
    ├── StoreError      a store that is damaged, unfinished or of another format (exit code 3)
    └── StorageError    no space left for what is to be written (exit code 5)

A bad argument of a Python call raises `ValueError`, as everywhere.
"""


class InterpError(Exception):
    """Root of everything that moe-interp raises on purpose."""

    exit_code = 1


class InputError(InterpError):
    """The user's input cannot be used: a path, a prompt file, an option."""

    exit_code = 2


class ModelError(InterpError):
    """The model cannot be captured, or the self-check of its capture failed."""

    exit_code = 1


class StoreError(InterpError):
    """The store is damaged, unfinished, or of a format that this version does not read."""

    exit_code = 3


class StorageError(InterpError):
    """There is no space left; what was sealed before is whole."""

    exit_code = 5
