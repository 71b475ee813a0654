"""Tokenizers: characters, byte-level BPE and WordPiece, each a `tokenizers.Tokenizer` in one file.

Byte-level BPE (Sennrich et al. 2016; on bytes, Radford et al. 2019) is lossless for any text. Character tokenizers are
lossless for characters of the training text. WordPiece (Schuster & Nakajima 2012, as in BERT) lowercases text and
discards whitespace; tokenizers trained here keep accents and vowel signs.

Text that looks like a special token, such as "[MASK]", is tokenized as text. Only `encode(…, special=True)` parses
special tokens.
"""

import hashlib
import json
import logging
import pathlib

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from ssl_keras import files
from ssl_keras.data import tokenizer_parts, vocabulary_files
from ssl_keras.data.cache import cache_folder
from ssl_keras.data.readers.text_files import strings
from ssl_keras.data.tokenizer_parts import CHARACTER, MAX_WORD

KINDS = ("characters", "bpe", "wordpiece")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 … 4 of tokenizers trained here
# Common names of the end-of-text, mask, unknown and padding tokens.
ENDS = ("<|endoftext|>", "<|end_of_text|>", "[SEP]", "</s>")
MASKS, UNKNOWNS, PADS = ("[MASK]", "<mask>"), ("[UNK]", "<unk>"), ("[PAD]", "<pad>")
MAX_BYTES = 64 << 20  # of a tokenizer.json
FORMAT = 2  # increment when training changes: cached tokenizers are then trained again

log = logging.getLogger(__name__)


class Tokenizer:
    """Encodes text as token ids, and decodes them.

    Args:
        backend: a `tokenizers.Tokenizer`.
        content: the text of its tokenizer.json, if it was read from one.

    Attributes:
        vocabulary: the number of tokens.
        end, mask, unknown: the ids of these special tokens; -1 if there is none.
        begin: the id of the only token that goes around a text, before it, such as Llama's; -1 if there is none.

    Raises:
        ValueError: The tokenizer is not of characters, byte-level BPE or WordPiece; has unsafe components or sizes
            (`tokenizer_parts`); or its ids are not contiguous.
    """

    def __init__(self, backend, content=None):
        read = backend.to_str()
        self.json = read if content is None else content
        parsed, declared = json.loads(read), json.loads(self.json).get("added_tokens", [])
        tokenizer_parts.check(parsed, [(token["content"], token["id"]) for token in declared])
        backend.no_padding()
        backend.no_truncation()
        tokenizer_parts.sanitize(backend, parsed)
        self.backend = backend
        self.vocabulary = backend.get_vocab_size()
        model = parsed["model"]
        byte_level = '"type": "ByteLevel"' in json.dumps([parsed["pre_tokenizer"], parsed["decoder"]])
        self.kind = {"WordLevel": "characters", "WordPiece": "wordpiece", "BPE": byte_level and "bpe"}[model["type"]]
        if not self.kind:
            raise ValueError(f"Expected characters, byte-level BPE or WordPiece. Received: {model['type']}")
        self.prefix = model["continuing_subword_prefix"] if self.kind == "wordpiece" else ""
        self.special = {token["content"]: token["id"] for token in parsed["added_tokens"] if token["special"]}
        self.end, self.mask, self.unknown = (
            next((self.special[name] for name in names if name in self.special), -1)
            for names in (ENDS, MASKS, UNKNOWNS)
        )
        if self.kind != "bpe":  # byte-level BPE has a token for every byte, whatever it calls unknown
            self.unknown = model["vocab"].get(model["unk_token"], self.unknown)
        frame = self.encode([""], special=True)[0]
        self.begin = frame[0] if len(frame) == 1 and frame[0] in self.special.values() else -1

    def encode(self, texts, special=False):
        """Encodes a list of strings as a list of lists of ids, on all cores.

        Args:
            special: whether to parse special tokens in the text, and add those that go around a text ([CLS] … [SEP]).
        """
        self.backend.encode_special_tokens = not special
        texts = strings("The tokenizer", texts)[0]  # command-line arguments may contain lone surrogates
        return [each.ids for each in self.backend.encode_batch_fast(texts, add_special_tokens=special)]

    def decode(self, ids):
        """Decodes ids to text, with special tokens; padding (-1) is skipped."""
        return self.backend.decode([int(i) for i in ids if i >= 0], skip_special_tokens=False)

    def tokens(self):
        """Returns the text of each token in the vocabulary, with special tokens by name."""
        return [self.decode([i]) for i in range(self.vocabulary)]

    def byte_lengths(self):
        """Returns the number of UTF-8 bytes of each token, uint8 (V,); 0 for special tokens.

        Exact for characters and byte-level BPE. A WordPiece token that starts a word counts a space before it, since
        the original whitespace is unknown.
        """
        lengths = np.zeros(self.vocabulary, np.int64)
        for token, index in self.backend.get_vocab().items():
            if token in self.special:
                continue
            if self.kind == "bpe":
                lengths[index] = len(token)  # byte-level BPE writes each byte as one character
            elif self.kind == "wordpiece" and not token.startswith(self.prefix):
                lengths[index] = 1 + len(token.encode())
            else:
                lengths[index] = len(token.removeprefix(self.prefix).encode())
        return np.minimum(lengths, 255).astype(np.uint8)

    def word_starts(self):
        """Returns whether each token starts a new word, bool (V,); for characters, whether it is not alphanumeric."""
        starts = np.zeros(self.vocabulary, bool)
        for token, index in self.backend.get_vocab().items():
            if token in self.special:
                starts[index] = True
            elif self.kind == "wordpiece":
                starts[index] = not token.startswith(self.prefix)
            elif self.kind == "bpe":
                # Bytes above 127 are assumed to be parts of letters.
                starts[index] = token[:1] in "ĠĊĉč" or (token.isascii() and not any(c.isalnum() for c in token))
            else:
                starts[index] = not token.isalnum()
        return starts

    @property
    def sha256(self):
        """The SHA-256 of the tokenizer.json, which identifies the tokenizer."""
        return hashlib.sha256(self.json.encode()).hexdigest()


