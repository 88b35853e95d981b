"""TensorFlow Serving's JSON for predictions: requests as arrays of an interface, outputs as replies.

https://www.tensorflow.org/tfx/serving/api_rest: `instances` is a list of rows, `inputs` has a list a column; replies
come as `predictions` and `outputs`. Where there is one input, its values stand in the place of an object by name.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agents.struct_types import prepared
from pipeline.export.interface import MASK, Interface, Tensor

_TYPES = {
    "bool": "DT_BOOL",
    "uint8": "DT_UINT8",
    "int8": "DT_INT8",
    "int16": "DT_INT16",
    "int32": "DT_INT32",
    "int64": "DT_INT64",
    "float16": "DT_HALF",
    "float32": "DT_FLOAT",
    "float64": "DT_DOUBLE",
}
_TAKEN = {"f": "fiu", "i": "iu", "u": "iu", "b": "biu"}
"""Kinds of numbers, as NumPy abbreviates them, that a JSON value may have for each kind of input."""

_LARGEST = np.finfo(np.float32).max


class BadRequest(Exception):
    """What is wrong with a request, in one line."""


class Request(msgspec.Struct, frozen=True):
    """The body of a predict request."""

    instances: Any = None
    inputs: Any = None
    signature_name: str = "serving_default"

    @property
    def by_rows(self) -> bool:
        """Whether it came as rows, and is answered as such."""
        return self.instances is not None


class Reader:
    """Reads requests for a policy.

    Args:
      interface: of the policy.
    """

    def __init__(self, interface: Interface) -> None:
        self._inputs = interface.inputs()
        self._bounds = interface.bounds()
        self._optional = set() if interface.masked else {MASK}
        self._decoder = msgspec.json.Decoder(prepared(Request))

    def request(self, body: bytes) -> Request:
        """The request in a body.

        Raises:
          BadRequest: it is none.
        """
        try:
            request = self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadRequest(f"the body is not a predict request: {error}") from None
        except RecursionError:
            raise BadRequest("the body is not a predict request: it is nested too deeply") from None
        if (request.instances is None) == (request.inputs is None):
            raise BadRequest("the body must have either 'instances' or 'inputs'")
        if request.signature_name not in ("", "serving_default"):
            raise BadRequest(f"no signature {request.signature_name!r}; there is 'serving_default'")
        return request

    def arrays(self, request: Request) -> dict[str, NDArray[Any]]:
        """The request's inputs [B, ...] by name.

        Raises:
          BadRequest: one is missing, unknown, or of another shape, type or range.
        """
        columns = self._columns_of_rows(request.instances) if request.by_rows else self._columns(request.inputs)
        for name in columns:
            if name not in self._inputs:
                raise BadRequest(f"no input {name!r}; there are {', '.join(self._inputs)}")
        arrays = {}
        for name, tensor in self._inputs.items():
            if name in columns:
                arrays[name] = self._array(name, tensor, columns[name])
            elif name not in self._optional:
                raise BadRequest(f"input {name!r} is missing")
        if len({len(array) for array in arrays.values()}) > 1:
            counts = ", ".join(f"{len(array)} of {name}" for name, array in arrays.items())
            raise BadRequest(f"inputs of different batch sizes: {counts}")
        return arrays

    def _columns(self, inputs: Any) -> Mapping[str, Any]:
        if isinstance(inputs, dict):
            return inputs
        return {self._only_input(): inputs}

    def _columns_of_rows(self, instances: Any) -> Mapping[str, Any]:
        if not isinstance(instances, list) or not instances:
            raise BadRequest("'instances' must be a list of at least one")
        if not isinstance(instances[0], dict):
            return {self._only_input(): instances}
        names = instances[0].keys()
        if not all(isinstance(row, dict) and row.keys() == names for row in instances):
            raise BadRequest("'instances' must all have the same inputs")
        return {name: [row[name] for row in instances] for name in names}

    def _only_input(self) -> str:
        required = [name for name in self._inputs if name not in self._optional]
        if len(required) > 1:
            raise BadRequest(f"name the inputs, as there are several: {', '.join(required)}")
        return required[0]

    def _array(self, name: str, tensor: Tensor, values: Any) -> NDArray[Any]:
        try:
            array = np.asarray(values)
        except (ValueError, OverflowError):
            raise BadRequest(f"input {name!r} is ragged: its rows must have one shape") from None
        dtype = np.dtype(tensor.dtype)
        if array.shape[1:] != tensor.shape or not array.ndim or not len(array):
            wanted, got = (list(map(str, shape)) for shape in (("B", *tensor.shape), array.shape))
            raise BadRequest(f"input {name!r} must have shape [{', '.join(wanted)}], not [{', '.join(got)}]")
        if array.dtype.kind not in _TAKEN[dtype.kind]:
            raise BadRequest(f"input {name!r} must be {tensor.dtype}: it holds what is none")
        if dtype.kind != "f":
            least, most = self._bounds[name]
            if np.any(array < least) or np.any(array > most):
                raise BadRequest(f"input {name!r} is out of range: it must be from {_said(least)} to {_said(most)}")
        elif not (np.abs(array) <= _LARGEST).all():
            raise BadRequest(f"input {name!r} must be finite numbers of float32's range")
        return array.astype(dtype)


def _said(bound: NDArray[Any]) -> str:
    """A bound that all entries share, or each entry's own."""
    return str(bound.min() if bound.min() == bound.max() else bound.tolist())


def reply(outputs: Mapping[str, NDArray[Any]], by_rows: bool) -> bytes:
    """The body of a reply.

    Args:
      outputs: [B, ...] by name; more than one.
      by_rows: see `Request.by_rows`.
    """
    columns = {name: array.tolist() for name, array in outputs.items()}
    if not by_rows:
        return msgspec.json.encode({"outputs": columns})
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return msgspec.json.encode({"predictions": rows})


def failure(sentence: str) -> bytes:
    """The body that says what is wrong."""
    return msgspec.json.encode({"error": sentence})


def status() -> bytes:
    """The body that says that the one version is there."""
    version = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    return msgspec.json.encode({"model_version_status": [version]})


def metadata(interface: Interface, name: str) -> bytes:
    """The body that describes inputs and outputs."""
    signature = {
        "inputs": {each: _tensor_info(each, tensor) for each, tensor in interface.inputs().items()},
        "outputs": {each: _tensor_info(each, tensor) for each, tensor in interface.outputs().items()},
        "method_name": "tensorflow/serving/predict",
    }
    return msgspec.json.encode(
        {
            "model_spec": {"name": name, "signature_name": "", "version": "1"},
            "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
        }
    )


def _tensor_info(name: str, tensor: Tensor) -> dict[str, Any]:
    dimensions = [{"size": str(size), "name": ""} for size in (-1, *tensor.shape)]
    return {"dtype": _TYPES[tensor.dtype], "tensor_shape": {"dim": dimensions, "unknown_rank": False}, "name": name}
