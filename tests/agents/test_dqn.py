"""The DQN agent's targets, losses and updates, by hand-worked numbers on a linear network.

Without hidden layers Q(x) = x W + b, so the rows of W are the Q-values of the states [1, 0] and [0, 1]. In most tests

    s  = [1, 0]: online Q = [3, 0]
    s' = [0, 1]: online Q = [1, 2], target Q = [10, 5]
    z  = [0, 0]: Q = 0 in both,

action 0 was taken in s, gamma is 0.5, and so the TD error is the target minus 3.
"""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.agents.dqn import dqn_agent
from tf_agents.trajectories import PolicyStep, TimeStep, Trajectory, Transition

import agents
from agents import ArraySpec, DqnConfig, Specs
from agents.dqn import DqnAgent, QNetwork
from agents.td_agent import target_update_period

FIRST, MID, LAST = 0, 1, 2
S, S_NEXT, Z = [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]
SPECS = Specs(ArraySpec((2,), "float32"), 2)
MASKED = SPECS._replace(masked=True)
ONLINE = np.float32([[3.0, 0.0], [1.0, 2.0]])
TARGET = np.float32([[0.0, 0.0], [10.0, 5.0]])


def linear_agent(specs: Specs = SPECS, **config: Any) -> DqnAgent:
    config = {"hidden_units": (), "discount": 0.5, "target_update_period": 1_000_000} | config
    agent = agents.build("dqn", specs, DqnConfig(**config))
    set_networks(agent)
    return agent


def set_networks(agent: DqnAgent) -> None:
    agent.acting_model.set_weights([TARGET, np.zeros(2, np.float32)])
    agent.initialize()  # copies the online network's weights into the target network
    agent.acting_model.set_weights([ONLINE, np.zeros(2, np.float32)])


def target_weights(agent: DqnAgent) -> list[np.ndarray]:
    return agent._target_q_network.model.get_weights()


def window(
    states: list[list[float]],
    *,
    step_types: list[int] | None = None,
    rewards: list[float] | None = None,
    discounts: list[float] | None = None,
    action: int = 0,
    masks: list[list[bool]] | None = None,
) -> Trajectory:
    """A batch of one window; by default in the middle of an episode, with a reward of 1 a step."""
    length = len(states)
    step_type = tf.constant([step_types or [MID] * length], tf.int32)
    observation: Any = tf.constant([states])
    if masks is not None:
        observation = (observation, tf.constant([masks]))
    return Trajectory(
        step_type=step_type,
        observation=observation,
        action=tf.fill((1, length), tf.constant(action, tf.int64)),
        policy_info=(),
        next_step_type=tf.roll(step_type, -1, axis=1),
        reward=tf.constant([rewards or [1.0] * length]),
        discount=tf.constant([discounts or [1.0] * length]),
    )


def batch_of(*windows: Trajectory) -> Trajectory:
    return tf.nest.map_structure(lambda *leaves: tf.concat(leaves, axis=0), *windows)


def td_error(agent: DqnAgent, experience: Any) -> list[float]:
    return agent.loss(experience).extra.td_error.numpy().tolist()


@pytest.fixture(scope="module")
def plain() -> DqnAgent:
    return linear_agent(double=False)


@pytest.fixture(scope="module")
def double() -> DqnAgent:
    return linear_agent(double=True)


@pytest.fixture(scope="module")
def two_step() -> DqnAgent:
    return linear_agent(double=False, n_step=2)


@pytest.fixture(scope="module")
def masked_plain() -> DqnAgent:
    return linear_agent(MASKED, double=False)


@pytest.fixture(scope="module")
def masked_double() -> DqnAgent:
    return linear_agent(MASKED, double=True)


def test_plain_target_takes_the_target_networks_maximum(plain: DqnAgent) -> None:
    # 1 + 0.5 * max(10, 5) = 6; 6 - 3 = 3; Huber: 3 - 0.5.
    loss, extra = plain.loss(window([S, S_NEXT]))
    assert extra.td_error.numpy().tolist() == [3.0]
    assert loss.numpy() == 2.5


