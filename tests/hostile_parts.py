"""Parts that nobody should open: each kind made from a sound part, and what must be said of it.

What a kind could reach is `elsewhere`, a folder of the reader's with `secret.h5`, `secret.raw`.
"""

import io
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5p, h5s, h5t, h5z

from tests.part_mutants import patched
from tests.store_samples import RESID_LAYOUT, sample, write

LAYOUT = replace(RESID_LAYOUT, router_logits=True, resid_dtype="bfloat16", expert_output_norms=True)
PLAIN = np.arange(6, dtype="<i4")

Maker = Callable[[Path, Path], None]
HOSTILE: dict[str, tuple[Maker, str]] = {}
"""Name of a kind: what makes it of a sound part, in place; what the refusal must match."""


def hostile(match: str) -> Callable[[Maker], Maker]:
    def register(make: Maker) -> Maker:
        HOSTILE[make.__name__.replace("_", " ")] = (make, match)
        return make

    return register


def edited(match: str) -> Callable[[Callable[[Any, Path], None]], Callable[[Any, Path], None]]:
    """Register a kind that is made through h5py from the open part."""

    def register(edit: Callable[[Any, Path], None]) -> Callable[[Any, Path], None]:
        def make(path: Path, elsewhere: Path) -> None:
            with h5py.File(path, "r+", libver=("v110", "v110")) as part:
                edit(part, elsewhere)

        HOSTILE[edit.__name__.replace("_", " ")] = (make, match)
        return edit

    return register


def sound_part(folder: Path) -> Path:
    """A small part with all that the format knows, local vocabulary apart."""
    store = write(
        folder / "sound.moe", [sample(LAYOUT, seed=at, n_rows=3) for at in (0, 1)], LAYOUT
    )
    return store / "part-00000.h5"


def place_secrets(elsewhere: Path) -> None:
    elsewhere.mkdir(parents=True)
    with h5py.File(elsewhere / "secret.h5", "w") as secret:
        secret["secret"] = PLAIN
    (elsewhere / "secret.raw").write_bytes(b"secret" * 100)


def low_level(
    part: Any,
    stored_type: Any,
    *,
    name: bytes = b"odd",
    shape: tuple[int, ...] = (6,),
    **options: Any,
) -> Any:
    """A dataset that h5py's own interface would not make; `options` are calls on its list."""
    created = h5p.create(h5p.DATASET_CREATE)
    for call, arguments in options.items():
        getattr(created, call)(*arguments)
    return h5d.create(part.id, name, stored_type, h5s.create_simple(shape), created)


def remade(part: Any, path: str, **settings: Any) -> None:
    """A dataset of the part, made anew with other settings."""
    values = part[path][()]
    del part[path]
    part.create_dataset(path, **{"data": values} | settings)


# Links to elsewhere, and links that lead round.


@edited("prompts/text is an external link")
def external_link(part: Any, elsewhere: Path) -> None:
    del part["prompts/text"]
    part["prompts/text"] = h5py.ExternalLink(str(elsewhere / "secret.h5"), "/secret")


@edited("stolen is an external link")
def external_link_in_place_of_a_group(part: Any, elsewhere: Path) -> None:
    part["stolen"] = h5py.ExternalLink(str(elsewhere / "secret.h5"), "/")


@edited("alias is a soft link")
def soft_link(part: Any, _: Path) -> None:
    part["alias"] = h5py.SoftLink("/tokens/token_id")


@edited("nowhere is a soft link")
def dangling_link(part: Any, _: Path) -> None:
    part["nowhere"] = h5py.SoftLink("/not/there")


@edited("round is a soft link")
def soft_link_to_itself(part: Any, _: Path) -> None:
    part["round"] = h5py.SoftLink("/round")


@edited("tokens/root is a second link")
def loop_of_hard_links(part: Any, _: Path) -> None:
    part["tokens/root"] = part["/"]


@edited("again is a second link|tokens/token_id is a second link")
def two_names_for_one_dataset(part: Any, _: Path) -> None:
    part["again"] = part["tokens/token_id"]


# Data that lie elsewhere.


@edited("odd is stored in another file")
def external_storage(part: Any, elsewhere: Path) -> None:
    outside = (str(elsewhere / "secret.raw").encode(), 0, 24)
    low_level(part, h5t.STD_I32LE, set_external=outside)


