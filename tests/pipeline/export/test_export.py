"""Exported policies choose what the pipeline's own do, on 1,000 observations of every kind of agent and observation."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from untrained import untrained_run

from agents import BUILDERS, config_type, dimensions
from agents.exploration import greedy
from pipeline import environments
from pipeline.environments.interfaces import action_spaces
from pipeline.environments.lanes.shield import load as load_shield
from pipeline.environments.lanes.spaces import first_action, leaf_readers
from pipeline.evaluator.evaluator import PolicyActor
from pipeline.experiment.config import UsageError
from pipeline.export import directory
from pipeline.export.directory import ExportedPolicy
from pipeline.export.served_policy import NoAction, ServedPolicy

ROOT = Path(__file__).resolve().parents[3]
LANES, STEPS = 100, 10
SMALL = "agent.hidden_units=[8]"
ON_POLICY = (
    "exploration.strategy='boltzmann'",
    "collect.lanes=4",
    "learner.batch_size=4",
    "learner.steps_per_call=1",
    "replay.samples_per_insert=1",
)


def observing(space: str, masks: bool = True) -> tuple[str, ...]:
    arguments = f"environment.kwargs={{kind='{space}', masks={str(masks).lower()}}}"
    return ("environment.id=''", "environment.import_path='environments_for_tests:Observing'", arguments)


def dials(form: str, masks: str) -> tuple[str, ...]:
    arguments = f"environment.kwargs={{form='{form}', masks='{masks}'}}"
    return ("environment.id=''", "environment.import_path='environments_of_dimensions:Dials'", arguments)


def guarded(shield: str, *, masked: bool, stack: int = 1) -> tuple[str, ...]:
    name = "GuardedAndMaskedForTests-v0" if masked else "GuardedForTests-v0"
    shielded = f"environment.shield='environments_guarded:{shield}'"
    stacked = f"environment.frame_stack={stack}"
    return (f"environment.id='{name}'", "environment.import_path='environments_guarded'", shielded, stacked)


def kind(name: str, *lines: str) -> tuple[str, ...]:
    small = () if name == "q_learning" else (SMALL,)
    config = config_type(name)()
    on_policy = ON_POLICY if config.on_policy else ()
    offline = ("offline.dataset='runs/other'", "stop.gradient_steps=1") if config.offline_only else ()
    return (f"agent.kind='{name}'", *small, *on_policy, *offline, *lines)


NORMALIZED = "agent.normalize_observations=true"
CASES: dict[str, tuple[str, ...]] = {
    "dqn, float, actions from 5": (
        *kind("dqn"),
        "environment.id=''",
        "environment.import_path='environments_for_tests:ShiftedActions'",
    ),
    "c51, double, normalised": (*kind("c51", NORMALIZED), *observing("double")),
    "rainbow, image": (*kind("rainbow", "agent.image_torso='minatar'"), *observing("image")),
    "qr_dqn, bytes": (*kind("qr_dqn"), *observing("bytes")),
    "iqn, categories from elsewhere": (*kind("iqn"), *observing("multi_discrete_from")),
    "r2d2, dict, normalised and stacked": (
        *kind("r2d2", NORMALIZED, "agent.lstm_units=4"),
        *observing("dict"),
        "environment.frame_stack=2",
    ),
    "r2d2, its previous step": (*kind("r2d2", "agent.lstm_units=4"), "environment.previous_step=true"),
    "q_learning, discrete": (*kind("q_learning"), *observing("discrete", masks=False)),
    "behaviour_cloning, tuple": (*kind("behaviour_cloning"), *observing("tuple")),
    "boot_dqn, votes": (*kind("boot_dqn", "agent.heads=3", "agent.ensemble_policy='majority'"), *observing("dict")),
    "reinforce, nested": (*kind("reinforce"), *observing("nested")),
    "ppo, table of categories": (*kind("ppo"), *observing("multi_discrete_table")),
    "dqn, binary, noisy": (*kind("dqn", "agent.noisy=true"), *observing("binary")),
    "dqn, a category from elsewhere, stacked": (
        *kind("dqn"),
        *observing("discrete_from"),
        "environment.frame_stack=3",
    ),
    "dqn, a matrix of dimensions": (*kind("dqn", "agent.dueling=true"), *dials("matrix", "flat")),
    "ppo, binary dimensions": (*kind("ppo"), *dials("binary", "none")),
    "r2d2, nested dimensions": (*kind("r2d2", "agent.lstm_units=4"), *dials("tuple", "parts")),
    "a shield inside, a mask and stacks": (*kind("dqn"), *guarded("below_half", masked=True, stack=2)),
    "a shield outside and stacks": (*kind("dqn"), *guarded("allowed", masked=False, stack=2)),
}
NAMED = {line for case in CASES.values() for line in case}
CASES |= {f"{name}, float": kind(name) for name in BUILDERS if f"agent.kind='{name}'" not in NAMED}
THROUGH_TENSORFLOW = ("rainbow, image",)
CHECKER = """
import json, sys
import numpy as np, tensorflow as tf

