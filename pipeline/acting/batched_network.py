"""The network of the acting server: one call for the lanes of several collectors.

A program has a fixed number of lanes, so there is one for 1, 2, 4, 8 ... collectors at once. Each is warm before the
first request comes, and takes new weights when it is next used.
"""

from collections.abc import Sequence

import numpy as np

from agents import Specs
from agents.config_fields import KindOfAgent
from pipeline.acting.central_words import Floats, Reply, Request
from pipeline.acting.network_program import Actor, make_actor
from pipeline.messages.contents import Variables


class BatchedNetwork:
    """Answers requests of collectors, several at once.

    Args:
      config: of the agent.
      specs: of what the network sees.
      lanes: of each collector.
      collectors: of the run: no more are answered at once.
      variables: a publication.
      threads: CPU threads of the network.
    """

    def __init__(
        self, config: KindOfAgent, specs: Specs, lanes: int, collectors: int, variables: Variables, threads: int
    ) -> None:
        self._lanes, self._actions = lanes, specs.num_actions
        self.variables = variables
        """The publication whose weights act from the next call on."""
        self._programs: dict[int, tuple[Actor, tuple[int, int, int]]] = {}
        weights = [array.numpy() for array in variables.weights]
        zeros = {name: np.zeros((lanes * collectors, *spec.shape), spec.dtype) for name, spec in specs.leaves().items()}
        self.most = 1 << (collectors.bit_length() - 1)
        """Requests of a call, at most."""
        for power in range(self.most.bit_length()):
            rows = lanes << power
            actor = make_actor(config, specs, rows, variables.program, weights, threads)
            actor.q_values({name: leaf[:rows] for name, leaf in zeros.items()})
            self._programs[1 << power] = actor, variables.version
        shape = self._programs[1][0].noise_shape
        self.noise_units = shape[1] if shape else 0

    def answer(self, requests: Sequence[Request], states: Sequence[Floats]) -> list[Reply]:
        """Answers requests.

        Args:
          requests: 1, 2, 4, 8 ... of them, at most `most`.
          states: of the lanes of each, float32 [lanes, state_units], before its request: they are brought up to date.
        """
        actor, version = self._programs[len(requests)]
        if version != self.variables.version:
            version = self.variables.version
            actor.set_weights([array.numpy() for array in self.variables.weights])
            self._programs[len(requests)] = actor, version
        for request, state in zip(requests, states, strict=True):
            state[request.lanes] = request.states
        if actor.state.shape[1]:
            actor.state = np.concatenate(states)
        first = requests[0]
        observation = first.observation
        if len(requests) > 1:
            observation = {name: np.concatenate([each.observation[name] for each in requests]) for name in observation}
        scores = actor.q_values(observation, self._noise(requests))
        replies = []
        for number, state in enumerate(states):
            rows = slice(number * self._lanes, (number + 1) * self._lanes)
            state[...] = actor.state[rows]
            replies.append(Reply(version, scores[rows], state))
        return replies

    def _noise(self, requests: Sequence[Request]) -> Floats | None:
        if not self.noise_units or all(request.noise is None for request in requests):
            return None
        none = np.zeros((self._lanes, self.noise_units), np.float32)
        noise: Floats = np.concatenate([none if request.noise is None else request.noise for request in requests])
        return noise
