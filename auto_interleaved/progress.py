"""Progress bars over images and their steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm


class Progress:
    """Bars of one run.

    Args:
        config: keyword arguments for every tqdm bar, such as `disable=True`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = dict(config)
        self._images: tqdm | None = None

    @contextmanager
    def image(self, index: int, num_steps: int) -> Iterator[tqdm]:
        """Open the bar of one image's steps; the bar of images appears with the first."""
        if self._images is None:
            self._images = tqdm(
                **{"desc": "images", "unit": "image", "position": 0, **self._config}
            )
        own = {"desc": f"image {index + 1}", "unit": "step", "position": 1, "leave": False}
        with tqdm(**{**own, **self._config, "total": num_steps}) as steps:
            yield steps
        self._images.update()

    def close(self) -> None:
        """Close what is still open."""
        if self._images is not None:
            self._images.close()
