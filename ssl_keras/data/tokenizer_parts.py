"""Allowed components and options of a tokenizer.json, which may come from an untrusted source.

The checks read what the library parsed (`Tokenizer.to_str`) and not the file, so unknown keys cannot bypass them.
"""

import logging
import re

from tokenizers import pre_tokenizers

CHARACTER = r"[\s\S]"
# An arbitrary regular expression can take exponential time. These published ones take linear time.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
PATTERNS = {CHARACTER, GPT2, LLAMA3, LLAMA3.replace("{1,3}", "")}
ONE_CLASS = re.compile(r"(\\[dswDSW]|\\[pP]\{[A-Z][a-z]?\})(\+|\{1,3\})?")  # a single character class

MAX_PARTS = 16  # components of a Sequence
MAX_CHARACTERS = 1 << 10  # of a token, a prefix or a pattern
MAX_FRAMED = 64  # special tokens around a text
MAX_WORD = 500  # characters of a word that WordPiece splits; the time per character grows with its length
CUTS = {"behavior"}
BYTE_LEVEL = {"ByteLevel": {"add_prefix_space", "trim_offsets", "use_regex"}}
# {component: {type: its options}}. "Replace" is missing because it could double a text many times.
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


def check_sizes(content):
    """Raises ValueError for ids and merges that the library must not read.

    The library allocates memory up to the largest id, and panics at a merge that is shorter than its prefix.

    Args:
        content: the parsed tokenizer.json.
    """
    content = content if isinstance(content, dict) else {}
    model = content.get("model") if isinstance(content.get("model"), dict) else {}
    vocabulary = model.get("vocab") if isinstance(model.get("vocab"), dict) else {}
    added = content.get("added_tokens") if isinstance(content.get("added_tokens"), list) else []
    ids = [*vocabulary.values(), *(token.get("id") for token in added if isinstance(token, dict))]
    largest = max((index for index in ids if type(index) is int), default=-1)
    if largest >= len(ids):
        raise ValueError(f"The ids are not contiguous. Expected 0 to {len(ids) - 1}. Received: up to {largest}")
    prefix, merges = model.get("continuing_subword_prefix"), model.get("merges")
    if isinstance(prefix, str) and isinstance(merges, list):
        for merge in merges:
            parts = merge.split(" ") if isinstance(merge, str) else merge
            if isinstance(parts, list) and len(parts) == 2 and not str(parts[1]).startswith(prefix):
                raise ValueError(f"Expected merges whose second part starts with {prefix!r}. Received: {merge!r}")


def check(content, declared):
    """Raises ValueError if a tokenizer has a component, an option or a size that is not allowed.

    Args:
        content: the tokenizer.json as the library parsed it.
        declared: [(token, id)] of the added tokens in the file.
    """
    vocabulary = content["model"]["vocab"] | {token["content"]: token["id"] for token in content["added_tokens"]}
    largest = max(vocabulary.values(), default=-1)
    if len(set(vocabulary.values())) != largest + 1:
        raise ValueError(f"The ids are not contiguous. Expected 0 to {len(vocabulary) - 1}. Received: up to {largest}")
    _check_ids("added", declared, vocabulary)
    for name, allowed in PARTS.items():
        parts = list(_flat(content[name]))
        other = sorted({part["type"] for part in parts} - allowed.keys())
        if other:
            raise ValueError(
                f"The {name} is not supported. Expected one of {', '.join(sorted(allowed))}. "
                f"Received: {', '.join(other)}"
            )
        for part in parts:
            unknown = sorted(part.keys() - allowed[part["type"]] - {"type"})
            if unknown:
                raise ValueError(
                    f"The {name} {part['type']} has unsupported options. "
                    f"Expected: {', '.join(sorted(allowed[part['type']])) or 'none'}. Received: {', '.join(unknown)}"
                )
        types = [part["type"] for part in parts if part["type"] != "Sequence"]
        # Each ByteLevel doubles the length: fifteen of them turn one byte into thirty thousand.
        if len(types) > MAX_PARTS or types.count("ByteLevel") > 1:
            raise ValueError(
                f"The {name} has too many parts. Expected at most {MAX_PARTS}, and at most one ByteLevel. "
                f"Received: {', '.join(types[:20])}"
            )
    for part in _flat(content["pre_tokenizer"]):
        if part["type"] == "Split":
            _check_pattern(part["pattern"])
    for part in _flat(content["post_processor"]):
        _check_frame(part, vocabulary)
    _check_words(content, vocabulary)


