"""The language objectives: targets, masking, reports, and the flow."""

import dataclasses
import math
import pathlib
import shutil
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from ssl_keras import encoders
from ssl_keras.cli import main
from ssl_keras.data import masking
from ssl_keras.data.batches import Batches
from ssl_keras.data.random import BatchRandom
from ssl_keras.data.readers import text
from ssl_keras.data.sources import load
from ssl_keras.data.splits import hold_out
from ssl_keras.encoders import initialize
from ssl_keras.engine.config import Training
from ssl_keras.modalities import language
from ssl_keras.objectives import causal_lm, masked_lm
from ssl_keras.training.pretrain import pretrain

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "while", "seven", "wizards", "box"]
TINY = {"layers": 1, "heads": 2, "width": 16, "context": 16}


@pytest.fixture(scope="module")
def splits():
    rng = np.random.default_rng(0)
    return hold_out(text.documents("nonsense", [" ".join(rng.choice(WORDS, 60)) + "." for _ in range(40)]))


def made(module, splits, **options):
    asked = module.Settings(**{**TINY, "tokenizer": "bpe", "vocabulary": 290, **options})
    settings, splits = module.prepare(asked, splits)
    return module.build(settings, splits.train.spec()), splits


def batch_of(objective, source, step=0, size=8):
    batches = Batches(source, size, preprocess=objective.preprocess)
    return batches.dataset(step, step + 1).get_single_element()


# ----- causal


def test_uniform_logits_cost_log_v(splits):
    model, data = made(causal_lm, splits)
    table = model.encoder.get_layer("embeddings").tokens
    table.assign(tf.zeros_like(table))
    total, count = model.batch_loss(batch_of(model, data.train))
    assert float(total / count) == pytest.approx(math.log(data.train.tokenizer.vocabulary), rel=1e-6)


@pytest.mark.parametrize(
    ("module", "architecture"),
    [(module, each) for module in (causal_lm, masked_lm) for each in module.Settings.ARCHITECTURES],
)
def test_an_untrained_network_guesses_uniformly(splits, module, architecture):
    """Logits of another size make a loss far above that of guessing, and large first gradients."""
    model, data = made(module, splits, architecture=architecture)
    total, count = model.batch_loss(batch_of(model, data.train))
    assert float(total / count) == pytest.approx(math.log(data.train.tokenizer.vocabulary), rel=0.15)


def test_the_loss_equals_a_loop(splits):
    model, data = made(causal_lm, splits)
    batch = dict(batch_of(model, data.validation.take(np.arange(8)), size=8))
    batch["weight"] = tf.constant(np.linspace(0, 1.5, 8), tf.float32)
    ids = batch["tokens"].numpy()
    ids[3, -5:] = -1
    batch["tokens"] = tf.constant(ids)
    total, count = model.batch_loss(batch)
    logits = model.logits(ids[:, :-1]).numpy().astype(np.float64)
    expected = weight = 0.0
    for b, t in np.ndindex(8, 16):
        if ids[b, t + 1] >= 0:
            p = np.exp(logits[b, t] - logits[b, t].max())
            expected -= batch["weight"][b].numpy() * math.log(p[ids[b, t + 1]] / p.sum())
            weight += batch["weight"][b].numpy()
    assert float(count) == pytest.approx(weight)
    assert float(total) == pytest.approx(expected, rel=1e-5)


def test_perplexity_and_bits_per_byte_are_of_all_the_text(splits):
    model, data = made(causal_lm, splits)
    model.compile("adam")
    batches = Batches(data.validation, 5, preprocess=model.preprocess, shuffle=False)
    result = model.evaluate(
        batches.dataset(0, batches.steps_per_epoch), steps=batches.steps_per_epoch, verbose=0, return_dict=True
    )
    texts = list(splits.validation.arrays["text"][splits.validation.rows])
    tokenizer = data.train.tokenizer
    stream = data.validation.arrays["tokens"].stream
    first = len(tokenizer.decode([stream[0]]))  # the first token is not a target
    nats = result["loss"] * (len(stream) - 1)
    assert result["perplexity"] == pytest.approx(math.exp(result["loss"]), rel=1e-5)
    assert result["bits_per_byte"] == pytest.approx(nats / math.log(2) / (len("".join(texts)) - first), rel=1e-4)


