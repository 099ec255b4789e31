"""Credentials are kept out of what is said, logged or recorded."""

import base64
import os
import re

MASK = "***"
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"(\w+://)[^/\s:@]*:[^/\s@]+@")  # https://user:password@host
_SHORTEST = 8  # characters of a secret; a shorter one would mask half of an ordinary sentence


def masked(text: str, *others: str) -> str:
    """The text without the values of variables of the environment that are named like secrets, and without passwords.

    Args:
        others: further secrets.
    """
    found = [value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= _SHORTEST]
    for secret in sorted({*found, *others}, key=len, reverse=True):
        for form in (secret, base64.b64encode(secret.encode()).decode().rstrip("=")):
            text = text.replace(form, MASK)
    return _IN_ADDRESS.sub(rf"\1{MASK}@", text)