@edited("odd is stored in another file")
def external_storage_of_a_device(part: Any, _: Path) -> None:
    low_level(part, h5t.STD_U8LE, set_external=(b"/dev/zero", 0, 6))


@edited("tokens/token_id is a virtual dataset")
def virtual_dataset(part: Any, elsewhere: Path) -> None:
    virtual = h5py.VirtualLayout(shape=(6,), dtype="<i4")
    virtual[:] = h5py.VirtualSource(elsewhere / "secret.h5", "secret", shape=(6,))
    del part["tokens/token_id"]
    part.create_virtual_dataset("tokens/token_id", virtual)


@hostile("does not begin as an HDF5 file")
def user_block(path: Path, _: Path) -> None:
    sound = path.read_bytes()
    with h5py.File(path, "w", userblock_size=512, libver=("v110", "v110")) as part:
        part["plain"] = PLAIN
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes()[10:] + sound)


# Types.


@edited("odd holds opaque bytes")
def opaque_type_tagged_as_objects(part: Any, _: Path) -> None:
    tagged = h5t.create(h5t.OPAQUE, 8)
    tagged.set_tag(b"NUMPY:|O")
    low_level(part, tagged)


@edited("attribute odd of the root group holds opaque bytes")
def opaque_attribute_tagged_as_objects(part: Any, _: Path) -> None:
    tagged = h5t.create(h5t.OPAQUE, 8)
    tagged.set_tag(b"NUMPY:|O")
    h5a.create(part.id, b"odd", tagged, h5s.create_simple((1,)))


@edited("odd holds strings of variable length")
def strings_of_variable_length(part: Any, _: Path) -> None:
    part.create_dataset("odd", data=["a", "b"], dtype=h5py.string_dtype())


@edited("odd holds a type of variable length")
def lists_of_variable_length(part: Any, _: Path) -> None:
    part.create_dataset("odd", (2,), dtype=h5py.vlen_dtype(np.int32))


@edited("attribute note of router holds strings of variable length")
def attribute_of_variable_length(part: Any, _: Path) -> None:
    part["router"].attrs["note"] = "of any length"


@edited("odd holds references")
def object_reference(part: Any, _: Path) -> None:
    part.create_dataset("odd", data=[part["tokens"].ref], dtype=h5py.ref_dtype)


@edited("odd holds references")
def region_reference(part: Any, _: Path) -> None:
    region = part["tokens/token_id"].regionref[0:2]
    part.create_dataset("odd", data=[region], dtype=h5py.regionref_dtype)


@edited("odd holds a compound type")
def compound_type(part: Any, _: Path) -> None:
    part["odd"] = np.zeros(2, dtype=[("a", "<i4"), ("b", "<f4")])


@edited("odd holds an array type")
def array_type(part: Any, _: Path) -> None:
    low_level(part, h5t.array_create(h5t.STD_I32LE, (3,)))


@edited("odd holds bit fields")
def bit_field(part: Any, _: Path) -> None:
    low_level(part, h5t.STD_B8LE)


@edited("odd holds a time")
def time_type(part: Any, _: Path) -> None:
    low_level(part, h5t.UNIX_D32LE)


@edited("odd has an unknown kind of number")
def big_endian_numbers(part: Any, _: Path) -> None:
    low_level(part, h5t.STD_I32BE)


@edited("odd has an unknown kind of number")
def enum_that_is_no_bool(part: Any, _: Path) -> None:
    part.create_dataset("odd", data=[0, 1], dtype=h5py.enum_dtype({"NO": 0, "YES": 1}))


@edited("named is a committed type")
def committed_type(part: Any, _: Path) -> None:
    part["named"] = np.dtype("<i4")


@edited("odd has a committed type|named is a committed type")
def dataset_of_a_committed_type(part: Any, _: Path) -> None:
    part["zz/named"] = np.dtype("<i4")
    h5d.create(part.id, b"odd", part["zz/named"].id, h5s.create_simple((6,)))


@edited("odd holds strings of 1048576 bytes")
def enormous_strings(part: Any, _: Path) -> None:
    wide = h5t.C_S1.copy()
    wide.set_size(2**20)
    low_level(part, wide, shape=(1,))


# Filters.


@edited(r"tokens/token_id uses the filters \[32000")
def lzf_filter(part: Any, _: Path) -> None:
    remade(part, "tokens/token_id", compression="lzf")


