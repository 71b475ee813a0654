"""Tokenizers: supported and unsafe files, and what tokenizers trained here preserve of a text."""

import json
import pathlib

import pytest
import tokenizers as library
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from ssl_keras.data import tokenizer as tokenizers
from ssl_keras.data import tokenizer_parts

ENGLISH = ["The quick brown fox jumps over the lazy dog, said (twice) by John's 42 cats.\n", "A lazy cat quickly naps!"]
HINDI = "मैं कुल पाँच किताबें के साथ यहाँ में हूँ कल वह घर में था और क म यह"
SHIPPED = pathlib.Path(__file__).parents[2] / "saved_models"


def bpe(**changes):
    """Returns the tokenizer.json of a byte-level BPE with other components or model options."""
    content = json.loads(tokenizers._bpe(ENGLISH, 300).to_str())
    model = content["model"] | {key: changes.pop(key) for key in list(changes) if key in content["model"]}
    return json.dumps(content | {"model": model} | changes)


TRAINED = tokenizers._wordpiece(ENGLISH, 200).to_str()  # training is not deterministic


def wordpiece(**changes):
    """Returns the same for WordPiece."""
    content = json.loads(TRAINED)
    model = content["model"] | {key: changes.pop(key) for key in list(changes) if key in content["model"]}
    return json.dumps(content | {"model": model} | changes)


DOUBLE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
FREE = {"type": "Split", "pattern": {"Regex": "(a|a)*$"}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def template(count=1, index=2, name="[CLS]"):
    frame = [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    tokens = {"x": {"id": "x", "ids": [index] * count, "tokens": [name] * count}}
    pair = [frame[1], {"Sequence": {"id": "B", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": frame, "pair": pair, "special_tokens": tokens}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # Unknown keys with empty lists do not hide anything.
        (bpe(pre_tokenizer={"type": "Sequence", "normalizers": [], "pretokenizers": [FREE]}), r"Received: Split:\(a"),
        (bpe(decoder={"type": "Sequence", "normalizers": [], "decoders": [DOUBLE] * 30}), "Received: Replace"),
        (bpe(normalizer={"type": "Sequence", "pretokenizers": [], "normalizers": [DOUBLE]}), "Received: Replace"),
        (bpe(post_processor={"type": "Sequence", "decoders": [], "processors": [template(count=100)]}), "at most 64"),
        # ByteLevel applied to its own output.
        (bpe(pre_tokenizer={"type": "Sequence", "pretokenizers": [BYTES] * 2}), "at most one ByteLevel"),
        (bpe(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}] * 17}), "at most 16, and"),
        # Wrong ids.
        (bpe().replace('"id": 4', '"id": 7'), r"'\[MASK\]' has the wrong id. Expected: 4. Received: 7"),
        (wordpiece(post_processor=template(index=10**6)), "Expected: 2. Received: 1000000"),
        (wordpiece(post_processor={"type": "BertProcessing", "sep": ["[SEP]", 9], "cls": ["[CLS]", 2]}), "Received: 9"),
        (wordpiece(post_processor=template(name="[NONE]")), "Expected: None"),
        # The library panics at a second text that is not there.
        (wordpiece(post_processor=template() | {"single": template()["pair"]}), "'single' must have A once.*: A, B"),
        (wordpiece(post_processor=template() | {"single": []}), "'single' must have A once. Received: no text"),
        (wordpiece(post_processor=template() | {"pair": template()["single"]}), "'pair' must have A and B once.*: A"),
        (wordpiece(unk_token="[NONE]"), "unknown token '.NONE.' is not in the vocabulary"),
        # The library allocates memory up to the largest id.
        (wordpiece(vocab={"[UNK]": 0, "a": 10**18}), "not contiguous. Expected 0 to 6. Received: up to 10{18}$"),
        (bpe().replace('"id": 4', '"id": 99999999999'), "not contiguous.* Received: up to 99999999999"),
        # It panics at merges that are shorter than the prefix.
        (bpe(continuing_subword_prefix="###"), "merges whose second part starts with '###'. Received: .*"),
        # Its messages contain text of the file.
        (wordpiece(version="\x1b[2J\n" + "a" * 5000), r"^it is not .* '\\x1b\[2J\\na{900,1000} …$"),
        ("[" * 10**5, "it is not a supported tokenizer. maximum recursion depth"),
        # Sizes.
        (wordpiece(continuing_subword_prefix="#" * 2000), "at most 1024 characters. Received: 2000"),
        (wordpiece(vocab={"[UNK]": 0, "a" * 2000: 1}, unk_token="[UNK]"), "at most 1024 characters|has the wrong id"),
    ],
)
def test_unsafe_tokenizers_are_an_error(content, message):
    with pytest.raises(ValueError, match=message):
        tokenizers.parse(content, "it")


