"""Image and text: finding unseen emoji by their names; classes from captions; speed beside `transformers`.

    python benchmarks/image_text.py speed            pairs/s, five interleaved rounds
    python benchmarks/image_text.py retrieval        five folds of the emoji, four starts each: an hour on one core
    python benchmarks/image_text.py classification   Fashion-MNIST from captions, beside a classifier
    python benchmarks/image_text.py --quick          all of it in two minutes, to see that it runs; keeps nothing

The numbers go into benchmarks/image_text.json after every measurement.
Recorded numbers are not measured again, and an interrupted run resumes from its checkpoint (in `runs/`).

- `speed`: a training step on the same batches of 128 emoji of 32 pixels with their tokens, AdamW, float32, all cores.
  `transformers` is its `CLIPModel`: the same text transformer (kind, layers, width, vocabulary, context), and in place
  of our convolutional network a vision transformer of as many weights (the whole within 3%). Ours draws captions
  and changes its images meanwhile; its are ready in memory.
- `retrieval`: pictures by names and names by pictures, of concepts that training has not seen (`emoji:FOLDER[K]`, K
  from 0 to 4). Beside chance and the bag of words of `retrieval.baseline`: from random init; with an image network
  pretrained on the same training images without captions (`contrastive`), and locked; with that and a transformer of
  two blocks for the text, where the others have none; and with one that is pretrained on the training captions alone
  (`masked_lm`). Settings and steps are those of trials on validation parts, of the second of these.
- `classification`: the labels of Fashion-MNIST as sentences ("a photo of a coat"), an `image_text` encoder trained
  on those, and each test image given the class whose prompts are nearest. It has seen every class's name with every
  image: caption-supervised, not zero-shot. Beside a classifier of the same network, steps and images.
"""

import dataclasses
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

# isort: split
import numpy as np
from contenders import interval, main, medians, rounds

OURS, TRANSFORMERS = "ours", "transformers"
EMOJI = f"emoji:{os.environ.get('SSL_KERAS_DATA', 'data')}/emoji_pairs"
FASHION = "tfds:fashion_mnist"
BATCH, SIZE, CONTEXT, VOCABULARY, RATE = 128, 32, 12, 2048, 1e-3
IMAGE_WIDTH, TEXT_WIDTH, TEXT_LAYERS, TEXT_HEADS, PROJECTION = 32, 128, 2, 4, 128
PATCH, VISION_WIDTH, VISION_LAYERS, VISION_HIDDEN = 4, 96, 2, 550  # a vision transformer with our cnn's weights

# A process has one framework, see benchmarks/contrastive.py.
IS_PYTORCH = TRANSFORMERS in sys.argv
if IS_PYTORCH:
    import torch
    import transformers
