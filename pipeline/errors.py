"""What can go wrong, and the exit code that says so."""


class RestoraError(Exception):
    """A failure that the user can mend; its text says what was wrong, the value, what is allowed and what to do."""

    exit_code = 1


class UsageError(RestoraError):
    """A command line that cannot be carried out."""

    exit_code = 2


class SpecError(RestoraError):
    """A study file that is not valid, or does not fit its model or its stored study."""

    exit_code = 3


class StorageError(RestoraError):
    """A database or a disk that does not do what is needed."""

    exit_code = 4


class NothingUsableError(RestoraError):
    """There is nothing finished to work on."""

    exit_code = 5


class IntegrityError(RestoraError):
    """Data or weights that are missing, damaged or not what they were."""

    exit_code = 6
