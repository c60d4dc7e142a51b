"""The errors a user meets: one sentence each, saying what was wrong and what to do next."""


class MosaicError(Exception):
    """Base of every error this package raises on purpose; `exit_code` is what the CLI returns."""

    exit_code = 1


class ConfigError(MosaicError):
    """A name, option or file of settings that does not fit: unknown layer, width, task, field."""

    exit_code = 2


class AccessError(MosaicError):
    """Something that could not be reached: gated model, missing file, no network."""

    exit_code = 3


class IntegrityError(MosaicError):
    """Data that is not what it should be: wrong checksum, row count, shape or schema."""

    exit_code = 4


class ResourceError(MosaicError):
    """Not enough disk, memory or device for what was asked."""

    exit_code = 5


MALFORMED = (ArithmeticError, LookupError, RecursionError, TypeError, ValueError)
"""What reading a file's content raises where it is not what is expected."""

FOREIGN = (*MALFORMED, AssertionError, AttributeError, RuntimeError)
"""What other people's parsers raise besides. Caught around a call of theirs and nothing of ours,
so that an error of our own code is never told as a damaged file."""
