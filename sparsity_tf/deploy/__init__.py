"""From sparse to shipped: `shrink` removes from a model all that its zeros make superfluous."""

from sparsity_tf.deploy.channel_groups import ChannelGroup, GroupMember, channel_groups
from sparsity_tf.deploy.shrink import shrink
from sparsity_tf.deploy.shrink_report import ShrinkReport, ShrinkRow

__all__ = ["ChannelGroup", "GroupMember", "ShrinkReport", "ShrinkRow", "channel_groups", "shrink"]


def __dir__():
    return __all__
