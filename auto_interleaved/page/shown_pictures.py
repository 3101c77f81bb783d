"""Pictures that a tab shows: by URLs that nobody guesses, for as long as the tab is there."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from PIL import Image


@dataclass(eq=False)
class ShownPictures:
    """The pictures of one tab, each under one name.

    Attributes:
        base: what their URLs begin with.
    """

    base: str
    _names: dict[int, str] = field(default_factory=dict)
    _kept: dict[str, Image.Image] = field(default_factory=dict)

    def url(self, image: Image.Image) -> str:
        """Return the URL of a picture."""
        # The picture is kept: an id is unique only among living objects.
        if id(image) not in self._names:
            self._names[id(image)] = name = secrets.token_urlsafe(16)
            self._kept[name] = image
        return f"{self.base}/{self._names[id(image)]}.png"

    def find(self, name: str) -> Image.Image | None:
        """Return the picture of a name; None if there is none."""
        return self._kept.get(name)
