"""Finding pictures by words and words by pictures: how often it succeeds, beside what needs no network.

Shapes: `N` pairs, `Z` the common space.
"""

import logging

import numpy as np

from ssl_keras.data import near_duplicates
from ssl_keras.data.readers import captions
from ssl_keras.encoders.inputs import adapt_images

log = logging.getLogger(__name__)
RANKS, WAYS = (1, 5, 10), ("text to image", "image to text")
DIRECTIONS = 64  # principal components of the baseline's images
CHUNK = 1_024  # queries at a time
STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # of the ridge; the best by validation is taken


def recalls(queries, candidates, concepts, ranks=RANKS):
    """{k: the share of queries with a right one among the k most similar candidates}; equal similarities count against.

    Args:
        queries, candidates: (N, Z); row i of both belong together.
        concepts: (N,) integers; candidates of the query's concept are all right.

    Raises:
        ValueError: numbers that are not finite, of which none is more similar than another.
    """
    if not (np.isfinite(queries).all() and np.isfinite(candidates).all()):
        raise ValueError("The encoder gives numbers that are not finite: nothing can be found by them.")
    before = np.empty(len(queries), int)
    for start in range(0, len(queries), CHUNK):
        rows = slice(start, start + CHUNK)
        similarity = queries[rows] @ candidates.T
        right = concepts[rows, None] == concepts
        best = np.where(right, similarity, -np.inf).max(1, keepdims=True)
        before[rows] = ((similarity >= best) & ~right).sum(1)
    return {k: float(np.mean(before < k)) for k in ranks}


def both_ways(image, text, concepts, ranks=RANKS):
    """{"text to image": …, "image to text": …} of `recalls`."""
    return dict(zip(WAYS, (recalls(text, image, concepts, ranks), recalls(image, text, concepts, ranks))))


def chance(concepts, ranks=RANKS):
    """{k: what guessing has}: 1 − C(N − c, k) / C(N, k) where c of N candidates are right, the mean over queries."""
    count, right = len(concepts), np.bincount(concepts)[concepts]

    def missed(k):
        return np.prod([np.maximum(count - right - i, 0) / (count - i) for i in range(min(k, count))], axis=0)

    return {k: float(np.mean(1 - missed(k))) for k in ranks}


def concepts_of(names):
    """int (N,): names that are the same without case and punctuation have one number."""
    return np.unique([near_duplicates.normalize_text(name) for name in names], return_inverse=True)[1]


def baseline(splits):
    """(images, names) of the test part in a space without any network, (N, Z) each, of length 1.

    Names by words and by letters in threes (TF-IDF), images by thumbnails' principal components; ridge regression
    from the one to the other, on all captions of the training part. Its strength is chosen on the validation part.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler, normalize

    listed = captions.captions_of(splits.train)
    rows = np.repeat(np.arange(len(listed)), [len(each) for each in listed])
    words = TfidfVectorizer(analyzer=_parts_of_text, sublinear_tf=True, min_df=2)
    x = words.fit_transform([text for each in listed for text in each])
    thumbnails = [near_duplicates.thumbnails(part.column("image")).reshape(len(part), -1) for part in splits]
    scaler = StandardScaler().fit(thumbnails[0])
    components = TruncatedSVD(min(DIRECTIONS, thumbnails[0].shape[1] - 1), random_state=0)
    train = components.fit_transform(scaler.transform(thumbnails[0]))
    validation, test = (components.transform(scaler.transform(each)) for each in thumbnails[1:])
    known, asked = (captions.names_of(part) for part in (splits.validation, splits.test))
    best = -1.0, None
    for strength in STRENGTHS:
        model = Ridge(strength).fit(x, train[rows])
        found = both_ways(normalize(validation), normalize(model.predict(words.transform(known))), concepts_of(known))
        score = np.mean([each[RANKS[-1]] for each in found.values()])
        if score > best[0]:
            best = score, model
    return normalize(test), normalize(best[1].predict(words.transform(asked)))


def _parts_of_text(text):
    """Its words, and its letters in threes."""
    text = f" {text.lower()} "
    return [*text.split(), *(text[i : i + 3] for i in range(len(text) - 2))]


def evaluate(retriever, splits, part="test"):
    """{row: {"text to image": {k: share}, "image to text": …}} of a part's images and their names.

    Rows: `chance`; `bag of words` (`baseline`, where the part is test); the encoder of a `search.Retriever`.

    Raises:
        ValueError: data without captions, or with images that cannot be converted.
    """
    splits = adapt_images(retriever.card, splits)
    source = getattr(splits, part)
    names = captions.names_of(source)
    trained = retriever.card["trained_by"].get("data", {}).get("name", "")
    if trained.partition(":")[0] == source.name.partition(":")[0] and trained != splits.train.name:
        log.warning("%s was trained on %s: to it %s may not be new", retriever.card["name"], trained, source.name)
    concepts = concepts_of(names)
    table = {"chance": dict.fromkeys(WAYS, chance(concepts))}
    if part == "test":
        table["bag of words"] = both_ways(*baseline(splits), concepts)
    table[retriever.card["name"]] = both_ways(
        retriever.of_images(source.column("image")), retriever.of_texts(names), concepts
    )
    return table


def markdown(table):
    """The table as Markdown, in percent."""
    ways = next(iter(table.values()))
    columns = [(way, k) for way, each in ways.items() for k in each]
    lines = ["| % | " + " | ".join(f"{way}, R@{k}" for way, k in columns) + " |", "|---|" + "---:|" * len(columns)]
    for row, found in table.items():
        lines.append(f"| {row} | " + " | ".join(f"{100 * found[way][k]:.1f}" for way, k in columns) + " |")
    return "\n".join(lines) + "\n"