def test_double_target_takes_the_target_networks_value_of_the_online_networks_choice(double: DqnAgent) -> None:
    # Online Q(s') = [1, 2] chooses action 1: 1 + 0.5 * 5 = 3.5; 3.5 - 3 = 0.5; Huber: 0.5 * 0.25.
    loss, extra = double.loss(window([S, S_NEXT]))
    assert extra.td_error.numpy().tolist() == [0.5]
    assert loss.numpy() == 0.125


def test_td_error_belongs_to_the_action_taken(plain: DqnAgent) -> None:
    assert td_error(plain, window([S, S_NEXT], action=1)) == [6.0]  # Q(s, 1) = 0


def test_mse_loss_is_half_the_squared_td_error() -> None:
    assert linear_agent(double=False, loss="mse").loss(window([S, S_NEXT])).loss.numpy() == 4.5


def test_termination_bootstraps_nothing_and_truncation_does(plain: DqnAgent) -> None:
    terminated = window([S, S_NEXT], step_types=[MID, LAST], discounts=[0.0, 1.0])
    truncated = window([S, S_NEXT], step_types=[MID, LAST])
    assert td_error(plain, batch_of(terminated, truncated)) == [1.0 - 3.0, 6.0 - 3.0]


def test_a_window_that_begins_on_an_episodes_end_teaches_nothing(plain: DqnAgent) -> None:
    loss, extra = plain.loss(window([S, S_NEXT], step_types=[LAST, FIRST], rewards=[100.0, 100.0]))
    assert loss.numpy() == 0.0
    assert extra.td_error.numpy().tolist() == [0.0]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        # No boundary: 1 + 0.5 * 2 + 0.25 * 10 = 4.5.
        (window([S, Z, S_NEXT], rewards=[1.0, 2.0, 9.0]), 1.5),
        # Terminated by the first step: 1. By the second: 1 + 0.5 * 2 = 2.
        (window([S, Z, S_NEXT], step_types=[MID, LAST, FIRST], discounts=[0.0, 1.0, 1.0]), -2.0),
        (window([S, Z, S_NEXT], rewards=[1.0, 2.0, 9.0], step_types=[MID, MID, LAST], discounts=[1.0, 0.0, 1.0]), -1.0),
        # Truncated by the first step: bootstraps from frame 1, 1 + 0.5 * 10 = 6, whatever comes after it.
        (window([S, S_NEXT, Z], step_types=[MID, LAST, FIRST]), 3.0),
        # Truncated by the second step: as without a boundary.
        (window([S, Z, S_NEXT], rewards=[1.0, 2.0, 9.0], step_types=[MID, MID, LAST]), 1.5),
        (window([S, S_NEXT, Z], step_types=[LAST, FIRST, MID]), 0.0),
    ],
)
def test_two_step_target_bootstraps_at_the_first_boundary(
    two_step: DqnAgent, frames: Trajectory, expected: float
) -> None:
    assert td_error(two_step, frames) == [expected]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([True, True], 3.0),  # 1 + 0.5 * 10 - 3
        ([True, False], 3.0),
        ([False, True], 0.5),  # 1 + 0.5 * 5 - 3: the 10 is forbidden
    ],
)
def test_plain_target_maximises_over_allowed_actions(masked_plain: DqnAgent, mask: list[bool], expected: float) -> None:
    # The mask of the state where the action was taken must not matter: it says the opposite.
    masks = [[not allowed for allowed in mask], mask]
    assert td_error(masked_plain, window([S, S_NEXT], masks=masks)) == [expected]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([True, True], 0.5),  # the online network chooses action 1: 1 + 0.5 * 5 - 3
        ([False, True], 0.5),
        ([True, False], 3.0),  # and without it action 0: 1 + 0.5 * 10 - 3
    ],
)
def test_double_target_chooses_among_allowed_actions(
    masked_double: DqnAgent, mask: list[bool], expected: float
) -> None:
    masks = [[not allowed for allowed in mask], mask]
    assert td_error(masked_double, window([S, S_NEXT], masks=masks)) == [expected]


