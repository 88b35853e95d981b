"""Every algorithm against exact optima: what the learner's compiled loop learns is what value iteration computes.

The problems are tables of outcomes and their probabilities, so their optimal Q-values are computed, not estimated. The
experience is drawn from the tables: every state and action is seen, whatever the agent would do.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import gymnasium
import msgspec
import numpy as np
import pytest
import tensorflow as tf
from kinds import changed
from tf_agents.trajectories import Trajectory
from tiers import tiered

from agents import (
    BUILDERS,
    AgentConfig,
    ArraySpec,
    BootDqnConfig,
    C51Config,
    DqnConfig,
    IqnConfig,
    QLearningConfig,
    QrDqnConfig,
    R2d2Config,
    RainbowConfig,
    Specs,
)
from agents.configs.value import WindowConfig
from pipeline.experiment.replay_section import ReplayConfig
from pipeline.experiment.sections import Experiment, LearnerConfig
from pipeline.learner.learner import Learner
from pipeline.replay.sampling import Sample

FIRST, MID, LAST = 0, 1, 2
BACK, ON, LEAP = 0, 1, 2
BATCH, STEPS_PER_CALL = 64, 500
GROUP = "oracle"
"""Tests of one agent on one problem run in one process: its learner is compiled once."""
SWEEPS = 400  # 0.9 ** 400 is 5e-19


class Problem(NamedTuple):
    """A decision process: K outcomes, some of probability 0, for each of A actions in each of S states."""

    probability: np.ndarray
    """float [S, A, K]."""
    successor: np.ndarray
    """int [S, A, K]."""
    reward: np.ndarray
    """float [S, A, K]."""
    terminated: np.ndarray
    """bool [S, A, K]."""
    allowed: np.ndarray
    """bool [S, A]."""
    start: int
    returns: tuple[float, float]
    """The least and the largest return there is, but for tails too rare to matter."""
    bound: float
    """The largest error of a Q-value that a right agent may be left with."""
    discount: float = 0.9

    @property
    def states(self) -> np.ndarray:
        """Those to act in: all that no termination leads to."""
        ends = self.successor[self.terminated & (self.probability > 0.0)]
        return np.setdiff1d(np.arange(len(self.successor)), ends)

    @property
    def specs(self) -> Specs:
        states, actions = self.allowed.shape
        return Specs(ArraySpec((), "int32", (states - 1,)), actions, masked=not self.allowed.all())


def of_table(table: Any, **more: Any) -> Problem:
    """A problem of `table[state][action]`, lists of (probability, successor, reward, terminated)."""
    width = max(len(outcomes) for actions in table.values() for outcomes in actions.values())
    nothing = (0.0, 0, 0.0, False)
    rows = [[[*o, *[nothing] * (width - len(o))] for o in actions.values()] for actions in table.values()]
    probability, successor, reward, terminated = np.moveaxis(np.array(rows, np.float64), -1, 0)
    more = {"allowed": np.ones(probability.shape[:2], bool), "start": 0} | more
    return Problem(probability, successor.astype(int), reward, terminated.astype(bool), **more)


def of_gymnasium(name: str, returns: tuple[float, float], bound: float, **arguments: Any) -> Problem:
    """A problem of one of gymnasium's toy texts."""
    environment: Any = gymnasium.make(name, **arguments).unwrapped
    start = int(environment.initial_state_distrib.argmax())
    return of_table(environment.P, start=start, returns=returns, bound=bound)


def chain() -> Problem:
    """Five states in a row, the last an end. One step on in five stays in place; the leap that pays is forbidden.

    Its value is learned all the same, by experience that no collector would make: nothing but the mask keeps it out.
    """
    table: Any = {}
    for state in range(4):
        table[state] = {
            BACK: [(1.0, max(state - 1, 0), -1.0, False)],
            ON: [(0.8, state + 1, 1.0 if state == 3 else -1.0, state == 3), (0.2, state, -1.0, False)],
            LEAP: [(1.0, min(state + 2, 4), 5.0 if state == 2 else -1.5, state >= 2)],
        }
    end = [(1.0, 4, 0.0, True)]
    table[4] = dict.fromkeys((BACK, ON, LEAP), end)
    allowed = np.ones((5, 3), bool)
    allowed[2, LEAP] = False
    return of_table(table, allowed=allowed, returns=(-10.0, 6.0), bound=0.1)


