"""The options at hand on the page, made from the fields of `GenerationOptions`.

They are told of in the words of the command line's help.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import gradio as gr

from auto_interleaved.options.generation import SIDES, GenerationOptions
from auto_interleaved.terminal.help_texts import OPTIONS, describe_protocols
from data.protocols import PROTOCOLS

# In the order of the page, by the heading that they stand under.
AT_HAND = {
    "Options": (
        *("protocol", "think", "num_timesteps", "cfg_text_scale", "cfg_img_scale"),
        *("image_shape", "seed"),
    ),
    "More": (
        *("max_images", "num_candidates", "image_memory"),
        *("do_sample", "text_temperature", "max_text_length"),
    ),
}
_SLIDERS = {
    "num_timesteps": (2, 100, 1),
    "cfg_text_scale": (1.0, 10.0, 0.1),
    "cfg_img_scale": (1.0, 5.0, 0.1),
    "text_temperature": (0.05, 2.0, 0.05),
}
_HELP = {name: text for texts in OPTIONS.values() for name, text in texts.items()}


class Controls:
    """Components for options; `components` are the inputs whose values `options` takes.

    Args:
        image_shape: (height, width) of pictures where nothing is said.
    """

    def __init__(self, image_shape: tuple[int, int]) -> None:
        self._entries = {entry.name: entry for entry in fields(GenerationOptions)}
        self._types = get_type_hints(GenerationOptions)
        self._shape = image_shape
        self.names: list[str] = []
        self.components: list[Any] = []
        self._typed: set[str] = set()

    def lay_out(self) -> None:
        """Make the components, where gradio is at."""
        for place, (heading, names) in enumerate(AT_HAND.items()):
            with gr.Accordion(heading, open=place == 0):
                for name in names:
                    self._add(name)
        with gr.Accordion("list_protocols", open=False):
            gr.Textbox(describe_protocols(), show_label=False, lines=8, elem_classes="protocols")

    def options(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return the options that the components' values are, without those left empty."""
        given = {}
        for name, value in zip(self.names, values, strict=True):
            value = _read(value) if name in self._typed else value
            if value is not None and value != "":
                given[name] = value
        return given

    def _add(self, name: str) -> None:
        if name != "image_shape":
            self._keep(name, self._component(name))
            return
        gr.HTML(f'<p class="quiet">{on_page(_HELP[name])}</p>')
        with gr.Row():
            for side, length in zip(SIDES, self._shape, strict=True):
                self._keep(side, self._box(side, None, f"{length}"))

    def _keep(self, name: str, component: Any) -> None:
        self.names.append(name)
        self.components.append(component)

    def _component(self, name: str) -> Any:
        default: Any = self._entries[name].default
        kind = self._types[name]
        said: dict[str, Any] = {"label": name, "info": on_page(_HELP[name])}
        if name == "protocol":
            choices = [("the checkpoint's own", ""), *((preset, preset) for preset in PROTOCOLS)]
            return gr.Dropdown(choices, value="", **said)
        if kind is bool:
            return gr.Checkbox(default, **said)
        if get_origin(kind) is Literal:
            return gr.Dropdown(list(get_args(kind)), value=default, **said)
        if name in _SLIDERS:
            low, high, step = _SLIDERS[name]
            return gr.Slider(low, high, default, step=step, **said)
        return self._box(name, said["info"], "" if default is None else str(default))

    def _box(self, name: str, info: str | None, default: str) -> Any:
        """Return a box for a number; what is left empty is not given."""
        # No gr.Number: it shows 0 where nothing is, and rounds a seed of 64 bits.
        self._typed.add(name)
        return gr.Textbox("", label=name, info=info, placeholder=default, max_lines=1, min_width=90)


def _read(text: str) -> int | str:
    """Read a whole number; what is none is left to the library to say something about."""
    text = text.strip()
    return int(text) if text.removeprefix("-").isdecimal() else text


def on_page(text: str) -> str:
    """Put a help text of the command line into the page's words: `--do-sample` is `do_sample`."""
    return re.sub(r"--([a-z-]+)", lambda flag: flag[1].replace("-", "_"), text)