def run(act, played, lanes):
    state, found = None, {}
    for step in range(len(played["begins"])):
        inputs = {name[6:]: array[step] for name, array in played.items() if name.startswith("input/")}
        if "state_units" in played:
            if state is None:
                state = np.zeros((lanes, int(played["state_units"])), np.float32)
            inputs["state"] = np.where(played["begins"][step][:, None], np.float32(0), state)
        outputs = {name: np.asarray(value) for name, value in act(inputs).items()}
        state = outputs.get("next_state")
        for name, value in outputs.items():
            found.setdefault(name, []).append(value)
    return {name: np.stack(values) for name, values in found.items()}

for folder in sys.argv[1:]:
    played = dict(np.load(folder + "/played.npz"))
    lanes = played["begins"].shape[1]
    signature = tf.saved_model.load(folder + "/out/saved_model/1").signatures["serving_default"]
    found = run(lambda inputs: signature(**{k: tf.constant(v) for k, v in inputs.items()}), played, lanes)
    np.savez(folder + "/saved_model.npz", **found)
    runner = tf.lite.Interpreter(folder + "/out/policy.tflite").get_signature_runner()
    np.savez(folder + "/tflite.npz", **run(lambda inputs: runner(**inputs), played, lanes))
ours = [name for name in ("tf_agents", "reverb", "agents", "pipeline") if name in sys.modules]
assert not ours, ours
"""


class Case(NamedTuple):
    folder: Path
    of_run: ExportedPolicy
    missing: dict[Path, str]
    shield_obstacle: str


def parts(sample: Any, name: str = "") -> dict[str, Any]:
    """The arrays of an observation, by the names of the exported inputs."""
    if not isinstance(sample, dict | tuple):
        return {name or "observation": np.asarray(sample)}
    items = sample.items() if isinstance(sample, dict) else enumerate(sample)
    merged: dict[str, Any] = {}
    for key, part in items:
        merged.update(parts(part, f"{name}_{key}" if name else f"observation_{key}" if key in (0, 1) else str(key)))
    return merged


def as_given(space: Any, actions: Any) -> Any:
    """What the exported models return: of a Tuple or Dict the numbers of all parts side by side."""
    if isinstance(space, spaces.Discrete):
        return actions + first_action(space)
    given = action_spaces.outward(space, actions)
    if isinstance(given, np.ndarray):
        return given.astype(np.int64)
    return np.concatenate([part.reshape(len(actions), -1) for part in given], axis=1).astype(np.int64)


def play(case: Case, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs [steps, lanes, ...] of random lanes, and what the pipeline's own policy makes of them."""
    experiment, interface, policy = case.of_run
    random, frames = np.random.default_rng(seed), interface.frames
    observed, acted, _ = environments.spaces_of(experiment.environment)
    batch = batch_space(observed, LANES)
    batch.seed(seed)
    specs, readers = environments.describe(experiment.environment), leaf_readers(observed)
    actor = PolicyActor(experiment, specs, policy, LANES)
    shield = load_shield(interface.shield) if interface.shield else None
    begins = random.random((STEPS, LANES)) < 0.2
    begins[0] = True
    stacks: dict[str, Any] = {}
    inputs: dict[str, list[Any]] = {}
    wanted: dict[str, list[Any]] = {"action": [], interface.scores: []}
    starts = {
        each.name: np.reshape(each.start or 0, each.spec.shape if each.start else ())
        for each in interface.leaves.values()
    }
    for step in range(STEPS):
        sample = batch.sample()
        seen = {leaf: read(sample) for leaf, read in readers.items()}
        scores = actor.scores(seen, begins[step])
        mask = np.ones_like(scores, np.bool_)
        if interface.masked:
            mask = random.random(scores.shape) < 0.6
            mask[:, dimensions.begins(specs.action_sizes or (0,))] = True
        outer = mask
        if shield is not None:
            allowed = shield(specs.pack(seen))
            mask = np.where((allowed & mask).any(axis=1, keepdims=True), mask, True)
            outer = mask if interface.shield_inside else mask & allowed
            mask = mask & allowed
        for name, array in parts(sample).items():
            newest = array if frames == 1 or array.ndim > 1 else array[:, np.newaxis]
            old = stacks.setdefault(name, [np.zeros_like(newest)] * frames)
            old = [np.where(begins[step].reshape(-1, *[1] * (newest.ndim - 1)), starts[name], each) for each in old]
            stacks[name] = [*old[1:], newest]
            full = newest if frames == 1 else np.concatenate(stacks[name], axis=-1)
            inputs.setdefault(name, []).append(full.astype(array.dtype))
        if interface.takes_mask:
            inputs.setdefault("action_mask", []).append(outer)
        wanted["action"].append(as_given(acted, greedy(scores, mask, specs.action_sizes)))
        wanted[interface.scores].append(scores)
    arrays = {f"input/{name}": np.stack(values) for name, values in inputs.items()}
    more = {"state_units": interface.state_units} if interface.state_units else {}
    return {**arrays, **more, "begins": begins}, {name: np.stack(values) for name, values in wanted.items()}


