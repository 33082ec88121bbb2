"""Errors whose message is one sentence for the person at the screen."""


class AddmError(Exception):
    """What went wrong, in one sentence: the file, the fault, the mend.

    The command line prints the message on one line and exits with 1; the
    dock widget shows it in words. Anything else that is raised is a bug.
    """


class InputError(AddmError):
    """A scan, mask or truth that cannot be used as it is."""


class CheckpointError(AddmError):
    """A checkpoint that is damaged, foreign or not what it says it is."""


class MissingExtraError(AddmError):
    """An optional package is needed and is not installed."""
