"""The C++ bindings of Reverb and TFLite, without the TensorFlow Python package where that is not loaded.

Collectors and evaluators write frames, fetch weights and run a small TFLite program. All of that is C++ that needs
only `libtensorflow_framework`: 0.15 s and 60 MB a process, where `import tensorflow` takes 2 s and 460 MB. In a process
that has TensorFlow, the same extension modules are taken from it, since a process can register them only once.

The two bindings are not public API. Both packages are pinned and finished (dm-reverb 0.14.0 is the last release), and
the tests hold this module against the public classes.
"""

import ctypes
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.runtime.notices import without_notices

_TFLITE = "tensorflow.lite.python.interpreter_wrapper._pywrap_tensorflow_interpreter_wrapper"
_REVERB = "reverb.libpybind"
_BUILTIN_OPERATIONS = 1  # tf.lite.experimental.OpResolverType.BUILTIN


def package_folder(name: str) -> Path:
    """Where a package lies, which is not imported."""
    spec = importlib.util.find_spec(name)  # does not execute a top-level package
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{name} is not installed in this Python")
    return Path(spec.submodule_search_locations[0])


def _load(name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    if "tensorflow" in sys.modules:
        return importlib.import_module(name)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its C++ code announces oneDNN on stderr otherwise
    package, *path = name.split(".")
    folder = package_folder(package).joinpath(*path)
    ctypes.CDLL(str(package_folder("tensorflow") / "libtensorflow_framework.so.2"))
    spec = importlib.util.spec_from_file_location(name, folder.with_suffix(".so"))
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a later `import reverb` must find this one
    spec.loader.exec_module(module)
    return module


def reverb_bindings() -> ModuleType:
    """Reverb's C++ extension module."""
    return _load(_REVERB)


def reverb_client(address: str) -> Any:
    """Reverb's C++ client of the server at `host:port`; it connects when first used."""
    return _load(_REVERB).Client(address)


def reverb_writer(client: Any, chunk_length: int, keep_alive: int) -> Any:
    """A C++ `TrajectoryWriter` that compresses `chunk_length` steps together and keeps `keep_alive` referable."""
    options = _load(_REVERB).ConstantChunkerOptions(chunk_length, keep_alive)
    return client.NewTrajectoryWriter(options, True)


def flush(writer: Any, unconfirmed: int, milliseconds: int) -> bool:
    """Waits until at most so many items of a C++ writer are unconfirmed; False if they are more after that time."""
    try:
        writer.Flush(unconfirmed, milliseconds)
    except Exception as error:  # the binding's own exception type is not exported
        if "imeout" not in str(error):
            raise
        return False
    return True


class Interpreter:
    """A TFLite program whose inputs are observations and weights.

    Args:
      program: the flatbuffer.
      inputs: shapes of its inputs, in order; the batch dimension of observations is fixed by them. Further inputs have
        the program's own shapes with the first dimension of the first input.
      threads: CPU threads of its kernels.
    """

    def __init__(self, program: bytes, inputs: list[tuple[int, ...]], threads: int = 1) -> None:
        wrapper = _load(_TFLITE)
        self._program = program  # the C++ object reads this buffer for as long as it lives
        self._interpreter = wrapper.CreateWrapperFromBuffer(program, _BUILTIN_OPERATIONS, [], [], False, False)
        self._interpreter.SetNumThreads(threads)
        indices = list(self._interpreter.InputIndices())
        # The converter may reorder arguments; their names keep the order in which they were declared.
        names = {self._interpreter.TensorName(index, 0): index for index in indices}
        self._inputs = [names[name] for name in sorted(names, key=argument_position)]
        further = [self._interpreter.TensorSize(index, 0)[1:] for index in self._inputs[len(inputs) :]]
        self.shapes = [*inputs, *((inputs[0][0], *map(int, size)) for size in further)]
        for index, shape in zip(self._inputs, self.shapes, strict=True):
            self._interpreter.ResizeInputTensor(index, np.asarray(shape, np.int32), False)
        with without_notices():
            self._interpreter.AllocateTensors()
        (self._output,) = self._interpreter.OutputIndices()

    def set(self, position: int, value: NDArray[Any]) -> None:
        """Copies an array into the input at that position."""
        self._interpreter.SetTensor(self._inputs[position], value)

    def run(self) -> NDArray[np.float32]:
        """Runs the program on the inputs last set and returns a copy of its output."""
        self._interpreter.Invoke()
        output: NDArray[np.float32] = self._interpreter.GetTensor(self._output)
        return output


def argument_position(name: str) -> int:
    """Position that is part of a TFLite input's name: "serving_default_argument_12:0" is 12."""
    return int(name.partition("argument_")[2].partition(":")[0])
