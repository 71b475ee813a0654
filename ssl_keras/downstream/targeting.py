"""The target of fine-tuning: which settings fit it, segments for pairs of texts, and scores on the test split."""

import numpy as np

from ssl_keras.data import text_pairs, word_pieces
from ssl_keras.data.readers.tags import is_iob
from ssl_keras.encoders import inputs
from ssl_keras.evaluation import target_scores
from ssl_keras.evaluation.features import compile_network, extract_features
from ssl_keras.networks import Network, copy_of, description
from ssl_keras.networks.transformer import SEGMENTS

FOR_CLASSES = ("labels_per_class", "probe_init", "class_weights", "label_smoothing", "mixup", "unlabeled")


def check(settings, target):
    """Raises ValueError if a setting of fine-tuning does not fit the target, or if a package for its scores is missing.

    Args:
        settings: `finetune.Settings`. target: a `Target`.
    """
    wrong = [name for name in FOR_CLASSES if getattr(settings, name)] if target.kind != "class" else []
    if wrong:
        raise ValueError(
            f"Expected the target class with {', '.join(wrong)}. Received: the target {target.kind}. Leave "
            f"{'this setting' if len(wrong) == 1 else 'these settings'} out."
        )
    if target.kind == "tags" and is_iob(target.names):
        target_scores.check_span_scores()


def adapt(folder, card, splits, target):
    """Adapts prepared splits to an encoder, as `encoders.adapt` does, and aligns tags with tokens."""
    adapted = inputs.adapt(folder, card, splits, "text2" in splits.train.arrays)
    if target.kind != "tags":
        return adapted
    return word_pieces.add_tags(splits, adapted, target.names, inputs.context_of(card))


def with_segments(encoder, splits, loaded):
    """Returns an encoder that gives the second text of a pair segment 1, with the same weights.

    Only BERT has segments; any other encoder, and data without pairs, leave the encoder as it is.

    Args:
        encoder: functional graph. splits: as the encoder takes them. loaded: the same before.
    """
    network = description(encoder)
    if "text2" not in loaded.train.arrays or network is None or network.keywords.get("architecture") != "bert":
        return encoder
    if network.keywords.get("segments", SEGMENTS) < SEGMENTS:  # RoBERTa, DistilBERT
        return encoder
    separator = text_pairs.separator(splits.train.tokenizer)
    if separator < 0:
        return encoder
    made = Network(network.builder, **(network.keywords | {"separator": separator})).build()
    made.set_weights(encoder.get_weights())
    return made


def in_units(head, target):
    """Returns a head whose outputs are in the unit of the numbers: a copy with rescaled weights; others as they are."""
    if target.kind != "number":
        return head
    copy = copy_of(head)
    kernel, bias = copy.get_layer("logits").get_weights()
    copy.get_layer("logits").set_weights([kernel * target.scale, bias * target.scale + target.mean])
    return copy


def entry(target, loaded):
    """Returns the card's entry `target`, see `card.target`."""
    return {"kind": target.kind, "pairs": "text2" in loaded.train.arrays}


def scores(encoder, head, target, test, loaded, card):
    """Returns {"test_…": score} of the test split, besides what the run's metrics have.

    Args:
        encoder, head: functional graphs; the outputs for numbers are standardized.
        target: a `Target`. test, loaded: the test `Source` as the encoder takes it, and before.
        card: that of the saved encoder, from which the context comes.
    """
    if target.kind == "class":
        return {}
    outputs = extract_features(compile_network(encoder, head, target.kind == "tags"), test)
    if target.kind == "number":
        true, predicted = (target.mean + target.scale * np.float64(x) for x in (test.column("number"), outputs[:, 0]))
        found = target_scores.number_scores(true, predicted)
    elif target.kind == "labels":
        found = target_scores.label_scores(test.column("labels"), outputs)
    elif is_iob(target.names):
        predicted = [tags for tags, _ in tagged(loaded, test, outputs, target.names, inputs.context_of(card))]
        found = target_scores.span_scores([word_pieces.words(line) for line in loaded.column("tags")], predicted)
    else:
        found = {}
    return {f"test_{name}": value for name, value in found.items()}


def tagged(loaded, source, outputs, names, context):
    """Returns `target_scores.word_tags` of texts; `source` has their tokens and `outputs` the logits (N, W, Y)."""
    texts = loaded.column("text").tolist()
    marks = word_pieces.first_pieces(texts, source.tokenizer, context, outputs.shape[1])
    return target_scores.word_tags(texts, marks, outputs, names)
