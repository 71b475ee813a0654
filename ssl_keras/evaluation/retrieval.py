"""Image-text retrieval: recall at k of an image_text encoder, of chance and of a baseline without a network.

Shapes: `N` pairs, `Z` shared space.
"""

import logging

import numpy as np

from ssl_keras.data import near_duplicates
from ssl_keras.data.readers import captions
from ssl_keras.encoders import card as cards
from ssl_keras.encoders.inputs import adapt_images

log = logging.getLogger(__name__)
RANKS, WAYS = (1, 5, 10), ("text to image", "image to text")
COMPONENTS = 64  # principal components of the baseline's thumbnails
BATCH_SIZE = 1_024  # queries
STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # candidates for the strength of the ridge regression


def recall_at_k(queries, candidates, concepts, ranks=RANKS):
    """Returns {k: recall at k}: the fraction of queries with a positive among the k most similar candidates.

    A negative as similar as the best positive ranks before it.

    Args:
        queries, candidates: (N, Z); row i of both is one pair.
        concepts: (N,) integers; the candidates of the query's concept are its positives.

    Raises:
        ValueError: some embeddings are not finite.
    """
    if not (np.isfinite(queries).all() and np.isfinite(candidates).all()):
        raise ValueError("Expected finite embeddings. Received: values that are not finite. Train the encoder again.")
    before = np.empty(len(queries), int)
    for start in range(0, len(queries), BATCH_SIZE):
        rows = slice(start, start + BATCH_SIZE)
        similarity = queries[rows] @ candidates.T
        positive = concepts[rows, None] == concepts
        best = np.where(positive, similarity, -np.inf).max(1, keepdims=True)
        before[rows] = ((similarity >= best) & ~positive).sum(1)
    return {k: float(np.mean(before < k)) for k in ranks}


def both_ways(image, text, concepts, ranks=RANKS):
    """Returns {"text to image": …, "image to text": …}, each as of `recall_at_k`."""
    return dict(zip(WAYS, (recall_at_k(text, image, concepts, ranks), recall_at_k(image, text, concepts, ranks))))


def chance(concepts, ranks=RANKS):
    """Returns {k: recall at k of guessing}: the mean of 1 − C(N − c, k) / C(N, k), for c positives of N candidates."""
    count, positives = len(concepts), np.bincount(concepts)[concepts]

    def missed(k):
        return np.prod([np.maximum(count - positives - i, 0) / (count - i) for i in range(min(k, count))], axis=0)

    return {k: float(np.mean(1 - missed(k))) for k in ranks}


def concepts_of(names):
    """Returns int (N,): equal numbers for names that differ only in case and punctuation."""
    return np.unique([near_duplicates.normalize_text(name) for name in names], return_inverse=True)[1]


def baseline(splits):
    """Embeds the images and names of the test split without a network: (images, names), (N, Z) each, of length 1.

    Images are principal components of thumbnails. Names are TF-IDF features of words and letter trigrams, from which
    ridge regression on all training captions predicts the images. Its strength is chosen on the validation split.
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
    components = TruncatedSVD(min(COMPONENTS, thumbnails[0].shape[1] - 1), random_state=0)
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
    """Returns the words and the letter trigrams of a text."""
    text = f" {text.lower()} "
    return [*text.split(), *(text[i : i + 3] for i in range(len(text) - 2))]


def evaluate(retriever, splits, part="test"):
    """Measures a `search.Retriever` on the images and names of a held-out split.

    Returns:
        {row: {"text to image": {k: recall}, "image to text": …}}, with the rows `chance`, the encoder and, for the test
        split, `bag of words` (see `baseline`).

    Raises:
        ValueError: the data have no captions, or have images that cannot be converted.
    """
    splits = adapt_images(retriever.card, splits)
    source = getattr(splits, part)
    names = captions.names_of(source)
    trained = cards.trained_on(retriever.card)
    if trained.partition(":")[0] == source.name.partition(":")[0] and trained != splits.train.name:
        log.warning(
            "%s was trained on %s, which may contain examples of %s.", retriever.card["name"], trained, source.name
        )
    concepts = concepts_of(names)
    table = {"chance": dict.fromkeys(WAYS, chance(concepts))}
    if part == "test":
        table["bag of words"] = both_ways(*baseline(splits), concepts)
    table[retriever.card["name"]] = both_ways(
        retriever.of_images(source.column("image")), retriever.of_texts(names), concepts
    )
    return table


def markdown(table):
    """Formats the table of `evaluate` as Markdown, in percent."""
    ways = next(iter(table.values()))
    columns = [(way, k) for way, each in ways.items() for k in each]
    lines = ["| % | " + " | ".join(f"{way}, R@{k}" for way, k in columns) + " |", "|---|" + "---:|" * len(columns)]
    for row, found in table.items():
        lines.append(f"| {row} | " + " | ".join(f"{100 * found[way][k]:.1f}" for way, k in columns) + " |")
    return "\n".join(lines) + "\n"
