"""Read torch's `.bin` / `.pth` checkpoints without unpickling: no code of the file can run, and none is imported.

A small stack machine walks the pickle's opcodes (`pickletools.genops` only decodes them) and knows three callables by
name: `OrderedDict`, `_rebuild_tensor_v2` and `_rebuild_parameter`. Any other global is refused by
name. Not even Python's own unpickler with an allow-list is safe here: nine bytes make it allocate 4 GB.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged

MAX_PICKLE_BYTES = 256 << 20
MAX_STEPS = 1_000_000  # instructions; a step makes one small object at most
MAX_ENTRIES, MAX_DEPTH, MAX_KEY = 1 << 20, 32, 512
MAX_NAME_CHARACTERS = 1 << 26  # of all dotted names together
MAX_DIRECTORY_BYTES = 32 << 20  # of the archive's table of members
_STORAGES = {
    "DoubleStorage": ("F64", 8), "FloatStorage": ("F32", 4), "HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8), "IntStorage": ("I32", 4), "ShortStorage": ("I16", 2), "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1), "BoolStorage": ("BOOL", 1),
}  # fmt: skip
_NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U8": "u1", "BOOL": "?",
}  # fmt: skip
_WRONG = (IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError, AssertionError, NotImplementedError, ValueError, RuntimeError, OSError, EOFError, OverflowError, struct.error)  # fmt: skip


@dataclass(frozen=True)
class PickledTensor:
    """Location of one tensor: its storage's offset in the file, and its view of that storage (in elements)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    storage_at: int  # byte in the file where the storage begins
    storage_offset: int  # elements
    itemsize: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.itemsize


@dataclass(frozen=True)
class PickleFile:
    path: Path
    tensors: dict[str, PickledTensor]
    values: dict[str, Any]  # plain numbers and strings beside the tensors


@dataclass(frozen=True)
class _Name:
    """A global that the file references by module and name; never imported."""

    module: str
    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    itemsize: int
    elements: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_pickle(path: Path) -> PickleFile:
    """List the tensors of a zip-format checkpoint (torch ≥ 1.6).

    Raises:
        Damaged: not such a file, damaged, or asking for code; the message names what it asks for.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise _damaged(path, _what_it_is(path))
        _check_directory(path)
        with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
            entries = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in entries if name.endswith("/data.pkl") or name == "data.pkl"]
            if len(pickles) != 1:
                raise _damaged(path, f"it holds {len(pickles)} pickles")
            root = pickles[0].removesuffix("data.pkl")
            info = entries[pickles[0]]
            if info.file_size > MAX_PICKLE_BYTES or info.compress_type != zipfile.ZIP_STORED:
                raise _damaged(path, f"its pickle is compressed or has {info.file_size} bytes")
            tree = _Machine(path).run(archive.read(info))
            size = path.stat().st_size
            places = {
                n.removeprefix(f"{root}data/"): _place(path, raw, i, size)
                for n, i in entries.items()
                if n.startswith(f"{root}data/")
            }
    except zipfile.BadZipFile as error:
        raise _damaged(path, str(error)) from error
    except _WRONG as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    found = _Entries(path, places)
    found.collect(tree, "", 0)
    return PickleFile(path, found.tensors, found.values)


def read_tensor(file: PickleFile, name: str) -> Any:
    """A tensor as a read-only view of the file, or a contiguous copy if its strides need one. BF16 → uint16."""
    import numpy as np

    view = view_tensor(file, name)
    return view if view.flags.c_contiguous else np.ascontiguousarray(view)


def view_tensor(file: PickleFile, name: str) -> Any:
    """A tensor as a read-only view of the file, with the strides it has there. BF16 → uint16."""
    import numpy as np

    t = file.tensors[name]
    span = _span(t.shape, t.strides)
    start = t.storage_at + t.storage_offset * t.itemsize
    if span == 0:
        return np.empty(t.shape, dtype=_NUMPY[t.dtype])
    flat = np.memmap(file.path, dtype=_NUMPY[t.dtype], mode="r", offset=start, shape=(span,))
    return np.lib.stride_tricks.as_strided(flat, t.shape, [s * t.itemsize for s in t.strides], writeable=False)


def _what_it_is(path: Path) -> str:
    """Why a file is not a zip-format torch checkpoint, by its first bytes."""
    with path.open("rb") as file:
        start = file.read(16)
    if start[:1] == b"\x80" or b"\xfc\x9cF\xf9 j\xa8P\x19" in start:  # a bare pickle; torch's magic number
        return (
            "it is a bare pickle, the format of torch before 1.6: its publisher must save it again with a newer torch"
        )
    return f"it is no zip archive and starts with {start!r}"


def _check_directory(path: Path) -> None:
    """Bound the central directory before `zipfile` creates an object per member (APPNOTE 4.3.16)."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16) - 98))
        tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    length = int.from_bytes(tail[end + 12 : end + 16], "little")
    wide = tail.rfind(b"PK\x06\x06")
    if wide >= 0:
        length = max(length if length != 0xFFFFFFFF else 0, int.from_bytes(tail[wide + 40 : wide + 48], "little"))
    if length > MAX_DIRECTORY_BYTES:
        raise _damaged(path, f"its central directory has a stated length of {length} bytes")


