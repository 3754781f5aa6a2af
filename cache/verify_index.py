"""The index of a part, compared with the part: each chunk where it is said to be, and what."""

from pathlib import Path
from typing import Any

from interp.cache.chunk_table import parse_index, strict_json
from interp.cache.errors import StoreError
from interp.cache.manifest import PartEntry
from interp.cache.memory_file import Digests, digests
from interp.cache.part_index import described_datasets, index_name
from interp.cache.sealed import opened_part

ADVICE = "copy the store again, or capture it again"


def check_index(folder: Path, entry: PartEntry) -> None:
    """Refuse an index that says anything else than what HDF5 and the bytes of the part say.

    Raises:
        StoreError: Naming index, dataset and field.
    """
    if entry.index_sha256 is None:
        return
    index = folder / index_name(entry.name)
    content = index.read_bytes()
    parse_index(content, entry=entry, where=str(index))
    said, found = strict_json(content)["datasets"], _found(folder / entry.name)
    if set(said) != set(found):
        odd = ", ".join(sorted(set(said) ^ set(found)))
        raise StoreError(f"{index} lists other datasets than {entry.name}: {odd}; {ADVICE}")
    for path, described in found.items():
        for field, values in described.items():
            if said[path].get(field, values if field == "crc32" else ...) != values:
                place = _place(said[path].get(field), values)
                raise StoreError(
                    f"{index} has another {field} of {path}{place} than {entry.name}; {ADVICE}"
                )


def _found(part: Path) -> dict[str, Any]:
    """What the index should say."""
    with part.open("rb") as file, opened_part(part) as opened:

        def digests_at(offset: int, length: int) -> Digests:
            file.seek(offset)
            return digests(memoryview(file.read(length)))

        return described_datasets(opened, digests_at)


def _place(said: Any, values: Any) -> str:
    """The first chunk that differs, where there is one entry for each chunk."""
    if not isinstance(said, list) or not isinstance(values, list) or len(said) != len(values):
        return ""
    differing = [at for at in range(len(values)) if said[at] != values[at]]
    return f" at entry {differing[0]}" if differing else ""
