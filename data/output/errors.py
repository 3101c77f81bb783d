"""What ended a run: an error's words, and the error as it survives copies, pickles and files."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

from data.output.strangers import message_of, type_name


class RecordedError(RuntimeError):
    """An error read back from a file or a pickle, where its type's name and its message are kept.

    Attributes:
        type_name: The name of its type.
        message: Its words.
    """

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(type_name, message)
        self.type_name = type_name
        self.message = message

    def __str__(self) -> str:
        return describe_error(self)


def error_parts(error: BaseException) -> tuple[str, str]:
    """Return the name of an error's type and its message, also for one that was read back."""
    if type(error) is RecordedError:
        return error.type_name, error.message
    return type_name(error).rpartition(".")[2], message_of(error)


def describe_error(error: BaseException) -> str:
    """Return an error in words: the name of its type and its message. It raises nothing."""
    name, message = error_parts(error)
    return f"{name}: {message}" if message else name


def portable(error: BaseException | None) -> BaseException | None:
    """Return an error as it may be pickled: itself if it comes back whole, else its words."""
    if error is None or id(error) in _in_trial():
        return error
    return error if _survives(error) else RecordedError(*error_parts(error))


def duplicate(error: BaseException | None, memo: dict[int, Any]) -> BaseException | None:
    """Return a deep copy of an error; of one that cannot be copied, the error itself."""
    try:
        again = copy.deepcopy(error, memo)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: B036 - a stranger's methods may raise anything
        return error
    return again if error is None or _alike(error, again) else error


def _survives(error: BaseException) -> bool:
    """Try an error's pickle: many can be written, and fail only when they are read."""
    in_trial = _in_trial()
    in_trial.add(id(error))  # it may lead back to the output that asks
    try:
        return _alike(error, pickle.loads(pickle.dumps(error)))
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: B036 - a stranger's methods may raise anything
        return False
    finally:
        in_trial.discard(id(error))


def _alike(error: BaseException, again: object) -> bool:
    return type(again) is type(error) and error_parts(again) == error_parts(error)


_trials = threading.local()


def _in_trial() -> set[int]:
    """Return the ids of the errors that this thread tries to pickle right now."""
    if not hasattr(_trials, "ids"):
        _trials.ids = set()
    ids: set[int] = _trials.ids
    return ids
