"""Branching: its mathematics by hand, one dimension as one number, and a product of problems against their optimum."""

import itertools
from typing import Any

import msgspec
import numpy as np
import pytest
import tensorflow as tf
from kinds import DIMENSIONS, VARIANTS, VECTOR, config_of, experience
from tf_agents.trajectories import Trajectory, time_step
from tiers import tiered

import agents
from agents import ArraySpec, DqnConfig, Specs, branching
from agents.lambda_returns import q_lambda_returns
from pipeline.experiment.replay_section import ReplayConfig
from pipeline.experiment.sections import Experiment, LearnerConfig
from pipeline.learner.learner import Learner
from pipeline.replay.sampling import Sample

FIRST, MID, LAST = 0, 1, 2
SIZES = DIMENSIONS.action_sizes


def test_rows_are_the_dimensions_filled_up_with_what_is_forbidden() -> None:
    dimensions = branching.Dimensions(SIZES)
    rows = dimensions.rows(tf.constant([[1.0, 2.0, 3.0, 4.0, 5.0]]))
    np.testing.assert_array_equal(rows, [[1, 2, 0], [3, 4, 5]])
    np.testing.assert_array_equal(dimensions.masks(None, 1), [[True, True, False], [True] * 3])
    mask = dimensions.masks(tf.constant([[True, False, False, True, True]]), 1)
    np.testing.assert_array_equal(mask, [[True, False, False], [False, True, True]])
    assert branching.Dimensions((2, 2)).masks(None, 1) is None
    np.testing.assert_array_equal(dimensions.choices(tf.constant([[1, 2]])), [1, 2])
    np.testing.assert_array_equal(dimensions.repeated(tf.constant([7.0, 8.0])), [7, 7, 8, 8])
    np.testing.assert_array_equal(dimensions.mean(tf.constant([1.0, 3.0, 5.0, 9.0])), [2, 7])
    lowest = tf.float32.min
    np.testing.assert_array_equal(dimensions.total(tf.constant([1.0, 3.0, lowest, lowest])), [4, lowest])
    allows = dimensions.allows(tf.constant([[True, False, False, True, True]] * 2), tf.constant([[0, 2], [0, 0]]))
    np.testing.assert_array_equal(allows, [True, False])
    # Numbers of a distribution go with their choices.
    atoms = dimensions.rows(tf.reshape(tf.range(10.0), (1, 5, 2)))
    np.testing.assert_array_equal(atoms[0], [[0, 1], [2, 3], [0, 0]])


def test_the_branches_share_the_states_value() -> None:
    # Equation 1: V + A_d - mean A_d. Means are 2 of (1, 3) and 5 of (4, 5, 6).
    found = branching.dueling(tf.constant([[10.0]]), tf.constant([[1.0, 3.0, 4.0, 5.0, 6.0]]), SIZES)
    np.testing.assert_allclose(found, [[9, 11, 9, 10, 11]])
    of_atoms = branching.dueling(tf.ones((1, 1, 2)), tf.reshape(tf.range(10.0), (1, 5, 2)), SIZES)
    np.testing.assert_allclose(of_atoms[0], [[0, 0], [2, 2], [-1, -1], [1, 1], [3, 3]])


@pytest.mark.parametrize(("is_dueling", "streams"), [(True, 3), (False, 2)])
def test_the_torsos_gradient_is_divided_by_the_streams(is_dueling: bool, streams: int) -> None:
    layer, features = branching.SharedFeatures(2 + is_dueling), tf.Variable([[1.0, -2.0]])
    with tf.GradientTape() as tape:
        seen = layer(features)
        loss = tf.reduce_sum(seen * [[6.0, 12.0]])
    np.testing.assert_array_equal(seen, features)
    np.testing.assert_allclose(tape.gradient(loss, features), [[6.0 / streams, 12.0 / streams]])
    config = DqnConfig(hidden_units=(4,), dueling=is_dueling)
    model = agents.build("dqn", Specs(ArraySpec((3,), "float32"), 5, action_sizes=SIZES), config).acting_model
    assert [of._streams for of in model.layers if isinstance(of, branching.SharedFeatures)] == [streams]


