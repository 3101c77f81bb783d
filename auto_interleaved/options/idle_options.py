"""Options that are given and have no effect, because another one keeps them from it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

from auto_interleaved.options.generation import GenerationOptions
from data.protocols import Protocol

logger = logging.getLogger("auto_interleaved")

_FULL_EVALUATIONS = 5  # at the beginning of an image, before TaylorSeer extrapolates any


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """What keeps options from having an effect.

    Attributes:
        names: the options.
        holds: whether it does so.
        because: the same in words, for the end of a sentence.
    """

    names: tuple[str, ...]
    holds: Callable[[GenerationOptions], bool]
    because: str


_RULES = (
    _Rule(
        names=("text_temperature", "top_p", "top_k"),
        holds=lambda options: not options.do_sample,
        because="without do_sample=True",
    ),
    _Rule(
        names=("max_think_token_n",),
        holds=lambda options: not options.think,
        because="without think=True",
    ),
    _Rule(
        names=("cfg_interval", "cfg_renorm_min", "cfg_renorm_type"),
        holds=lambda options: options.cfg_text_scale <= 1,
        because="while cfg_text_scale is at most 1",
    ),
    _Rule(
        names=("enable_taylorseer",),
        holds=lambda options: options.num_timesteps <= _FULL_EVALUATIONS + 1,
        because=f"while num_timesteps is at most {_FULL_EVALUATIONS + 1}",
    ),
    _Rule(
        names=("choose",),
        holds=lambda options: options.num_candidates == 1,
        because="while num_candidates is 1",
    ),
    _Rule(
        names=("preview_every",),
        holds=lambda options: options.preview_every >= options.num_timesteps,
        because="while an image has fewer steps, num_timesteps less one",
    ),
)


def warn_of_idle_options(options: GenerationOptions, protocol: Protocol) -> None:
    """Say in the log which options, of those that are not at their defaults, do nothing."""
    for name, because in dict(_idle(options, protocol)).items():
        logger.warning("%s=%.40r has no effect %s", name, getattr(options, name), because)


def without_previews(options: GenerationOptions) -> GenerationOptions:
    """Return options for a run that nobody watches; previews that were asked for are warned of."""
    if not options.preview_every:
        return options
    logger.warning(
        "preview_every=%s has no effect outside of stream(), which alone shows previews",
        options.preview_every,
    )
    return replace(options, preview_every=0)


def _idle(options: GenerationOptions, protocol: Protocol) -> Iterator[tuple[str, str]]:
    defaults = {entry.name: entry.default for entry in fields(options)}
    for rule in _RULES:
        for name in rule.names if rule.holds(options) else ():
            given = getattr(options, name) != defaults[name]
            # Who asks for a temperature of 0 wants the likeliest token, and gets it.
            if given and (name, getattr(options, name)) != ("text_temperature", 0):
                yield name, rule.because
    if options.cfg_text_scale <= 1 < options.cfg_img_scale:
        yield "cfg_img_scale", "while cfg_text_scale is at most 1"
    if None not in (options.max_images, protocol.max_images):
        assert options.max_images is not None
        assert protocol.max_images is not None
        if options.max_images > protocol.max_images:
            yield "max_images", f"beyond the {protocol.max_images} of protocol {protocol.name!r}"
