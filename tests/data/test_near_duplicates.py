"""Near duplicates: sketches against exact similarities, keys against their probability, scripts, images, groups."""

import itertools
import unicodedata

import numpy as np
import pytest

from ssl_keras.data import near_duplicates
from ssl_keras.data.near_duplicates import grouping, images, sketching, texts
from ssl_keras.data.readers import text
from ssl_keras.data.splits import Splits, hold_out

LETTERS = {
    "english": [chr(c) for c in range(97, 123)],
    "chinese": [chr(c) for c in range(0x4E00, 0x5200)],
    "hindi": [chr(c) for c in range(0x915, 0x93A)],
    "thai": [chr(c) for c in range(0xE01, 0xE2E)],
}
SIGNS = {"hindi": "ािीुूेैोौ्", "thai": "ะัาิีึืุูเแโใไ็่้"}


def words(language, random, count):
    """Makes words of 2 to 7 letters, with vowel signs where the script has them; Zipf's law decides how often."""
    letters, signs = LETTERS[language], SIGNS.get(language, "")

    def letter():
        sign = signs[random.integers(len(signs))] if signs and random.random() < 0.5 else ""
        return letters[random.integers(len(letters))] + sign

    kinds = ["".join(letter() for _ in range(random.integers(2, 8))) for _ in range(400)]
    return [kinds[min(int(row), 399)] for row in random.zipf(1.3, count)]


def document(language, random, count=200):
    between = "" if language in ("chinese", "thai") else " "
    return between.join(words(language, random, count))


def jaccard(a, b):
    """The similarity of two texts by the sets of their shingles, slowly."""
    sets = []
    for each in (a, b):
        folded = texts.UNSPACED.sub(r" \1 ", texts.fold(each)).split()
        sets.append({tuple(folded[i : i + 5]) for i in range(len(folded) - 4)})
    return len(sets[0] & sets[1]) / max(len(sets[0] | sets[1]), 1)


def sketched(documents):
    hashes, places = texts.tokens([texts.fold(each) for each in documents])
    return sketching.sketches(*texts.token_shingles(hashes, places), len(documents))


def slow_sketch(elements):
    """Algorithm 1 of Dahlgaard et al., one element and one bin at a time, in Python's integers."""

    def mix(x):
        x ^= x >> 30
        x = x * 0xBF58476D1CE4E5B9 % 2**64
        x ^= x >> 27
        x = x * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    bins = [None] * sketching.BINS
    for number in range(2 * sketching.BINS):
        for element in elements:
            hashed = mix((element + (number + 1) * int(sketching.ROUND)) % 2**64)
            place = (hashed >> 32) * sketching.BINS >> 32 if number < sketching.BINS else number - sketching.BINS
            value = number << 32 | hashed & 0xFFFFFFFF
            bins[place] = value if bins[place] is None else min(bins[place], value)
        if None not in bins:
            break
    return bins


@pytest.mark.parametrize("count", [1, 3, 50, 700])
def test_sketches_equal_a_loop(count):
    elements = np.random.default_rng(count).integers(0, 2**64, count, np.uint64)
    made = sketching.sketches(np.concatenate([elements, elements[:1]]), np.zeros(count + 1, int), 1)
    assert made[0].tolist() == slow_sketch(elements.tolist())
    other = sketching.sketches(np.concatenate([elements[::-1], elements]), np.repeat([0, 1], count), 2)
    assert (other == made).all()  # neither the order nor other sets change a sketch


