"""From sparse to shipped.

`shrink` removes from a model all that its zeros make superfluous; `save_compact` writes a small `.keras` file.
"""

from sparsity_tf.deploy.channel_groups import ChannelGroup, GroupMember, channel_groups
from sparsity_tf.deploy.compact_file import CompactFile, save_compact
from sparsity_tf.deploy.shrink import shrink
from sparsity_tf.deploy.shrink_report import ShrinkReport, ShrinkRow

__all__ = [
    "ChannelGroup",
    "CompactFile",
    "GroupMember",
    "ShrinkReport",
    "ShrinkRow",
    "channel_groups",
    "save_compact",
    "shrink",
]
