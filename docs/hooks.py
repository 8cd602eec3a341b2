"""MkDocs' hooks: files outside of docs/ as pages, help texts of the commands, equations that need no script."""

import argparse
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

from tfdeit.cli.arguments import Formatter
from tfdeit.cli.main import build_parser

ROOT = Path(__file__).parent.parent
_OUTSIDE = re.compile(r"\]\(\.\./([\w./-]+)\)")  # a link out of docs/, which works where the source is shown
_BLOCK, _INLINE = re.compile(r"\$\$(.+?)\$\$", re.DOTALL), re.compile(r"\$`(.+?)`\$")


def on_files(files, config):
    """Adds the files that pages link to outside of docs/, as pages below project/."""
    pages = [Path(page.abs_src_path).read_text(encoding="utf-8") for page in files.documentation_pages()]
    paths = {path for text in pages for path in _OUTSIDE.findall(text)}
    for path in sorted(paths | {"ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"}):
        content = (ROOT / path).read_text(encoding="utf-8")
        if not path.endswith(".md"):
            content = f"---\nsearch: {{exclude: true}}\n---\n# {path}\n\n```python\n{content}```\n"
        files.append(File.generated(config, _page_of(path), content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Leads links to these pages, and fills in equations and help texts."""
    markdown = _OUTSIDE.sub(lambda link: f"]({_page_of(link[1])})", markdown)
    markdown = _BLOCK.sub(lambda latex: convert(latex[1].strip(), display="block"), markdown)
    markdown = _INLINE.sub(lambda latex: f"<span>{convert(latex[1])}</span>", markdown)  # at a line's start too
    return markdown.replace("<!-- commands -->", _commands()) if "<!-- commands -->" in markdown else markdown


def _page_of(path):
    return f"project/{path}" if path.endswith(".md") else f"project/{path}.md"


def _commands():
    """The help text of every command, each below a heading."""
    parser = build_parser()
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return "\n".join(f"## {name}\n\n```console\n{help_of(sub)}```\n" for name, sub in action.choices.items())


def help_of(parser):
    """Returns the help text, 88 columns wide."""
    parser.formatter_class = lambda prog: Formatter(prog, width=88)
    return parser.format_help()
