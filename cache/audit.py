"""Whether a part from a stranger is safe to read: structure first, values last.

HDF5 can be made to read other files of the reader, to follow cycles, to unpack a kilobyte into
terabytes, and some types crash libraries when they are merely looked at. So nothing is asked of an
object before its kind is known to be harmless, through h5py's low-level interface only. This is
meant to run in a process that may crash; `interp.cache.sandbox` starts one.
"""

import io
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5fd, h5g, h5l, h5o, h5p, h5s

from interp.cache.audit_chunks import Tally, check_storage, read_storage
from interp.cache.audit_types import check_known, printed, type_name
from interp.cache.errors import StoreError

MAX_DEPTH = 8
MAX_RANK = 4
MAX_OBJECTS = 4096
MAX_ATTRIBUTES = 64
"""Of one object."""
MAX_ATTRIBUTE_BYTES = 2**24
"""Of all attributes of a part."""
MAX_NAME = 255
MAX_LENGTH = 2**40

SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = 2**64 - 1
SUPERBLOCK_BYTES = 48
SIZES = ("n_layers", "n_experts", "top_k", "d_model")


def audit_part(path: Path) -> None:
    """Read a part from one end to the other, and refuse what format 1.0 does not allow.

    Looks at the file itself, so it can be hurt by it: call it in a process that may die, or use
    `interp.cache.sandbox.audited`. Values are read, but whether they make sense (rising offsets,
    experts below `n_experts`) is the business of `interp verify`.

    Args:
        path: A part, or what claims to be one.

    Raises:
        StoreError: Naming the object and the fault.
    """
    try:
        with path.open("rb", buffering=0) as file:
            audit_file(file)
    except OSError as error:
        raise StoreError(f"{path} cannot be opened ({error.strerror}); give a file") from error
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from error


def audit_file(file: io.FileIO) -> None:
    """Audit a part that is already open: nothing else needs to be opened for it.

    Raises:
        StoreError: Naming the object and the fault; the caller knows the name of the file.
    """
    size = file.seek(0, io.SEEK_END)
    _check_superblock(file, size)
    try:
        _audit_objects(file, size)
    except MemoryError as error:
        raise StoreError("reading it takes more memory than a part may need") from error
    except (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise StoreError(f"it cannot be read ({printed(str(error))})") from error


def _check_superblock(file: io.FileIO, size: int) -> None:
    """The first bytes: no user block, no extension, and as long as the file says it is."""
    file.seek(0)
    block = file.read(SUPERBLOCK_BYTES)
    if block[:8] != SIGNATURE or len(block) < SUPERBLOCK_BYTES:
        raise StoreError("it does not begin as an HDF5 file does")
    if block[8] not in (2, 3) or block[9:11] != b"\x08\x08":
        raise StoreError(f"its superblock has version {block[8]}, expected 2 or 3")
    base, extension, end, _ = (
        int.from_bytes(block[at : at + 8], "little") for at in range(12, 44, 8)
    )
    if base != 0 or extension != UNDEFINED:
        raise StoreError("its superblock has a base address or an extension, expected neither")
    if end != size:
        raise StoreError(f"it has {size} bytes, but its superblock says {end}")


def _audit_objects(file: io.FileIO, size: int) -> None:
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fileobj_driver(h5fd.fileobj_driver, file)
    part = h5f.open(b"part", h5f.ACC_RDONLY, fapl=access)
    if part.get_create_plist().get_userblock():
        raise StoreError("it has a user block, expected none")
    tally = Tally(file_bytes=size)
    root = h5g.open(part, b"/")
    sizes = _check_attributes(root, "the root group", tally)
    axes = {name: value for name, value in sizes.items() if name != "d_model" or value}
    datasets: list[bytes] = []
    _walk(root, b"", tally, axes, datasets, seen={h5o.get_info(root).addr})
    tally.check_extents()
    for path in datasets:
        read_storage(h5d.open(root, path), _shown(path), file)
    _look_again(file)


def _look_again(file: io.FileIO) -> None:
    """Ask for all that a reader will ask for, its way, now that every type is known to be safe."""

    def look(_: str, found: Any) -> None:
        if any(found.attrs[name].dtype.hasobject for name in found.attrs):
            raise StoreError(f"{printed(found.name)} has an attribute that is a Python object")
        if isinstance(found, h5py.Dataset):
            found.dtype, found.shape, found.chunks, found.compression  # noqa: B018 - asking is all

    with h5py.File(file, "r") as part:
        look("/", part)
        part.visititems(look)


def _walk(
    group: Any,
    within: bytes,
    tally: Tally,
    axes: dict[str, int],
    datasets: list[bytes],
    *,
    seen: set[int],
) -> None:
    """Check all that lies under a group; collect the paths of its datasets."""
    if within.count(b"/") > MAX_DEPTH:
        raise StoreError(f"group {_shown(within)} lies deeper than {MAX_DEPTH} groups")
    shown = _shown(within) or "the root group"
    names = _names(group.links.iterate, shown, MAX_OBJECTS)
    if len(names) != group.get_num_objs():
        raise StoreError(f"{shown} has {len(names)} links, but says another number")
    for name in names:
        path = within + name
        kind = _check_link(group, name, _shown(path), tally, seen)
        opened = h5o.open(group, name)
        _check_attributes(opened, _shown(path), tally)
        if kind == h5o.TYPE_GROUP:
            _walk(opened, path + b"/", tally, axes, datasets, seen=seen)
        else:
            _check_dataset(opened, _shown(path), tally, axes)
            datasets.append(path)


def _shown(path: bytes) -> str:
    return printed(path.decode("utf-8", "backslashreplace"))


def _names(iterate: Callable[[Any], Any], path: str, most: int) -> list[bytes]:
    """Names of the links or attributes of an object, which is called `path` in messages."""
    names: list[bytes] = []

    def collect(name: bytes) -> bool | None:
        names.append(name)
        return True if len(names) > most else None

    iterate(collect)
    if len(names) > most:
        raise StoreError(f"{path} has more than {most} links or attributes")
    if any(not _is_name(name) for name in names):
        raise StoreError(f"{path} has a link or attribute with no name, or over {MAX_NAME} bytes")
    if len(set(names)) != len(names):
        raise StoreError(f"{path} has two links or attributes of one name")
    return names


def _is_name(name: bytes) -> bool:
    name.decode("utf-8")
    return 0 < len(name) <= MAX_NAME and b"/" not in name and name != b"."


def _check_link(group: Any, name: bytes, path: str, tally: Tally, seen: set[int]) -> int:
    """Refuse all but the only hard link to a group or dataset; returns which of both it is."""
    link = group.links.get_info(name).type
    if link != h5l.TYPE_HARD:
        kinds = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "an external link"}
        raise StoreError(f"{path} is {kinds.get(link, 'a user-defined link')}, expected a hard one")
    found = h5o.get_info(group, name)
    if found.addr in seen or found.rc != 1:
        raise StoreError(f"{path} is a second link to one object, expected one each")
    seen.add(found.addr)
    tally.objects += 1
    if tally.objects > MAX_OBJECTS:
        raise StoreError(f"{path} is one of more than {MAX_OBJECTS} objects")
    if found.type not in (h5o.TYPE_GROUP, h5o.TYPE_DATASET):
        raise StoreError(f"{path} is a committed type, expected groups and datasets only")
    return int(found.type)


