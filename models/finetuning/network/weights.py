"""Where pretrained weights come from: `--weights imagenet`, a folder of `ARCHITECTURE.weights.h5`, or none.

A file in such a folder may have either layout of Keras, under either name: Keras 3's own, or the older one of the files
that Keras publishes. The content decides, not the name.
"""

import contextlib
import functools
import itertools
import math
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import environment
from common.errors import UserError, masked
from common.files import locked, sha256_of
from models.finetuning.architecture import Architecture

DOWNLOAD_SERVER = "https://storage.googleapis.com/"
START_SECONDS = 10.0  # a download that has not started by then gives up


def weights_file(architecture: Architecture, weights: str) -> Path | None:
    """The file of `--weights DIR`, a UserError where there is none or another network's; None for other choices."""
    if weights in ("none", "imagenet"):
        return None
    folder, (name, *_) = Path(weights), _file_names(architecture)
    if not folder.is_dir():
        raise UserError(f"--weights {weights}: no such folder. Expected 'imagenet', 'none', or a folder with {name}.")
    path = next((folder / file for file in _file_names(architecture) if file and (folder / file).is_file()), None)
    if path is None:
        found = ", ".join(sorted(p.name for p in folder.glob("*.h5"))) or "no *.h5 at all"
        raise UserError(f"--weights {weights}: expected {name} in it, found {found}. " + _ways_out(architecture))
    count = sum(math.prod(shape) for shape in shapes_in(path, architecture))
    if not architecture.include_top and count != architecture.parameters:
        reason = f"expected {architecture.parameters:,} numbers in it (without its top), found {count:,}"
        raise _not_its_weights(path, architecture, reason)
    return path


def _file_names(architecture: Architecture) -> tuple[str, str]:
    """The names that its file may have in a folder; where both are there, the first is taken."""
    return f"{architecture.name}.weights.h5", architecture.published_weights


def check_available(architecture: Architecture, weights: str) -> None:
    """Makes sure, without loading Keras, that the weights are available."""
    weights_file(architecture, weights)
    if weights == "imagenet" and not architecture.published_weights:
        raise UserError(f"Keras publishes no weights of {architecture.name}. " + _ways_out(architecture))
    if weights != "imagenet" or is_cached(architecture) or reachable():
        return
    raise UserError(
        f"the ImageNet weights of {architecture.name} are not on this machine ({published_file(architecture)}) and "
        "their server cannot be reached. " + _ways_out(architecture)
    )


def fits(path: Path, architecture: Architecture) -> bool:
    """Whether a file of any name holds a network's weights without its top, as far as its arrays show.

    Refused: kernels in the order of Theano, and ResNet50 as published before 2019, which orders its layers otherwise.
    """
    import h5py

    try:
        shapes = shapes_in(path, architecture)
        with h5py.File(path, "r") as stored:
            layers = _listed(_published_layout(stored) or stored, "layer_names")
    except UserError:
        return False
    kernels = [shape for shape in shapes if len(shape) == 4]
    in_order = all(max(shape[:2]) <= max(shape[2:]) for shape in kernels)
    return sum(map(math.prod, shapes)) == architecture.parameters and in_order and "res2a_branch2a" not in layers


def identity(architecture: Architecture, weights: str) -> str:
    """What stands for the weights in a run's record: 'none', 'imagenet', or the hash of the file."""
    path = weights_file(architecture, weights)
    return weights if path is None else f"sha256:{_checked_hash(path)}"


@functools.cache
def _checked_hash(path: Path) -> str:
    """The hash of a weights file, which is that of NAME.sha256 beside it, where there is one, or a UserError."""
    found = sha256_of(path)
    beside = path.with_name(f"{path.name}.sha256")  # as sha256sum writes it
    if beside.is_file() and beside.read_bytes()[:64].decode("ascii", "replace").lower() != found:
        raise UserError(
            f"{path} is damaged, or {beside.name} is of another file: its SHA-256 is {found}. Download it again."
        )
    return found


@contextlib.contextmanager
def downloading(architecture: Architecture) -> Iterator[None]:
    """Around Keras's own download, which writes in place and whose failures are bare exceptions.

    One process downloads, the others wait. What an interrupted download left is removed: Keras would use it.
    """
    with contextlib.ExitStack() as held:
        if not is_cached(architecture):
            kept = published_file(architecture)
            lock = kept.with_name(f".{kept.name}.lock")
            held.enter_context(locked(lock, f"{kept} is being downloaded", wait=True))
            if kept.is_file() and not is_cached(architecture):
                print(f"note: {kept} is incomplete, so it is downloaded again.", file=sys.stderr)
                kept.unlink()
        held.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
        socket.setdefaulttimeout(START_SECONDS)
        try:
            yield
        except Exception as error:
            reason = masked(" ".join(str(error).split()))[:200]
            raise UserError(
                f"downloading the weights of {architecture.name}: {reason} " + _ways_out(architecture)
            ) from error


