"""What clients are told of a plan: its words, without the tags that the model writes around it."""

from __future__ import annotations

from data.output.captions import PLAN_END, PLAN_START, without_tags


class TaglessPlan:
    """A plan as it comes; what may become a tag is held back."""

    def __init__(self) -> None:
        self._written = ""
        self._told = 0

    def more(self, text: str) -> str:
        """Take what was written next; return what can be told by now."""
        self._written += text
        if PLAN_START.startswith(self._written.strip()):
            return ""
        plan = without_tags(self._written)
        sizes = range(1, len(PLAN_END))
        held = max((n for n in sizes if plan.endswith(PLAN_END[:n])), default=0)
        return self._new(plan[: len(plan) - held].rstrip())

    def rest(self) -> str:
        """Return what was held back, as the plan is over."""
        return self._new(without_tags(self._written))

    def _new(self, plan: str) -> str:
        # What is held back may be longer once a tag is whole: "</" of "</</think>" was told before.
        new, self._told = plan[self._told :], max(self._told, len(plan))
        return new
