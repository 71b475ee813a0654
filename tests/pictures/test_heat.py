"""Heat maps: red raises, blue lowers, and what has no attribution keeps the gray of the input."""

import numpy as np

from ssl_keras.pictures import heat


def test_colors_have_the_sign_of_the_attribution():
    image, values = np.full((2, 2, 1), 0.5, np.float32), np.array([[4.0, -4.0], [0.0, 0.0]])
    shown = heat.over_image(image, values)
    np.testing.assert_allclose(shown[0], [heat.RAISES, heat.LOWERS], atol=1e-6)
    np.testing.assert_allclose(shown[1], 1 - heat.FAINT / 2, atol=1e-6)
    np.testing.assert_allclose(heat.over_image(image, 9 * values), shown)  # the scale does not matter


def test_the_scale_is_a_percentile_of_what_is_attributed():
    values = np.array([0.0, 1.0, -1.0, 1.0, 1.0] * 40 + [100.0])
    assert heat.scaled(values).max() == 1
    assert (np.abs(heat.scaled(values)[1:5]) > 0.9).all()
    assert (heat.scaled(np.zeros(3)) == 0).all()


def test_bands_are_drawn_with_low_ones_at_the_bottom():
    bands, values = np.zeros((3, 4), np.float32), np.zeros((3, 4), np.float32)
    values[2, 0] = 1
    shown = heat.over_bands(bands, values)
    assert shown.shape == (4, 3, 3)
    np.testing.assert_allclose(shown[3, 2], heat.RAISES, atol=1e-6)
    assert (shown[:3] == shown[0, 0]).all()


def test_samples_are_drawn_as_a_colored_envelope():
    samples = np.r_[np.zeros(100), np.ones(100)].astype(np.float32)
    shown = heat.over_samples(samples, samples, width=20, height=9)
    assert shown.shape == (9, 20, 3)
    np.testing.assert_allclose(shown[0, 15], heat.RAISES, atol=1e-6)
    np.testing.assert_allclose(shown[0, 5], 1)  # silence
