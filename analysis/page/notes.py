"""The notes below the tables: Markdown, as elements of the page."""

from itertools import pairwise
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup

_LEVEL = {"h1": "h2", "h2": "h3", "h3": "h4"}
"""The page's own title is the only h1, and its sections are h2."""


def render_notes(text: str) -> dict[str, Any]:
    """{"title": of the first heading, "html": the rest}. What is HTML in the text is shown as text
    (the default configuration of CommonMark would let it pass), and a paragraph that begins with
    `Source:` has the class `source`.
    """
    parser = MarkdownIt("commonmark", {"html": False})
    tokens, title = parser.parse(text), "Notes"
    if [token.type for token in tokens[:3]] == ["heading_open", "inline", "heading_close"]:
        title, tokens = tokens[1].content, tokens[3:]
    for token, following in pairwise(tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = _LEVEL.get(token.tag, token.tag)
        elif token.type == "paragraph_open" and following.content.startswith("Source:"):
            token.attrSet("class", "source")
    html = parser.renderer.render(tokens, parser.options, {})
    return {"title": title, "html": Markup(html)}
