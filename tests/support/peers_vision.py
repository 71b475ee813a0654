"""Makes the vision transformers in tests/checkpoints: small models of `transformers` with random weights.

    python tests/support/peers_vision.py [FAMILY …]     needs requirements-bench.txt; `make test` only reads the result

Each folder is a checkpoint in the Hugging Face layout, with `expected.safetensors` beside it: images in [0, 1] of the
model's size and of another one, and the last hidden states after the norm of both. A ViTMAE also has the noise that
gives its mask, its states of visible patches, and its loss with and without normalized pixels.
"""

import json
import pathlib
import sys

import numpy as np
import safetensors.numpy
import torch
import transformers
from transformers.models.vit_mae import modeling_vit_mae

from ssl_keras.encoders.vision_layouts import FAMILIES

OUT = pathlib.Path(__file__).with_name("checkpoints")
NATIVE, OTHER = (20, 20), (28, 12)  # patches of 4 pixels: 5×5 and 7×3
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 20, "patch_size": 4}
DECODER = {
    "decoder_hidden_size": 8,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 12,
}
OF = {  # family: (config, model, options)
    "dinov2": ("Dinov2Config", "Dinov2Model", {}),
    "dinov2_with_registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", {"num_register_tokens": 3}),
    "vit_mae": ("ViTMAEConfig", "ViTMAEForPreTraining", DECODER | {"intermediate_size": 24}),
    "vit": ("ViTConfig", "ViTModel", {"intermediate_size": 24}),
    "deit": ("DeiTConfig", "DeiTModel", {"intermediate_size": 24}),
    "siglip_vision_model": ("SiglipVisionConfig", "SiglipVisionModel", {"intermediate_size": 24}),
    "clip_vision_model": ("CLIPVisionConfig", "CLIPVisionModel", {"intermediate_size": 24}),
}


def model(family, **options):
    """A model whose every trained weight is random, norms and biases too."""
    torch.manual_seed(0)
    config, network, own = OF[family]
    made = getattr(transformers, network)(getattr(transformers, config)(**SMALL | own | options))
    for parameter in made.parameters():
        if parameter.requires_grad:  # sine positions are not trained
            parameter.data += 0.2 * torch.randn_like(parameter)
    if family == "vit_mae":  # transformers 5.23 leaves them 0 in a model that is made from a config
        for places in (made.vit.embeddings.position_embeddings, made.decoder.decoder_pos_embed):
            side = SMALL["image_size"] // SMALL["patch_size"]
            rows_first = modeling_vit_mae.build_2d_sinusoidal_position_embedding(
                side, side, places.shape[-1], cls_token=True
            )
            places.data = torch.cat(rows_first.chunk(2, -1)[::-1], -1)[None]  # as their `initialize_weights` does
    return made.eval()


def normalized(family, image):
    """Images (B, H, W, 3) in [0, 1] as the model takes them, (B, 3, H, W)."""
    mean, deviation = FAMILIES[family].colors
    return torch.tensor(((image - np.array(mean)) / np.array(deviation)).transpose(0, 3, 1, 2), dtype=torch.float32)


def hidden(family, made, image):
    """The last hidden states (B, T, D) of all patches, after the norm."""
    x = normalized(family, image)
    with torch.no_grad():
        if family.startswith("dinov2"):
            return made(x).last_hidden_state.numpy()
        if family == "vit_mae":
            network = getattr(made, "vit", made)
            patches = x.shape[2] * x.shape[3] // 16
            network.config.mask_ratio = 0.0
            noise = torch.arange(patches, dtype=torch.float32)[None].repeat(len(x), 1)
            states = network(x, noise=noise, interpolate_pos_encoding=True).last_hidden_state
            network.config.mask_ratio = 0.75
            return states.numpy()
        states = made(x, interpolate_pos_encoding=True).last_hidden_state
        if family == "clip_vision_model":  # whose own output norms the class token alone
            states = getattr(made, "vision_model", made).post_layernorm(states)
        return states.numpy()


def reconstruction(made, image, noise):
    """A ViTMAE's states of visible patches, predictions, and its loss without and with normalized pixels."""
    found = {}
    with torch.no_grad():
        for normalize in (False, True):
            made.config.norm_pix_loss = normalize
            out = made(normalized("vit_mae", image), noise=torch.tensor(noise), output_hidden_states=True)
            found[f"loss_{normalize}".lower()] = np.float32(out.loss)[None]
        found["predicted"] = out.logits.numpy()
        found["visible"] = made.vit(normalized("vit_mae", image), noise=torch.tensor(noise)).last_hidden_state.numpy()
    made.config.norm_pix_loss = False
    return found


def expected(family, made):
    """Images, and what the model computes of them."""
    random = np.random.default_rng(0)
    found = {}
    for name, sides in (("native", NATIVE), ("other", OTHER)):
        image = random.random((2, *sides, 3)).astype(np.float32)
        found |= {f"image_{name}": image, f"hidden_{name}": hidden(family, made, image)}
    if family == "siglip_vision_model":
        with torch.no_grad():
            found["pooled"] = made(normalized(family, found["image_native"])).pooler_output.numpy()
    if family == "vit_mae":
        noise = random.random((2, 25)).astype(np.float32)
        found |= {"noise": noise} | reconstruction(made, found["image_native"], noise)
    return found


def make(family, folder):
    made = model(family)
    made.save_pretrained(folder)
    mean, deviation = FAMILIES[family].colors
    preprocessor = {"image_mean": list(mean) * (3 // len(mean)), "image_std": list(deviation) * (3 // len(deviation))}
    preprocessor |= {"do_resize": True, "size": {"height": 20, "width": 20}}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(value) for name, value in expected(family, made).items()},
        folder / "expected.safetensors",
    )


if __name__ == "__main__":
    for family in sys.argv[1:] or OF:
        make(family, OUT / family)
