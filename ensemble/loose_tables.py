"""Prediction tables from anywhere, without a run folder: read, checked against each other, labels and folds."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common.competition import CLASSES
from common.errors import UserError, named
from common.files import listed_again
from common.tables import class_numbers, read_predictions, read_sample_images, require_images
from ensemble.members import OF_SAMPLE, Predictions, Source
from ensemble.neighbours import Network, Space
from ensemble.nested import groups_of
from ensemble.score import read_labels
from preprocessing.folds import read_folds

BLOCKS = 10  # of rows, that stand in for drivers where these are unknown


@dataclass(frozen=True)
class LooseTables:
    """The files of a blend without a run folder.

    Attributes:
        labels: img,classname[,subject] of the images of `predictions`.
        folds: img,subject,classname,fold of them; None where there is none.
        predictions: img,c0..c9 of labelled images that their models were not trained on.
        test_predictions: of the images to predict, by the same models in the same order; may be empty.
        features, test_features: .npy with rows as in the tables, one for each; may be empty.
    """

    labels: Path
    folds: Path | None
    predictions: tuple[Path, ...]
    test_predictions: tuple[Path, ...] = ()
    features: tuple[Path, ...] = ()
    test_features: tuple[Path, ...] = ()

    def source(self, sample: Path | None) -> Source:
        """The tables as the source of a blend; `sample` as for `read`."""
        lists = [self.predictions, self.test_predictions, self.features, self.test_features]
        tables = [[str(path) for path in paths] for paths in lists]
        paths = [self.labels, *filter(None, (self.folds, sample)), *itertools.chain(*lists)]
        inputs = {str(path): path for path in paths}
        return Source({"tables": tables}, inputs, bool(self.test_predictions), lambda: self.read(sample))

    def read(self, sample: Path | None) -> tuple[Predictions, list[str]]:
        """Reads and checks everything; returns the predictions, and remarks for the report.

        Args:
            sample: the sample submission, whose images the test tables must have, and whose order the rows get; None
                where the order is that of the first test table.
        """
        self._check_counts()
        frames, tests = _read_tables(self.predictions), _read_tables(self.test_predictions)
        images, remarks = self._images(frames[0].index)
        test_images = tests[0].index if tests else pd.Index([], name="img", dtype=object)
        if tests and sample is not None:
            test_images = read_sample_images(sample)
            require_images(self.test_predictions[0], tests[0], test_images, OF_SAMPLE)
        elif tests:
            remarks.append(f"no --data: the rows of the submission are in the order of {self.test_predictions[0]}.")
        stems = tuple(path.stem for path in self.predictions)
        names = stems if len(set(stems)) == len(stems) else tuple(map(str, self.predictions))
        if again := listed_again(names):
            raise UserError(f"--predictions: {named(again)} is listed more than once. Name each table once.")
        spaces = []
        for place, path in enumerate(self.features):
            beside = (self.test_features[place], tests[place].index) if tests else (None, None)
            spaces.append(Space(names[place], (Network(path, frames[place].index, *beside),)))
        out_of_fold = np.stack([frame.reindex(images["img"]).to_numpy() for frame in frames])
        test = np.zeros((len(frames), 0, len(CLASSES)))
        if tests:
            test = np.stack([frame.reindex(test_images).to_numpy() for frame in tests])
        predictions = Predictions(
            names, images, class_numbers(images["classname"]), out_of_fold, test_images, test, spaces=tuple(spaces)
        )
        return predictions, remarks

    def _check_counts(self) -> None:
        expected = len(self.predictions)
        lists = {"--test-predictions": self.test_predictions, "--features": self.features}
        for option, files in (lists | {"--test-features": self.test_features}).items():
            needed = option == "--test-features" and all(lists.values())
            if len(files) != expected and (files or needed):
                raise UserError(
                    f"{option}: expected a file for each of --predictions, in that order ({expected}), found "
                    f"{len(files)}."
                )

    def _images(self, names: pd.Index) -> tuple[pd.DataFrame, list[str]]:
        """The frame img,subject,classname,fold of the labelled images, and remarks."""
        remarks: list[str] = []
        images = read_labels(self.labels, names, str(self.predictions[0])).reset_index()
        if self.folds is not None:
            folds, classes = read_folds(self.folds), images.set_index("img")["classname"]
            kept = folds[folds["img"].isin(names)].reset_index(drop=True)
            require_images(self.predictions[0], classes.to_frame(), pd.Index(kept["img"]), f"images of {self.folds}")
            other = kept.loc[classes.reindex(kept["img"]).to_numpy() != kept["classname"].to_numpy(), "img"]
            if len(other):
                raise UserError(f"{self.labels}: another classname than in {self.folds}: {named(list(other))}.")
            return kept, remarks
        if "subject" not in images:
            images["subject"] = [f"block {row * BLOCKS // len(images)}" for row in range(len(images))]
            remarks.append(
                f"{self.labels} has no subject and there is no --folds: {BLOCKS} blocks of rows stand in for drivers.\n"
                "Where frames of one driver lie in several, all estimates here are too good."
            )
        elif images["subject"].isna().any():
            raise UserError(f"{self.labels}: expected the driver of each image as its subject, or --folds FILE.")
        images["fold"] = groups_of(np.zeros(len(images)), images["subject"].to_numpy())
        return images[["img", "subject", "classname", "fold"]], remarks


def _read_tables(paths: Sequence[Path]) -> list[pd.DataFrame]:
    """Prediction tables that must all hold the images of the first."""
    frames: list[pd.DataFrame] = []
    for path in paths:
        frames.append(read_predictions(path))
        require_images(path, frames[-1], frames[0].index, f"the images of {paths[0]}")
    return frames
