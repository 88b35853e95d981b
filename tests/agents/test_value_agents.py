"""The losses of every value-based agent against a slow reference; noisy networks; the table.

The reference takes the networks' raw outputs as numbers and goes through the examples one by one, in float64.
"""

import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import kinds
import numpy as np
import pytest
import tensorflow as tf
from tf_agents.trajectories import Trajectory

import agents
from agents import BUILDERS, ArraySpec, Specs, noisy

FIRST, MID, LAST = 0, 1, 2
VECTOR = Specs(ArraySpec((3,), "float32"), 4)
CATEGORIES = Specs(ArraySpec((2,), "int32", (1, 2)), 4)

DEEP = {"hidden_units": (8,), "discount": 0.9, "double": False, "target_update_period": 1_000_000}
ATOMS = {"num_atoms": 7, "v_min": -1.0, "v_max": 2.0}  # rewards lead beyond both ends
BINS = {"hl_gauss": True, "num_bins": 7, "v_min": -1.0, "v_max": 2.0}
IQL = {"hidden_units": (8,), "discount": 0.9, "target_update_period": 1_000_000, "inverse_temperature": 6.0}
# Low enough for both sides of the floor, and warm enough for policies that are not certain.
MUNCHAUSEN = {"munchausen": True, "munchausen_temperature": 0.3, "munchausen_floor": -0.8}
QUANTILES = {"num_quantiles": 5, "kappa": 0.7}
IMPLICIT = {"quantile_samples": 5, "target_quantile_samples": 6, "acting_quantiles": 7, "embedding_cosines": 8}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dqn": ("dqn", DEEP),
    "munchausen": ("dqn", DEEP | MUNCHAUSEN),
    "conservative dqn": ("dqn", DEEP | {"cql_alpha": 3.0}),
    "conservative munchausen": ("dqn", DEEP | MUNCHAUSEN | {"cql_alpha": 3.0}),
    "noisy dqn": ("dqn", DEEP | {"noisy": True}),
    "hl_gauss": ("dqn", DEEP | BINS),
    "noisy hl_gauss": ("dqn", DEEP | BINS | {"noisy": True, "dueling": True}),
    "munchausen hl_gauss": ("dqn", DEEP | BINS | MUNCHAUSEN | {"cql_alpha": 3.0}),
    "c51": ("c51", DEEP | ATOMS),
    "rainbow": ("rainbow", DEEP | ATOMS),
    "munchausen c51": ("c51", DEEP | ATOMS | MUNCHAUSEN),
    "qr_dqn": ("qr_dqn", DEEP | QUANTILES),
    "munchausen qr_dqn": ("qr_dqn", DEEP | QUANTILES | MUNCHAUSEN),
    "conservative qr_dqn": ("qr_dqn", DEEP | QUANTILES | {"cql_alpha": 3.0}),
    "noisy qr_dqn": ("qr_dqn", DEEP | QUANTILES | {"noisy": True, "dueling": True}),
    "iqn": ("iqn", DEEP | IMPLICIT),
    "munchausen iqn": ("iqn", DEEP | IMPLICIT | MUNCHAUSEN | {"layers_per_fraction": 0}),
    "noisy iqn": ("iqn", DEEP | IMPLICIT | {"noisy": True, "dueling": True, "cql_alpha": 3.0}),
    "iql": ("iql", IQL),
    "greedy iql": ("iql", IQL | {"extraction": "greedy", "expectile": 0.3}),
    "q_learning": ("q_learning", {"discount": 0.9, "learning_rate": 0.25}),
}
NOISY = ("noisy dqn", "noisy hl_gauss", "rainbow", "noisy qr_dqn", "noisy iqn")


class Setup(NamedTuple):
    agent: Any
    config: Any
    specs: Specs


def set_up(name: str, *, masked: bool = True, seed: int = 0, **more: Any) -> Setup:
    """An agent of a case with random weights, other ones in the target network."""
    kind, config = CASES[name]
    config = BUILDERS[kind].config(**(config | more))
    specs = (CATEGORIES if kind == "q_learning" else VECTOR)._replace(masked=masked)
    agent = agents.build(kind, specs, config, seed=seed)
    random = np.random.default_rng(seed)
    for network in (agent._q_network, agent._target_q_network):
        for weight in network.model.weights:
            weight.assign(random.normal(scale=0.6, size=weight.shape))
    return Setup(agent, config, specs)


def random_observations(specs: Specs, shape: tuple[int, ...], random: np.random.Generator) -> Any:
    """Tensors [*shape, ...] of float32 numbers or int32 categories."""

    def draw(spec: ArraySpec) -> tf.Tensor:
        if spec.dtype == "float32":
            return tf.constant(random.normal(size=(*shape, *spec.shape)), tf.float32)
        largest = np.reshape(spec.maximum, spec.shape)
        return tf.constant(random.integers(0, largest + 1, (*shape, *spec.shape)), tf.int32)

    return specs.pack({name: draw(spec) for name, spec in specs.leaves().items()})


