"""Random views of images, texts and clips."""

import numpy as np

from ssl_keras.data.audio import Clips
from ssl_keras.data.random import BatchRandom
from ssl_keras.data.splits import Source, images
from ssl_keras.evaluation.features import compile_network
from ssl_keras.evaluation.views import crop_tokens, extract_views
from ssl_keras.networks.dense import dense_encoder


def test_views_of_a_text_are_half_of_it_in_a_row():
    tokens = np.full((40, 9), -1, np.int32)
    for row in range(40):
        tokens[row, : 1 + row % 9] = np.arange(1 + row % 9) + 100 * row
    starts = set()
    for row, kept in zip(tokens, crop_tokens({"tokens": tokens}, BatchRandom(0, 0, 0, 40))["tokens"].numpy()):
        own, kept = row[row >= 0], kept[kept >= 0]
        assert len(kept) == -(-len(own) // 2)
        np.testing.assert_array_equal(np.diff(kept), 1)
        assert set(kept) <= set(own)
        starts.add(int(kept[0] - own[0]))
    assert len(starts) > 2


def test_views_differ_and_are_in_order(rng):
    source = images("mine", rng.integers(0, 256, (23, 8, 8, 1), np.uint8))
    network = compile_network(dense_encoder((8, 8, 1), (5,)))
    views = extract_views(network, source, 3)
    assert views.shape == (23, 3, 5)
    assert (np.abs(views[:, 0] - views[:, 1]).max(1) > 0).all()
    np.testing.assert_array_equal(views, extract_views(network, source, 3))
    flat = images("flat", np.full((23, 8, 8, 1), 7, np.uint8) + np.arange(23, dtype=np.uint8)[:, None, None, None])
    same = extract_views(network, flat, 3)  # a crop of one color is the same
    np.testing.assert_allclose(same[:, 0], same[:, 2], atol=1e-5)
    assert np.abs(np.diff(same[:, 0], axis=0)).max() > 1e-3


def test_views_of_clips(rng):
    clips = Clips(rng.integers(-9000, 9000, 24_000).astype(np.int16), np.arange(6) * 4000, np.full(6, 4000))
    source = Source("clips", {"waveform": clips}, lengths=clips.lengths, rate=8000)
    views = extract_views(lambda x: x[:, :50], source, 2)
    assert views.shape == (6, 2, 50)
    assert (np.abs(views[:, 0] - views[:, 1]).max(1) > 0).all()
