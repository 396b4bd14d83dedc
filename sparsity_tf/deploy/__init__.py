"""From sparse to shipped.

`shrink` removes the parts of a model that its zeros make superfluous, and `shrink_vocabulary` removes words.
`save_compact` writes a small `.keras` file. `export` writes and checks a file for another runtime. `deployment_report`
measures the gain of each of these steps.
"""

from sparsity_tf.deploy.channel_families import ChannelFamily, FamilyPart, channel_families
from sparsity_tf.deploy.channel_groups import ChannelGroup, GroupMember, channel_groups
from sparsity_tf.deploy.compact_file import CompactFile, save_compact
from sparsity_tf.deploy.export import export
from sparsity_tf.deploy.export_report import ExportReport
from sparsity_tf.deploy.gain import shipping_gain
from sparsity_tf.deploy.report import DeploymentReport, DeploymentRow, deployment_report
from sparsity_tf.deploy.report_plot import plot_deployment
from sparsity_tf.deploy.shrink import shrink
from sparsity_tf.deploy.shrink_report import ShrinkReport, ShrinkRow
from sparsity_tf.deploy.vocabulary import shrink_vocabulary

__all__ = [
    "ChannelFamily",
    "ChannelGroup",
    "CompactFile",
    "DeploymentReport",
    "DeploymentRow",
    "ExportReport",
    "FamilyPart",
    "GroupMember",
    "ShrinkReport",
    "ShrinkRow",
    "channel_families",
    "channel_groups",
    "deployment_report",
    "export",
    "plot_deployment",
    "save_compact",
    "shipping_gain",
    "shrink",
    "shrink_vocabulary",
]


def __dir__():
    return __all__
