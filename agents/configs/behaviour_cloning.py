"""The configuration of kind behaviour_cloning."""

from agents.configs.policy import PolicyConfig


class BehaviourCloningConfig(PolicyConfig, frozen=True, tag_field="kind", tag="behaviour_cloning"):
    """Behaviour cloning (Pomerleau 1991): the policy that a dataset's actions are likeliest under."""

    @property
    def window_length(self) -> int:
        """See `KindOfAgent`: an observation and its action, without what followed."""
        return 1

    @property
    def offline_only(self) -> bool:
        """See `KindOfAgent`."""
        return True