def test_dropout_is_disabled_and_words_are_limited(caplog):
    made = tokenizers.parse(bpe(dropout=0.5), "it")
    assert len({tuple(made.encode([ENGLISH[0]])[0]) for _ in range(20)}) == 1
    assert "dropout of 0.5 is disabled" in caplog.text
    made = tokenizers.parse(wordpiece(max_input_chars_per_word=10**9), "it")
    assert made.encode(["a" * 100_000])[0] == [made.unknown]  # at once, not in hours
    assert "Words of more than 500 characters" in caplog.text


def test_a_vocabulary_without_all_bytes_logs_a_warning(caplog):
    content = json.loads(bpe())
    content["model"]["vocab"] = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5}
    made = tokenizers.parse(json.dumps(content | {"model": content["model"] | {"merges": []}}), "it")
    assert made.encode(["abc"])[0] == [5]
    assert "no token for 255 of the 256 bytes" in caplog.text


@pytest.mark.parametrize(
    "first",
    [
        {"type": "Digits", "individual_digits": True},
        {"type": "Punctuation", "behavior": "Isolated"},
        {"type": "UnicodeScripts"},
        {"type": "CharDelimiterSplit", "delimiter": "_"},
        *(
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
            for pattern in (r"\d", r"\p{N}{1,3}", r"\s+", tokenizer_parts.GPT2, tokenizer_parts.LLAMA3)
        ),
        {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithNext", "invert": False},
    ],
)
def test_components_of_well_known_tokenizers_are_accepted(first):
    content = bpe(pre_tokenizer={"type": "Sequence", "pretokenizers": [first, BYTES]})
    made = tokenizers.parse(content, "it")
    assert made.kind == "bpe"
    assert made.decode(made.encode(["cats 123, né"])[0]) == "cats 123, né"


def test_a_custom_subword_prefix():
    content = json.loads(wordpiece(continuing_subword_prefix="@@"))
    content["model"]["vocab"] = {word.replace("##", "@@"): index for word, index in content["model"]["vocab"].items()}
    made, plain = tokenizers.parse(json.dumps(content), "it"), tokenizers.parse(wordpiece(), "it")
    assert made.word_starts().tolist() == plain.word_starts().tolist()
    assert made.byte_lengths().tolist() == plain.byte_lengths().tolist()


def test_vowel_signs_and_accents_are_kept():
    made = tokenizers.Tokenizer(tokenizers._wordpiece([HINDI, "schön schon für fur"] * 20, 500))
    for one, other in (("में", "म"), ("कुल", "कल"), ("के", "क"), ("schön", "schon")):
        assert made.encode([one]) != made.encode([other])
    assert made.decode(made.encode([HINDI])[0]) == HINDI
    assert made.encode(["scho\u0308n"]) == made.encode(["schön"])  # decomposed and composed


def test_words_without_spaces_between_them_are_learned():
    thai = ["กขคงจฉชซญดตถทนบปผพภมยรลวศสหอ" * 5] * 3  # 140 letters
    made = tokenizers.Tokenizer(tokenizers._wordpiece(thai, 100))
    ids = made.encode(thai[:1])[0]
    assert made.unknown not in ids
    assert made.decode(ids) == thai[0]


def test_an_empty_token_is_a_token():
    content = bpe(vocab={"": 5} | {name: index for index, name in enumerate(tokenizers.SPECIAL)}, merges=[])
    made = tokenizers.parse(content, "it")
    assert (made.byte_lengths()[5], made.word_starts()[5]) == (0, True)


def test_what_is_not_a_list_of_strings_is_an_error():
    tokenizer = tokenizers.parse(bpe(), "it")
    for texts, received in (("hello", "one string, 'hello'"), ([None], "NoneType at index 0"), (None, "NoneType")):
        with pytest.raises(ValueError, match=f"The tokenizer: expected .*strings. Received: {received}"):
            tokenizer.encode(texts)


def test_lone_surrogates_are_replaced():
    for kind in (bpe(), wordpiece()):
        made = tokenizers.parse(kind, "it")
        assert made.encode(["cats \ud800 cats"]) == made.encode(["cats \ufffd cats"])


def test_ascii_text_has_the_tokens_of_earlier_versions():
    made, before = (library.Tokenizer.from_str(TRAINED) for _ in range(2))
    before.normalizer, before.model.max_input_chars_per_word = normalizers.BertNormalizer(), 100
    text = "".join(map(chr, range(128))) + " ".join(ENGLISH)
    assert made.normalizer.normalize_str(text) == before.normalizer.normalize_str(text)  # also used in training
    assert made.encode(text).ids == before.encode(text).ids


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("masked_lm-trec", "Who is naïve?"),
        ("image_text-emoji_pairs", "a cat with wry smile"),
        ("seq2seq-cmudict", "hello"),
        ("causal_lm-tiny_shakespeare", "To be, or not"),
    ],
)
def test_shipped_tokenizers_are_unchanged(name, text, caplog):
    plain = library.Tokenizer.from_file(str(SHIPPED / name / "tokenizer.json"))
    made = tokenizers.load(SHIPPED / name)
    assert made.encode([text], special=True)[0] == plain.encode(text).ids
    assert made.unknown == plain.token_to_id("[UNK]")
    assert not caplog.text


