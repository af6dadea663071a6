"""Errors a user can mend: one line that names the value, the rule and the way out."""

from __future__ import annotations


class LeanconvError(Exception):
    """Base of every error that bad input causes; the command line prints it as one line and exits with 2.

    A message is one line whatever it quotes: line breaks in a value or in another library's text become spaces.
    """

    exit_code = 2

    def __init__(self, message: object = "", *more: object) -> None:
        text = " ".join(message.split()) if isinstance(message, str) and message.splitlines() != [message] else message
        super().__init__(text, *more)


class LeanconvWarning(UserWarning):
    """Something that works and is probably not what was meant; the command line prints it as one line."""


class SettingError(LeanconvError, ValueError):
    """An argument or a setting that breaks a rule."""


class DataError(LeanconvError):
    """A data folder or file that cannot be used."""


class FileError(LeanconvError):
    """A model file that is missing, broken or foreign."""


class TieError(LeanconvError, RuntimeError):
    """A weight that layers should share is no longer shared, or its owner is out of reach."""


class RunError(LeanconvError, RuntimeError):
    """A run that started well and failed."""

    exit_code = 1


class CheckError(LeanconvError):
    """A check or a budget that was not met."""

    exit_code = 3


def first_line(error: BaseException) -> str:
    """What another library's error says first; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
