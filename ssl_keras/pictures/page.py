"""A self-contained HTML page of headings, tables and pictures, which loads nothing and runs no script.

    page.write("page.html", "Digits", page.heading("Examples"), page.table(rows), page.picture(png, "a seven"))

Its parts are `Html`. Any other value is text, and is escaped.
"""

import base64
import html
import re

from ssl_keras import files
from ssl_keras.files import printable

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --faint: #666; --line: #ddd; --ground: #fff; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6e6; --faint: #999; --line: #3a3a3a; --ground: #161616; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; font: 1rem/1.5 system-ui, sans-serif; color: var(--text);
       background: var(--ground); overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
         overflow-wrap: normal; }
th:first-child, td:first-child { text-align: left; }
td:not(:first-child) { white-space: nowrap; }
th { color: var(--faint); font-weight: 600; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: .5rem 1rem; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .5rem .75rem; }
.words { margin: .75rem 0 .25rem; line-height: 2; }
.words span { padding: .1rem .2rem; border-radius: .2rem; }
figure { margin: 0 0 1rem; }
figcaption { color: var(--faint); font-size: .875rem; }
img { max-width: 100%; height: auto; image-rendering: pixelated; }
blockquote { margin: 0 0 .75rem; padding-left: .75rem; border-left: 3px solid var(--line); white-space: pre-wrap; }
"""


class Html(str):
    """Markup that is not escaped again. Only this module creates it."""


def text(value):
    """Converts a value to `Html`: markup and, except for line breaks, control characters are escaped."""
    shown = printable(str(value), keep="\n").encode("utf-8", "backslashreplace").decode()
    return value if isinstance(value, Html) else Html(html.escape(shown))


def heading(title):
    return Html(f"<h2>{text(title)}</h2>")


def subheading(title):
    return Html(f"<h3>{text(title)}</h3>")


def paragraph(content):
    return Html(f"<p>{text(content)}</p>")


def small(content):
    return Html(f"<figcaption>{text(content)}</figcaption>")


def joined(parts):
    """Joins several parts into one."""
    return Html("".join(map(text, parts)))


def quotation(content):
    """Shows text with its line breaks."""
    return Html(f"<blockquote>{text(content)}</blockquote>")


def listing(entries):
    return Html("<ul>" + "".join(f"<li>{text(entry)}</li>" for entry in entries) + "</ul>")


def table(rows):
    """Shows rows of cells, the first of which is the header; all columns but the first are aligned right."""
    header, *rows = rows
    lines = ["".join(f"<td>{text(cell)}</td>" for cell in row) for row in rows]
    lines = ["".join(f"<th>{text(cell)}</th>" for cell in header), *lines]
    return Html('<div class="wide"><table>' + "\n".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>")


def picture(png, caption):
    """Shows the bytes of a PNG file with a caption, which is also its text for screen readers."""
    source = base64.b64encode(png).decode()
    return Html(
        f'<figure><img alt="{text(caption)}" src="data:image/png;base64,{source}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def words(weighted):
    """Shows words on colored ground: red for positive weights, blue for negative ones, by their size.

    Args:
        weighted: pairs of a text and a weight from -1 to 1.
    """
    shown = []
    for content, weight in weighted:
        color = "220, 38, 38" if weight > 0 else "37, 99, 235"
        strength = f"{0.75 * min(abs(weight), 1):.2f}"
        shown.append(f'<span style="background: rgba({color}, {strength})">{text(content)}</span>')
    return Html(f'<p class="words">{" ".join(shown)}</p>')


def strip(*figures):
    """Shows small pictures side by side, two on a phone."""
    return Html(f'<div class="strip">{"".join(map(text, figures))}</div>')


def grid(*figures):
    """Shows pictures side by side, as many as fit into the width."""
    return Html(f'<div class="grid">{"".join(map(text, figures))}</div>')


def document(title, *parts):
    """Returns the page as text."""
    body = "\n".join(map(text, parts))
    style = re.sub(r"\s+", " ", STYLE).strip()
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{style}</style>
</head>
<body>
<h1>{text(title)}</h1>
{body}
</body>
</html>
"""


def write(path, title, *parts):
    """Writes the page to a file atomically."""
    files.write(path, document(title, *parts))
