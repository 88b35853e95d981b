"""The C++ bindings without TensorFlow's Python package, held against the public classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents import ArraySpec, DqnConfig, Specs
from pipeline.runtime.native import Interpreter, argument_position

SPECS = Specs({"x": ArraySpec((3,), "float32"), "gear": ArraySpec((), "int32", (4,))}, 3)
LANES = 7
CONFIG = DqnConfig(hidden_units=(16, 8), activation="tanh", dueling=True)


@pytest.fixture(scope="module")
def program() -> bytes:
    from agents.networks import value_model
    from pipeline.acting.network_program import convert

    return convert(value_model(SPECS, CONFIG, None, seed=3), SPECS)


def inputs_of(seed: int) -> list[Any]:
    """Random observations and weights in the order of the program's arguments: gear, x, then Keras' weights."""
    random = np.random.default_rng(seed)
    shapes = [(8, 16), (16,), (16, 8), (8,), (8, 3), (3,), (8, 1), (1,)]
    weights = [random.normal(size=shape).astype(np.float32) for shape in shapes]
    gear = random.integers(0, 5, LANES).astype(np.int32)
    return [gear, random.normal(size=(LANES, 3)).astype(np.float32), *weights]


def in_model_order(values: list[Any]) -> list[Any]:
    """The weights as the model has them: which of value and advantages comes first is Keras' choice."""
    from agents.networks import value_model

    model = value_model(SPECS, CONFIG, None, seed=3)
    rest = list(values[2:])
    ordered = []
    for weight in model.weights:
        index = next(j for j, value in enumerate(rest) if value.shape == tuple(weight.shape))
        ordered.append(rest.pop(index))
    return [*values[:2], *ordered]


def run(program: bytes, values: list[Any], threads: int = 1) -> Any:
    interpreter = Interpreter(program, [value.shape for value in values], threads)
    for position, value in enumerate(values):
        interpreter.set(position, value)
    return interpreter.run()


@pytest.mark.parametrize("seed", range(5))
def test_the_bare_interpreter_agrees_with_tensorflows_bit_for_bit(program: bytes, seed: int) -> None:
    import tensorflow as tf

    values = in_model_order(inputs_of(seed))
    public = tf.lite.Interpreter(
        model_content=program,
        num_threads=1,
        experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN,
    )
    details = sorted(public.get_input_details(), key=lambda detail: argument_position(detail["name"]))
    for detail, value in zip(details, values, strict=True):
        public.resize_tensor_input(detail["index"], value.shape)
    public.allocate_tensors()
    for detail, value in zip(details, values, strict=True):
        public.set_tensor(detail["index"], value)
    public.invoke()
    expected = public.get_tensor(public.get_output_details()[0]["index"])
    assert run(program, values).tobytes() == expected.tobytes()


@pytest.mark.parametrize("seed", range(5))
def test_the_bare_interpreter_agrees_with_keras(program: bytes, seed: int) -> None:
    from agents.networks import value_model

    values = in_model_order(inputs_of(seed))
    model = value_model(SPECS, CONFIG, None, seed=3)
    model.set_weights(values[2:])
    np.testing.assert_allclose(run(program, values), model({"gear": values[0], "x": values[1]}), atol=1e-5, rtol=1e-5)


def test_arrays_that_are_not_contiguous_are_copied_right(program: bytes) -> None:
    values = in_model_order(inputs_of(0))
    strided = [np.repeat(value, 2, axis=0)[::2] for value in values]
    assert np.array_equal(run(program, strided), run(program, values))


def test_a_value_of_another_dtype_is_refused(program: bytes) -> None:
    values = in_model_order(inputs_of(0))
    interpreter = Interpreter(program, [value.shape for value in values])
    with pytest.raises(ValueError, match="tensor"):
        interpreter.set(1, values[1].astype(np.float64))


def test_a_value_of_another_shape_is_refused(program: bytes) -> None:
    values = in_model_order(inputs_of(0))
    interpreter = Interpreter(program, [value.shape for value in values])
    with pytest.raises(ValueError, match="imension"):
        interpreter.set(1, values[1][:-1])


def test_argument_names_hold_positions() -> None:
    names = ["serving_default_argument_12:0", "serving_default_argument_2:0", "argument_0"]
    assert [argument_position(name) for name in names] == [12, 2, 0]


@pytest.mark.parametrize(
    "module",
    [
        "roles.collector_role",
        "collector.collector",
        "evaluator.evaluator",
        "evaluate",
        "role",
        "replay.writer",
        "messages.channel",
    ],
)
def test_what_acts_imports_no_tensorflow(run_python: Callable[..., str], module: str) -> None:
    printed = run_python(f"""
        import sys
        import pipeline.{module}
        print([name for name in ("tensorflow", "reverb", "tf_agents", "keras") if name in sys.modules])
    """)
    assert printed.strip() == "[]"


USE_BINDINGS = """
def use_bindings():
    import sys
    import numpy as np
    from pipeline.runtime import native
    program = open(sys.argv[1], "rb").read()
    values = [np.load(f"{sys.argv[2]}/{j}.npy") for j in range(10)]
    interpreter = native.Interpreter(program, [value.shape for value in values])
    for position, value in enumerate(values):
        interpreter.set(position, value)
    result = interpreter.run()
    native.reverb_client("localhost:1")
    return result.tobytes()
"""
USE_PUBLIC = """
def use_public():
    import numpy as np
    import tensorflow as tf
    import reverb
    from pipeline.runtime import native
    from pipeline.messages.ports import free_port
    tf.lite.Interpreter(model_content=open(sys.argv[1], "rb").read())
    table = reverb.Table.queue("messages", 10)
    server = reverb.Server([table], free_port())
    reverb.Client(f"localhost:{server.port}").insert(np.arange(3), {"messages": 1.0})
    assert native.reverb_client(f"localhost:{server.port}").ServerInfo(5)
    sampler = native.reverb_client(f"localhost:{server.port}").NewSampler("messages", 1, 1)
    assert np.asarray(sampler.GetNextTrajectory()[-1]).ravel().tolist() == [0, 1, 2]
    assert float(tf.reduce_sum(tf.ones(3))) == 3.0
    server.stop()
"""


@pytest.mark.parametrize(
    "order",
    [
        "first = use_bindings(); assert 'tensorflow' not in sys.modules; use_public()",
        "use_public(); first = use_bindings()",
        pytest.param("import tensorflow; first = use_bindings(); use_public()", marks=pytest.mark.slow),
        pytest.param("import reverb; first = use_bindings(); use_public()", marks=pytest.mark.slow),
    ],
    ids=["bindings first", "public first", "tensorflow first", "reverb first"],
)
def test_bindings_and_tensorflow_live_in_one_process(
    run_python: Callable[..., str], tmp_path: Path, program: bytes, order: str
) -> None:
    values = in_model_order(inputs_of(0))
    (tmp_path / "program").write_bytes(program)
    for j, value in enumerate(values):
        np.save(tmp_path / f"{j}.npy", value)
    code = f"import sys\n{USE_BINDINGS}\n{USE_PUBLIC}\n{order}\nassert use_bindings() == first\nprint(first.hex())"
    printed = run_python(code, str(tmp_path / "program"), str(tmp_path))
    assert printed.split()[-1] == run(program, values).tobytes().hex()