def windows(specs: Specs, n_step: int, seed: int = 0, repeats: int = 5) -> Trajectory:
    """Windows that meet an episode's end at every frame or at none, by termination and by truncation."""
    random = np.random.default_rng(seed)
    ends = [(end, terminated) for end in (None, *range(n_step + 1)) for terminated in (False, True)] * repeats
    shape = (len(ends), n_step + 1)
    step_type = np.full(shape, MID, np.int32)
    reward = random.normal(size=shape).astype(np.float32)
    discount = np.ones(shape, np.float32)
    for row, (end, terminated) in enumerate(ends):
        if end is None:
            continue
        step_type[row, end] = LAST
        step_type[row, end + 1 : end + 2] = FIRST
        # What belongs to no episode, or to the next one, would show.
        reward[row, end:] = 1e3
        discount[row, end:] = random.integers(0, 2, n_step + 1 - end)
        if terminated and end > 0:
            discount[row, end - 1] = 0.0
    action = random.integers(0, specs.num_actions, shape)
    observation = random_observations(specs, shape, random)
    if specs.masked:
        mask = random.random((*shape, specs.num_actions)) < 0.5
        np.put_along_axis(mask, action[..., np.newaxis], True, axis=-1)
        observation = (observation, tf.constant(mask))
    return Trajectory(
        step_type=tf.constant(step_type),
        observation=observation,
        action=tf.constant(action),
        policy_info=(),
        next_step_type=tf.roll(tf.constant(step_type), -1, axis=1),
        reward=tf.constant(reward),
        discount=tf.constant(discount),
    )


class Example(NamedTuple):
    """One transition: what was done, what followed, and what both networks say of its two states, [A] or [A, M]."""

    action: int
    reward: float
    discount: float
    allowed_tm1: list[int]
    allowed_t: list[int]
    online_tm1: np.ndarray
    online_t: np.ndarray
    target_tm1: np.ndarray
    target_t: np.ndarray
    selector_t: np.ndarray
    """Of IQN at the fractions that act, of the network that chooses the bootstrap action."""
    selector_tm1: np.ndarray


class Expected(NamedTuple):
    loss: float
    td_error: float
    priority: float


def raw_outputs(agent: Any, network: Any, observation: Any, fractions: int) -> np.ndarray:
    """A network's float64 outputs of every frame of [B, T, ...], without noise, at so many midpoints for IQN."""
    batch, frames = tf.nest.flatten(observation)[0].shape[:2]
    flat = tf.nest.map_structure(lambda leaf: tf.reshape(leaf, (batch * frames, *leaf.shape[2:])), observation)
    more = []
    if fractions:
        midpoints = (np.arange(fractions) + 0.5) / fractions
        more.append(tf.constant(np.tile(midpoints, (batch * frames, 1)), tf.float32))
    if agent.noise_units:
        more.append(tf.zeros((batch * frames, agent.noise_units)))
    outputs = network.raw(flat, *more).numpy().astype(np.float64)
    return outputs.reshape(batch, frames, *outputs.shape[1:])


def examples_of(setup: Setup, experience: Trajectory) -> list[Example | None]:
    """The transitions of a batch of windows; None where a window begins at an episode's end."""
    agent, config, specs = setup
    observation, mask = experience.observation if specs.masked else (experience.observation, None)
    implicit = config.kind == "iqn"
    learned, bootstrapped = (config.quantile_samples, config.target_quantile_samples) if implicit else (0, 0)
    online_tm1 = raw_outputs(agent, agent._q_network, observation, learned)
    online_t = raw_outputs(agent, agent._q_network, observation, bootstrapped)
    target = raw_outputs(agent, agent._target_q_network, observation, bootstrapped)
    selector = online_t if getattr(config, "double", False) else target
    if implicit:
        chooses = agent._q_network if config.double else agent._target_q_network
        selector = raw_outputs(agent, chooses, observation, config.acting_quantiles)

    masks = None if mask is None else mask.numpy()

    def allowed(row: int, frame: int) -> list[int]:
        return [action for action in range(specs.num_actions) if masks is None or masks[row, frame, action]]

    columns = experience.step_type, experience.action, experience.reward, experience.discount
    step_type, actions, rewards, discounts = (column.numpy() for column in columns)
    examples: list[Example | None] = []
    for row in range(len(rewards)):
        if step_type[row, 0] == LAST:
            examples.append(None)
            continue
        total, product, frame = 0.0, 1.0, 0
        while frame < config.n_step and step_type[row, frame] != LAST:
            total += product * float(rewards[row, frame])
            product *= config.discount * float(discounts[row, frame])
            frame += 1
        examples.append(
            Example(
                action=int(actions[row, 0]),
                reward=total,
                discount=product,
                allowed_tm1=allowed(row, 0),
                allowed_t=allowed(row, frame),
                online_tm1=online_tm1[row, 0],
                online_t=online_t[row, frame],
                target_tm1=target[row, 0],
                target_t=target[row, frame],
                selector_t=selector[row, frame],
                selector_tm1=selector[row, 0],
            )
        )
    return examples