def load(backbone: Any, architecture: Architecture, weights: str) -> None:
    """Loads pretrained weights into the whole backbone (no top, not cut); a UserError if they are not its own."""
    path = weights_file(architecture, weights)
    if path is None:
        return
    import h5py

    expected = sorted(tuple(variable.shape) for variable in backbone.weights)
    try:  # Keras skips with a warning what it does not find in the file, and would leave it random: so compare first
        if sorted(shapes_in(path, architecture)) != expected:
            raise ValueError("its arrays have other shapes")
        with h5py.File(path, "r") as stored:
            ending = ".h5" if _published_layout(stored) else ".weights.h5"  # Keras goes by the name alone
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / f"network{ending}"
            link.symlink_to(path.absolute())
            backbone.load_weights(link)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise _not_its_weights(path, architecture, " ".join(str(error).split())[:200]) from error


def shapes_in(path: Path, architecture: Architecture) -> list[tuple[int, ...]]:
    """Shapes of the arrays that Keras would read from a weights file, in either layout."""
    import h5py

    shapes: list[tuple[int, ...]] = []
    try:
        with h5py.File(path, "r") as stored:
            published = _published_layout(stored)
            if published:  # a file may hold more than it lists: MobileNet's published one keeps space for its top
                layers = [published[name] for name in _listed(published, "layer_names")]
                shapes += [_shape(layer[name], path) for layer in layers for name in _listed(layer, "weight_names")]
            else:
                stored["layers"]  # as Keras 3 has it
                stored.visititems(lambda _, x: shapes.append(_shape(x, path)) if isinstance(x, h5py.Dataset) else None)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise _not_its_weights(path, architecture, f"not a readable HDF5 file of Keras ({error})") from error
    return shapes


def _shape(item: Any, path: Path) -> tuple[int, ...]:
    """Of an array in the file; one whose numbers lie in another file would have that read, whatever it is."""
    if item.external or item.is_virtual or item.file.filename != str(path):
        raise ValueError("it has arrays that lie in other files")
    return tuple(item.shape)


def _published_layout(stored: Any) -> Any:
    """The group with the layers in the older layout, that of the published files; None in Keras 3's."""
    groups = (stored, stored.get("model_weights"))  # the second in the file of a network saved as one
    return next((group for group in groups if group is not None and _listed(group, "layer_names")), None)


def _listed(group: Any, attribute: str) -> list[str]:
    """The names in an attribute; Keras spreads a long list over ATTRIBUTE0, ATTRIBUTE1, ..."""
    parts = itertools.takewhile(group.attrs.__contains__, (f"{attribute}{number}" for number in itertools.count()))
    names = [name for part in ([attribute] if attribute in group.attrs else parts) for name in group.attrs[part]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _not_its_weights(path: Path, architecture: Architecture, reason: str) -> UserError:
    return UserError(f"{path}: these are not the weights of {architecture.name}: {reason}. " + _ways_out(architecture))


def _ways_out(architecture: Architecture) -> str:
    builder = f"{architecture.builder.replace(':', '.')}(include_top={architecture.include_top})"
    file, published = _file_names(architecture)
    if architecture.published_weights:
        made = f"made on a machine with internet: {builder}.save_weights('{file}')"
    elif architecture.importer:
        made = f"Keras publishes none; python -m {architecture.importer} FILE.onnx --out DIR makes it"
    else:
        made = f"Keras publishes none; save those of your own: {builder}.save_weights('{file}')"
    also = f" or Keras's own {published}" if published else ""
    return (
        f"The ways out: '--weights DIR' with a folder that holds {file} ({made}){also}, or '--weights none' to start "
        "from random weights, which scores far worse."
    )


def published_file(architecture: Architecture) -> Path:
    """Where Keras keeps its own weights of a network."""
    return environment.keras_home() / "models" / architecture.published_weights


def is_cached(architecture: Architecture) -> bool:
    """Whether Keras's own weights are there and complete, as far as the file itself shows."""
    kept = published_file(architecture)
    try:
        return kept.is_file() and bool(shapes_in(kept, architecture))
    except UserError:
        return False


def reachable() -> bool:
    """Whether the server of Keras's weights answers in time."""
    import http.client  # slow to import, and --help need not
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(DOWNLOAD_SERVER, timeout=START_SECONDS):
            return True
    except urllib.error.HTTPError as answer:
        return answer.code in (400, 404)  # the server itself, saying that there is no page at its root
    except (OSError, http.client.HTTPException, ValueError):
        return False
