"""The directives of this site, and the docstrings of the package for autodoc.

```
.. public:: sparsity_tf.callbacks           every public name of a package
.. public:: sparsity_tf.layers              those that the package's modules `l0` and `masked` define
   :from: l0 masked
.. public:: sparsity_tf.layers              all but those
   :not-from: l0 masked
.. programs::                               the programs of the console command that begin with "train", and their flags
   :with: train
.. programs::                               all but those
   :without: train
.. guides::                                 a table of contents of the pages beside this one
.. rooms::                                  the picture of the rooms, from the imports
```

So no page holds a list of names, and a new name, program or guide appears on the site by itself.
"""

import pathlib

import markdown_docstrings
import program_flags
import public_names
import rooms
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.directives.other import TocTree
from sphinx.util.docutils import SphinxDirective

import sparsity_tf_cli


def _parsed(directive, lines, node):
    """Parses lines of reStructuredText into a node, and returns the node. The page is made anew in every build."""
    directive.env.note_reread()
    node.document = directive.state.document
    directive.state.nested_parse(StringList(lines, source=directive.name), 0, node)
    return node


class Public(SphinxDirective):
    """Everything that a package offers in its `__all__`, chosen by the modules of the package that define it."""

    required_arguments = 1
    option_spec = {"from": directives.unchanged, "not-from": directives.unchanged}

    def run(self):
        chosen = [self.options.get(key, "").split() for key in ("from", "not-from")]
        return _parsed(self, public_names.source(self.arguments[0], *chosen), nodes.container()).children


class Programs(SphinxDirective):
    """Programs of `sparsity_tf_cli.PROGRAMS`, each in a section of its own."""

    option_spec = {"with": directives.unchanged, "without": directives.unchanged}

    def run(self):
        sections = []
        for program in program_flags.chosen(self.options.get("with", ""), self.options.get("without", "")):
            section = nodes.section(ids=[program.replace(" ", "-")], names=[program])
            section += nodes.title(text=program)
            summary = sparsity_tf_cli.PROGRAMS[program][1]
            section += nodes.paragraph(text=f"{summary[0].upper()}{summary[1:]}.")
            sections.append(_parsed(self, program_flags.source(program), section))
        return sections


class Rooms(SphinxDirective):
    """The packages and modules of sparsity_tf on floors."""

    def run(self):
        self.env.note_reread()
        return [nodes.raw("", rooms.picture(), format="html")]


class Guides(TocTree):
    """As `toctree`. The content names pages in the order of reading; pages that it does not name follow, sorted.

    A name without a page is left out. So a guide can be written, and found, without a change of the list.
    """

    def run(self):
        page = pathlib.Path(self.env.doc2path(self.env.docname))
        found = {path.stem for path in page.parent.glob("*.md")} - {page.stem}
        wanted = [name for name in self.content if name in found]
        self.content = StringList([*wanted, *sorted(found - set(wanted))], source=str(page))
        self.env.note_reread()
        return super().run()


def _translate(app, what, name, obj, options, lines):
    lines[:] = markdown_docstrings.to_rst(lines, public_names.links())


def setup(app):
    for directive in (Public, Programs, Rooms, Guides):
        app.add_directive(directive.__name__.lower(), directive)
    app.setup_extension("sphinx.ext.autodoc")
    # Before napoleon, which reads the sections `Args:` and the like.
    app.connect("autodoc-process-docstring", _translate, priority=100)
    return {"parallel_read_safe": True}
