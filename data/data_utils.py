"""Small conversions of raw input: any picture to RGB, any tokenizer to one with our markers.

What published scripts look for here about patches is in `data.patches`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image

from data.patches import (
    get_flattened_position_ids_extrapolate,
    get_flattened_position_ids_interpolate,
    patchify,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "MARKERS",
    "add_special_tokens",
    "get_flattened_position_ids_extrapolate",
    "get_flattened_position_ids_interpolate",
    "patchify",
    "pil_img2rgb",
    "plain_rgb",
]

MARKERS = {
    "bos_token_id": "<|im_start|>",
    "eos_token_id": "<|im_end|>",
    "start_of_image": "<|vision_start|>",
    "end_of_image": "<|vision_end|>",
}

# What undoes each EXIF orientation; 1 is upright. Pillow's own exif_transpose also writes the EXIF
# block anew, and fails where some other entry of it is damaged.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def pil_img2rgb(image: Image.Image) -> Image.Image:
    """Convert any image to upright RGB, as a viewer would show it on a white page.

    Transparent parts become white. An EXIF orientation is applied. Deep greyscale is scaled to 8
    bits: 16-bit modes by their whole range; 32-bit integers and floats, whose range nothing
    records, by the smallest of 1 (floats only), 255 and 65535 that holds their largest value, else
    by that value. Not-a-number and negative values are black.

    Args:
        image: an image of any mode that Pillow converts; it is left as it was.

    Returns:
        A new image of mode "RGB" with the pixels loaded and no metadata. Converting it again
        changes nothing.

    Raises:
        TypeError: `image` is not a PIL image.
    """
    _require_image(image)
    image.load()  # Pillow turns some files upright here, and then forgets their orientation
    orientation = _orientation(image)
    rgb = _to_rgb(image)
    if orientation in UPRIGHT:
        rgb = rgb.transpose(UPRIGHT[orientation])
    rgb.info = {}  # an orientation or a transparent colour left here would be applied again
    return rgb


def plain_rgb(image: Image.Image) -> Image.Image:
    """Convert any image to RGB as published code does, number for number.

    RGBA and a transparent colour are put on white. Everything else is Pillow's own conversion: an
    alpha channel beside grey is dropped, deep greyscale is cut off at 255, and an EXIF orientation
    is left for nobody to see. See `pil_img2rgb` for what a viewer would show.

    Args:
        image: an image of any mode; it is left as it was.

    Returns:
        A new image of mode "RGB" with the pixels loaded and no metadata.

    Raises:
        TypeError: `image` is not a PIL image.
    """
    _require_image(image)
    image.load()
    if image.mode == "La":  # Pillow converts premultiplied grey to nothing but this
        image = image.convert("LA")
    if image.mode == "RGBA" or image.info.get("transparency") is not None:
        rgb = _on_white(image.convert("RGBA"))
    else:
        rgb = image.convert("RGB")
    rgb.info = {}
    return rgb


def add_special_tokens(
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[PreTrainedTokenizerBase, dict[str, int], int]:
    """Make sure that a tokenizer knows the four markers, and look up their ids.

    Args:
        tokenizer: changed in place where a marker is missing.

    Returns:
        The same tokenizer; the ids under `bos_token_id`, `eos_token_id`, `start_of_image` and
        `end_of_image`; and the number of tokens by which the vocabulary grew.
    """
    size_before = len(tokenizer)
    # A marker that is in the vocabulary without being special is registered as well: its id
    # stays, but only a special token is split by split_special_tokens and skipped in decoding.
    known = set(tokenizer.all_special_tokens)
    missing = [token for token in MARKERS.values() if token not in known]
    if missing:
        # By position: transformers 4 and 5 name the second argument, "replace", differently.
        tokenizer.add_special_tokens({"additional_special_tokens": missing}, False)
    added = tokenizer.get_added_vocab()
    ids = {name: added[token] for name, token in MARKERS.items()}
    return tokenizer, ids, len(tokenizer) - size_before


def _require_image(image: object) -> None:
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"image must be a PIL.Image.Image, got {type(image).__name__}; "
            "open a file with PIL.Image.open, wrap an array with PIL.Image.fromarray"
        )


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, struct.error):
        return None  # a damaged EXIF block is no reason to refuse the picture


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _eight_bit(image).convert("RGB")
    if image.mode == "La":  # Pillow converts premultiplied grey to nothing but this
        image = image.convert("LA")
    if image.mode.lower().endswith("a") or "transparency" in image.info:
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    page = Image.new("RGB", image.size, (255, 255, 255))
    return Image.composite(image.convert("RGB"), page, image.getchannel("A"))


def _eight_bit(image: Image.Image) -> Image.Image:
    samples = np.asarray(image, dtype=np.float64)
    levels = np.nan_to_num(samples * (255 / _full_scale(image.mode, samples)))
    if "transparency" in image.info:
        levels[samples == image.info["transparency"]] = 255
    return Image.fromarray(np.rint(levels.clip(0, 255)).astype(np.uint8))


def _full_scale(mode: str, samples: np.ndarray) -> float:
    if mode.startswith("I;16"):
        return 65535
    peak = samples.max(initial=0, where=np.isfinite(samples))
    usual = (1, 255, 65535) if mode == "F" else (255, 65535)
    return next((scale for scale in usual if peak <= scale), peak)
