"""Struct types that threads may decode at once.

msgspec works out what it has to know of a struct type when the type is first used, and ends the process with a
segmentation fault if two threads do so at the same time (seen with 0.22).
"""

import threading
from typing import Any, TypeVar

import msgspec

_Kind = TypeVar("_Kind")
_LOCK = threading.Lock()
_PREPARED: set[Any] = set()


def prepared(kind: type[_Kind]) -> type[_Kind]:
    """The same type, once msgspec knows it and all types within it; for whatever is decoded or converted to a type."""
    if kind not in _PREPARED:
        with _LOCK:
            msgspec.msgpack.Decoder(kind)
            _PREPARED.add(kind)
    return kind
