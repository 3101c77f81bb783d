"""Start a BAGEL checkpoint the way published scripts do, one explicit step after another.

`AutoInterleavedInferencer.from_pretrained` does all of this in one call. The long way is here for
those who have such a script already, or who want a say in one of the steps:

    python examples/published_startup.py BAGEL-7B-MoT text-to-image "a red bicycle in the snow"
    python examples/published_startup.py BAGEL-7B-MoT think "a car made of small cars"
    python examples/published_startup.py BAGEL-7B-MoT edit "make it night" --image street.jpg
    python examples/published_startup.py BAGEL-7B-MoT understand "what is funny here?" --image x.jpg
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import infer_auto_device_map, init_empty_weights, load_checkpoint_and_dispatch
from accelerate.utils import BnbQuantizationConfig, load_and_quantize_model
from PIL import Image

# Run as a script, Python looks for modules beside the script; the library is one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.data_utils import add_special_tokens, pil_img2rgb
from data.transforms import ImageTransform
from inferencer import InterleaveInferencer
from modeling.autoencoder import AutoEncoder, load_ae
from modeling.bagel import (
    Bagel,
    BagelConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from modeling.qwen2 import Qwen2Tokenizer

# What each mode asks of `interleave_inference`.
MODES = {
    "text-to-image": {},
    "think": {"think": True},
    "edit": {"cfg_img_scale": 2.0, "cfg_interval": (0.0, 1.0), "cfg_renorm_type": "text_channel"},
    "understand": {"understanding_output": True},
}

# Published scripts keep these where text enters: what they give is added up or joined.
ENTRANCE = "language_model.model.embed_tokens"
BESIDE_ENTRANCE = (
    "time_embedder",
    "latent_pos_embed",
    "vae2llm",
    "llm2vae",
    "connector",
    "vit_pos_embed",
)


def build_model(options: argparse.Namespace) -> tuple[Bagel, AutoEncoder]:
    """Build the model without storage, and read the autoencoder."""
    directory = Path(options.checkpoint)
    llm_config = Qwen2Config.from_json_file(directory / "llm_config.json")
    llm_config.qk_norm = True
    llm_config.tie_word_embeddings = False
    llm_config.layer_module = "Qwen2MoTDecoderLayer"

    vit_config = SiglipVisionConfig.from_json_file(directory / "vit_config.json")
    vit_config.rope = False
    vit_config.num_hidden_layers -= 1  # the file counts one layer more than was ever used

    # Outside the block below, which would drop the autoencoder's weights.
    vae_model, vae_config = load_ae(local_path=directory / "ae.safetensors")

    config = BagelConfig(
        visual_gen=True,
        visual_und=True,
        llm_config=llm_config,
        vit_config=vit_config,
        vae_config=vae_config,
        latent_patch_size=2,
        max_latent_size=options.max_latent_size,
        vit_max_num_patch_per_side=options.vit_max_num_patch_per_side,
        connector_act="gelu_pytorch_tanh",
    )
    with init_empty_weights():
        language_model = Qwen2ForCausalLM(llm_config)
        vit_model = SiglipVisionModel(vit_config)
        model = Bagel(language_model, vit_model, config)
        # Checkpoints store the patch embedding as a linear layer.
        model.vit_model.vision_model.embeddings.convert_conv2d_to_linear(vit_config, meta=True)
    return model, vae_model


def choose_devices(model: Bagel, options: argparse.Namespace) -> dict[str, int | str]:
    """Spread the model over all GPUs, or leave it on the CPU; what does not fit goes to disk."""
    devices = list(range(torch.cuda.device_count())) or ["cpu"]
    device_map = infer_auto_device_map(
        model,
        max_memory={device: options.max_memory for device in devices},
        no_split_module_classes=["Bagel", "Qwen2MoTDecoderLayer"],
        dtype=options.dtype,
    )
    if "" in device_map:  # one entry, because everything fits on one device
        return device_map
    entrance = next(device for name, device in device_map.items() if ENTRANCE.startswith(name))
    others = {n: device for n, device in device_map.items() if not n.startswith(BESIDE_ENTRANCE)}
    return {**others, **dict.fromkeys(BESIDE_ENTRANCE, entrance)}


def fill_model(model: Bagel, options: argparse.Namespace) -> Bagel:
    """Read the weights into the model, as they are or quantised on the way."""
    weights = str(Path(options.checkpoint) / "ema.safetensors")
    device_map = choose_devices(model, options)
    if options.quantize is not None:
        return load_and_quantize_model(
            model,
            weights_location=weights,
            bnb_quantization_config=quantization(options),
            device_map=device_map,
            offload_folder=options.offload_folder,
        ).eval()
    return load_checkpoint_and_dispatch(
        model,
        checkpoint=weights,
        device_map=device_map,
        offload_folder=options.offload_folder,
        offload_buffers=True,
        dtype=options.dtype,
        force_hooks=True,
    ).eval()


def quantization(options: argparse.Namespace) -> BnbQuantizationConfig:
    """Describe 4 or 8 bits a weight; both need bitsandbytes and a GPU."""
    if options.quantize == "int8":
        return BnbQuantizationConfig(load_in_8bit=True, torch_dtype=options.dtype)
    return BnbQuantizationConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=False,
        bnb_4bit_compute_dtype=options.dtype,
        torch_dtype=options.dtype,
    )


def start(options: argparse.Namespace) -> InterleaveInferencer:
    """Go through the whole start-up."""
    model, vae_model = build_model(options)
    tokenizer = Qwen2Tokenizer.from_pretrained(options.checkpoint)
    tokenizer, new_token_ids, _ = add_special_tokens(tokenizer)
    model = fill_model(model, options)
    return InterleaveInferencer(
        model=model,
        vae_model=vae_model.to(model.device),
        tokenizer=tokenizer,
        vae_transform=ImageTransform(*options.vae_transform),
        vit_transform=ImageTransform(*options.vit_transform),
        new_token_ids=new_token_ids,
    )


def answer(
    inferencer: InterleaveInferencer, options: argparse.Namespace
) -> list[str | Image.Image]:
    """Ask for what the mode says."""
    torch.manual_seed(options.seed)
    inputs: list[str | Image.Image] = [pil_img2rgb(Image.open(path)) for path in options.image]
    return inferencer.interleave_inference(
        [*inputs, options.prompt],
        max_think_token_n=options.max_think_token_n,
        num_timesteps=options.num_timesteps,
        image_shapes=tuple(options.image_shape),
        **MODES[options.mode],
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the defaults fit the published checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="directory with ema.safetensors and its companions")
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("prompt")
    parser.add_argument("--image", action="append", default=[], help="an image to read")
    parser.add_argument("--output", default="image.png", help="where a drawn image goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-timesteps", type=int, default=50)
    parser.add_argument("--max-think-token-n", type=int, default=1000)
    parser.add_argument("--image-shape", type=int, nargs=2, default=(1024, 1024), metavar="SIDE")
    placing = parser.add_argument_group("placing the model")
    placing.add_argument("--dtype", type=dtype, default=torch.bfloat16)
    placing.add_argument("--max-memory", default="80GiB", help="of each GPU, or of the CPU")
    placing.add_argument("--offload-folder", default="offload", help="for what does not fit")
    placing.add_argument("--quantize", choices=("nf4", "int8"))
    sizes = parser.add_argument_group("sizes of the checkpoint")
    sizes.add_argument("--max-latent-size", type=int, default=64)
    sizes.add_argument("--vit-max-num-patch-per-side", type=int, default=70)
    sizes.add_argument("--vae-transform", type=int, nargs=3, default=(1024, 512, 16))
    sizes.add_argument("--vit-transform", type=int, nargs=3, default=(980, 224, 14))
    return parser.parse_args(arguments)


def dtype(name: str) -> torch.dtype:
    """Turn "bfloat16", "float16" or "float32" into torch's dtype."""
    return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[name]


def main(arguments: Sequence[str] | None = None) -> None:
    """Start, ask, print the text and save the image."""
    options = parse(arguments)
    for item in answer(start(options), options):
        if isinstance(item, str):
            print(item)
        else:
            item.save(options.output)
            print(f"saved {options.output}")


if __name__ == "__main__":
    main()