def test_masked_n_step_target_takes_the_mask_of_the_bootstrap_frame() -> None:
    agent = linear_agent(MASKED, double=False, n_step=2)
    both, second = [True, True], [False, True]
    # In the middle of an episode frame 2's: 1 + 0.5 + 0.25 * 5 - 3. Truncated at frame 1 its own: 1 + 0.5 * 5 - 3.
    midway = window([S, S_NEXT, S_NEXT], masks=[both, both, second])
    truncated = window([S, S_NEXT, S_NEXT], step_types=[MID, LAST, FIRST], masks=[both, second, both])
    assert td_error(agent, batch_of(midway, truncated)) == [-0.25, 0.5]


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        (0.0, 5.0 - 0.125 - 3.0),
        (1.0, 1.0 - 0.125 - 3.0),  # each reward is clipped, then the sum is taken: 1 + 0.5 * -0.25
        (0.125, 0.125 - 0.0625 - 3.0),
    ],
)
def test_rewards_are_clipped_one_by_one_and_zero_does_not_clip(bound: float, expected: float) -> None:
    agent = linear_agent(n_step=2, reward_clip=bound)
    frames = window([S, Z, Z], rewards=[5.0, -0.25, 0.0], step_types=[MID, MID, LAST], discounts=[1.0, 0.0, 1.0])
    assert td_error(agent, frames) == [expected]


def test_a_transition_is_the_window_that_it_was_folded_from(two_step: DqnAgent) -> None:
    # TF-Agents' discount of n steps has n - 1 factors of gamma: 0.5. Reward 1 + 0.5 * 2 = 2; 2 + 0.25 * 10 - 3.
    def step(state: list[float], reward: float, discount: float, step_type: int) -> TimeStep:
        return TimeStep(tf.constant([step_type]), tf.constant([reward]), tf.constant([discount]), tf.constant([state]))

    action = PolicyStep(tf.constant([0], tf.int64))
    transition = Transition(step(S, 0.0, 1.0, MID), action, step(S_NEXT, 2.0, 0.5, MID))
    assert td_error(two_step, transition) == [1.5]
    assert td_error(two_step, window([S, Z, S_NEXT], rewards=[1.0, 2.0, 9.0])) == [1.5]
    after_the_end = Transition(step(S, 0.0, 1.0, LAST), action, step(S_NEXT, 2.0, 0.5, FIRST))
    assert td_error(two_step, after_the_end) == [0.0]


def test_importance_weights_scale_each_loss_linearly(plain: DqnAgent) -> None:
    # Huber of 3 is 2.5, of -2 it is 1.5.
    experience = batch_of(window([S, S_NEXT]), window([S, S_NEXT], step_types=[MID, LAST], discounts=[0.0, 1.0]))
    for weights, expected in (
        ([1.0, 1.0], 2.0),
        ([2.0, 0.0], 2.5),
        ([0.0, 1.0], 0.75),
        ([3.0, 3.0], 6.0),
        ([0.5, 0.25], 0.8125),  # (1.25 + 0.375) / 2
    ):
        loss, extra = plain.loss(experience, weights=tf.constant(weights))
        assert loss.numpy() == expected
        assert extra.td_error.numpy().tolist() == [3.0, -2.0]
    assert plain.loss(experience).loss.numpy() == 2.0


def test_importance_weights_scale_the_gradient_linearly() -> None:
    agent = linear_agent()
    norms = []
    for weight in (1.0, 0.5, 0.0):
        set_networks(agent)
        norms.append(agent.train(window([S, S_NEXT]), weights=tf.constant([weight])).extra.gradient_norm.numpy())
    # The TD error is 0.5: so is the gradient by Q(s, 0), by W[0, 0] and by b[0].
    np.testing.assert_allclose(norms, [0.5**0.5, 0.5 * 0.5**0.5, 0.0], rtol=1e-6)


def test_loss_extra_reports_the_q_values_of_the_batch(plain: DqnAgent) -> None:
    extra = plain.loss(batch_of(window([S, Z], action=1), window([S_NEXT, Z], action=0))).extra
    assert extra.q.numpy().mean() == 0.5  # of Q(s, 1) = 0 and Q(s', 0) = 1
    assert extra.q_max.numpy() == 3.0
    assert extra.gradient_norm.numpy() == 0.0


