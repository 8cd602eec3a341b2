"""What was probably meant by a name that there is not."""

import difflib
from collections.abc import Iterable


def did_you_mean(received: str, known: Iterable[str], limit: int = 1) -> str:
    """Returns a question to end a message with, " Did you mean ...?"; "" if nothing comes close.

    Args:
        received: the name that there is not.
        known: those that there are.
        limit: names in the question at most.
    """
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(received.lower(), lower, n=limit)
    return f" Did you mean {' or '.join(repr(lower[name]) for name in close)}?" if close else ""
