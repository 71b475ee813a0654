"""Tokenizers: characters, byte-level BPE and WordPiece, each a `tokenizers.Tokenizer` and one file.

Byte-level BPE (Sennrich et al. 2016; on bytes, Radford et al. 2019) gives back any text exactly.
Characters do so for those that the training text has. WordPiece (Schuster & Nakajima 2012, as in
BERT) puts text in lower case and forgets its white space; of those trained here, letters keep their
accents and vowel signs.

Text that looks like a special token, "[MASK]" say, is text: only `encode(…, special=True)`
reads it as the token.
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
from ssl_keras.data.readers.text_files import whole_characters
from ssl_keras.data.tokenizer_parts import CHARACTER, MAX_WORD

KINDS = ("characters", "bpe", "wordpiece")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # 0 … 4 of those trained here
# What other people's tokenizers call the end of a document, and the mask.
ENDS, MASKS, UNKNOWNS = ("<|endoftext|>", "[SEP]", "</s>"), ("[MASK]", "<mask>"), ("[UNK]", "<unk>")
MAX_BYTES = 64 << 20  # of a tokenizer.json
FORMAT = 2  # of what is trained here: another number, and tokenizers in the cache are trained anew

log = logging.getLogger(__name__)


class Tokenizer:
    """Text to token ids and back.

    Args:
        backend: a `tokenizers.Tokenizer`.
        content: the tokenizer.json that it was read from, if it was.

    Attributes:
        vocabulary: how many tokens there are.
        end, mask, unknown: the ids of these special tokens, -1 where there is none.

    Raises:
        ValueError: a tokenizer of another kind than characters, byte-level BPE, WordPiece; with
            parts or sizes that could blow a text up (`tokenizer_parts`); with holes in its ids.
    """

    def __init__(self, backend, content=None):
        read = backend.to_str()
        self.json = read if content is None else content
        parsed, declared = json.loads(read), json.loads(self.json).get("added_tokens", [])
        tokenizer_parts.check(parsed, [(token["content"], token["id"]) for token in declared])
        backend.no_padding()
        backend.no_truncation()
        tokenizer_parts.tame(backend, parsed)
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
        if self.kind != "bpe":  # which knows all bytes, whatever else it calls so
            self.unknown = model["vocab"].get(model["unk_token"], self.unknown)

    def encode(self, texts, special=False):
        """A list of strings -> a list of lists of ids, on all cores.

        Args:
            special: read special tokens in the text as such, and add those that the tokenizer
                frames a text with ([CLS] … [SEP]).
        """
        self.backend.encode_special_tokens = not special
        texts = [whole_characters(text)[0] for text in texts]  # a command line may hold anything
        return [each.ids for each in self.backend.encode_batch_fast(texts, add_special_tokens=special)]

    def decode(self, ids):
        """Ids -> text; padding (-1) is left out, special tokens are written out."""
        return self.backend.decode([int(i) for i in ids if i >= 0], skip_special_tokens=False)

    def tokens(self):
        """[the text of each token]: what a reader would see, special tokens by name."""
        return [self.decode([i]) for i in range(self.vocabulary)]

    def byte_lengths(self):
        """uint8 (V,): how many bytes of UTF-8 text each token stands for; special tokens for none.

        Exact for characters and byte-level BPE. A WordPiece that starts a word counts the space
        before it, since the real white space is not known.
        """
        lengths = np.zeros(self.vocabulary, np.int64)
        for token, index in self.backend.get_vocab().items():
            if token in self.special:
                continue
            if self.kind == "bpe":
                lengths[index] = len(token)  # a character of these stands for a byte
            elif self.kind == "wordpiece" and not token.startswith(self.prefix):
                lengths[index] = 1 + len(token.encode())
            else:
                lengths[index] = len(token.removeprefix(self.prefix).encode())
        return np.minimum(lengths, 255).astype(np.uint8)

    def word_starts(self):
        """bool (V,): whether a token begins a new word (or, of characters, is none of a word)."""
        starts = np.zeros(self.vocabulary, bool)
        for token, index in self.backend.get_vocab().items():
            if token in self.special:
                starts[index] = True
            elif self.kind == "wordpiece":
                starts[index] = not token.startswith(self.prefix)
            elif self.kind == "bpe":
                # Bytes above 127 are parts of letters, as far as one byte can tell.
                starts[index] = token[:1] in "ĠĊĉč" or (token.isascii() and not any(c.isalnum() for c in token))
            else:
                starts[index] = not token.isalnum()
        return starts

    @property
    def sha256(self):
        """Of the tokenizer.json: tells one tokenizer from another."""
        return hashlib.sha256(self.json.encode()).hexdigest()


def obtain(asked, vocabulary, corpus):
    """Obtains the tokenizer that settings ask for: one of `KINDS`, trained on a run's text, or one from a file.

    Args:
        asked: characters, bpe, wordpiece, or the path of a tokenizer.json.
        vocabulary: tokens that it may learn.
        corpus: function to (texts, what tells these texts from others), called where it is trained.
    """
    if asked not in KINDS:
        return load(asked)
    texts, content = corpus()
    return train(asked, texts, vocabulary, content)


def load(path):
    """The tokenizer in a `tokenizer.json`, or in a folder, of a vocabulary alone if there is no other.

    Raises:
        ValueError: no such file; one that is too large, or none of a known kind.
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
            raise ValueError(f"{file} has {file.stat().st_size} bytes. Expected a tokenizer of at most {MAX_BYTES}.")
    if vocabulary:
        return _read(path, lambda: Tokenizer(vocabulary_files.backend(vocabulary)))
    return _read(path, lambda: _parsed(path.read_text("utf-8")))


def parse(content, name):
    """The tokenizer that a tokenizer.json's text describes."""
    return _read(name, lambda: _parsed(content))


def _parsed(content):
    return Tokenizer(tokenizers.Tokenizer.from_str(content), content)


def _read(name, read):
    try:
        return read()
    except Exception as error:  # the library raises a bare Exception
        raise ValueError(f"{name} is no tokenizer: {error}") from error


def train(kind, texts, vocabulary, content):
    """Trains a tokenizer, or takes it from the cache.

    Args:
        kind: "characters", "bpe" or "wordpiece".
        texts: iterable of strings.
        vocabulary: the largest size, special tokens included; characters take what they need.
        content: str that names the texts' content, for the cache.
    """
    if kind not in KINDS:
        raise ValueError(f"tokenizer must be {', '.join(KINDS)}, or the path of a tokenizer.json. Received: {kind!r}")
    key = json.dumps([FORMAT, kind, vocabulary, content, tokenizers.__version__])
    path = cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.tokenizer.json"
    if path.is_file():
        try:
            return load(path)
        except ValueError as error:
            log.warning("%s is damaged (%s) and is made anew.", path, error)
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
    # Marks stay, among them the vowels of many scripts; composed, a letter is the same however it was typed.
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.BertNormalizer(strip_accents=False)])
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False)
    )
    made.post_processor = vocabulary_files.framing(made)
    return made
