"""What the arguments of a harness's model say: of loading, of runs, of results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from auto_interleaved.options.generation import ALIASES, SIDES, GenerationOptions, make_options
from auto_interleaved.options.spellings import unknown_option
from data.wording import shown

Form = Literal["auto", "text", "json"]

_LOADING = ("base", "dtype", "device", "device_map", "revision", "local_files_only")
_OWN = ("pretrained", "batch_size", "max_batch_size", "output_dir", "results")
# What tasks say of how text is written, by our names. What else they say is of other models.
_OF_TASKS = {
    "max_new_tokens": "max_text_length",
    "do_sample": "do_sample",
    "temperature": "text_temperature",
    "top_p": "top_p",
    "top_k": "top_k",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of a model, checked.

    Attributes:
        pretrained: the checkpoint; None for the bundled one.
        loading: keyword arguments for `AutoInterleavedInferencer.from_pretrained`.
        options: of every run; they go before a task's.
        seed: from which each sample's follows.
        batch_size: samples at a time.
        pictures: the folder that pictures go to.
        results: what a sample's answer is: its text, JSON of text and pictures' paths, or JSON
            where there are pictures (auto).
    """

    pretrained: str | None = None
    loading: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    batch_size: int = 1
    pictures: Path = Path("auto_interleaved_images")
    results: Form = "auto"

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """Read the arguments of a model, as a harness hands them over.

        Numbers of a pair have a colon between them: `image_shape=512:512`, `cfg_interval=0.4:1.0`.

        Raises:
            TypeError: if there is no such argument, or one is of another type.
            ValueError: if one is out of range.
        """
        options = {key: _paired(v) for key, v in given.items() if key not in (*_LOADING, *_OWN)}
        known = [entry.name for entry in fields(GenerationOptions)]
        for key in options:
            if key not in (*known, *ALIASES, *SIDES):
                raise TypeError(unknown_option(key, [*known, *_LOADING, *_OWN]))
        make_options(options)
        results, size = given.get("results", "auto"), given.get("batch_size") or 1
        if results not in get_args(Form):
            raise ValueError(f"results must be one of {get_args(Form)}, got {shown(results)}")
        if isinstance(size, str):  # "auto": what fits is not tried out here
            size = int(size) if size.isdecimal() else given.get("max_batch_size") or 8
        seed = options.pop("seed", None)
        return cls(
            pretrained=given.get("pretrained"),
            loading={key: given[key] for key in _LOADING if given.get(key) is not None},
            options=options,
            seed=0 if seed is None else int(seed),
            batch_size=int(size),
            pictures=Path(given.get("output_dir", "auto_interleaved_images")),
            results=results,
        )

    def options_of(self, of_task: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a sample: the model's, and those of its task beside them.

        Where nothing is drawn at random, what a task says of how is left out; and so are its
        `until`, which lmms-eval sets to a blank line wherever a task says nothing, and what is
        known of other models only.
        """
        said = {ours: of_task[name] for name, ours in _OF_TASKS.items() if name in of_task}
        said = {name: value for name, value in said.items() if value is not None}
        own = {ALIASES.get(name, name): value for name, value in self.options.items()}
        if not said.get("text_temperature", 1):
            said.pop("text_temperature")
            said["do_sample"] = False
        if not own.get("do_sample", said.get("do_sample", False)):
            said = {name: said[name] for name in ("max_text_length",) if name in said}
        return {**said, **own}


def _paired(value: Any) -> Any:
    """Return a pair of numbers, where a value is one with a colon between."""
    if not (isinstance(value, str) and value.count(":") == 1):
        return value
    try:
        return tuple(float(n) if "." in n else int(n) for n in value.split(":"))
    except ValueError:
        return value