def belt() -> Problem:
    """Six states in a row, the last an end, where actions change nothing: one step in ten falls off the belt.

    Returns of n steps are those of the behaviour. Only where all behaviour is optimal is their fixed point Q*.
    """
    rewards = (1.0, -2.0, 3.0, 0.5, 2.0)
    table: Any = {}
    for state, reward in enumerate(rewards):
        outcomes = [(0.9, state + 1, reward, state == 4), (0.1, 5, reward, True)]
        table[state] = dict.fromkeys(range(2), outcomes)
    end = [(1.0, 5, 0.0, True)]
    table[5] = dict.fromkeys(range(2), end)
    return of_table(table, returns=(-4.0, 7.0), bound=0.1)


PROBLEMS: dict[str, Problem] = {
    "slippery lake": of_gymnasium("FrozenLake-v1", (0.0, 1.0), 0.04, is_slippery=True),
    "firm lake": of_gymnasium("FrozenLake-v1", (0.0, 1.0), 0.03, is_slippery=False),
    "cliff": of_gymnasium("CliffWalking-v1", (-140.0, 0.0), 1.5),
    "chain": chain(),
    "belt": belt(),
}


def backup(problem: Problem, values: np.ndarray) -> np.ndarray:
    """Q-values [S, A] if the states were worth `values` [S]."""
    following = np.where(problem.terminated, 0.0, values[problem.successor])
    return (problem.probability * (problem.reward + problem.discount * following)).sum(axis=2)


def masked(problem: Problem, q: np.ndarray) -> np.ndarray:
    return np.where(problem.allowed, q, -np.inf)


def optimal_q(problem: Problem) -> np.ndarray:
    """Q* [S, A], by value iteration."""
    q = np.zeros(problem.allowed.shape)
    for _ in range(SWEEPS):
        q = backup(problem, masked(problem, q).max(axis=1))
    return q


def munchausen_q(problem: Problem, scale: float, temperature: float, floor: float) -> np.ndarray:
    """The fixed point [S, A] of Munchausen value iteration (Vieillard et al. 2020, equation 3)."""
    q = np.zeros(problem.allowed.shape)
    for _ in range(SWEEPS):
        logits = masked(problem, q) / temperature
        log_policy = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        values = temperature * np.logaddexp.reduce(logits, axis=1)
        q = backup(problem, values) + scale * np.clip(temperature * log_policy, floor, 0.0)
    return q


def value_of_greedy(problem: Problem, q: np.ndarray) -> np.ndarray:
    """What the states [S] are worth to the policy that takes the largest of the allowed Q-values [S, A]."""
    action = masked(problem, q).argmax(axis=1)
    values = np.zeros(len(q))
    for _ in range(SWEEPS):
        values = backup(problem, values)[np.arange(len(q)), action]
    return values


def experience(
    problem: Problem, shape: tuple[int, ...], window: int, random: np.random.Generator, drawn: np.ndarray | None = None
) -> tuple[Trajectory, np.ndarray]:
    """Windows [*shape, window, ...] that begin at an episode's first frame, within one or at its end.

    States where windows begin and all actions are uniform. One step in ten is truncated. A step from an episode's end
    is the reset, to any state.

    Args:
      problem: to draw from.
      shape: of the batches.
      window: frames.
      random: draws.
      drawn: float [S, A, K], probabilities to draw outcomes by in place of the problem's own.

    Returns:
      The windows, and float [*shape]: how many times as likely as by the problem's own probabilities each was.
    """
    drawn = problem.probability if drawn is None else drawn
    state = random.choice(problem.states, shape)
    step_type = random.choice([FIRST, MID, LAST], shape, p=[0.2, 0.7, 0.1])
    relative, frames = np.ones(shape), []
    for _ in range(window):
        action = random.integers(0, problem.allowed.shape[1], shape)
        cumulative = drawn[state, action].cumsum(axis=-1)
        chosen = state, action, (random.random((*shape, 1)) * cumulative[..., -1:] >= cumulative).sum(axis=-1)
        last = step_type == LAST
        terminated = problem.terminated[chosen] & ~last
        truncated = random.random(shape) < 0.1
        following = np.where(last, FIRST, np.where(terminated | truncated, LAST, MID))
        reward = np.where(last, 0.0, problem.reward[chosen])
        frames.append((step_type, state, action, following, reward, 1.0 - terminated))
        if len(frames) < window:  # the step from the last frame is no part of the transition
            relative *= np.where(last, 1.0, drawn[chosen] / problem.probability[chosen])
        state = np.where(last, random.choice(problem.states, shape), problem.successor[chosen])
        step_type = following
    step_type, state, action, following, reward, discount = (
        np.stack(column, axis=-1) for column in zip(*frames, strict=True)
    )
    observation: Any = tf.constant(state, tf.int32)
    if problem.specs.masked:
        observation = (observation, tf.constant(problem.allowed[state]))
    trajectory = Trajectory(
        step_type=tf.constant(step_type, tf.int32),
        observation=observation,
        action=tf.constant(action, tf.int64),
        policy_info=(),
        next_step_type=tf.constant(following, tf.int32),
        reward=tf.constant(reward, tf.float32),
        discount=tf.constant(discount, tf.float32),
    )
    return trajectory, relative


