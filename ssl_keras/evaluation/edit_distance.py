"""Error rates of decoded sequences, by edit distance."""

from rapidfuzz.distance import Levenshtein


def error_rates(decoded, references):
    """Compares sequences with the nearest of their references.

    Args:
        decoded: a list of N sequences of symbols.
        references: a list of N lists of such sequences.

    Returns:
        (symbol error rate, sequence error rate): the insertions, deletions and substitutions over the number of symbols
        of the nearest references, all sequences together; and the fraction of sequences that equal no reference.
    """
    edits = symbols = wrong = 0
    for sequence, each in zip(decoded, references, strict=True):
        distance, length = min((Levenshtein.distance(sequence, reference), len(reference)) for reference in each)
        edits, symbols, wrong = edits + distance, symbols + length, wrong + (distance > 0)
    return edits / max(symbols, 1), wrong / max(len(decoded), 1)
