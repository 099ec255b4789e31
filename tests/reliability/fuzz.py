"""Feeds every reader of files with mutated input: a valid value or our own error, within 5 s and 1 GiB.

    python -m tests.reliability.fuzz --cases 100000 --seed 1

Prints a line a reader. An escape (another exception, a hang, too much memory, an invalid value) is printed with what
makes it again, and the exit status is 1.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.competition import CLASSES, DRIVER_LIST, SAMPLE_SUBMISSION
from common.errors import UserError
from common.files import is_image_name, sha256_of
from common.run_folder import CONFIG, FAILED, FINISHED, HISTORY, NETWORK, OUT_OF_FOLD, TEST, RunFolder
from common.tables import read_predictions, read_sample_images
from ensemble import blend, members
from models.finetuning import architecture as zoo
from models.finetuning import fold_run
from models.finetuning.fold_run import FoldRun
from preprocessing import images as pictures
from preprocessing.dataset import Fault, read_driver_list
from preprocessing.folds import read_folds
from tests.trees import write_image
from tools.predict import seen_by

CASE_SECONDS = 5.0
MEMORY = 2**30  # bytes beyond what the process has when it begins
NASTY = (
    *(b"\x00", b"\r", b"\n\n", b"\r\n", b'"', b'""', b'"\n', b",", b",,,,", b";", b"\t", b" "),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\xff\xd8\xff", b"\xff\xd9", b"\xff\xc0\x00\x02", b"\xff" * 40),
    *(b"\xed\xa0\x80", b"\xc0\x80", "é\u2028\u202e".encode(), b"\xd9\xa3", b"\xef\xbc\x91"),
    *(b"nan", b"inf", b"-inf", b"1e999", b"-0", b"1e-400", b"9" * 400, b"-1", b"0x10", b"1_000"),
    *(b"True", b"NA", b"None", b"../../etc/passwd", b"/etc/passwd", b"=1+1", b"@SUM(A1)"),
    *(b"img", b"c0", b"subject", b"fold", b"\\", b"#", b"'"),
    *(b"[" * 3000, b"{" * 3000, b'{"a":' * 2000, b"1" * 5000),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 10**400, 1e308, float("nan"), float("inf"), "", "x", "../x", "\x00", "\ud800"),
    *([], {}, [[]], [None], {"": None}, [1] * 50),
)
KINDS = (
    *("flip", "insert", "field", "flip", "insert", "field"),  # the likeliest
    *("overwrite", "cut", "splice", "lines"),
)


def mutated(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """A random change of content; `seeds` lend parts to splice in."""
    place = draw.randrange(len(content) + 1)
    before, after = content[:place], content[place:]
    lines, other = content.split(b"\n"), draw.choice(seeds)
    line = draw.randrange(len(lines))
    match draw.choice(KINDS):
        case "flip" if after:
            return before + bytes([after[0] ^ 1 << draw.randrange(8)]) + after[1:]
        case "insert":
            return before + draw.choice(NASTY) + after[draw.choice((0, 0, 1, 5)) :]
        case "field":  # another value, one more or one less in a field of CSV, the header included
            fields = lines[line].split(b",")
            at = draw.randrange(len(fields))
            new = draw.choice(([draw.choice(NASTY)], [], [draw.choice(fields)] * 2))
            fields[at : at + draw.choice((0, 1, 1, 1))] = new
            return b"\n".join([*lines[:line], b",".join(fields), *lines[line + 1 :]])
        case "overwrite":
            return before + draw.randbytes(draw.randrange(1, 9)) + after[draw.randrange(9) :]
        case "splice":
            return before + other[draw.randrange(len(other) + 1) :]
        case "lines":
            draw.shuffle(lines)
            return b"\n".join(lines[: draw.randrange(1, len(lines) + 1)])
    return before


def changed(value: Any, draw: random.Random) -> Any:
    """A JSON document with another value, or without a key."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        if draw.random() < 0.15:
            return {other: inner for other, inner in value.items() if other != key}
        return {**value, key: changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.7:
        place = draw.randrange(len(value))
        return [*value[:place], changed(value[place], draw), *value[place + 1 :]]
    return draw.choice(VALUES)


class HangError(Exception):
    """A case took longer than `CASE_SECONDS`."""


@dataclass(frozen=True)
class Reader:
    """A reader of files."""

    seeds: list[bytes]  # valid contents
    read: Callable[[bytes, Path], bool]  # in a folder; False: refused. AssertionError for a value that is not valid
    structured: bool = False  # cases are JSON, and half of them stay so


def readers(folder: Path) -> dict[str, Reader]:
    """All of them."""
    names = [f"img_{number}.jpg" for number in range(40)]
    labels = [(f"p{number // 20:03d}", CLASSES[number % 10], name) for number, name in enumerate(names)]
    listed = "subject,classname,img\n" + "".join(",".join(row) + "\n" for row in labels)
    folds = "img,subject,classname,fold\n" + "".join(f"{i},{s},{c},{int(s[1:])}\n" for s, c, i in labels)
    header = f"img,{','.join(CLASSES)}\n"
    sample = header + "".join(f"{name}{',0.1' * 10}\n" for name in names[:12])
    rows = np.random.default_rng(0).dirichlet(np.ones(10), 12)
    table = header + "".join(
        name + "".join(f",{value:.9g}" for value in row) + "\n" for name, row in zip(names, rows, strict=False)
    )
    return {
        "driver_list": Reader([listed.encode(), b"\xef\xbb\xbf" + listed.replace("\n", "\r\n").encode()], _driver_list),
        "sample_submission": Reader([sample.encode(), sample.replace("0.1", '"0.1"').encode()], _sample_submission),
        "fold_table": Reader([folds.encode(), folds.replace("\n", "\r\n").encode()], _fold_table),
        "prediction_table": Reader([table.encode(), table.replace("0.", ".").encode()], _prediction_table),
        "record": Reader(_records(folder), _record, structured=True),
        "jpeg_header": Reader(_jpegs(folder), _jpeg_header),
    }


def _driver_list(content: bytes, folder: Path) -> bool:
    (folder / DRIVER_LIST).write_bytes(content)
    faults: list[Fault] = []
    rows = read_driver_list(folder, faults)
    assert rows is not None or faults
    for row in () if rows is None else rows.itertuples():
        assert row.classname in CLASSES
        assert is_image_name(row.img) and "/" not in row.img and row.img[0] not in "=+-@."
    return not faults


def _sample_submission(content: bytes, folder: Path) -> bool:
    (folder / SAMPLE_SUBMISSION).write_bytes(content)
    images = read_sample_images(folder / SAMPLE_SUBMISSION)
    assert images.is_unique and len(images) and all(map(is_image_name, images))
    return True


def _fold_table(content: bytes, folder: Path) -> bool:
    (folder / "folds.csv").write_bytes(content)
    table = read_folds(folder / "folds.csv")
    assert table["img"].is_unique and table.groupby("subject")["fold"].nunique().max() == 1
    assert set(table["classname"]) == set(CLASSES) and table["fold"].dtype == np.int64
    return True


def _prediction_table(content: bytes, folder: Path) -> bool:
    (folder / "out_of_fold.csv").write_bytes(content)
    table = read_predictions(folder / "out_of_fold.csv")
    assert table.index.is_unique and all(isinstance(name, str) and name.strip() for name in table.index)
    values = table[list(CLASSES)].to_numpy()
    assert np.isfinite(values).all() and (values >= 0).all()
    np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-9)
    return True


