"""What is learned where several learners are measured: networks and batches of 0.1 to some 300 ms a gradient step."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Network(NamedTuple):
    """What a learner learns."""

    batch: int
    """Of all learners together."""
    lines: Sequence[str]
    """Of TOML, that make the network."""
    observation: Sequence[int]
    dtype: str
    call_steps: int
    """Gradient steps of a call: `learner.steps_per_call`."""


NETWORKS: Mapping[str, Network] = {
    "64x64, 64": Network(64, ("agent.hidden_units=[64,64]",), (4,), "float32", 100),
    "256x256, 512": Network(512, ("agent.hidden_units=[256,256]",), (64,), "float32", 50),
    "256x256, 2,048": Network(2048, ("agent.hidden_units=[256,256]",), (64,), "float32", 10),
    "512x512, 2,048": Network(2048, ("agent.hidden_units=[512,512]",), (64,), "float32", 10),
    "1024x1024, 2,048": Network(2048, ("agent.hidden_units=[1024,1024]",), (64,), "float32", 10),
    "IMPALA, 10x10x4, 512": Network(
        512, ('agent.image_torso="impala"', "agent.hidden_units=[256]"), (10, 10, 4), "uint8", 10
    ),
}
"""By name: the network, what it sees if that is an image, and the batch."""
