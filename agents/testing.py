"""Checks of a kind of your own: what collectors, replay, learner and export expect of every kind of agent.

`check_kind(MyConfig)` makes them all, on random experience, in some ten seconds and without a run. In a test of yours,
`pytest.mark.parametrize("name", agents.testing.CHECKS)` with `check_kind(MyConfig, only=[name])` makes each a test.
Replicas need two devices, which TensorFlow can be given before it starts alone: make that check first in its process.
"""

import contextlib
import itertools
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import tensorflow as tf
from tf_agents.trajectories import StepType, Trajectory, time_step

from agents.builder import build, config_type
from agents.config_fields import KindConfig
from agents.random_observations import observations
from agents.specs import ArraySpec, Specs

ACTIONS = 3
OBSERVATIONS: Mapping[str, Any] = {
    "numbers": ArraySpec((4,), "float32"),
    "a picture": ArraySpec((12, 12, 2), "uint8", (255,)),
    "categories": ArraySpec((), "int32", (5,)),
    "parts": {"position": ArraySpec((2,), "float32"), "phase": ArraySpec((), "int32", (3,))},
}
_SMALL: Mapping[str, Any] = {
    "hidden_units": (16,),
    "lstm_units": 8,
    "burn_in": 2,
    "sequence": 4,
    "period": 2,
    "rollout": 4,
    "target_update_period": 3,
    "epochs": 2,
    "minibatches": 2,
}
"""Of the fields of our kinds, what makes a type's checks fast."""
_BATCH, _STEPS, _TOLERANCE = 8, 6, 1e-4
_COLLECTIVE_KEYS = itertools.count(10_000, 1_000)


class Failed(AssertionError):
    """What a kind does otherwise than the rest of a run expects, a line each."""


