"""From sparse to shipped: `shrink` removes from a model all that its zeros make superfluous."""

from sparsity_tf.deploy.shrink import shrink
from sparsity_tf.deploy.shrink_report import ShrinkReport, ShrinkRow
from sparsity_tf.deploy.ties import ChannelGroup, GroupMember

__all__ = ["ChannelGroup", "GroupMember", "ShrinkReport", "ShrinkRow", "shrink"]
