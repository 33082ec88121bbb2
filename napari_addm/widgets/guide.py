"""The guide for people who look at scans, in a window of its own that needs no network."""

from __future__ import annotations

import re
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
# A wheel carries the page beside this module; in a checkout it lies in docs/.
FOLDERS = (HERE / "docs", HERE.parents[1] / "docs")
PAGE = "clinician.md"
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
    """The page, with its pictures as wide as the text."""

    def __init__(self) -> None:
        super().__init__()
        self.setOpenLinks(False)  # a link within the page scrolls, and there are no others
        self.anchorClicked.connect(lambda link: self.scrollToAnchor(link.fragment()))
        folder = next(each for each in FOLDERS if (each / PAGE).is_file())
        self.setSearchPaths([str(folder)])
        document = self.document()
        assert document is not None
        document.setDefaultStyleSheet(STYLE)
        document.setDocumentMargin(16)
        self.setHtml(as_html((folder / PAGE).read_text(encoding="utf-8")))

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
    shown = None if parent is None else parent.findChild(QDialog, PAGE)
    if shown is None:
        shown = QDialog(parent)
        shown.setObjectName(PAGE)
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


def as_html(page: str) -> str:
    """Turn a page of the documentation into HTML without links to other pages."""
    markdown = MarkdownIt("commonmark").enable("table")
    tokens = markdown.parse(page)
    for heading, words in pairwise(tokens):
        if heading.type == "heading_open":
            slug = re.sub(r"[^\w\- ]", "", words.content.lower()).replace(" ", "-")
            heading.attrSet("id", slug)
    html: str = markdown.renderer.render(tokens, markdown.options, {})
    return re.sub(r'<a href="[^#"][^"]*">(.*?)</a>', r"\1", html, flags=re.DOTALL)
