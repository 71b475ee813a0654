"""wav2vec 2.0: the loss against loops, `transformers` and closed forms; masking; the whole flow."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from contract import CASES, ONE, prepared_sounds, tones, train

from ssl_keras import encoders
from ssl_keras.cli import main
from ssl_keras.data import augment_audio, masking
from ssl_keras.data.batches import Batches
from ssl_keras.data.random import BatchRandom
from ssl_keras.data.sources import load
from ssl_keras.downstream import finetune, grids
from ssl_keras.downstream.table import evaluate
from ssl_keras.encoders.initialize import initialize
from ssl_keras.evaluation import probes
from ssl_keras.evaluation.features import COPIES, augmented_copies, extract_features, log_mel
from ssl_keras.networks import waveform
from ssl_keras.networks.quantizer import Quantizer
from ssl_keras.objectives import wav2vec2
from ssl_keras.training import pretrain


def example(clips=3, frames=6, others=2, seed=0):
    """Returns states, targets, codes, mask, places, pool and weights of clips, the last one of weight 0."""
    random = np.random.default_rng(seed)
    lengths = random.integers(3, frames + 1, clips)
    places = np.where(np.arange(frames) < lengths[:, None], 0, -1).astype(np.int32)
    codes = random.integers(0, 2, (clips, frames, 2)).astype(np.int32)
    entries = random.normal(size=(2, 2, 5))
    targets = entries[0][codes[..., 0]] + entries[1][codes[..., 1]]
    mask = (random.random((clips, frames)) < 0.6) & (places >= 0)
    mask[:, 0] = True
    weight = np.array([1.0] * (clips - 1) + [0.0], np.float32)
    return (
        random.normal(size=(clips, frames, 5)).astype(np.float32),
        targets.astype(np.float32),
        codes,
        mask,
        places,
        random.random((clips, others)).astype(np.float32),
        weight,
    )


def by_loop(states, targets, codes, mask, places, pool, weight, temperature):
    """The loss by its definition, one frame at a time."""

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b) / temperature

    losses, right = np.zeros(mask.shape), np.zeros(mask.shape)
    for clip, t in zip(*np.nonzero(mask)):
        own = cosine(states[clip, t], targets[clip, t])
        distractors = [(clip, s) for s in np.flatnonzero(mask[clip]) if s != t]
        for other in range(len(mask)):
            if other != clip and weight[other]:
                count = (places[other] >= 0).sum()
                distractors += [(other, int(u * count)) for u in pool[other]]
        scores = [
            cosine(states[clip, t], targets[place])
            for place in distractors
            if tuple(codes[place]) != tuple(codes[clip, t])
        ]
        losses[clip, t] = np.log(np.exp([own, *scores]).sum()) - own
        right[clip, t] = own > max(scores, default=-np.inf)
    return losses, right


@pytest.mark.parametrize("others", [0, 2])
def test_the_loss_against_a_loop(others):
    arrays = example(others=others)
    mask = arrays[3]
    made, right = wav2vec2.contrastive_loss(*map(tf.constant, arrays), 0.5)
    expected, expected_right = by_loop(*arrays, 0.5)
    np.testing.assert_allclose(made.numpy()[mask], expected[mask], atol=1e-5)
    np.testing.assert_array_equal(right.numpy()[mask], expected_right[mask])


def test_the_loss_where_all_are_alike():
    """With equal similarities the loss is the log of the number of candidates."""
    clips, frames, others = 4, 5, 3
    ones = np.ones((clips, frames, 2), np.float32)
    codes = np.arange(clips * frames, dtype=np.int32).reshape(clips, frames, 1)
    loss, right = wav2vec2.contrastive_loss(
        ones,
        ones,
        tf.constant(codes),
        tf.ones((clips, frames), tf.bool),
        tf.zeros((clips, frames), tf.int32),
        tf.zeros((clips, others)),
        tf.ones(clips),
        0.1,
    )
    np.testing.assert_allclose(loss, np.log(frames + others * (clips - 1)), atol=1e-5)
    assert not np.any(right)


def test_padding_and_what_is_not_hidden_are_no_distractors():
    states, targets, codes, mask, places, pool, weight = example()
    codes = np.arange(codes.size, dtype=np.int32).reshape(codes.shape)  # no two alike
    base, _ = wav2vec2.contrastive_loss(states, targets, codes, mask, places, pool, weight, 0.5)
    other = targets.copy()
    chosen = np.floor(pool * (places >= 0).sum(1, keepdims=True)).astype(int)
    free = ~mask
    for clip, rows in enumerate(chosen):
        free[clip, rows] = False
    assert free.any()
    other[free] = 7.0
    other[-1] = 3.0  # the clip of weight 0
    again, _ = wav2vec2.contrastive_loss(states, other, codes, mask, places, pool, weight, 0.5)
    np.testing.assert_array_equal(again.numpy()[:-1][mask[:-1]], base.numpy()[:-1][mask[:-1]])


def test_the_use_of_codes():
    """Perplexity is V for even use and 1 for a single entry; frames that are not masked do not count."""
    even = np.eye(4, dtype=np.float32)[np.arange(8) % 4].reshape(2, 4, 1, 4)
    np.testing.assert_allclose(wav2vec2.codebook_perplexity(even, np.ones((2, 4), np.float32)), [4.0], atol=1e-4)
    weight = np.zeros((2, 4), np.float32)
    weight[0, 1] = 2
    np.testing.assert_allclose(wav2vec2.codebook_perplexity(even, weight), [1.0], atol=1e-4)
    random = np.random.default_rng(0).dirichlet(np.ones(5), (2, 3, 2)).astype(np.float32)
    weight = np.random.default_rng(1).random((2, 3)).astype(np.float32)
    mean = (random * weight[..., None, None]).sum((0, 1)) / weight.sum()
    np.testing.assert_allclose(
        wav2vec2.codebook_perplexity(random, weight), np.exp(-(mean * np.log(mean + 1e-7)).sum(-1)), rtol=1e-5
    )


def test_what_is_hidden():
    valid = tf.sequence_mask([50] * 400 + [1, 2, 3] * 200, 50)
    mask = masking.mask_spans(valid, 0.5, 5, BatchRandom(0, 0, 0, 1_000), most=60).numpy()
    assert not np.any(mask & ~valid.numpy())
    assert np.all(mask.any(1))
    assert 0.42 < mask[:400].mean() < 0.5  # fewer spans reach the first frames
    assert 0.48 < mask[:400, 5:].mean() < 0.52
    runs = np.diff(np.flatnonzero(np.diff(np.pad(mask[:400], ((0, 0), (1, 1))).astype(int).ravel())))[::2]
    assert np.mean(runs >= 5) > 0.9
    # The same positions have the same mask, and another step has another one.
    again = masking.mask_spans(valid[500:700], 0.5, 5, BatchRandom(0, 0, 500, 200), most=60).numpy()
    np.testing.assert_array_equal(again, mask[500:700])


def objective_and_batch(**options):
    settings, splits = prepared_sounds(**options)
    keras.utils.set_random_seed(0)
    objective = wav2vec2.build(settings, splits.train.spec())
    batches = Batches(splits.train, 8, preprocess=objective.preprocess)
    return objective, batches.dataset(0, 1).get_single_element()


def test_a_hidden_frame_is_not_seen():
    """Masked features do not affect the states; features that are not masked do."""
    objective, batch = objective_and_batch()
    features, places = waveform.features(objective.encoder, batch["waveform"])
    mask = batch["mask"][..., None]

    def states_of(features, mask):
        return waveform.context(
            objective.encoder, features, places, lambda x: tf.where(mask, objective.quantizer.hidden, x)
        )

    noise = tf.random.stateless_normal(tf.shape(features), (1, 2))
    base, other = states_of(features, mask), states_of(tf.where(mask, noise, features), mask)
    np.testing.assert_array_equal(base, other)
    assert np.abs(states_of(tf.where(mask, features, noise), mask) - base).max() > 1e-3


def test_codes_by_gumbel_softmax():
    """One-hot forward, softmax backward; entries are drawn with the probabilities of the softmax."""
    quantizer = Quantizer(2, 4, 6)
    quantizer.build((None, None, 3), (None, None, 5))
    x = tf.random.stateless_normal((1, 1, 3), (0, 1))
    many = tf.tile(x, (20_000, 1, 1))
    u = BatchRandom(0, 0, 0, 20_000).uniform("gumbel", (1, 2, 4))
    hard, soft = quantizer.choose(many, -tf.math.log(-tf.math.log(u + 1e-7)), 0.7)
    np.testing.assert_allclose(tf.reduce_mean(hard, 0), soft[0], atol=0.015)
    assert set(np.unique(hard.numpy().round(5))) == {0.0, 1.0}
    likeliest, _ = quantizer.choose(x, None, 1.0)
    np.testing.assert_array_equal(tf.argmax(likeliest, -1), tf.argmax(soft[:1], -1))
    assert quantizer.codes_of(hard).shape == (20_000, 1, 6)
    with tf.GradientTape() as tape:
        hard, _ = quantizer.choose(x, tf.zeros((1, 1, 2, 4)), 1.0)
        loss = tf.reduce_sum(tf.sin(tf.range(8.0)) * tf.reshape(hard, (-1,)))
    assert np.abs(tape.gradient(loss, quantizer.kernels["choice"][0])).max() > 1e-3


def test_the_heat_falls():
    objective, _ = objective_and_batch(gumbel_start=2.0, gumbel_end=0.5, gumbel_decay=0.9)
    heats = []
    for step in (0, 5, 50):
        objective.step.assign(step)
        heats.append(float(objective.gumbel_temperature()))
    np.testing.assert_allclose(heats, [2.0, 2 * 0.9**5, 0.5], rtol=1e-6)


def test_collapse_is_said():
    objective, _ = objective_and_batch()
    assert not objective.warnings({"codes": 3.0})
    assert "collapsed: their perplexity is 1.01 of 8" in objective.warnings({"codes": 1.01})[0]
    # The metric is of the chosen entries; the softmax may be even although one entry always wins.
    objective, batch = objective_and_batch()
    kernel, bias = objective.quantizer.kernels["choice"]
    kernel.assign(tf.zeros_like(kernel))
    bias.assign(tf.one_hot([0], 16)[0] * 1e-3 + tf.one_hot([8], 16)[0] * 1e-3)
    del batch["gumbel"]
    objective.batch_loss(batch)
    assert float(objective.codes.result()) == pytest.approx(1.0, abs=1e-3)
    assert float(objective.accuracy.result()) == 0.0
    assert objective.keep_last_checkpoint  # since a collapsed one has a low loss


def test_changed_views_stay_within_the_frames_that_are_drawn_for():
    objective, batch = objective_and_batch(speed=0.5, shift=0.1, seconds=0.1)
    assert batch["mask"].shape[1] <= objective.settings.frames
    assert batch["gumbel"].shape[:2] == batch["mask"].shape
    assert batch["gumbel"].shape[2:] == (2, 8)
    assert np.isfinite(batch["gumbel"]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frontend": "fft"}, "frontend must be"),
        ({"context": "x"}, "context must be"),
        ({"rate": 44_100}, "rate must be"),
        ({"width": 30}, "multiple of heads"),
        ({"mask_ratio": 1.0}, "mask_ratio must be"),
        ({"seconds": 0.0}, "seconds must be"),
        ({"temperature": 0.0}, "temperature must be more than 0"),
        ({"gumbel_end": 3.0}, "gumbel_end"),
        ({"codes": 1}, "codes must be"),
        ({"gumbel_decay": 1.5}, "gumbel_decay must be"),
        ({"speed": -1.0}, "speed must be"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        wav2vec2.Settings(**settings)


def test_sound_is_needed():
    with pytest.raises(ValueError, match="no waveforms"):
        wav2vec2.prepare(wav2vec2.Settings(), load("digits"))


@pytest.mark.fit
def test_float16():
    keras.config.set_dtype_policy("mixed_float16")
    _, logs, held_out = train(CASES["wav2vec2"], ONE, steps=2, held_out=True)
    assert np.isfinite(logs["loss"])
    assert np.isfinite(held_out["loss"])


@pytest.mark.fit
def test_the_whole_way(tmp_path, monkeypatch, capsys):
    """Pretrain, load, embed, compare with log-mel, fine-tune, and start from a saved encoder."""
    monkeypatch.chdir(tmp_path)
    small = {"width": 16, "layers": 1, "heads": 2, "channels": 8, "codes": 8, "projection": 16, "seconds": 0.2}
    training = dataclasses.replace(
        wav2vec2.DEFAULTS, steps=4, eval_every=2, batch_size=16, warmup=0, tensorboard=False, run="sounds"
    )
    outcome = pretrain.pretrain("wav2vec2", wav2vec2.Settings(**small, speed=0.1), training, data=tones())
    assert np.isfinite(outcome["test_loss"])
    encoder = encoders.load_encoder("sounds")
    assert encoder.output_shape == (None, 64)
    card = encoders.card.read(encoders.find("sounds"))
    assert card["input"] == {"waveform": {"shape": [None], "dtype": "float32", "padding": -1, "rate": 8000}}
    assert card["network"]["rate"] == card["input"]["waveform"]["rate"] == 8_000
    settings, splits = wav2vec2.prepare(wav2vec2.Settings(seconds=0.2), tones(), init="sounds")
    again = wav2vec2.build(settings, splits.train.spec())
    assert initialize(again.encoder, "sounds", again.head, again.skip_on_init) == ([], [])
    with pytest.raises(ValueError, match="Leave out width"):
        wav2vec2.prepare(wav2vec2.Settings(width=64), tones(), init="sounds")
    quick = finetune.Training(steps=2, batch_size=10, tensorboard=False, run="tuned")
    tuned = finetune.finetune("sounds", training=quick, data=tones())
    assert 0 <= tuned["test_accuracy"] <= 1
    grid = grids.Grid((1e-3,), (2,), (1,), 8, 16, (augment_audio.AudioAugmentation(speed=0.1),))
    monkeypatch.setitem(grids.GRIDS, "sound", grid)
    table = evaluate("sounds", tones(), budgets=(2,), seeds=(0,), trained=False)
    assert list(table) == ["log-mel", "random init", "sounds, frozen"]
    assert table["log-mel"]["all"][0] > 0.6  # chance is 1/6
    assert main(["export", "sounds"]) == 0
    assert "model.serve(waveform)" in capsys.readouterr().out
    assert main(["pretrain", "wav2vec2", "--data", "digits"]) == 1
    assert "no waveforms" in capsys.readouterr().err


def test_log_mel_tells_tones_apart():
    splits = wav2vec2.prepare(wav2vec2.Settings(), tones())[1]
    x = [extract_features(log_mel(8_000), part) for part in splits]
    assert x[0].shape[1] == 12 * 40
    labels = [part.column("label") for part in splits]
    accuracy, _ = probes.linear_probe(x[0], labels[0], x[1], labels[1], x[2], labels[2])
    assert accuracy > 0.8


def test_changed_copies_keep_their_order():
    """Augmented copies differ, and are the same each time; a probe trained on them recognizes the clips."""
    source, *held_out = wav2vec2.prepare(wav2vec2.Settings(), tones())[1]
    changes = augment_audio.AudioAugmentation(speed=0.1, noise=0.1)
    embed = log_mel(8_000)
    first, second, *others = augmented_copies(embed, source, changes)
    assert len(others) == COPIES - 2
    np.testing.assert_array_equal(first, augmented_copies(embed, source, changes)[0])
    assert np.abs(first - second).mean() > 0.01
    validation, test = (extract_features(embed, part) for part in held_out)
    labels = [part.column("label") for part in (source, *held_out)]
    accuracy, _ = probes.linear_probe(
        np.concatenate([first, second]), np.tile(labels[0], 2), validation, labels[1], test, labels[2]
    )
    assert accuracy > 0.8
    assert not augmented_copies(embed, source, None)


@pytest.mark.slow
def test_transformers_agrees(monkeypatch):
    """With the same features, states and weights, the loss equals `Wav2Vec2ForPreTraining`'s to 1e-4."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    clips, frames, channels, width, hidden = 3, 9, 8, 16, 5
    theirs = transformers.Wav2Vec2ForPreTraining(
        transformers.Wav2Vec2Config(
            hidden_size=width,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            conv_dim=(channels,),
            conv_kernel=(4,),
            conv_stride=(2,),
            num_feat_extract_layers=1,
            num_codevector_groups=2,
            num_codevectors_per_group=32,
            codevector_dim=6,
            proj_codevector_dim=6,
            feat_quantizer_dropout=0.0,
            diversity_loss_weight=0.3,
            num_conv_pos_embedding_groups=2,
            contrastive_logits_temperature=0.2,
        )
    ).train()
    quantizer = Quantizer(2, 32, 6)
    quantizer.build((None, None, channels), (None, None, width))
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, layer in (
            ("choice", theirs.quantizer.weight_proj),
            ("of_codes", theirs.project_q),
            ("of_states", theirs.project_hid),
        ):
            for variable, parameter in zip(quantizer.kernels[name], (layer.weight, layer.bias)):
                variable.assign(rng.normal(size=variable.shape))
                parameter.copy_(torch.tensor(variable.numpy().T))
        theirs.quantizer.codevectors.copy_(torch.tensor(quantizer.entries.numpy().reshape(1, 64, 3)))
    features, states = (rng.normal(size=(clips, frames, size)).astype(np.float32) for size in (channels, width))
    mask = np.zeros((clips, frames), bool)
    for row in mask:
        row[rng.permutation(frames)[:hidden]] = True
    others = np.zeros((clips, frames, hidden - 1), int)  # all other masked frames of the clip
    for clip, t in zip(*np.nonzero(mask)):
        others[clip, t] = [clip * frames + s for s in np.flatnonzero(mask[clip]) if s != t]
    # Without noise both choose the likeliest entry.
    monkeypatch.setattr(
        torch.nn.functional,
        "gumbel_softmax",
        lambda logits, **_: torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float(),
    )

    class Given(torch.nn.Module):
        def forward(self, *_, **__):
            return transformers.modeling_outputs.Wav2Vec2BaseModelOutput(
                last_hidden_state=torch.tensor(states), extract_features=torch.tensor(features)
            )

    theirs.wav2vec2 = Given()
    expected = theirs(None, mask_time_indices=torch.tensor(mask), sampled_negative_indices=torch.tensor(others))
    hard, soft = quantizer.choose(features, None, 1.0)
    # `transformers` looks for equal vectors, which rounding makes unequal, so no codes are equal here; see the loop.
    codes = tf.argmax(hard, -1).numpy()
    assert all(len({tuple(code) for code in codes[clip][mask[clip]]}) == hidden for clip in range(clips))
    loss, _ = wav2vec2.contrastive_loss(
        quantizer.states(states),
        quantizer.codes_of(hard),
        tf.argmax(hard, -1, tf.int32),
        tf.constant(mask),
        tf.zeros((clips, frames), tf.int32),
        tf.zeros((clips, 0)),
        tf.ones(clips),
        0.2,
    )
    weight = mask.astype(np.float32)
    use = wav2vec2.codebook_perplexity(soft, weight)
    np.testing.assert_allclose(np.sum(weight * loss), expected.contrastive_loss.item(), rtol=1e-4)
    np.testing.assert_allclose(weight.sum() * (1 - np.mean(use) / 32), expected.diversity_loss.item(), rtol=1e-4)
    total = np.sum(weight * loss) + 0.3 * weight.sum() * (1 - np.mean(use) / 32)
    np.testing.assert_allclose(total, expected.loss.item(), rtol=1e-4)
