"""The start of the marks: the faults of their settings, and their secret."""

from importlib.util import find_spec

from stingy_server.errors import ConfigurationError
from stingy_server.marks.secret import MarkSecret, read_mark_secret
from stingy_server.settings import Settings

NO_CRYPTOGRAPHY = "marks: expected cryptography, got none: pip install 'stingy[marks]'"


def open_secret(settings: Settings) -> tuple[MarkSecret | None, list[str]]:
    """Read the secret of the marks, if the settings mark answers.

    Returns:
        The secret, or None without marks; and the faults.
    """
    if settings.marks is None:
        if settings.may_mark:
            return None, [
                "marks: expected a secret_file, because watch.then or a tier marks answers, got "
                "none: openssl rand -hex 32, into a file of mode 0600 outside of the state folder"
            ]
        return None, []
    if find_spec("cryptography") is None:
        return None, [NO_CRYPTOGRAPHY]
    try:
        return read_mark_secret(settings.marks.secret_file, state=settings.state), []
    except ConfigurationError as error:
        return None, [*error.faults]