def log_sum_exp(values: Any) -> float:
    return math.log(math.fsum(math.exp(value) for value in values))


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits - log_sum_exp(logits))


def best_of(values: Any, allowed: list[int]) -> int:
    return max(allowed, key=lambda action: values[action])


def conservative(q: Any, allowed: list[int], action: int) -> float:
    return log_sum_exp(q[a] for a in allowed) - q[action]


def log_policy(q: Any, allowed: list[int], temperature: float) -> dict[int, float]:
    total = log_sum_exp(q[a] / temperature for a in allowed)
    return {a: q[a] / temperature - total for a in allowed}


def middles(edges: np.ndarray) -> np.ndarray:
    return 0.5 * (edges[1:] + edges[:-1])


def munchausen_bonus(config: Any, example: Example, q: Any) -> float:
    temperature = config.munchausen_temperature
    taken = temperature * log_policy(q, example.allowed_tm1, temperature)[example.action]
    return float(config.munchausen_scale * max(taken, config.munchausen_floor))


def expected_of_dqn(config: Any, example: Example, batch: int) -> Expected:
    outputs_tm1 = example.online_tm1
    if config.hl_gauss:
        edges = np.linspace(config.v_min, config.v_max, config.num_bins + 1)
        parts = example._asdict().items()
        is_output = ("online_tm1", "online_t", "target_tm1", "target_t")
        example = Example(**{n: [softmax(x) @ middles(edges) for x in v] if n in is_output else v for n, v in parts})
    reward, temperature = example.reward, config.munchausen_temperature
    if config.munchausen:
        reward += munchausen_bonus(config, example, example.target_tm1)
        following = log_policy(example.target_t, example.allowed_t, temperature)
        value = sum(math.exp(log) * (example.target_t[a] - temperature * log) for a, log in following.items())
    else:
        selector = example.online_t if config.double else example.target_t
        value = example.target_t[best_of(selector, example.allowed_t)]
    td_error = reward + example.discount * value - example.online_tm1[example.action]
    loss = 0.5 * td_error**2 if abs(td_error) <= 1.0 else abs(td_error) - 0.5
    if config.hl_gauss:
        target = min(max(td_error + example.online_tm1[example.action], config.v_min), config.v_max)
        below = [statistics.NormalDist(target, 0.75 * (edges[1] - edges[0])).cdf(edge) for edge in edges]
        shares = np.diff(below) / (below[-1] - below[0])
        loss = -sum(p * math.log(q) for p, q in zip(shares, softmax(outputs_tm1[example.action]), strict=True))
    loss += config.cql_alpha * conservative(example.online_tm1, example.allowed_tm1, example.action)
    return Expected(loss, td_error, abs(td_error))


def expected_of_c51(config: Any, example: Example, batch: int) -> Expected:
    support = np.linspace(config.v_min, config.v_max, config.num_atoms)
    step = (config.v_max - config.v_min) / (config.num_atoms - 1)
    reward, mixture, temperature = example.reward, [], config.munchausen_temperature
    if config.munchausen:
        reward += munchausen_bonus(config, example, [softmax(logits) @ support for logits in example.target_tm1])
        q_t = [softmax(logits) @ support for logits in example.target_t]
        for action, log in log_policy(q_t, example.allowed_t, temperature).items():
            shares = math.exp(log) * softmax(example.target_t[action])
            mixture += zip(support - temperature * log, shares, strict=True)
    else:
        selector = example.online_t if config.double else example.target_t
        best = best_of([softmax(logits) @ support for logits in selector], example.allowed_t)
        mixture += zip(support, softmax(example.target_t[best]), strict=True)
    target = np.zeros(config.num_atoms)
    for atom, probability in mixture:
        moved = min(max(reward + example.discount * atom, config.v_min), config.v_max)
        position = (moved - config.v_min) / step
        lower = min(int(position), config.num_atoms - 2)
        target[lower] += probability * (lower + 1 - position)
        target[lower + 1] += probability * (position - lower)
    predicted = softmax(example.online_tm1[example.action])
    cross_entropy = -sum(p * math.log(q) for p, q in zip(target, predicted, strict=True))
    divergence = sum(p * math.log(p / q) for p, q in zip(target, predicted, strict=True) if p > 0.0)
    return Expected(cross_entropy, target @ support - predicted @ support, divergence)


