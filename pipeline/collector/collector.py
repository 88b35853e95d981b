"""A collector: steps its lanes, explores, and writes frames into the replay. No TensorFlow."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import psutil
from numpy.typing import NDArray

from agents import Specs
from agents.configs import WindowConfig
from agents.exploration import epsilon, explore
from agents.novelty import CountBonus
from agents.priorities import Judge
from pipeline import environments
from pipeline.acting.frame_stacks import FrameStack
from pipeline.acting.network_program import Actor, make_actor
from pipeline.environments import LaneStep
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import CollectorReport, Counts, Variables
from pipeline.replay.frames import FIRST, LAST, MID, FrameLayout
from pipeline.replay.shards.permits import Permits
from pipeline.replay.writer import FrameWriter

if TYPE_CHECKING:
    from pipeline.messages.traffic import Traffic
    from pipeline.messages.variables_reader import VariablesReader


def seed_of(experiment: Experiment, *stream: int) -> int:
    """A seed for one purpose, independent of those of other streams."""
    return int(np.random.SeedSequence([experiment.seed, *stream]).generate_state(1)[0] >> 1)


class Collector:
    """One collector with its environments.

    Args:
      experiment: the run.
      specs: of its environment.
      index: which of the run's collectors this is, from 0.
      process: identifies this process in reports.
      address: of the replay server.
      variables: the learner's first publication.
      incarnation: how often this collector was started before; it has a seed stream of its own.
      traffic: of this process, if it does nothing but collect; None counts none.
      permits: of a replay of several shards.
    """

    def __init__(
        self,
        experiment: Experiment,
        specs: Specs,
        index: int,
        process: str,
        address: str,
        variables: Variables,
        incarnation: int = 0,
        traffic: "Traffic | None" = None,
        permits: Permits | None = None,
    ) -> None:
        collect = experiment.collect
        self._experiment, self._index, self._process = experiment, index, process
        self._random = np.random.default_rng([experiment.seed, 1, index, incarnation])
        self._environment = environments.make(experiment.environment, collect.lanes, collect.faulty_episodes)
        self._layout = FrameLayout.of(experiment, specs)
        self._frames = self._layout.empty(collect.lanes)
        self._fields = {name: self._frames[name] for name, _ in self._layout.fields()}  # views
        self._writer, self._permits, self._spent = FrameWriter.of(experiment, self._layout, address), permits, 0
        exploration = experiment.exploration
        seed = seed_of(experiment, 4, index, incarnation)
        bonus = exploration.count_bonus
        self._bonus = CountBonus(specs, bonus, exploration.count_cells, seed) if bonus else None
        agent, replay = experiment.agent, experiment.replay
        judged = replay.prioritized and replay.initial_priority == "td_error"
        self._judge: Judge | None = None
        if judged and isinstance(agent, WindowConfig):
            self._judge = Judge(agent.window_length, agent.discount, agent.reward_clip)
        self._seen = self._environment.reset(seed_of(experiment, 2, index, incarnation))
        self._step_type = np.full(collect.lanes, FIRST, np.uint8)
        self._variables = variables
        self._variables_since = time.monotonic()
        weights = [array.numpy() for array in variables.weights]
        self._actor: Actor = make_actor(
            experiment.agent, self._layout.agent_specs, collect.lanes, variables.program, weights, collect.threads
        )
        self._stack = FrameStack(specs, experiment.environment.frame_stack, collect.lanes)
        self._unanswered: NDArray[np.float32] | None = None  # scores of a step that the environment broke off
        self._epsilon = 1.0
        self._environment_steps = self._episodes = self._shielded_steps = 0
        self._reward_sizes, self._largest_rewards = np.zeros((2, collect.lanes), np.float32)
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self._blocked_seconds = 0.0
        self._process_info = psutil.Process()
        self._traffic = traffic
        self._bytes_sent = self._bytes_received = 0

    @property
    def environment_steps(self) -> int:
        """Environment steps of this collector; resets are none."""
        return self._environment_steps

    @property
    def has_completed_window(self) -> bool:
        """Whether the newest step completed a window of frames."""
        return self._writer.has_completed_window

    def renew(self, reader: "VariablesReader", keep_waiting: Callable[[], bool]) -> None:
        """Waits for weights newer than those acting, and acts with them from the next step on.

        Args:
          reader: of publications.
          keep_waiting: asked again and again; False gives up and keeps the weights.

        Raises:
          TimeoutError: there were none for `collect.away_seconds`.
        """
        started, version = time.monotonic(), self._variables.version

        def go_on() -> bool:
            if time.monotonic() - started > self._experiment.collect.away_seconds:
                raise TimeoutError(
                    f"collector {self._index} has handed over its sequences and waited "
                    f"{time.monotonic() - started:.0f} s for the learner's weights of gradient step {version[-1] + 1}"
                )
            return keep_waiting()

        newer = reader.newer_than(version, go_on)
        self._blocked_seconds += time.monotonic() - started
        if newer is not None:
            self.use(newer)

    def use(self, variables: Variables) -> None:
        """Acts with a newer publication from the next step on."""
        if variables.version != self._variables.version:
            self._actor.set_weights([array.numpy() for array in variables.weights])
            self._variables_since = time.monotonic()
        self._variables = variables
        self._writer.initial_priority = variables.initial_priority

    def step(self) -> None:
        """One step of every lane: act, step the environment, append the frames."""
        environment, fields, seen = self._environment, self._fields, self._seen
        actor = self._actor
        begins = self._step_type == FIRST
        if self._layout.state_units:
            actor.state[begins] = 0.0
            fields["state"][:] = actor.state
        scores = actor.q_values(self._stack.push(seen.observation, begins), self._random)
        self._shielded_steps += self._environment.overruled(scores)
        steps = max(self._variables.environment_steps, self._environment_steps)
        exploration = self._experiment.exploration
        self._epsilon = epsilon(exploration, steps, self._index, self._experiment.collectors)
        actions = explore(exploration, scores, self._epsilon, self._random, seen.mask)

        self._fill(seen, actions)
        resets = int(np.count_nonzero(environment.resetting)) if environment.any_resetting else 0
        was_resetting = environment.resetting
        self._unanswered = scores
        self._seen = step = environment.step(actions)
        self._unanswered = None
        self._step_type[:] = MID
        if environment.any_resetting or resets:
            self._step_type[environment.resetting] = LAST
            self._step_type[was_resetting] = FIRST
        no_step = was_resetting
        if step.cut is not None:  # what these frames hold is the end of their episode, as after a truncation
            fields["step_type"][step.cut] = LAST
            self._step_type[step.cut] = FIRST
            no_step = was_resetting | step.cut
            resets = int(np.count_nonzero(no_step))
        fields["reward"][:] = step.reward
        if self._bonus is not None:  # a reset earns nothing
            fields["reward"] += np.where(no_step, 0.0, self._bonus(step.observation))
        np.abs(fields["reward"], out=self._reward_sizes)
        np.maximum(self._largest_rewards, self._reward_sizes, out=self._largest_rewards)
        fields["terminated"][:] = step.terminated
        fields["next_step_type"][:] = self._step_type
        priorities = None
        if self._judge is not None:
            ended = fields["step_type"] == LAST
            priorities = self._judge.add(scores, seen.mask, actions, fields["reward"], step.terminated, ended)
        self._writer.append(self._frames, priorities)

        self._environment_steps += environment.lanes - resets
        _, returns, lengths = environment.episode_ends()
        self._episodes += len(returns)
        self._returns += returns
        self._lengths += lengths

    def _fill(self, seen: LaneStep, actions: NDArray[np.int64]) -> None:
        """Writes what the lanes saw and did into their frames, before the environment reuses its arrays."""
        fields = self._fields
        for name, values in seen.observation.items():
            fields[self._layout.leaf_field(name)][...] = values
        if seen.mask is not None:
            fields["mask"][...] = seen.mask
        fields["action"][:] = actions
        fields["step_type"][:] = self._step_type
        fields["gradient_steps"][:] = self._variables.gradient_steps

    def confirm(self, keep_waiting: Callable[[], bool], everything: bool = False) -> bool:
        """Waits while the rate limiter holds inserts back; see `FrameWriter.confirm` and `Permits.confirm`."""
        started = time.monotonic()
        confirmed = self._writer.confirm(keep_waiting, everything)
        if self._permits is not None:
            stored = self._writer.confirmed_transitions
            self._permits.spend(stored - self._spent)
            self._spent = stored
            if not everything:  # at the end of a run nobody is to be waited for
                confirmed = self._permits.confirm(keep_waiting) and confirmed
        self._blocked_seconds += time.monotonic() - started
        return confirmed

    def complete(self) -> None:
        """Pads the lanes' ends so that each of their steps is stored; before the last `confirm`, and no step follows.

        The newest observations become ends of their episodes, which are bootstrapped from as after a truncation. Of an
        on-policy kind nothing is padded: it learns from no more of a run that ends.
        """
        missing, fields, judge = self._writer.missing, self._fields, self._judge
        if not missing:
            return
        scores = self._unanswered
        if scores is None:  # else the frames hold what the lanes saw last: the step from it failed
            seen = self._seen
            self._fill(seen, np.zeros(len(self._frames), np.int64) if seen.mask is None else seen.mask.argmax(axis=1))
            if judge is not None:
                scores = self._actor.q_values(self._stack.push(seen.observation, self._step_type == FIRST))
        fields["step_type"][:] = fields["next_step_type"][:] = LAST
        fields["reward"][:] = 0.0
        fields["terminated"][:] = False
        ended = fields["step_type"] == LAST
        for _ in range(missing):
            priorities = None
            if judge is not None and scores is not None:
                more = fields["action"], fields["reward"], fields["terminated"], ended
                priorities = judge.add(scores, fields.get("mask"), *more)
            self._writer.pad(self._frames, priorities)

    @property
    def counts(self) -> Counts:
        """What this process has collected so far."""
        writer = self._writer
        return Counts(
            environment_steps=self._environment_steps,
            episodes=self._episodes,
            begun=writer.begun_transitions,
            transitions=writer.confirmed_transitions,
            items=writer.confirmed_items,
            shielded_steps=self._shielded_steps,
            dropped_episodes=self._environment.faults.dropped_episodes,
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
        )

    def report(self, newest: Variables, last: bool = False, fault: str = "") -> CollectorReport:
        """Counts so far, and the episodes ended since the last report."""
        if self._traffic is not None:
            self._bytes_sent, self._bytes_received = self._traffic.read()
        returns, lengths, counts = tuple(self._returns), tuple(self._lengths), self.counts
        self._returns.clear()
        self._lengths.clear()
        return CollectorReport(
            index=self._index,
            process=self._process,
            environment_steps=counts.environment_steps,
            transitions=counts.transitions,
            unconfirmed=counts.begun - counts.transitions,
            episodes=counts.episodes,
            returns=returns,
            lengths=lengths,
            epsilon=self._epsilon,
            weights_age=newest.gradient_steps - self._variables.gradient_steps,
            weights_seconds=time.monotonic() - self._variables_since,
            blocked_seconds=self._blocked_seconds,
            resident_bytes=self._process_info.memory_info().rss,
            shielded_steps=counts.shielded_steps,
            items=counts.items,
            dropped_episodes=counts.dropped_episodes,
            bytes_sent=counts.bytes_sent,
            bytes_received=counts.bytes_received,
            newest_fault=self._environment.faults.newest,
            largest_reward=float(self._largest_rewards.max()),
            last=last,
            fault=fault,
        )

    def close(self) -> None:
        """Ends the connection and releases the environments."""
        self._writer.close()
        if self._permits is not None:
            self._permits.close()
        self._environment.close()