def test_training_windows_are_cut_anywhere_and_held_out_ones_are_not(splits):
    model, data = made(causal_lm, splits)
    assert data.train.spec()["tokens"][0] == (32,)
    assert data.validation.spec()["tokens"][0] == (17,)
    source = data.train.take(np.array([2]))
    whole = source.column("tokens")[0]
    starts = set()
    for step in range(200):
        part = model.preprocess(
            {k: tf.constant(v) for k, v in source.gather(np.array([0])).items()}, BatchRandom(0, step, 0, 1)
        )
        ids, lengths = part["tokens"].numpy()[0], part["bytes"].numpy()[0]
        start = next(s for s in range(16) if (whole[s : s + 17] == ids).all())
        np.testing.assert_array_equal(lengths, data.train.tokenizer.byte_lengths()[ids])
        starts.add(start)
    assert starts == set(range(16))
    held_out = (
        Batches(data.validation, 4, preprocess=model.preprocess, shuffle=False).dataset(0, 1).get_single_element()
    )
    np.testing.assert_array_equal(held_out["tokens"], data.validation.gather(np.arange(4))["tokens"])


# ----- masked


def test_masks_are_as_many_and_of_the_kinds_they_should_be(splits):
    model, data = made(masked_lm, splits, tokenizer="wordpiece", context=64)
    tokenizer = data.train.tokenizer
    given = masked = kept = random = chosen = 0
    seen = []
    for step in range(250):
        rows = np.arange(8) % len(data.train)
        raw = {k: tf.constant(v) for k, v in data.train.gather(rows).items()} | {"weight": tf.ones(8)}
        draws = BatchRandom(3, step, 0, 8)
        plain = masking.crop_windows(raw, draws, 64)["tokens"].numpy()
        batch = {k: v.numpy() for k, v in model.preprocess(raw, draws).items()}
        given += int((~np.isin(plain, list(tokenizer.special.values()))).sum())
        changed = plain != batch["tokens"]
        for b in range(8):
            places = batch["place"][b][batch["target"][b] >= 0]
            assert len(set(places)) == len(places)
            np.testing.assert_array_equal(plain[b][places], batch["target"][b][batch["target"][b] >= 0])
            assert not changed[b][np.setdiff1d(np.arange(64), places)].any()
            now = batch["tokens"][b][places]
            chosen += len(places)
            masked += int((now == tokenizer.mask).sum())
            kept += int((now == plain[b][places]).sum())
            random += int(((now != plain[b][places]) & (now != tokenizer.mask)).sum())
            seen.append(tuple(sorted(places)))
    assert given > 1e5
    assert chosen / given == pytest.approx(0.15, abs=0.01)
    assert masked / chosen == pytest.approx(0.8, abs=0.02)
    assert kept / chosen == pytest.approx(0.1, abs=0.02)  # a random token may be the same by chance
    assert random / chosen == pytest.approx(0.1, abs=0.02)
    assert len(set(seen)) > 0.99 * len(seen)  # chosen again at every step


def test_special_tokens_and_padding_are_never_chosen(splits):
    model, data = made(masked_lm, splits, tokenizer="wordpiece")
    tokenizer = data.train.tokenizer
    ids = np.full((4, 16), -1, np.int32)
    ids[0, :3] = tokenizer.special["[CLS]"], 20, tokenizer.special["[SEP]"]
    ids[1] = tokenizer.end
    ids[2] = np.arange(10, 26)
    special = np.isin(ids, list(tokenizer.special.values()))
    raw = {"tokens": tf.constant(ids), "special": tf.constant(special.astype(np.int32)), "weight": tf.ones(4)}
    for step in range(50):
        batch = model.preprocess(raw, BatchRandom(0, step, 0, 4))
        target = batch["target"].numpy()
        assert (target[0] >= 0).sum() == 1  # at least one, here the only one
        assert target[0].max() == 20
        assert (target[[1, 3]] < 0).all()
        assert (target[2] >= 0).sum() == 2


