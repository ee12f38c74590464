"Sphinx's settings. `make book` lays out the pages with lay_out.py first; no notebook is executed."

project = "empathy_probes"
html_title = "empathy_probes"
extensions = ["myst_nb", "sphinx-mathjax-offline"]

nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # for tables in text/markdown outputs
nb_merge_streams = True
myst_enable_extensions = ["attrs_inline", "dollarmath"]
myst_heading_anchors = 4
nitpicky = True  # a link to a function that is not in the API is an error too

add_module_names = False
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 88
pygments_dark_style = "github-dark"

html_theme = "furo"
html_favicon = "static/icon.svg"
html_static_path = ["static"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {
    "source_repository": "https://github.com/empathy-probes/empathy_probes",
    "source_branch": "main",
    "top_of_page_buttons": [],
}