def _record(content: bytes, folder: Path) -> bool:
    """config.json, finished.json, failed.json, training.json, blend.json, and whoever reads them."""
    run = RunFolder(folder / "run")
    own = run.fold("vgg16", 0)
    own.path.mkdir(parents=True, exist_ok=True)
    for name in (OUT_OF_FOLD, TEST):
        (own / name).touch()
    changed = (CONFIG, FINISHED, FAILED)[len(content) % 3]
    (own / CONFIG).write_bytes(content if changed == CONFIG else b'{"settings": {"seed": 0, "image_size": "9x9"}}')
    (own / FAILED).write_bytes(content)
    sums = {CONFIG: sha256_of(own / CONFIG), TEST: sha256_of(own / TEST)}
    (own / FINISHED).write_bytes(content if changed == FINISHED else json.dumps({"sha256": sums}).encode())
    run.job_file("vgg16").write_bytes(content)
    record = run.ensemble / blend.RECORD
    record.parent.mkdir(exist_ok=True)
    record.write_bytes(content)
    work = work_in(folder)
    for ask in (
        lambda: work.is_finished({"seed": 0}),
        lambda: work.require_same_settings({"seed": 0, "weights": "none"}),
        lambda: [seen_by(one) for one in run.finished()],
        lambda: members.lacks(run, members.find_members(run, [0, 1])[0], [0, 1]),
        lambda: own.has_other_folds("0"),
        lambda: own.verified(TEST),
    ):
        with contextlib.suppress(UserError):
            ask()
    assert not blend.is_done(record, {"code": "x"}, {})
    return fold_run.load(run.job_file("vgg16")).architecture in zoo.find_all(zoo.names())


