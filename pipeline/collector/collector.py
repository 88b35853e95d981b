"""A collector: steps its lanes, explores, and writes frames into the replay. No TensorFlow."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agents import Specs
from agents.exploration import epsilon, explore, greedy
from pipeline import environments
from pipeline.acting.network_program import Actor, make_actor
from pipeline.collector.boundaries import Boundaries, Marks, mark
from pipeline.collector.statistics import CollectorStatistics
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import CollectorReport, Counts, Variables
from pipeline.replay.frames import FIRST, LAST, FrameLayout
from pipeline.replay.writer import FrameWriter

if TYPE_CHECKING:
    from agents.initial_priorities import TdErrorWindow
    from agents.ladder import Ladder
    from agents.novelty import Bonus
    from pipeline.acting.frame_stacks import FrameStack
    from pipeline.messages.traffic import Traffic
    from pipeline.replay.shards.permits import Permits


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
      make: the actor.
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
        permits: "Permits | None" = None,
        make: Callable[..., Actor] = make_actor,
    ) -> None:
        self._experiment, self.index, self._process, collect = experiment, index, process, experiment.collect
        lanes = collect.lanes
        self._random = np.random.default_rng([experiment.seed, 1, index, incarnation])
        self._layout = FrameLayout.of(experiment, specs)
        self._writer = FrameWriter.of(experiment, self._layout, address)  # first: its server may have gone
        self._environment = environments.make(
            experiment.environment, lanes, collect.faulty_episodes, masked=specs.masked, info_keys=collect.info_keys
        )
        self._frames = self._layout.empty(lanes)
        self._fields = {name: self._frames[name] for name, _ in self._layout.fields()}  # views
        self._observed = {name: self._fields[self._layout.leaf_field(name)] for name in specs.leaves()}
        self._permits, self._spent = permits, 0
        self._bonus = _novelty_bonus(experiment, specs, experiment.seed_of(4, index, incarnation))
        self._writer.initial_priority = variables.initial_priority
        self._td_errors = _td_error_window(experiment, specs)
        self._seen = self._environment.reset(experiment.seed_of(2, index, incarnation))
        self._step_type = np.full(lanes, FIRST, np.uint8)  # of the frames that come next
        self._variables, self._variables_since = variables, time.monotonic()
        self._allowance, self._is_complete = variables.allowance(process), False
        weights = [array.numpy() for array in variables.weights]
        self._actor = make(
            experiment.agent, self._layout.agent_specs, lanes, variables.program, weights, collect.threads
        )
        self._stack, self._ladder = _frame_stack(experiment, specs), _ladder(experiment, index)
        self._unanswered: NDArray[np.float32] | None = None  # scores of a step that the environment broke off
        self._statistics = CollectorStatistics(index, process, lanes, traffic)

    @property
    def environment_steps(self) -> int:
        """Environment steps of this collector; resets are none."""
        return self._statistics.environment_steps

    @property
    def has_completed_window(self) -> bool:
        """Whether the newest step completed a window of frames."""
        return self._writer.book.has_completed_window

    @property
    def version(self) -> tuple[int, int, int]:
        """Of the weights that act; see `Announcement.version`."""
        return self._variables.version

    def use(self, variables: Variables) -> None:
        """Acts with a newer publication from the next step on."""
        if variables is self._variables:
            return
        if variables.version != self._variables.version:
            self._actor.set_weights([array.numpy() for array in variables.weights])
            self._variables_since = time.monotonic()
        self._variables = variables
        self._writer.initial_priority = variables.initial_priority
        self._allowance = variables.allowance(self._process)

    @property
    def may_step(self) -> bool:
        """Whether the run's budget of environment steps, as far as it is known here, leaves this collector any."""
        taken = self._statistics.environment_steps + self._experiment.collect.lanes
        return taken <= self._allowance and not self._is_complete

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts what passes within as time that the collector was held back."""
        started = time.monotonic()
        yield
        self._statistics.blocked_seconds += time.monotonic() - started

    def step(self) -> None:
        """Steps every lane once: see, choose, step, mark boundaries, write."""
        scores = self._see()
        actions = self._choose(scores)
        boundaries = self._step_lanes(actions, scores)
        marks = mark(boundaries, self._step_type)
        self._write(marks, scores)

    def _see(self) -> NDArray[np.float32]:
        """Writes what the lanes see into their frames; returns the network's scores of it, [lanes, actions]."""
        self._fill()
        return self._scores(self._random)

    def _choose(self, scores: NDArray[np.float32]) -> NDArray[np.int64]:
        """Chooses each lane's action by its scores, with exploration, and writes it into the lane's frame."""
        statistics, exploration = self._statistics, self._experiment.exploration
        statistics.shielded_steps += self._environment.overruled(scores)
        # A publication may be older than what this collector itself has done since.
        steps = max(self._variables.environment_steps, statistics.environment_steps)
        epsilons: Any = epsilon(exploration, steps, 0 if self._ladder else self.index, self._experiment.collectors)
        statistics.epsilon = epsilons
        if self._ladder is not None:
            epsilons = self._ladder(epsilons, self._step_type == FIRST, self._random)
            statistics.epsilon = float(epsilons.mean())
        actions = explore(exploration, scores, epsilons, self._random, self._seen.mask, self._layout.specs.action_sizes)
        self._fields["action"][:] = actions
        return actions

    def _step_lanes(self, actions: NDArray[np.int64], scores: NDArray[np.float32]) -> Boundaries:
        """Takes the actions in the environments; returns in which lanes an episode began or ended."""
        environment = self._environment
        resets, self._unanswered = environment.resetting, scores
        self._seen = environment.step(actions)
        self._unanswered = None
        return Boundaries(resets, environment.resetting, self._seen.cut)

    def _write(self, marks: Marks, scores: NDArray[np.float32]) -> None:
        """Writes what the step returned into the frames, appends them to the replay, and counts the step."""
        fields, step = self._fields, self._seen
        fields["step_type"][:] = marks.step_type
        fields["next_step_type"][:] = marks.next_step_type
        self._step_type = marks.next_step_type
        reward = fields["reward"]
        reward[:] = step.reward
        if self._bonus is not None:  # a reset earns nothing
            reward += np.where(marks.taken, self._bonus(step.observation), 0.0)
        fields["terminated"][:] = step.terminated
        self._writer.append(self._frames, self._priorities(scores))
        self._statistics.add_step(marks.environment_steps, reward, self._environment.episode_ends())
        if self._environment.ended_infos:
            self._statistics.add_infos(self._environment.ended_infos.values())

    def _fill(self) -> None:
        """Writes what the lanes see into their frames, before the environment reuses its arrays."""
        seen, fields = self._seen, self._fields
        for name, field in self._observed.items():
            field[...] = seen.observation[name]
        if seen.mask is not None:
            fields["mask"][...] = seen.mask
        fields["gradient_steps"][:] = self._variables.gradient_steps

    def _scores(self, random: np.random.Generator | None) -> NDArray[np.float32]:
        """The network's scores of what the lanes see and, where it has memory, have seen in their episodes."""
        observation = self._seen.observation
        if self._stack is not None:
            observation = self._stack.push(observation, self._step_type == FIRST)
        if self._layout.state_units:
            self._experiment.agent.begin_states(self._actor.state, self._step_type == FIRST, self._random)
            self._fields["state"][:] = self._actor.state
        return self._actor.q_values(observation, random)

    def _priorities(self, scores: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        """Priorities of the windows that the frames complete; None leaves them to the writer."""
        if self._td_errors is None or scores is None:
            return None
        fields = self._fields
        ended = fields["step_type"] == LAST
        taken = fields["action"], fields["reward"], fields["terminated"]
        return self._td_errors.add(scores, fields.get("mask"), *taken, ended)

    def confirm(self, keep_waiting: Callable[[], bool], everything: bool = False) -> bool:
        """Waits while the rate limiter holds inserts back; see `FrameWriter.confirm` and `Permits.confirm`."""
        started = time.monotonic()
        confirmed = self._writer.confirm(keep_waiting, everything)
        if self._permits is not None:
            stored = self._writer.book.confirmed_windows
            self._permits.spend(stored - self._spent)
            self._spent = stored
            if not everything:  # at the end of a run nobody is to be waited for
                confirmed = self._permits.confirm(keep_waiting) and confirmed
        self._statistics.blocked_seconds += time.monotonic() - started
        return confirmed

    def complete(self) -> None:
        """Pads the lanes' ends so that each of their steps is stored; before the last `confirm`, and no step follows.

        The newest observations become ends of their episodes, which are bootstrapped from as after a truncation. An
        on-policy kind pads nothing: its learner takes nothing more once the run ends.
        """
        self._is_complete = True
        missing, fields = self._writer.book.missing, self._fields
        if not missing:
            return
        scores = self._unanswered
        if scores is None:  # else the frames hold what the lanes saw last: the step from it failed
            self._fill()
            mask = self._seen.mask
            # Any that is allowed: none is taken.
            fields["action"][:] = 0 if mask is None else greedy(1.0 * mask, mask, self._layout.specs.action_sizes)
            scores = None if self._td_errors is None else self._scores(None)
        fields["step_type"][:] = fields["next_step_type"][:] = LAST
        fields["reward"][:] = 0.0
        fields["terminated"][:] = False
        for _ in range(missing):
            self._writer.pad(self._frames, self._priorities(scores))

    @property
    def counts(self) -> Counts:
        """What this process has collected so far."""
        return self._statistics.counts(self._writer.book, self._environment.faults)

    def report(self, newest: Variables, last: bool = False, fault: str = "") -> CollectorReport:
        """Counts so far, and the episodes ended since the last report.

        Args:
          newest: the newest publication, for the age of the weights that act.
          last: no report follows.
          fault: that ended the collector; empty without one.
        """
        return self._statistics.report(
            self._writer.book,
            self._environment.faults,
            newest.gradient_steps - self._variables.gradient_steps,
            time.monotonic() - self._variables_since,
            last,
            fault,
        )

    def close(self) -> None:
        """Ends the connection and releases the environments."""
        self._writer.close()
        if self._permits is not None:
            self._permits.close()
        self._environment.close()


def _novelty_bonus(experiment: Experiment, specs: Specs, seed: int) -> "Bonus | None":
    """A reward for what is new, where the config pays one."""
    if not experiment.exploration.paid_by:
        return None
    from agents.novelty import bonus_of

    if experiment.environment.previous_step:  # what was done says nothing of a state
        from pipeline.environments.lanes.wrappers import without_previous_step

        specs = without_previous_step(specs)
    return bonus_of(experiment.exploration, specs, seed)


def _ladder(experiment: Experiment, index: int) -> "Ladder | None":
    """Epsilons of lanes or episodes, where the config spreads them so."""
    if experiment.exploration.ladder_by == "collector":
        return None
    from agents.ladder import Ladder

    return Ladder(experiment.exploration, index, experiment.collectors, experiment.collect.lanes)


def _td_error_window(experiment: Experiment, specs: Specs) -> "TdErrorWindow | None":
    """Priorities of new windows from the collector's own TD errors, where the config asks for them."""
    agent, replay = experiment.agent, experiment.replay
    if not (replay.prioritized and replay.initial_priority == "td_error" and agent.priority_unit == "return"):
        return None
    from agents.initial_priorities import TdErrorWindow

    return TdErrorWindow(agent.window_length, agent.discount, agent.reward_clip, specs.action_sizes)


def _frame_stack(experiment: Experiment, specs: Specs) -> "FrameStack | None":
    """The newest observations of each lane, where the network sees more than one."""
    frames = experiment.environment.frame_stack
    if frames == 1:
        return None
    from pipeline.acting.frame_stacks import FrameStack

    return FrameStack(specs, frames, experiment.collect.lanes)