def test_the_gradient_is_that_of_the_q_value_of_the_action_taken_alone(plain: DqnAgent) -> None:
    with tf.GradientTape() as tape:
        loss = plain.loss(window([S, S_NEXT])).loss
    kernel, bias = tape.gradient(loss, plain.acting_model.trainable_weights)
    # The Huber gradient of a TD error of 3 is -1 by Q(s, 0) alone.
    np.testing.assert_array_equal(kernel, [[-1.0, 0.0], [0.0, 0.0]])
    np.testing.assert_array_equal(bias, [-1.0, 0.0])


@pytest.mark.parametrize(("clip", "scale"), [(0.0, 1.0), (100.0, 1.0), (1.0, 1.0 / 18**0.5)])
def test_gradients_are_clipped_by_their_global_norm_and_reported_before(clip: float, scale: float) -> None:
    agent = linear_agent(double=False, loss="mse", gradient_clip_norm=clip)
    extra = agent.train(window([S, S_NEXT])).extra
    # The gradient is -3 by W[0, 0] and by b[0]: norm sqrt(18). Adam's first moment is a tenth of what it is given.
    assert extra.gradient_norm.numpy() == pytest.approx(18**0.5)
    moments = [variable.numpy().ravel() for variable in agent.variables if variable.name.startswith("first_moment")]
    given = 10.0 * np.concatenate(moments)
    np.testing.assert_allclose(sorted(given), [-3.0 * scale, -3.0 * scale, 0.0, 0.0, 0.0, 0.0], rtol=1e-5)


def test_a_gradient_step_moves_the_weights_by_the_learning_rate() -> None:
    agent = linear_agent(learning_rate=0.25)
    agent.train(window([S, S_NEXT]))
    # Adam's first step is the learning rate, upwards, as the TD error is positive.
    np.testing.assert_allclose(agent.acting_model.weights[0], ONLINE + np.float32([[0.25, 0], [0, 0]]), rtol=1e-4)
    np.testing.assert_allclose(agent.acting_model.weights[1], [0.25, 0.0], rtol=1e-4)
    assert agent.train_step_counter.numpy() == 1


def test_learning_rate_of_the_agent_decays_with_its_gradient_steps() -> None:
    agent = linear_agent(learning_rate=0.1, learning_rate_final=0.02, learning_rate_decay_steps=4)
    rates = []
    for _ in range(6):
        rates.append(agent.learning_rate.numpy())
        agent.train(window([S, S_NEXT]))
    np.testing.assert_allclose(rates, [0.1, 0.08, 0.06, 0.04, 0.02, 0.02], rtol=1e-5)


def test_hard_target_update_copies_the_weights_every_period() -> None:
    agent = linear_agent(target_update_period=3)
    copied_at = []
    for step in range(1, 8):
        before = target_weights(agent)
        agent.train(window([S, S_NEXT]))
        after = target_weights(agent)
        if not np.array_equal(before[0], after[0]):
            copied_at.append(step)
            for target, online in zip(after, agent.acting_model.get_weights(), strict=True):
                np.testing.assert_array_equal(target, online)
    assert copied_at == [3, 6]


@pytest.mark.parametrize("period", [1, 2])
def test_soft_target_update_mixes_in_tau_of_the_weights_every_period(period: int) -> None:
    agent = linear_agent(target_update_period=period, target_update_tau=0.25)
    for step in range(1, 5):
        before = target_weights(agent)
        agent.train(window([S, S_NEXT]))
        share = 0.25 if step % period == 0 else 0.0
        for old, online, new in zip(before, agent.acting_model.get_weights(), target_weights(agent), strict=True):
            np.testing.assert_allclose(new, (1 - share) * old + share * online, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("tau", "period"), [(1.0, 200), (0.005, 1)])