def _flat(part):
    """Yields a component and, for a sequence, its members."""
    if part is not None:
        yield part
        if part["type"] == "Sequence":
            inner = next(value for key, value in part.items() if key != "type")
            for each in inner:
                yield from _flat(each)


def _check_pattern(pattern):
    regex, plain = pattern.get("Regex"), pattern.get("String")
    if not plain and regex not in PATTERNS and not ONE_CLASS.fullmatch(regex or ""):
        raise ValueError(
            "The pre_tokenizer's pattern is not supported. Expected a character class, or the pattern of GPT-2 or "
            f"Llama 3. Received: Split:{str(regex)[:80]}"
        )


def _check_frame(part, vocabulary):
    """Raises ValueError if a post-processor adds too many special tokens to a text, or tokens with wrong ids."""
    tokens = [part[end] for end in ("sep", "cls") if end in part]
    if part["type"] == "TemplateProcessing":
        pairs = {name: list(zip(each["tokens"], each["ids"])) for name, each in part["special_tokens"].items()}
        tokens = [pair for each in pairs.values() for pair in each]
        for name, texts in (("single", ["A"]), ("pair", ["A", "B"])):
            pieces = part[name]
            _check_texts(name, texts, pieces)
            used = [piece["SpecialToken"]["id"] for piece in pieces if "SpecialToken" in piece]
            if sum(len(pairs[name]) for name in used) > MAX_FRAMED or len(pieces) > MAX_FRAMED:
                raise ValueError(
                    f"The post_processor adds too many tokens. Expected at most {MAX_FRAMED} around a text."
                )
    _check_ids("special", tokens, vocabulary)


def _check_texts(name, texts, pieces):
    """Raises ValueError if a template has not each text once: the library panics at a text that is not there."""
    found = sorted(piece["Sequence"]["id"] for piece in pieces if "Sequence" in piece)
    if found != texts:
        raise ValueError(
            f"The post_processor's template {name!r} must have {' and '.join(texts)} once. Received: "
            f"{', '.join(found[:20]) or 'no text'}"
        )


def _check_ids(kind, tokens, vocabulary):
    for token, index in tokens:
        known = vocabulary.get(token)
        if known != index:
            raise ValueError(f"The {kind} token {token[:80]!r} has the wrong id. Expected: {known}. Received: {index}")


def _check_words(content, vocabulary):
    model = content["model"]
    strings = [*vocabulary, *(value for key, value in model.items() if isinstance(value, str) and key != "type")]
    longest = max(map(len, strings), default=0)
    if longest > MAX_CHARACTERS:
        raise ValueError(f"Expected tokens of at most {MAX_CHARACTERS} characters. Received: {longest} characters")
    if model["unk_token"] is not None and model["unk_token"] not in model["vocab"]:
        raise ValueError(f"The unknown token {model['unk_token']!r} is not in the vocabulary.")


def sanitize(backend, content):
    """Disables dropout, so that tokenization is deterministic, and limits the word length, so that it is fast."""
    model = content["model"]
    if model.get("dropout"):
        log.warning("The tokenizer's dropout of %g is disabled, to make tokenization deterministic.", model["dropout"])
        backend.model.dropout = None
    if model.get("max_input_chars_per_word", 0) > MAX_WORD:
        log.warning("Words of more than %d characters become the unknown token.", MAX_WORD)
        backend.model.max_input_chars_per_word = MAX_WORD
    missing = set(pre_tokenizers.ByteLevel.alphabet()) - model["vocab"].keys()
    if model["type"] == "BPE" and model["unk_token"] is None and missing:
        log.warning("The tokenizer has no token for %d of the 256 bytes, and drops them from texts.", len(missing))