def _place(path: Path, raw: io.BufferedReader, info: zipfile.ZipInfo, size: int) -> tuple[int, int]:
    """(offset, length) of a member's data; a member must be stored uncompressed and inside the file."""
    raw.seek(info.header_offset)
    header = raw.read(30)
    if info.compress_type != zipfile.ZIP_STORED or header[:4] != b"PK\x03\x04":
        raise _damaged(path, f"the member {info.filename!r} is compressed or has no header")
    begin = info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    if begin + info.file_size > size:
        raise _damaged(path, f"the member {info.filename!r} extends past the end of the file")
    return begin, info.file_size


class _Entries:
    """The tree of a pickle, flattened to dotted names."""

    def __init__(self, path: Path, places: dict[str, tuple[int, int]]) -> None:
        self.path, self.places = path, places
        self.tensors: dict[str, PickledTensor] = {}
        self.values: dict[str, Any] = {}
        self.visited = self.characters = 0

    def collect(self, node: Any, name: str, depth: int) -> None:
        self.visited += 1  # shared sub-dictionaries can be nested so that walking them never ends
        self.characters += len(name)
        if self.visited > MAX_ENTRIES or self.characters > MAX_NAME_CHARACTERS or depth > MAX_DEPTH:
            raise _damaged(self.path, "it has more or deeper entries than any checkpoint")
        if isinstance(node, dict):
            for key, child in node.items():
                self.collect(child, f"{name}.{key}" if name else str(key), depth + 1)
            return
        if isinstance(node, (list, tuple)):
            for i, child in enumerate(node):
                self.collect(child, f"{name}.{i}" if name else str(i), depth + 1)
            return
        if name in self.tensors or name in self.values:
            raise _damaged(self.path, f"the name {name!r} is duplicated")
        if isinstance(node, _Tensor):
            self.tensors[name] = _checked(self.path, name, node, self.places)
        elif node is None or isinstance(node, (bool, int, float, str)):
            self.values[name] = node
        else:
            raise _damaged(self.path, f"the entry {name!r} has an unknown type")


def _checked(path: Path, name: str, tensor: _Tensor, places: dict[str, tuple[int, int]]) -> PickledTensor:
    storage = tensor.storage
    numbers = (*tensor.shape, *tensor.strides, tensor.offset)
    if len(tensor.shape) != len(tensor.strides) or len(tensor.shape) > 8:
        raise _damaged(path, f"the tensor {name!r} has {len(tensor.shape)} sizes and {len(tensor.strides)} strides")
    if not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):  # not shown: they may be anything, of any size
        raise _damaged(path, f"the tensor {name!r} has an invalid size or stride")
    if storage.key not in places:
        raise _damaged(path, f"the tensor {name!r} names the missing storage {storage.key!r}")
    begin, length = places[storage.key]
    if (tensor.offset + _span(tensor.shape, tensor.strides)) * storage.itemsize > length:
        raise _damaged(path, f"the tensor {name!r} extends past its storage")
    if prod(tensor.shape) * storage.itemsize > length:  # a stride of 0 would make a few bytes fill the memory
        raise _damaged(path, f"the tensor {name!r} of shape {tensor.shape} is larger than its storage")
    return PickledTensor(name, storage.dtype, tensor.shape, tensor.strides, begin, tensor.offset, storage.itemsize)


