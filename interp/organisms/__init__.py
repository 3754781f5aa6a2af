"""Small trained models with known answers; so far the toy, a gpt-oss of 4 layers and 32 experts."""

from pathlib import Path
from typing import Any

ORGANISMS = ("toy",)


def path(name: str) -> Path:
    """Directory of the organism `name`, as `from_pretrained` reads it.

    Raises:
        ValueError: If there is no such organism.
    """
    if name not in ORGANISMS:
        raise ValueError(f"there is no organism {name!r}; choose one of {', '.join(ORGANISMS)}")
    return Path(__file__).parent / name


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