def expected_of_quantiles(config: Any, example: Example, batch: int) -> Expected:
    reward, q_t, temperature = example.reward, example.selector_t.mean(axis=1), config.munchausen_temperature
    if config.munchausen:
        reward += munchausen_bonus(config, example, example.selector_tm1.mean(axis=1))
        following = log_policy(q_t, example.allowed_t, temperature)
        next_quantiles = sum(math.exp(log) * (example.target_t[a] - temperature * log) for a, log in following.items())
    else:
        next_quantiles = example.target_t[best_of(q_t, example.allowed_t)]
    targets = [reward + example.discount * quantile for quantile in next_quantiles]
    quantiles = example.online_tm1[example.action]
    loss = 0.0
    for position, quantile in enumerate(quantiles):
        fraction = (position + 0.5) / len(quantiles)
        for target in targets:
            error = target - quantile
            size = abs(error)
            huber = 0.5 * size**2 if size <= config.kappa else config.kappa * (size - 0.5 * config.kappa)
            loss += abs(fraction - (error < 0)) * huber / config.kappa / len(targets)
    td_error = np.mean(targets) - np.mean(quantiles)
    penalty = conservative(example.online_tm1.mean(axis=1), example.allowed_tm1, example.action)
    return Expected(loss + config.cql_alpha * penalty, td_error, abs(td_error))


def expected_of_table(config: Any, example: Example, batch: int) -> Expected:
    value = max(example.online_t[action] for action in example.allowed_t)  # of the table itself: there is no target
    td_error = example.reward + example.discount * value - example.online_tm1[example.action]
    return Expected(0.5 * td_error**2, td_error, abs(td_error))


def expected_of_iql(config: Any, example: Example, batch: int) -> Expected:
    actions, raw = VECTOR.num_actions, example.online_tm1
    td_error = example.reward + example.discount * example.online_t[actions] - raw[example.action]
    advantage = example.target_tm1[example.action] - raw[actions]
    loss = td_error**2 + (config.expectile if advantage > 0.0 else 1.0 - config.expectile) * advantage**2
    if config.extraction == "weighted":
        likelihood = log_policy(raw[actions + 1 :], example.allowed_tm1, 1.0)[example.action]
        loss -= min(math.exp(config.inverse_temperature * advantage), 100.0) * likelihood
    return Expected(loss, td_error, abs(td_error))


EXPECTED: dict[str, Callable[[Any, Example, int], Expected]] = {
    "dqn": expected_of_dqn,
    "c51": expected_of_c51,
    "rainbow": expected_of_c51,
    "qr_dqn": expected_of_quantiles,
    "iqn": expected_of_quantiles,
    "iql": expected_of_iql,
    "q_learning": expected_of_table,
}

SINGLE = (*(name for name in CASES if "munchausen" in name), "iql", "greedy iql", "q_learning")
UNMASKED_FIRST = ("dqn", "c51", "qr_dqn", "q_learning")
"""Kinds without masks in the first tier: where there are none is decided once for all that inherit from them."""
VARIANTS = [
    pytest.param(
        name,
        more,
        masked,
        id=f"{name}, {label}",
        marks=[] if masked or name in UNMASKED_FIRST else pytest.mark.slow,
    )
    for name in CASES
    for label, more, masked in (
        ("one step, masked", {"n_step": 1}, True),
        ("three steps", {"n_step": 3}, False),
        ("three steps, masked", {"n_step": 3}, True)
        if name in SINGLE
        else ("three steps, double, masked", {"n_step": 3, "double": True}, True),
    )
]


