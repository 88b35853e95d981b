"""Double-buffered halves of the lanes: one half steps while the other's scores are computed."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import Specs
from benchmarks.measure import median, rates, spread
from pipeline import Experiment, environments
from pipeline.acting.central_actor import CentralActor
from pipeline.collector.boundaries import mark
from pipeline.collector.central_collector import CentralCollector
from pipeline.collector.collector import Collector
from pipeline.messages.contents import Variables


class _Asked(CentralActor):
    """Asks first, and takes the answer later."""

    def ask_for(self, observation: dict[str, NDArray[Any]]) -> None:
        """Sends a request."""
        assert self._connection is not None
        changed = np.flatnonzero((self.state != self._told).any(axis=1)) if self._told is not None else None
        if changed is None:
            changed = np.arange(self._lanes if self.state.shape[1] else 0)
        size = self._layout.write_request(self._buffer, observation, None, changed, self.state)
        self._send(self._connection, memoryview(self._buffer)[:size])

    def q_values(self, *_: Any) -> NDArray[np.float32]:
        """The answer."""
        assert self._connection is not None
        self._receive(self._connection, self._reply_view)
        reply = self._layout.read_reply(self._reply)
        self.version = reply.version
        if self.state.shape[1]:
            self._told, self.state = reply.states, reply.states.copy()
        return reply.scores


class Half(CentralCollector):
    """Some lanes of a collector, as if they were all; `waits` takes the seconds that it waits for scores."""

    def __init__(
        self,
        inference: str,
        experiment: Experiment,
        specs: Specs,
        process: str,
        replay: str,
        variables: Variables,
        waits: list[float],
    ) -> None:
        self._waits = waits

        def make(_: Any, seen: Specs, *__: Any) -> CentralActor:
            self._central = self._asked = _Asked(inference, experiment, seen, process, lambda: True)
            return self._central

        Collector.__init__(self, experiment, specs, 0, process, replay, variables, make=make)

    def ask(self) -> None:
        """Sends what the lanes see."""
        self._fill()
        observation = self._seen.observation
        if self._stack is not None:
            observation = self._stack.push(observation, self._step_type == 0)
        self._asked.ask_for(observation)

    def step(self) -> None:
        """Takes the answer, and steps."""
        began = time.perf_counter()
        scores = self._asked.q_values()
        self._waits.append(time.perf_counter() - began)
        actions = self._choose(scores)
        self._write(mark(self._step_lanes(actions, scores), self._step_type), scores)


def measure(experiment: Experiment, seconds: float, repeats: int) -> list[tuple[str, ...]]:
    """Rows of the table: how one process steps all lanes together, in two halves, or one half while the other acts.

    Args:
      experiment: of the environment and the network, which acts in this process.
      seconds: of one measurement.
      repeats: measurements of each.
    """
    from agents import build
    from pipeline.acting.frame_stacks import FrameStack, stacked
    from pipeline.acting.network_program import convert, convolves_much, make_actor

    specs, frames = environments.describe(experiment.environment), experiment.environment.frame_stack
    seen = stacked(specs, frames)
    model = build(experiment.agent.kind, seen, experiment.agent).acting_model
    program, weights = b"" if convolves_much(model) else convert(model, seen), model.get_weights()

    class Group:
        """Some of the lanes."""

        def __init__(self, lanes: int) -> None:
            self.lanes = lanes
            self._environment = environments.make(experiment.environment, lanes)
            self._stack = FrameStack(specs, frames, lanes)
            self._actor = make_actor(experiment.agent, seen, lanes, program, weights)
            self._observation = self._environment.reset(0).observation

        def scores(self) -> Any:
            return self._actor.q_values(self._stack.push(self._observation, np.zeros(self.lanes, np.bool_)))

        def step(self, scores: Any) -> None:
            self._observation = self._environment.step(scores.argmax(axis=1)).observation

    lanes = experiment.collect.lanes
    whole, halves = Group(lanes), [Group(lanes // 2) for _ in range(2)]
    thread = ThreadPoolExecutor(1)

    def together() -> int:
        whole.step(whole.scores())
        return whole.lanes

    def in_turn() -> int:
        for half in halves:
            half.step(half.scores())
        return whole.lanes

    asked = [thread.submit(half.scores) for half in halves]

    def double_buffered() -> int:
        for number, half in enumerate(halves):
            half.step(asked[number].result())  # the other half's scores are being computed
            asked[number] = thread.submit(half.scores)
        return whole.lanes

    forms = {"all lanes": together, "two halves": in_turn, "one half while the other acts": double_buffered}
    rates(forms, 1.0, 1)  # warm up
    speeds = rates(forms, seconds, repeats)
    used = rates(forms, seconds, repeats, time.process_time)
    return [(name, spread(speeds[name]), f"{1e3 / median(used[name]):.3g}") for name in forms]
