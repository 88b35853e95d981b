"""Kinds, torsos, optimizers, schedules, suites and launchers of users' own: by import path, and registered."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import agents
import pipeline
from agents import extensions
from agents.exploration import ExplorationConfig, epsilon
from pipeline import environments
from pipeline.environments import suite_options
from pipeline.experiment import config, resume

ROOT = Path(__file__).resolve().parents[2]
KIND = '''
from typing import Annotated
from msgspec import Meta
from agents.configs.dqn import DqnConfig

class MineConfig(DqnConfig, frozen=True):
    """A kind for tests."""
    builder = "mine_of_tests:build"
    shapes_network = ("towers",)
    towers: Annotated[int, Meta(ge=1, description="Of no meaning.")] = 1

class TaggedConfig(MineConfig, frozen=True, tag="tagged"):
    pass

class UnbuiltConfig(DqnConfig, frozen=True):
    pass

class TakenConfig(MineConfig, frozen=True, tag="ppo"):
    pass

def build(specs, config, *, epsilon, seed):
    from agents.dqn import build
    return build(specs, config, epsilon=epsilon, seed=seed)

def slow(config, environment_steps):
    return max(config.epsilon_final, config.epsilon_initial * 0.5 ** (environment_steps / 1_000))

def none(config, environment_steps):
    return 1.5

def raises(config, environment_steps):
    return 1 / environment_steps

def torso(features, seeds, activation):
    import tensorflow as tf
    return tf.keras.layers.Dense(7, activation, kernel_initializer=seeds.he_uniform())(features)

def sgd(variables, config):
    from agents.optimizers import Optimizer, settings_of

    class Sgd(Optimizer):
        def _update(self, weight, gradient, rate):
            weight.assign_sub(rate * gradient)

    return Sgd(variables, **settings_of(config))

def vector(config, lanes, *, render=False):
    from pipeline.environments.lanes.vectors import gymnasium_vector
    return gymnasium_vector(config, lanes, render=render)

def launch(launch):
    from pipeline.launchers import inline
    print("by a launcher of my own", launch.run.path)
    return inline.run(launch)

number = 3
def __getattr__(name):
    if name == "SUITE":
        from pipeline.environments import Suite
        return Suite("", ("Mine/",), "suite_of_tests")
    raise AttributeError(f"module 'mine_of_tests' has no attribute {name!r}")
'''
SUITE = """
import gymnasium
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

made = []
gymnasium.register("Mine/Pole-v0", entry_point=CartPoleEnv, max_episode_steps=50)

def vector(config, lanes, *, render=False):
    from pipeline.environments.lanes.vectors import gymnasium_vector
    made.append(lanes)
    return gymnasium_vector(config, lanes, render=render)
"""
ENTRY_POINTS = """[reverb_dqn.kinds]
mine = mine_of_tests:MineConfig
tagged = mine_of_tests:TaggedConfig
[reverb_dqn.torsos]
seven = mine_of_tests:torso
[reverb_dqn.optimizers]
sgd = mine_of_tests:sgd
[reverb_dqn.schedules]
halving = mine_of_tests:slow
[reverb_dqn.suites]
mine = mine_of_tests:SUITE
[reverb_dqn.launchers]
mine = mine_of_tests:launch
"""
KIND_LINE = "agent.kind='mine_of_tests:MineConfig'"


def forget() -> None:
    for cache in (extensions._entries, extensions._schedule, suite_options.registered):
        cache.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, with modules that are not installed."""
    folder = tmp_path_factory.mktemp("users")
    (folder / "mine_of_tests.py").write_text(KIND)
    (folder / "suite_of_tests.py").write_text(SUITE)
    (folder / "breaks_on_import.py").write_text("raise SystemExit('not today')\n")
    return folder


@pytest.fixture(autouse=True)
def _importable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))


