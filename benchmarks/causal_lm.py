"""The causal language model: speed of a step, time to a quality, generation, and the gpt2 size.

    python benchmarks/causal_lm.py steps         ours, KerasHub's GPT-2 under stock fit, transformers' in PyTorch
    python benchmarks/causal_lm.py llama         the same for Llama: ours, and transformers' in PyTorch
    python benchmarks/causal_lm.py quality       seconds to a tuned baseline's loss, tiny_shakespeare characters
    python benchmarks/causal_lm.py llama-quality  seconds of modern and of llama to the same loss, by the same recipe
    python benchmarks/causal_lm.py minutes       the best loss of 15 minutes
    python benchmarks/causal_lm.py generation    with the cache and without
    python benchmarks/causal_lm.py gpt2          a step of the 124M network on two replicas, its memory
    python benchmarks/causal_lm.py               all of them, about half an hour on 2 cores

Each part writes its numbers into benchmarks/causal_lm.json. The baseline of `quality` is the
GPT-2 network, 4 layers, 4 heads, 128 wide, no dropout, 2,000 steps of 12 × 64 tokens, AdamW with
warm-up and cosine, at each of four learning rates (the shape of nanoGPT's CPU recipe); it is trained
by our own code, compiled with XLA like ours, so that what is compared is the recipe. Its loss, and
ours, is that of the whole validation split in disjoint windows of 64 tokens.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

# isort: split
with contextlib.suppress(ImportError):
    import triton._C.libtriton  # noqa: F401  # PyTorch's; it crashes if it is loaded after TensorFlow

import keras
import numpy as np
import tensorflow as tf
from contenders import interval

from ssl_keras.data.batches import Batches
from ssl_keras.data.sources import load
from ssl_keras.engine.config import Training
from ssl_keras.inference.generation import Generator
from ssl_keras.networks.llama_block import mlp_width
from ssl_keras.networks.transformer import transformer
from ssl_keras.objectives import causal_lm
from ssl_keras.training.optimizer import Adam
from ssl_keras.training.run import compile_objective, held_out
from ssl_keras.training.strategy import strategy as choose_strategy

ROUNDS = 5
STEP_SIZES = {"4×4×128, 12×64": (4, 4, 128, 12, 64), "4×4×256, 16×128": (4, 4, 256, 16, 128)}
STEPS = 40  # of each, in a round
VOCABULARY = 65

BASELINE = causal_lm.Settings(architecture="gpt2", layers=4, heads=4, width=128, context=64, tokenizer="characters")
BASELINE_TRAINING = Training(
    steps=2000,
    batch_size=12,
    schedule="cosine",
    warmup=100,
    weight_decay=0.1,
    beta_2=0.99,
    clip_norm=1.0,
    jit=True,
    steps_per_execution=50,
)
BASELINE_RATES = (1e-3, 2e-3, 4e-3, 8e-3)
OURS = dataclasses.replace(BASELINE, architecture="modern", layers=3)
OURS_TRAINING = dataclasses.replace(
    BASELINE_TRAINING, optimizer="muon", learning_rate=0.01, steps=500, batch_size=16, weight_decay=0.0
)
SEEDS = (0, 1, 2)
LONG_SETTINGS = dataclasses.replace(OURS, layers=4)
LONG_TRAINING = dataclasses.replace(OURS_TRAINING, steps=6_000, weight_decay=0.1)


# ----- steps


def repeated(arrays):
    """The same batches again and again, for both who train with TensorFlow."""
    # Its tuner's thread sleeps up to ten seconds, and the end of an iterator waits for it.
    options = tf.data.Options()
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensor_slices(arrays).repeat().with_options(options)


def our_steps(layers, heads, width, batch, length, jit, architecture="gpt2"):
    settings = causal_lm.Settings(
        architecture=architecture, layers=layers, heads=heads, width=width, context=length, vocabulary=VOCABULARY
    ).filled()
    keras.utils.set_random_seed(0)
    model = causal_lm.build(settings, None)
    model.compile(Adam(1e-3), jit_compile=jit, steps_per_execution=STEPS)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (STEPS, batch, length + 1)).astype(np.int32)
    data = repeated({"tokens": tokens})
    return lambda: model.fit(data, steps_per_epoch=STEPS, verbose=0)


def keras_hub_steps(layers, heads, width, batch, length):
    import keras_hub

    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=VOCABULARY,
        num_layers=layers,
        num_heads=heads,
        hidden_dim=width,
        intermediate_dim=4 * width,
        dropout=0.0,
        max_sequence_length=length,
    )
    logits = backbone.token_embedding(backbone.output, reverse=True)
    model = keras.Model(backbone.input, logits)
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=STEPS,
    )
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (STEPS, batch, length + 1)).astype(np.int32)
    inputs = {"token_ids": tokens[:, :, :-1], "padding_mask": np.ones_like(tokens[:, :, :-1])}
    data = repeated((inputs, tokens[:, :, 1:]))
    return lambda: model.fit(data, steps_per_epoch=STEPS, verbose=0)


def torch_gpt2(layers, heads, width, length):
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=length,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def torch_llama(layers, heads, width, length):
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            max_position_embeddings=length,
            hidden_size=width,
            intermediate_size=mlp_width("llama", width),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def torch_steps(make, layers, heads, width, batch, length):
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count())
    model = make(layers, heads, width, length)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, VOCABULARY, (STEPS, batch, length + 1)))

    def run():
        for each in tokens:
            optimizer.zero_grad(set_to_none=True)
            logits = model(each[:, :-1]).logits
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), each[:, 1:].flatten()).backward()
            optimizer.step()

    return run


def product_rate():
    """GFLOP/s of 2048³ products on all cores."""
    square = tf.random.normal((2048, 2048))
    product = tf.function(lambda a: tf.matmul(a, a))
    best = 0.0
    for _ in range(4):
        start = time.perf_counter()
        for _ in range(5):
            result = product(square)
        result.numpy()
        best = max(best, 2e-9 * 2048**3 * 5 / (time.perf_counter() - start))
    return best


CONTENDERS = {
    "ours": lambda *shape: our_steps(*shape, jit=True),
    "ours, without XLA": lambda *shape: our_steps(*shape, jit=False),
    "KerasHub, stock fit": keras_hub_steps,
    "transformers, PyTorch": lambda *shape: torch_steps(torch_gpt2, *shape),
}
LLAMA = {
    "ours, llama": lambda *shape: our_steps(*shape, jit=True, architecture="llama"),
    "transformers' Llama, PyTorch": lambda *shape: torch_steps(torch_llama, *shape),
}


def contender(name, size):
    """A process of its own, so that the threads of one library do not hold up another's: runs when told to."""
    run = (CONTENDERS | LLAMA)[name](*STEP_SIZES[size])
    run()  # compiles
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print((time.perf_counter() - start) / STEPS, flush=True)