@edited(r"odd uses the filters \[32017\]")
def filter_from_a_plugin(part: Any, _: Path) -> None:
    low_level(part, h5t.STD_I32LE, set_chunk=((6,),), set_filter=(32017, h5z.FLAG_OPTIONAL, (1,)))


@edited(r"uses the filters \[6\]")
def scale_offset_filter(part: Any, _: Path) -> None:
    remade(part, "tokens/token_id", scaleoffset=0)


@edited(r"uses the filters \[5\]")
def nbit_filter(part: Any, _: Path) -> None:
    low_level(part, h5t.STD_I32LE, set_chunk=((6,),), set_filter=(h5z.FILTER_NBIT,))


@edited("has 4 filters|filters in another order, or twice")
def gzip_within_gzip(part: Any, _: Path) -> None:
    low_level(part, h5t.STD_U8LE, set_chunk=((6,),), set_deflate=(9,), set_filter=(1, 0, (9,)))


# Sizes.


@edited("claims 4294967296 bytes, too many")
def gzip_bomb(part: Any, _: Path) -> None:
    chunks, whole = (2**24,), (2**32,)
    bomb = part.create_dataset("bomb", whole, "<u1", chunks=chunks, compression="gzip")
    bomb[: 2**24] = 0


@edited("has a chunk that does not unpack to 5000 bytes")
def chunk_that_unpacks_to_more(part: Any, _: Path) -> None:
    small = part.create_dataset("small", (5000,), "<u1", chunks=(5000,), compression="gzip")
    small.id.write_direct_chunk((0,), zlib.compress(bytes(2**20), 9))


@edited("has 0 chunks, but its shape needs")
def dataset_without_its_chunks(part: Any, _: Path) -> None:
    part.create_dataset("tokens/extra", (60,), "<i4", chunks=(6,), fletcher32=True)


@edited("has 9 chunks, but its shape needs 10")
def missing_chunk(part: Any, _: Path) -> None:
    extra = part.create_dataset("tokens/extra", (60,), "<i4", chunks=(6,), fletcher32=True)
    extra[:54] = 1


@edited("claims 1099511627776 bytes, too many")
def terabyte_that_is_not_there(part: Any, _: Path) -> None:
    part.create_dataset("huge", (2**40,), "<u1", chunks=(2**20,))


@edited(f"has an axis of more than {2**40}")
def axes_that_overflow(part: Any, _: Path) -> None:
    part.create_dataset("huge", (2**62, 2), "<u1", chunks=(2**10, 2))


@edited("huge claims 134217728 bytes, too many")
def enormous_chunk(part: Any, _: Path) -> None:
    part.create_dataset("huge", (2**27,), "<u1", chunks=(2**27,))


@edited("claims 65536 bytes that are not there")
def plain_data_that_is_not_there(part: Any, _: Path) -> None:
    low_level(part, h5t.STD_U8LE, shape=(2**16,))


@edited("attribute big of the root group claims .* bytes, more than")
def enormous_attribute(part: Any, _: Path) -> None:
    part.attrs.create("big", np.zeros(2**24 + 1, "<u1"))


@edited("tokens has more than 64 links or attributes")
def hundreds_of_attributes(part: Any, _: Path) -> None:
    for number in range(500):
        part["tokens"].attrs.create(f"note{number}", 1, dtype="<i8")


@edited("the root group has more than 4096 links")
def thousands_of_groups(part: Any, _: Path) -> None:
    for number in range(5000):
        part.create_group(f"group{number}")


@edited("lies deeper than 8 groups")
def deep_nesting(part: Any, _: Path) -> None:
    part.create_group("deep/" * 200)


@edited("odd has no shape of 1 to 4 axes")
def thirty_two_axes(part: Any, _: Path) -> None:
    part.create_dataset("odd", (1,) * 32, "<u1")


@edited("odd has no shape of 1 to 4 axes")
def dataset_of_nothing(part: Any, _: Path) -> None:
    part["odd"] = h5py.Empty("<i4")


@edited("odd has a fill value of its own")
def fill_value(part: Any, _: Path) -> None:
    part.create_dataset("odd", data=PLAIN, chunks=(6,), fillvalue=7)


@edited("with no name, or over 255 bytes")
def name_of_a_thousand_bytes(part: Any, _: Path) -> None:
    part["n" * 1000] = PLAIN


# Shapes that contradict each other.


@edited("can grow along another axis than its first")
def axis_without_limit(part: Any, _: Path) -> None:
    shape = part["router/expert_indices"].shape
    remade(part, "router/expert_indices", maxshape=(shape[0], None, shape[2]), fletcher32=True)


