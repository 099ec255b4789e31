"""What a blend was made of, so that the same command with the same inputs has nothing to do.

An input is the same while its size and time of change are; where only the time differs (a copied run), its SHA-256
decides, as it always does for the outputs, which are small.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_json, sha256_of

SOURCES = Path(__file__).resolve().parent


def stamps(paths: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Size in bytes, time of change in nanoseconds and SHA-256 of each file, under the same names."""
    found = {}
    for name, path in paths.items():
        status = path.stat()
        found[name] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256_of(path)}
    return found


def unchanged(recorded: Any, paths: Mapping[str, Path]) -> bool:
    """True if `recorded`, as `stamps` made it, has exactly these names and each file is still the same."""
    if not isinstance(recorded, dict) or set(recorded) != set(paths):
        return False
    return all(_same(recorded[name], path) for name, path in paths.items())


def _same(stamp: Any, path: Path) -> bool:
    if not isinstance(stamp, dict) or not path.is_file():
        return False
    status = path.stat()
    if status.st_size != stamp.get("size"):
        return False
    return status.st_mtime_ns == stamp.get("mtime_ns") or sha256_of(path) == stamp.get("sha256")


def code_version() -> str:
    """SHA-256 of the sources of this room: another version of it blends anew."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def stands(path: Path, asked: Mapping[str, Any], inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> bool:
    """Whether the blend recorded at `path` is what is asked for, from these inputs, with its outputs in place.

    A record that is missing or cannot be read stands for nothing: the blend is made anew.
    """
    try:
        earlier = read_json(path)
    except UserError:
        return False
    if not isinstance(earlier, dict) or any(earlier.get(name) != value for name, value in asked.items()):
        return False
    return unchanged(earlier.get("inputs"), inputs) and whole(earlier.get("outputs"), outputs)


def whole(recorded: Any, paths: Mapping[str, Path]) -> bool:
    """True if `recorded`, as `stamps` made it, has exactly these names and each file has still the same content."""
    if not isinstance(recorded, dict) or set(recorded) != set(paths):
        return False
    return all(
        isinstance(recorded[name], dict) and path.is_file() and sha256_of(path) == recorded[name].get("sha256")
        for name, path in paths.items()
    )
