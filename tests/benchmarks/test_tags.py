"""The constructed corpus of tags: what a table of words cannot know."""

import pytest
import scripts


@pytest.fixture(scope="module")
def tags():
    return scripts.benchmark("tags")


def test_tags_depend_on_neighbors_and_half_of_the_words_are_new(tags):
    sentences = tags.corpus()
    assert 0.4 < tags.unseen(sentences) < 0.6
    for rows in sentences["train"] + sentences["test"]:
        for place, (word, tag) in enumerate(rows):
            before = [each for each, _ in rows[max(place - 2, 0) : place]]
            if word.isdigit():
                assert (tag == "B-QUANTITY") == (rows[place + 1][0] in tags.UNITS)
            elif word in tags.FILLERS or word in (*tags.UNITS, "class", "."):
                assert tag == "O"
            else:
                assert (tag == "B-NAME") == (before[-1] == "class")
                assert (tag == "I-NAME") == (before[0] == "class" and rows[place - 1][1] == "B-NAME")


def test_a_table_of_words_does_not_suffice(tags):
    pytest.importorskip("nervaluate")
    assert tags.table_scores(tags.corpus())["span_f1"] <= 0.7