@pytest.mark.parametrize(("name", "more", "masked"), VARIANTS)
def test_losses_errors_and_priorities_are_those_of_the_reference(name: str, more: dict[str, Any], masked: bool) -> None:
    setup = set_up(name, masked=masked, **more)
    experience = windows(setup.specs, setup.config.n_step)
    examples = examples_of(setup, experience)
    batch, expected_of = len(examples), EXPECTED[setup.config.kind]
    assert examples.count(None) == 10
    nothing = Expected(0.0, 0.0, 0.0)
    rows = [nothing if example is None else expected_of(setup.config, example, batch) for example in examples]
    loss, td_error, priority = np.array(rows).T

    weights = tf.constant(np.random.default_rng(1).random(batch), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        weighted, extra = setup.agent.loss(experience, weights=weights)
    # The loss is linear in the importance weights: their gradient is the loss of each example.
    np.testing.assert_allclose(batch * tape.gradient(weighted, weights), loss, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(extra.td_error, td_error, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(extra.priority, priority, rtol=1e-4, atol=2e-5)
    assert weighted.numpy() == pytest.approx(np.mean(weights * loss), rel=1e-4)
    assert setup.agent.loss(experience).loss.numpy() == pytest.approx(loss.mean(), rel=1e-4)


def norm_of(parts: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(np.square(part)) for part in parts)))


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("q_learning", "iql", "greedy iql")])
def test_the_gradient_is_the_slope_of_the_loss(name: str) -> None:
    # The target is made of the target network alone, without Double: nothing of it is left out of the gradient.
    agent, config, specs = set_up(name)
    experience = windows(specs, config.n_step)
    weights = agent._q_network.trainable_weights
    with tf.GradientTape() as tape:
        loss = agent.loss(experience).loss
    gradient = [part.numpy() for part in tape.gradient(loss, weights, unconnected_gradients="zero")]
    start = [weight.numpy() for weight in weights]
    random = np.random.default_rng(1)

    def loss_at(distance: float, direction: list[np.ndarray]) -> float:
        for weight, old, part in zip(weights, start, direction, strict=True):
            weight.assign(old + distance * part)
        return float(agent.loss(experience).loss)

    norm = norm_of(gradient)
    # A part that were missing might be orthogonal to the rest: other directions show it.
    for direction in (gradient, *([random.normal(size=part.shape) for part in gradient] for _ in range(2))):
        unit = [part / norm_of(direction) for part in direction]
        slope = (loss_at(2e-3, unit) - loss_at(-2e-3, unit)) / 4e-3
        expected = sum(np.sum(one * other) for one, other in zip(gradient, unit, strict=True))
        assert slope == pytest.approx(expected, abs=0.01 * norm)


def without_choice_where_episodes_terminated(experience: Trajectory) -> Trajectory:
    """The same, but that nothing is allowed where no action is ever taken and nothing is bootstrapped."""
    (observation, mask), last = experience.observation, experience.step_type == LAST
    terminated = tf.concat([last[:, :1], last[:, 1:] & (experience.discount[:, :-1] == 0.0)], axis=1)
    return experience._replace(observation=(observation, mask & ~terminated[:, :, tf.newaxis]))


@pytest.mark.parametrize("name", CASES)
def test_a_gradient_step_on_boundaries_everywhere_moves_every_weight_to_a_finite_one(name: str) -> None:
    agent, config, specs = set_up(name, n_step=3)
    weights = agent._q_network.trainable_weights
    before = [weight.numpy() for weight in weights]
    experience = windows(specs, config.n_step)
    hopeless = without_choice_where_episodes_terminated(experience)
    assert not hopeless.observation[1].numpy().any(axis=2).all()
    expected, actual = agent.loss(experience), agent.loss(hopeless)
    np.testing.assert_allclose(actual.extra.td_error, expected.extra.td_error, rtol=1e-5, atol=1e-5)
    assert actual.loss.numpy() == pytest.approx(float(expected.loss), rel=1e-5)
    assert agent.train(hopeless).extra.gradient_norm.numpy() > 0.0
    for weight, old in zip(weights, before, strict=True):
        assert np.isfinite(weight).all()
        assert (weight.numpy() != old).any()


@pytest.mark.parametrize("name", ["dqn", "munchausen", "conservative dqn", "c51", "conservative qr_dqn", "q_learning"])
def test_training_takes_the_loss_that_is_asked_for_where_nothing_is_drawn(name: str) -> None:
    agent, config, specs = set_up(name)
    experience = windows(specs, config.n_step)
    asked, learned = agent.loss(experience), agent.train(experience)
    assert learned.loss.numpy() == pytest.approx(float(asked.loss), rel=1e-6)
    np.testing.assert_allclose(learned.extra.priority, asked.extra.priority, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [*NOISY, "iqn"])
def test_a_gradient_step_draws_anew_and_is_repeatable(name: str) -> None:
    agent, config, specs = set_up(name)
    experience = windows(specs, config.n_step)

    def errors(step: int, training: bool = True) -> np.ndarray:
        agent.train_step_counter.assign(step)
        return agent.loss(experience, training=training).extra.td_error.numpy()

    first = errors(0)
    np.testing.assert_array_equal(errors(0), first)
    assert np.abs(errors(1) - first).max() > 0.01
    assert np.abs(errors(2**31 + 1) - first).max() > 0.01  # the counter outlives an int32
    assert np.abs(errors(0, training=False) - first).max() > 0.01
    np.testing.assert_array_equal(errors(0, training=False), errors(1, training=False))


