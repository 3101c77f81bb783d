"""Text and pictures in one go: the model writes, decides to draw, sees what it drew, writes on."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import torch

from auto_interleaved.drivers.direct import Direct
from auto_interleaved.drivers.many import MAX_BATCH_SIZE, Many
from auto_interleaved.drivers.peers import Peers
from auto_interleaved.drivers.spread import Spread, warn_of_batch
from auto_interleaved.options.generation import GenerationOptions, make_options
from auto_interleaved.options.idle_options import without_previews
from auto_interleaved.run.prepared import Prepared, prepare
from auto_interleaved.run.record import GenerationError, RunRecord
from auto_interleaved.run.standing import Standing
from auto_interleaved.sessions.session import Session, new_session, output_of
from auto_interleaved.sessions.session_files import load_session
from auto_interleaved.sessions.turns import Begun
from auto_interleaved.terminal.command_line import run as run_command_line
from data.output import InterleavedOutput
from data.output.events import Event
from data.prompts import Prompt
from data.protocols import Protocol, find_protocol
from data.understanding import Understanding
from inferencer import InterleaveInferencer
from modeling.checkpoint import BUNDLED_MODEL, load_checkpoint
from modeling.checkpoint.adapters import adapter_names, merge_adapters, set_adapters
from modeling.checks import number

__all__ = ["AutoInterleavedInferencer", "GenerationError", "InterleavedOutput", "Protocol"]

_timeout = number(above=0, maximum=10**7)


class AutoInterleavedInferencer(InterleaveInferencer):
    """Writes texts and draws pictures in one run, deciding when to do which.

    It takes what `InterleaveInferencer` takes and does what that does besides.

    Args:
        *arguments: model, vae_model, tokenizer, vae_transform, vit_transform, new_token_ids.
        protocol: how this checkpoint asks for pictures, by preset name or as a `Protocol`.
        image_shape: (height, width) of pictures where a run does not say; None: 1024 x 1024, or
            the largest square that the model's position table holds.

    Attributes:
        understanding: how the model is asked whether a picture shows a text.
        last_output: what the last run made, or has made so far; None before its first event.

    Raises:
        TypeError: if one of the named arguments is of a wrong type.
        ValueError: if there is no such protocol, or the model draws no pictures of that size.
    """

    understanding = Understanding()

    def __init__(
        self,
        *arguments: Any,
        protocol: str | Protocol = "native",
        image_shape: tuple[int, int] | None = None,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        self.protocol = protocol
        if image_shape is not None:
            self.image_shape = image_shape
        self._last: RunRecord | None = None
        self._many: Many | None = None
        self._peers: Peers | None = None

    @property
    def protocol(self) -> Protocol:
        """How the checkpoint asks for pictures; may be set, also by a preset's name."""
        return self._protocol

    @protocol.setter
    def protocol(self, protocol: str | Protocol) -> None:
        self._protocol = find_protocol(protocol)

    @property
    def last_output(self) -> InterleavedOutput | None:
        """What the last run has made, as far as it has come; None before its first event.

        It is a run's from the call on that asks for it. While the run is under way, each look
        gives what exists by then.
        """
        return None if self._last is None else self._last.so_far()

    @classmethod
    def from_pretrained(
        cls,
        pretrained: str | PathLike[str] = BUNDLED_MODEL,
        *,
        protocol: str | Protocol | None = None,
        **loading: Any,
    ) -> AutoInterleavedInferencer:
        """Load a checkpoint.

        Args:
            pretrained: a directory or a hub id; by default the small picture-book model that comes
                with the library.
            protocol: how it asks for pictures; None: what the settings file beside the weights
                names, "bagel" for the published weights wherever they lie, else "native".
            **loading: see `modeling.checkpoint.load_checkpoint`.
        """
        known = None if protocol is None else find_protocol(protocol)  # before anything is read
        checkpoint = load_checkpoint(pretrained, **loading)
        shape = checkpoint.settings.get("image_shape")
        made = cls(
            checkpoint.model,
            checkpoint.vae_model,
            checkpoint.tokenizer,
            checkpoint.vae_transform,
            checkpoint.vit_transform,
            checkpoint.new_token_ids,
            protocol=known or checkpoint.protocol,
            image_shape=None if shape is None else (shape[0], shape[1]),
        )
        made.understanding = Understanding.of(checkpoint.settings.get("understanding", {}))
        return made

    def spread_guidance(self, *, group: Any = None, timeout: float = 600.0) -> None:
        """Compute each guidance branch of an image in a process of its own from now on; exact.

        All processes of a group call this, and make the same runs from then on, each on a device of
        its own: they write alike, and share the steps of images. See `docs/spread.md`.

        Args:
            group: of `torch.distributed`; None: all processes that `torchrun`, `accelerate launch`
                or `init_process_group` brought together.
            timeout: seconds that a process waits for another one, before its run fails.

        Raises:
            RuntimeError: if this process is alone and nobody launched it.
            ValueError: if the timeout is not above 0.
            TypeError: if one of the two is of a wrong type, such as a group that this process is
                not in.
        """
        self._peers = Peers(group, _timeout("timeout", timeout))

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters that the model was loaded with; see `set_adapters`."""
        return adapter_names(self.model)

    def set_adapters(self, names: Sequence[str]) -> None:
        """Let some of the model's adapters count from now on, and no others.

        Args:
            names: which, each as its folder is called; none is the checkpoint by itself.

        Raises:
            ValueError: if there is no such adapter.
            TypeError: if it is no list of names.
        """
        set_adapters(self.model, names)

    def merge_adapters(self) -> None:
        """Add what the adapters that count say to the weights, and take all of them out."""
        merge_adapters(self.model)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that is to save and show what a run makes."""
        return self._peers is None or self._peers.rank == 0

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values that a token takes in a context; 57,344 for the 7B."""
        return self.model.bytes_per_token

    def auto_interleaved_generation(  # noqa: PLR0913 - the promised signature
        self,
        prompt: Prompt,
        max_text_length: int = 500,
        max_interleaved_blocks: int = 10,
        think: bool = False,
        do_sample: bool = False,
        text_temperature: float = 0.3,
        cfg_text_scale: float = 4.0,
        cfg_img_scale: float = 1.5,
        cfg_interval: Sequence[float] = (0.4, 1.0),
        timestep_shift: float = 3.0,
        num_timesteps: int = 50,
        cfg_renorm_min: float = 0.0,
        cfg_renorm_type: str = "global",
        image_shape: tuple[int, int] | str | None = None,
        max_think_token_n: int = 1000,
        *,
        protocol: str | Protocol | None = None,
        max_images: int | None = None,
        stop_strings: Sequence[str] = (),
        top_p: float = 1.0,
        top_k: int = 0,
        repetition_penalty: float = 1.0,
        logits_processor: Callable[..., Any] | None = None,
        enable_taylorseer: bool = False,
        image_feedback: str = "latent",
        image_memory: str = "all",
        max_context_memory: int | None = None,
        seed: int | str | None = None,
        generator: torch.Generator | None = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        on_error: str = "return",
        **others: Any,
    ) -> InterleavedOutput:
        """Write and draw in one go.

        Args:
            prompt: a text, an image, a list of both, or chat messages. `<|vision_start|>` in a
                text asks for an image at that place.
            max_text_length: tokens of a text at most.
            max_interleaved_blocks: rounds at most; a round is a text and the image it led to.
            think: write a plan first; it goes to `.thoughts`.
            do_sample: draw tokens instead of taking the likeliest.
            text_temperature: above 0; below 1 sharpens.
            cfg_text_scale: how strongly pictures follow the last text; 1 is off.
            cfg_img_scale: how strongly they follow earlier pictures; works with text guidance only.
            cfg_interval: guidance holds where `interval[0] < t <= interval[1]`.
            timestep_shift: how far times lean towards noise.
            num_timesteps: points on the time line; one more than steps.
            cfg_renorm_min: lower bound of the renorm factor.
            cfg_renorm_type: "global", "channel" or "text_channel".
            image_shape: (height, width); None: the size at which the model reads the last input
                image, else the checkpoint's; "input": the same, and pictures are then resized to
                the size that the input image has by itself.
            max_think_token_n: tokens of a plan at most.
            protocol: when to draw, when to stop; None: the checkpoint's own.
            max_images: images at most. 0 is text alone: where the model asks for a picture it
                reads a blank one, and writes on.
            stop_strings: a text is cut before any of these, and the run ends.
            top_p: draw among the likeliest tokens of this probability together.
            top_k: draw among so many likeliest tokens; 0 is all.
            repetition_penalty: above 1 makes tokens less likely that the text already has.
            logits_processor: as in transformers: called with ids and scores, returns scores.
            enable_taylorseer: extrapolate two of three evaluations. Faster and lossy.
            image_feedback: "latent": sampled latents re-enter as they are; "pixels": decoded,
                resized and encoded again, as published scripts do.
            image_memory: what images older than the newest leave behind, the caller's included:
                "all", "vision" (what understanding goes by) or "text" (nothing but what was
                written since). Smaller and faster, and lossy: an image is cut out of what was
                read, and what came after it stays as it was computed.
            max_context_memory: bytes that what is read may take, see `bytes_per_token`; a text or
                an image that might not fit ends the run with `context_full` before it starts.
                None is no limit.
            seed: in [0, 2**64); texts and each image get generators of their own from it. -1 is
                any; an earlier output's `seed` repeats that run, whatever it drew from.
            generator: a CPU generator for everything instead; with neither, the global one.
            callback_on_step_end: diffusers' convention: `f(self, step, time, {"latents": ...})`
                after each step, whose number counts from 0 and whose time is the one it started
                from; a dictionary that it returns may hold other latents.
            on_error: "return": what exists so far, with `.error` set; "raise": a
                `GenerationError` that carries `.partial`.
            **others: num_candidates, choose and independent_images, see `docs/candidates.md`;
                split_special_tokens=True, which reads `<|vision_start|>` in the prompt as plain
                characters; and other libraries' spellings: num_inference_steps, temperature,
                max_new_tokens, height and width.

        Returns:
            Texts and images in order: a list that also knows how it came about.

        Raises:
            ValueError: on a bad argument, before anything is computed.
            TypeError: the same.
            GenerationError: if `on_error="raise"` and the run failed half-way.
        """
        arguments = {k: v for k, v in locals().items() if k not in ("self", "prompt", "others")}
        given = without_previews(make_options({**_changed(arguments), **others}))
        return output_of(self.stream(prompt, **vars(given)))

    def stream(self, prompt: Prompt, **options: Any) -> Iterator[Event]:
        """Write and draw, and tell of everything as it happens.

        Takes the keywords of `auto_interleaved_generation`, and `preview_every`: after so many
        steps of an image, an `ImagePreview`; 0 is none. Arguments are checked at once, not when
        the first event is asked for. Closing the iterator ends the work. What was made is in
        `last_output` at any time.

        Yields:
            Events; the last one is `Finished`.
        """
        return self._begin(prompt, make_options(options)).events

    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        seed: int | str | Sequence[int | str] | None = None,
        *,
        max_batch_size: int = MAX_BATCH_SIZE,
        each: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> list[InterleavedOutput]:
        """Write and draw for several prompts at once.

        Each result is what the prompt alone gives with that seed: the same texts in float32, and
        pictures of the same up to the rounding of products of other sizes. A prompt that fails or
        is refused costs no other one anything: its output has `.error`.

        Args:
            prompts: of any kind and length, see `auto_interleaved_generation`.
            seed: one for each prompt, or one that all of them take. Without, each prompt gets one
                that is drawn from torch's global generator; it is in the output's `seed`.
            max_batch_size: runs under way at a time; others wait.
            each: options of single prompts, as many as prompts, on top of those for all; also
                `seed`.
            **options: those of `auto_interleaved_generation`. `max_context_memory` is for all
                together: what does not fit beside others waits, what never can is refused by
                itself. With `on_error="raise"` the first failure is raised once all are done.

        Returns:
            Outputs in the order of the prompts.

        Raises:
            ValueError: on a bad argument for all, before anything is computed.
            TypeError: the same.
            GenerationError: if `on_error="raise"` and a run failed; `.partial` is its output, and
                `last_outputs` has those of all.
        """
        many = self._batch(prompts, seed, each, options, without_previews)
        for _ in many.events(max_batch_size, self._remember_batch):
            pass
        return [output for output in many.outputs() if output is not None]

    def stream_batch(
        self,
        prompts: Sequence[Prompt],
        seed: int | str | Sequence[int | str] | None = None,
        *,
        max_batch_size: int = MAX_BATCH_SIZE,
        each: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> Iterator[tuple[int, Event]]:
        """Write and draw for several prompts at once, and tell of everything as it happens.

        Takes what `generate_batch` takes, and `preview_every`. Closing the iterator ends the work;
        what was made for every prompt is in `last_outputs` at any time.

        Yields:
            (index of the prompt, event); the last event of each prompt is `Finished`.
        """
        many = self._batch(prompts, seed, each, options, lambda given: given)
        return many.events(max_batch_size, self._remember_batch)

    @property
    def last_outputs(self) -> list[InterleavedOutput | None]:
        """What the last batch has made for each prompt; None for one that has not begun."""
        return [] if self._many is None else self._many.outputs()

    def start_session(self, **options: Any) -> Session:
        """Begin a session: messages one after another, of which nothing is read twice.

        Args:
            **options: for every turn, as `stream` takes them; a message may change them for itself.

        Raises:
            ValueError: on a bad option, before anything is computed.
            TypeError: the same.
        """
        given = make_options(options)
        given = replace(given, protocol=given.protocol or self.protocol)
        return new_session(self, self._begin, given)

    def load_session(self, path: str | PathLike[str], **options: Any) -> Session:
        """Read a session back that `Session.save` wrote, and all that was said in it, once.

        Args:
            path: the folder or file.
            **options: in place of those that it was saved with; functions are in no file.

        Raises:
            FileNotFoundError: if there is nothing at that path.
            ValueError: if it is no saved session, is damaged, or was another model's.
        """
        given, entries = load_session(self, path, options, self.protocol)
        return new_session(self, self._begin, given, entries)

    def _begin(
        self, prompt: Prompt, options: GenerationOptions, start: Standing | None = None
    ) -> Begun:
        """Check a run, and return it before its first event."""
        driver, prepared = self._begun(
            options, lambda given: self._prepared(prompt, given, self._progress, start)
        )
        self._remember(prepared.record)
        events = driver.drive(prepared.work(self._remember))
        return Begun(run=prepared.run, parts=prepared.parts, record=prepared.record, events=events)

    def _begun(
        self, options: GenerationOptions, prepare: Callable[[GenerationOptions], Prepared]
    ) -> tuple[Direct | Spread, Prepared]:
        """Return a run, prepared by options that all who share it go by, and what drives it."""
        if self._peers is None or self._peers.size == 1:
            return Direct(self), prepare(options)
        spread = Spread(self, self._peers)
        return spread, spread.begun(options, prepare)

    def _prepared(
        self,
        prompt: Prompt,
        options: GenerationOptions,
        progress: Mapping[str, Any],
        start: Standing | None = None,
    ) -> Prepared:
        return prepare(
            self,
            prompt,
            options,
            protocol=self.protocol,
            understanding=self.understanding,
            progress=progress,
            start=start,
        )

    def _remember(self, record: RunRecord) -> None:
        self._last = record

    def _batch(
        self,
        prompts: Sequence[Prompt],
        seed: Any,
        each: Sequence[Mapping[str, Any]] | None,
        options: Mapping[str, Any],
        adapt: Callable[[GenerationOptions], GenerationOptions],
    ) -> Many:
        if self._peers is not None:
            warn_of_batch()
        quiet = {"disable": True}  # there is one bar for all

        def alone(prompt: Prompt, given: GenerationOptions) -> Prepared:
            return self._prepared(prompt, adapt(given), quiet)

        return Many(self, alone, prompts, seed, each, options, self._progress)

    def _remember_batch(self, many: Many) -> None:
        self._many = many


def _changed(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return what the caller gave, so that another library's spelling may stand for a default."""
    signature = inspect.signature(AutoInterleavedInferencer.auto_interleaved_generation)
    defaults = {name: parameter.default for name, parameter in signature.parameters.items()}
    return {name: value for name, value in arguments.items() if value is not defaults[name]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; see `auto_interleaved.terminal.command_line`."""
    return run_command_line(arguments, AutoInterleavedInferencer.from_pretrained)


if __name__ == "__main__":
    sys.exit(main())