else:
    import keras

    from ssl_keras.data.batches import Batches
    from ssl_keras.data.readers import captions as by_captions
    from ssl_keras.data.readers import text
    from ssl_keras.data.sources import load
    from ssl_keras.evaluation import retrieval as measures
    from ssl_keras.inference import search
    from ssl_keras.objectives import classifier, contrastive, image_text, masked_lm
    from ssl_keras.training.pretrain import pretrain
    from ssl_keras.training.run import compile_objective

    VIEWS = {"flip": True, "crop": 0.6, "color": 0.2, "shift": 0.1}
    SPEED = image_text.Settings(
        width=IMAGE_WIDTH,
        text_architecture="gpt2",
        text_layers=TEXT_LAYERS,
        text_heads=TEXT_HEADS,
        text_width=TEXT_WIDTH,
        context=CONTEXT,
        vocabulary=VOCABULARY,
        projection=PROJECTION,
        **VIEWS,
    )
    PICTURES = contrastive.Settings(width=IMAGE_WIDTH, pool_grid=2, **VIEWS)
    WORDS = masked_lm.Settings(
        layers=TEXT_LAYERS, heads=TEXT_HEADS, width=TEXT_WIDTH, context=64, tokenizer="wordpiece", vocabulary=4096
    )
    RETRIEVAL = image_text.Settings(
        width=IMAGE_WIDTH,
        pool_grid=4,
        tokenizer="wordpiece",
        vocabulary=4096,
        context=16,
        max_captions=4,
        token_dropout=0.2,
        temperature=0.3,
        text_layers=0,
        text_width=256,
        projection=0,
        **VIEWS,
    )
    BLOCKS = {"text_layers": TEXT_LAYERS, "text_heads": TEXT_HEADS, "text_width": TEXT_WIDTH}
    TRAINING = dataclasses.replace(image_text.DEFAULTS, epochs=0, batch_size=BATCH)
    CLASSES = image_text.Settings(width=16, pool_grid=2, shift=0.1, text_layers=1, text_width=64)
    LABELS = classifier.Settings(width=16, pool_grid=2, shift=0.1)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Durations of the parts."""

    rounds: int = 5
    seconds: float = 20.0
    folds: tuple[int, ...] = (0, 1, 2, 3, 4)
    image_steps: int = 600
    text_steps: int = 500
    steps: int = 400  # of image_text on emoji
    seeds: tuple[int, ...] = (0, 1, 2)
    class_steps: int = 500


QUICK = Plan(rounds=1, seconds=2.0, folds=(0,), image_steps=5, text_steps=5, steps=10, seeds=(0,), class_steps=10)
STARTS = (
    "random init",
    "pretrained pictures",
    "pretrained pictures, two blocks",
    "pretrained pictures, two pretrained blocks",
)
TEMPLATES = ("a photo of a {}", "{}", "a picture of one {}", "this is a {}")


class Ours:
    """`ImageText`, through `fit`, on the endless dataset of `Batches`."""

    batch, steps_per_execution = BATCH, 8

    def __init__(self, folder, seed):
        self.seed = seed

    def build(self):
        keras.utils.set_random_seed(self.seed)
        settings, splits = image_text.prepare(SPEED, load(EMOJI, SIZE))
        self.model = image_text.build(settings, splits.train.spec())
        training = dataclasses.replace(
            image_text.DEFAULTS, batch_size=BATCH, epochs=0, steps=10_000, steps_per_execution=self.steps_per_execution
        )
        compile_objective(self.model, training, splits)
        self.batches = Batches(splits.train, BATCH, preprocess=self.model.preprocess)
        return sum(int(np.prod(v.shape)) for v in self.model.trainable_variables)

    def steps(self, count):
        self.model.fit(self.batches.dataset(int(self.model.step)), steps_per_epoch=count, verbose=0)


class Transformers:
    """`CLIPModel` on batches that are ready, by a plain loop."""

    batch, steps_per_execution = BATCH, 1

    def __init__(self, folder, seed):
        self.folder, self.seed, self.done = folder, seed, 0

    def build(self):
        torch.manual_seed(self.seed)
        torch.set_num_threads(os.cpu_count())
        arrays = np.load(self.folder / "pairs.npz")
        self.batches = [
            [torch.tensor(arrays[f"{part}{index}"]) for part in ("image", "ids", "present")]
            for index in range(len(arrays) // 3)
        ]
        self.model = transformers.CLIPModel(
            transformers.CLIPConfig(
                projection_dim=PROJECTION,
                text_config={
                    "vocab_size": int(arrays["vocabulary"]),
                    "hidden_size": TEXT_WIDTH,
                    "intermediate_size": 4 * TEXT_WIDTH,
                    "num_hidden_layers": TEXT_LAYERS,
                    "num_attention_heads": TEXT_HEADS,
                    "max_position_embeddings": CONTEXT,
                    "hidden_act": "gelu_pytorch_tanh",
                    "eos_token_id": int(arrays["vocabulary"]) - 1,
                },
                vision_config={
                    "hidden_size": VISION_WIDTH,
                    "intermediate_size": VISION_HIDDEN,
                    "num_hidden_layers": VISION_LAYERS,
                    "num_attention_heads": 4,
                    "image_size": SIZE,
                    "patch_size": PATCH,
                    "hidden_act": "gelu_pytorch_tanh",
                },
            )
        ).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), RATE, weight_decay=0.01, fused=True)
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    def steps(self, count):
        for _ in range(count):
            images, ids, present = self.batches[self.done % len(self.batches)]
            self.done += 1
            loss = self.model(pixel_values=images, input_ids=ids, attention_mask=present, return_loss=True).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()


KINDS = {OURS: "Ours", TRANSFORMERS: "Transformers"}


def contender(name, folder, seed):
    return globals()[KINDS[name]](folder, seed)


def speed(plan, report, splits, folder, keep):
    part = report.setdefault("speed", {})
    ready(folder)
    done = part.setdefault("rounds, pairs/s", [])
    rounds(HERE, KINDS, plan.rounds, plan.seconds, done, folder, keep, sizes_within=0.03)
    part["pairs/s, median"] = medians(done)
    part[f"ours / {TRANSFORMERS}"] = interval([each[OURS] / each[TRANSFORMERS] for each in done])


def ready(folder):
    """Leaves an epoch of our batches where a contender without TensorFlow finds them."""
    settings, splits = image_text.prepare(SPEED, load(EMOJI, SIZE))
    model = image_text.build(settings, splits.train.spec())
    arrays, batches = {"vocabulary": settings.vocabulary}, Batches(splits.train, BATCH, preprocess=model.preprocess)
    for index, batch in enumerate(batches.dataset(0, batches.steps_per_epoch)):
        ids = batch["tokens"].numpy().astype(np.int64)
        present = ids >= 0
        # It takes a caption's state from the token that ends it.
        ids[np.arange(len(ids)), present.sum(1) - 1] = settings.vocabulary - 1
        image = 2 * batch["image"].numpy().transpose(0, 3, 1, 2) - 1
        arrays |= {
            f"image{index}": np.ascontiguousarray(image),
            f"ids{index}": np.where(present, ids, 0),
            f"present{index}": present.astype(np.int64),
        }
    np.savez(folder / "pairs.npz", **arrays)


def retrieval(plan, report, splits, folder, keep):
    part = report.setdefault("retrieval", {})
    for fold in plan.folds:
        splits = load(f"{EMOJI}[{fold}]", SIZE)
        for start in STARTS:
            key = f"{start}, fold {fold}"
            if key in part:
                continue
            encoder = trained(plan, runs(plan, folder), splits, start, fold)
            found = measures.evaluate(search.Retriever(encoder["folder"]), splits)
            *baselines, ours = found
            part |= {f"{row}, fold {fold}": plain(found[row]) for row in baselines}
            part[key] = plain(found[ours]) | {"seconds": encoder["seconds"]}
            keep()
            print(key, measures.markdown(found), flush=True)
    part["mean over folds"] = {
        row: {
            f"{way}, R@{k}": float(np.mean([part[f"{row}, fold {fold}"][way][str(k)] for fold in plan.folds]))
            for way in measures.WAYS
            for k in measures.RANKS
        }
        for row in ("chance", "bag of words", *STARTS)
    }


def plain(found):
    """Recalls as JSON has them."""
    return {way: {str(k): share for k, share in each.items()} for way, each in found.items()}


def trained(plan, folder, splits, start, fold):
    """Returns the outcome of an `image_text` run, after its networks were pretrained separately."""
    settings, common = RETRIEVAL, {"data": splits.train.base, "report_every": 0, "runs": folder, "resume": True}
    if start in STARTS[1:]:
        training = dataclasses.replace(
            contrastive.DEFAULTS,
            epochs=0,
            steps=plan.image_steps,
            eval_every=max(plan.image_steps // 5, 1),
            warmup=50,
            batch_size=BATCH,
            run=f"emoji-pictures-{fold}",
            **common,
        )
        outcome = pretrain("contrastive", PICTURES, training, data=splits)
        settings = dataclasses.replace(settings, init_image=outcome["folder"], freeze_image=True)
    if start in STARTS[2:]:
        settings = dataclasses.replace(settings, **BLOCKS)
    if start == STARTS[3]:
        training = dataclasses.replace(
            masked_lm.DEFAULTS,
            epochs=0,
            steps=plan.text_steps,
            eval_every=max(plan.text_steps // 5, 1),
            warmup=50,
            batch_size=64,
            run=f"emoji-words-{fold}",
            **common,
        )
        words = text.from_texts([", ".join(each) for each in by_captions.captions_of(splits.train)], name="captions")
        outcome = pretrain("masked_lm", WORDS, training, data=words)
        settings = dataclasses.replace(settings, init_text=outcome["folder"], context=64, vocabulary=2048)
    training = dataclasses.replace(
        TRAINING,
        steps=plan.steps,
        eval_every=max(plan.steps // 5, 1),
        learning_rate=3e-3,
        weight_decay=0.3,
        run=f"emoji-{start}-{fold}".replace(",", "").replace(" ", "-"),
        **common,
    )
    return pretrain("image_text", settings, training, data=splits)


def classification(plan, report, splits, folder, keep):
    part, splits = report.setdefault("classification", {}), load(FASHION)
    common = {"data": FASHION, "report_every": 0, "runs": runs(plan, folder), "resume": True}
    common |= {"epochs": 0, "steps": plan.class_steps, "eval_every": max(plan.class_steps // 5, 1)}
    for seed in plan.seeds:
        key = f"captions, seed {seed}"
        if key not in part:
            training = dataclasses.replace(TRAINING, seed=seed, run=f"fashion-captions-{seed}", **common)
            outcome = pretrain("image_text", CLASSES, training, data=captioned(splits))
            retriever = search.Retriever(outcome["folder"])
            prompts = retriever.of_texts([each.format(name) for name in splits.test.classes for each in TEMPLATES])
            prompts = prompts.reshape(len(splits.test.classes), len(TEMPLATES), -1).mean(1)
            found = (retriever.of_images(splits.test.column("image")) @ prompts.T).argmax(1)
            part[key] = float(np.mean(found == splits.test.column("label")))
            keep()
        key = f"classifier, seed {seed}"
        if key not in part:
            training = dataclasses.replace(
                classifier.DEFAULTS, batch_size=BATCH, seed=seed, run=f"fashion-classifier-{seed}", **common
            )
            part[key] = pretrain("classifier", LABELS, training, data=splits)["test_accuracy"]
            keep()
        print({key: part[key] for key in part if key.endswith(f"seed {seed}")}, flush=True)
    for way in ("captions", "classifier"):
        accuracies = [part[f"{way}, seed {seed}"] for seed in plan.seeds]
        part[f"{way}, mean and sd"] = [float(np.mean(accuracies)), float(np.std(accuracies, ddof=len(accuracies) > 1))]


def captioned(splits):
    """`Splits` whose labels have become sentences."""
    texts = [[each.format(name) for each in TEMPLATES] for name in splits.train.classes]
    return type(splits)(
        *(by_captions.with_captions(source, [texts[label] for label in source.column("label")]) for source in splits)
    )


def runs(plan, folder):
    """Returns the folder of the runs; those of `--quick` are temporary."""
    return str(folder / "runs") if plan == QUICK else "runs"


PARTS = {"speed": speed, "retrieval": retrieval, "classification": classification}


if __name__ == "__main__":
    main(sys.modules[__name__], PARTS, Plan(), QUICK, contender, lambda folder: None)