LINEAR = {"hidden_units": (), "learning_rate": 0.02, "learning_rate_final": 0.0001, "target_update_period": 10}
HIDDEN = LINEAR | {"hidden_units": (64, 64), "learning_rate": 0.003, "learning_rate_final": 0.00001}
MUNCHAUSEN = {"double": False, "munchausen": True, "munchausen_temperature": 0.01}
VALUE_KINDS = [
    kind for kind, of in BUILDERS.items() if issubclass(of.config, WindowConfig) and not of.config().offline_only
]
AGENTS: dict[str, AgentConfig] = {
    "dqn": DqnConfig(**LINEAR, learning_rate_decay_steps=8_000),
    "dqn, not double": DqnConfig(**LINEAR, learning_rate_decay_steps=8_000, double=False),
    "dqn, dueling": DqnConfig(**LINEAR, learning_rate_decay_steps=8_000, dueling=True),
    "dqn, noisy": DqnConfig(**LINEAR, learning_rate_decay_steps=8_000, noisy=True, noisy_sigma=0.1),
    "dqn, squared loss": DqnConfig(**LINEAR, learning_rate_decay_steps=8_000, loss="mse"),
    # A histogram's loss is of the order of 1 whatever the returns are: the step size does not follow their span.
    "dqn, hl_gauss": DqnConfig(**LINEAR, learning_rate_decay_steps=4_000, hl_gauss=True),
    "dqn, munchausen": DqnConfig(**LINEAR, learning_rate_decay_steps=8_000, **MUNCHAUSEN),
    "c51": C51Config(**LINEAR, learning_rate_decay_steps=4_000),
    "c51, munchausen": C51Config(**LINEAR, learning_rate_decay_steps=4_000, **MUNCHAUSEN),
    "rainbow": RainbowConfig(**LINEAR, learning_rate_decay_steps=4_000, num_atoms=21, noisy_sigma=0.1),
    # The mean is that of the quantiles only if they are quantiles: kappa must be small beside the errors.
    "qr_dqn": QrDqnConfig(**LINEAR, learning_rate_decay_steps=4_000, kappa=0.01),
    "qr_dqn, munchausen": QrDqnConfig(**LINEAR, learning_rate_decay_steps=4_000, kappa=0.01, **MUNCHAUSEN),
    # Without hidden layers, a unit of the fractions' embedding is all that a state has, and its relu may be dead.
    "iqn": IqnConfig(
        **HIDDEN, learning_rate_decay_steps=6_000, kappa=0.05, quantile_samples=8, target_quantile_samples=8
    ),
    "boot_dqn": BootDqnConfig(**LINEAR, learning_rate_decay_steps=8_000, heads=3, loss="mse"),
    # A mean of rescaled values is not the rescaled mean: where there is chance, the fixed point is another.
    "r2d2": R2d2Config(
        **HIDDEN,
        learning_rate_decay_steps=4_000,
        lstm_units=32,
        burn_in=0,
        sequence=2,
        period=2,
        value_rescaling=False,
        loss="mse",
    ),
    "q_learning": QLearningConfig(
        learning_rate=0.1,
        learning_rate_final=0.0005,
        learning_rate_decay_steps=8_000,
        initial_value=1.0,  # the ends keep it: who bootstraps there is found out
    ),
}
for kind in set(VALUE_KINDS) - set(AGENTS):  # one that needs settings of its own has them above
    AGENTS[kind] = changed(BUILDERS[kind].config(**LINEAR, learning_rate_decay_steps=8_000), {"loss": "mse"})
UNIFORM = ReplayConfig()
PRIORITIZED = ReplayConfig(prioritized=True, importance_exponent=1.0, importance_exponent_steps=0)