def test_whole_words_are_chosen_together(splits):
    model, data = made(masked_lm, splits, tokenizer="bpe", vocabulary=270, context=64, whole_words=True, mask_ratio=0.3)
    starts = data.train.tokenizer.word_starts()
    parts = 0
    for step in range(40):
        raw = {k: tf.constant(v) for k, v in data.train.gather(np.arange(4)).items()} | {"weight": tf.ones(4)}
        draws = BatchRandom(1, step, 0, 4)
        plain = masking.crop_windows(raw, draws, 64)["tokens"].numpy()
        batch = {k: v.numpy() for k, v in model.preprocess(raw, draws).items()}
        for b in range(4):
            special = plain[b] < len(data.train.tokenizer.special)
            words = np.cumsum(starts[plain[b]] | np.append(False, special[:-1]))
            places = batch["place"][b][batch["target"][b] >= 0]
            chosen = np.isin(np.arange(64), places)
            for word in np.unique(words[places]):
                assert chosen[words == word].all()
                parts += (words == word).sum() > 1
            assert 1 <= len(places) <= round(0.3 * 64)
    assert parts > 100


class Given:
    """An encoder that returns a given output."""

    def __init__(self, hidden, encoder):
        self.hidden, self.layers = hidden, encoder.layers

    def __call__(self, tokens, training=False):
        return self.hidden


def test_only_chosen_positions_count(splits):
    """A token that is not chosen gets no gradient from the output layer, and its target is ignored."""
    model, data = made(masked_lm, splits, tokenizer="wordpiece")
    batch = batch_of(model, data.train)
    hidden = model.encoder(batch["tokens"])
    with tf.GradientTape() as tape:
        tape.watch(hidden)
        # The same objective, with a given output of the encoder.
        given = types.SimpleNamespace(encoder=Given(hidden, model.encoder), head=model.head, accuracy=model.accuracy)
        given.logits = lambda chosen: masked_lm.MaskedLM.logits(given, chosen)
        total, count = masked_lm.MaskedLM.batch_loss(given, batch)
    gradient = tf.reduce_max(tf.abs(tf.convert_to_tensor(tape.gradient(total, hidden))), -1).numpy()  # (B, T)
    chosen = np.zeros(gradient.shape, bool)
    for b, (place, target) in enumerate(zip(batch["place"].numpy(), batch["target"].numpy())):
        chosen[b, place[target >= 0]] = True
    assert (gradient[~chosen] == 0).all()
    assert (gradient[chosen] > 0).all()
    assert float(count) == chosen.sum()


def test_the_masked_loss_equals_a_loop(splits):
    model, data = made(masked_lm, splits, tokenizer="wordpiece")
    batch = dict(batch_of(model, data.train))
    batch["weight"] = tf.constant(np.linspace(0, 2, 8), tf.float32)
    total, count = model.batch_loss(batch)
    hidden = model.encoder(batch["tokens"])
    table = language.table(model.encoder)
    expected = weight = 0.0
    for b in range(8):
        for place, target in zip(batch["place"][b].numpy(), batch["target"][b].numpy()):
            if target >= 0:
                logits = model.head([hidden[b, place][None], table])[0].numpy().astype(np.float64)
                p = np.exp(logits - logits.max())
                expected -= float(batch["weight"][b]) * math.log(p[target] / p.sum())
                weight += float(batch["weight"][b])
    assert float(count) == pytest.approx(weight)
    assert float(total) == pytest.approx(expected, rel=1e-5)


@pytest.mark.fit
def test_micro_batches_with_unequal_counts_equal_the_whole(splits):
    """The mean of the micro-batches' means would be another number."""
    model, data = made(masked_lm, splits, tokenizer="wordpiece")
    start = model.get_weights()

    def padded(batch, draws):
        rows = tf.range(8)[:, None]
        inside = tf.range(batch["tokens"].shape[1])[None] < tf.where(rows < 4, 40, 6)
        return model.preprocess(batch | {"tokens": tf.where(inside, batch["tokens"], -1)}, draws)

    results = []
    for accumulate in (1, 4):
        model.set_weights(start)
        model.compile(keras.optimizers.SGD(1.0), accumulate=accumulate)
        model.fit(Batches(data.train, 8, preprocess=padded).dataset(), steps_per_epoch=3, verbose=0)
        results.append(model.get_weights())
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, atol=1e-5)


