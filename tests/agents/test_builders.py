"""Every algorithm of the registry, used as a plain TF-Agents agent, and what `agents` promises to its callers."""

import itertools
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tensorflow as tf
from kinds import changed, config_of, scores, specs_of
from tf_agents.agents import tf_agent
from tf_agents.drivers import dynamic_step_driver
from tf_agents.environments import random_py_environment, tf_py_environment
from tf_agents.replay_buffers import tf_uniform_replay_buffer
from tf_agents.specs import array_spec
from tf_agents.trajectories import Trajectory, time_step
from tf_agents.utils import common
from tiers import tiered

import agents
from agents import BUILDERS, AgentConfig, ArraySpec, DqnConfig, ExplorationConfig, Specs
from agents.configs.value import WindowConfig
from agents.random_observations import observations

REPOSITORY = Path(__file__).resolve().parents[2]
FIRST, MID, LAST = 0, 1, 2
OBSERVATIONS: dict[str, Any] = {
    "float32": ArraySpec((4,), "float32"),
    "float32 scalar": ArraySpec((), "float32"),
    "float32 matrix": ArraySpec((3, 2), "float32"),
    "uint8": ArraySpec((5,), "uint8", (255,)),
    "image": ArraySpec((84, 84, 4), "uint8", (255,)),
    "category": ArraySpec((), "int32", (6,)),
    "categories": ArraySpec((3,), "int32", (1, 4, 2)),
    "dict": {
        "vector": ArraySpec((2,), "float32"),
        "image": ArraySpec((12, 12, 1), "uint8", (255,)),
        "kind": ArraySpec((), "int32", (3,)),
        "with a space": ArraySpec((2,), "uint8", (7,)),
    },
}
VECTOR = Specs(ArraySpec((4,), "float32"), 3)


GROUP = "builders"
"""Tests of one kind run in one process, and share an agent."""
KINDS = list(BUILDERS)
EVERY_KIND = pytest.mark.parametrize("kind", tiered(KINDS, KINDS, GROUP), indirect=True, scope="module")


@pytest.fixture(scope="module")
def masked(kind: str) -> Specs:
    """A masked environment that the kind can learn."""
    return specs_of(kind)


@pytest.fixture(scope="module")
def plain(masked: Specs) -> Specs:
    """The same without masks."""
    return masked._replace(masked=False)


def random_experience(specs: Specs, config: AgentConfig, seed: int = 0, batch: int = 8) -> Trajectory:
    random = np.random.default_rng(seed)
    shape = (batch, config.window_length)
    step_type = tf.constant(random.integers(0, 3, shape), tf.int32)
    return Trajectory(
        step_type=step_type,
        observation=observations(specs, shape, random),
        action=tf.constant(random.integers(0, specs.num_actions, shape)),
        policy_info=(),
        next_step_type=tf.roll(step_type, -1, axis=1),
        reward=tf.constant(random.normal(size=shape), tf.float32),
        discount=tf.constant(random.integers(0, 2, shape), tf.float32),
    )


