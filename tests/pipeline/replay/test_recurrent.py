"""What a recurrent agent asks of the data path: sequences that overlap, and the states that acted, with each frame."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from replay_writing import write_frames

import agents
from agents import Specs
from pipeline.acting import network_program
from pipeline.collector.collector import Collector
from pipeline.messages.contents import Array, Variables
from pipeline.replay.frames import FIRST, LAST, FrameLayout

RECURRENT = (
    'agent.kind="r2d2"',
    "agent.hidden_units=[8]",
    "agent.lstm_units=6",
    "agent.burn_in=2",
    "agent.sequence=4",
    "agent.n_step=1",
    "agent.period=3",
)
LENGTH, PERIOD, BURN_IN = 7, 3, 2


@pytest.mark.parametrize("lanes_per_item", [1, 4])
def test_sequences_begin_every_period_and_none_is_lost(
    serve: Any, make_experiment: Callable[..., Any], counting_specs: Specs, lanes_per_item: int
) -> None:
    experiment = make_experiment(*RECURRENT, f"replay.lanes_per_item={lanes_per_item}")
    assert (experiment.item_length, experiment.windows_per_item) == (LENGTH, lanes_per_item)
    layout, server, steps = FrameLayout(counting_specs, 12), serve(experiment, counting_specs), 100
    frames = np.stack([layout.empty(4) for _ in range(steps)])
    frames["action"], frames["gradient_steps"] = np.arange(4), np.arange(steps)[:, None]
    frames["state"] = np.arange(steps, dtype=np.float32)[:, None, None]
    writer = write_frames(server, experiment, layout, frames)
    starts = [max(0, start - BURN_IN) for start in range(0, steps - LENGTH + BURN_IN + 1, PERIOD)]
    assert server.tally().inserted == len(starts) * 4 // lanes_per_item
    assert (writer.book.confirmed_windows, writer.book.unconfirmed_windows) == (len(starts) * 4, 0)
    seen = set()
    for sample in server.dataset().take(40).as_numpy_iterator():
        trajectory = sample.trajectory
        assert trajectory.reward.shape[2] == LENGTH
        begin = sample.gradient_steps[..., np.newaxis]
        is_first = (trajectory.step_type[..., 0] == LAST)[..., np.newaxis]  # padding lies before it
        expected = np.where(is_first, np.maximum(np.arange(LENGTH) - BURN_IN, 0), begin + np.arange(LENGTH))
        assert (trajectory.policy_info[..., 0] == expected).all()
        seen |= set(zip(sample.gradient_steps.ravel(), trajectory.action[:, :, BURN_IN].ravel(), strict=True))
    assert seen == {(start, lane) for start in starts for lane in range(4)}


def test_a_collector_stores_the_states_that_acted(
    serve: Any, make_experiment: Callable[..., Any], counting_specs: Specs
) -> None:
    experiment = make_experiment(*RECURRENT)
    server = serve(experiment, counting_specs)
    agent = agents.build("r2d2", counting_specs, experiment.agent)
    program = network_program.convert(agent.acting_model, counting_specs, experiment.agent.state_units)
    weights = tuple(Array.of(weight) for weight in agent.acting_model.get_weights())
    variables = Variables(0, 0, program=program, weights=weights)
    collector = Collector(experiment, counting_specs, 0, "process", server.address, variables)
    for _ in range(40):
        collector.step()
        assert collector.confirm(lambda: True)
    assert collector.confirm(lambda: True, everything=True)
    begun = 0
    for sample in server.dataset().take(3).as_numpy_iterator():
        trajectory = sample.trajectory
        flat = [
            leaf.reshape(-1, *leaf.shape[2:])
            for leaf in (trajectory.observation, trajectory.step_type, trajectory.policy_info)
        ]
        for observation, step_type, stored in zip(*flat, strict=True):
            state = stored[0]
            for t in range(LENGTH):
                if step_type[t] == FIRST:
                    state, begun = np.zeros_like(state), begun + 1
                np.testing.assert_allclose(stored[t], state, atol=1e-5)
                both = agent.acting_model([observation[t : t + 1], state[np.newaxis]]).numpy()[0]
                state = both[counting_specs.num_actions :]
    assert begun > 10
    collector.close()