def test_a_target_network_that_is_mixed_moves_in_every_step_unless_a_period_is_given(tau: float, period: int) -> None:
    assert target_update_period(DqnConfig(target_update_tau=tau)) == period
    assert target_update_period(DqnConfig(target_update_tau=tau, target_update_period=7)) == 7
    agent = agents.build("dqn", SPECS, DqnConfig(hidden_units=(4,), target_update_tau=tau))
    before = target_weights(agent)
    agent.train(window([S, S_NEXT]))
    moved = any((new != old).any() for new, old in zip(target_weights(agent), before, strict=True))
    assert moved == (period == 1)


def test_networks_start_equal() -> None:
    agent = agents.build("dqn", SPECS, DqnConfig(hidden_units=(4,), dueling=True), seed=3)
    for online, target in zip(agent.acting_model.get_weights(), target_weights(agent), strict=True):
        np.testing.assert_array_equal(online, target)


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_a_window_of_another_length_is_refused_in_words(two_step: DqnAgent, frames: int) -> None:
    with pytest.raises(ValueError, match="n_step=2 learns from windows of 3 frames"):
        two_step.train(window([S] * frames))


def test_an_observation_of_another_dtype_or_shape_is_refused(plain: DqnAgent) -> None:
    experience = window([S, S_NEXT])
    for observation in (tf.constant([[[1, 0], [0, 1]]]), tf.zeros((1, 2, 3))):
        with pytest.raises(ValueError, match="observation"):
            plain.train(experience._replace(observation=observation))


def test_its_variables_are_its_whole_state() -> None:
    agent = agents.build(
        "dqn",
        SPECS,
        DqnConfig(
            hidden_units=(4,),
            target_update_period=3,
            learning_rate=0.01,
            learning_rate_decay_steps=9,
            gradient_clip_norm=0.1,
        ),
    )
    random = np.random.default_rng(0)
    windows = [window(random.normal(size=(2, 2)).astype(np.float32).tolist()) for _ in range(5)]

    def train() -> list[np.ndarray]:
        for experience in windows:
            agent.train(experience)
        return agent.acting_model.get_weights()

    train()
    state = [variable.numpy() for variable in agent.variables]
    first = train()
    for variable, value in zip(agent.variables, state, strict=True):
        variable.assign(value)
    for one, again in zip(first, train(), strict=True):
        np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize("is_double", [False, True])
def test_one_step_loss_is_that_of_tf_agents_own_agent(is_double: bool) -> None:
    config = DqnConfig(hidden_units=(8,), double=is_double, discount=0.9)
    ours = agents.build("dqn", SPECS, config)
    kind = dqn_agent.DdqnAgent if is_double else dqn_agent.DqnAgent
    online, target = QNetwork(SPECS, config, seed=1), QNetwork(SPECS, config, seed=2)
    theirs = kind(ours.time_step_spec, ours.action_spec, q_network=online, target_q_network=target, optimizer=None)
    ours.acting_model.set_weights(target.model.get_weights())
    ours.initialize()
    ours.acting_model.set_weights(online.model.get_weights())
    random = np.random.default_rng(2)
    step_type = tf.constant(random.integers(0, 3, (64, 2)), tf.int32)
    experience = Trajectory(
        step_type=step_type,
        observation=tf.constant(random.normal(size=(64, 2, 2)), tf.float32),
        action=tf.constant(random.integers(0, 2, (64, 2))),
        policy_info=(),
        next_step_type=tf.roll(step_type, -1, axis=1),
        reward=tf.constant(random.normal(size=(64, 2)), tf.float32),
        discount=tf.constant(random.integers(0, 2, (64, 2)), tf.float32),
    )
    weights = tf.constant(random.random(64), tf.float32)
    mine = ours.loss(experience, weights=weights)
    reference = theirs.loss(experience, weights=weights, gamma=0.9)  # theirs takes its own gamma only in `train`
    assert mine.loss.numpy() > 0.1
    np.testing.assert_allclose(mine.loss, reference.loss, rtol=1e-5)
    np.testing.assert_allclose(mine.extra.td_error, reference.extra.td_error, rtol=1e-4, atol=1e-5)
