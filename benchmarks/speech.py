"""Speech: digits, words and speakers after pretraining without labels; speed beside `transformers`.

    python benchmarks/speech.py speed          clips/s, five interleaved rounds: 6 minutes
    python benchmarks/speech.py digits         five speakers, each held out once: two hours on one core
    python benchmarks/speech.py recognition    connected digits, word error rate: an hour on one core
    python benchmarks/speech.py speakers       who speaks: a quarter of an hour on one core
    python benchmarks/speech.py --quick        all of it in two minutes, to see that it runs; keeps nothing

The numbers go into benchmarks/speech.json after every measurement. Recorded numbers are not measured again,
and an interrupted run resumes from its checkpoint (in `runs/`).

The data are those of `tfds:spoken_digit` (Free Spoken Digit Dataset: 5 speakers, 50 clips of each digit by each).

- `speed`: a training step of wav2vec 2.0 on raw waveforms, the same batches of 64 clips, AdamW, float32, all cores.
  `transformers` is its `Wav2Vec2ForPreTraining` with as many convolutions, channels, layers, codes; its own masks and
  100 distractors; its network is up to 3% larger or smaller than ours. Ours draws and changes its clips
  meanwhile; its are ready in memory.
- `digits`: for each speaker an encoder is pretrained on the clips of the four others, without labels, and
  `downstream.evaluate` measures it on the speaker it never heard, with label seeds 0 to 4; probes, too, learn of
  changed copies of the labeled clips. Nothing is chosen
  on them: the changes of clips, learning rate and steps are those of trials without `theo`, judged on `nicolas`.
- `recognition`: connected digits (`connected:`) from the same four speakers; `ctc` from that encoder, and
  from scratch, each with the weights of its lowest loss on validation clips; words wrong, of the fifth speaker.
- `speakers`: an encoder pretrained on the training clips of all five; which of them speaks in the test clips.
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

OURS, TRANSFORMERS, DATA = "ours", "transformers", "tfds:spoken_digit"
SPEAKERS = ("george", "jackson", "nicolas", "theo", "yweweler")
BATCH, CHANNELS, WIDTH, LAYERS, HEADS, CODES = 64, 128, 128, 3, 4, 64
CHANGES = {"speed": 0.25, "noise": 0.1, "gain": 6.0}
RATE = 1e-3  # of fine-tuning and scratch

# A process has one framework, see benchmarks/contrastive.py.
IS_PYTORCH = TRANSFORMERS in sys.argv
if IS_PYTORCH:
    import torch
    import transformers
    from transformers.models.wav2vec2 import modeling_wav2vec2
else:
    import keras

    from ssl_keras.data.augment_audio import AudioAugmentation
    from ssl_keras.data.batches import Batches, epoch_order
    from ssl_keras.data.sources import load
    from ssl_keras.downstream import grids
    from ssl_keras.downstream.table import evaluate
    from ssl_keras.inference import ctc as decoding
    from ssl_keras.objectives import ctc, wav2vec2
    from ssl_keras.training.pretrain import pretrain
    from ssl_keras.training.run import compile_objective


@dataclasses.dataclass(frozen=True)
class Plan:
    """Durations of the parts."""

    rounds: int = 5
    seconds: float = 20.0
    steps: int = 1_000  # of pretraining; seven minutes on one core
    speakers: tuple[str, ...] = SPEAKERS
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    budgets: tuple[int, ...] = (10, 1)
    tuning_steps: int = 150  # of fine-tuning and scratch; with all labels 6 epochs
    clips: tuple[int, ...] = (100,)  # of connected digits
    recognizer_steps: int = 150  # with a hundred clips the validation loss is lowest after a hundred
    recognizer_rate: float = 1e-3


QUICK = Plan(
    rounds=1,
    seconds=2.0,
    steps=20,
    speakers=SPEAKERS[:1],
    seeds=(0,),
    budgets=(1,),
    tuning_steps=5,
    clips=(50,),
    recognizer_steps=5,
)


class Ours:
    """`Wav2Vec2`, through `fit`, on the endless dataset of `Batches`."""

    batch, steps_per_execution = BATCH, 8

    def __init__(self, folder, seed):
        self.seed = seed

    def build(self):
        keras.utils.set_random_seed(self.seed)
        settings = wav2vec2.Settings(
            channels=CHANNELS, width=WIDTH, layers=LAYERS, heads=HEADS, codes=CODES, projection=WIDTH, **CHANGES
        )
        settings, splits = wav2vec2.prepare(settings, load(DATA))
        self.model = wav2vec2.build(settings, splits.train.spec())
        training = dataclasses.replace(
            wav2vec2.DEFAULTS, batch_size=BATCH, steps=10_000, steps_per_execution=self.steps_per_execution
        )
        compile_objective(self.model, training, splits)
        self.batches = Batches(splits.train, BATCH, preprocess=self.model.preprocess)
        return self.model.count_params()

    def steps(self, count):
        self.model.fit(self.batches.dataset(int(self.model.step)), steps_per_epoch=count, verbose=0)


class Transformers:
    """`Wav2Vec2ForPreTraining` on batches that are ready, by a plain loop."""

    batch, steps_per_execution = BATCH, 1

    def __init__(self, folder, seed):
        self.folder, self.seed, self.done = folder, seed, 0

    def build(self):
        torch.manual_seed(self.seed)
        np.random.seed(self.seed)  # its masks are drawn from there
        arrays = np.load(self.folder / "clips.npz")
        self.batches = [(arrays[f"x{i}"], arrays[f"mask{i}"]) for i in range(len(arrays) // 2)]
        self.model = transformers.Wav2Vec2ForPreTraining(
            transformers.Wav2Vec2Config(
                hidden_size=WIDTH,
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                intermediate_size=4 * WIDTH,
                conv_dim=(CHANNELS,) * 4,
                conv_stride=(5, 4, 4, 2),
                conv_kernel=(10, 8, 4, 2),
                num_feat_extract_layers=4,
                num_codevectors_per_group=CODES,
                num_codevector_groups=2,
                codevector_dim=WIDTH,
                proj_codevector_dim=WIDTH,
                num_conv_pos_embeddings=16,
                num_conv_pos_embedding_groups=16,
                mask_time_prob=0.5,
                mask_time_length=5,
                num_negatives=100,
                hidden_dropout=0.0,
                attention_dropout=0.0,
                activation_dropout=0.0,
                feat_proj_dropout=0.0,
                layerdrop=0.0,
                feat_quantizer_dropout=0.0,
            )
        ).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3, weight_decay=0.01, fused=True)
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    def steps(self, count):
        config = self.model.config
        for _ in range(count):
            x, valid = self.batches[self.done % len(self.batches)]
            self.done += 1
            frames = int(self.model._get_feat_extract_output_lengths(x.shape[1]))
            valid_frames = self.model._get_feature_vector_attention_mask(frames, torch.tensor(valid))
            mask = modeling_wav2vec2._compute_mask_indices(
                (len(x), frames), config.mask_time_prob, config.mask_time_length, valid_frames, min_masks=1
            )
            negatives = modeling_wav2vec2._sample_negative_indices((len(x), frames), config.num_negatives, mask)
            outcome = self.model(
                torch.tensor(x),
                attention_mask=torch.tensor(valid),
                mask_time_indices=torch.tensor(mask),
                sampled_negative_indices=torch.tensor(negatives),
            )
            (outcome.loss / int(mask.sum())).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()


KINDS = {OURS: "Ours", TRANSFORMERS: "Transformers"}


def contender(name, folder, seed):
    return globals()[KINDS[name]](folder, seed)


def speed(plan, report, splits, folder, keep):
    part = report.setdefault("speed", {})
    done = part.setdefault("rounds, clips/s", [])
    rounds(HERE, KINDS, plan.rounds, plan.seconds, done, folder, keep, sizes_within=0.03)
    part["clips/s, median"] = medians(done)
    part[f"ours / {TRANSFORMERS}"] = interval([each[OURS] / each[TRANSFORMERS] for each in done])


def pretrained(plan, folder, data, run):
    """The folder of an encoder that has heard the training part of these data."""
    settings = wav2vec2.Settings(frontend="mel", shift=0.05, **CHANGES)
    training = dataclasses.replace(
        wav2vec2.DEFAULTS,
        data=data,
        batch_size=BATCH,
        steps=plan.steps,
        eval_every=max(plan.steps // 10, 1),
        warmup=100,
        report_every=0,
        resume=True,
        run=run,
        runs=runs(plan, folder),
    )
    return pretrain("wav2vec2", settings, training)


def digits(plan, report, splits, folder, keep):
    part = report.setdefault("digits", {})
    folds = part.setdefault("folds", {})
    augmentation = AudioAugmentation(speed=0.2, shift=0.05, noise=0.1)
    grid = grids.Grid((RATE,), (plan.tuning_steps,), (6,), 64, 64, (augmentation,))
    for speaker in plan.speakers:
        if speaker in folds:
            continue
        data = f"{DATA}[*_{speaker}_*]"
        outcome = pretrained(plan, folder, data, f"speech-{speaker}")
        table = evaluate(outcome["folder"], load(data), plan.budgets, plan.seeds, grid=grid)
        rows = {row.rpartition(", ")[2]: columns for row, columns in table.items()}
        folds[speaker] = {"pretraining": {key: outcome[key] for key in ("seconds", "test_loss", "test_codes")}} | rows
        keep()
        print(speaker, report.markdown(table), flush=True)
    rows = [row for row in folds[plan.speakers[0]] if row != "pretraining"]
    part["mean over speakers"] = {
        row: {
            column: float(np.mean([fold[row][column][0] for fold in folds.values()]))
            for column in ("kNN", "all", *(f"{budget} per class" for budget in plan.budgets))
            if column in folds[plan.speakers[0]][row]
        }
        for row in rows
    }


def recognition(plan, report, splits, folder, keep):
    part = report.setdefault("recognition", {})
    for clips in plan.clips:
        for speaker in plan.speakers:
            data = f"{DATA}[*_{speaker}_*]"
            splits = load(f"connected:{data}")
            encoder = pretrained(plan, folder, data, f"speech-{speaker}")["folder"]
            some = splits._replace(train=splits.train.take(np.sort(epoch_order(len(splits.train), 0, 0)[:clips])))
            for start in ("pretrained", "scratch"):
                key = f"{speaker}, {clips} clips, {start}"
                if key in part:
                    continue
                part[key] = recognized(plan, some, runs(plan, folder), key, encoder if start == "pretrained" else None)
                keep()
                print(key, part[key], flush=True)
        for start in ("pretrained", "scratch"):
            found = [part[f"{speaker}, {clips} clips, {start}"]["word error rate"] for speaker in plan.speakers]
            part[f"{clips} clips, {start}, mean word error rate"] = float(np.mean(found))


def recognized(plan, splits, folder, key, init):
    """Words wrong on the test clips."""
    training = dataclasses.replace(
        ctc.DEFAULTS,
        data=splits.train.name,
        steps=plan.recognizer_steps,
        learning_rate=plan.recognizer_rate,
        warmup=50,
        batch_size=32,
        eval_every=max(plan.recognizer_steps // 6, 1),
        report_every=0,
        resume=True,
        init=init,
        run=f"recognizer-{key}".replace(", ", "-").replace(" ", "-"),
        runs=folder,
    )
    settings = ctc.Settings(words=True, frontend="mel", speed=0.15, noise=0.1, gain=6.0)
    return decoding.score(pretrain("ctc", settings, training, data=splits)["folder"], splits.test)


def speakers(plan, report, splits, folder, keep):
    part = report.setdefault("speakers", {})
    if "table" in part:
        return
    outcome = pretrained(plan, folder, DATA, "speech-all")
    splits = type(splits)(*(by_speaker(source) for source in splits))
    part["table"] = evaluate(outcome["folder"], splits, plan.budgets, plan.seeds, trained=False)
    print(report.markdown(part["table"]), flush=True)
    keep()


def by_speaker(source):
    """The same clips, their label who speaks."""
    names = [str(name).rpartition("/")[2].split("_")[1] for name in source.arrays["name"]]
    label = np.array([SPEAKERS.index(name) for name in names], np.int64)
    return dataclasses.replace(source, arrays=source.arrays | {"label": label}, classes=SPEAKERS)


def runs(plan, folder):
    """Returns the folder of the runs; those of `--quick` are temporary."""
    return str(folder / "runs") if plan == QUICK else "runs"


def prepare(folder):
    """The data, and batches of clips where a contender without TensorFlow finds them."""
    splits = load(DATA)
    clips, batches = splits.train.column("waveform"), {}
    # Clips of about one length share a batch, as they do in ours.
    by_length = np.argsort(splits.train.lengths, kind="stable")
    for index, rows in enumerate(by_length[: len(by_length) // BATCH * BATCH].reshape(-1, BATCH)):
        x, lengths = clips[rows], splits.train.lengths[rows]
        x = x[:, : lengths.max()]
        valid = np.arange(x.shape[1]) < lengths[:, None]
        x = np.where(valid, x / 32768.0, 0.0)
        mean = x.sum(1, keepdims=True) / lengths[:, None]
        x = np.where(valid, x - mean, 0.0)
        x /= np.sqrt(np.square(x).sum(1, keepdims=True) / lengths[:, None]) + 1e-4
        batches |= {f"x{index}": x.astype(np.float32), f"mask{index}": valid.astype(np.int64)}
    np.savez(folder / "clips.npz", **batches)
    return splits


PARTS = {"speed": speed, "digits": digits, "recognition": recognition, "speakers": speakers}


if __name__ == "__main__":
    main(sys.modules[__name__], PARTS, Plan(), QUICK, contender, prepare)