def test_noise_is_scaled_normal_and_differs_by_example_pass_step_and_seed() -> None:
    agent, _, specs = set_up("noisy dqn")
    observation = random_observations(specs, (2_000,), np.random.default_rng(0))
    (noise,) = agent._noise(observation, 0, True)
    assert noise.shape == (2_000, agent.noise_units)
    # f(x) = sign(x) sqrt|x| of a standard normal x: the square's mean is that of |x|, sqrt(2/pi).
    assert np.mean(noise) == pytest.approx(0.0, abs=0.02)
    assert np.mean(np.square(noise)) == pytest.approx((2.0 / np.pi) ** 0.5, abs=0.02)
    (another_pass,) = agent._noise(observation, 1, True)
    (another_seed,) = set_up("noisy dqn", seed=1).agent._noise(observation, 0, True)
    agent.train_step_counter.assign_add(1)
    (another_step,) = agent._noise(observation, 0, True)
    for other in (another_pass, another_step, another_seed, tf.roll(noise, 1, axis=0)):
        assert abs(np.corrcoef(np.ravel(noise), np.ravel(other))[0, 1]) < 0.05
    (silence,) = agent._noise(observation, 0, False)
    np.testing.assert_array_equal(silence, np.zeros(noise.shape))


def test_iqn_draws_fractions_of_each_example_for_what_it_learns_and_for_what_it_bootstraps_from() -> None:
    agent, _, _ = set_up("iqn", quantile_samples=64, target_quantile_samples=64)
    learned, bootstrapped = (agent._fractions(500, target, True).numpy() for target in (False, True))
    for fractions in (learned, bootstrapped):
        assert fractions.shape == (500, 64)
        assert fractions.min() >= 0.0
        assert fractions.max() <= 1.0
        np.testing.assert_allclose(np.histogram(fractions, 4, (0.0, 1.0))[0], fractions.size / 4, rtol=0.05)
    for other in (bootstrapped, np.roll(learned, 1, axis=0)):
        assert abs(np.corrcoef(learned.ravel(), other.ravel())[0, 1]) < 0.05


@pytest.fixture(scope="module")
def noisy_layer() -> noisy.NoisyDense:
    """Five inputs and three units, with weights and scales of any sign."""
    layer = noisy.NoisyDense(3, 0.5, "tanh", ("zeros", "zeros"))
    layer.build(((None, 5), (None, 5), (None, 3)))
    random = np.random.default_rng(0)
    layer.set_weights([random.normal(scale=0.5, size=weight.shape) for weight in layer.weights])
    return layer


def test_noise_of_zeros_leaves_the_mean_layer(noisy_layer: noisy.NoisyDense) -> None:
    features = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    outputs = noisy_layer((tf.constant(features), tf.zeros((4, 5)), tf.zeros((4, 3))))
    kernel, bias = noisy_layer.kernel.numpy(), noisy_layer.bias.numpy()
    np.testing.assert_allclose(outputs, np.tanh(features @ kernel + bias), rtol=1e-5, atol=1e-6)


def test_noise_moves_each_weight_by_its_scale_times_a_product(noisy_layer: noisy.NoisyDense) -> None:
    random = np.random.default_rng(2)
    inputs = [random.normal(size=(4, n)).astype(np.float32) for n in (5, 5, 3)]
    expected = []
    for x, noise_in, noise_out in zip(*inputs, strict=True):  # an example has noise of its own
        kernel = noisy_layer.kernel.numpy() + noisy_layer.kernel_sigma.numpy() * np.outer(noise_in, noise_out)
        bias = noisy_layer.bias.numpy() + noisy_layer.bias_sigma.numpy() * noise_out
        expected.append(np.tanh(x @ kernel + bias))
    np.testing.assert_allclose(noisy_layer(tuple(map(tf.constant, inputs))), expected, rtol=1e-4, atol=1e-5)


def outputs_under(agent: Any, observation: tf.Tensor, noise: Any) -> np.ndarray:
    """The online network's outputs under noise given; an implicit network's at a few fractions."""
    implicit = agent._config.kind == "iqn"
    more = [tf.constant([[0.1, 0.3, 0.6, 0.9]] * len(observation))] if implicit else []
    return agent._q_network.raw(observation, *more, tf.constant(noise, tf.float32)).numpy()


def mean_of(agent: Any, outputs: tf.Tensor) -> np.ndarray:
    """Q-values [B, A] of what a network is called for: a categorical one gives logits."""
    config = agent._config
    if config.kind != "rainbow":
        return outputs.numpy()
    return tf.nn.softmax(outputs).numpy() @ np.linspace(config.v_min, config.v_max, config.num_atoms)