def same(found: Any, wanted: dict[str, Any], scores: str) -> None:
    np.testing.assert_allclose(found[scores], wanted[scores], rtol=1e-4, atol=1e-5)
    assert found["action"].dtype == np.int64
    # Where the two best are as good as equal, either is the greedy action.
    differ = found["action"] != wanted["action"]
    differ = differ.reshape(*differ.shape[:2], -1).any(axis=2)
    first = np.sort(wanted[scores], axis=-1)
    gap = np.diff(first, axis=-1).min(axis=-1)
    assert not (differ & (gap > 1e-4)).any()
    assert differ.mean() < 0.01


pytestmark = pytest.mark.xdist_group("export")  # its models are made once


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Every case exported, and run by TensorFlow alone in a process of its own."""
    root = tmp_path_factory.mktemp("export")
    made = {}
    for number, (name, lines) in enumerate(CASES.items()):
        run, folder = root / f"run-{number}", root / f"case-{number}"
        untrained_run(run, *lines, seed=number, through_tensorflow=name in THROUGH_TENSORFLOW)
        written = directory.write(directory.origin(run, "best"), folder / "out")
        made[name] = Case(folder, directory.read(folder / "out"), written.missing, written.shield_obstacle)
        played, wanted = play(made[name], number)
        np.savez(folder / "played.npz", **played)
        np.savez(folder / "wanted.npz", **wanted)
    folders = [str(case.folder) for case in made.values()]
    done = subprocess.run([sys.executable, "-I", "-c", CHECKER, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def load(path: Path) -> dict[str, Any]:
    return dict(np.load(path))


def inputs_of(played: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("input/"): array for name, array in played.items() if name.startswith("input/")}


def rolled_out(act: Any, played: dict[str, Any]) -> dict[str, Any]:
    """Outputs of a model on the steps played, with its states handed from one to the next."""
    inputs = inputs_of(played)
    state = np.zeros((LANES, int(played.get("state_units", 0))), np.float32)
    found: list[dict[str, Any]] = []
    for step, begins in enumerate(played["begins"]):
        given = {name: array[step] for name, array in inputs.items()}
        if "state_units" in played:
            given["state"] = np.where(begins[:, np.newaxis], np.float32(0.0), state)
        found.append(act(given))
        state = found[-1].get("next_state", state)
    return {name: np.stack([each[name] for each in found]) for name in found[0]}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", ["saved_model", "tflite"])
def test_a_model_acts_as_the_pipeline_does_with_tensorflow_alone(cases: dict[str, Case], name: str, form: str) -> None:
    case = cases[name]
    same(load(case.folder / f"{form}.npz"), load(case.folder / "wanted.npz"), case.of_run.interface.scores)


@pytest.mark.parametrize("name", CASES)
def test_an_onnx_model_acts_as_the_pipeline_does(cases: dict[str, Case], name: str) -> None:
    runtime, case = pytest.importorskip("onnxruntime"), cases[name]
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(case.folder / "out" / "policy.onnx", options)
    names = [output.name for output in session.get_outputs()]

    def act(inputs: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(names, session.run(names, inputs), strict=True))

    found = rolled_out(act, load(case.folder / "played.npz"))
    same(found, load(case.folder / "wanted.npz"), case.of_run.interface.scores)


@pytest.mark.parametrize("name", CASES)
def test_a_served_policy_acts_as_the_pipeline_does(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    found = rolled_out(ServedPolicy(case.of_run).act, load(case.folder / "played.npz"))
    same(found, load(case.folder / "wanted.npz"), case.of_run.interface.scores)


def test_every_observation_is_among_them() -> None:
    lines = "\n".join(NAMED)
    kinds = ("double", "image", "bytes", "discrete", "discrete_from", "binary")
    more = ("multi_discrete_from", "multi_discrete_table", "dict", "tuple", "nested")
    assert not [each for each in (*kinds, *more) if f"kind='{each}'" not in lines]


def test_all_files_can_be_made(cases: dict[str, Case]) -> None:
    pytest.importorskip("tf2onnx")
    assert not [name for name, case in cases.items() if case.missing]


def test_a_shield_is_inside_where_tensorflow_can_trace_it(cases: dict[str, Case]) -> None:
    inside, outside = cases["a shield inside, a mask and stacks"], cases["a shield outside and stacks"]
    assert inside.of_run.interface.shield_inside
    assert not outside.of_run.interface.shield_inside
    assert set(outside.of_run.interface.inputs()) == {"observation", "action_mask"}
    assert not inside.shield_obstacle
    assert "cannot trace" in outside.shield_obstacle
    card = (outside.folder / "out" / "README.md").read_text()
    assert "The shield `environments_guarded:allowed` is not inside" in card


def test_the_model_card_says_what_it_is(cases: dict[str, Case]) -> None:
    card = (cases["r2d2, dict, normalised and stacked"].folder / "out" / "README.md").read_text()
    for part in ("# r2d2 for", "| 12.5 |", "1,000", "`next_state`", "`q_values`", 'kind = "r2d2"', "| tensorflow |"):
        assert part in card, part


def test_a_served_policy_needs_no_mask_that_no_environment_gives(cases: dict[str, Case]) -> None:
    case = cases["a shield outside and stacks"]
    played = load(case.folder / "played.npz")
    del played["input/action_mask"]  # it calls the shield by itself
    found = rolled_out(ServedPolicy(case.of_run).act, played)
    same(found, load(case.folder / "wanted.npz"), "q_values")


@pytest.mark.parametrize("batch", [1, 2, 16, 17, 300, 1000])
def test_a_served_policy_takes_any_number_of_rows(cases: dict[str, Case], batch: int) -> None:
    case = cases["r2d2, dict, normalised and stacked"]
    policy, interface = ServedPolicy(case.of_run), case.of_run.interface
    random = np.random.default_rng(batch)
    inputs = {name: random.random((1000, *each.shape)).astype(each.dtype) for name, each in interface.inputs().items()}
    inputs["action_mask"][:] = True
    inputs["gear"][:] = 2
    whole, some = policy.act(inputs), policy.act({name: array[:batch] for name, array in inputs.items()})
    for name in interface.outputs():
        np.testing.assert_allclose(some[name], whole[name][:batch], atol=1e-6)


def test_no_action_left_is_said(cases: dict[str, Case]) -> None:
    case = cases["qr_dqn, bytes"]
    inputs = {name: array[0] for name, array in inputs_of(load(case.folder / "played.npz")).items()}
    inputs["action_mask"][3] = False
    with pytest.raises(NoAction, match="row 3"):
        ServedPolicy(case.of_run).act(inputs)


def command(*flags: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "pipeline.export", *flags]
    folders = f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}"
    return subprocess.run(
        line, capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": folders},
    )  # fmt: skip


def test_the_command_exports(cases: dict[str, Case], tmp_path: Path) -> None:
    run = cases["dqn, float, actions from 5"].folder.parent / "run-0"
    done = command(f"--run_dir={run}", f"--out={tmp_path / 'a' / 'b'}")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    for line in done.stdout.splitlines():
        assert Path(line.partition(": ")[0]).exists(), line
    assert json.loads((tmp_path / "a" / "b" / "interface.json").read_text())["scores"] == "q_values"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


@pytest.mark.parametrize(
    ("flags", "part"), [((), "--run_dir is missing"), (("--run_dir=runs/none",), "--out is missing")]
)
def test_a_missing_flag_is_one_line(flags: tuple[str, ...], part: str) -> None:
    done = command(*flags)
    assert (done.returncode, part in done.stderr) == (2, True), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_cannot_be_exported_is_refused_and_nothing_written(cases: dict[str, Case], tmp_path: Path) -> None:
    folder = cases["dqn, float, actions from 5"].folder
    source, used = directory.origin(folder.parent / "run-0", "best"), folder / "out"
    before = sorted(used.iterdir())
    for out, part in [(used, "is not empty"), (used / "policy.tflite" / "x", "is a file")]:
        with pytest.raises(UsageError, match=part):
            directory.write(source, out)
    assert sorted(used.iterdir()) == before
    with pytest.raises(UsageError, match="has not finished its first evaluation"):
        directory.origin(folder.parent / "run-0", "latest")
    with pytest.raises(UsageError, match="holds no run"):
        directory.origin(tmp_path, "best")
    other = source._replace(policy=msgspec.structs.replace(source.policy, weights=source.policy.weights[:-1]))
    with pytest.raises(UsageError, match="not of the network"):
        directory.write(other, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_is_no_exported_policy_is_refused(cases: dict[str, Case], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no interface\.json"):
        directory.read(tmp_path)
    (tmp_path / "interface.json").write_text("{}")
    with pytest.raises(UsageError, match=r"no exported policy|there is no config\.toml"):
        directory.read(tmp_path)
