"""Which parts and options a tokenizer.json may have: it comes from anywhere.

What is checked is what the library has read (`Tokenizer.to_str`), not the file: keys that it does not know are not
there, so that nothing hides behind them.
"""

import logging
import re

from tokenizers import pre_tokenizers

CHARACTER = r"[\s\S]"
# Free patterns can take for ever. These take time in proportion to the text; the long ones are published.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
PATTERNS = {CHARACTER, GPT2, LLAMA3, LLAMA3.replace("{1,3}", "")}
ONE_CLASS = re.compile(r"(\\[dswDSW]|\\[pP]\{[A-Z][a-z]?\})(\+|\{1,3\})?")

MAX_PARTS = 16  # of a sequence
MAX_LETTERS = 1 << 10  # of a token, a prefix or a pattern
MAX_FRAMED = 64  # tokens put around a text
MAX_WORD = 500  # letters of a word that WordPiece cuts: the time for a letter grows with them, tenfold from 100 on
CUTS = {"behavior"}
BYTE_LEVEL = {"ByteLevel": {"add_prefix_space", "trim_offsets", "use_regex"}}
# {part: {type: its options}}. A free "Replace" can double a text over and over.
PARTS = {
    "normalizer": {
        "BertNormalizer": {"clean_text", "handle_chinese_chars", "strip_accents", "lowercase"},
        "Lowercase": set(),
        "NFC": set(),
        "NFD": set(),
        "NFKC": set(),
        "NFKD": set(),
        "StripAccents": set(),
        "Strip": {"strip_left", "strip_right"},
        "Sequence": {"normalizers"},
    },
    "pre_tokenizer": {
        "BertPreTokenizer": set(),
        "Whitespace": set(),
        "WhitespaceSplit": set(),
        "UnicodeScripts": set(),
        "Digits": {"individual_digits"},
        "Punctuation": CUTS,
        "CharDelimiterSplit": {"delimiter"},
        "Split": CUTS | {"pattern", "invert"},
        "Sequence": {"pretokenizers"},
        **BYTE_LEVEL,
    },
    "decoder": {"Fuse": set(), "WordPiece": {"prefix", "cleanup"}, "Sequence": {"decoders"}, **BYTE_LEVEL},
    "post_processor": {
        "BertProcessing": {"sep", "cls"},
        "RobertaProcessing": {"sep", "cls", "trim_offsets", "add_prefix_space"},
        "TemplateProcessing": {"single", "pair", "special_tokens"},
        "Sequence": {"processors"},
        **BYTE_LEVEL,
    },
    "model": {
        "WordLevel": {"vocab", "unk_token"},
        "WordPiece": {"vocab", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word"},
        "BPE": {
            "vocab",
            "merges",
            "dropout",
            "unk_token",
            "continuing_subword_prefix",
            "end_of_word_suffix",
            "fuse_unk",
            "byte_fallback",
            "ignore_merges",
        },
    },
}

log = logging.getLogger(__name__)


def check(content, declared):
    """Raises ValueError where a tokenizer has a part, an option or a size that it may not have.

    Args:
        content: tokenizer.json as the library gives it back.
        declared: [(token, id)] of the added tokens, as the file has them.
    """
    vocabulary = content["model"]["vocab"] | {token["content"]: token["id"] for token in content["added_tokens"]}
    largest = max(vocabulary.values(), default=-1)
    if len(set(vocabulary.values())) != largest + 1:
        raise ValueError(f"Expected ids 0..{len(vocabulary) - 1}, without holes. Received: {largest}")
    for token, index in declared:
        if vocabulary.get(token) != index:
            raise ValueError(f"The added token {token[:80]!r} has the id {vocabulary.get(token)}. Received: {index}")
    for name, allowed in PARTS.items():
        parts = list(_flat(content[name]))
        other = sorted({part["type"] for part in parts} - allowed.keys())
        if other:
            raise ValueError(f"Expected as {name}: {', '.join(sorted(allowed))}. Received: {', '.join(other)}")
        for part in parts:
            unknown = sorted(part.keys() - allowed[part["type"]] - {"type"})
            if unknown:
                raise ValueError(f"Expected no option {', '.join(unknown)} of {part['type']}.")
        types = [part["type"] for part in parts if part["type"] != "Sequence"]
        # Bytes of what was made bytes before are two each: fifteen times over, a letter is thirty thousand.
        if len(types) > MAX_PARTS or types.count("ByteLevel") > 1:
            raise ValueError(
                f"Expected as {name} at most {MAX_PARTS} parts, one of them ByteLevel. "
                f"Received: {', '.join(types[:20])}"
            )
    for part in _flat(content["pre_tokenizer"]):
        if part["type"] == "Split":
            _check_pattern(part["pattern"])
    for part in _flat(content["post_processor"]):
        _check_frame(part, vocabulary)
    _check_words(content, vocabulary)


def _flat(part):
    """A part and, of a sequence, those in it."""
    if part is not None:
        yield part
        if part["type"] == "Sequence":
            inner = next(value for key, value in part.items() if key != "type")
            for each in inner:
                yield from _flat(each)


def _check_pattern(pattern):
    regex, plain = pattern.get("Regex"), pattern.get("String")
    if not plain and regex not in PATTERNS and not ONE_CLASS.fullmatch(regex or ""):
        raise ValueError(f"Expected as pre_tokenizer's pattern one that is known. Received: Split:{str(regex)[:80]}")


def _check_frame(part, vocabulary):
    """Few tokens around a text, each with the id that it has."""
    tokens = [part[end] for end in ("sep", "cls") if end in part]
    if part["type"] == "TemplateProcessing":
        used = [piece["SpecialToken"]["id"] for piece in part["single"] if "SpecialToken" in piece]
        pairs = {name: list(zip(each["tokens"], each["ids"])) for name, each in part["special_tokens"].items()}
        tokens = [pair for each in pairs.values() for pair in each]
        if sum(len(pairs[name]) for name in used) > MAX_FRAMED or len(part["single"]) > MAX_FRAMED:
            raise ValueError(f"Expected at most {MAX_FRAMED} special tokens around a text. Received: more")
    for token, index in tokens:
        if vocabulary.get(token) != index:
            raise ValueError(f"The special token {token[:80]!r} has the id {vocabulary.get(token)}. Received: {index}")


def _check_words(content, vocabulary):
    model = content["model"]
    strings = [*vocabulary, *(value for key, value in model.items() if isinstance(value, str) and key != "type")]
    longest = max(map(len, strings), default=0)
    if longest > MAX_LETTERS:
        raise ValueError(f"Expected tokens of at most {MAX_LETTERS} letters. Received: {longest}")
    if model["unk_token"] is not None and model["unk_token"] not in model["vocab"]:
        raise ValueError(f"Expected the unknown token {model['unk_token']!r} in the vocabulary.")


def tame(backend, content):
    """Turns off what would give a text other tokens each time, and what a long word would take hours for."""
    model = content["model"]
    if model.get("dropout"):
        log.warning(
            "The tokenizer's dropout, %g, is left out: a text is to have the same tokens each time", model["dropout"]
        )
        backend.model.dropout = None
    if model.get("max_input_chars_per_word", 0) > MAX_WORD:
        log.warning("The tokenizer cuts words of up to %d letters; longer ones are unknown to it here", MAX_WORD)
        backend.model.max_input_chars_per_word = MAX_WORD
    missing = set(pre_tokenizers.ByteLevel.alphabet()) - model["vocab"].keys()
    if model["type"] == "BPE" and model["unk_token"] is None and missing:
        log.warning("The tokenizer knows no token for %d of 256 bytes; it drops them from a text", len(missing))
