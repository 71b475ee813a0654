"""Questions to an encoder: which score of each example is explained.

    class        the logit of a class, for an encoder with a classification head
    probe        the same for a linear probe, which is fitted on the data's labels
    feature      one feature
    similarity   the cosine similarity with the nearest neighbor among other examples
    caption      the similarity of an image with its caption, for an encoder of image_text
    token        the logit of a hidden token, or of the next one, for a language model
    symbol       the strongest logit over frames of a symbol, for a recognizer

Shapes: `B` examples, `K` scores.
"""

import typing

import keras
import numpy as np
import tensorflow as tf

from ssl_keras import encoders
from ssl_keras.data import inputs as columns
from ssl_keras.data import tokens
from ssl_keras.data.batches import Batches
from ssl_keras.data.readers import captions
from ssl_keras.data.splits import Splits
from ssl_keras.data.tokenizer import Tokenizer
from ssl_keras.encoders import card as cards
from ssl_keras.evaluation import probes
from ssl_keras.evaluation.features import compile_network, evenly_spaced, extract_features, normalize
from ssl_keras.inference import search
from ssl_keras.interpretation import outputs
from ssl_keras.modalities import language

QUESTIONS = ("class", "probe", "feature", "similarity", "caption", "token", "symbol")
POOL, LABELED = 512, 2_000  # examples among which a neighbor is found; that a probe learns from
WINDOW = 48  # tokens of an example of continuous text


class Question(typing.NamedTuple):
    """A score of each of some examples.

    Attributes:
        output: the `Output`.
        inputs: (B, …) the examples as the network takes them.
        index: (B,) the score of each example.
        words: B descriptions of the scores, such as "class Bag".
    """

    output: outputs.Output
    inputs: np.ndarray
    index: np.ndarray
    words: list


class Loaded(typing.NamedTuple):
    """A saved encoder and data as it takes them.

    Attributes:
        encoder: its graph. embed: the same, compiled by `compile_network`.
        head: the head that it was saved with, or None. card: its card.
        splits: the adapted `Splits`.
        tokenizer: the `Tokenizer` of its texts, or None.
    """

    encoder: keras.Model
    embed: typing.Callable
    head: keras.Model | None
    card: dict
    splits: Splits
    tokenizer: Tokenizer | None


def open_encoder(name, splits, network=None):
    """Loads a saved encoder, and adapts `Splits` to it; continuous text is cut into windows of WINDOW tokens."""
    folder = encoders.find(name)
    encoder, head, card = encoders.load_with_head(folder, network)
    if cards.target(card)["kind"] not in (None, "class") or cards.target(card)["pairs"]:
        raise ValueError(
            f"{card['name']} was fine-tuned to predict {_described(cards.target(card))}. Expected an encoder that "
            "predicts the class of one example. Explain the encoder that it was fine-tuned from."
        )
    tokenizer = encoders.load_tokenizer(folder) if card["tokenizer"] is not None else None
    if "tokens" in card["input"] and splits.train.arrays.keys() & {"text", "label", "target"} == {"text"}:
        adapted = tokens.corpus(splits, tokenizer, min(WINDOW, outputs.max_tokens(encoder) or WINDOW), 0)
    else:
        adapted = encoders.adapt(folder, card, splits)
    return Loaded(encoder, compile_network(encoder), head, card, adapted, tokenizer)


def _described(target):
    what = {"class": "classes", "number": "a number"}.get(target["kind"], target["kind"])
    return f"{what} of pairs of texts" if target["pairs"] else what


def possible(loaded):
    """Returns the questions that an encoder and its data allow, the default one first."""
    card, source = loaded.card, loaded.splits.train
    found = []
    if cards.is_a(card, "classifier_head"):
        found.append("class")
    if cards.is_a(card, "towers") and "caption" in source.arrays:
        found.append("caption")
    if cards.is_a(card, "masked_head") or (card["network"] or {}).get("causal"):
        found.append("token")
    if cards.is_a(card, "frame_classifier"):
        found.append("symbol")
    found += ["similarity", "feature"]
    return found + (["probe"] if "label" in source.arrays else [])


def ask(loaded, split, rows, question=None, choice=None):
    """Returns the `Question` to an encoder about some examples.

    Args:
        loaded: a `Loaded`.
        split: "train", "validation" or "test".
        rows: indices of examples of the split.
        question: one of QUESTIONS; None is the first of `possible`.
        choice: a class or symbol by name, or a feature by number; None is the one with the largest score, or the
            feature that stands out most from the other examples.

    Raises:
        ValueError: the examples do not exist; the question or the choice does not fit the encoder.
    """
    source, allowed = getattr(loaded.splits, split), possible(loaded)
    question = question or allowed[0]
    if question not in allowed:
        why = {"class": "has no classification head", "probe": "cannot be probed, since the data have no labels"}
        raise ValueError(
            f"{loaded.card['name']} {why.get(question, f'has no output for the question {question!r}')}. Expected one "
            f"of {', '.join(allowed)}. Fine-tuning makes a head: ssl-keras finetune."
        )
    wrong = [int(row) for row in rows if not 0 <= row < len(source)]
    if wrong or not len(rows):
        raise ValueError(
            f"{source.name} does not have the examples {wrong}. Expected numbers from 0 to {len(source) - 1}."
        )
    inputs = inputs_of(source, rows)
    return {
        "class": _classes,
        "probe": _probe,
        "feature": _feature,
        "similarity": _similarity,
        "caption": _caption,
        "token": _token,
        "symbol": _symbol,
    }[question](loaded, source, np.asarray(rows), inputs, choice)