def _jpeg_header(content: bytes, folder: Path) -> bool:
    (folder / "image.jpg").write_bytes(content)
    header = pictures.read_header(folder / "image.jpg")
    assert header.width <= pictures.LARGEST_SIDE and header.height <= pictures.LARGEST_SIDE
    assert 0 < header.width * header.height <= pictures.LARGEST_AREA
    return True


def work_in(folder: Path) -> FoldRun:
    architecture = zoo.find("vgg16")
    recipe, augmentation = architecture.settings_for({})
    return FoldRun(RunFolder(folder / "run"), "vgg16", architecture, recipe, augmentation, folder)


def _records(folder: Path) -> list[bytes]:
    work = work_in(folder)
    config = {"settings": {"image_size": "224x224", "crop": "whole", "seed": 0, "weights": "none"}, "versions": {}}
    sums = dict.fromkeys((CONFIG, HISTORY, NETWORK, OUT_OF_FOLD, TEST), "0" * 64)
    finished = {"log_loss": 0.5, "seconds": 3.0, "sha256": sums}
    stamp = {"size": 1, "mtime_ns": 2, "sha256": "0" * 64}
    blend = {"code": "x", "inputs": {}, "outputs": {"folds": stamp}}
    contents = [json.dumps(value, indent=2).encode() for value in (config, finished, blend, {"reason": "was killed"})]
    return [*[work.save().read_bytes()] * 3, *contents]


def _jpegs(folder: Path) -> list[bytes]:
    found = []
    for pixels in (np.zeros((16, 24, 3), np.uint8), np.full((9, 7), 200, np.uint8)):
        write_image(folder / "seed.jpg", pixels)
        found.append((folder / "seed.jpg").read_bytes())
    exif = b"\xff\xe1\x00\x10Exif\x00\x00" + bytes(8)
    progressive = found[0].replace(b"\xff\xc0", b"\xff\xc2", 1)
    return [*found, found[0][:2] + exif + found[0][2:], progressive]


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Within, no more than `MEMORY` beyond what there is, and an alarm that raises HangError."""
    used = next(int(x.split()[1]) for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmSize"))
    memory = resource.getrlimit(resource.RLIMIT_AS)

    def told(number: int, frame: object) -> None:
        raise HangError

    alarm = signal.signal(signal.SIGALRM, told)
    resource.setrlimit(resource.RLIMIT_AS, (used * 1024 + MEMORY, memory[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        resource.setrlimit(resource.RLIMIT_AS, memory)


def case_of(reader: Reader, name: str, seed: int, number: int) -> bytes:
    """The content of one case, by its number: a few changes of a valid one."""
    draw = random.Random(f"{seed} {name} {number}")
    content = draw.choice(reader.seeds)
    if reader.structured and draw.random() < 0.5:
        value = json.loads(content)
        for _ in range(draw.choice((1, 1, 2, 5))):
            value = changed(value, draw)
        return json.dumps(value).encode("utf-8", "surrogatepass")
    for _ in range(draw.choice((1, 1, 1, 2, 3, 4))):
        content = mutated(content, reader.seeds, draw)
    return content[: 1 << 20]


def fuzz(name: str, reader: Reader, cases: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Reads cases; returns how many were read, refused and escaped, and a line for each of the first escapes."""
    counts: Counter[str] = Counter()
    escapes: list[str] = []
    with limited(), warnings.catch_warnings(), Path(os.devnull).open("w") as null, contextlib.redirect_stderr(null):
        warnings.simplefilter("error")
        for number in range(cases):
            content = case_of(reader, name, seed, number)
            signal.setitimer(signal.ITIMER_REAL, CASE_SECONDS)
            try:
                outcome = "read" if reader.read(content, folder) else "refused"
            except UserError:
                outcome = "refused"
            except Exception as error:
                outcome = "escaped"
                if len(escapes) < 20:
                    escapes.append(f"{name} --seed {seed}, case {number}: {type(error).__name__}: {error!s:.300}")
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            counts[outcome] += 1
    return counts, escapes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="of each reader [100000]")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    escaped = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, reader in readers(folder).items():
            counts, escapes = fuzz(name, reader, arguments.cases, arguments.seed, folder)
            told = ", ".join(f"{counts[outcome]:,} {outcome}" for outcome in ("read", "refused", "escaped"))
            print(f"{name}: {arguments.cases:,} cases, {told}", flush=True)
            for line in escapes:
                print(f"  {line}", flush=True)
            escaped += counts["escaped"]
    sys.exit(1 if escaped else 0)


if __name__ == "__main__":
    main()
