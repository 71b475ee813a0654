"""Finding pictures by words and words by pictures: how often it succeeds, beside what needs no network.

Shapes: `N` pairs, `Z` the common space.
"""

import numpy as np
import tensorflow as tf
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler, normalize

from ssl_keras import card as cards
from ssl_keras import evaluation
from ssl_keras.data import captions
from ssl_keras.data.images import unit_range

RANKS = (1, 5, 10)
THUMBNAIL, DIRECTIONS = 16, 64  # pixels a side, and principal components, of the baseline's images
STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # of the ridge; the best by validation is taken


def embeddings(encoder, towers, images, tokens):
    """(images, captions) in the common space, float32 (N, Z) each, of length 1.

    Args:
        encoder, towers: the encoder and head of `objectives/image_text.py`.
        images: (N, H, W, C) uint8, or float in [0, 1]. tokens: (N, T) int32, -1 for padding.
    """
    made = [], []
    for start in range(0, len(images), 256):
        x = unit_range(tf.constant(images[start : start + 256]))
        pair = towers([encoder(x, training=False), tf.constant(tokens[start : start + 256])], training=False)
        for part, each in zip(made, pair):
            part.append(np.asarray(each))
    return tuple(normalize(np.concatenate(part)) for part in made)


def recalls(queries, candidates, ranks=RANKS):
    """{k: the share of queries whose own candidate is among the k most similar}; row i of both belong together.

    Equal similarities count against it.
    """
    similarity = queries @ candidates.T  # (N, N)
    own = np.diag(similarity)[:, None]
    rank = (similarity >= own).sum(1) - 1  # candidates that come before its own
    return {k: float(np.mean(rank < k)) for k in ranks}


def both_ways(image, text, ranks=RANKS):
    """{"text to image": …, "image to text": …} of `recalls`."""
    return {"text to image": recalls(text, image, ranks), "image to text": recalls(image, text, ranks)}


def chance(count, ranks=RANKS):
    """{k: what guessing has among so many candidates}."""
    return {k: min(1.0, k / count) for k in ranks}


def baseline(splits):
    """(images, names) of the test part in a space without any network, (N, Z) each, of length 1.

    Names by words and by letters in threes (TF-IDF), images by thumbnails' principal components; ridge regression
    from the one to the other, on all captions of the training part. Its strength is chosen on the validation part.
    """
    listed = captions.captions_of(splits.train)
    rows = np.repeat(np.arange(len(listed)), [len(each) for each in listed])
    words = TfidfVectorizer(analyzer=_parts_of_text, sublinear_tf=True, min_df=2)
    x = words.fit_transform([text for each in listed for text in each])
    thumbnails = [evaluation.pixels(part) for part in (splits.train, splits.validation, splits.test)]
    scaler = StandardScaler().fit(thumbnails[0])
    components = TruncatedSVD(min(DIRECTIONS, thumbnails[0].shape[1] - 1), random_state=0)
    train = components.fit_transform(scaler.transform(thumbnails[0]))
    validation, test = (components.transform(scaler.transform(each)) for each in thumbnails[1:])
    names = [words.transform(captions.names_of(part)) for part in (splits.validation, splits.test)]
    best = -1.0, None
    for strength in STRENGTHS:
        model = Ridge(strength).fit(x, train[rows])
        found = both_ways(normalize(validation), normalize(model.predict(names[0])))
        score = np.mean([each[RANKS[-1]] for each in found.values()])
        if score > best[0]:
            best = score, model
    return normalize(test), normalize(best[1].predict(names[1]))


def _parts_of_text(text):
    """Its words, and its letters in threes."""
    text = f" {text.lower()} "
    return [*text.split(), *(text[i : i + 3] for i in range(len(text) - 2))]


def evaluate(finder, splits, part="test"):
    """{row: {"text to image": {k: share}, "image to text": …}} of a part's images and their names.

    Rows: `chance`; `bag of words` (`baseline`, where the part is test); the encoder of a `search.Finder`.

    Raises:
        ValueError: data without captions, or with images of another shape.
    """
    source = getattr(splits, part)
    cards.check_images(finder.card, source)
    names = captions.names_of(source)
    table = {"chance": dict.fromkeys(("text to image", "image to text"), chance(len(source)))}
    if part == "test":
        table["bag of words"] = both_ways(*baseline(splits))
    images = source.column("image")
    embedded = [finder.of_images(images[start : start + 256]) for start in range(0, len(images), 256)]
    table[finder.card["name"]] = both_ways(np.concatenate(embedded), finder.of_texts(names))
    return table


def markdown(table):
    """The table as Markdown, in percent."""
    ways = next(iter(table.values()))
    columns = [(way, k) for way, each in ways.items() for k in each]
    lines = ["| % | " + " | ".join(f"{way}, R@{k}" for way, k in columns) + " |", "|---|" + "---:|" * len(columns)]
    for row, found in table.items():
        lines.append(f"| {row} | " + " | ".join(f"{100 * found[way][k]:.1f}" for way, k in columns) + " |")
    return "\n".join(lines) + "\n"