@pytest.fixture(scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def config(kind: str) -> AgentConfig:
    return changed(BUILDERS[kind].config(), {"rollout": 4})


@pytest.fixture(scope="module")
def untrained(kind: str, config: AgentConfig, plain: Specs) -> Any:
    """An agent of seed 7, to look at; training would change it."""
    return agents.build(kind, plain, config, seed=7)


BUILT = [(kind, observation) for kind in KINDS for observation in OBSERVATIONS]
BUILT_FIRST = [
    *((kind, "dict") for kind in KINDS),
    *(("dqn", observation) for observation in OBSERVATIONS if observation != "dict"),
    *(("q_learning", observation) for observation in ("category", "categories")),
    *(("r2d2", observation) for observation in ("image", "float32 scalar")),
]
"""The kinds share their torsos: each is tried with all of them at once, and with each of them one."""


@pytest.mark.parametrize(("kind", "observation"), tiered(BUILT, BUILT_FIRST, GROUP), indirect=["kind"], scope="module")
def test_builds_on_every_observation_and_trains_to_finite_q_values(
    kind: str, config: AgentConfig, observation: str
) -> None:
    specs = Specs(OBSERVATIONS[observation], 3)
    if config.unsuitable_for(specs):
        with pytest.raises(ValueError, match=f"{kind}.*observations"):
            agents.build(kind, specs, config)
        return
    agent = agents.build(kind, specs, config)
    loss = agent.train(random_experience(specs, config)).loss
    assert np.isfinite(loss)
    q_values = scores(agent, observations(specs, (5,), np.random.default_rng(1)))
    assert q_values.dtype == tf.float32
    assert q_values.shape == (5, 3)
    assert np.isfinite(q_values).all()
    if kind != "q_learning":  # a table knows nothing of states that it has not seen
        assert np.ptp(q_values) > 0


@EVERY_KIND
def test_is_a_tf_agents_agent(config: AgentConfig, untrained: Any) -> None:
    assert isinstance(untrained, tf_agent.TFAgent)
    assert untrained.train_sequence_length == config.window_length
    assert untrained.train_step_counter.numpy() == 0
    assert untrained.learning_rate.numpy() == pytest.approx(config.learning_rate)


@EVERY_KIND
def test_a_seed_fixes_the_initial_weights_and_another_changes_them(
    kind: str, config: AgentConfig, plain: Specs, untrained: Any
) -> None:
    one = untrained.acting_model.get_weights()
    same, other = (agents.build(kind, plain, config, seed=seed).acting_model.get_weights() for seed in (7, 8))
    assert all(np.array_equal(weight, equal) for weight, equal in zip(one, same, strict=True))
    if kind == "q_learning":  # starts from a constant
        return
    assert any(not np.array_equal(weight, different) for weight, different in zip(one, other, strict=True))


DRIVEN = {"one step, int64": (1, np.int64), "three steps, int32": (3, np.int32)}
DRIVEN_FIRST = [
    *((kind, "three steps, int32") for kind in ("rainbow", "r2d2", "q_learning", "ppo")),
    ("dqn", "one step, int64"),
]
"""One of each form of windows; the specifications are of one piece of code."""


@pytest.mark.parametrize(
    ("kind", "driven"), tiered(itertools.product(KINDS, DRIVEN), DRIVEN_FIRST, GROUP), indirect=["kind"], scope="module"
)
def test_trains_on_what_its_collect_policy_drove_into_a_tf_agents_buffer(
    kind: str, config: AgentConfig, driven: str
) -> None:
    n_step, action_dtype = DRIVEN[driven]
    observation = {"phase": array_spec.BoundedArraySpec((), np.int32, 0, 3)}
    if kind != "q_learning":
        observation["position"] = array_spec.BoundedArraySpec((2,), np.float32, -1.0, 1.0)
    environment = tf_py_environment.TFPyEnvironment(
        random_py_environment.RandomPyEnvironment(
            observation,
            array_spec.BoundedArraySpec((), action_dtype, 0, 2),
            episode_end_probability=0.2,
            seed=1,
            reward_fn=lambda *_: np.asarray(1.0, np.float32),
        )
    )
    config = changed(config, {"n_step": n_step, "rollout": n_step})
    specs = Specs.from_tf_agents(environment.time_step_spec(), environment.action_spec())
    agent = agents.build(kind, specs, config, epsilon=0.5)
    replay = tf_uniform_replay_buffer.TFUniformReplayBuffer(agent.collect_data_spec, environment.batch_size, 50)
    driver = dynamic_step_driver.DynamicStepDriver(environment, agent.collect_policy, [replay.add_batch], num_steps=30)
    common.function(driver.run)()
    dataset = replay.as_dataset(sample_batch_size=16, num_steps=config.window_length, single_deterministic_pass=False)
    before = agent.acting_model.get_weights()
    trajectory, _ = next(iter(dataset))
    assert np.isfinite(agent.train(trajectory).loss)
    assert agent.train_step_counter.numpy() == 1
    assert any((old != new).any() for old, new in zip(before, agent.acting_model.get_weights(), strict=True))


def act(policy: Any, step: Any) -> np.ndarray:
    """A TF-Agents policy's actions at the first step of episodes."""
    batch = step.step_type.shape[0]
    actions: np.ndarray = policy.action(step, policy.get_initial_state(batch)).action.numpy()
    return actions


def choices(specs: Specs, length: int, mask: list[bool] | None) -> Trajectory:
    """One state, three actions that end the episode, with rewards of 1, 3 and 2: frames that begin one and end it."""
    batch, pairs = 3, -(-length // 2)
    (leaf,) = specs.leaves().values()
    observation: Any = tf.ones((batch, length, *leaf.shape), leaf.dtype)
    if mask is not None:
        observation = (observation, tf.tile([[mask]], (batch, length, 1)))
    return Trajectory(
        step_type=tf.tile([[FIRST, LAST]], (batch, pairs))[:, :length],
        observation=observation,
        action=tf.tile(tf.constant([[0], [1], [2]], tf.int64), (1, length)),
        policy_info=(),
        next_step_type=tf.tile([[LAST, FIRST]], (batch, pairs))[:, :length],
        reward=tf.tile([[1.0], [3.0], [2.0]], (1, length)),
        discount=tf.tile([[0.0, 1.0]], (batch, pairs))[:, :length],
    )


TOLD = [kind for kind, builder in BUILDERS.items() if not builder.config().offline_only]
"""Who imitates is not told which action is best."""
ALLOWED: dict[str, tuple[list[bool] | None, int]] = {"all": (None, 1), "all but the best": ([True, False, True], 2)}
ALLOWED_FIRST = [(kind, "all but the best") for kind in TOLD]


@pytest.mark.parametrize(
    ("kind", "allowed"),
    tiered(itertools.product(TOLD, ALLOWED), ALLOWED_FIRST, GROUP),
    indirect=["kind"],
    scope="module",
)
def test_learns_the_best_of_the_allowed_actions(kind: str, plain: Specs, masked: Specs, allowed: str) -> None:
    mask, best = ALLOWED[allowed]
    specs = plain if mask is None else masked
    plainly = {"learning_rate_decay_steps": 0, "gradient_clip_norm": 10.0, "value_rescaling": False, "minibatches": 1}
    config = changed(config_of(kind), plainly | {"n_step": 1})
    agent = agents.build(kind, specs, config)
    train, experience = tf.function(agent.train, autograph=False), choices(specs, config.window_length, mask)
    for _ in range(400):
        train(experience)
    observation = tf.nest.map_structure(lambda leaf: leaf[:, 0], experience.observation)
    seen = observation if mask is None else observation[0]
    if not config.learns_policy:  # a policy's logits are no values
        np.testing.assert_allclose(scores(agent, seen)[0], [1.0, 3.0, 2.0], atol=0.2)
    assert act(agent.policy, time_step.restart(observation, 3)).tolist() == [best] * 3


@EVERY_KIND
def test_a_masked_policy_never_takes_a_forbidden_action(kind: str, config: AgentConfig, masked: Specs) -> None:
    agent = agents.build(kind, masked, config, epsilon=1.0)
    for seed in range(3):
        agent.train(random_experience(masked, config, seed))
    observation, mask = observations(masked, (500,), np.random.default_rng(3))
    q_values = scores(agent, observation).numpy()
    step = time_step.restart((observation, mask), 500)
    greedy = act(agent.policy, step)
    assert greedy.tolist() == np.where(mask, q_values, -np.inf).argmax(axis=1).tolist()
    assert (greedy != q_values.argmax(axis=1)).any()  # some masks did forbid the best action
    explored = act(agent.collect_policy, step)
    assert mask.numpy()[np.arange(500), explored].all()
    assert (explored != greedy).any()


GREEDY = [kind for kind, builder in BUILDERS.items() if not builder.config().learns_policy]
"""The others explore by their policies' draws."""


@pytest.mark.parametrize("kind", tiered(GREEDY, GREEDY, GROUP), indirect=True, scope="module")
def test_epsilon_is_that_of_the_collect_policy(kind: str, config: AgentConfig, plain: Specs) -> None:
    step = time_step.restart(observations(plain, (500,), np.random.default_rng(4)), 500)
    config = changed(config, {"noisy": False, "heads": 1})  # noise and heads explore beside it
    never = agents.build(kind, plain, config, epsilon=0.0)
    greedy = act(never.policy, step)
    assert (act(never.collect_policy, step) == greedy).all()
    always = agents.build(kind, plain, config, epsilon=1.0)
    # A third of uniform actions is greedy by chance: 167 of 500, with a standard deviation of 11.
    assert 100 < (act(always.collect_policy, step) == greedy).sum() < 234


@EVERY_KIND
def test_every_builder_can_be_called_as_build(kind: str, config: AgentConfig, plain: Specs, untrained: Any) -> None:
    direct = BUILDERS[kind](plain, config, seed=7).acting_model.get_weights()
    through = untrained.acting_model.get_weights()
    assert all(np.array_equal(one, other) for one, other in zip(direct, through, strict=True))


@EVERY_KIND
def test_every_config_names_its_kind_and_survives_plain_values(kind: str, config: AgentConfig) -> None:
    plain = msgspec.to_builtins(config)
    assert plain["kind"] == kind
    assert msgspec.convert(plain, AgentConfig) == config


@EVERY_KIND
def test_a_config_refuses_unknown_fields_wrong_values_and_changes(config: AgentConfig) -> None:
    plain = msgspec.to_builtins(config)
    steps = "rollout" if config.on_policy else "n_step" if isinstance(config, WindowConfig) else "adam_epsilon"
    with pytest.raises(msgspec.ValidationError, match="unknown field `n_steps`"):
        msgspec.convert(plain | {"n_steps": 3}, AgentConfig)
    for wrong in (
        {steps: 0},
        {"gradient_clip_norm" if steps == "adam_epsilon" else "discount": -1.0},
        {"learning_rate": 0.0},
        {steps: "3"},
    ):
        with pytest.raises(msgspec.ValidationError, match=next(iter(wrong))):
            msgspec.convert(plain | wrong, AgentConfig)
    with pytest.raises(AttributeError):
        setattr(config, steps, 2)


def test_an_unknown_kind_is_refused_with_the_kinds_there_are() -> None:
    with pytest.raises(ValueError, match=r"unknown agent kind 'dnq'; there are .*dqn"):
        agents.build("dnq", VECTOR, DqnConfig())


@EVERY_KIND
def test_the_configuration_of_something_else_is_refused(kind: str) -> None:
    wanted = BUILDERS[kind].config.__name__
    with pytest.raises(ValueError, match=f"agent kind '{kind}' takes {wanted}, not ExplorationConfig"):
        agents.build(kind, VECTOR, ExplorationConfig())  # type: ignore[arg-type]


def test_a_missing_attribute_is_named() -> None:
    with pytest.raises(AttributeError, match="module 'agents' has no attribute 'Dqn'"):
        _ = agents.Dqn


def test_importing_agents_and_making_configs_and_specs_does_not_import_tensorflow() -> None:
    script = """
import json, sys
import agents
from agents import ArraySpec, DqnConfig, ExplorationConfig, Specs, exploration
DqnConfig(n_step=3).window_length
exploration.epsilon(ExplorationConfig(), 10)
Specs({"a": ArraySpec((2,), "float32")}, 2).leaves()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    modules = set(json.loads(done.stdout))
    assert {"agents", "numpy"} <= modules
    assert not modules & {"tensorflow", "tf_agents", "keras", "tensorflow_probability", "reverb", "pipeline", "absl"}


def test_a_plain_dqn_agent_imports_nothing_that_its_config_does_not_use() -> None:
    script = """
import json, sys
import agents
from agents import ArraySpec, DqnConfig, Specs
agents.build("dqn", Specs(ArraySpec((4,), "float32"), 2), DqnConfig())
print(json.dumps(sorted(name for name in sys.modules if name.startswith("agents."))))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    light = {
        "builder",
        "config_fields",
        "configs",
        "configs.dqn",
        "configs.network",
        "configs.value",
        "exploration",
        "specs",
        "struct_types",
    }
    used = {"dqn", "initializers", "losses", "networks", "optimizers", "td_agent", "tf_specs", "value_network"}
    assert {name.removeprefix("agents.") for name in json.loads(done.stdout)} == light | used


def test_a_config_loads_the_configuration_of_its_own_kind_alone() -> None:
    code = (
        "import sys; from pipeline.experiment.config import parse; parse('', ['agent.kind=\"iqn\"']); "
        "print(sorted(name for name in sys.modules if name.startswith('agents.configs.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "['agents.configs.network', 'agents.configs.quantile', 'agents.configs.value']"


def test_the_names_of_configurations_are_offered_by_the_package() -> None:
    configs = [builder.config for builder in BUILDERS.values()]
    assert [getattr(agents, config.__name__) for config in configs] == configs
    missing = {config.__name__ for config in configs} - set(agents.__all__)
    assert not missing, f"name {missing} in agents/__init__.py: among the imports for type checkers and in __all__"
    assert [kind for kind, builder in BUILDERS.items() if builder.config.__struct_config__.tag != kind] == []
    assert not hasattr(agents, "NoSuchConfig")


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_is_pickled(kind: str) -> None:
    assert pickle.loads(pickle.dumps(config_of(kind))) == config_of(kind)
