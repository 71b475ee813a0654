"""Pages: self-contained, and nothing in them but what they were made of."""

import html.parser

from ssl_keras.pictures import page

EVIL = '<script>alert("x")</script>\'&'


class Parsed(html.parser.HTMLParser):
    """The tags of a page, each with its attributes, and the text between them."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open += [] if tag in ("meta", "img", "br") else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_all_that_is_not_markup_is_escaped():
    parts = [
        page.heading(EVIL),
        page.paragraph(EVIL),
        page.quotation(EVIL),
        page.listing([EVIL]),
        page.table([[EVIL, EVIL], [EVIL, 3]]),
        page.picture(b"png", EVIL),
        page.grid(page.picture(b"png", EVIL)),
        page.strip(page.picture(b"png", EVIL)),
        page.joined([page.subheading(EVIL), page.small(EVIL)]),
        page.words([(EVIL, 0.5)]),
        EVIL,
    ]
    content = page.document(EVIL, *parts)
    parsed = Parsed(content)
    assert not parsed.open
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert "<script" not in content
    assert parsed.text.count(EVIL) == 16
    assert all(attributes["alt"] == EVIL for tag, attributes in parsed.tags if tag == "img")


def test_words_are_red_or_blue_by_their_weights():
    shown = page.words([("up", 1.0), ("down", -0.5), ("none", 0.0), ("more", 3.0)])
    grounds = [attributes["style"] for tag, attributes in Parsed(shown).tags if tag == "span"]
    assert grounds == [f"background: rgba({color})" for color in (
        "220, 38, 38, 0.75", "37, 99, 235, 0.38", "37, 99, 235, 0.00", "220, 38, 38, 0.75")]  # fmt: skip


def test_a_page_needs_nothing_else_and_fits_a_phone(tmp_path):
    page.write(tmp_path / "page.html", "Title", page.picture(b"png", "a cat"), page.table([["", "a"], ["b", 1]]))
    content = (tmp_path / "page.html").read_text("utf-8")
    tags = Parsed(content).tags
    assert [attributes["src"] for tag, attributes in tags if tag == "img"] == ["data:image/png;base64,cG5n"]
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in tags}
    assert not [loaded for loaded in ("http:", "https:", "url(") if loaded in content]
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in tags
    assert "prefers-color-scheme: dark" in content


def test_what_cannot_be_printed_or_written():
    assert page.text("a\x1b[2J\ud800\u202e\nb") == "a\\x1b[2J\\ud800\\u202e\nb"
    assert page.text(page.text("<")) == "&lt;"
