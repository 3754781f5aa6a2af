"""What reading a part of a large store from afar moves, against the bytes wanted.

Run as `python benchmarks/remote_read.py`: it writes a part of about 500 MB with routing of 24
layers as `docs/format.md` has it, serves it on this machine, reads the router indices of 3 layers,
and prints one JSON object. The bytes wanted are those of the chunks of these layers as they lie in
the part; bytes moved are all that the server sent, headers included.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from interp.cache.remote import open_remote

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.faulty_server import FaultyServer, faulty_server
from tests.remote_samples import assembled, index_document

LAYERS = (5, 11, 12)
INDICES = "router/expert_indices"
N_LAYERS, TOP_K, N_EXPERTS = 24, 4, 32


def write_part(path: Path, n_tokens: int) -> None:
    """Routing in the chunks of docs/format.md: a skewed choice of experts, and float16 weights."""
    rng = np.random.default_rng(0)
    usage = rng.dirichlet(np.full(N_EXPERTS, 0.5), N_LAYERS)
    chunks = (16384, 1, TOP_K)
    settings = {"chunks": chunks, "fletcher32": True}
    shape = (n_tokens, N_LAYERS, TOP_K)
    with h5py.File(path, "w", libver=("v110", "v110")) as part:
        indices = part.create_dataset(
            INDICES, shape, "<u1", compression="gzip", compression_opts=4, shuffle=True, **settings
        )
        weights = part.create_dataset("router/expert_weights", shape, "<f2", **settings)
        for start in range(0, n_tokens, chunks[0]):
            stop = min(start + chunks[0], n_tokens)
            for layer in range(N_LAYERS):
                chosen = rng.choice(N_EXPERTS, (stop - start, TOP_K), p=usage[layer])
                indices[start:stop, layer] = chosen
                weights[start:stop, layer] = rng.random((stop - start, TOP_K))


def measured(server: FaultyServer, content: bytes, document: Any) -> dict[str, Any]:
    """One read of some layers over the network of this machine, compared with HDF5's own."""
    started = time.perf_counter()
    part = open_remote(f"{server.url}/store.moe").parts[0]
    opened_s, opened_bytes = time.perf_counter() - started, server.bytes_sent
    server.forget()
    started = time.perf_counter()
    found = part.read(INDICES, columns=LAYERS)
    read_s = time.perf_counter() - started
    lengths = np.array(document["datasets"][INDICES]["length"]).reshape(-1, N_LAYERS)
    wanted = int(lengths[:, LAYERS].sum())
    return {
        "part_bytes": len(content),
        "index_and_manifest_bytes": opened_bytes,
        "wanted_bytes": wanted,
        "decoded_bytes": found.nbytes,
        "moved_bytes": server.bytes_sent,
        "moved_per_wanted": round(server.bytes_sent / wanted, 4),
        "moved_with_index_per_part": round((server.bytes_sent + opened_bytes) / len(content), 4),
        "requests": len(server.requests),
        "open_s": round(opened_s, 3),
        "read_s": round(read_s, 3),
        "sha256_of_values": hashlib.sha256(found.tobytes()).hexdigest(),
    }


def main() -> None:
    """Write, serve, read, compare, print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--mb", type=int, default=500, help="size of the part in MB, about")
    n_tokens = options.parse_args().mb * 10**6 // (N_LAYERS * TOP_K * 26 // 10)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part-00000.h5"
        write_part(path, n_tokens)
        content = path.read_bytes()
        with h5py.File(path) as part:
            expected = part[INDICES][:, list(LAYERS)]
    document = index_document(content, "part-00000.h5")
    with faulty_server(assembled([content], [document])) as server:
        figures = measured(server, content, document)
    digest = hashlib.sha256(expected.tobytes()).hexdigest()
    if figures.pop("sha256_of_values") != digest or figures["moved_per_wanted"] > 1.5:
        sys.exit("the values differ, or more than 1.5 times the bytes wanted was moved")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