def test_the_target_is_the_mean_over_the_dimensions_and_so_is_the_loss() -> None:
    specs = Specs(ArraySpec((5,), "float32"), 5, action_sizes=SIZES)
    config = DqnConfig(hidden_units=(), discount=0.5, loss="mse")
    agent = agents.build("dqn", specs, config)
    weights = np.eye(5, dtype=np.float32)  # Q-values are the observation
    for network in (agent._q_network, agent._target_q_network):
        network.variables[0].assign(weights)
        network.variables[1].assign(np.zeros(5))
    seen = tf.constant([[[1.0, 2.0, 3.0, 4.0, 5.0], [7.0, 6.0, -1.0, 9.0, 8.0]]])
    window = Trajectory(
        tf.constant([[FIRST, MID]]), seen, tf.constant([[[1, 0], [0, 0]]], tf.int64), (), tf.constant([[MID, MID]]),
        tf.constant([[1.0, 0.0]]), tf.ones((1, 2)),
    )  # fmt: skip
    # Equation 6: y = 1 + 0.5 * (7 + 9) / 2 = 5. Taken are 2 and 3: errors 3 and 2, half their squares 4.5 and 2.
    loss, extra = agent.loss(window)
    assert float(loss) == pytest.approx((4.5 + 2.0) / 2)
    np.testing.assert_allclose(extra.td_error, [2.5])
    np.testing.assert_allclose(extra.priority, [2.5])
    np.testing.assert_allclose(extra.q, [2.5])
    assert float(extra.q_max) == 5.0


def test_q_lambda_bootstraps_from_the_mean_of_the_best() -> None:
    q = tf.constant([[[[0.0, 1.0], [2.0, 9.0]], [[4.0, 3.0], [6.0, 8.0]]]])  # best 1 and 9, then 4 and 8
    mask = tf.constant([[[[True, True], [True, True]], [[True, True], [True, False]]]])
    arguments = tf.constant([[MID, MID]]), tf.ones((1, 2)), tf.ones((1, 2))
    np.testing.assert_allclose(q_lambda_returns(*arguments, q, None, 0.5, 0.5), [[1.0 + 0.5 * 6.0]])
    np.testing.assert_allclose(q_lambda_returns(*arguments, q, mask, 0.5, 0.5), [[1.0 + 0.5 * 5.0]])


def test_a_policy_is_a_product_of_its_dimensions() -> None:
    config = config_of("ppo")
    agent = agents.build("ppo", DIMENSIONS, config, seed=3)
    window = experience(DIMENSIONS, (6, config.window_length), 1)
    observation, mask = window.observation
    found, _ = agent._evaluated(observation, mask, window.action)
    flat = tf.reshape(observation, (-1, 4))
    logits = np.where(tf.reshape(mask, (-1, 5)), agent.acting_model(flat), -np.inf)
    joint = {
        pair: logits[:, pair[0]] - np.logaddexp.reduce(logits[:, :2], axis=1)
        + (logits[:, 2 + pair[1]] - np.logaddexp.reduce(logits[:, 2:], axis=1))
        for pair in itertools.product(range(2), range(3))
    }  # fmt: skip
    np.testing.assert_allclose(np.sum([np.exp(log) for log in joint.values()], axis=0), 1.0, rtol=1e-5)
    actions = np.reshape(window.action, (-1, 2))
    expected = np.array([joint[tuple(action)][row] for row, action in enumerate(actions.tolist())])
    is_allowed = np.isfinite(expected)
    np.testing.assert_allclose(np.ravel(found)[is_allowed], expected[is_allowed], atol=1e-4)
    assert (np.ravel(found)[~is_allowed] == tf.float32.min).all()
    assert is_allowed.any()
    assert not is_allowed.all()


