"""Studies of many networks: grids of runs, and the results that the original systems published beside them."""

from sparsity_tf.study.plan import Study
from sparsity_tf.study.published import published_files, published_results
from sparsity_tf.study.result import PublishedResult
from sparsity_tf.study.running import Outcome, RayOptions, run_study
from sparsity_tf.study.runs import Run, read_run, read_runs
from sparsity_tf.study.state_of_sparsity import read_state_of_sparsity
from sparsity_tf.study.study_file import StudyFileError, read_study
from sparsity_tf.study.study_plot import plot_study
from sparsity_tf.study.study_table import StudyRow, StudyTable, study_table
from sparsity_tf.study.tradeoff import TradeoffPoint, TradeoffTable, tradeoff_table
from sparsity_tf.study.tradeoff_plot import plot_tradeoff
from sparsity_tf.study.width_plot import plot_widths

__all__ = [
    "Outcome",
    "PublishedResult",
    "RayOptions",
    "Run",
    "Study",
    "StudyFileError",
    "StudyRow",
    "StudyTable",
    "TradeoffPoint",
    "TradeoffTable",
    "plot_study",
    "plot_tradeoff",
    "plot_widths",
    "published_files",
    "published_results",
    "read_run",
    "read_runs",
    "read_state_of_sparsity",
    "read_study",
    "run_study",
    "study_table",
    "tradeoff_table",
]


def __dir__():
    return __all__
