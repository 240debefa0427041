"""The documentation as a site: ``sphinx-build -W --keep-going -n -c docs . OUT``, with no network.

The source is the repository's root, so that a page's links lead to the same files here as where the
repository is read: the README, the pages of `docs` and those of the methods are pages of the site.
"""

import json
from typing import Any

from myst_parser.parsers.sphinx_ import MystParser

import kdcore

project = "kdcore"
release = kdcore.__version__
version = release
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/*.md",
    "docs/notebooks/*.ipynb",
    "plugins/*/README.md",
]
# Folders that are not even looked into.
exclude_patterns = [".*", "dist", "kdcore", "kdcore-runs", "tests"]

html_theme = "furo"
html_title = "kdcore"
html_extra_path = ["site"]
html_copy_source = False
html_show_copyright = False
# Code is what is in a fence that says so; commands and drawings are shown as they are.
highlight_language = "none"

# The names that headings have as anchors where a repository is read.
myst_heading_anchors = 4

# In docstrings as in comments, `this` is a name.
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
# What other libraries' documentation has is not fetched; what is in a module of kdcore alone, such
# as the class that a public one is made from, is not public and has no page.
nitpick_ignore_regex = [("py:.*", r"(?!kdcore\.).*"), ("py:.*", r"kdcore\.(\w+\.)+\w+")]


class Notebook(MystParser):  # type: ignore[misc]  # without types where it is not installed
    """Reads a notebook as the page that its cells make."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: Any) -> None:
        """Parse its cells, code as blocks of Python."""
        super().parse(as_markdown(inputstring), document)


def as_markdown(notebook: str) -> str:
    """Return the cells of a notebook as Markdown."""
    cells = []
    for cell in json.loads(notebook)["cells"]:
        text = "".join(cell["source"])
        cells.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(cells) + "\n"


def setup(app: Any) -> None:
    """Have notebooks read."""
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(Notebook)
