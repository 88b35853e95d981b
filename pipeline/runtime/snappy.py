"""Snappy, with which Reverb compresses its data: by the C++ code in TensorFlow's library, without its Python package.

For those who read a stored replay themselves.
"""

import ctypes

from pipeline.runtime.native import package_folder

_LENGTH = "_ZN3tsl4port28Snappy_GetUncompressedLengthEPKcmPm"
_UNCOMPRESS = "_ZN3tsl4port17Snappy_UncompressEPKcmPc"


def uncompressed(data: bytes) -> bytes:
    """What was compressed with Snappy.

    Raises:
      ValueError: it was not.
    """
    library = ctypes.CDLL(str(package_folder("tensorflow") / "libtensorflow_framework.so.2"))
    size = ctypes.c_size_t()
    length = getattr(library, _LENGTH)
    if not length(data, ctypes.c_size_t(len(data)), ctypes.byref(size)):
        raise ValueError("the data is not compressed with Snappy")
    found = ctypes.create_string_buffer(size.value)
    if not getattr(library, _UNCOMPRESS)(data, ctypes.c_size_t(len(data)), found):
        raise ValueError("the data compressed with Snappy is damaged")
    return found.raw