# ----- the flow


def test_settings_are_checked():
    with pytest.raises(ValueError, match="size must be one of"):
        causal_lm.Settings(size="huge")
    with pytest.raises(ValueError, match="architecture must be one of modern, gpt2"):
        causal_lm.Settings(architecture="bert")
    with pytest.raises(ValueError, match=r"mask_ratio must be in \(0, 1\)"):
        masked_lm.Settings(mask_ratio=1.0)
    with pytest.raises(ValueError, match="length must be at most the context"):
        causal_lm.Settings(context=10, length=11)
    with pytest.raises(ValueError, match="layers must be 0 to 128"):
        causal_lm.Settings(layers=10**9)
    for context in (1, 2**21):
        with pytest.raises(ValueError, match="context must be 2 to"):
            causal_lm.Settings(context=context)
    with pytest.raises(ValueError, match="Expected epochs or steps, not both"):
        dataclasses.replace(causal_lm.DEFAULTS, epochs=3)
    with pytest.raises(ValueError, match="weight_decay must be a finite number"):
        Training(weight_decay=math.nan)


def test_a_network_that_is_no_transformer_is_refused(splits):
    settings, data = causal_lm.prepare(causal_lm.Settings(**TINY), splits)
    tokens = keras.Input((None,), dtype="int32")
    other = keras.Model(tokens, keras.layers.Embedding(300, 4)(tokens))
    with pytest.raises(ValueError, match="must be a graph of networks.transformer"):
        causal_lm.build(settings, data.train.spec(), encoder=other)


QUICK = Training(
    steps=20,
    eval_every=10,
    batch_size=8,
    tensorboard=False,
    warmup=4,
    schedule="cosine",
    optimizer="muon",
    learning_rate=0.01,
    weight_decay=0.01,
    clip_norm=1.0,
)


@pytest.fixture(scope="module")
def trained(splits, tmp_path_factory):
    """Returns the outcomes of a causal and a masked run, and the folder of both."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_KERAS_CACHE", str(folder / "cache"))
        outcomes = {
            name: pretrain(
                name,
                module.Settings(**TINY, vocabulary=290),
                dataclasses.replace(QUICK, runs=str(folder / "runs")),
                data=splits,
            )
            for name, module in (("causal_lm", causal_lm), ("masked_lm", masked_lm))
        }
    return outcomes, folder / "runs"


@pytest.fixture
def runs(trained):
    """Returns the outcomes of a causal and a masked run, copied to the test's own ./runs."""
    outcomes, folder = trained
    shutil.copytree(folder, "runs")
    return {name: outcome | {"folder": f"runs/{name}-nonsense"} for name, outcome in outcomes.items()}


