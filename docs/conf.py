"""The site: `pip install -e ".[docs]"`, then `sphinx-build -W docs docs/_build`. What can be generated is, by `generator/`."""

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generator  # noqa: E402  # from this folder

import ssljax  # noqa: E402

project = "ssljax"
author = "the authors of ssljax"
project_copyright = "the authors of ssljax"
version = release = ssljax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
default_role = "code"  # a `name` in a docstring is code
myst_enable_extensions = ["colon_fence", "attrs_inline"]
myst_heading_anchors = 3
suppress_warnings = [
    "myst.header",  # a page may begin its sections at any level
    "ref.python",  # of two classes of one name a type hint may mean either
]

autodoc_default_options = {"members": True, "member-order": "bysource", "ignore-module-all": True}
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False
napoleon_custom_sections = ["Drawn"]

highlight_language = "none"  # commands and tables; Python says so

html_theme = "furo"
html_title = "ssljax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def setup(app: Any) -> None:
    """Writes the generated pages before any is read; docstrings become reStructuredText before napoleon sees them."""
    app.connect("builder-inited", lambda app: generator.write(Path(app.srcdir)))
    app.connect("source-read", _relinked)
    app.connect("autodoc-process-docstring", _as_rest, priority=400)
    app.connect("autodoc-process-signature", _shortened)
    app.connect("autodoc-skip-member", _skipped)


def _relinked(app: Any, docname: str, source: list[str]) -> None:
    page = Path(app.srcdir) / f"{docname}.md"
    if page.parent == Path(app.srcdir):  # generated pages have their links already
        source[0] = generator.relinked(source[0], page, page)


def _as_rest(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = generator.as_rest(lines)


def _shortened(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Signatures with the names of array types that the source has, not what they stand for."""
    return generator.shortened(signature), generator.shortened(returned)


def _skipped(app: Any, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Fields of a NamedTuple stand in its docstring, under Attributes; names of types are no members."""
    field = (getattr(thing, "__doc__", None) or "").startswith("Alias for field number")
    return True if field or hasattr(thing, "__origin__") else None