def obtain(asked, vocabulary, corpus):
    """Returns the tokenizer that settings name: one of `KINDS`, trained on a run's text, or one from a file.

    Args:
        asked: characters, bpe, wordpiece, or the path of a tokenizer.json.
        vocabulary: the largest vocabulary size.
        corpus: function that returns (texts, a checksum of them), called only to train a tokenizer.
    """
    if asked not in KINDS:
        return load(asked)
    texts, content = corpus()
    return train(asked, texts, vocabulary, content)


def load(path):
    """Loads a tokenizer from a `tokenizer.json`, or from a folder with one or with vocabulary files.

    Raises:
        ValueError: The file does not exist, is too large, or is not a supported tokenizer.
    """
    path = pathlib.Path(path)
    vocabulary = [] if path.is_file() or (path / "tokenizer.json").is_file() else vocabulary_files.found(path)
    path = path / "tokenizer.json" if path.is_dir() and not vocabulary else path
    if path.name == "vocab.txt":
        vocabulary = [path]
    for file in vocabulary or [path]:
        if not file.is_file():
            raise ValueError(f"{file}: no such file. Expected a tokenizer.json, {vocabulary_files.NAMES}.")
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(
                f"{file} is too large. Expected at most {MAX_BYTES} bytes. Received: {file.stat().st_size} bytes"
            )
    if vocabulary:
        return _read(path, lambda: Tokenizer(vocabulary_files.backend(vocabulary)))
    return _read(path, lambda: _parsed(path.read_text("utf-8")))


def parse(content, name):
    """Parses the text of a tokenizer.json."""
    return _read(name, lambda: _parsed(content))


def _parsed(content):
    tokenizer_parts.check_sizes(json.loads(content))
    return Tokenizer(tokenizers.Tokenizer.from_str(content), content)


def _read(name, read):
    try:
        return read()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises a bare Exception; a panic of Rust is a BaseException
        raise ValueError(f"{name} is not a supported tokenizer. {files.excerpt(error)}") from error


def train(kind, texts, vocabulary, content):
    """Trains a tokenizer, or loads it from the cache.

    Args:
        kind: "characters", "bpe" or "wordpiece".
        texts: iterable of strings.
        vocabulary: the largest vocabulary size, including special tokens; ignored for characters.
        content: str, a checksum of the texts, for the cache.
    """
    if kind not in KINDS:
        raise ValueError(f"tokenizer must be {', '.join(KINDS)}, or the path of a tokenizer.json. Received: {kind!r}")
    key = json.dumps([FORMAT, kind, vocabulary, content, tokenizers.__version__])
    path = cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.tokenizer.json"
    if path.is_file():
        try:
            return load(path)
        except ValueError as error:
            log.warning("%s is damaged (%s). Training the tokenizer again.", path, error)
    log.info("Training a tokenizer: %s", kind)
    made = Tokenizer({"characters": _characters, "bpe": _bpe, "wordpiece": _wordpiece}[kind](texts, vocabulary))
    files.make_folder(path.parent)
    files.write(path, made.json)
    return made


def _characters(texts, _):
    found = sorted(set().union(*map(set, texts)))
    words = {word: index for index, word in enumerate([*SPECIAL, *found])}
    made = tokenizers.Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(CHARACTER), "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens(list(SPECIAL))
    return made


def _bpe(texts, vocabulary):
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocabulary < len(alphabet) + len(SPECIAL):
        raise ValueError(f"vocabulary must be at least {len(alphabet) + len(SPECIAL)}. Received: {vocabulary}")
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
        ),
    )
    return made


def _wordpiece(texts, vocabulary):
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=MAX_WORD))
    # Accents are kept: in many scripts they are vowels. NFC makes equivalent spellings of a letter equal.
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.BertNormalizer(strip_accents=False)])
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False)
    )
    made.post_processor = vocabulary_files.framing(made)
    return made
