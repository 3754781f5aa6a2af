"""Layer-streamed capture against the same layers all in memory, and how much memory it takes.

    python benchmarks/stream.py                   6 layers of gpt-oss-20b, 16,384 tokens
    python benchmarks/stream.py --layers 2 --tokens 2048 --experts 8

Writes a random checkpoint of the published widths and layout (MXFP4, a shard a layer) to
`--folder`. Both captures run in processes of their own and give the same store. Time is that of all
passes, without the imports: for the streamed one with reading and unpacking every layer, for the
other one without loading the model.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from interp.cache.reader import open_store
from interp.cache.records import Prompt
from interp.hooks.capture import capture
from interp.hooks.load import load_model
from interp.hooks.settings import CaptureSettings
from interp.hooks.streamed_capture import capture_streamed
from tests import published_checkpoint as published

GIB = 2**30
SENTENCE = "what is the capital of peru and how far is it from the sea"
"""A prompt is this over and over."""


def save_checkpoint(folder: Path, *, layers: int, experts: int) -> None:
    """A checkpoint of gpt-oss with random weights, full width."""
    published.N_LAYERS, published.N_EXPERTS, published.TOP_K = layers, experts, 4
    if not folder.exists():
        published.save_published(folder)


def prompts(n_tokens: int, width: int = 256) -> list[Prompt]:
    """Prompts of about `width` tokens each."""
    text = " ".join([SENTENCE] * (width // len(SENTENCE.split())))
    return [
        Prompt(text=f"{each} {text}", condition="organic", source="made up")
        for each in range(n_tokens // width)
    ]


def run(engine: str, model: Path, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Capture once; seconds, tokens, and the most memory of this process in GiB."""
    settings, n_tokens = CaptureSettings(batch_tokens=options.batch_tokens), options.tokens
    loaded = load_model(model, device_map="cpu") if engine == "memory" else None
    given, begin = prompts(n_tokens), time.perf_counter()
    before = peak()
    if loaded is None:
        capture_streamed(model, given, out, settings=settings)
    else:
        capture(loaded, given, out, settings=settings)
    seconds = time.perf_counter() - begin
    return {
        "seconds": seconds,
        "tokens": open_store(out).n_tokens,
        "peak": peak(),
        "before": before,
    }


def peak() -> float:
    """The most memory that this process had so far, GiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(kib) * 1024 / GIB


def in_a_process(engine: str, options: argparse.Namespace, number: int) -> dict[str, Any]:
    """The same in a process of its own."""
    out = options.folder / f"{engine}-{number}.moe"
    command = [sys.executable, __file__, "--folder", str(options.folder), "--engine", engine]
    command += ["--tokens", str(options.tokens), "--out", str(out), "--layers", str(options.layers)]
    command += ["--batch-tokens", str(options.batch_tokens)]
    done = subprocess.run(  # noqa: S603 - this script
        [*command, "--experts", str(options.experts)], check=True, stdout=subprocess.PIPE
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure, or with `--engine` capture once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("streamed-benchmark"))
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--engine", choices=("memory", "stream"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = options.folder / f"gpt-oss-{options.layers}x{options.experts}"
    save_checkpoint(model, layers=options.layers, experts=options.experts)
    if options.engine:
        print(json.dumps(run(options.engine, model, options.out, options)))
        return
    report(options, lambda engine, number: in_a_process(engine, options, number))


def report(options: argparse.Namespace, measured: Callable[[str, int], dict[str, Any]]) -> None:
    """Interleaved rounds, and a line for each figure."""
    layer = unpacked_layer_bytes(options.experts) / GIB
    ratios = []
    for number in range(options.rounds):
        found = {engine: measured(engine, number) for engine in ("memory", "stream")}
        ratios.append(found["memory"]["seconds"] / found["stream"]["seconds"])
    streamed, whole = found["stream"], found["memory"]
    print(f"{streamed['tokens']:,} tokens, {options.layers} layers of {options.experts} experts")
    print(f"tokens/s, streamed to resident: {sorted(ratios)[len(ratios) // 2]:.2f}")
    print(f"streamed {streamed['seconds']:.1f} s, resident {whole['seconds']:.1f} s")
    print(
        f"peak {streamed['peak']:.2f} GiB streamed ({streamed['before']:.2f} before the capture, "
        f"one unpacked layer {layer:.2f}), {whole['peak']:.2f} GiB resident"
    )
    print(f"{streamed['peak'] - layer:.2f} GiB beyond one unpacked layer, asked 2 at most")


def unpacked_layer_bytes(n_experts: int) -> float:
    """Of the experts of a layer in bfloat16."""
    return 2.0 * n_experts * 3 * published.D_MODEL * published.D_EXPERT


if __name__ == "__main__":
    main()
