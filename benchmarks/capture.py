"""What recording costs: ratios to the bare forward pass, interleaved in one run, and peak memory.

Run as `python benchmarks/capture.py`; with `--device cuda` it needs torch, transformers, einops and
this package only. In each round every variant is timed beside a bare pass of its own, in turns
before and after it, so that a busy machine slows both alike; figures are medians over rounds of the
ratio of such a pair.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import GptOssConfig, GptOssForCausalLM

from interp import organisms
from interp.cache.records import SITES
from interp.hooks.tap import RoutingTap

WITHOUT_NORMS = tuple(site for site in SITES if site != "expert_output_norms")
SIZES = {
    "small": {"hidden_size": 512, "intermediate_size": 512, "num_hidden_layers": 8, "heads": 8},
    "20b": {"hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24, "heads": 64},
    "120b-layers": {
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": 4,
        "heads": 64,
        "num_local_experts": 128,
    },
}
"""Published sizes (arXiv 2508.10925) beside the small model that the limits are stated for."""

Variant = Callable[[], Any]


def random_model(size: str, *, dtype: torch.dtype, device: str) -> GptOssForCausalLM:
    """A gpt-oss of random weights, made on the device that it runs on."""
    fields = dict(SIZES[size])
    heads = fields.pop("heads")
    config = GptOssConfig(
        **({"num_local_experts": 32} | fields),
        architectures=["GptOssForCausalLM"],
        vocab_size=4096,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=64,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = GptOssForCausalLM._from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.05)
    return model.eval()


def tapped(model: Any, ids: torch.Tensor, sites: tuple[str, ...], rows: Any) -> Variant:
    """A pass with an open tap, whose first pass was checked before."""
    tap = RoutingTap(model, sites=sites)

    def run() -> Any:
        tap.select(resid=rows)
        with tap:
            model(ids, use_cache=False)
            return tap.take()

    return run


def variants(model: Any, ids: torch.Tensor, *, others: bool) -> dict[str, Variant]:
    """Every way of recording that is compared, the bare pass first."""
    batch, pos = ids.shape
    last = torch.arange(batch) * pos + pos - 1
    routing = ("resid_post", "expert_indices", "expert_weights")
    chosen: dict[str, Variant] = {
        "bare": lambda: model(ids, use_cache=False),
        "routing, resid_post at the last token": tapped(model, ids, routing, last),
        "all sites but norms, all tokens": tapped(model, ids, WITHOUT_NORMS, None),
        "all sites, all tokens": tapped(model, ids, SITES, None),
        "transformers output_hidden_states": lambda: model(
            ids, use_cache=False, output_hidden_states=True
        ),
        "transformers output_router_logits": lambda: model(
            ids, use_cache=False, output_router_logits=True
        ),
    }
    return chosen | (other_tools(model, ids) if others else {})


def other_tools(model: Any, ids: torch.Tensor) -> dict[str, Variant]:
    """TransformerLens and nnsight, each on a copy, which they wrap in place.

    Without a tokenizer both would look for one on the network; that of the toy model serves, since
    token ids are given.
    """
    from nnsight import TransformersModel
    from transformer_lens.model_bridge import TransformerBridge

    _, tokenizer = organisms.load("toy")
    bridge = TransformerBridge.boot_transformers(
        "random", hf_model=copy.deepcopy(model), tokenizer=tokenizer, device="cpu"
    )
    traced = TransformersModel(copy.deepcopy(model), tokenizer=tokenizer)

    def trace() -> Any:
        saved = []
        with traced.trace(ids):
            for layer in traced.model.layers:
                saved.append(layer.mlp.router.output[0].save())
                saved.append(layer.output.save())
        return saved

    def filtered(name: str) -> bool:
        return name.endswith(("router.hook_out", "hook_resid_post"))

    return {
        "TransformerLens, bare bridge": lambda: bridge(ids),
        "TransformerLens run_with_cache, full": lambda: bridge.run_with_cache(ids),
        "TransformerLens run_with_cache, filtered": lambda: bridge.run_with_cache(
            ids, names_filter=filtered
        ),
        "nnsight trace, router and resid_post": trace,
    }


def timed(run: Variant, device: str) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    with torch.inference_mode():
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def ratios(chosen: dict[str, Variant], *, rounds: int, device: str) -> dict[str, dict[str, float]]:
    """Of every variant: median seconds, and median and quartiles of the ratio to its bare pass."""
    bare = chosen["bare"]
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    for run in chosen.values():
        timed(run, device)
    for turn in range(rounds):
        for name, run in chosen.items():
            both = [timed(each, device) for each in ((bare, run) if turn % 2 else (run, bare))]
            pairs[name].append((both[turn % 2], both[1 - turn % 2]))
    return {name: summary(of_variant) for name, of_variant in pairs.items()}


def summary(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Of seconds with and without recording, measured in pairs."""
    low, middle, high = statistics.quantiles((one / bare for one, bare in pairs), n=4)
    seconds = statistics.median(one for one, _ in pairs)
    return {"seconds": seconds, "ratio": middle, "ratio_q1": low, "ratio_q3": high}


def peak_memory(options: argparse.Namespace) -> dict[str, float]:
    """Peak MiB of a process of its own that makes the bare pass, and of one that records all."""
    found = {}
    for what in ("bare", "all sites, all tokens"):
        command = [sys.executable, __file__, "--peak", what, "--size", options.size]
        shape = ["--batch", str(options.batch), "--tokens", str(options.tokens)]
        made = subprocess.run(  # noqa: S603 - this file itself
            command + shape, capture_output=True, text=True, check=True
        )
        said = made.stdout
        found |= {f"{what}: {key}": value for key, value in json.loads(said).items()}
    bare, recording = found["bare: peak_mib"], found["all sites, all tokens: peak_mib"]
    found["beyond_records"] = (recording - found["all sites, all tokens: records_mib"]) / bare - 1
    return found


def run_for_peak(options: argparse.Namespace) -> dict[str, float]:
    """The most resident memory while a second pass ran in this process, and what it recorded.

    Making the model takes more than running it, so the kernel's high-water mark is set back first.
    The first pass warms up, as with the ratios; its check keeps more than later passes do.
    """
    model = random_model(options.size, dtype=torch.float32, device="cpu")
    ids = torch.randint(1, 4096, (options.batch, options.tokens))
    run = variants(model, ids, others=False)[options.peak]
    with torch.inference_mode():
        run()
        Path("/proc/self/clear_refs").write_text("5")
        records = run()
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    tensors = [] if options.peak == "bare" else [*records.resid.values(), *vars(records).values()]
    kept = sum(each.nbytes for each in tensors if isinstance(each, torch.Tensor))
    return {"peak_mib": peak / 1024, "records_mib": kept / 2**20}


def machine(device: str) -> str:
    """What the figures were measured on."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = {line.split(": ")[1] for line in lines if line.startswith("model name")}
    return f"{', '.join(names)}, {os.cpu_count()} cores"


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--without-others", action="store_true")
    parser.add_argument("--peak", choices=("bare", "all sites, all tokens"))
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(run_for_peak(options)))
        return
    model = random_model(options.size, dtype=getattr(torch, options.dtype), device=options.device)
    ids = torch.randint(1, 4096, (options.batch, options.tokens), device=options.device)
    others = not options.without_others and options.device == "cpu"
    found: dict[str, Any] = {
        "machine": machine(options.device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "options": vars(options),
        "variants": ratios(
            variants(model, ids, others=others), rounds=options.rounds, device=options.device
        ),
    }
    if options.device == "cpu":
        found["memory"] = peak_memory(options)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
