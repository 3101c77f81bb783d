"""The screen: a story, its plan, notes and bars on one terminal."""

import io

from auto_interleaved.terminal.command_line import Screen
from data.output.events import ImageStarted, ImageStep, TextDelta, ThoughtDelta


class Stream(io.StringIO):
    """One of two streams to the same terminal.

    Args:
        typed: everything that the terminal gets.
    """

    def __init__(self, typed: list[str]) -> None:
        super().__init__()
        self._typed = typed

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._typed.append(text)
        return super().write(text)


def visible(typed: list[str]) -> list[str]:
    """Return the lines that a person sees."""
    lines, column = [""], 0
    for character in "".join(typed):
        if character == "\n":
            lines.append("")
        if character in "\r\n":
            column = 0
            continue
        kept = lines[-1].ljust(column)
        lines[-1] = kept[:column] + character + kept[column + 1 :]
        column += 1
    return [line.rstrip() for line in lines]


def test_text_notes_and_bars_do_not_run_into_each_other() -> None:
    typed: list[str] = []
    screen = Screen(Stream(typed), Stream(typed))
    screen.show(ThoughtDelta(text="A fox. "))
    screen.show(ThoughtDelta(text="Red."))
    screen.show(TextDelta(block=0, text="Once "))
    screen.show(TextDelta(block=0, text="upon"))
    screen.show(ImageStarted(index=0, height=32, width=48))
    assert visible(typed)[-1] == "picture 1 ..."
    screen.note("by the way")
    for step in (1, 2):
        screen.show(ImageStep(index=0, step=step, num_steps=2))
    screen.note("half-way")
    assert "2/2" in visible(typed)[-1]
    screen.close()
    screen.show(TextDelta(block=1, text="a time."))
    screen.close()
    assert visible(typed) == [
        "plan: A fox. Red.",
        "Once upon",
        "by the way",
        "half-way",
        "a time.",
        "",
    ]


def test_a_line_that_a_note_ended_is_not_ended_once_more() -> None:
    out = Stream([])
    screen = Screen(out, Stream([]))
    for text in ("One", "\nTwo"):
        screen.show(TextDelta(block=0, text=text))
        screen.note("a picture")
    for text in ("\n", "Three", "\nFour"):
        screen.show(TextDelta(block=0, text=text))
    assert out.getvalue() == "One\nTwo\nThree\nFour"


def test_what_a_model_writes_does_not_command_the_terminal() -> None:
    terminal, file = Stream([]), io.StringIO()
    text = "\x1b[2J red\x07\x9b\n\tindented"
    Screen(terminal, terminal).show(TextDelta(block=0, text=text))
    Screen(file, terminal).show(TextDelta(block=0, text=text))
    assert terminal.getvalue() == "?[2J red??\n\tindented"
    assert file.getvalue() == text


def test_characters_that_a_stream_lacks_are_replaced() -> None:
    written = io.BytesIO()
    narrow = io.TextIOWrapper(written, encoding="ascii")
    Screen(narrow, Stream([])).show(TextDelta(block=0, text="a \u2603"))
    assert written.getvalue() == b"a ?"