def inputs_of(source, rows):
    """Returns examples of a source as a network takes them, (B, …); clips are padded to the longest one."""
    batch = Batches(source.take(np.asarray(rows)), len(rows), shuffle=False).numpy(0)
    return columns.network_input({name: tf.constant(value) for name, value in batch.items()}).numpy()


def fit_probe(loaded, limit=LABELED):
    """Returns the `Output` of a linear probe that is fitted on at most `limit` training examples."""
    parts = [part.take(evenly_spaced(len(part), limit)) for part in loaded.splits[:2]]
    features = [extract_features(loaded.embed, part) for part in parts]
    labels = [part.column("label") for part in parts]
    probe, _ = probes.fit_probe(features[0], labels[0], features[1], labels[1])
    return outputs.of_probe(loaded.encoder, probe, loaded.splits.train.classes)


def _chosen(output, inputs, choice, kind):
    """Returns a `Question` about a named score, or about the largest one of each example."""
    if choice is None:
        index = output.graph(inputs, training=False).numpy().argmax(1)
    elif choice in output.names:
        index = np.full(len(inputs), output.names.index(choice))
    else:
        raise ValueError(f"Unknown {kind} {choice!r}. Expected one of {', '.join(output.names[:50])}.")
    return Question(output, inputs, index, [f"{kind} {output.names[each]}" for each in index])


def _classes(loaded, source, rows, inputs, choice):
    return _chosen(outputs.of_classes(loaded.encoder, loaded.head, loaded.card["classes"]), inputs, choice, "class")


def _probe(loaded, source, rows, inputs, choice):
    return _chosen(fit_probe(loaded), inputs, choice, "class")


def _symbol(loaded, source, rows, inputs, choice):
    output = outputs.of_symbols(loaded.encoder, loaded.head, loaded.card["decoding"]["symbols"])
    if choice is not None:
        return _chosen(output, inputs, choice, "symbol")
    index = 1 + output.graph(inputs, training=False).numpy()[:, 1:].argmax(1)  # without the blank
    return Question(output, inputs, index, [f"symbol {output.names[each]}" for each in index])


def _feature(loaded, source, rows, inputs, choice):
    output = outputs.of_features(loaded.encoder)
    if choice is not None:
        if not (str(choice).isdigit() and int(choice) < len(output.names)):
            raise ValueError(f"Expected a feature from 0 to {len(output.names) - 1}. Received: {choice!r}")
        return Question(output, inputs, np.full(len(inputs), int(choice)), [f"feature {choice}"] * len(inputs))
    others = extract_features(loaded.embed, source.take(evenly_spaced(len(source), POOL)))
    own = output.graph(inputs, training=False).numpy()
    index = ((own - others.mean(0)) / (others.std(0) + 1e-6)).argmax(1)
    return Question(output, inputs, index, [output.names[each] for each in index])


def _similarity(loaded, source, rows, inputs, choice):
    pool = evenly_spaced(len(source), POOL)
    if len(pool) < 2:
        raise ValueError(f"{source.name}: expected at least two examples to compare. Received: {len(pool)}")
    candidates = extract_features(loaded.embed, source.take(pool))
    alike = normalize(outputs.pooled(loaded.encoder)(inputs, training=False).numpy()) @ normalize(candidates).T
    alike[rows[:, None] == pool] = -np.inf  # an example is not its own neighbor
    nearest = alike.argmax(1)
    output = outputs.of_similarity(loaded.encoder, candidates[nearest], [f"example {pool[one]}" for one in nearest])
    return Question(output, inputs, np.arange(len(inputs)), [f"similarity with {name}" for name in output.names])


def _caption(loaded, source, rows, inputs, choice):
    found = captions.names_of(source)
    texts = [found[row] for row in rows] if choice is None else [choice] * len(rows)
    encoded = loaded.tokenizer.encode([" ".join(text.lower().split()) for text in texts])
    ids = tokens.add_special_tokens(encoded, loaded.tokenizer, loaded.card["head"]["context"], loaded.card["name"])
    image = outputs.of_image_tower(loaded.encoder, loaded.head)
    output = outputs.of_similarity(image, search.embeddings_of_texts(loaded.head, ids), texts)
    return Question(output, inputs, np.arange(len(inputs)), [f"similarity with “{text}”" for text in texts])


def _token(loaded, source, rows, inputs, choice):
    tokenizer, masked = loaded.tokenizer, cards.is_a(loaded.card, "masked_head")
    names = tokenizer.tokens() + [""] * (cards.keyword(loaded.card, "vocabulary") - tokenizer.vocabulary)
    head = language.token_head(loaded.encoder, loaded.head)
    output = outputs.of_token(loaded.encoder, names, head, tokenizer.mask if masked else -1)
    if not masked:
        return _chosen(output, inputs, choice, "next token")
    special = np.isin(inputs, list(tokenizer.special.values())) | (inputs < 0)
    places = [np.flatnonzero(~row) for row in special]
    if not all(map(len, places)):
        raise ValueError(f"{source.name}: expected texts with words. Received: an empty one. Choose other --examples.")
    place = np.array([each[len(each) // 2] for each in places])
    hidden, inputs = inputs[np.arange(len(inputs)), place], inputs.copy()
    inputs[np.arange(len(inputs)), place] = tokenizer.mask
    if choice is not None:
        return _chosen(output, inputs, choice, "hidden token")
    return Question(output, inputs, hidden, [f"hidden token {names[each]}" for each in hidden])
