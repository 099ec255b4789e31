"""Errors that speak to the user, and the one place where they become a line on the terminal."""

import signal
import sys
from collections.abc import Callable, Sequence

from preprocessing.masking import masked


class UserError(Exception):
    """A mistake that the user can mend. The message says what was expected, what was found, what to type next."""


def named(names: Sequence[str], most: int = 3) -> str:
    """The first few of many names, for a message: 'a, b, c and 17 more'."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def run_command(main: Callable[[], None]) -> None:
    """Runs a command's `main`; a UserError becomes one message and exit status 2, Ctrl-C and SIGTERM status 130."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except UserError as error:
        print(f"error: {masked(str(error))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped. The same command goes on from here; nothing finished is lost.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output (head, less) has left
        sys.stderr.close()
        sys.exit(1)
