"""The exceptions weakloc raises on purpose: what is wrong, where, and what would do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial


class WeaklocError(Exception):
    """Something the user can mend; shown as one line, without a traceback."""

    exit_code = 2

    def __init__(
        self, message: str, *, location: str | None = None, remedy: str | None = None
    ) -> None:
        self.message = message
        self.location = location
        self.remedy = remedy
        super().__init__(message)

    def __str__(self) -> str:
        """One line, and nothing in it that a terminal would obey: names come from anywhere."""
        located = f"{self.location}: {self.message}" if self.location else self.message
        text = f"{located}. {self.remedy}" if self.remedy else located
        signs = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        return "".join(signs)

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments are lost by the default pickling between worker processes.
        return (partial(type(self), location=self.location, remedy=self.remedy), (self.message,))


class DataError(WeaklocError):
    """A data set, label file or image list cannot be used as it is."""


class ImageError(DataError):
    """One image cannot be read."""


class SettingError(WeaklocError):
    """A setting has a value that cannot work."""


class WeightsError(WeaklocError):
    """Weights are missing or do not fit the network."""


class RunError(WeaklocError):
    """A run folder is incomplete, foreign or newer than this version."""


class PredictionsError(WeaklocError):
    """A predictions file is malformed or does not belong to the data."""


class MissingPackageError(WeaklocError):
    """An optional package is needed for what was asked."""


@contextmanager
def needing(requirement: str) -> Iterator[None]:
    """MissingPackageError that says what to install, where the block cannot import something."""
    try:
        yield
    except ImportError as error:
        message = f"this needs the package {error.name or requirement}"
        remedy = f'Install it: pip install "{requirement}"'
        raise MissingPackageError(message, remedy=remedy) from error


class ExtensionError(WeaklocError):
    """What an installed package adds to weakloc cannot be used."""


class FailureError(WeaklocError):
    """The request was sound but the work could not be finished."""

    exit_code = 1


class OutputError(FailureError):
    """The system does not let results be written: full disk, read-only folder, file in the way."""


class TrainingError(FailureError):
    """Training stopped: not-a-number loss, interrupted."""


class StoppedError(TrainingError):
    """A signal asked training to stop; what was learned so far is saved."""

    exit_code = 130  # as of everything that Ctrl-C ends


def require_setting(
    settings: object, location: str | None, name: str, fits: bool, remedy: str
) -> None:
    """SettingError that names the field of the settings, the value met and what would do."""
    if not fits:
        value = getattr(settings, name)
        raise SettingError(f"{name} is {value!r}", location=location, remedy=remedy)


def did_you_mean(value: str, candidates: Iterable[str]) -> str:
    """A remedy sentence: the nearest candidate if one is near, else the list of them."""
    names = sorted(candidates)
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"Choose one of: {shown}" if names else "There are no candidates"