def steps(contenders=CONTENDERS):
    """Tokens a second of each, one after the other in every round; the first round warms up. The first is ours."""
    ours = next(iter(contenders))
    report = {"GFLOP/s of 2048³ products": product_rate()}
    for size, (layers, _, width, batch, length) in STEP_SIZES.items():
        processes = {
            name: subprocess.Popen(
                [sys.executable, HERE, "--contender", name, "--size", size],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for name in contenders
        }
        for process in processes.values():
            while process.stdout.readline().strip() != "ready":
                assert process.poll() is None
        seconds = {name: [] for name in processes}
        for _ in range(ROUNDS + 1):
            for name, process in processes.items():
                time.sleep(0.5)  # until the last one's threads sleep
                process.stdin.write("run\n")
                process.stdin.flush()
                seconds[name].append(float(process.stdout.readline()))
        for process in processes.values():
            process.stdin.close()
            process.wait()
        seconds = {name: values[1:] for name, values in seconds.items()}
        # Products alone: the blocks' and the output's matrices, and attention's two, times two for the gradient.
        mlp = 3 * width * mlp_width("llama", width) if contenders is LLAMA else 8 * width**2
        macs = layers * (4 * width**2 + mlp + 2 * length * width) + VOCABULARY * width
        report[size] = {
            "tokens/s": {name: batch * length / statistics.median(values) for name, values in seconds.items()},
            "their time / ours": {
                name: interval([a / b for a, b in zip(values, seconds[ours])])
                for name, values in seconds.items()
                if name != ours
            },
            "GFLOP/s of ours": 6e-9 * macs * batch * length / statistics.median(seconds[ours]),
            "seconds per step": seconds,
        }
    return report


# ----- quality


def train(settings, training, splits, target=None, every=0, seconds=float("inf")):
    """Trains from nothing; {loss, seconds of compiling and training, curve}.

    The curve's losses are on the validation split; measuring them is not counted as training. With
    a target, it stops where that is reached; with a limit of seconds, where these are over.
    """
    strategy = tf.distribute.get_strategy()
    keras.utils.set_random_seed(training.seed)
    model = causal_lm.build(settings, splits.train.spec())
    compile_objective(model, training, splits)
    batches = Batches(splits.train, training.batch_size, seed=training.seed, preprocess=model.preprocess)
    spent, curve, done = 0.0, [], 0
    while done < training.steps:
        count = min(every or training.steps, training.steps - done)
        start = time.perf_counter()
        model.fit(batches.dataset(done), steps_per_epoch=count, verbose=0)
        spent += time.perf_counter() - start
        done += count
        result = held_out(model, splits.validation, 109, strategy)
        curve.append((done, round(spent, 2), result["loss"]))
        if (target is not None and result["loss"] <= target) or spent >= seconds:
            break
    return {
        "loss": result["loss"],
        "seconds": spent,
        "steps": done,
        "parameters": model.encoder.count_params(),
        "curve": curve,
    }


def quality():
    source = load("tfds:tiny_shakespeare")
    settings, splits = causal_lm.prepare(BASELINE, source)
    baselines = {}
    for rate in BASELINE_RATES:
        baselines[rate] = train(settings, dataclasses.replace(BASELINE_TRAINING, learning_rate=rate), splits)
        print("baseline", rate, baselines[rate], flush=True)
    best = min(baselines, key=lambda rate: baselines[rate]["loss"])
    target = baselines[best]["loss"]
    settings, splits = causal_lm.prepare(OURS, source)
    ours = []
    for seed in SEEDS:
        training = dataclasses.replace(OURS_TRAINING, seed=seed)
        ours.append(train(settings, training, splits, target, every=50))
        print("ours", seed, ours[-1], flush=True)
    reached = [run["seconds"] if run["loss"] <= target else float("inf") for run in ours]
    return {
        "baselines": {str(rate): run for rate, run in baselines.items()},
        "best rate": best,
        "target loss": target,
        "baseline seconds": baselines[best]["seconds"],
        "ours": ours,
        "seconds to the target": reached,
        "share of the baseline's time, median": statistics.median(reached) / baselines[best]["seconds"],
        "settings": dataclasses.asdict(settings),
        "training": dataclasses.asdict(OURS_TRAINING),
    }


def llama_quality():
    """Seconds to the loss of the baseline of `quality`, which must have been measured, for two architectures."""
    target = json.loads(HERE.with_suffix(".json").read_text())["quality"]["target loss"]
    runs, source = {"modern": [], "llama": []}, load("tfds:tiny_shakespeare")
    prepared = {name: causal_lm.prepare(dataclasses.replace(OURS, architecture=name), source) for name in runs}
    for seed in SEEDS:
        training = dataclasses.replace(OURS_TRAINING, seed=seed)
        for architecture, (settings, splits) in prepared.items():
            runs[architecture].append(train(settings, training, splits, target, every=50))
            print(architecture, seed, runs[architecture][-1], flush=True)
    return {
        "target loss": target,
        "seconds to the target": {
            name: [each["seconds"] if each["loss"] <= target else None for each in made] for name, made in runs.items()
        },
        "runs": runs,
    }


def minutes(limit=900.0):
    settings, splits = causal_lm.prepare(LONG_SETTINGS, load("tfds:tiny_shakespeare"))
    run = train(settings, LONG_TRAINING, splits, every=LONG_TRAINING.steps // 40, seconds=limit)
    best = min(run["curve"], key=lambda row: row[2])
    return {
        "best loss": best[2],
        "at second": best[1],
        **run,
        "settings": dataclasses.asdict(settings),
        "training": dataclasses.asdict(LONG_TRAINING),
    }


# ----- generation, and the gpt2 size


def generation(context=512, prompt=16):
    network = transformer(VOCABULARY, context, 4, 4, 256, architecture="gpt2", causal=True)
    prompts = np.zeros((1, prompt), np.int32)
    seconds = {True: [], False: []}
    generators = {cached: Generator(network, cached=cached, jit=True) for cached in seconds}
    for number in range(ROUNDS + 1):
        for cached, generator in generators.items():
            start = time.perf_counter()
            generator(prompts, context - prompt, seed=number)
            seconds[cached].append(time.perf_counter() - start)
    with_cache, without = seconds[True][1:], seconds[False][1:]
    return {
        "milliseconds a token": {
            name: 1e3 * statistics.median(values) / (context - prompt)
            for name, values in (("cached", with_cache), ("uncached", without))
        },
        "uncached / cached": interval([a / b for a, b in zip(without, with_cache)]),
    }


def gpt2():
    """In a process of its own, for its memory and its two logical devices."""
    out = subprocess.run([sys.executable, HERE, "gpt2-alone"], capture_output=True, text=True, check=True)
    return json.loads(out.stdout.splitlines()[-1])


def gpt2_alone(batch=4, length=256):
    two = choose_strategy("mirrored", 2)
    settings = causal_lm.Settings(size="gpt2", architecture="gpt2", length=length, remat=True).filled()
    with two.scope():
        keras.utils.set_random_seed(0)
        model = causal_lm.build(settings, None)
        model.compile(Adam(1e-4), clip_norm=1.0)
        tokens = np.random.default_rng(0).integers(0, settings.vocabulary, (batch, length + 1)).astype(np.int32)
        data = two.experimental_distribute_dataset(tf.data.Dataset.from_tensors({"tokens": tokens}).repeat())
        losses, seconds = [], []
        for _ in range(3):
            start = time.perf_counter()
            losses.append(model.fit(data, steps_per_epoch=1, verbose=0).history["loss"][0])
            seconds.append(time.perf_counter() - start)
    # VmHWM, not ru_maxrss: a child's ru_maxrss starts from its parent's.
    peak = int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text()).group(1)) / 2**20
    print(
        json.dumps(
            {
                "parameters": model.encoder.count_params(),
                "global batch": [batch, length],
                "replicas": 2,
                "seconds a step, compiled": seconds[1:],
                "losses": losses,
                "peak GiB": peak,
            }
        )
    )


PARTS = {
    "steps": steps,
    "llama": lambda: steps(LLAMA),
    "quality": quality,
    "llama-quality": llama_quality,
    "minutes": minutes,
    "generation": generation,
    "gpt2": gpt2,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS, "gpt2-alone"], default=[])
    parser.add_argument("--contender", choices=CONTENDERS | LLAMA, help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=STEP_SIZES, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    asked = flags.parts
    if flags.contender:
        contender(flags.contender, flags.size)
        return
    if asked == ["gpt2-alone"]:
        gpt2_alone()
        return
    path = HERE.with_suffix(".json")
    for part in asked or PARTS:
        report = json.loads(path.read_text()) if path.exists() else {}
        report |= {"machine": f"{os.cpu_count()} cores", "tensorflow": tf.__version__, "keras": keras.__version__}
        report[part] = PARTS[part]()
        path.write_text(json.dumps(report, indent=2) + "\n")
        print(json.dumps({part: report[part]}, indent=2))


if __name__ == "__main__":
    main()