@pytest.mark.parametrize("size", [12, 60, 2_000])
def test_sketches_estimate_similarity_without_bias(size):
    random, found = np.random.default_rng(size), []
    for _ in range(150):
        elements = random.integers(0, 2**64, size + size // 4, np.uint64)
        pair = np.concatenate([elements[:size], elements[size // 4 :]])  # J = 0.75 / 1.25
        made = sketching.sketches(pair, np.repeat([0, 1], size), 2)
        found.append(sketching.agreement(*sketching.compact(made)[:, None])[0])
    true = (size - size // 4) / (size + size // 4)
    assert np.mean(found) == pytest.approx(true, abs=4 * np.sqrt(true * (1 - true) / 120 / 150))
    assert np.std(found) < 1.3 * np.sqrt(true * (1 - true) / 120)
    empty = sketching.sketches(np.zeros(0, np.uint64), np.zeros(0, int), 2)
    assert (empty == sketching.EMPTY).all()


def test_keys_are_shared_as_often_as_stated():
    random, shared = np.random.default_rng(0), []
    for _ in range(300):
        elements = random.integers(0, 2**64, 1_500, np.uint64)
        pair = np.concatenate([elements[:1_250], elements[250:]])  # J = 2/3
        one, two = sketching.keys(sketching.sketches(pair, np.repeat([0, 1], 1_250), 2), 20, 6)
        shared.append((one == two).any())
    assert np.mean(shared) == pytest.approx(1 - (1 - (2 / 3) ** 6) ** 20, abs=0.06)


def test_bits_do_not_move():
    """Sketches are stored and compared across machines and versions."""
    made = sketched(["The quick brown fox jumps over the lazy dog, and the dog sleeps on."])
    assert made[0, :3].tolist() == MADE


MADE = [38866696987, 171070329013, 10186890783]


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("Café CAFÉ", "cafe cafe", True),
        (unicodedata.normalize("NFD", "Đà Nẵng"), "Đà Nẵng", True),
        ("ﬁne Straße ＡＢＣ", "fine strasse abc", True),
        ("co\u00adoperate zero\u200bwidth", "cooperate zerowidth", True),
        ("שָׁלוֹם مُحَمَّد", "שלום محمد", True),
        ("दिन", "दान", False),
        ("กิน", "กัน", False),
        ("かき", "がき", False),
        ("한국", "학국", False),
        ("...", "!!", False),
    ],
)
def test_folding(one, two, same):
    assert (near_duplicates.normalize_text(one) == near_duplicates.normalize_text(two)) == same


@pytest.mark.parametrize("language", LETTERS)
def test_edited_documents_are_found_in_every_script(language):
    random = np.random.default_rng(1)
    originals = [document(language, random) for _ in range(40)]
    edited = []
    for each in originals:
        letters = list(each)
        for place in random.integers(0, len(letters), 2):
            letters[place] = LETTERS[language][random.integers(len(LETTERS[language]))]
        edited.append("".join(letters))
    near = [jaccard(a, b) >= 0.8 for a, b in zip(originals, edited)]
    assert sum(near) > 25
    made = sketched(originals + edited)
    found = sketching.keys(made, *texts.DOCUMENT_BANDS)
    small = sketching.compact(made)
    pairs = grouping.cross_pairs(
        found[:40], found[40:], lambda i, j: sketching.agreement(small[i], small[40 + j]) >= 0.7
    )
    assert {row for row in range(40) if near[row]} <= {int(i) for i, j in pairs if i == j}
    assert all(i == j for i, j in pairs)


def test_long_texts_have_the_same_tokens_in_pieces(monkeypatch):
    long = texts.fold(document("english", np.random.default_rng(2), 3_000))
    whole = texts.tokens([long])
    monkeypatch.setattr(texts, "PIECE", 1_000)
    pieces = texts.tokens([long])
    assert (whole[0] == pieces[0]).all()
    assert (whole[1] == pieces[1]).all()
    assert texts.tokens(["", "a b", ""])[1].tolist() == [0, 0, 2, 2]
    assert [each.tolist() for each in texts.token_shingles(*texts.tokens(["a b c"]))] == [[], []]


def test_shingles_do_not_cross_texts():
    both = texts.token_shingles(*texts.tokens(["a b c d e f", "g h i", "f e d c b a"]))
    apart = [texts.token_shingles(*texts.tokens([each]))[0] for each in ("a b c d e f", "f e d c b a")]
    assert both[0].tolist() == np.concatenate(apart).tolist()
    assert both[1].tolist() == [0, 0, 2, 2]
    letters = texts.letter_shingles(["ab", "c"])
    assert letters[1].tolist() == [0, 0, 1]


def test_many_short_texts_are_found_by_keys(monkeypatch):
    random = np.random.default_rng(3)
    ours = [" ".join(words("english", random, 6)) for _ in range(300)]
    theirs = [each[:-1] + LETTERS["english"][random.integers(26)] for each in ours]
    exact = {tuple(pair) for pair in near_duplicates.similar_texts(ours, theirs).tolist()}
    monkeypatch.setattr(near_duplicates, "EXACT", 0)
    found = {tuple(pair) for pair in near_duplicates.similar_texts(ours, theirs).tolist()}
    assert found <= exact
    assert len(found) >= 0.95 * len(exact) > 250
    within = near_duplicates.similar_texts([*ours, *theirs])
    assert {(i, i + 300) for i, j in exact if i == j} <= _together(within, 600)


def _together(pairs, count):
    group = near_duplicates.groups(count, pairs)
    return {(i, i + count // 2) for i in range(count // 2) if group[i] == group[i + count // 2]}


def test_many_images_are_found_by_keys(monkeypatch, rng):
    ours = rng.integers(0, 255, (30, 24, 24, 3)).astype(np.uint8)
    theirs = np.clip(ours.astype(int) + rng.integers(-9, 10, ours.shape), 0, 255).astype(np.uint8)
    theirs[0] = ours[0] = 7  # of a single color
    exact = near_duplicates.similar_images(ours, theirs)
    monkeypatch.setattr(near_duplicates, "EXACT", 0)
    assert near_duplicates.similar_images(ours, theirs).tolist() == exact.tolist() == [[i, i] for i in range(30)]


def test_sketches_of_images(rng):
    picture = rng.integers(0, 255, (40, 30, 3)).astype(np.uint8)
    thumbnails, details, keys = images.sketches([picture, 255 - picture, picture / 255, picture[..., ::-1]])
    assert images.correlation(thumbnails[:1], thumbnails[1:2])[0] == pytest.approx(-1, abs=0.01)
    assert images.correlation(details[:1], details[1:2])[0] == pytest.approx(-1, abs=0.01)
    assert (thumbnails[2] == thumbnails[0]).all()
    assert (keys[2] == keys[0]).all()
    assert images.correlation(thumbnails[:1], thumbnails[3:])[0] < 0.9  # another color is another picture
    flat = images.sketches([np.full((9, 9, 1), 7, np.uint8)])
    assert not flat[0].any()
    assert images.correlation(flat[0], thumbnails[:1])[0] == 0


def test_what_looks_alike_decides_the_threshold():
    """Pictures that are framed alike need details that are more alike; a fifth of copies changes nothing."""
    random = np.random.default_rng(4)
    apart = random.normal(0, 40, (400, 1024)).astype(np.int8)
    assert images.fitted_detail(apart) == images.DETAIL
    copies = np.concatenate([apart, apart[:100]])
    assert images.fitted_detail(copies) == images.DETAIL
    framed = np.clip(random.normal(0, 40, 1024) + random.normal(0, 12, (400, 1024)), -127, 127).astype(np.int8)
    assert images.fitted_detail(framed) > 0.9
    assert images.fitted_detail(framed[:3]) == images.DETAIL


def similar_numbers(i, j):
    return abs(i - j) <= 2


def test_pairs_in_buckets():
    keys = np.array([1, 1, 1, 1, 2, 2, 3])
    members = np.array([0, 2, 5, 6, 0, 2, 9])
    pairs, left = grouping.bucket_pairs(keys, members, similar_numbers)
    assert {tuple(pair) for pair in pairs.tolist()} == {(0, 2), (5, 6)}
    assert left == 0
    crossed = grouping.cross_pairs(np.array([[1, 8], [2, 9]]), np.array([[8, 1], [3, 9], [5, 5]]), similar_numbers)
    assert crossed.tolist() == [[0, 0], [1, 1]]


def test_a_hot_bucket_takes_linear_time(monkeypatch):
    compared = []

    def similar(i, j):
        compared.append(len(i))
        return np.zeros(len(i), bool)

    monkeypatch.setattr(grouping, "MAX_LEADERS", 10)
    _, left = grouping.bucket_pairs(np.zeros(1_000, int), np.arange(1_000), similar)
    assert sum(compared) == sum(range(990, 1_000))
    assert left == 989
    assert not grouping.bucket_pairs(np.zeros(1_000, int), np.arange(1_000), lambda i, j: i < j)[1]


def test_what_is_removed_is_near_what_is_kept():
    chain = np.array([[0, 1], [1, 2], [2, 3]])
    assert grouping.keepers(5, chain).tolist() == [-1, 0, -1, 2, -1]
    random = np.random.default_rng(5)
    pairs = random.integers(0, 60, (80, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    near = {frozenset(pair) for pair in pairs.tolist()}
    keeper = grouping.keepers(60, pairs)
    kept = np.flatnonzero(keeper < 0)
    assert not any(frozenset(pair) in near for pair in itertools.combinations(kept.tolist(), 2))
    for one in np.flatnonzero(keeper >= 0):
        assert keeper[keeper[one]] < 0
        assert frozenset((int(one), int(keeper[one]))) in near


def pieced(sizes):
    texts_of = [f"document {number} piece {piece}" for number, size in enumerate(sizes) for piece in range(size)]
    source = text.documents("pieces", texts_of)
    source.arrays["ends"] = np.concatenate([np.arange(size) == size - 1 for size in sizes])
    return source


def test_documents_are_held_out_whole():
    random = np.random.default_rng(6)
    splits = hold_out(pieced(random.integers(1, 6, 60)))
    owners = [{each.split(" piece")[0] for each in part.column("text")} for part in splits]
    assert not any(a & b for a, b in itertools.combinations(owners, 2))
    total = sum(map(len, splits))
    assert 0.15 * total < len(splits.test) <= 0.2 * total
    assert len(splits.validation) > 0.05 * total
    assert near_duplicates.leaks(splits)["test", "texts"].shape[1] == 2
    single = hold_out(pieced([1] * 30))
    assert single.test.rows.tolist() == hold_out(text.documents("whole", ["x"] * 30)).test.rows.tolist()


def test_few_large_documents_are_held_out_in_pieces():
    splits = hold_out(pieced([50, 40]))
    assert any("pieces of one document are in several splits" in note for note in splits.train.notes)
    with pytest.raises(ValueError, match="pieces of a document that is also in"):
        near_duplicates.leaks(splits)


def test_copies_of_documents_are_leaks():
    random = np.random.default_rng(7)
    originals = [document("english", random) for _ in range(20)]
    other = originals[3].replace(".", "!").upper() + " one more sentence"
    short = ["is this a short text?", "This is another one."]
    train = text.documents("a", [*originals, short[0]])
    held = text.documents("b", [document("english", random), other, "Is this a short text"])
    found = near_duplicates.leaks(Splits(train, held, held))
    assert found["test", "texts"].tolist() == [[3, 1], [20, 2]]


def test_pairs_at_the_threshold_are_found():
    """Of sets whose similarity is exactly the threshold, the estimate alone would find half."""
    random = np.random.default_rng(8)
    found = []
    for _ in range(200):
        drawn = random.integers(0, 2**63, 1000).astype(np.uint64)
        ours, theirs = drawn[:900], drawn[100:]  # 800 of 1,000 in common
        both = np.concatenate([ours, theirs]), np.repeat([0, 1], 900)
        found.append(sketching.compact(sketching.sketches(*both, 2)))
    one, other = np.stack(found).transpose(1, 0, 2)
    assert np.mean(sketching.similar(one, other, 0.8)) > 0.65
    assert np.mean(sketching.similar(one, other, 0.9)) < 0.15
