"""Images that a prompt asks for and that need not see one another: where each is to stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from auto_interleaved.options.sizes import Size
from auto_interleaved.run.asks import EncodeImage, Work, ask
from auto_interleaved.run.contexts import Reader, ReadImage
from auto_interleaved.run.piece import Place
from data.data_utils import pil_img2rgb
from data.prompts import ImageInput, PromptPart, TextInput
from data.transforms import ImageTransform

# What an image of the caller's is read as.
ReadInput = Callable[[ImageInput], Work[ReadImage]]

# Where an image that was to stand in a place stands after one of the caller's, by that one's size.
Fitted = Callable[[Place, Size], Place]


class Inputs:
    """The caller's images, each encoded once, however often it is read.

    Args:
        vae_transform: what makes an image as large as it is read.
    """

    def __init__(self, vae_transform: ImageTransform) -> None:
        self._resize = vae_transform.resize_transform
        self._encoded: dict[int, ReadImage] = {}

    def encoded(self, part: ImageInput) -> Work[ReadImage]:
        """Return what an image is read as, and keep it for the next time."""
        if id(part) not in self._encoded:
            picture = self._resize(pil_img2rgb(part.image))
            latent, grid = yield from ask(EncodeImage(picture=picture))
            image = ReadImage(picture=picture, latent=latent, grid=grid, drawn=False)
            self._encoded[id(part)] = image
        return self._encoded[id(part)]

    def last(self, part: ImageInput) -> Work[ReadImage]:
        """Return the same, for the last time."""
        image = yield from self.encoded(part)
        del self._encoded[id(part)]
        return image


def find_places(  # noqa: PLR0913 - what is read, by what, and how it is to be taken
    first: Place,
    parts: Sequence[PromptPart],
    *,
    reader: Reader,
    ids_of: Callable[[PromptPart], Sequence[int]],
    read: ReadInput,
    fitted: Fitted,
    room: float,
) -> Work[list[Place]]:
    """Read the rest of a prompt as if nothing were drawn, and return where it asks for images.

    What is read lives as long as the places.

    Args:
        first: where an image would stand before all of it.
        parts: the rest of the prompt.
        reader: of the run.
        ids_of: returns a text's ids, bos and eos included.
        read: returns what an image of the caller's is read as.
        fitted: returns a place after such an image.
        room: places at most.
    """
    place, places = first, list[Place]()
    for part in parts:
        if isinstance(part, TextInput):
            contexts = yield from reader.read_text(place.contexts, ids_of(part))
            place = replace(place, contexts=contexts, text=part.text.strip() or place.text)
        elif isinstance(part, ImageInput):
            image = yield from read(part)
            contexts = yield from reader.see(place.contexts, image)
            place = fitted(replace(place, contexts=contexts), part.image.size)
        elif len(places) < room:
            places.append(place)
        else:
            break
    return places
