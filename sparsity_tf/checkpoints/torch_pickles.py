"""Reads the pickles in files of `torch.save` as data: nothing that they say is run.

Python's own unpickler calls any function that a pickle names. `Machine` calls none: it is a small stack machine that
knows the data instructions of a pickle, and makes an inert object of each name in `_KNOWN`. Any other name, and any
other instruction, is refused.
"""

import io
import math
import pickletools
import sys
from dataclasses import dataclass

import numpy as np

from sparsity_tf.bounded_files import MOST_DIMENSIONS, one_line

# An instruction of one byte may make an object of a hundred bytes, so the limit also bounds memory. The pickle of a
# ResNet-50 with its optimizer has less than 100 kilobytes.
LONGEST_PICKLE = 2 << 20
# Name of a storage class -> type of its numbers; bfloat16 is read as the upper half of a float32.
_STORAGES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


@dataclass(frozen=True)
class StorageType:
    name: str

    @property
    def dtype(self):
        return np.dtype(_STORAGES[self.name])


@dataclass(frozen=True)
class Storage:
    """A storage that the pickle refers to: `numel` numbers under a key."""

    type: StorageType
    key: str
    numel: int


@dataclass(frozen=True)
class Tensor:
    """A tensor: a view of a storage. Offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple
    strides: tuple


class Opaque:
    """Stands for an object that is no tensor and is never looked at, such as a number of numpy."""


class Refused(Exception):
    """The reason why a pickle is not read, in words for the user."""


def _ordered_dict(items=()):
    pairs = items.items() if isinstance(items, dict) else items
    check(all(_is_key(key) for key, _ in pairs), "a dict whose keys are no texts")
    return dict(items)


def _rebuild_tensor(storage, offset, shape, strides, *_):
    """Makes a `Tensor`, after checking that the storage holds all its numbers and that it is not larger."""
    check(isinstance(storage, Storage), "a tensor without a storage")
    check(all(_is_sizes(sizes) for sizes in (shape, strides, (offset,))), "a tensor without sizes")
    check(len(shape) == len(strides), "a tensor with sizes that do not fit")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    count = math.prod(shape)
    if count and (last >= storage.numel or count > storage.numel):
        raise Refused(f"a tensor of shape {tuple(shape)} does not fit its storage of {storage.numel:,} numbers")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *_):
    return tensor


def _opaque(*_):
    return Opaque()


# (module, name) that a pickle may use -> an inert function that stands for it.
_KNOWN = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
    # Numbers of numpy beside the tensors, such as the best accuracy.
    ("numpy.core.multiarray", "scalar"): _opaque,
    ("numpy._core.multiarray", "scalar"): _opaque,
    ("numpy", "dtype"): _opaque,
    ("_codecs", "encode"): _opaque,
}
for _name in _STORAGES:
    for _module in ("torch", "torch.cuda"):
        _KNOWN[_module, _name] = StorageType(_name)


def check(condition, problem):
    if not condition:
        raise Refused(f"it describes {problem}")


def _is_key(key):
    """Whether an object is a text or a small integer. Many larger integers have one hash, which makes a dict slow."""
    return isinstance(key, str) or (isinstance(key, int) and abs(key) < sys.hash_info.modulus)


def _is_sizes(sizes):
    if not isinstance(sizes, tuple | list) or len(sizes) > MOST_DIMENSIONS:
        return False
    return all(type(size) is int and 0 <= size < 1 << 63 for size in sizes)


class Machine:
    """Reads one pickle: carries out the instructions that make data, and refuses all others.

    Time and memory stay proportional to the length of the pickle: an object can be referred to many times, so what
    functions copy is counted, and keys are texts and integers, because a nested tuple can take for ever to hash.
    """

    def __init__(self):
        self._stack, self._marks, self._memo, self._copied = [], [], {}, 0
        self.storages = {}  # every storage that the pickle refers to, by its key

    def run(self, stream):
        """The object that the pickle at the position of a stream describes. Only the pickle is read."""
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise Refused("it has no end")

    def _step(self, name, argument):
        if name in _PUSHES:
            self._stack.append(argument)
        elif name in _MAKES:
            self._stack.append(_MAKES[name]())
        elif name in _TUPLES:
            self._stack.append(tuple(self._pop(_TUPLES[name])))
        elif name in _PUTS:
            self._memo[len(self._memo) if argument is None else argument] = self._stack[-1]
        elif name in _GETS:
            self._stack.append(self._memo[argument])
        elif name in _IGNORED:
            pass
        elif name in _METHODS:
            _METHODS[name](self, argument)
        else:
            raise Refused(f"its instruction {name} makes no data")

    def _pop(self, count):
        first = len(self._stack) - count
        check(first >= (self._marks[-1] if self._marks else 0), "too few objects")
        popped = self._stack[first:]
        del self._stack[first:]
        return popped

    def _pop_to_mark(self):
        first = self._marks.pop()
        popped = self._stack[first:]
        del self._stack[first:]
        return popped

    def _mark(self, _):
        self._marks.append(len(self._stack))

    def _tuple(self, _):
        self._stack.append(tuple(self._pop_to_mark()))

    def _append(self, _):
        (item,) = self._pop(1)
        self._list().append(item)

    def _appends(self, _):
        items = self._pop_to_mark()
        self._list().extend(items)

    def _setitem(self, _):
        self._set(self._pop(2))

    def _setitems(self, _):
        self._set(self._pop_to_mark())

    def _set(self, items):
        check(isinstance(self._stack[-1], dict), "items of an object that is no dict")
        check(all(map(_is_key, items[::2])), "a dict whose keys are no texts")
        self._stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _list(self):
        check(isinstance(self._stack[-1], list), "items of an object that is no list")
        return self._stack[-1]

    def _global(self, names):
        self._stack.append(_known(*names.split(" ", 1)))

    def _stack_global(self, _):
        self._stack.append(_known(*self._pop(2)))

    def _reduce(self, _):
        function, arguments = self._pop(2)
        known = any(function is one for one in _FUNCTIONS) and isinstance(arguments, tuple)
        check(known, "the call of an object that is no function")
        # A text counts, too: `tuple` makes eight bytes of each of its characters.
        copied = [one for one in (arguments, *arguments[:8]) if isinstance(one, tuple | list | dict | str | bytes)]
        self._copied += sum(map(len, copied))
        check(self._copied <= LONGEST_PICKLE, "more objects than its length justifies")
        self._stack.append(function(*arguments))

    def _build(self, _):
        # The attributes of an `OrderedDict` (torch keeps versions of its layers there), or the rest of a `numpy.dtype`.
        self._pop(1)

    def _binpersid(self, _):
        (reference,) = self._pop(1)
        check(isinstance(reference, tuple) and len(reference) in (5, 6) and reference[0] == "storage", "no storage")
        _, kind, key, _, numel, *view = reference
        check(isinstance(kind, StorageType) and isinstance(key, str) and _is_sizes((numel,)), "a wrong storage")
        check(view in ([], [None]), "a view of a storage, as torch before 0.4 wrote it")
        storage = Storage(kind, key, numel)
        check(self.storages.setdefault(key, storage) == storage, f"two sizes of the storage {one_line(key, 50)}")
        self._stack.append(storage)


_PUSHES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING"),
}
_MAKES = {
    **{"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False},
    **{"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict},
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GETS = {"BINGET", "LONG_BINGET"}
_IGNORED = {"PROTO", "FRAME"}
_METHODS = {
    "MARK": Machine._mark,
    "TUPLE": Machine._tuple,
    "APPEND": Machine._append,
    "APPENDS": Machine._appends,
    "SETITEM": Machine._setitem,
    "SETITEMS": Machine._setitems,
    "GLOBAL": Machine._global,
    "STACK_GLOBAL": Machine._stack_global,
    "REDUCE": Machine._reduce,
    "NEWOBJ": Machine._reduce,
    "BUILD": Machine._build,
    "BINPERSID": Machine._binpersid,
}
_FUNCTIONS = [function for function in _KNOWN.values() if callable(function)]


def _known(module, name):
    check(isinstance(module, str) and isinstance(name, str), "a function without a name")
    if (module, name) in _KNOWN:
        return _KNOWN[module, name]
    raise Refused(
        f"it wants to run {one_line(f'{module}.{name}', 100)}, and only tensors, numbers, texts and containers are read"
    )


class Stream(io.RawIOBase):
    """The bytes of pickles in a file, up to a limit: a length in a pickle may be a lie."""

    def __init__(self, file):
        self._file, self._left = file, LONGEST_PICKLE

    def read(self, size=-1):
        if not 0 <= size <= self._left:
            raise Refused(f"its description of the objects is longer than {LONGEST_PICKLE:,} bytes")
        self._left -= size
        return self._file.read(size)

    def readline(self, size=-1):
        line = self._file.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise Refused(f"its description of the objects is longer than {LONGEST_PICKLE:,} bytes")
        return line

    def tell(self):
        return self._file.tell()
