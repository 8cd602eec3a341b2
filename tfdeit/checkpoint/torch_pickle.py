"""The pickle inside a torch checkpoint, read by a stack machine that can only build tensors and plain containers.

A `pickle.Unpickler` with its own `find_class` would still set attributes (BUILD), reserve gigabytes for one large memo
index, and overflow the C stack on the hash of a deeply nested tuple.
"""

import operator
import pickletools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tfdeit.checkpoint import DAMAGED, CheckpointError

TORCH_STORAGES = {
    "torch.DoubleStorage": np.float64,
    "torch.FloatStorage": np.float32,
    "torch.HalfStorage": np.float16,
    "torch.BFloat16Storage": ml_dtypes.bfloat16,
    "torch.LongStorage": np.int64,
    "torch.IntStorage": np.int32,
    "torch.ShortStorage": np.int16,
    "torch.CharStorage": np.int8,
    "torch.ByteStorage": np.uint8,
    "torch.BoolStorage": np.bool_,
}
TORCH_FUNCTIONS = ("collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter")
NAMESPACE = "argparse.Namespace"  # the options of a training run, beside its weights; read as an empty dict
_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLE_LENGTHS = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# How a persistent id ends since torch 1.6, and before: storages that view others, as very old files have, are refused.
_NO_VIEW: tuple[list, list] = ([], [None])
_CONSTANTS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
}


class _Global(NamedTuple):
    name: str


class _Storage(NamedTuple):
    data: np.ndarray  # uint8
    dtype: np.dtype


def unpickle(pickle: Any, read_storage: Callable[[str, int], np.ndarray]) -> Any:
    """Builds the object that `pickle` describes.

    Args:
        pickle: the contents of data.pkl; or a stream (`read`, `readline`, `tell`), which is left at the end of the
            pickle.
        read_storage: returns a storage, (bytes,) uint8, given its key and its size in bytes.

    Returns:
        Dicts, lists, tuples and scalars; tensors as read-only arrays that are views of the storages; an
        argparse.Namespace as an empty dict.

    Raises:
        CheckpointError: for a global, call or opcode that is not allowed, or a tensor outside its storage.
        EOFError, LookupError, TypeError, ValueError: for a malformed pickle.
    """
    stack: list = []
    outer: list[list] = []  # the stacks below each open mark
    memo: dict = {}

    def pop_mark():
        nonlocal stack
        items, stack = stack, outer.pop()
        return items

    for opcode, argument, _ in pickletools.genops(pickle):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case name if name in _LITERALS:
                stack.append(_LITERALS[name])
            case name if name in _CONSTANTS:
                stack.append(argument)
            case "MARK":
                outer.append(stack)
                stack = []
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = _TUPLE_LENGTHS[opcode.name]
                items = [stack.pop() for _ in range(count)]
                stack.append(tuple(reversed(items)))
            case "TUPLE":
                items = pop_mark()
                stack.append(tuple(items))
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "APPEND" | "APPENDS":
                items = [stack.pop()] if opcode.name == "APPEND" else pop_mark()
                _expect(stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = [stack.pop(), stack.pop()][::-1] if opcode.name == "SETITEM" else pop_mark()
                for key, value in zip(items[::2], items[1::2], strict=True):
                    _expect(stack[-1], dict)[_expect(key, (str, int))] = value
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_find_global(*_expect(argument, str).split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_find_global(_expect(module, str), _expect(name, str)))
            case "BINPERSID":
                stack.append(_load_storage(stack.pop(), read_storage))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_rebuild(function, arguments))
            case "NEWOBJ":
                arguments, kind = stack.pop(), stack.pop()
                stack.append(_instantiate(kind, arguments))
            case "BUILD":  # the attributes of a state dict, which are module versions, or of a namespace: dropped
                stack.pop()
                _expect(stack[-1], dict)
            case name:
                raise CheckpointError(f"Expected tensors and plain containers. Received: the pickle opcode {name}.")
    raise EOFError("a pickle that does not end")


def _expect(value: Any, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"a {type(value).__name__} out of place in the pickle")
    return value


def _find_global(module: str, name: str) -> _Global:
    if f"{module}.{name}" not in (*TORCH_FUNCTIONS, *TORCH_STORAGES, NAMESPACE):
        raise CheckpointError(
            f"Expected tensors and plain containers. Received: the global {f'{module}.{name}'[:200]!r}; nothing was "
            "executed. If you trust the file, load it with torch, and save its state dict alone."
        )
    return _Global(f"{module}.{name}")


def _load_storage(identifier: Any, read_storage: Callable[[str, int], np.ndarray]) -> _Storage:
    match identifier:
        case ("storage", _Global(kind), str(key), _, int(length), *rest) if kind in TORCH_STORAGES and rest in _NO_VIEW:
            dtype = np.dtype(TORCH_STORAGES[kind])
            data = read_storage(key, length * dtype.itemsize)
            if data.size == length * dtype.itemsize:
                return _Storage(data, dtype)
    raise CheckpointError(f"Expected the persistent ids of storages only, each of its entry's size. {DAMAGED}")


def _instantiate(kind: Any, arguments: Any) -> dict:
    match kind, arguments:
        case _Global(name), tuple() if name == NAMESPACE and not arguments:
            return {}
    raise CheckpointError(f"Expected instances of {NAMESPACE} only, without arguments. Received: another. {DAMAGED}")


def _rebuild(function: Any, arguments: Any) -> Any:
    match function, arguments:
        case _Global("collections.OrderedDict"), ():
            return {}
        case _Global("torch._utils._rebuild_parameter"), (np.ndarray() as data, *_):
            return data
        case _Global("torch._utils._rebuild_tensor_v2"), (_Storage() as storage, offset, size, stride, *_):
            return _view_storage(storage, offset, size, stride)
    raise CheckpointError(f"Expected calls that rebuild tensors only. Received: another call. {DAMAGED}")


def _view_storage(storage: _Storage, offset: int, size: Sequence[int], stride: Sequence[int]) -> np.ndarray:
    """Returns a view of `storage` of shape `size`, after checking, in exact integers, that all of it lies inside.

    Args:
        storage: the bytes.
        offset: index of the first element.
        size: the shape.
        stride: distance between neighbours along each axis, in elements.
    """
    offset, size, stride = operator.index(offset), [*map(operator.index, size)], [*map(operator.index, stride)]
    if 0 in size:
        return np.empty(size, storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    itemsize = storage.dtype.itemsize
    if min([offset, *size, *stride]) < 0 or (last + 1) * itemsize > storage.data.size:
        raise CheckpointError(
            f"Expected a tensor inside its storage of {storage.data.size // itemsize} elements. "
            f"Received: offset {offset}, size {size}, stride {stride}. {DAMAGED}"
        )
    return np.ndarray(size, storage.dtype, storage.data, offset * itemsize, [step * itemsize for step in stride])