@pytest.mark.parametrize("masked", [False, True])
def test_the_policies_of_an_agent_choose_each_dimension_by_itself(masked: bool) -> None:
    agent = agents.build("dqn", DIMENSIONS._replace(masked=masked), config_of("dqn"), epsilon=0.5, seed=1)
    seen, mask = tf.nest.map_structure(lambda leaf: leaf[:, 0], experience(DIMENSIONS, (2_000, 1), 2).observation)
    mask = mask if masked else None
    steps = time_step.restart((seen, mask) if masked else seen, batch_size=2_000)
    greedy, drawn = (policy.action(steps).action.numpy() for policy in (agent.policy, agent.collect_policy))
    best = agents.exploration.greedy(agent.acting_model(seen).numpy(), None if mask is None else mask.numpy(), SIZES)
    np.testing.assert_array_equal(greedy, best)
    if mask is not None:
        assert agents.dimensions.allows(mask.numpy(), drawn, SIZES).all()
    else:
        shares = [0.5 * (size - 1) / size for size in SIZES]
        np.testing.assert_allclose((drawn != best).mean(axis=0), shares, atol=0.05)


def test_agents_are_made_of_tf_agents_own_specs() -> None:
    from tf_agents.specs import tensor_spec

    seen = time_step.time_step_spec(tensor_spec.TensorSpec((3,), tf.float32))
    action = tensor_spec.BoundedTensorSpec((2,), tf.int32, 0, np.array([1, 2]))
    specs = Specs.from_tf_agents(seen, action)
    assert (specs.num_actions, specs.action_sizes, specs.action_shape) == (5, (2, 3), (2,))
    assert Specs.from_tf_agents(seen, tensor_spec.BoundedTensorSpec((2,), tf.int32, 0, 3)).action_sizes == (4, 4)


@pytest.mark.parametrize("kind", ["q_learning", "iql", "boot_dqn"])
def test_kinds_of_one_number_say_which_others_there_are(kind: str) -> None:
    specs = Specs(ArraySpec((), "int32", (3,)), 5, action_sizes=SIZES)
    with pytest.raises(ValueError, match=r"its actions are one number, .* vectors of 2: choose dqn, c51") as refused:
        agents.build(kind, specs, config_of(kind))
    for other in ("dqn", "c51", "rainbow", "qr_dqn", "iqn", "r2d2", "pqn", "reinforce", "ppo", "behaviour_cloning"):
        assert f" {other}" in str(refused.value)
        assert not config_of(other).unsuitable_for(specs)


LEARNING = [
    name
    for name in (*agents.BUILDERS, "dqn munchausen", "dqn hl_gauss")
    if name not in ("q_learning", "iql", "boot_dqn")
]
OWN_LOSSES = ("dqn", "c51", "iqn", "r2d2", "pqn", "ppo")


@pytest.mark.parametrize("name", tiered(LEARNING, ["dqn"]))
def test_one_dimension_is_learned_as_one_number(name: str) -> None:
    config = VARIANTS[name]
    states = []
    for sizes in ((), (3,)):
        specs = VECTOR._replace(action_sizes=sizes)
        agent = agents.build(config.kind, specs, config, seed=1)
        train = tf.function(agent.train, autograph=False)
        given = {} if config.on_policy else {"weights": tf.linspace(0.5, 2.0, 8)}
        for seed in range(7):  # the target network moves at the sixth
            loss, extra = train(experience(specs, (8, config.window_length), seed, config.state_units), **given)
        states.append([*(variable.numpy() for variable in agent.variables), loss.numpy(), *map(np.asarray, extra)])
    for one, several in zip(*states, strict=True):
        np.testing.assert_allclose(one, several, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN_LOSSES)
