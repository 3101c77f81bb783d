"""Flow matching: times, guidance, Euler steps and TaylorSeer, without a model in sight.

Times run from 1 (noise) to 0 (picture). A velocity points from the data to the noise, so that
`x - t * v` estimates the clean latent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from data.wording import shown
from modeling.checks import Check, flag, instance, integer, number, pair
from modeling.numbers import require_within

RenormType = Literal["global", "channel", "text_channel"]
Velocity = Callable[[Tensor, float], Tensor]
Evaluation = Callable[[Tensor, Tensor], Tensor]  # of a state and a time (1,) on its device

# Beyond these, squares of a guided velocity and quotients of times leave float32.
MAX_SCALE = 1e6
SHIFTS = (1e-3, 1e3)
MAX_POINTS = 100_000  # of a time line, which is kept as a list

_TAYLOR_ORDER = 6
_TAYLOR_WARM_UP = 5  # the first evaluations are all full
_TAYLOR_INTERVAL = 3  # afterwards one in three is

_TYPES: dict[str, Check] = {
    "cfg_text_scale": number(),
    "cfg_img_scale": number(),
    "cfg_interval": pair(("low", "high"), number()),
    "cfg_renorm_min": number(),
    "cfg_renorm_type": instance(str, "a string"),
    "num_timesteps": integer(),
    "timestep_shift": number(),
    "enable_taylorseer": flag,
}


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How one image is sampled: the one reading of these keywords, whichever call they came with.

    Numbers are kept as int and float, the interval as a tuple.

    Attributes:
        cfg_text_scale: how strongly to push away from the velocity without text; 1 is off. At most
            a million.
        cfg_img_scale: the same for the velocity without images; works only with text guidance.
        cfg_interval: guidance holds where `interval[0] < t <= interval[1]`.
        cfg_renorm_min: lower bound of the factor that renorm multiplies by, in [0, 1].
        cfg_renorm_type: what a norm is taken over: everything, each token, or each token before
            the image step.
        num_timesteps: points on the time line; one more than steps. From 2 to 100,000.
        timestep_shift: how far times lean towards noise; 1 is even. From 0.001 to 1000.
        enable_taylorseer: extrapolate two of three evaluations. Faster and lossy.

    Raises:
        TypeError: if a value is of a wrong type.
        ValueError: if it is out of range.
    """

    cfg_text_scale: float = 4.0
    cfg_img_scale: float = 1.5
    cfg_interval: tuple[float, float] = (0.4, 1.0)
    cfg_renorm_min: float = 0.0
    cfg_renorm_type: RenormType = "global"
    num_timesteps: int = 50
    timestep_shift: float = 3.0
    enable_taylorseer: bool = False

    def __post_init__(self) -> None:
        for name, check in _TYPES.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        for name in ("cfg_text_scale", "cfg_img_scale"):
            scale = getattr(self, name)
            if not 0 <= scale < math.inf:
                raise ValueError(f"{name} must be a finite number of at least 0, got {scale}")
            require_within(name, scale, 0, MAX_SCALE)
        low, high = self.cfg_interval
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"cfg_interval must be (low, high) with 0 <= low <= high <= 1, "
                f"got {tuple(self.cfg_interval)}"
            )
        if not 0 <= self.cfg_renorm_min <= 1:
            raise ValueError(f"cfg_renorm_min must lie in [0, 1], got {self.cfg_renorm_min}")
        if self.cfg_renorm_type not in get_args(RenormType):
            raise ValueError(
                f"cfg_renorm_type must be one of {', '.join(get_args(RenormType))}; "
                f"got {shown(self.cfg_renorm_type)}"
            )
        if self.num_timesteps < 2:
            raise ValueError(
                f"num_timesteps must be at least 2 (n points are n - 1 steps), "
                f"got {self.num_timesteps}"
            )
        if self.num_timesteps > MAX_POINTS:
            raise ValueError(
                f"num_timesteps must be at most {MAX_POINTS}, got {shown(self.num_timesteps)}"
            )
        if not 0 < self.timestep_shift < math.inf:
            raise ValueError(
                f"timestep_shift must be a finite number above 0, got {self.timestep_shift}"
            )
        require_within("timestep_shift", self.timestep_shift, *SHIFTS)

    def guided(self, time: float) -> bool:
        """Whether text guidance holds at this time."""
        # Times are float32 values: a bound is met only by the float32 nearest to it.
        low, high = torch.tensor(self.cfg_interval, dtype=torch.float32, device="cpu").tolist()
        return self.cfg_text_scale > 1 and low < time <= high


def schedule(num_timesteps: int, timestep_shift: float) -> list[float]:
    """Return the times of a sampling run, from 1 down to 0.

    `t' = shift * t / (1 + (shift - 1) * t)` over evenly spaced t, in float32 as published.

    Args:
        num_timesteps: number of points, at least 2.
        timestep_shift: above 1, more of the points lie near the noise.
    """
    times = torch.linspace(1, 0, num_timesteps, dtype=torch.float32, device="cpu")
    return (timestep_shift * times / (1 + (timestep_shift - 1) * times)).tolist()


