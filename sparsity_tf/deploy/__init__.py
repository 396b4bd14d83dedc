"""From sparse to shipped: `shrink` removes from a model all that its zeros make superfluous."""

from sparsity_tf.deploy.channel_families import ChannelFamily, FamilyPart, channel_families
from sparsity_tf.deploy.channel_groups import ChannelGroup, GroupMember, channel_groups
from sparsity_tf.deploy.shrink import shrink
from sparsity_tf.deploy.shrink_report import ShrinkReport, ShrinkRow

__all__ = [
    "ChannelFamily",
    "ChannelGroup",
    "FamilyPart",
    "GroupMember",
    "ShrinkReport",
    "ShrinkRow",
    "channel_families",
    "channel_groups",
    "shrink",
]