def fitted(name: str, problem: Problem, **changes: Any) -> AgentConfig:
    """An agent's configuration for the discount and the range of a problem's returns."""
    config: Any = AGENTS[name]
    least, largest = problem.returns
    fit: dict[str, Any] = {"discount": problem.discount, "n_step": 1}
    if isinstance(config, C51Config):
        fit |= {"v_min": least, "v_max": largest}
    elif isinstance(config, DqnConfig) and config.hl_gauss:
        margin = 0.1 * (largest - least)  # what the smoothing cuts off at an end pulls its returns inwards
        fit |= {"v_min": least - margin, "v_max": largest + margin}
    elif not isinstance(config, (QLearningConfig, IqnConfig, R2d2Config)):  # those have hidden layers
        span = largest - least
        fit |= {
            "learning_rate": span * config.learning_rate,
            "learning_rate_final": span * config.learning_rate_final,
        }
    fitted_config: AgentConfig = msgspec.structs.replace(config, **fit | changes)
    return fitted_config


@lru_cache(maxsize=4)
def compiled_learner(config: Any, specs: Specs, replay: ReplayConfig) -> tuple[Learner, list[np.ndarray]]:
    """A learner, which takes longer to compile than to learn, and the state that it starts from."""
    learner = Learner(
        Experiment(
            agent=config,
            replay=replay,
            learner=LearnerConfig(batch_size=BATCH, steps_per_call=STEPS_PER_CALL, loop="compiled"),
        ),
        specs,
        devices=["CPU:0"],
    )
    learner.choose_loop()
    assert learner.loop == "compiled"
    return learner, [variable.numpy() for variable in learner.agent.variables]


def learn(
    config: Any,
    problem: Problem,
    drawn: np.ndarray | None = None,
    replay: ReplayConfig = UNIFORM,
    distort: Callable[[Trajectory], Trajectory] = lambda trajectory: trajectory,
) -> np.ndarray:
    """Q-values [S, A] after the compiled loop's gradient steps on experience of the problem."""
    learner, start = compiled_learner(config, problem.specs, replay)
    for variable, value in zip(learner.agent.variables, start, strict=True):
        variable.assign(value)
    random = np.random.default_rng(0)
    shape = (STEPS_PER_CALL, BATCH)
    for _ in range(config.learning_rate_decay_steps // STEPS_PER_CALL):
        trajectory, relative = experience(problem, shape, config.window_length, random, drawn)
        if config.state_units:
            zeros = tf.zeros((*shape, config.window_length, config.state_units))
            trajectory = trajectory._replace(policy_info=zeros)
        sample = Sample(
            distort(trajectory),
            tf.zeros(shape, tf.int32),
            tf.constant(relative, tf.float32),
            tf.zeros((STEPS_PER_CALL * BATCH,), tf.uint64),
        )
        assert not learner.learn(sample).skipped
    states = tf.range(len(problem.allowed))
    units = learner.agent.noise_units + config.state_units
    both = learner.agent.acting_model([states, tf.zeros((len(states), units))] if units else states)
    q = both[:, : problem.specs.num_actions]
    return np.asarray(q, np.float64)


def largest_error(problem: Problem, q: np.ndarray, reference: np.ndarray) -> float:
    """Over all actions, forbidden ones too, of all states that actions are taken in."""
    return float(np.abs(q - reference)[problem.states].max())


TABULAR = [name for name in VALUE_KINDS if name != "r2d2"]
LONG = ("rainbow", "iqn")
LEARNED = [
    (name, problem)
    for name in TABULAR
    for problem in ("slippery lake", "cliff", "chain")
    if (name, problem) not in {(long, "cliff") for long in LONG}
]
LEARNED_FIRST = [(name, "chain") for name in ("dqn", "c51", "qr_dqn", "q_learning")]
"""The chain has all that the others have, and masks; `LONG` learn for long."""


@pytest.mark.parametrize(("name", "problem"), tiered(LEARNED, LEARNED_FIRST, GROUP))
def test_every_kind_learns_the_optimal_q_values(name: str, problem: str) -> None:
    given = PROBLEMS[problem]
    q = learn(fitted(name, given), given)
    assert largest_error(given, q, optimal_q(given)) < given.bound


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["firm lake", "chain"])
def test_a_recurrent_network_comes_near_the_optimal_q_values(problem: str) -> None:
    # What an LSTM puts out lies within (-1, 1): it fits tables less well, and those of the cliff (-140) not at all.
    given = PROBLEMS[problem]
    q = learn(fitted("r2d2", given), given)
    assert largest_error(given, q, optimal_q(given)) < 0.12


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in AGENTS if name not in BUILDERS and "munchausen" not in name])
@pytest.mark.parametrize("problem", ["slippery lake", "chain"])
def test_every_variant_of_dqn_learns_the_optimal_q_values(name: str, problem: str) -> None:
    given = PROBLEMS[problem]
    q = learn(fitted(name, given), given)
    assert largest_error(given, q, optimal_q(given)) < given.bound


