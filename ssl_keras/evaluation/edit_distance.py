"""Error rates of decoded sequences, by edit distance."""

from rapidfuzz.distance import Levenshtein


def error_rates(made, references):
    """How far sequences are from what is right, of several right ones from the nearest.

    Args:
        made: a list of N sequences of symbols.
        references: a list of N lists of such sequences.

    Returns:
        (symbol error rate: insertions, deletions and substitutions over the symbols of the nearest
        references, all texts together; sequence error rate: the share of texts that are not one of them).
    """
    edits = symbols = wrong = 0
    for sequence, right in zip(made, references, strict=True):
        distance, length = min((Levenshtein.distance(sequence, each), len(each)) for each in right)
        edits, symbols, wrong = edits + distance, symbols + length, wrong + (distance > 0)
    return edits / max(symbols, 1), wrong / max(len(made), 1)