def _span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Number of elements from the first to the last that a strided tensor covers."""
    return 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))


class _Machine:
    """Stack machine for the data opcodes of pickle protocols 2 to 5; it never calls a referenced global."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if step > MAX_STEPS:
                raise _damaged(self.path, "its pickle never ends")
            if opcode.name == "STOP":
                return self.stack.pop()
            self._step(opcode.name, argument)
        raise _damaged(self.path, "its pickle has no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in ("PROTO", "FRAME"):
            return
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            stack.append(argument)
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self._since_mark() if name == "TUPLE" else self._take(int(name[5:]))))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "SETITEM":
            self._set(self._take(2))
        elif name == "SETITEMS":
            self._set(self._since_mark())
        elif name in ("APPEND", "APPENDS"):
            items = self._take(1) if name == "APPEND" else self._since_mark()
            if not isinstance(stack[-1], list):
                raise _damaged(self.path, "it appends to an object that is not a list")
            stack[-1].extend(items)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            module, attribute = argument.split(" ", 1) if name == "GLOBAL" else self._take(2)
            stack.append(self._named(module, attribute))
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name == "REDUCE":
            function, arguments = self._take(2)
            stack.append(self._called(function, arguments))
        elif name == "BUILD":  # the state of an OrderedDict (its _metadata): not needed
            stack.pop()
        else:
            raise _damaged(self.path, f"its pickle uses the opcode {name}, which no checkpoint needs")

    def _take(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise _damaged(self.path, "its pickle pops from an empty stack")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _since_mark(self) -> list[Any]:
        return self._take(len(self.stack) - self.marks.pop())

    def _set(self, items: list[Any]) -> None:
        """Set keys and values, in turn, of the dictionary on top."""
        if not isinstance(self.stack[-1], dict) or len(items) % 2:
            raise _damaged(self.path, "it sets an item on an object that is not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing a tuple of tuples that share their parts takes time exponential in its depth.
            if type(key) is not int and not (type(key) is str and len(key) <= MAX_KEY):
                raise _damaged(self.path, f"a key of a dictionary is a {type(key).__name__}, or very long")
            self.stack[-1][key] = value

    def _named(self, module: Any, name: Any) -> _Name:
        if not isinstance(module, str) or not isinstance(name, str):
            raise _damaged(self.path, "it imports a global whose name is not a string")
        known = (
            (module == "collections" and name == "OrderedDict")
            or (module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"))
            or (module == "torch" and name in _STORAGES)
        )
        if not known:
            raise _damaged(self.path, f"it imports '{module[:80]} {name[:80]}', which could run code")
        return _Name(module, name)

    def _storage(self, reference: Any) -> _Storage:
        kind, storage_type, key, _location, elements = reference
        if kind != "storage" or not isinstance(storage_type, _Name) or storage_type.name not in _STORAGES:
            raise _damaged(self.path, "it has a persistent id that is not a tensor storage")
        if type(key) is not str or type(elements) is not int:
            raise _damaged(self.path, "a storage has no key or no size")
        dtype, itemsize = _STORAGES[storage_type.name]
        return _Storage(key[:MAX_KEY], dtype, itemsize, elements)

    def _called(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise _damaged(self.path, "it calls an object that is not a function")
        if function.name == "OrderedDict":
            return OrderedDict()
        if function.name == "_rebuild_parameter":
            return arguments[0]
        if function.name == "_rebuild_tensor_v2" and isinstance(arguments[0], _Storage):
            storage, offset, shape, strides = arguments[:4]
            if isinstance(shape, tuple) and isinstance(strides, tuple):
                return _Tensor(storage, offset, shape, strides)
        raise _damaged(self.path, f"it calls {function.name} with unexpected arguments")


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip


def _damaged(path: Path, why: str) -> Damaged:
    return Damaged(
        f"{path.name} is refused: {why[:500]}. Nothing of it was executed.",
        hint="Use the .safetensors version of this model, or a copy from its publisher.",
        hint_zh="请改用该模型的 .safetensors 版本，或从发布者处重新获取。",
        code="unsafe_or_damaged_pickle",
    )