def guide(
    full: Tensor, without_text: Tensor, without_images: Tensor | None, options: ImageOptions
) -> Tensor:
    """Push a velocity away from what the model would draw without text, then without images.

    Args:
        full: velocity of shape (..., tokens, channels), float32; leading dimensions are samples,
            each renormalised by itself.
        without_text: the velocity without the text, same shape.
        without_images: the velocity without images, same shape; may be None where
            `options.cfg_img_scale` is at most 1.
        options: scales and renorm.

    Returns:
        The guided velocity, (..., tokens, channels), rescaled towards the norm of `full`.
    """
    guided = without_text + options.cfg_text_scale * (full - without_text)
    if options.cfg_renorm_type == "text_channel":
        guided = _renorm(guided, full, (-1,), options.cfg_renorm_min)
    if without_images is not None and options.cfg_img_scale > 1:
        guided = without_images + options.cfg_img_scale * (guided - without_images)
    if options.cfg_renorm_type == "text_channel":
        return guided
    over = (-1,) if options.cfg_renorm_type == "channel" else (-2, -1)
    return _renorm(guided, full, over, options.cfg_renorm_min)


def _renorm(guided: Tensor, full: Tensor, over: tuple[int, ...], minimum: float) -> Tensor:
    wanted = torch.linalg.vector_norm(full, dim=over, keepdim=True)
    present = torch.linalg.vector_norm(guided, dim=over, keepdim=True)
    return guided * (wanted / (present + 1e-8)).clamp(min=minimum, max=1.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class FlowStep:
    """The state after an Euler step.

    Attributes:
        index: steps done, from 1 on.
        num_steps: steps of the whole run.
        time: the time now reached.
        latent: the state, (tokens, channels), float32.
        clean: what the velocity says the finished latent will be, same shape.
    """

    index: int
    num_steps: int
    time: float
    latent: Tensor
    clean: Tensor


def euler_step(latent: Tensor, velocity: Tensor, times: list[float], index: int) -> FlowStep:
    """Take one Euler step: `x <- x - v * (t - t_next)`.

    Args:
        latent: the state at `times[index]`, float32.
        velocity: there, same shape.
        times: descending, see `schedule`.
        index: of the step, from 0 on.
    """
    time, following = times[index], times[index + 1]
    velocity = velocity.float()
    return FlowStep(
        index=index + 1,
        num_steps=len(times) - 1,
        time=following,
        latent=latent - velocity * (time - following),
        clean=latent - time * velocity,
    )


def integrate(
    velocity: Velocity, noise: Tensor, times: list[float]
) -> Generator[FlowStep, Tensor | None, None]:
    """Follow a velocity from noise to data by Euler steps.

    Args:
        velocity: takes (state, time), gives the velocity in the state's shape.
        noise: (..., tokens, channels); computed in float32.
        times: descending, see `schedule`; n times are n - 1 steps.

    Yields:
        The state after each step; the last one holds the result. A state that is sent back takes
        its place.
    """
    latent = noise.float()
    for index, time in enumerate(times[:-1]):
        step = euler_step(latent, velocity(latent, time), times, index)
        changed = yield step
        latent = step.latent if changed is None else changed.to(step.latent)


@dataclass(eq=False)
class TaylorSeer:
    """Replaces two of three evaluations of a function by extrapolating it. Lossy.

    Full evaluations at calls 0 to 4, then at 7, 10, 13, ...; between them the last one is carried
    on by a Taylor series whose derivatives are finite differences between full evaluations (Liu et
    al., "From Reusable to Forecasting", 2025). One object serves one branch of one image.

    Attributes:
        evaluate: the function, of (state, time).
    """

    evaluate: Callable[[Tensor, Any], Tensor]
    _calls: int = field(default=0, init=False)
    _last_full: int = field(default=0, init=False)
    _derivatives: list[Tensor] = field(default_factory=list, init=False)

    def __call__(self, latent: Tensor, time: float | Tensor) -> Tensor:
        """Evaluate or predict."""
        call = self._calls
        self._calls += 1
        late = call - _TAYLOR_WARM_UP + 1
        if call < _TAYLOR_WARM_UP or late % _TAYLOR_INTERVAL == 0:
            return self._refresh(self.evaluate(latent, time), call)
        return self._predict(call - self._last_full)

    def _refresh(self, value: Tensor, call: int) -> Tensor:
        derivatives = [value]
        if call > _TAYLOR_WARM_UP - 2:
            distance = call - self._last_full
            for previous in self._derivatives[:_TAYLOR_ORDER]:
                derivatives.append((derivatives[-1] - previous) / distance)
        self._derivatives, self._last_full = derivatives, call
        return value

    def _predict(self, distance: int) -> Tensor:
        terms = (
            derivative * (distance**order / math.factorial(order))
            for order, derivative in enumerate(self._derivatives)
        )
        return torch.stack(list(terms)).sum(0)