SOFT = [
    (f"{kind}, munchausen", problem)
    for kind, problem in (("dqn", "slippery lake"), ("dqn", "chain"), ("c51", "chain"), ("qr_dqn", "chain"))
]
"""C51 cannot learn the bonus where the support ends at the least return."""


@pytest.mark.parametrize(("name", "problem"), tiered(SOFT, [("dqn, munchausen", "chain")]))
def test_munchausen_learns_its_own_fixed_point_whose_greedy_policy_is_nearly_optimal(name: str, problem: str) -> None:
    given = PROBLEMS[problem]
    config: Any = fitted(name, given)
    q = learn(config, given)
    reference = munchausen_q(given, config.munchausen_scale, config.munchausen_temperature, config.munchausen_floor)
    best = optimal_q(given)
    distance = largest_error(given, reference, best)
    assert distance > given.bound  # its fixed point is not Q*
    assert largest_error(given, q, reference) < 0.25 * distance
    optimum = value_of_greedy(given, best)[given.states]
    assert np.abs(value_of_greedy(given, q)[given.states] - optimum).max() < 0.02 * np.abs(optimum).max()


@pytest.mark.parametrize("name", tiered(VALUE_KINDS, ["dqn", "q_learning"]))
def test_every_kind_learns_the_optimal_q_values_from_three_steps(name: str) -> None:
    given = PROBLEMS["belt"]
    # Huber's loss takes its mean for errors below 1 alone; those of three steps of the belt are larger.
    q = learn(fitted("dqn, squared loss" if name == "dqn" else name, given, n_step=3), given)
    assert largest_error(given, q, optimal_q(given)) < given.bound


@pytest.mark.slow
@pytest.mark.xdist_group(f"{GROUP} q_learning")
def test_the_greedy_policy_of_q_learning_is_worth_the_optimum_on_the_slippery_lake() -> None:
    given = PROBLEMS["slippery lake"]
    q = learn(fitted("q_learning", given), given)
    optimum = value_of_greedy(given, optimal_q(given))[given.start]
    assert value_of_greedy(given, q)[given.start] == pytest.approx(optimum, rel=0.02)


@pytest.mark.parametrize(("replay", "is_right"), [(PRIORITIZED, True), (UNIFORM, False)])
def test_importance_weights_undo_what_the_drawing_prefers(replay: ReplayConfig, is_right: bool) -> None:
    given = PROBLEMS["slippery lake"]
    preferred = given.probability * np.linspace(2.0, 1.0, given.probability.shape[2])
    preferred /= preferred.sum(axis=2, keepdims=True)
    q = learn(fitted("dqn", given), given, preferred, replay)
    assert (largest_error(given, q, optimal_q(given)) < given.bound) == is_right


def mask_nothing(trajectory: Trajectory) -> Trajectory:
    observation, mask = trajectory.observation
    return trajectory._replace(observation=(observation, tf.ones_like(mask)))


WRONG: dict[str, tuple[dict[str, Any], Callable[[Trajectory], Trajectory]]] = {
    "another discount": ({"discount": 0.8}, lambda trajectory: trajectory),
    "terminations ignored": ({}, lambda t: t._replace(discount=tf.ones_like(t.discount))),
    "truncations taken for terminations": (
        {},
        lambda t: t._replace(discount=tf.where(t.next_step_type == LAST, 0.0, t.discount)),
    ),
    "resets taken for steps": ({}, lambda t: t._replace(step_type=tf.minimum(t.step_type, MID))),
    "mask ignored": ({}, mask_nothing),
}


WRONGED = [(name, wrong) for name in ("dqn", "q_learning") for wrong in WRONG]


@pytest.mark.parametrize(("name", "wrong"), tiered(WRONGED, WRONGED, GROUP))
def test_a_wrong_agent_exceeds_the_bound(name: str, wrong: str) -> None:
    given = PROBLEMS["chain"]
    changes, distort = WRONG[wrong]
    q = learn(fitted(name, given, **changes), given, distort=distort)
    assert largest_error(given, q, optimal_q(given)) > given.bound


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_bounds_tell_a_discount_from_its_neighbours(problem: str) -> None:
    given = PROBLEMS[problem]
    for discount in (0.85, 0.95):
        other = optimal_q(given._replace(discount=discount))
        assert largest_error(given, other, optimal_q(given)) > given.bound
