"""RoBERTa, DistilBERT and Llama: what differs from GPT-2 and BERT, and checkpoints that are refused.

`test_hugging_face.py` compares all families with `transformers`.
"""

import json
import pathlib
import re
import shutil
import types

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
import tokenizers as library
from tokenizers import models

from ssl_keras import encoders
from ssl_keras.cli import main
from ssl_keras.data import tokenizer as tokenizers
from ssl_keras.data.readers import text
from ssl_keras.data.splits import hold_out
from ssl_keras.encoders import hugging_face, hugging_face_text, text_configs
from ssl_keras.engine.config import Training
from ssl_keras.inference import generation
from ssl_keras.interpretation import outputs, report
from ssl_keras.interpretation.rollout import rollout
from ssl_keras.modalities import language
from ssl_keras.networks import Network, description
from ssl_keras.objectives import causal_lm, image_text
from ssl_keras.training.pretrain import pretrain

CHECKPOINTS = pathlib.Path(__file__).parents[1] / "support" / "checkpoints"


@pytest.fixture
def folder(tmp_path, request):
    family = request.getfixturevalue("family")
    shutil.copytree(CHECKPOINTS / family, tmp_path / family)
    return tmp_path / family


@pytest.fixture
def eagerly():
    """Without tracing, which would take most of the time."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def scaling(**changes):
    return {"rope_theta": 500.0, "rope_type": "linear", "factor": 2.0} | changes


@pytest.mark.parametrize("family", ["llama"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": scaling(rope_type="yarn")}, "of the kind default, linear, llama3. Received: 'yarn'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "dynamic"}}, "rope_scaling of the kind .*'dynamic'"),
        # transformers prefers rope_scaling where a config has both.
        ({"rope_scaling": {"type": "yarn", "rope_type": None}}, "rope_scaling of the kind .*'yarn'"),
        ({"rope_parameters": scaling(factor=None)}, "Expected a positive number for factor of rope_parameters"),
        ({"rope_parameters": scaling(rope_theta=-1)}, "Expected a positive number for rope_theta"),
        ({"rope_parameters": scaling(partial_rotary_factor=0.5)}, "without partial_rotary_factor"),
        ({"rope_parameters": [1]}, r"Expected a dictionary for rope_parameters. Received: \[1\]"),
        ({"sliding_window": 4096}, "without sliding_window. Received: 4096"),
        ({"num_local_experts": 8}, "without num_local_experts"),
        ({"quantization_config": {"bits": 4}}, "without quantization_config"),
        ({"attention_bias": True}, "attention_bias = False. Received: True"),
        ({"mlp_bias": True}, "mlp_bias = False"),
        ({"hidden_act": "gelu"}, "hidden_act = 'silu'. Received: 'gelu'"),
        ({"head_dim": 8}, "head_dim = 4, hidden_size / heads. Received: 8"),
        ({"num_key_value_heads": 3}, "heads must be a multiple of kv_heads"),
        ({"intermediate_size": None}, "Expected integers of 1 to 16777216 for intermediate_size"),
        ({"model_type": "qwen2"}, "gpt2, bert, roberta, distilbert, llama, .*Received: 'qwen2'"),
        ({"vocab_size": 400}, "has only 264 tokens, but the model 400. Expected the tokenizer of this model"),
        ({"eos_token_id": [1, 70]}, "eos_token_id is 70 in config.json, which is '.+' in the tokenizer"),
        ({"bos_token_id": "x"}, "bos_token_id is 'x' in config.json"),
    ],
)
def test_llama_models_with_other_options_are_refused(folder, family, changes, message, capsys):
    edit(folder, **changes)
    assert main(["import", str(folder), "--out", "saved_models/mine"]) == 1
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert re.search(message, said)


@pytest.mark.parametrize("family", ["roberta"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad_token_id": 0}, "pad_token_id is 0 in config.json, but 1 in the tokenizer"),
        ({"max_position_embeddings": 2}, r"more than pad_token_id \+ 1, 2. Received: 2"),
        (
            {"max_position_embeddings": 99},
            r"position_embeddings.weight: expected the shape \(99, 16\). Rec.*\(26, 16\)",
        ),
        ({"type_vocab_size": 2}, "type_vocab_size = 1. Received: 2"),
        ({"is_decoder": True}, "is_decoder = False"),
        ({"model_type": "xlm-roberta"}, "Received: 'xlm-roberta'"),
    ],
)
def test_roberta_models_with_other_options_are_refused(folder, family, changes, message):
    edit(folder, **changes)
    with pytest.raises(ValueError, match=message):
        hugging_face.import_encoder(folder, "saved_models/mine")


@pytest.mark.parametrize("family", ["llama"])
def test_a_tokenizer_of_sentencepiece_is_refused(folder, family):
    made = library.Tokenizer(models.BPE({f"<0x{i:02X}>": i for i in range(256)} | {"▁a": 256}, [], byte_fallback=True))
    (folder / "tokenizer.json").write_text(made.to_str())
    with pytest.raises(
        ValueError, match="tokenizer.json is not a supported tokenizer. Expected characters, byte-level"
    ):
        hugging_face_text.load(folder)


@pytest.mark.parametrize("family", ["llama"])
def test_an_output_that_is_missing_is_named(folder, family):
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match="no tensor 'lm_head.weight'"):
        hugging_face_text.load(folder)
    edit(folder, tie_word_embeddings=True)
    assert hugging_face_text.load(folder)[1] is None


@pytest.mark.parametrize("family", ["llama"])
def test_a_begin_token_precedes_prompts(folder, family, eagerly):
    network, head, tokenizer, _ = hugging_face_text.load(folder)
    assert tokenizer.begin == 0
    assert tokenizer.end == 1
    ids = np.array([[0, *tokenizer.encode(["the fox"])[0]]], np.int32)
    likely = int(np.argmax(language.logits(network, network(ids), head)[0, -1]))
    written = generation.write(network, tokenizer, "the fox", 1, temperature=0, head=head)[0]
    assert written == "the fox" + ("" if likely == 1 else generation.continuation(tokenizer, ids[0], [likely]))
    assert tokenizers.load(CHECKPOINTS / "bert").begin == tokenizers.load(CHECKPOINTS / "gpt2").begin == -1


@pytest.mark.parametrize("family", ["roberta"])
def test_roberta_counts_tokens_from_its_padding(folder, family):
    """The first position is row 2 of the checkpoint's; vocabulary files frame a text as the tokenizer's file does."""
    network, _, tokenizer, _ = hugging_face_text.load(folder)
    stored = safetensors.numpy.load_file(folder / "model.safetensors")
    places = network.get_layer("embeddings").positions
    np.testing.assert_array_equal(places, stored["roberta.embeddings.position_embeddings.weight"][2:])
    assert description(network).max_tokens == 24
    parsed = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    vocabulary = parsed["vocab"] | {"<mask>": tokenizer.mask}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in parsed["merges"]))
    said = ["the <mask> fox jumps"]
    rebuilt = tokenizers.load(folder)
    assert rebuilt.encode(said, special=True) == tokenizer.encode(said, special=True)
    assert rebuilt.encode(said, special=True)[0][0::2][:2] == [0, tokenizer.mask]


def test_attention_of_llama_is_pictured_and_rolled_out():
    network, *_ = hugging_face_text.load(CHECKPOINTS / "llama")
    ids = np.array([[0, 5, 9, 9, 7], [0, 8, 6, -1, -1]], np.int32)
    assert language.attention_pictures(network, ids)["attention"]
    flow = rollout(outputs.of_features(network).graph, weighted=True)(ids, np.array([3, 4]))
    assert flow.shape == (2, 5)
    assert (flow >= 0).all()
    assert (flow[1, 3:] == 0).all()
    assert flow[:, :3].max() > 0


@pytest.mark.parametrize("family", ["roberta", "distilbert", "llama"])
def test_a_text_tower_refuses_options_that_it_does_not_have(family):
    config = json.loads((CHECKPOINTS / family / "config.json").read_text())
    keywords = Network("transformer", **text_configs.keywords_of(config)).keywords
    with pytest.raises(ValueError, match="mine has options that a text encoder here does not have"):
        image_text._check_options("mine", keywords)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"untied": True}, "untied: expected the architecture llama. Received: modern"),
        ({"architecture": "gpt2", "kv_heads": 2}, "kv_heads: expected the architecture llama"),
    ],
)
def test_options_of_llama_are_refused_for_others(options, message):
    with pytest.raises(ValueError, match=message):
        causal_lm.Settings(**options)


@pytest.mark.slow
def test_a_backbone_of_keras_hub_is_an_encoder(tmp_path, rng):
    """The example in docs/command_line.md, with random weights: padding changes nothing, saved and loaded."""
    pytest.importorskip("keras_hub")
    page = (pathlib.Path(__file__).parents[2] / "docs" / "command_line.md").read_text("utf-8")
    code = re.search(r"```python\n(import keras\n\n\ndef hub_electra.+?)```", page, re.DOTALL)[1]
    found = {}
    exec(compile(code, "command_line.md", "exec"), found)
    network, tokenizer = found["hub_electra"](), tokenizers.load(CHECKPOINTS / "bert")
    ids = rng.integers(0, tokenizer.vocabulary, (2, 9)).astype(np.int32)
    padded = np.pad(ids, ((0, 0), (0, 3)), constant_values=-1)
    np.testing.assert_allclose(network(padded)[:, :9], network(ids), atol=1e-5)
    encoders.save_encoder(tmp_path / "hub", network, spec=hugging_face_text.SPEC, tokenizer=tokenizer, context=16)
    again = encoders.load_encoder(tmp_path / "hub", network=found["hub_electra"])
    np.testing.assert_allclose(again(ids), network(ids), atol=1e-5)


def test_llama_has_a_baseline_without_a_mask():
    """A vector of zeros is no absence to RMS norm, so a text's end is what is missing."""
    network, head, tokenizer, _ = hugging_face_text.load(CHECKPOINTS / "llama")
    question = types.SimpleNamespace(output=outputs.of_token(network, tokenizer.tokens(), head))
    card = {"network": description(network).to_json(), "head": description(head).to_json()}
    explained = report.explained_of(types.SimpleNamespace(tokenizer=tokenizer, card=card), question)
    ids = np.array([[0, 5, 9]], np.int32)
    np.testing.assert_array_equal(explained.baseline(ids), explained.represent(np.array([[0, 1, 1]], np.int32)))


