"""Pages of reports as tests read them: rendered, and taken apart into tags and text."""

from html.parser import HTMLParser

from pipeline.report import page as pages
from pipeline.report.page import draw

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Tags(HTMLParser):
    """Collects tags with their attributes, the text outside of scripts and styles, and tags that are not closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open += [tag] if tag not in VOID else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.tags or self.tags[-1][0] not in ("script", "style"):
            self.text.append(data.strip())

    @property
    def said(self):
        return " ".join(" ".join(self.text).replace("\N{NO-BREAK SPACE}", " ").split())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def render(results, made=None):
    return pages.render(results, draw(results), made)
