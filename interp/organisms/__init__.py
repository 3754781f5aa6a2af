"""Small trained models with known answers: the toy, a gpt-oss of 4 layers, and its changed copies.

The copies are the toy with some of its weights changed so that the answer of a study is known;
docs/organisms.md says what each was made for and how far it came out so.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.cache.errors import InputError

if TYPE_CHECKING:
    from interp.hooks.load import LoadedModel

BASE = "toy"
"""What the other organisms are made from."""
KINDS = ("planted", "decoy", "vocabulary")
"""Of the organisms that are stored as changes of the toy."""
SEEDS = (0, 1, 2)
"""Each kind is built once for each; seed 2 is kept for the last check of the verdict."""
EDITED = tuple(f"{kind}-{seed}" for kind in KINDS for seed in SEEDS)
UNTRAINED = tuple(f"{kind}-{seed}" for kind in ("untrained", "untrained-router") for seed in SEEDS)
"""All weights, or the routers alone, as they were before training; the seed draws them."""
ORGANISMS = (BASE, *EDITED, *UNTRAINED)


def path(name: str) -> Path:
    """Directory of the organism `name`, as `from_pretrained` reads it.

    Those that are changes of the toy, stored or drawn, have its config and tokenizer, so theirs is
    the toy's, with the toy's weights; `load` puts the changes in.

    Raises:
        ValueError: If there is no such organism.
    """
    if name not in ORGANISMS:
        raise ValueError(f"there is no organism {name!r}; choose one of {', '.join(ORGANISMS)}")
    return Path(__file__).parent / BASE


def change_path(name: str) -> Path:
    """File of the tensors that the organism `name` changes in the toy.

    Raises:
        ValueError: If no organism of that name is stored as changes.
    """
    if name not in EDITED:
        raise ValueError(f"no organism {name!r} is stored as changes; choose one of {EDITED}")
    kind, seed = name.rsplit("-", 1)
    return Path(__file__).parent / kind / f"seed-{seed}.safetensors"


def load_model(
    name_or_path: str | Path, *, dtype: str = "auto", device_map: str = "auto"
) -> "LoadedModel":
    """Load a model and its tokenizer: an organism by its name, else as `interp.hooks.load` does.

    Args:
        name_or_path: `toy` or another organism, a hub name such as `openai/gpt-oss-20b`, or a
            directory.
        dtype: `auto` for the checkpoint's own, or a name such as `float32`.
        device_map: As in transformers; `auto` fills the accelerators first.

    Raises:
        InputError: If nothing can be loaded from there, or the model has no expert routing.
    """
    from interp.hooks import load as hooks_load

    if name_or_path in EDITED:
        from interp.organisms.edited import load_changed_model

        return load_changed_model(str(name_or_path), dtype=dtype, device_map=device_map)
    if name_or_path in UNTRAINED:
        from interp.organisms.untrained import load_untrained_model

        return load_untrained_model(str(name_or_path), dtype=dtype, device_map=device_map)
    found = model_path(name_or_path)
    return hooks_load.load_model(found, dtype=dtype, device_map=device_map)


def model_path(name_or_path: str | Path) -> str | Path:
    """Where `from_pretrained` finds config and tokenizer: an organism's directory, or as given.

    Raises:
        InputError: If the name is that of a kind of organism with a seed that it lacks, or it has
            no slash, and is neither an organism, nor there, nor in the cache of the hub.
    """
    if name_or_path in ORGANISMS:
        return path(str(name_or_path))
    kind, _, seed = str(name_or_path).rpartition("-")
    if seed.isdecimal() and f"{kind}-{SEEDS[0]}" in ORGANISMS:
        raise InputError(
            f"there is no organism {name_or_path}; {kind} has the seeds "
            f"{', '.join(str(each) for each in SEEDS)}"
        )
    if not (isinstance(name_or_path, Path) or "/" in name_or_path or _is_there(name_or_path)):
        near = get_close_matches(name_or_path, ORGANISMS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(
            f"{name_or_path} is no organism ({', '.join(ORGANISMS)}), and no directory; {hint}Give "
            "one of these, or a hub name with its owner, such as openai/gpt-oss-20b"
        )
    return name_or_path


def checkpoint_path(name_or_path: str | Path) -> str | Path:
    """Where the weights of a model lie in files, as a hub name or a directory.

    Raises:
        InputError: If it is an organism that is made as it is loaded.
    """
    if name_or_path in EDITED or name_or_path in UNTRAINED:
        raise InputError(
            f"{name_or_path} is made from the toy when it is loaded, so there are no files to read "
            "it from layer by layer; capture it with the engine memory"
        )
    return model_path(name_or_path)


def _is_there(name: str) -> bool:
    """Whether a name without a slash is on this machine; hubs have few such, and slow answers."""
    from huggingface_hub import try_to_load_from_cache

    if Path(name).exists():
        return True
    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except ValueError:  # no name that a hub could have
        return False


def check_model(name_or_path: str | Path, *, dtypes: Sequence[str] = ("auto",)) -> None:
    """Refuse a model that cannot be there, and dtypes that are none, before anything is loaded.

    Raises:
        InputError: As `model_path`, or if there is no such directory or dtype.
    """
    from interp.hooks.load import check_names

    for dtype in dtypes:
        check_names(str(model_path(name_or_path)), dtype)


def load(name: str) -> tuple[Any, Any]:
    """The model and tokenizer of an organism, through the ordinary `from_pretrained`.

    Returns:
        A `GptOssForCausalLM` in bfloat16, in evaluation mode, and its tokenizer.

    Raises:
        ValueError: If there is no such organism.
        InputError: If its changes are not stored here, or were made from another toy.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if name in EDITED:
        from interp.organisms.edited import load_changed

        return load_changed(name)
    if name in UNTRAINED:
        from interp.organisms.untrained import load_untrained

        return load_untrained(name)
    folder = path(name)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    return model.eval(), AutoTokenizer.from_pretrained(folder)
