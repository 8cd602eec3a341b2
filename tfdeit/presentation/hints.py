"""What was probably meant by a name that there is not."""

import difflib
from collections.abc import Iterable


def did_you_mean(received: str, known: Iterable[str], limit: int = 1) -> str:
    """Returns a question to end a message with, " Did you mean ...?"; "" if nothing comes close.

    Args:
        received: the name that there is not; or the beginning of one that there is.
        known: those that there are.
        limit: names in the question at most.
    """
    lower = {name.lower(): name for name in known}
    close = [name for name in lower if received and name.startswith(received.lower())]  # as far as it was typed
    close = (close or difflib.get_close_matches(received.lower(), lower, n=limit))[:limit]
    return f" Did you mean {' or '.join(repr(lower[name]) for name in close)}?" if close else ""
