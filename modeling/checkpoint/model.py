"""The model that a checkpoint describes: its configuration, its shape, and what must fill it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from accelerate import init_empty_weights
from torch import nn
from torch.overrides import TorchFunctionMode

from modeling.autoencoder import AutoEncoderParams
from modeling.bagel import (
    Bagel,
    BagelConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from modeling.checkpoint.configurations import (
    LLM_CONFIG_FILE,
    VIT_CONFIG_FILE,
    read_llm_config,
    read_vit_config,
)
from modeling.checkpoint.files import BASE_CHECKPOINT, Location, shorten
from modeling.checkpoint.names import TABLES
from modeling.checkpoint.settings import LARGEST_TABLE_SIDE
from modeling.checkpoint.weights import Weights

PUBLISHED_LATENT_PATCH_SIZE = 2
PUBLISHED_MAX_LATENT_SIZE = 64

# What the layers that there are begin with.
_INITIAL_VALUES = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The configurations of what a model is joined from."""

    llm_config: Qwen2Config
    vit_config: SiglipVisionConfig

    @classmethod
    def read(cls, location: Location, weights: Weights) -> Parts:
        """Read both files.

        Args:
            location: where `llm_config.json` and `vit_config.json` are.
            weights: the tensors; their shapes are looked at.

        Raises:
            FileNotFoundError: a configuration is missing.
            ValueError: a configuration is not valid.
        """
        return cls(
            llm_config=read_llm_config(location.file(LLM_CONFIG_FILE), weights),
            vit_config=read_vit_config(location.file(VIT_CONFIG_FILE), weights),
        )


def bagel_config(
    parts: Parts, weights: Weights, vae_config: AutoEncoderParams, settings: Mapping[str, Any]
) -> BagelConfig:
    """Work out how a checkpoint's model is configured.

    What `settings["bagel"]` does not say is read off the tensors, else off the configurations, and
    has the published value where none of them tells.

    Args:
        parts: the configurations of decoder and vision encoder.
        weights: the tensors; their shapes are looked at.
        vae_config: the autoencoder's sizes.
        settings: what `read_settings` returned.
    """
    vit_config = parts.vit_config
    found = {
        "latent_patch_size": _latent_patch_size(weights, vae_config),
        "max_latent_size": _table_side(weights, "latent_pos_embed") or PUBLISHED_MAX_LATENT_SIZE,
        "vit_max_num_patch_per_side": _table_side(weights, "vit_pos_embed")
        or vit_config.image_size // vit_config.patch_size,
    }
    values = {**found, **settings.get("bagel", {})}
    return BagelConfig(
        llm_config=parts.llm_config, vit_config=vit_config, vae_config=vae_config, **values
    )


def _latent_patch_size(weights: Weights, vae_config: AutoEncoderParams) -> int:
    stored = weights.tensors.get("vae2llm.weight")
    whole = stored is not None and len(stored.shape) == 2
    values = stored.shape[-1] / vae_config.z_channels if stored is not None and whole else 0
    side = math.isqrt(int(values))
    return side if side and side**2 == values else PUBLISHED_LATENT_PATCH_SIZE


def _table_side(weights: Weights, name: str) -> int | None:
    stored = weights.tensors.get(f"{name}.pos_embed")
    if stored is None or len(stored.shape) != 2:
        return None
    side = math.isqrt(stored.shape[0])
    # Of another length it is no table; `check_weights` will say so.
    return side if side**2 == stored.shape[0] and side <= LARGEST_TABLE_SIDE else None


def empty_model(config: BagelConfig) -> Bagel:
    """Build a model whose parameters have shapes and no storage; its position tables are real.

    Args:
        config: with all three parts' configurations.
    """
    assert config.llm_config is not None
    assert config.vit_config is not None
    with init_empty_weights(include_buffers=False), _NoInitialValues():
        vit_model = SiglipVisionModel(config.vit_config)
        embeddings = vit_model.vision_model.embeddings
        embeddings.convert_conv2d_to_linear(config.vit_config, meta=True)
        model = Bagel(Qwen2ForCausalLM(config.llm_config), vit_model, config)
    return model.eval()


class _NoInitialValues(TorchFunctionMode):
    """Leaves out what would be drawn for weights without storage, at the price of a compiler.

    PyTorch looks up how to draw for them in what imports its compiler: half of a small load's time.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in _INITIAL_VALUES:
            return kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def check_weights(model: Bagel, weights: Weights) -> None:
    """Compare the tensors of a checkpoint with those that the model has.

    The position tables may be absent: they are computed.

    Raises:
        ValueError: tensors are missing or unexpected, have the wrong shape, or a dtype that cannot
            be loaded; the message lists them and says what to do.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    stored = weights.tensors
    shared = sorted(expected.keys() & stored.keys())
    wrong = [
        f"{weights.place(name)}: found {stored[name].shape}, expected {expected[name]}"
        for name in shared
        if stored[name].shape != expected[name]
    ]
    strange = [
        f"{weights.place(name)}: {stored[name].dtype}"
        for name in shared
        if not stored[name].loadable
    ]
    missing = expected.keys() - stored.keys() - set(TABLES)
    unexpected = stored.keys() - expected.keys()
    faults = [
        ("are missing", _grouped(missing, whole=stored), _advice_on_missing(missing)),
        ("are not the model's", _grouped(unexpected, whole=expected), _ADVICE_ON_UNEXPECTED),
        ("have the wrong shape", shorten(wrong), _ADVICE_ON_SHAPES),
        ("are of a dtype that cannot be loaded", shorten(strange), _ADVICE_ON_DTYPES),
    ]
    said = [f"tensors that {what}: {names} ({advice})" for what, names, advice in faults if names]
    if said:
        raise ValueError(f"{weights.source} does not fit its model. " + ". ".join(said))


_ADVICE_ON_UNEXPECTED = "give the file of the whole model, without optimizer states"
_ADVICE_ON_SHAPES = (
    f"{LLM_CONFIG_FILE}, {VIT_CONFIG_FILE}, ae.safetensors or the settings belong to another model"
)
_ADVICE_ON_DTYPES = "use the bfloat16 or float32 file, and quantise it while loading"


def _advice_on_missing(missing: Iterable[str]) -> str:
    if any(name.startswith("vit_model.") for name in missing):
        return (
            "training may leave the vision encoder out of its files; take these tensors from the "
            f'base checkpoint: base="{BASE_CHECKPOINT}", or its directory'
        )
    return (
        "name the checkpoint that was trained on as base=, to take them from there, such as "
        f'base="{BASE_CHECKPOINT}"'
    )


def _grouped(names: Iterable[str], *, whole: Iterable[str]) -> str:
    """List names; of a part of which the other side has nothing at all, only the number."""
    present = {name.split(".")[0] for name in whole}
    parts: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        parts[name.split(".")[0]].append(name)
    items: list[str] = []
    for part, members in parts.items():
        collapsed = part not in present and len(members) > 1
        items += [f"{part}.* ({len(members)} tensors)"] if collapsed else members
    return shorten(items)