def test_the_learners_loop_agrees_with_single_steps(name: str) -> None:
    config, steps, batch = VARIANTS[name], 6, 8
    trajectory = experience(DIMENSIONS, (steps, batch, config.window_length), 5, config.state_units)
    learner = Learner(
        Experiment(
            agent=config,
            learner=LearnerConfig(batch_size=batch, steps_per_call=steps, loop="compiled"),
            replay=ReplayConfig(prioritized=not config.on_policy, importance_exponent=1e-9),
        ),
        DIMENSIONS,
        devices=["CPU:0"],
    )
    learner.choose_loop()
    assert learner.loop == "compiled"
    single = agents.build(config.kind, DIMENSIONS, config)
    single._seed = learner.agent._seed  # of the draws within gradient steps
    for variable, value in zip(single.variables, learner.agent.variables, strict=True):
        variable.assign(value)
    relative = tf.ones((steps, batch))
    sample = Sample(trajectory, tf.zeros((steps, batch), tf.int32), relative, tf.zeros((1,), tf.uint64))
    assert not learner.learn(sample).skipped
    train = tf.function(single.train, autograph=False)
    moved = 0.0
    for k in range(steps):
        before = single.variables[0].numpy()
        train(tf.nest.map_structure(lambda leaf, k=k: leaf[k], trajectory))
        moved += float(np.abs(single.variables[0].numpy() - before).max())
    assert moved > 1e-4
    for one, other in zip(learner.agent.variables, single.variables, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


class Product:
    """Two chains side by side, each moved by its own dimension of the action: a product of decision processes.

    Everything is a table, over the pairs of the chains' states and of their actions, so optima are computed.
    """

    SIDE, DISCOUNT = 3, 0.8
    PAYS = (
        np.array([[0.0, -0.1], [0.0, -0.1], [1.0, 0.2]]),
        np.array([[0.05, 0.0, -0.1], [0.9, 0.0, -0.1], [0.0, 0.3, -0.2]]),
    )
    """Of each chain by state and action. The first is moved on by action 1, the second by 2, and back by 1."""

    def __init__(self) -> None:
        self.actions = np.array(list(itertools.product(range(2), range(3))))
        self.states = self.SIDE**2
        self.reward = np.zeros((self.states, len(self.actions)))
        self.successor = np.zeros((self.states, len(self.actions)), int)
        for state, (number, (a, b)) in itertools.product(range(self.states), enumerate(self.actions)):
            i, j = divmod(state, self.SIDE)
            self.reward[state, number] = self.PAYS[0][i, a] + self.PAYS[1][j, b]
            to_i, to_j = (i + a) % self.SIDE, {0: j, 1: max(0, j - 1), 2: (j + 1) % self.SIDE}[int(b)]
            self.successor[state, number] = to_i * self.SIDE + to_j

    @property
    def specs(self) -> Specs:
        return Specs(ArraySpec((), "int32", (self.states - 1,)), 5, action_sizes=SIZES)

    def optimal_q(self) -> np.ndarray:
        """Q* [states, joint actions], by value iteration."""
        q = np.zeros(self.reward.shape)
        for _ in range(200):
            q = self.reward + self.DISCOUNT * q.max(axis=1)[self.successor]
        return q

    def branching_q(self, join: Any = lambda one, other: ((one + other) / 2,) * 2) -> np.ndarray:
        """The fixed point [states, 2 + 3] of equation 6 where all actions are tried alike.

        `join` makes the values that the two dimensions bootstrap from of the best of each.
        """
        q = np.zeros((self.states, 5))
        for _ in range(200):
            values = join(q[:, :2].max(axis=1), q[:, 2:].max(axis=1))
            one, other = (
                (self.reward + self.DISCOUNT * value[self.successor]).reshape(self.states, 2, 3) for value in values
            )
            q = np.concatenate([one.mean(axis=2), other.mean(axis=1)], axis=1)
        return q

    def loss_of(self, actions: np.ndarray) -> float:
        """How much less than the optimum a policy's actions [states, 2] are worth, at most."""
        best, numbers, value = self.optimal_q().max(axis=1), actions[:, 0] * 3 + actions[:, 1], np.zeros(self.states)
        rows = np.arange(self.states)
        for _ in range(200):
            value = self.reward[rows, numbers] + self.DISCOUNT * value[self.successor[rows, numbers]]
        return float((best - value).max())

    def windows(self, state: np.ndarray, steps: int, choose: Any, random: np.random.Generator) -> Trajectory:
        """Windows [*shape of state, steps]; one step in ten is truncated, and what follows begins anywhere."""
        step_type, frames = np.full(state.shape, MID), []
        for _ in range(steps):
            action = choose(state)
            number = action[..., 0] * 3 + action[..., 1]
            following = np.where(step_type == LAST, FIRST, np.where(random.random(state.shape) < 0.1, LAST, MID))
            frames.append((step_type, state, action, following, self.reward[state, number]))
            drawn = random.integers(0, self.states, state.shape)
            state, step_type = np.where(step_type == LAST, drawn, self.successor[state, number]), following
        step_type, state, following, reward = (
            np.stack([frame[column] for frame in frames], axis=-1) for column in (0, 1, 3, 4)
        )
        action = np.stack([frame[2] for frame in frames], axis=-2)
        return Trajectory(
            tf.constant(step_type, tf.int32), tf.constant(state, tf.int32), tf.constant(action, tf.int64), (),
            tf.constant(following, tf.int32), tf.constant(reward, tf.float32), tf.ones(step_type.shape),
        )  # fmt: skip


PRODUCT = Product()


def test_the_best_of_the_branches_is_the_best_of_all() -> None:
    actions = agents.exploration.greedy(PRODUCT.branching_q().astype(np.float32), None, SIZES)
    assert PRODUCT.loss_of(actions) == pytest.approx(0.0, abs=1e-9)
    assert len(np.unique(actions, axis=0)) > 3
    assert PRODUCT.loss_of(np.zeros((9, 2), int)) > 1.0
    # A target of each dimension's own best (equation 4), or of the better of both (5), has another fixed point.
    for join in (lambda one, other: (one, other), lambda one, other: (np.maximum(one, other),) * 2):
        assert np.abs(PRODUCT.branching_q(join) - PRODUCT.branching_q()).max() > 0.5


VALUES: dict[str, Any] = {
    "dqn": DqnConfig(loss="mse"),
    "dqn, dueling": DqnConfig(loss="mse", dueling=True),
    "c51": agents.C51Config(v_min=-2.0, v_max=11.0),
}


@pytest.mark.parametrize("name", tiered(VALUES, ["dqn"]))
def test_the_learner_comes_to_the_fixed_point_of_branching(name: str) -> None:
    linear = {"hidden_units": (), "learning_rate": 0.05, "learning_rate_final": 0.001, "target_update_period": 10}
    config = msgspec.structs.replace(
        VALUES[name], **linear, learning_rate_decay_steps=3_000, discount=PRODUCT.DISCOUNT, n_step=1
    )
    learner = Learner(
        Experiment(agent=config, learner=LearnerConfig(batch_size=64, steps_per_call=500, loop="compiled")),
        PRODUCT.specs,
        devices=["CPU:0"],
    )
    learner.choose_loop()
    random, shape = np.random.default_rng(0), (500, 64)
    for _ in range(6):
        state = random.integers(0, PRODUCT.states, shape)
        trajectory = PRODUCT.windows(
            state, 2, lambda of: np.stack([random.integers(0, size, of.shape) for size in SIZES], axis=-1), random
        )
        sample = Sample(trajectory, tf.zeros(shape, tf.int32), tf.ones(shape), tf.zeros((1,), tf.uint64))
        assert not learner.learn(sample).skipped
    q = learner.agent.acting_model(tf.range(PRODUCT.states)).numpy()
    assert np.abs(q - PRODUCT.branching_q()).max() < 0.1
    assert PRODUCT.loss_of(agents.exploration.greedy(q, None, SIZES)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.slow
def test_a_policy_gradient_comes_to_the_optimum_of_the_product() -> None:
    config = agents.PpoConfig(
        hidden_units=(32,), learning_rate=0.02, rollout=8, discount=PRODUCT.DISCOUNT, minibatches=1, epochs=4
    )
    agent, random = agents.build("ppo", PRODUCT.specs, config, seed=1), np.random.default_rng(0)
    train = tf.function(agent.train, autograph=False)

    def drawn(state: np.ndarray) -> np.ndarray:
        logits = agent.acting_model(tf.constant(state, tf.int32)).numpy()
        config = agents.ExplorationConfig(strategy="boltzmann")
        return agents.exploration.explore(config, logits, 0.0, random, None, SIZES)

    for _ in range(40):
        train(PRODUCT.windows(random.integers(0, PRODUCT.states, 64), 9, drawn, random))
    logits = agent.acting_model(tf.range(PRODUCT.states)).numpy()
    assert PRODUCT.loss_of(agents.exploration.greedy(logits, None, SIZES)) == pytest.approx(0.0, abs=0.05)