def test_a_damaged_cache_is_trained_again(tmp_path):
    first = tokenizers.train("characters", ENGLISH, 0, "english")
    (file,) = (tmp_path / "cache").glob("*.tokenizer.json")
    file.write_text(first.json[:50])
    assert tokenizers.train("characters", ENGLISH, 0, "english").json == first.json


def test_vocabularies_without_a_tokenizer(tmp_path):
    made = tokenizers.parse(wordpiece(), "it")
    words = sorted(made.backend.get_vocab().items(), key=lambda pair: pair[1])
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in words))
    read = tokenizers.load(tmp_path)
    assert read.encode([ENGLISH[0]], special=True) == made.encode([ENGLISH[0]], special=True)
    assert read.special == made.special
    assert tokenizers.load(tmp_path / "vocab.txt").sha256 == read.sha256
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert read.unknown in tokenizers.load(tmp_path).encode(["THE"])[0]
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"Expected one token per line, with \[UNK\]"):
        tokenizers.load(tmp_path)


def test_a_vocabulary_and_merges(tmp_path):
    made = tokenizers.parse(bpe(), "it")
    model = json.loads(made.json)["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    assert tokenizers.load(tmp_path).encode(ENGLISH) == made.encode(ENGLISH)
    (tmp_path / "merges.txt").write_text("one two three\n")
    with pytest.raises(ValueError, match="two tokens per line"):
        tokenizers.load(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"] | {"x": 2**31}))  # the library takes 9 GB for it
    with pytest.raises(ValueError, match="ids are not contiguous.*up to 2147483648"):
        tokenizers.load(tmp_path)
    (tmp_path / "vocab.json").write_text("[" * 10**5)
    with pytest.raises(ValueError, match="is not a supported tokenizer"):
        tokenizers.load(tmp_path)


def test_missing_invalid_and_large_tokenizers_are_errors(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no such file. Expected a tokenizer.json, vocab.txt \(BERT\)"):
        tokenizers.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match="is not a supported tokenizer"):
        tokenizers.load(tmp_path)
    monkeypatch.setattr(tokenizers, "MAX_BYTES", 3)
    with pytest.raises(ValueError, match="is too large. Expected at most 3 bytes. Received: 4"):
        tokenizers.load(tmp_path)


PLACES = st.lists(
    st.sampled_from(
        [
            (part, *rest)
            for part in ("normalizer", "pre_tokenizer", "decoder", "post_processor", "added_tokens", "model")
            for rest in (
                (),
                ("type",),
                ("unk_token",),
                ("vocab",),
                ("pattern",),
                ("id",),
                ("special_tokens",),
                (0, "id"),
            )
        ]
    ),
    min_size=1,
    max_size=3,
)
VALUES = st.sampled_from(
    [
        None,
        True,
        -1,
        7,
        2**64,
        1e400,
        "",
        "[UNK]",
        "\ud800",
        "Sequence",
        "ByteLevel",
        "BPE",
        [],
        {},
        [{}],
        {"a": 0},
        {"[UNK]": 2**31},
        DOUBLE,
        FREE,
        BYTES,
        {"type": "Sequence", "normalizers": [], "pretokenizers": [BYTES, BYTES]},
        template(index=99),
        {"type": "Sequence", "processors": [template(count=60)] * 9},
        [["a", "b"]],
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([bpe(), wordpiece()]), PLACES, VALUES)
def test_any_tokenizer_file_works_or_is_an_error(content, places, value):
    content = json.loads(content)
    for *path, last in places:
        part = content
        for key in path:
            part = part.get(key) if isinstance(part, dict) else None
        if isinstance(part, dict):
            part[last] = value
    try:
        made = tokenizers.parse(json.dumps(content), "it")
    except ValueError:
        return
    for special in (False, True):
        for ids in made.encode(["The quick é 😀 42!?", "", "x" * 2000], special=special):
            assert all(0 <= index < made.vocabulary for index in ids)
            assert len(ids) < 20_000
            made.decode(ids)
    assert len(made.tokens()) == len(made.byte_lengths()) == len(made.word_starts())