@pytest.mark.parametrize("name", NOISY)
def test_q_values_of_a_noisy_network_are_those_of_its_means(name: str) -> None:
    agent, _, specs = set_up(name, masked=False)
    observation = random_observations(specs, (6,), np.random.default_rng(1))
    noise = np.random.default_rng(2).normal(size=(6, agent.noise_units)).astype(np.float32)
    silent = outputs_under(agent, observation, 0.0 * noise)
    q_values, _ = agent._q_network(observation)
    np.testing.assert_allclose(agent.acting_model([observation, 0.0 * noise]), mean_of(agent, q_values), rtol=1e-5)
    assert np.abs(outputs_under(agent, observation, noise) - silent).max() > 0.1
    for weight in agent._q_network.model.weights:
        if "sigma" in weight.name:
            weight.assign(tf.zeros_like(weight))
    np.testing.assert_allclose(outputs_under(agent, observation, noise), silent, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(agent._q_network(observation)[0], q_values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(agent.acting_model([observation, noise]), mean_of(agent, q_values), rtol=1e-5)


@pytest.mark.parametrize("name", NOISY)
def test_every_number_of_the_noise_is_used_and_by_its_own_example_alone(name: str) -> None:
    agent, _, specs = set_up(name, masked=False, activation="tanh")  # no unit is off
    units = agent.noise_units
    one = random_observations(specs, (1,), np.random.default_rng(1))
    # In row i the i-th number of a noise of ones is a two; the last row has none.
    noise = np.ones((units + 1, units)) + np.eye(units + 1, units)
    together = outputs_under(agent, tf.repeat(one, units + 1, axis=0), noise)
    for row in (0, units // 2, units):
        alone = outputs_under(agent, one, noise[row : row + 1])[0]
        np.testing.assert_allclose(together[row], alone, rtol=1e-4, atol=1e-5)
    changed = np.abs(together[:-1] - together[-1]).reshape(units, -1).max(axis=1)
    assert changed.min() > 1e-4


@pytest.mark.parametrize("name", NOISY)
def test_the_scale_of_the_noise_follows_sigma(name: str) -> None:
    kind, config = CASES[name]
    observation = random_observations(VECTOR, (6,), np.random.default_rng(1))
    spreads = []
    for sigma in (0.25, 0.5):
        # Without hidden layers the outputs are linear in the scales; the seed gives both the same means.
        sized = BUILDERS[kind].config(**(config | {"hidden_units": (), "noisy_sigma": sigma}))
        agent = agents.build(kind, VECTOR, sized, seed=3)
        scales = [weight.numpy() for weight in agent._q_network.model.weights if "sigma" in weight.name]
        for scale in scales:
            np.testing.assert_allclose(scale, sigma / 3**0.5, rtol=1e-6)  # three inputs
        noise = np.random.default_rng(2).normal(size=(6, agent.noise_units))
        spreads.append(outputs_under(agent, observation, noise) - outputs_under(agent, observation, 0.0 * noise))
    assert np.abs(spreads[0]).max() > 0.05
    np.testing.assert_allclose(spreads[1], 2.0 * spreads[0], rtol=1e-3, atol=1e-5)


TABLES: dict[str, Any] = {
    "category": ArraySpec((), "int32", (6,)),
    "categories": ArraySpec((3,), "int32", (1, 3, 2)),
    "matrix": ArraySpec((2, 2), "int32", (1, 0, 2, 1)),
    "dict": {"b": ArraySpec((2,), "int32", (2, 1)), "a": ArraySpec((), "int32", (3,))},
}


def table_of(agent: Any) -> np.ndarray:
    (table,) = agent.acting_model.get_weights()
    return table


def table_agent(observation: Any, **config: Any) -> Any:
    return agents.build("q_learning", Specs(observation, 4), BUILDERS["q_learning"].config(**config))


@pytest.mark.parametrize("observation", TABLES.values(), ids=TABLES)
def test_every_state_and_action_has_an_entry_of_its_own(observation: Any) -> None:
    agent, specs = table_agent(observation), Specs(observation, 4)
    sizes = [largest + 1 for spec in specs.leaves().values() for largest in spec.maximum]
    states = np.array(list(np.ndindex(*sizes)), np.int32)
    table = np.arange(4 * len(states), dtype=np.float32).reshape(len(states), 4)
    agent.acting_model.set_weights([table])
    leaves, used = {}, 0
    for name, spec in specs.leaves().items():
        entries = len(spec.maximum)
        leaves[name] = tf.constant(states[:, used : used + entries].reshape(-1, *spec.shape))
        used += entries
    # States in C order of their numbers, leaves in the order of their names: the rows in order.
    np.testing.assert_array_equal(agent.acting_model(specs.pack(leaves)), table)


@pytest.mark.parametrize(
    "observation",
    [
        ArraySpec((2,), "float32"),
        ArraySpec((2,), "uint8", (3,)),
        {"a": ArraySpec((), "int32", (3,)), "b": ArraySpec((), "float32")},
    ],
)
def test_an_observation_that_is_no_category_is_refused_in_words(observation: Any) -> None:
    with pytest.raises(ValueError, match="a table needs Discrete or MultiDiscrete observations"):
        table_agent(observation)


def test_a_table_starts_at_the_initial_value() -> None:
    assert (table_of(table_agent(TABLES["categories"], initial_value=2.5)) == 2.5).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_step", [1, 3])
def test_a_gradient_step_moves_each_entry_to_where_its_visits_one_by_one_would(n_step: int, weighted: bool) -> None:
    setup = set_up("q_learning", n_step=n_step)
    agent, config, specs = setup
    experience = windows(specs, n_step, repeats=1)
    states, examples = experience.observation[0].numpy(), examples_of(setup, experience)
    weights = np.random.default_rng(1).random(len(examples)) if weighted else np.ones(len(examples))
    before = table_of(agent).astype(np.float64)
    visits: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for (first, second), example, weight in zip(states[:, 0], examples, weights, strict=True):
        if example is not None:
            entry = 3 * int(first) + int(second), example.action
            target = expected_of_table(config, example, 1).td_error + before[entry]
            visits.setdefault(entry, []).append((weight, target))
    expected, visited = before.copy(), np.zeros(before.shape, np.int64)
    for entry, found in visits.items():
        visited[entry] = len(found)
        mean = sum(weight * target for weight, target in found) / sum(weight for weight, _ in found)
        for weight, _ in found:  # one by one, each toward the mean of the targets
            expected[entry] += config.learning_rate * weight * (mean - expected[entry])
    assert {0, 1, 2} <= set(visited.ravel())

    agent.train(experience, weights=tf.constant(weights, tf.float32) if weighted else None)
    after = table_of(agent)
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(after[visited == 0], before[visited == 0])
    np.testing.assert_array_equal(agent._target_q_network.model.get_weights()[0], after)


def test_the_share_of_the_error_decays_with_the_gradient_steps() -> None:
    agent = table_agent(
        ArraySpec((), "int32", (1,)),
        learning_rate=0.5,
        learning_rate_final=0.1,
        learning_rate_decay_steps=2,
        discount=0.0,
    )
    step_type = tf.constant([[MID, MID]])
    experience = Trajectory(
        step_type=step_type,
        observation=tf.constant([[1, 0]]),
        action=tf.constant([[2, 0]], tf.int64),
        policy_info=(),
        next_step_type=step_type,
        reward=tf.constant([[8.0, 0.0]]),
        discount=tf.ones((1, 2)),
    )
    values = []
    for share in (0.5, 0.3, 0.1, 0.1):
        assert agent.learning_rate.numpy() == pytest.approx(share)
        agent.train(experience)
        values.append(table_of(agent)[1, 2])
    # Of the 8 there remain 4, 2.8, 2.52 and 2.268.
    np.testing.assert_allclose(values, [4.0, 5.2, 5.48, 5.732], rtol=1e-6)


# Figures


RUNAWAY = 1e3


def run_away(agent: Any, action: int) -> None:
    """Gives one action, whatever is observed, a Q-value of about 1,000, and the others small ones."""
    if agent.config.kind == "q_learning":
        (table,) = agent.acting_model.weights
        table.assign(np.where(np.arange(3) == action, RUNAWAY, 0.1) * np.ones(table.shape))
        return
    model = agent._q_network._parts.head if agent.config.kind == "r2d2" else agent._q_network.model
    bias = next(weight for weight in reversed(model.weights) if weight.shape[0] % 3 == 0 and len(weight.shape) == 1)
    values = np.zeros((3, bias.shape[0] // 3), np.float32)
    if agent.config.kind in ("c51", "rainbow"):
        values[:, 0] = values[action, -1] = 2e3  # logits: all of the probability on one atom
        values[action, 0] = 0.0
    else:
        values[action] = RUNAWAY
    bias.assign(values.ravel())


@pytest.mark.parametrize("kind", ["dqn", "c51", "qr_dqn", "iqn", "rainbow", "r2d2", "q_learning"])
def test_the_figures_of_a_step_leave_out_what_masks_forbid(kind: str) -> None:
    config = kinds.changed(kinds.config_of(kind), {"dueling": False, "noisy": False, "v_min": 0.0, "v_max": RUNAWAY})
    agent: Any = agents.build(kind, kinds.specs_of(kind), config)
    run_away(agent, action=2)
    shape = (16, config.window_length)
    experience = kinds.experience(kinds.specs_of(kind), shape, state_units=config.state_units)
    seen, _ = experience.observation
    last = (experience.step_type == LAST)[..., tf.newaxis]
    never = tf.constant([True, True, False])  # where no step is taken, masks allow all, and any action is chosen
    action = tf.where(last[..., 0], np.int64(2), experience.action % 2)
    experience = experience._replace(observation=(seen, last | never), action=action)
    extra = agent.loss(experience).extra
    assert 0 < np.count_nonzero(last[:, 0]) < 16
    assert -100.0 < extra.q_max < 100.0
    assert np.abs(extra.q).max() < 100.0
    everything = experience._replace(observation=(seen, tf.ones_like(last | never)), action=action)
    assert agent.loss(everything).extra.q_max > 900.0
    nothing = experience._replace(step_type=tf.fill(shape, LAST))
    assert agent.loss(nothing).extra.q_max == -np.inf