@pytest.fixture
def installed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same, installed with entry points: a folder as pip leaves it."""
    recorded = tmp_path / "mine-1.0.dist-info"
    recorded.mkdir()
    (recorded / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (recorded / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    yield tmp_path
    forget()


def refusal(*lines: str) -> str:
    with pytest.raises(config.UsageError) as caught:
        config.parse("", lines)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_kind_is_its_import_path_in_a_config_and_out_of_it() -> None:
    experiment = config.parse("", (KIND_LINE, "agent.towers=2", "agent.n_step=3"))
    assert experiment.agent.kind == "mine_of_tests:MineConfig"
    assert (experiment.agent.towers, experiment.agent.n_step) == (2, 3)  # type: ignore[attr-defined]
    assert config.parse(config.dump(experiment)) == experiment
    given = msgspec.structs.replace(experiment, agent=type(experiment.agent)(towers=2, n_step=3))
    config.validate(given)
    assert given == experiment


def test_a_kind_of_ours_may_be_named_by_its_path() -> None:
    assert config.parse("", ("agent.kind='agents.configs.dqn:DqnConfig'",)) == config.parse("")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("mine_of_tests:MineConfg", "(did you mean 'mine_of_tests:MineConfig'?)"),
        ("nowhere_at_all:MineConfig", "there is no module 'nowhere_at_all': start in its folder"),
        ("breaks_on_import:Config", "its module raised SystemExit: not today"),
        ("mine_of_tests:number", "is of type int: a kind is named by its configuration"),
        ("mine_of_tests:build", "is of type function: a kind is named by its configuration"),
        ("agents:ExplorationConfig", "is the class ExplorationConfig: a kind"),
        ("mine_of_tests:UnbuiltConfig", "give UnbuiltConfig a line builder = 'module:function'"),
        ("mine_of_tests:TakenConfig", "has the tag 'ppo', which is one of ours"),
        ("mine_of_tests:TaggedConfig", "leave its tag out, or register it"),
        ("mine of tests:MineConfig", "your own as 'module:name'"),
        ("dnq", "did you mean 'dqn'? there are dqn, c51"),
    ],
)
def test_what_is_no_kind_is_refused(kind: str, words: str) -> None:
    assert words in refusal(f"agent.kind='{kind}'")


def test_a_kind_of_the_program_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        KIND + "import pipeline\nfrom pipeline.experiment.sections import Experiment\n"
        "pipeline.train(Experiment(agent=MineConfig()), 'run')\n"
    )
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "put it into a module, say mine.py, and set agent.kind='mine:MineConfig'" in done.stderr
    assert not (tmp_path / "run").exists()


def test_fields_of_a_kind_of_ones_own_are_checked_and_suggested() -> None:
    assert "agent.towers: Expected `int` >= 1" in refusal(KIND_LINE, "agent.towers=0")
    assert "'agent.towers'" in refusal(KIND_LINE, "agent.tower=2")


def test_a_resumed_run_cannot_change_what_shapes_its_network() -> None:
    stored, wanted = (config.parse("", (KIND_LINE, f"agent.towers={towers}")) for towers in (1, 2))
    assert "agent.towers was 1" in resume.refusals(stored, wanted)[0]
    slower = config.parse("", (KIND_LINE, "agent.learning_rate=1e-4"))
    assert resume.refusals(stored, slower) == []


def test_registered_kinds_are_named_by_their_tag_or_path(installed: Path) -> None:
    assert config.parse("", ("agent.kind='tagged'",)).agent.kind == "tagged"
    assert config.parse("", ("agent.kind='mine_of_tests:TaggedConfig'",)).agent.kind == "tagged"
    assert config.parse("", ("agent.kind='mine'",)).agent.kind == "mine_of_tests:MineConfig"
    assert "mine, tagged" in refusal("agent.kind='nobody'")


def test_two_packages_that_register_one_name_are_refused(
    installed: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "theirs-1.0.dist-info").mkdir()
    (other / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (other / "theirs-1.0.dist-info" / "entry_points.txt").write_text("[reverb_dqn.kinds]\nmine = theirs:Config\n")
    monkeypatch.syspath_prepend(str(other))
    forget()
    assert "agent.kind='mine': it is registered twice in reverb_dqn.kinds" in refusal("agent.kind='mine'")


def test_the_reference_prints_the_fields_of_a_kind_of_ones_own(installed: Path, folder: Path) -> None:
    def reference(*flags: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(map(str, (folder, installed, ROOT)))
        environment = {**os.environ, "PYTHONPATH": path}
        command = [sys.executable, "-m", "pipeline.reference", *flags]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    by_path = reference("--kind=mine_of_tests:MineConfig")
    assert "agent.towers = 1  (integer >= 1)\n      Of no meaning." in by_path.stdout
    assert "replay.capacity" not in by_path.stdout
    assert "[agent] of mine, tagged\n  agent.towers" in reference("--field=agent.tow").stdout
    assert "towers" not in reference("--markdown").stdout  # the page is of what is ours
    assert reference("--kind=mine_of_tests:Mine").returncode == 2


def test_an_epsilon_schedule_of_ones_own_takes_the_place_of_the_decay(installed: Path) -> None:
    for name in ("mine_of_tests:slow", "halving"):
        section = config.parse(
            "", (f"exploration.epsilon_schedule='{name}'", "exploration.epsilon_final=0.2")
        ).exploration
        assert [epsilon(section, steps) for steps in (0, 1_000, 10_000)] == [1.0, 0.5, 0.2]
        ladder = msgspec.structs.replace(section, ladder_alpha=1.0)
        assert epsilon(ladder, 1_000, index=1, collectors=2) == 0.25


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("mine_of_tests:none", "gave 1.5 at 0 environment steps, which is no probability"),
        ("mine_of_tests:raises", "raised at 0 environment steps: ZeroDivisionError"),
        ("mine_of_tests:number", "is no function, but of type int"),
        ("linear", "none is registered here, and your own as 'module:name'"),
    ],
)
def test_what_is_no_schedule_is_refused(schedule: str, words: str) -> None:
    assert words in refusal(f"exploration.epsilon_schedule='{schedule}'")


def test_a_schedule_that_breaks_later_names_itself() -> None:
    section = ExplorationConfig(epsilon_schedule="mine_of_tests:slow", epsilon_initial=3.0)
    with pytest.raises(ValueError, match=r"epsilon_schedule='mine_of_tests:slow' gave 3\.0 at 0 environment steps"):
        epsilon(section, 0)


def test_an_optimizer_of_ones_own_moves_the_weights(installed: Path) -> None:
    import tensorflow as tf

    from agents.optimizers import optimizer_of

    assert "there are adam, adamw, radam, rmsprop, sgd, and your own" in refusal("agent.optimizer='lion'")
    for name in ("sgd", "mine_of_tests:sgd"):
        settings = config.parse("", (f"agent.optimizer='{name}'", "agent.learning_rate=0.5", "agent.weight_decay=0.1"))
        weight = tf.Variable([1.0, 2.0])
        agent: Any = settings.agent
        optimizer_of([weight], agent).apply([tf.constant([0.2, -0.4])], tf.constant(0.0))
        assert weight.numpy() == pytest.approx([0.9, 2.2])
    with pytest.raises(ValueError, match="made an object of type bool: an optimizer here is a subclass"):
        optimizer_of([], agents.DqnConfig(optimizer="operator:is_"))


def test_parts_that_cannot_be_built_are_refused_before_anything_is_written(tmp_path: Path, installed: Path) -> None:
    for line, words in (
        ("agent.torso='mine_of_tests:nothing'", "agent.torso='mine_of_tests:nothing' cannot be imported"),
        ("agent.torso='nine'", "agent.torso='nine': no 'nine'"),
        ("agent.optimizer='mine_of_tests:nothing'", "agent.optimizer='mine_of_tests:nothing' cannot be imported"),
        ("agent.optimizer='mine_of_tests:number'", "is no function, but of type int"),
        ("agent.optimizer='json:loads'", "^agent.optimizer='json:loads' raised TypeError: "),
        ("agent.torso='json:loads'", "^agent.torso='json:loads' raised TypeError: "),
        ("agent.torso='builtins:max'", "^agent.torso='builtins:max' raised "),
        ("agent.torso='builtins:print'", "^agent.torso='builtins:print' made an object of type NoneType: "),
    ):
        with pytest.raises(config.UsageError, match=words.replace("(", r"\(")):
            pipeline.train(config.parse("", (line,)), tmp_path / "run", launcher="inline")
    assert not (tmp_path / "run").exists()


def test_what_is_no_launcher_is_refused(tmp_path: Path) -> None:
    experiment = config.parse("")
    for launcher, words in (
        ("locl", "did you mean 'local'"),
        ("mine_of_tests:nothing", "--launcher='mine_of_tests:nothing' cannot be imported"),
        ("mine_of_tests:number", "is no function run"),
        ("os:getcwd", "--launcher='os:getcwd' takes no launch as its only argument: too many positional arguments"),
    ):
        with pytest.raises(config.UsageError, match=words):
            pipeline.train(experiment, tmp_path / "run", launcher=launcher)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_whole_run_of_ones_own_parts(tmp_path: Path, installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = config.parse(
        "",
        (
            "agent.kind='mine'",
            "agent.torso='seven'",
            "agent.optimizer='sgd'",
            "exploration.epsilon_schedule='halving'",
            "environment.id='Mine/Pole-v0'",
            "stop.environment_steps=600",
            "replay.min_size=100",
            "learner.steps_per_call=10",
            "learner.loop='plain'",
            "evaluation.episodes=1",
            "evaluation.images=false",
            "collect.lanes=4",
        ),
    )
    summary = pipeline.train(experiment, tmp_path / "run", launcher="mine")
    assert summary.gradient_steps > 0
    assert "by a launcher of my own" in capsys.readouterr().out
    made = sys.modules["suite_of_tests"].made
    assert 4 in made
    stored = config.load(tmp_path / "run" / "config.toml")
    assert stored == experiment
    assert stored.agent.kind == "mine_of_tests:MineConfig"


def test_an_engine_of_ones_own_makes_the_lanes() -> None:
    section = config.parse("", ("environment.engine='mine_of_tests:vector'",)).environment
    lanes = environments.make(section, 3)
    assert lanes.reset(seed=0).observation[""].shape == (3, 4)
    lanes.close()
    for engine, words in (
        ("gym", "there are gymnasium, envpool, and your own"),
        ("json:scanner", "is no function"),
        ("os:getcwd", "environment.engine='os:getcwd' raised TypeError: "),
        (
            "no_such_module:x",
            "environment.engine='no_such_module:x' cannot be imported: there is no module 'no_such_mod",
        ),
    ):
        with pytest.raises(config.UsageError, match=words):
            environments.make(config.parse("", (f"environment.engine='{engine}'",)).environment, 1)