@pytest.mark.fit
def test_the_commands(runs, capsys, tmp_path):
    assert runs["causal_lm"]["val_loss"] < math.log(290)
    assert main(["sample", "causal_lm-nonsense", "--prompt", "the quick", "--length", "20", "--out", "s.json"]) == 0
    assert "the quick" in capsys.readouterr().out
    assert (tmp_path / "s.json").exists()
    assert main(["fill", "masked_lm-nonsense", "the [MASK] fox", "--top", "3"]) == 0
    assert capsys.readouterr().out.startswith("[MASK] 1: ")
    assert main(["fill", "masked_lm-nonsense", "no mask"]) == 1
    assert main(["sample", "masked_lm-nonsense"]) == 1
    assert "Expected an encoder of causal_lm" in capsys.readouterr().err
    assert main(["sample", "causal_lm-nonsense", "--prompt", "fox " * 50]) == 1
    assert "more than the context of 16" in capsys.readouterr().err
    rows = "".join(f"{'ab'[i % 2]},{'fox dogs' if i % 2 else 'seven box'} {i}\n" for i in range(80))
    (tmp_path / "t.csv").write_text("label,text\n" + rows)
    quick = ["--steps", "4", "--eval-every", "2", "--batch-size", "8", "--no-tensorboard", "--data", "table:t.csv"]
    assert main(["finetune", "masked_lm-nonsense", *quick, "--run", "tuned"]) == 0
    assert main(["embed", "causal_lm-nonsense", "--data", "table:t.csv"]) == 0
    assert np.load("features.npy").shape == (16, 16)
    assert main(["pretrain", "autoencoder", "--data", "table:t.csv"]) == 1
    assert main(["pretrain", "causal_lm", "--data", "digits"]) == 1
    assert main(["finetune", "causal_lm-nonsense", "--data", "digits"]) == 1
    assert "takes text" in capsys.readouterr().err
    assert main(["export", "tuned", "--classifier"]) == 0
    served = tf.saved_model.load("tuned.savedmodel")
    assert served.serve(tf.constant([[5, 6, -1]], tf.int32)).shape == (1, 2)


@pytest.mark.fit
def test_a_run_starts_from_another(runs, splits):
    """A run with init takes the saved network and tokenizer."""
    with pytest.raises(ValueError, match=r"Leave out layers, or use layers=1\."):
        causal_lm.prepare(causal_lm.Settings(layers=3, width=16), splits, init="causal_lm-nonsense")
    with pytest.raises(ValueError, match="Received: masked_lm-nonsense, of architecture bert"):
        causal_lm.prepare(causal_lm.Settings(), splits, init="masked_lm-nonsense")
    settings = causal_lm.Settings(tokenizer="characters")
    settings, data = causal_lm.prepare(settings, splits, init="causal_lm-nonsense")
    assert (settings.layers, settings.heads, settings.width, settings.vocabulary) == (1, 2, 16, 290)
    network = causal_lm.encoder(settings, data.train.spec()).build()
    left = initialize(network, "causal_lm-nonsense")
    assert left == ([], [])
    go_on = Training(steps=1, batch_size=8, init="causal_lm-nonsense", learning_rate=1e-9, run="on", tensorboard=False)
    outcome = pretrain("causal_lm", None, go_on, data=splits)
    assert outcome["val_loss"] == pytest.approx(runs["causal_lm"]["best_val_loss"], rel=1e-5)
    go_on = dataclasses.replace(go_on, init="masked_lm-nonsense", run="on-masked")  # the head is loaded too
    outcome = pretrain("masked_lm", None, go_on, data=splits)
    assert outcome["val_loss"] == pytest.approx(runs["masked_lm"]["best_val_loss"], rel=1e-5)


# test_contract.py trains on each kind of data in 16 bit, and test_flow.py has a whole run.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "architecture"), [("causal_lm", "gpt2"), ("masked_lm", "bert"), ("causal_lm", "modern")]
)
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_from_end_to_end(name, architecture, precision, splits):
    module = {"causal_lm": causal_lm, "masked_lm": masked_lm}[name]
    settings = module.Settings(**TINY, vocabulary=290, architecture=architecture)
    training = dataclasses.replace(QUICK, precision=precision, accumulate=2)
    outcome = pretrain(name, settings, training, data=splits)
    assert outcome["val_loss"] < math.log(290) + 1
    assert encoders.load_encoder(outcome["folder"]).compute_dtype == "float32"


@pytest.mark.fit
@pytest.mark.slow  # test_flow.py has that of images
def test_the_downstream_table_of_texts(runs, monkeypatch):
    from ssl_keras.downstream import grids, report
    from ssl_keras.downstream.table import evaluate

    quick = grids.Grid((1e-2,), (60,), (1,), 64, 64)
    monkeypatch.setitem(grids.GRIDS, "transformer", quick)
    rng = np.random.default_rng(0)
    label = np.arange(120) % 2
    texts = [" ".join([*rng.permutation(WORDS[:6]), ("dogs", "box")[k]]) + f" {i}" for i, k in enumerate(label)]
    table = evaluate("masked_lm-nonsense", text.from_texts(texts, label), budgets=(20,), seeds=(0,))
    name = "masked_lm-nonsense"
    assert list(table) == ["TF-IDF", "random init", f"{name}, frozen", f"{name}, fine-tuned", "scratch"]
    assert table["TF-IDF"]["all"][0] == 1
    assert "RankMe" not in table["TF-IDF"]
    assert table[f"{name}, fine-tuned"]["20 per class"][0] > 0.8
    assert "| TF-IDF |" in report.markdown(table)


