"""Writes the public address of the repository into a checkout, before the files for PyPI are built from it.

    python .ci/address.py https://github.com/OWNER/NAME COMMIT

PyPI shows README.md and can't follow its relative links. They become links to the repository at the commit, and
`pyproject.toml` gets the table `[project.urls]`. The address is known only where a release is built
(`.github/workflows/package.yml`), so the sources name none.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")


def absolute_links(text, address, commit):
    """The text of a README with links to the repository. Pictures lead to the file itself, other links to its page."""

    def link(match):
        kind = "raw" if match[1] else "blob"
        return f"{match[1]}[{match[2]}]({address}/{kind}/{commit}/{match[3]})"

    return _LINK.sub(link, text)


def urls(address, commit):
    """The table `[project.urls]` of `pyproject.toml`."""
    found = {
        "Source": address,
        "Documentation": f"{address}/blob/{commit}/docs/index.md",
        "Changelog": f"{address}/blob/{commit}/CHANGELOG.md",
        "Issues": f"{address}/issues",
    }
    return "\n[project.urls]\n" + "".join(f'{name} = "{value}"\n' for name, value in found.items())


def main(address, commit, root=ROOT):
    """Rewrites README.md and pyproject.toml in the folder `root`. A second run changes nothing."""
    address = address.rstrip("/")
    readme, project = root / "README.md", root / "pyproject.toml"
    readme.write_text(absolute_links(readme.read_text(encoding="utf-8"), address, commit), encoding="utf-8")
    text = project.read_text(encoding="utf-8")
    if "[project.urls]" not in text:
        project.write_text(text + urls(address, commit), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3 or not sys.argv[1].startswith("https://"):
        sys.exit(__doc__)
    main(*sys.argv[1:])
