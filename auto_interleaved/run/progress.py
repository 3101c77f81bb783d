"""The bars of one run, over images and their steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modeling.progress import Bar, in_notebook


class Progress:
    """Bars of one run.

    In a notebook there is one at a time, which replaces itself in a single output and leaves
    nothing: a saved notebook would keep every line of every bar.

    Args:
        config: keyword arguments for every tqdm bar, such as `disable=True`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        notebook = in_notebook(config)
        self._config = {**notebook, **config}
        self._images: Bar | None = None
        self._one_at_a_time = bool(notebook)

    def image(self, index: int, num_steps: int) -> Bar:
        """Open the bar of one image's steps; the bar of images appears with the first."""
        own = {"desc": f"image {index + 1}", "unit": "step", "leave": False}
        own["position"] = 0 if self._one_at_a_time else 1
        if self._images is None and not self._one_at_a_time:
            images = {"desc": "images", "unit": "image", "position": 0}
            self._images = Bar(**{**images, **self._config})
        return Bar(**{**own, **self._config, "total": num_steps})

    def image_done(self) -> None:
        """Count an image."""
        if self._images is not None:
            self._images.update()

    def close(self) -> None:
        """Close what is still open."""
        if self._images is not None:
            self._images.close()
