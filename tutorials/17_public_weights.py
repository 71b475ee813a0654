# %% [markdown]
# # 17 Public weights: import, continue pretraining, fine-tune, export
#
# The tutorial's second step of pretraining is to start from a pretrained model. This walk takes a vision
# transformer in the Hugging Face layout, continues pretraining on other images, fine-tunes it, and writes it
# back in the same layout.
#
# The walk makes a small DINOv2 with random weights itself, so that it runs without a download. To use real
# weights, download a folder (`config.json`, `model.safetensors`, `preprocessor_config.json`) and pass it:
#
#     python tutorials/17_public_weights.py                digits, about 2 minutes on 2 cores
#     python tutorials/17_public_weights.py FOLDER         real weights; larger models take much longer
#     python tutorials/17_public_weights.py --smoke        half a minute
#
# What real weights are worth on other images was not measured for this tutorial.

# %%
import dataclasses
import json
import logging
import pathlib
import shutil
import sys

from ssl_keras.startup import start_tensorflow

start_tensorflow()

import keras
import numpy as np

from ssl_keras import encoders, files, pictures
from ssl_keras.data.sources import load
from ssl_keras.downstream import finetune
from ssl_keras.encoders import card as cards
from ssl_keras.encoders import hugging_face, save_encoder
from ssl_keras.networks import Network
from ssl_keras.objectives import masked_autoencoder
from ssl_keras.training.pretrain import pretrain

SMOKE = "--smoke" in sys.argv
FOLDERS = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
NAME = f"17_public_weights{''.join(f'-{pathlib.Path(folder).name}' for folder in FOLDERS)}{'-smoke' * SMOKE}"
OUT = pathlib.Path("results") / NAME
RUNS = {"runs": str(OUT / "runs"), "resume": True, "tensorboard": False}
OUT.mkdir(parents=True, exist_ok=True)
logging.getLogger("absl").setLevel(logging.WARNING)

# %% [markdown]
# ## A checkpoint
#
# DINOv2 has LayerScale and learned positions, and its features are the class token's. The export finds the
# family by these options of the network, so this one is written as a DINOv2.

# %%
keras.utils.set_random_seed(0)  # the same network at every start, so that a stopped run resumes
if FOLDERS:
    checkpoint = pathlib.Path(FOLDERS[0])
else:
    network = Network(
        "vit",
        image_shape=(28, 28, 3),
        width=16 if SMOKE else 64,
        layers=2 if SMOKE else 4,
        patch=7,
        features="class",
        positions="learned",
        layer_scale=1.0,
        mean=(0.485, 0.456, 0.406),
        deviation=(0.229, 0.224, 0.225),
    )
    made, checkpoint = OUT / "made", OUT / "checkpoint"
    for folder in (made, checkpoint):
        shutil.rmtree(folder, ignore_errors=True)
    save_encoder(made, network.build(), spec={"image": ((28, 28, 3), np.uint8)})
    hugging_face.export(str(made), checkpoint)
print(sorted(path.name for path in checkpoint.iterdir()))
print(json.loads((checkpoint / "config.json").read_text())["model_type"])

# %% [markdown]
# ## Import
#
#     ssl-keras import results/17_public_weights/checkpoint --out saved_models/public
#
# Names, shapes and finiteness of all weights are checked, and tensors that are not used are listed. The card
# has the colors and the size that the model wants. The network applies them itself: it takes images in [0, 1]
# of any size.

# %%
public = OUT / "public"
shutil.rmtree(public, ignore_errors=True)
hugging_face.import_encoder(checkpoint, public)
card = cards.read(public)
print({name: card["network"][name] for name in ("width", "layers", "patch", "mean", "deviation", "resize")})
print("not imported:", card["trained_by"]["left over"])

# %% [markdown]
# ## Continue pretraining
#
#     ssl-keras pretrain masked_autoencoder --init public --data digits --image-size 28 --layer-decay 0.75 \
#         --learning-rate 3e-4 --warmup 100 --steps 3000 --batch-size 64 --crop 0.6 --no-flip \
#         --decoder-width 64 --decoder-layers 1
#
# A gray image becomes a color image, since the whole network is taken over. Lower layers get lower rates, the rate
# warms up, and a guard compares the features at the start with those at the end: RankMe, and the kNN
# accuracy where there are labels.

# %%
splits = load("digits", 28)
short = {"steps": 4, "batch_size": 16, "warmup": 1} if SMOKE else {"steps": 3000, "batch_size": 64, "warmup": 100}
decoder = {"decoder_width": 8 if SMOKE else 64, "decoder_layers": 1}
outcome = pretrain(
    "masked_autoencoder",
    masked_autoencoder.Settings(**decoder, crop=0.6, flip=False, layer_decay=0.75),
    dataclasses.replace(
        masked_autoencoder.DEFAULTS,
        **short,
        epochs=0,
        learning_rate=3e-4,
        init=str(public),
        run="continued",
        **RUNS,
    ),
    data=splits,
)
for when in ("start", "end"):
    print(f"{when}: kNN {outcome[f'{when}_knn']:.1%}, RankMe {outcome[f'{when}_rankme']:.1f}")
print("worse than at the start:", outcome["worse_than_start"])

# %% [markdown]
# ## Fine-tune

# %%
tuned = finetune.finetune(
    outcome["folder"],
    finetune.Settings(labels_per_class=10, layer_decay=0.75, encoder_lr_ratio=1.0),
    dataclasses.replace(
        finetune.DEFAULTS, steps=4 if SMOKE else 300, batch_size=64, warmup=1, **RUNS, run="tuned", image_size=28
    ),
    data=splits,
)
print(f"with 10 labels of each class: {tuned['test_accuracy']:.1%}")

# %% [markdown]
# ## Export
#
#     ssl-keras export results/17_public_weights/runs/tuned --hugging-face
#
# The folder has the layout that `transformers` reads: `Dinov2Model.from_pretrained(folder)`.

# %%
back = OUT / "exported"
shutil.rmtree(back, ignore_errors=True)
hugging_face.export(tuned["folder"], back)
again = OUT / "again"
shutil.rmtree(again, ignore_errors=True)
hugging_face.import_encoder(back, again)
image = splits.test.column("image")[:8] / np.float32(255)
image = np.repeat(image, 3, axis=-1)
theirs, ours = encoders.load_encoder(again)(image), encoders.load_encoder(tuned["folder"])(image)
difference = float(np.abs(theirs - ours).max())
print(f"largest difference of the features: {difference:.1e}")
files.write(OUT / "images.png", pictures.png([image]))
sys.exit(0 if difference < 1e-4 else "not as expected: the exported encoder differs")
