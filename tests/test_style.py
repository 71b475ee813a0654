"""The style guide of CONTRIBUTING.md, as far as regular expressions can hold it."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CODE = [path for folder in ("ssl_keras", "tutorials", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
OPENING = re.compile(r"(What|Of|How|Whether|Which|Where|And|By)\b")
WORDS = re.compile(
    r"\b((?<![Tt]here )(is|are) (no|none)|anew|mended|[Dd]ata sets?|so (many|much|often|far|long)|goes? on|went on|"
    r"colour|grey|behaviour|licences?|centre|neighbours?|catalogue|labelled|modelling|"
    r"(normal|initial|optim|real|serial|token|util|quant|recogn|summar|special|general|material)is(e[ds]?|ing|ation))\b"
)
KEPT = re.compile(
    r'"(colour|normalised|Normalised)"|named\.normalised|^ +normalised:'
)  # names in saved models and streams
SENTENCES = re.compile(r"[a-z)`]\. [A-Z]")


def docstrings(source):
    """(line, text) of every docstring, and of every string under a field of a class."""
    for node in ast.walk(ast.parse(source)):
        for child in getattr(node, "body", []) if isinstance(getattr(node, "body", []), list) else []:
            if (
                isinstance(child, ast.Expr)
                and isinstance(child.value, ast.Constant)
                and isinstance(child.value.value, str)
            ):
                yield child.lineno, child.value.value


def openings(source):
    return [f"{line}: {text.strip()[:60]}" for line, text in docstrings(source) if OPENING.match(text.strip())]


def words(text):
    lines = enumerate(text.splitlines(), 1)
    return [f"{number}: {found[0]}" for number, line in lines for found in WORDS.finditer(KEPT.sub("", line))]


def sentences(text):
    """Lines of a page's paragraphs, outside of code, tables and lists, that hold more than one sentence."""
    prose = re.sub(r"^```.*?^```", lambda code: "\n" * code[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)
    return [
        n
        for n, line in enumerate(prose.splitlines(), 1)
        if SENTENCES.search(line) and not re.match(r"[|*\s-]|\d+\.", line)
    ]


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_code(path):
    source = path.read_text("utf-8")
    assert not openings(source)
    assert path.name == "card_v1.py" or not words(source)  # old names are what that file is about


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page(path):
    text = path.read_text("utf-8")
    assert path.name in ("CHANGELOG.md", "CONTRIBUTING.md") or not words(text)  # they quote the words
    assert path.name == "CHANGELOG.md" or not sentences(text)


def test_the_tests_above_can_fail():
    assert openings('def f():\n    """What it does."""')
    assert openings('class A:\n    x: int = 0\n    """Of a transformer."""')
    assert words("It is no such colour, and it goes on.") == ["1: is no", "1: colour", "1: goes on"]
    assert sentences("One sentence. Another one.\n")
    assert not sentences("```\nOne. Two.\n```\n| One. Two. |\n")
