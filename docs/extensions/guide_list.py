"""The directive `guides`: a table of contents of the pages beside the page that holds it.

Its content names pages in the order of reading. A page that does not exist is left out, and pages that it does not name
follow in the order of their names. So a new guide appears on the site without a change of the list.
"""

import pathlib

from docutils.statemachine import StringList
from sphinx.directives.other import TocTree


def ordered(names, wanted):
    """The names of pages that exist: first those of `wanted`, in its order, then the others, sorted."""
    return [name for name in wanted if name in names] + sorted(set(names) - set(wanted))


class Guides(TocTree):
    """As `toctree`, but content that names no page is no error."""

    def run(self):
        page = pathlib.Path(self.env.doc2path(self.env.docname))
        names = [path.stem for path in page.parent.glob("*.md") if path.stem != page.stem]
        self.content = StringList(ordered(names, list(self.content)), source=str(page))
        self.env.note_reread()
        return super().run()


def setup(app):
    app.add_directive("guides", Guides)
    return {"parallel_read_safe": True}
