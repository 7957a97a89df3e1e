"""Every exception that a user may meet. The message is one sentence that names the cause and the way out."""


class UsageError(ValueError):
    """A flag is wrong: exit code 2."""


class DataError(ValueError):
    """Lists, videos, frames or results are not as they must be: exit code 1."""


class FolderTaken(DataError):
    """Another run writes into a folder: exit code 1."""


class CheckpointError(ValueError):
    """A checkpoint is missing, unreadable or does not fit: exit code 1."""


class RunError(RuntimeError):
    """A run cannot go on: exit code 1."""


class Stopped(Exception):
    """A signal asked the run to stop, and it has saved itself: exit code 0. The message says how to go on."""
