"""Prediction tables -> calibrated, blended, validated submission."""

from dataclasses import dataclass

from common.settings import setting


@dataclass(frozen=True)
class Options:
    """What a user may change of the blend; each field is an option of the command line."""

    neighbours: bool = setting(
        True, "near-identical images of the same set may share predictions (uses other test images)"
    )
    match_prior: str = setting(
        "auto",
        "move each driver, as recognised by the photographs, towards training's mix; auto: if it helps out of fold",
        choices=("auto", "yes", "no"),
    )
    driver_clusters: str = setting(
        "auto",
        "take each driver's images of one class for a cluster, by their outlines; auto: if it helps out of fold",
        choices=("auto", "yes", "no"),
    )
    all_drivers: str = setting(
        "no",
        "networks trained on all drivers (--fold all): beside a model's folds in its test mean, or instead of them",
        choices=("no", "beside", "instead"),
    )
    test_drivers: int = setting(
        0, "drivers in the test set, for the expected score's interval; 0: by images per driver", least=0, most=10_000
    )