def _check_attributes(owner: Any, path: str, tally: Tally) -> dict[str, int]:
    """Check and read all attributes of an object; returns those of `SIZES`."""
    sizes: dict[str, int] = {}
    names = _names(partial(h5a.iterate, owner), path, MAX_ATTRIBUTES)
    if len(names) != h5a.get_num_attrs(owner):
        raise StoreError(f"{path} has {len(names)} attributes, but says another number")
    for raw in names:
        name, attribute = raw.decode("utf-8"), h5a.open(owner, raw)
        value, kind = _attribute(attribute, f"attribute {printed(name)} of {path}", tally)
        if name in SIZES:
            if kind != "<i8" or value.shape:
                raise StoreError(f"attribute {name} of {path} is no single int64")
            sizes[name] = int(value.view("<i8"))
    return sizes


def _attribute(attribute: Any, label: str, tally: Tally) -> tuple[np.ndarray, str]:
    stored_type = attribute.get_type()
    kind, space = type_name(stored_type, label), attribute.get_space()
    extent = space.get_simple_extent_type()
    if extent not in (h5s.SCALAR, h5s.SIMPLE) or space.get_simple_extent_ndims() > 1:
        raise StoreError(f"{label} is neither a single value nor a list")
    shape = tuple(space.get_simple_extent_dims())
    wanted = math.prod(shape) * stored_type.get_size()
    tally.attribute_bytes += wanted
    if tally.attribute_bytes > min(MAX_ATTRIBUTE_BYTES, tally.file_bytes):
        raise StoreError(f"{label} claims {wanted} bytes, more than attributes may have in all")
    value = np.zeros(shape, dtype=f"V{stored_type.get_size()}")
    if value.size:
        attribute.read(value, mtype=stored_type)
    return value, kind


def _check_dataset(dataset: Any, path: str, tally: Tally, axes: dict[str, int]) -> None:
    """Type, shape and storage of a dataset; `axes` gathers the lengths that must agree."""
    kind, space = type_name(dataset.get_type(), path), dataset.get_space()
    if space.get_simple_extent_type() != h5s.SIMPLE or not (
        1 <= space.get_simple_extent_ndims() <= MAX_RANK
    ):
        raise StoreError(f"{path} has no shape of 1 to {MAX_RANK} axes")
    shape = tuple(space.get_simple_extent_dims())
    limits = tuple(space.get_simple_extent_dims(True))
    if limits[1:] != shape[1:] or limits[0] not in (shape[0], h5s.UNLIMITED):
        raise StoreError(f"{path} can grow along another axis than its first")
    if max(shape) > MAX_LENGTH:
        raise StoreError(f"{path} has an axis of more than {MAX_LENGTH}")
    check_storage(dataset, path, shape, tally)
    check_known(path, kind, shape, axes)
