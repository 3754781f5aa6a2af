"""Loading a model as transformers does, by hub name or directory, and saying what was loaded."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.hub import cached_file, extract_commit_hash

from interp.cache.errors import InputError
from interp.cache.versions import installed_versions
from interp.hooks.blocks import routed_blocks

DTYPES = ("auto", "bfloat16", "float16", "float32")
"""Dtypes that a store can hold; `auto` is the checkpoint's own."""
EXPECTED = "give a hub name, or a directory with config.json, tokenizer and weights"
TOO_LARGE = "its weights, 2 bytes each once dequantised, need a machine with more memory"


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer, and what provenance needs to know of them."""

    model: Any
    tokenizer: Any
    model_id: str
    """Hub name, or the name of the directory."""
    revision: str
    """Commit of the hub repository; empty for a directory."""
    weights_sha256: str
    """Digest of the digests of all weight files; empty if they are not safetensors."""
    quantization: str = ""
    """How the checkpoint is quantised and whether that was undone on load, such as
    `mxfp4, dequantised on load`; empty if it is not quantised."""


def load_model(
    name_or_path: str | Path, *, dtype: str = "auto", device_map: str = "auto"
) -> LoadedModel:
    """Load a mixture-of-experts model and its tokenizer.

    A quantised checkpoint is dequantised where its kernels cannot run. The dtype is given on load,
    never by a later cast, which would also round the rotary buffers.

    Args:
        name_or_path: A hub name such as `openai/gpt-oss-20b`, or a directory.
        dtype: `auto` for the checkpoint's own, or a name such as `float32`.
        device_map: As in transformers; `auto` fills the accelerators first.

    Raises:
        InputError: If nothing can be loaded from there, weights are missing, or the model has no
            expert routing.
    """
    name_or_path = str(name_or_path)
    check_names(name_or_path, dtype)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            name_or_path, dtype=dtype, device_map=device_map, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        advice = TOO_LARGE if "offload" in str(error) else EXPECTED
        raise InputError(
            f"{name_or_path} cannot be loaded as a model ({_first_sentence(error)}); {advice}"
        ) from error
    routed_blocks(model)
    _refuse_missing(name_or_path, sorted(report["missing_keys"]))
    model.eval()
    return LoadedModel(model, tokenizer, **loaded_facts(name_or_path, model))


def loaded_facts(name_or_path: str, model: Any) -> dict[str, str]:
    """What `LoadedModel` says of where a model came from."""
    # In the checkpoint's own folder, also where that lies in the cache of the hub.
    config_file = Path(cached_file(name_or_path, "config.json"))
    is_path = Path(name_or_path).exists()
    return {
        "model_id": Path(name_or_path).resolve().name if is_path else name_or_path,
        "revision": extract_commit_hash(str(config_file), None) or "",
        "weights_sha256": weights_digest(config_file.parent),
        "quantization": quantization(config_file.parent, model),
    }


def quantization(folder: Path, model: Any) -> str:
    """How the checkpoint in `folder` is quantised, and whether `model` runs it dequantised.

    transformers forgets the former when it does the latter, so the checkpoint is asked.
    """
    stored = getattr(AutoConfig.from_pretrained(folder), "quantization_config", None)
    if stored is None:
        return ""
    is_kept = getattr(model.config, "quantization_config", None) is not None
    return str(stored["quant_method"]) + ("" if is_kept else ", dequantised on load")


def weights_digest(folder: Path) -> str:
    """SHA-256 over name and SHA-256 of every safetensors file in `folder`; empty if it has none."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    lines = [f"{path.name} {_sha256(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else ""


def model_provenance(loaded: LoadedModel) -> dict[str, Any]:
    """What was loaded: model, tokenizer, chat template, dtype, path of the experts, versions."""
    config, tokenizer = loaded.model.config, loaded.tokenizer
    config_fields = json.loads(config.to_json_string(use_diff=False))
    template = getattr(tokenizer, "chat_template", None) or ""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()), ensure_ascii=False)
    return {
        "model": loaded.model_id,
        "revision": loaded.revision,
        "weights_sha256": loaded.weights_sha256,
        "config": {key: each for key, each in config_fields.items() if not key.startswith("_")},
        "tokenizer_sha256": _text_sha256(vocabulary),
        "chat_template": template,
        "chat_template_sha256": _text_sha256(template),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "quantization": loaded.quantization,
        "experts_implementation": str(getattr(config, "_experts_implementation", None) or "eager"),
        "device": ", ".join(sorted({str(each.device) for each in loaded.model.parameters()})),
        "versions": installed_versions(("moe-interp", "torch", "transformers", "h5py", "numpy")),
    }


def check_names(name_or_path: str, dtype: str) -> None:
    """Refuse what transformers would meet with a traceback, or look for on the hub.

    Raises:
        InputError: Naming what was given and what is expected.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    is_path = name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1
    if Path(name_or_path).is_file():
        raise InputError(f"{name_or_path} is a file, expected the directory of a model; {EXPECTED}")
    if is_path and not Path(name_or_path).exists():
        raise InputError(f"there is no directory {name_or_path}; {EXPECTED}")


def _refuse_missing(name_or_path: str, names: list[str]) -> None:
    """Stop where transformers would fill in random weights and only log it."""
    if names:
        raise InputError(
            f"{name_or_path} lacks {len(names)} of the model's weights, such as {names[0]}, which "
            "would be random; give a checkpoint that holds them all under their published names"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _first_sentence(error: Exception) -> str:
    return str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