SAID = ["the quick brown fox jumps over the lazy dog", "the lazy dog jumps over the quick brown fox"]


@pytest.mark.slow
@pytest.mark.parametrize("untied", [True, False])
def test_transformers_continues_what_was_pretrained(untied, tmp_path, capsys):
    """The fast part is `test_import_and_export_give_the_same_file`."""
    transformers = pytest.importorskip("transformers")
    peers = pytest.importorskip("peers")
    import torch

    settings = causal_lm.Settings(
        architecture="llama", layers=2, heads=4, kv_heads=2, width=16, context=24, vocabulary=280, untied=untied
    )
    documents = hold_out(text.documents("words", SAID * 15))
    pretrain("causal_lm", settings, Training(steps=3, batch_size=2, tensorboard=False, run="one"), data=documents)
    again = Training(steps=3, batch_size=2, tensorboard=False, run="two", init="one")
    pretrain("causal_lm", None, again, data=documents)
    network, head, card = encoders.load_with_head("two")
    assert (head is not None) == untied
    assert card["network"]["kv_heads"] == 2
    assert main(["export", "two", "--hugging-face", "--out", "back"]) == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained("back").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained("back")
    ids = encoders.load_tokenizer("two").encode(["the lazy fox"])
    assert tokenizer("the lazy fox")["input_ids"] == ids[0]
    hidden = network(np.array(ids, np.int32))
    _, logits = peers.outputs(theirs, np.array(ids))
    np.testing.assert_allclose(language.logits(network, hidden, head), logits, atol=1e-4)
    ours = generation.Generator(network, head=head)(np.array(ids, np.int32), 8, temperature=0)
    theirs.generation_config.eos_token_id = None  # it would end there
    made = theirs.generate(torch.tensor(ids), max_new_tokens=8, do_sample=False)
    np.testing.assert_array_equal(ours[0], made[0, len(ids[0]) :])
