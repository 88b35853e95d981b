"""A judged policy on its way from an evaluator to the learner, whose run directory keeps it. No TensorFlow."""

import msgspec

from pipeline.acting.policy_files import Policy
from pipeline.messages.contents import Variables


class SentPolicy(msgspec.Struct, frozen=True, tag="policy"):
    """A policy without its program: the learner has that itself, and takes none that others could have written."""

    policy: Policy
    is_whole: bool
    """See `Evaluation.is_whole`."""

    @classmethod
    def of(cls, policy: Policy, is_whole: bool) -> "SentPolicy":
        """What is sent of a policy that has been judged."""
        return cls(msgspec.structs.replace(policy, program=b""), is_whole)

    @property
    def at(self) -> tuple[int, int]:
        """See `Evaluation.at`."""
        return self.policy.environment_steps, self.policy.gradient_steps

    def completed(self, own: Variables) -> Policy:
        """The policy with the learner's program.

        Args:
          own: a publication of the learner that takes it.

        Raises:
          ValueError: its weights are no weights of the learner's network.
        """
        have, wanted = (
            [(array.dtype, array.shape) for array in arrays] for arrays in (self.policy.weights, own.weights)
        )
        if have != wanted or any(array.numpy().shape != array.shape for array in self.policy.weights):
            raise ValueError("its weights are not of the learner's network")
        return msgspec.structs.replace(self.policy, program=own.program)