@pytest.mark.fit
def test_resuming_with_other_text_is_refused(runs, splits):
    """A change of one word in one document, held out or not, makes another corpus."""
    settings = causal_lm.Settings(**TINY, vocabulary=290)
    go_on = dataclasses.replace(QUICK, resume=True)
    pretrain("causal_lm", settings, go_on, data=splits)
    for part in ("train", "test"):
        source = getattr(splits, part)
        texts = list(source.arrays["text"][source.rows])
        texts[1] = texts[1].replace("fox", "box", 1)
        changed = splits._replace(**{part: text.documents(source.name, texts)})
        with pytest.raises(ValueError, match="belongs to a run on other data"):
            pretrain("causal_lm", settings, go_on, data=changed)


@pytest.mark.fit
def test_a_tokenizer_that_is_not_the_encoders_is_refused(runs, splits, tmp_path):
    folder = tmp_path / "runs" / "causal_lm-nonsense" / "encoder"
    other = tmp_path / "runs" / "masked_lm-nonsense" / "encoder" / "tokenizer.json"
    (folder / "tokenizer.json").write_text(other.read_text())
    with pytest.raises(ValueError, match="does not belong to this encoder"):
        encoders.load_tokenizer("causal_lm-nonsense")


def test_an_image_encoder_starts_no_language_model(splits):
    with pytest.raises(ValueError, match="is not the encoder of a language model"):
        causal_lm.prepare(causal_lm.Settings(), splits, init="autoencoder-fashion_mnist")


def test_a_tokenizer_without_a_mask_is_refused(splits, tmp_path):
    import tokenizers

    plain = tokenizers.Tokenizer(tokenizers.models.BPE())
    plain.pre_tokenizer, plain.decoder = tokenizers.pre_tokenizers.ByteLevel(), tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(special_tokens=["<|endoftext|>"], show_progress=False)
    plain.train_from_iterator(WORDS, trainer)
    plain.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="has no mask token"):
        masked_lm.prepare(masked_lm.Settings(tokenizer=str(tmp_path)), splits)
    settings, _ = causal_lm.prepare(causal_lm.Settings(tokenizer=str(tmp_path / "tokenizer.json"), context=8), splits)
    assert settings.end_token == 0


@pytest.mark.slow
def test_the_shipped_encoders_do_what_their_cards_say(tfds_folder):
    """The loaded graphs have the recorded losses on the recorded data."""
    for name, module in (("causal_lm-tiny_shakespeare", causal_lm), ("masked_lm-trec", masked_lm)):
        network, head, card = encoders.load_with_head(name)
        asked, outcome = card["trained_by"]["settings"], card["trained_by"]["outcome"]
        source, fields = load(asked["data"]), [field.name for field in dataclasses.fields(module.Settings)]
        settings = module.Settings(**{name: asked[name] for name in fields if name in asked})
        tokenizer = encoders.load_tokenizer(name)
        pathlib.Path("t.json").write_text(tokenizer.json)
        settings, data = module.prepare(dataclasses.replace(settings, tokenizer="t.json"), source)
        model = module.build(settings, data.train.spec(), encoder=network)
        if head is not None:
            model.head.set_weights(head.get_weights())
        model.compile("adam")
        batches = Batches(data.test, asked["batch_size"], preprocess=model.preprocess, shuffle=False)
        loss = model.evaluate(
            batches.dataset(0, batches.steps_per_epoch), steps=batches.steps_per_epoch, verbose=0, return_dict=True
        )["loss"]
        assert loss == pytest.approx(outcome["test_loss"], rel=1e-4)
