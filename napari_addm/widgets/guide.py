"""The guide for people who look at scans, in a window of its own that needs no network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from qtpy.QtCore import QSize, Qt, QUrl
from qtpy.QtGui import QImage, QTextDocument
from qtpy.QtWidgets import QDialog, QTextBrowser, QWidget

from napari_addm.widgets import texts
from napari_addm.widgets.forms import column
from napari_addm.widgets.tones import SMALL, LinkWords

HERE = Path(__file__).parent
# A wheel carries the pages beside this module; in a checkout they lie in docs/.
FOLDERS = (HERE / "docs", HERE.parents[1] / "docs")
PAGES = ("read_a_map.md", "review.md", "cohort.md")
END = "<!-- the panel's help ends here -->"
NAME = "addm-guide"
SIZE = QSize(860, 760)
PICTURE_WIDTH = 760
STYLE = """
h1, h2, h3 { margin-top: 18px; }
p, li { margin-bottom: 8px; }
table { border-collapse: collapse; }
td, th { padding: 4px 8px; border: 1px solid #80848c; text-align: left; }
a { color: #4a84e0; }
"""


class Guide(QTextBrowser):
    """The pages one below the other, with their pictures as wide as the text."""

    def __init__(self) -> None:
        super().__init__()
        self.setOpenLinks(False)  # a link within the page scrolls, and there are no others
        self.anchorClicked.connect(lambda link: self.scrollToAnchor(link.fragment()))
        folder = next(each for each in FOLDERS if (each / PAGES[0]).is_file())
        self.setSearchPaths([str(folder)])
        document = self.document()
        assert document is not None
        document.setDefaultStyleSheet(STYLE)
        document.setDocumentMargin(16)
        self.setHtml(as_html({name: (folder / name).read_text(encoding="utf-8") for name in PAGES}))

    def loadResource(self, type: int, name: QUrl) -> object:
        """Make a picture as wide as the page at once: Qt would shrink it without smoothing."""
        made = super().loadResource(type, name)
        if type == QTextDocument.ResourceType.ImageResource.value and made:
            picture = made if isinstance(made, QImage) else QImage.fromData(made)
            smooth = Qt.TransformationMode.SmoothTransformation
            ratio = self.devicePixelRatioF()
            made = picture.scaledToWidth(round(PICTURE_WIDTH * ratio), smooth)
            made.setDevicePixelRatio(ratio)
        return made


def open_help(parent: QWidget | None = None) -> QDialog:
    """Show the guide beside a window, or bring it to the front."""
    shown = None if parent is None else parent.findChild(QDialog, NAME)
    if shown is None:
        shown = QDialog(parent)
        shown.setObjectName(NAME)
        shown.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        shown.setWindowTitle(texts.GUIDE_TITLE)
        shown.resize(SIZE)
        column(shown).addWidget(Guide())
    shown.show()
    shown.raise_()
    shown.activateWindow()
    return shown


def help_link() -> LinkWords:
    """Make a link that opens the guide."""
    link = LinkWords(texts.HELP.label)
    link.setStyleSheet(SMALL)
    link.setToolTip(texts.HELP.tip)
    link.linkActivated.connect(lambda _: open_help(link.window()))
    return link


def as_html(pages: Mapping[str, str]) -> str:
    """Turn pages of the documentation into one of HTML, without links to any others.

    Parameters
    ----------
    pages : mapping of str to str
        Markdown by file name; the first line is the title.
    """
    markdown = MarkdownIt("commonmark").enable("table")
    titles = {name: page.partition("\n")[0].lstrip("# ") for name, page in pages.items()}
    tokens = markdown.parse(" · ".join(f"[{title}]({name})" for name, title in titles.items()))
    for name, page in pages.items():
        own = markdown.parse(page.partition(END)[0])
        for heading, words in pairwise(own):
            if heading.type == "heading_open":
                top = heading.tag == "h1"  # a link to the page leads to its title
                heading.attrSet("id", name if top else slug(words.content))
        tokens += own
    html: str = markdown.renderer.render(tokens, markdown.options, {})
    for name in pages:
        html = html.replace(f'href="{name}"', f'href="#{name}"')
        html = html.replace(f'href="{name}#', 'href="#')
    return re.sub(r'<a href="[^#"][^"]*">(.*?)</a>', r"\1", html, flags=re.DOTALL)


def slug(heading: str) -> str:
    """Return the name by which links reach a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
