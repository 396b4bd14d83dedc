"""The settings of Sphinx for the documentation site. `make docs` builds it into build/docs/html.

The extensions of this project are in `extensions/`: each opens with what it is for.
"""

import os
import pathlib
import sys

DOCS = pathlib.Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS / "extensions")]
# The notebooks run in processes of their own, which inherit these.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import sparsity_tf  # noqa: E402

project = "sparsity_tf"
author = "The sparsity_tf maintainers"
# `--resume` would become a dash.
smartquotes = False
version = release = sparsity_tf.__version__

extensions = [
    "directives",
    "mathml",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]

# Types are in the docstrings, in words.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autosummary_generate = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
html_math_renderer = "mathml"
exclude_patterns = ["ecosystem_entry.md", "figures", "extensions", "static"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

# A guide runs again only if its own code has changed.
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build" / "docs" / "cache")
# Files that a guide writes disappear with its folder.
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
# What a backend writes to stderr while it starts says nothing about the guides. What a reader should see is printed.
nb_output_stderr = "remove"

html_theme = "furo"
html_title = f"sparsity_tf {version}"
html_static_path = ["static"]
html_favicon = "static/icon.svg"
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
