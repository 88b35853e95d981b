"""What the kinds that learn from a queue have in common."""

from typing import Annotated

from msgspec import Meta

Rollout = Annotated[
    int,
    Meta(ge=1, description="Frames of a sequence that are learned from; one more, the last, is bootstrapped from."),
]
Epochs = Annotated[int, Meta(ge=1, le=100, description="Passes over the batch in a gradient step.")]
Minibatches = Annotated[
    int, Meta(ge=1, le=1_000, description="Parts of the batch in a pass, each an update of its own.")
]


class OnPolicy:
    """Properties of a kind that learns from its own sequences, which do not overlap and are used once."""

    __slots__ = ()

    rollout: int

    @property
    def window_length(self) -> int:
        """Frames of a sequence: those learned from and one to bootstrap from."""
        return self.rollout + 1

    @property
    def learned_frames(self) -> slice:
        """See `KindOfAgent`: all but the last."""
        return slice(0, self.rollout)

    @property
    def stride(self) -> int:
        """See `KindOfAgent`.

        Sequences do not share a frame: the weights that chose the action in the last frame of one have been updated
        when the next begins.
        """
        return self.window_length

    @property
    def on_policy(self) -> bool:
        """See `KindOfAgent`."""
        return True
