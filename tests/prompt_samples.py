"""What the tests of prompts share: a picture in every form, messages, and parts as plain values."""

import base64
import io

import numpy as np
from PIL import Image

from data.prompts import ImageInput, ImageRequest, TextInput, parse_prompt

START, END = "<|vision_start|>", "<|vision_end|>"


def sample_image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, file_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def in_base64(image: Image.Image, file_format: str = "PNG") -> str:
    return base64.b64encode(encoded(image, file_format)).decode()


def data_url(image: Image.Image) -> str:
    return "data:image/png;base64," + in_base64(image)


def message(*content, role="user"):
    return {"role": role, "content": list(content)}


def described(parts):
    """Parts as plain values: texts as strings, images as their pixels, requests as None."""
    plain = {
        TextInput: lambda part: part.text,
        ImageInput: lambda part: part.image.tobytes(),
        ImageRequest: lambda part: None,
    }
    return [plain[type(part)](part) for part in parts]


def read(prompt, **options):
    return described(parse_prompt(prompt, **options))
