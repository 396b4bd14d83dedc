r"""Formulas as MathML, which every browser draws by itself: no script, no picture, no other server.

docutils translates LaTeX. It knows the usual commands (`\frac`, `\sum`, `\log`, Greek letters, matrices), and a formula
that it does not know is a warning, hence an error of `make docs`.
"""

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

_LOGGER = logging.getLogger(__name__)


def _html(node, as_block):
    try:
        return tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        _LOGGER.warning("a formula can't be translated: %s", error, location=node)
        return node.astext()


def _visit_math(self, node):
    self.body.append(_html(node, as_block=False))
    raise nodes.SkipNode


def _visit_block(self, node):
    self.body.append(f'<div class="math">{_html(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (_visit_math, None), (_visit_block, None))
    return {"parallel_read_safe": True}
