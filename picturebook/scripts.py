"""The subjects of how-tos, recipes and diagrams, as data.

A script is four stages, each one thing and the sentences that may bring it, and prompts whose
fields say what they wish for.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a script.

    Attributes:
        kind: the thing it brings.
        texts: sentences with `{thing}`, `{place}` and perhaps `{where}` and `{hero}`.
        colours: what it may be; empty for every colour of its kind.
        band: "top" or "bottom" if it belongs there, else "".
        below: the index of the stage under whose thing it belongs, or None.
    """

    kind: str
    texts: tuple[str, ...]
    colours: tuple[str, ...] = ()
    band: str = ""
    below: int | None = None


@dataclass(frozen=True, kw_only=True)
class Script:
    """A subject: stages, shorter versions of them, and prompts.

    Attributes:
        stages: all stages, in order.
        versions: which stages a story of four, three and two steps consists of.
        prompts: texts with fields: `{count}` pictures are wished, `{colourI}` (with its article)
            and `{placeI}` of stage I. The first prompt is the one that must work word for word.
        ordered: whether the things stand in reading order.
        one_colour: whether all things share the colour of the first.
        numbered: whether the texts begin with "Step 1:".
    """

    name: str
    background: str
    stages: tuple[Stage, ...]
    versions: tuple[tuple[int, ...], ...]
    prompts: tuple[str, ...]
    closings: tuple[str, ...]
    ordered: bool = False
    one_colour: bool = False
    numbered: bool = False


SCRIPTS = {
    script.name: script
    for script in (
        Script(
            name="howto",
            background="table",
            stages=(
                Stage(
                    kind="paper",
                    texts=(
                        "Take {thing} and lay it {place}, {where}.",
                        "Lay {thing} {place}, {where}.",
                    ),
                ),
                Stage(kind="square", texts=("Fold it into {thing} {place}.",)),
                Stage(
                    kind="triangle",
                    texts=(
                        "Fold the corners to make {thing} {place}.",
                        "Press the corners down into {thing} {place}.",
                    ),
                ),
                Stage(
                    kind="airplane",
                    texts=(
                        "Open the wings and {thing} is ready {place}.",
                        "Fold the wings of {thing} {place}.",
                    ),
                ),
            ),
            versions=((0, 1, 2, 3), (0, 2, 3), (0, 3)),
            prompts=(
                "Create a step-by-step tutorial on how to make a paper airplane.",
                "Create a step-by-step tutorial on how to make {colour0} paper airplane.",
                "Create a tutorial on how to make {colour0} paper airplane in {count} steps.",
                "How do I make a paper airplane? Show {count} steps.",
                "Show me how to fold {colour0} paper airplane.",
                "Explain step by step how to fold a paper airplane.",
                "Teach me with {count} pictures to fold {colour0} paper airplane.",
            ),
            closings=("Now let it fly!", "Now it can fly."),
            ordered=True,
            one_colour=True,
            numbered=True,
        ),
        Script(
            name="recipe",
            background="table",
            stages=(
                Stage(
                    kind="bowl",
                    texts=(
                        "Mix butter, sugar and flour in {thing} {place}, {where}.",
                        "Stir the dough in {thing} {place}, {where}.",
                    ),
                ),
                Stage(
                    kind="cookie",
                    colours=("yellow",),
                    texts=(
                        "Add chocolate chips and shape {thing} {place}.",
                        "Roll the dough into {thing} {place}.",
                    ),
                ),
                Stage(
                    kind="oven",
                    texts=("Heat {thing} {place}.", "Bake it in {thing} {place}."),
                ),
                Stage(
                    kind="cookie",
                    colours=("brown",),
                    texts=("Soon {thing} is ready {place}.", "Let {thing} cool {place}."),
                ),
            ),
            versions=((0, 1, 2, 3), (0, 2, 3), (0, 3)),
            prompts=(
                "Create a recipe for chocolate chip cookies with images showing key steps.",
                "Create a recipe for cookies with {colour0} bowl and images showing key steps.",
                "How do I bake chocolate chip cookies? Show {count} steps.",
                "Create a cookie recipe with {colour0} bowl and {colour2} oven.",
                "Show me how to bake cookies in {colour2} oven in {count} steps.",
                "Explain step by step how to bake cookies.",
                "Give me a recipe for chocolate chip cookies with {count} pictures.",
            ),
            closings=("Enjoy your cookies!", "Now eat and enjoy."),
            ordered=True,
            numbered=True,
        ),
        Script(
            name="water_cycle",
            background="sea",
            stages=(
                Stage(
                    kind="sun",
                    band="top",
                    texts=(
                        "{thing} {place} warms the water {where}.",
                        "{thing} shines {place}, {where}.",
                    ),
                ),
                Stage(
                    kind="cloud",
                    band="top",
                    texts=(
                        "Water rises and becomes {thing} {place}.",
                        "The air cools and makes {thing} {place}.",
                    ),
                ),
                Stage(
                    kind="drop",
                    band="bottom",
                    below=1,
                    texts=("Rain falls as {thing} below it, {place}.",),
                ),
                Stage(
                    kind="mountain",
                    band="bottom",
                    texts=(
                        "The water runs down {thing} {place}.",
                        "Rain flows back from {thing} {place}.",
                    ),
                ),
            ),
            versions=((0, 1, 2, 3), (0, 1, 2), (0, 1)),
            prompts=(
                "Explain the water cycle with diagrams for each stage.",
                "Explain the water cycle with {count} diagrams.",
                "Show with diagrams how rain is made.",
                "Draw the water cycle step by step.",
                "How does the water cycle work? Show {count} pictures.",
                "Explain the water cycle with {colour0} sun and {colour1} cloud.",
                "Explain the water cycle with diagrams and put the sun {place0}.",
            ),
            closings=("Then the water cycle begins again.", "So the water goes round and round."),
        ),
        Script(
            name="photosynthesis",
            background="meadow",
            stages=(
                Stage(
                    kind="sun",
                    band="top",
                    texts=(
                        "{thing} {place} gives light {where}.",
                        "{thing} shines {place}, {where}.",
                    ),
                ),
                Stage(
                    kind="drop",
                    texts=(
                        "{thing} {place} brings water to the roots.",
                        "The roots drink {thing} {place}.",
                    ),
                ),
                Stage(
                    kind="leaf",
                    texts=(
                        "{thing} {place} takes in light and air.",
                        "The light makes sugar in {thing} {place}.",
                    ),
                ),
                Stage(
                    kind="flower",
                    band="bottom",
                    texts=(
                        "The sugar feeds {thing} {place}.",
                        "With the sugar {thing} grows {place}.",
                    ),
                ),
            ),
            versions=((0, 1, 2, 3), (0, 1, 2), (0, 2)),
            prompts=(
                "Explain photosynthesis with diagrams",
                "Explain photosynthesis with {count} diagrams.",
                "Show with diagrams how a plant makes sugar.",
                "Draw photosynthesis step by step.",
                "How does photosynthesis work? Show {count} pictures.",
                "Explain photosynthesis with {colour0} sun and {colour2} leaf.",
                "Explain photosynthesis with diagrams and put the sun {place0}.",
            ),
            closings=("So the plant makes its food.", "The plant gives us air."),
        ),
    )
}
