"""The competition: its ten behaviours, the layout of its files, its published sizes.

Source: https://www.kaggle.com/competitions/state-farm-distracted-driver-detection/data
"""

from pathlib import Path

CLASS_NAMES = {
    "c0": "safe driving",
    "c1": "texting - right",
    "c2": "talking on the phone - right",
    "c3": "texting - left",
    "c4": "talking on the phone - left",
    "c5": "operating the radio",
    "c6": "drinking",
    "c7": "reaching behind",
    "c8": "hair and makeup",
    "c9": "talking to passenger",
}
CLASSES = tuple(CLASS_NAMES)  # the order of the columns of every prediction table
NUMBER_OF_CLASSES = len(CLASSES)
SAMPLE_COLUMNS = ("img", *CLASSES)

SLUG = "state-farm-distracted-driver-detection"
DRIVER_LIST = "driver_imgs_list.csv"  # columns subject,classname,img
SAMPLE_SUBMISSION = "sample_submission.csv"  # columns img,c0..c9
TRAIN_FOLDER = "imgs/train"  # .../c0..c9/*.jpg
TEST_FOLDER = "imgs/test"  # .../*.jpg

COMPLETE_TRAIN_IMAGES = 22_424  # of 26 drivers
COMPLETE_TEST_IMAGES = 79_726


def held_out_labels_path(root: Path) -> Path:
    """Where the labels of a practice or demo test set lie: beside its data folder, so that nothing reads them there.

    Columns img,subject,classname.
    """
    return root.parent / f"{root.name}_test_labels.csv"
