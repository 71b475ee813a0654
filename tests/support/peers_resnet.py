"""Makes the residual networks in tests/support/checkpoints: small models of `transformers` with random weights.

    python tests/support/peers_resnet.py [NAME …]     needs requirements-bench.txt; `make test` only reads the result

Each folder is a checkpoint in the Hugging Face layout, with `expected.safetensors` beside it: images in [0, 1] of the
model's size and of another one with odd sides, and the output of each stage and the pooler for both.
"""

import json
import pathlib
import sys

import numpy as np
import safetensors.numpy
import torch
import transformers

from ssl_keras.encoders.vision_configs import IMAGENET

OUT = pathlib.Path(__file__).with_name("checkpoints")
NATIVE, OTHER = (48, 48), (42, 67)
SMALL = {"embedding_size": 2}
OF = {
    "resnet18": {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [2, 4, 8, 16]},
    "resnet50": {"layer_type": "bottleneck", "depths": [3, 4, 6, 3], "hidden_sizes": [8, 16, 32, 64]},
}


def model(name):
    """A model whose every weight and statistic is random."""
    torch.manual_seed(0)
    made = transformers.ResNetModel(transformers.ResNetConfig(**SMALL | OF[name]))
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data += 0.2 * torch.randn_like(module.weight)
            module.bias.data += 0.2 * torch.randn_like(module.bias)
            module.running_mean.data += 0.2 * torch.randn_like(module.running_mean)
            module.running_var.data *= 0.5 + torch.rand_like(module.running_var)
    return made.eval()


def expected(made):
    """Images, and what the model computes of them."""
    random = np.random.default_rng(0)
    mean, deviation = map(np.array, IMAGENET)
    found = {}
    for name, sides in (("native", NATIVE), ("other", OTHER)):
        image = random.random((1, *sides, 3)).astype(np.float32)
        x = torch.tensor(((image - mean) / deviation).transpose(0, 3, 1, 2), dtype=torch.float32)
        with torch.no_grad():
            out = made(x, output_hidden_states=True)
        found |= {f"image_{name}": image, f"pooled_{name}": out.pooler_output.numpy()[..., 0, 0]}
        for index, states in enumerate(out.hidden_states[1:]):  # without the stem's
            found[f"stage_{index}_{name}"] = states.numpy().transpose(0, 2, 3, 1)
    return found


def make(name, folder):
    made = model(name)
    made.save_pretrained(folder)
    mean, deviation = IMAGENET
    preprocessor = {"image_mean": mean, "image_std": deviation, "do_resize": True, "size": {"shortest_edge": NATIVE[0]}}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    safetensors.numpy.save_file(
        {key: np.ascontiguousarray(value) for key, value in expected(made).items()}, folder / "expected.safetensors"
    )


if __name__ == "__main__":
    for name in sys.argv[1:] or OF:
        make(name, OUT / name)
