"""Makes `tests/stores-1.0/`; run once for the format of that name, and never again for it.

`python -m tests.make_stores_1_0` in the root of the repository. Beside each store lies what a
reader must find in it, as plain lists, so that the test needs no code of ours to know it.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from interp.cache.records import PROMPT_FIELDS, Layout, PromptActivations
from tests.store_samples import LAYOUT, RESID_LAYOUT, sample, write

HERE = Path(__file__).resolve().parent / "stores-1.0"
STORES: dict[str, tuple[Layout, dict[str, Any]]] = {
    "routing": (LAYOUT, {}),
    "everything": (
        replace(RESID_LAYOUT, resid_dtype="bfloat16", router_logits=True, expert_output_norms=True),
        {"part_mb": 0.03},
    ),
    "imported": (
        replace(LAYOUT, vocab_local=True, weights_sum="family", weights_dtype="float16"),
        {"vocab": [f"token {number}" for number in range(50)]},
    ),
}


def expected(prompts: list[PromptActivations]) -> dict[str, Any]:
    """All that was put in; floats as their exact hexadecimal, residuals as their bits."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(each, name) for each in prompts])

    def exact(values: np.ndarray) -> list[str]:
        return [float(value).hex() for value in values.ravel()]

    found: dict[str, Any] = {
        "prompts": [{name: each.prompt[name] for name in PROMPT_FIELDS} for each in prompts],
        "texts": [each.text for each in prompts],
        "n_tokens": [len(each.token_id) for each in prompts],
        "expert_indices": joined("expert_indices").tolist(),
        "expert_weights": exact(joined("expert_weights")),
        "logprob": exact(joined("logprob")),
    }
    for name in ("token_id", "position", "segment", "generated"):
        found[name] = joined(name).tolist()
    for name in ("router_logits", "expert_output_norms"):
        if getattr(prompts[0], name) is not None:
            found[name] = exact(joined(name))
    if prompts[0].resid:
        found["resid"] = {
            f"{key[0]}/{key[1]}": np.concatenate([each.resid[key] for each in prompts]).tolist()
            for key in prompts[0].resid
        }
    return found


def main() -> None:
    """Write the stores that are not there yet."""
    for name, (layout, options) in STORES.items():
        path = HERE / name
        if path.exists():
            sys.stderr.write(f"{path.name} is there and stays as it is\n")
            continue
        HERE.mkdir(exist_ok=True)
        prompts = [sample(layout, seed=seed, n_tokens=20 + seed) for seed in range(5)]
        write(path, prompts, layout, **options)
        (HERE / f"{name}.json").write_text(json.dumps(expected(prompts)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
