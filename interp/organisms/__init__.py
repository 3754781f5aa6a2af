"""Small trained models with known answers; so far the toy, a gpt-oss of 4 layers and 32 experts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.hooks.load import LoadedModel

ORGANISMS = ("toy",)


def path(name: str) -> Path:
    """Directory of the organism `name`, as `from_pretrained` reads it.

    Raises:
        ValueError: If there is no such organism.
    """
    if name not in ORGANISMS:
        raise ValueError(f"there is no organism {name!r}; choose one of {', '.join(ORGANISMS)}")
    return Path(__file__).parent / name


def load_model(
    name_or_path: str | Path, *, dtype: str = "auto", device_map: str = "auto"
) -> "LoadedModel":
    """Load a model and its tokenizer: an organism by its name, else as `interp.hooks.load` does.

    Args:
        name_or_path: `toy`, a hub name such as `openai/gpt-oss-20b`, or a directory.
        dtype: `auto` for the checkpoint's own, or a name such as `float32`.
        device_map: As in transformers; `auto` fills the accelerators first.

    Raises:
        InputError: If nothing can be loaded from there, or the model has no expert routing.
    """
    from interp.hooks import load as hooks_load

    found = model_path(name_or_path)
    return hooks_load.load_model(found, dtype=dtype, device_map=device_map)


def model_path(name_or_path: str | Path) -> str | Path:
    """Where `from_pretrained` finds a model: the directory of an organism, else what was given."""
    return path(str(name_or_path)) if name_or_path in ORGANISMS else name_or_path


def load(name: str) -> tuple[Any, Any]:
    """The model and tokenizer of an organism, through the ordinary `from_pretrained`.

    Returns:
        A `GptOssForCausalLM` in bfloat16, in evaluation mode, and its tokenizer.

    Raises:
        ValueError: If there is no such organism.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = path(name)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    return model.eval(), AutoTokenizer.from_pretrained(folder)
