"""From sparse to shipped.

`shrink` removes from a model all that its zeros make superfluous; `save_compact` writes a small `.keras` file, `export`
a checked file of another runtime.
"""

from sparsity_tf.deploy.channel_groups import ChannelGroup, GroupMember, channel_groups
from sparsity_tf.deploy.compact_file import CompactFile, save_compact
from sparsity_tf.deploy.export import ExportReport, export
from sparsity_tf.deploy.shrink import shrink
from sparsity_tf.deploy.shrink_report import ShrinkReport, ShrinkRow

__all__ = [
    "ChannelGroup",
    "CompactFile",
    "ExportReport",
    "GroupMember",
    "ShrinkReport",
    "ShrinkRow",
    "channel_groups",
    "export",
    "save_compact",
    "shrink",
]
