"""Struct types: decoded by several threads at once, and named by where they are imported from.

msgspec works out what it has to know of a struct type when the type is first used, and ends the process with a
segmentation fault if two threads do so at the same time (seen with 0.22).
"""

import threading
from typing import Any, TypeVar

import msgspec

_Kind = TypeVar("_Kind")
_LOCK = threading.Lock()
_PREPARED: set[Any] = set()


class KindMeta(msgspec.StructMeta):
    """Tags a struct type with `module:name`, by which a config finds it, unless it is given a `tag` of its own."""

    def __new__(cls, name: str, bases: Any, namespace: dict[str, Any], **options: Any) -> Any:
        """Makes the type."""
        path = f"{namespace['__module__']}:{namespace['__qualname__']}"
        return super().__new__(cls, name, bases, namespace, **{"tag_field": "kind", "tag": path, **options})


def prepared(kind: type[_Kind]) -> type[_Kind]:
    """The same type, once msgspec knows it and all types within it; for whatever is decoded or converted to a type."""
    if kind not in _PREPARED:
        with _LOCK:
            msgspec.msgpack.Decoder(kind)
            _PREPARED.add(kind)
    return kind