@edited("tokens/token_id has 9 tokens, which contradicts|has 10 tokens, which contradicts")
def wrong_number_of_tokens(part: Any, _: Path) -> None:
    remade(part, "tokens/token_id", data=np.zeros(9, "<i4"))


@edited("prompts/offset has 2 prompts \\+ 1, which contradicts|prompts, which contradicts")
def too_few_offsets(part: Any, _: Path) -> None:
    remade(part, "prompts/offset", data=np.array([0, 10], "<i8"))


@edited("router/.* has 1 n_layers, which contradicts")
def layer_that_is_missing(part: Any, _: Path) -> None:
    remade(part, "router/expert_indices", data=part["router/expert_indices"][:, :1])


@edited("router/expert_indices holds <f4 in 3 axes, expected")
def experts_that_are_floats(part: Any, _: Path) -> None:
    remade(part, "router/expert_indices", dtype="<f4")


@edited("attribute n_layers of the root group is no single int64")
def sizes_that_are_a_list(part: Any, _: Path) -> None:
    part.attrs.create("n_layers", [2, 2], dtype="<i8")


# Bytes.


def chunk_of(path: Path, name: str) -> Any:
    with h5py.File(path) as part:
        return part[name].id.get_chunk_info(0)


@hostile("router/expert_weights has data beyond the end")
def chunk_beyond_the_end(path: Path, _: Path) -> None:
    data, chunk = path.read_bytes(), chunk_of(path, "router/expert_weights")
    path.write_bytes(patched(data, chunk.byte_offset, len(data) + 4096))


@hostile("two chunks lie in the same bytes")
def chunks_in_the_same_bytes(path: Path, _: Path) -> None:
    first, second = (chunk_of(path, f"resid/resid_mid/layer_{at}") for at in ("03", "12"))
    path.write_bytes(patched(path.read_bytes(), second.byte_offset, first.byte_offset))


@hostile("cannot be read")
def flipped_bit_in_the_data(path: Path, _: Path) -> None:
    data, chunk = bytearray(path.read_bytes()), chunk_of(path, "router/expert_weights")
    data[chunk.byte_offset + 3] ^= 4
    path.write_bytes(data)


@hostile("bytes, but its superblock says")
def truncated_file(path: Path, _: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@hostile("bytes, but its superblock says")
def appended_program(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\x7fELF" * 100)


@hostile("does not begin as an HDF5 file")
def zeroed_superblock(path: Path, _: Path) -> None:
    path.write_bytes(bytes(48) + path.read_bytes()[48:])


@hostile("superblock has a base address or an extension")
def superblock_with_an_extension(path: Path, _: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:20] + bytes(8) + data[28:])


@hostile("superblock has version 0")
def superblock_of_old(path: Path, _: Path) -> None:
    with h5py.File(path, "w", libver=("earliest", "v108")) as part:
        part["tokens/token_id"] = PLAIN


@hostile("does not begin as an HDF5 file")
def random_bytes(path: Path, _: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


@hostile("does not begin as an HDF5 file")
def empty_file(path: Path, _: Path) -> None:
    path.write_bytes(b"")


class Trap:
    """Unpickled, it would make a folder beside the secrets."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.where / "sprung"),)


@hostile("does not begin as an HDF5 file")
def pickle_in_place_of_a_part(path: Path, elsewhere: Path) -> None:
    path.write_bytes(pickle.dumps(Trap(elsewhere)))


@hostile("does not begin as an HDF5 file")
def numpy_file_of_objects(path: Path, elsewhere: Path) -> None:
    held = io.BytesIO()
    np.save(held, np.array([Trap(elsewhere)], dtype=object), allow_pickle=True)
    path.write_bytes(held.getvalue())


@hostile("does not begin as an HDF5 file")
def zip_in_place_of_a_part(path: Path, _: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../escaped", "zip")


# What is no plain file.


@hostile("is no plain file")
def pipe(path: Path, _: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@hostile("is a symbolic link")
def symbolic_link(path: Path, elsewhere: Path) -> None:
    path.unlink()
    path.symlink_to(elsewhere / "secret.h5")


@hostile("is no plain file")
def folder(path: Path, _: Path) -> None:
    path.unlink()
    path.mkdir()


@hostile("cannot be opened")
def nothing_at_all(path: Path, _: Path) -> None:
    path.unlink()