class Case:
    """A kind's configuration and what its checks share.

    Args:
      config: of the kind.
      seed: of initial weights and experience.
    """

    def __init__(self, config: KindConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.remarks: list[str] = []
        """What is no fault, but worth knowing."""
        everything = [Specs(observation, ACTIONS, masked=True) for observation in OBSERVATIONS.values()]
        suitable = [specs for specs in everything if not config.unsuitable_for(specs)]
        expect(
            bool(suitable), f"it can learn none of {', '.join(OBSERVATIONS)}: {config.unsuitable_for(everything[0])}"
        )
        self.specs = suitable[0]
        """Of a masked environment that it can learn."""

    def agent(self, specs: Specs | None = None, seed: int | None = None) -> Any:
        """A new agent."""
        seed = self.seed if seed is None else seed
        return build(self.config.kind, specs or self.specs, self.config, epsilon=0.5, seed=seed, open_fields=True)

    def batch(self, number: int = 0, specs: Specs | None = None) -> Trajectory:
        """Random windows [B, T, ...] with boundaries anywhere."""
        random, specs = np.random.default_rng([self.seed, number]), specs or self.specs
        shape = _BATCH, self.config.window_length
        step_type = tf.constant(random.integers(0, 3, shape), tf.int32)
        observation, keys = observations(specs, shape, random), random.random((*shape, specs.num_actions))
        states = tf.constant(random.normal(size=(*shape, self.config.state_units)), tf.float32)
        return Trajectory(
            step_type=step_type,
            observation=observation,
            action=tf.constant((keys * observation[1].numpy() if specs.masked else keys).argmax(axis=-1)),
            policy_info=states if self.config.state_units else (),
            next_step_type=tf.roll(step_type, -1, axis=1),
            reward=tf.constant(random.normal(size=shape), tf.float32),
            discount=tf.constant(random.random(shape) < 0.8, tf.float32),
        )


def expect(holds: Any, words: str) -> None:
    """Raises `Failed` with these words unless something holds."""
    if not holds:
        raise Failed(words)


def scores_of(agent: Any, config: KindConfig, observation: Any) -> tf.Tensor:
    """The acting model's output float32 [B, A] for observations without masks; without noise, from states of zeros."""
    batch = tf.nest.flatten(observation)[0].shape[0]
    if further := agent.noise_units + config.state_units:
        both = agent.acting_model([observation, tf.zeros((batch, further))])
        return both[:, : both.shape[1] - config.state_units]
    return agent.acting_model(observation)


def _configuration(case: Case) -> None:
    config, kind = case.config, type(case.config)
    expect(config_type(config.kind) is kind, f"agent.kind={config.kind!r} leads to another class")
    expect(kind.__struct_config__.frozen, "its configuration is not frozen: add frozen=True")
    plain = msgspec.to_builtins(config)
    expect(msgspec.convert(plain, kind) == config, "its configuration is another one after a way through a config file")
    if kind.__module__ != "__main__":
        expect(pickle.loads(pickle.dumps(config)) == config, "its configuration is another one after pickling")
    bare = [field.name for field in msgspec.structs.fields(kind) if not _description(field)]
    expect(not bare, f"fields without Meta(description=...): {', '.join(bare)}")
    unknown = set(kind.shapes_network) - set(kind.__struct_fields__)
    expect(not unknown, f"shapes_network names fields that there are not: {', '.join(sorted(unknown))}")
    learned = range(config.window_length)[config.learned_frames]
    expect(len(learned), f"of its windows of {config.window_length} frames none is learned from")


def _description(field: msgspec.structs.FieldInfo) -> str:
    found: Any = msgspec.inspect.type_info(field.type)
    has_any = isinstance(found, msgspec.inspect.Metadata)
    return str((found.extra_json_schema or {}).get("description", "")) if has_any else ""


def _every_observation(case: Case) -> None:
    for name, observation in OBSERVATIONS.items():
        specs = Specs(observation, ACTIONS)
        if reason := case.config.unsuitable_for(specs):
            case.remarks.append(f"it learns no {name}: {reason}")
            continue
        agent = case.agent(specs)
        loss = agent.train(case.batch(specs=specs)).loss
        expect(np.isfinite(loss), f"the loss of observations that are {name} is {float(loss)}")
        scores = scores_of(agent, case.config, observations(specs, (5,), np.random.default_rng(1)))
        expect(scores.dtype == tf.float32, f"scores are {scores.dtype.name}, not float32")
        expect(scores.shape == (5, ACTIONS), f"scores of 5 observations and {ACTIONS} actions are {scores.shape}")
        expect(np.isfinite(scores).all(), f"scores of {name} are not finite after a gradient step")


def _seeds(case: Case) -> None:
    one, same = (case.agent() for _ in range(2))
    _expect_alike(one, same, "two new agents of one seed differ")
    expect(int(one.train_step_counter) == 0, "train_step_counter of a new agent is not 0")
    before = one.acting_model.get_weights()
    for number in range(3):
        one.train(case.batch(number))
        same.train(case.batch(number))
    _expect_alike(one, same, "two agents of one seed learn otherwise: draw by the seed and the step's number")
    expect(int(one.train_step_counter) == 3, "train_step_counter does not count gradient steps")
    moved = any((old != new).any() for old, new in zip(before, one.acting_model.get_weights(), strict=True))
    expect(moved, "three gradient steps on random experience changed no weight of acting_model")


def _masks(case: Case) -> None:
    agent, random, count = case.agent(), np.random.default_rng(3), 200
    agent.train(case.batch())
    observation, mask = observations(case.specs, (count,), random)
    step, allowed, rows = time_step.restart((observation, mask), count), mask.numpy(), np.arange(count)
    scores = scores_of(agent, case.config, observation).numpy()
    for name in ("policy", "collect_policy"):
        policy = getattr(agent, name)
        actions = policy.action(step, policy.get_initial_state(count)).action.numpy()
        expect(allowed[rows, actions].all(), f"{name} takes actions that are masked")
        if name == "policy":
            best = np.where(allowed, scores, -np.inf).max(axis=1)
            expect(
                (scores[rows, actions] >= best - 1e-6).all(), "policy does not take the allowed action of largest score"
            )


def _loops(case: Case) -> None:
    batches = [case.batch(number) for number in range(_STEPS)]
    eager = case.agent()
    for batch in batches:
        eager.train(batch)
    for name, compiled in (("tf.function", False), ("XLA", True)):
        agent = case.agent()
        train = tf.function(agent.train, autograph=False, jit_compile=compiled)
        try:
            for batch in batches:
                train(batch)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            expect(compiled, f"train fails in tf.function: {error}")
            case.remarks.append("XLA does not compile it: the learner runs its plain loop")
            continue
        _expect_alike(eager, agent, f"gradient steps by {name} end elsewhere than eager ones", _TOLERANCE)


def _bad_batches(case: Case) -> None:
    agent, batch = case.agent(), case.batch(1)
    agent.train(case.batch())
    before = _values(agent)
    nan = tf.fill(batch.reward.shape, np.nan)
    observation, mask = batch.observation
    seen = tf.nest.map_structure(
        lambda leaf: tf.fill(leaf.shape, np.nan) if leaf.dtype == tf.float32 else leaf, observation
    )
    step_type = tf.ones_like(batch.step_type)  # no boundary hides them
    bad = batch._replace(reward=nan, observation=(seen, mask), step_type=step_type, next_step_type=step_type)
    extra = agent.train(bad).extra
    expect(not bool(extra.applied), "LossInfo.extra.applied is true of a batch of NaN")
    changed = [
        variable.name
        for variable, value in zip(agent.variables, before, strict=True)
        if variable is not agent.train_step_counter and not np.array_equal(variable.numpy(), value)
    ]
    expect(not changed, f"a batch of NaN changes {', '.join(changed[:3])}: apply gradients by agents.optimizers")


def _boundaries(case: Case) -> None:
    batch = case.batch()
    ends = tf.fill(batch.step_type.shape, StepType.LAST)
    agent = case.agent()
    weights = _trained(agent)
    before = [weight.numpy() for weight in weights]
    agent.train(batch._replace(step_type=ends, next_step_type=ends))
    changed = [weight.name for weight, value in zip(weights, before, strict=True) if (weight.numpy() != value).any()]
    expect(not changed, f"frames at the ends of episodes, whose actions nobody took, change {', '.join(changed[:3])}")


def _importance_weights(case: Case) -> None:
    if case.config.on_policy:
        return
    plain, ones, zeros = (case.agent() for _ in range(3))
    batch = case.batch()
    plain.train(batch)
    ones.train(batch, weights=tf.ones(_BATCH))
    _expect_alike(plain, ones, "importance weights of 1 change what is learned", _TOLERANCE)
    before = [weight.numpy() for weight in _trained(zeros)]
    zeros.train(batch, weights=tf.zeros(_BATCH))
    kept = all(np.array_equal(weight.numpy(), value) for weight, value in zip(_trained(zeros), before, strict=True))
    expect(kept, "windows with an importance weight of 0 are learned from: weigh each window's loss")


def _priorities(case: Case) -> None:
    if case.config.on_policy or not case.config.priority_unit:
        return
    priority = case.agent().train(case.batch()).extra.priority.numpy()
    expect(priority.shape == (_BATCH,), f"LossInfo.extra.priority of {_BATCH} windows has the shape {priority.shape}")
    expect(np.isfinite(priority).all() and (priority >= 0.0).all(), "priorities are not finite, or negative")


def _checkpoints(case: Case) -> None:
    first, second = case.agent(), case.agent()
    for number in range(2):
        first.train(case.batch(number))
    expect(len(first.variables) == len(second.variables), "training makes new variables: make them with the agent")
    for target, source in zip(second.variables, first.variables, strict=True):
        target.assign(source)
    for number in range(2, 4):
        first.train(case.batch(number))
        second.train(case.batch(number))
    _expect_alike(first, second, "an agent with the variables of another goes on otherwise: name all in `variables`")


def _export(case: Case) -> None:
    agent, config, specs = case.agent(), case.config, case.specs
    leaves, further = specs.leaves(), agent.noise_units + config.state_units
    inputs = {
        f"leaf_{index}": tf.TensorSpec((1, *spec.shape), spec.dtype) for index, spec in enumerate(leaves.values())
    }
    if further:
        inputs["further"] = tf.TensorSpec((1, further), tf.float32)

    def scores(**given: tf.Tensor) -> dict[str, tf.Tensor]:
        seen = specs.pack({name: given[f"leaf_{index}"] for index, name in enumerate(leaves)})
        return {"scores": agent.acting_model([seen, given["further"]] if further else seen)}

    function = tf.function(scores).get_concrete_function(**inputs)
    try:
        converted = tf.lite.TFLiteConverter.from_concrete_functions([function], agent.acting_model).convert()
        program = tf.lite.Interpreter(model_content=converted).get_signature_runner()
        observation, _ = observations(specs, (1,), np.random.default_rng(5))
        flat = [*tf.nest.flatten(observation), *([tf.zeros((1, further))] if further else [])]
        values = dict(zip(inputs, flat, strict=True))
        given = program(**values)["scores"]
    except Exception as error:  # ConverterError, which is of no public module, or the interpreter's
        case.remarks.append(f"TFLite does not run its network, so it acts through TensorFlow: {str(error)[:80]}")
        return
    wanted = function(**values)["scores"].numpy()
    expect(np.allclose(given, wanted, atol=_TOLERANCE), "TFLite's scores are others than TensorFlow's")


def _replicas(case: Case) -> None:
    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    if len(devices) < 2:
        case.remarks.append("replicas were not tried: TensorFlow had started before with one device")
        return
    # Strategies of one process give their collectives the same keys, and TensorFlow takes one for the other.
    tf.distribute.MirroredStrategy._collective_key_base = next(_COLLECTIVE_KEYS)
    strategy = tf.distribute.MirroredStrategy(devices[:2])
    one = case.agent()
    with strategy.scope():
        both = case.agent()

    def share(batch: Trajectory) -> Any:
        half = _BATCH // 2
        start = tf.distribute.get_replica_context().replica_id_in_sync_group * half
        return both.train(tf.nest.map_structure(lambda leaf: leaf[start : start + half], batch)).loss

    train = tf.function(lambda batch: strategy.run(share, args=(batch,)), autograph=False)
    for number in range(_STEPS):
        batch = case.batch(number)
        one.train(batch)
        train(batch)
    _expect_alike(one, both, "two replicas with half a batch each end elsewhere than one with the whole", _TOLERANCE)


CHECKS: Mapping[str, Callable[[Case], None]] = {
    "configuration": _configuration,
    "every observation": _every_observation,
    "seeds": _seeds,
    "masks": _masks,
    "loops": _loops,
    "bad batches": _bad_batches,
    "boundaries": _boundaries,
    "importance weights": _importance_weights,
    "priorities": _priorities,
    "checkpoints": _checkpoints,
    "export": _export,
    "replicas": _replicas,
}
"""What is checked, by name."""


def check_kind(config: type[KindConfig] | KindConfig, *, only: Iterable[str] = CHECKS, seed: int = 0) -> list[str]:
    """Checks that a kind of agent does what the rest of a run expects of every kind.

    Args:
      config: the kind's configuration: its type, of which the defaults are taken with a small network, or an object,
        which is taken as it is.
      only: names of `CHECKS`.
      seed: of initial weights and experience.

    Returns:
      Remarks: what is no fault, but worth knowing, such as that the kind is acted with through TensorFlow.

    Raises:
      Failed: what the kind does otherwise, a line for each check. An AssertionError.
      ValueError: there is no such check, or the configuration is none.
    """
    if not isinstance(config, KindConfig) and not (isinstance(config, type) and issubclass(config, KindConfig)):
        raise ValueError(f"check_kind takes a subclass of agents.KindConfig, or an object of one, not {config!r}")
    names = [only] if isinstance(only, str) else list(only)
    if unknown := [name for name in names if name not in CHECKS]:
        raise ValueError(f"no check {unknown[0]!r}; there are {', '.join(CHECKS)}")
    if "replicas" in names:
        with contextlib.suppress(RuntimeError):  # it has started, with the devices that it has
            (cpu,) = tf.config.list_physical_devices("CPU")
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    case = Case(_small(config) if isinstance(config, type) else config, seed)
    failures = []
    for name in names:
        try:
            CHECKS[name](case)
        except Failed as failure:
            failures.append(f"{name}: {failure}")
        except Exception as error:  # of the kind's code
            failures.append(f"{name}: it raised {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    if failures:
        raise Failed(f"{case.config.kind}:\n" + "\n".join(failures))
    return case.remarks


def _small(kind: type[KindConfig]) -> KindConfig:
    return kind(**{name: value for name, value in _SMALL.items() if name in kind.__struct_fields__})


def _values(agent: Any) -> list[Any]:
    return [variable.numpy() for variable in agent.variables]


def _trained(agent: Any) -> Sequence[tf.Variable]:
    weights: Sequence[tf.Variable] = agent.acting_model.trainable_weights
    return weights


def _expect_alike(one: Any, other: Any, words: str, tolerance: float = 0.0) -> None:
    for variable, value, wanted in zip(one.variables, _values(one), _values(other), strict=True):
        if not np.allclose(value, wanted, rtol=0.0, atol=tolerance):
            far = float(np.max(np.abs(value.astype(np.float64) - wanted)))
            raise Failed(f"{words} ({variable.name} by {far:.2g})")
