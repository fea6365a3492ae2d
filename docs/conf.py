"""How the documentation is built: ``make docs``. Nothing in it is loaded from another machine."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from kinedge import __version__

project = "kinedge"
author = "The kinedge authors"
copyright = "the kinedge authors, Apache-2.0"
release = version = __version__
language = "en"
smartquotes = False  # it would make a dash of the two in --option

extensions = ["myst_parser", "sphinx_copybutton", "kinedge_docs"]
exclude_patterns = ["_build", "_ext", "_static"]
templates_path: list[str] = []

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
myst_heading_anchors = 4
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
copybutton_here_doc_delimiter = "END"
pygments_style = "friendly"
pygments_dark_style = "github-dark"
highlight_language = "text"
toc_object_entries = False

html_theme = "furo"
html_title = "kinedge"
html_static_path = ["_static"]
html_css_files = ["kinedge.css"]
html_favicon = "_static/mark.svg"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_last_updated_fmt = None
html_theme_options = {
    "light_logo": "mark.svg",
    "dark_logo": "mark.svg",
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#1f5f8b", "color-brand-content": "#1f5f8b"},
    "dark_css_variables": {"color-brand-primary": "#7cc0ea", "color-brand-content": "#7cc0ea"},
}
