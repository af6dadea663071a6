"""Errors that a user can fix: each is one line with the value, the rule and the way out."""

from __future__ import annotations


class LeanconvError(Exception):
    r"""Base class of all errors that bad input causes; the command line prints the error on one line and exits with 2.

    A message is always one line: line breaks in a value or in another library's text become spaces.

    >>> str(LeanconvError("two\nlines"))
    'two lines'
    """

    exit_code = 2

    def __init__(self, message: object = "", *more: object) -> None:
        text = " ".join(message.split()) if isinstance(message, str) and message.splitlines() != [message] else message
        super().__init__(text, *more)


class LeanconvWarning(UserWarning):
    """An input that works and is probably a mistake; the command line prints the warning on one line."""


class SettingError(LeanconvError, ValueError):
    """An argument or a setting that breaks a rule."""


class DataError(LeanconvError):
    """A data folder or file that cannot be used."""


class FileError(LeanconvError):
    """A model file that is missing, damaged or of another program."""


class TieError(LeanconvError, RuntimeError):
    """Layers no longer share a weight that they should share, or the model does not hold the weight's owner."""


class RunError(LeanconvError, RuntimeError):
    """A run that started correctly and failed later."""

    exit_code = 1


class CheckError(LeanconvError):
    """A check that failed, or a budget that was not met."""

    exit_code = 3


def first_line(error: BaseException) -> str:
    r"""The first line of another library's error; the name of its class when the error has no text.

    >>> first_line(ValueError("bad shape\nsee the manual"))
    'bad shape'
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
