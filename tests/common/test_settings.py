"""The command line is derived from frozen dataclasses; a mistake is one line that names the nearest right word."""

import pytest

from common.settings import CommandLine, ImageSize, add_settings, chosen
from models.finetuning.architecture import Recipe


def parse(*words: str) -> dict[str, object]:
    parser = CommandLine(prog="train")
    add_settings(parser, Recipe(), "recipe")
    return chosen(parser.parse_args(list(words)), Recipe)


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        parse(*words)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


def test_only_what_was_typed_is_chosen() -> None:
    assert parse() == {}
    assert parse("--epochs", "3", "--no-auxiliary", "--image-size", "240x320", "--pooled-layers", "a, b") == {
        "epochs": 3,
        "auxiliary": False,
        "image_size": ImageSize(240, 320),
        "pooled_layers": ("a", "b"),
    }


def test_unknown_option_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown option --learnin-rate. Did you mean --learning-rate?" in refusal(capsys, "--learnin-rate", "1")
    assert "Did you mean --epochs?" in refusal(capsys, "--epoch=3")  # abbreviations are errors too
    assert "unknown argument 7" in refusal(capsys, "7")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--epochs", "few"), "expected a whole number, found 'few'"),
        (("--epochs", "2.5"), "expected a whole number, found '2.5'"),
        (("--learning-rate", "fast"), "expected a number, found 'fast'"),
        (("--learning-rate", "10.1"), "expected 0 to 10, found 10.1"),
        (("--batch-size", "0"), "expected at least 1, found 0"),
        (("--clip-norm", "nan"), "expected at least 0, found nan"),
        (("--optimizer", "sgdd"), "Did you mean sgd?"),
        (("--image-size", "240"), "expected HEIGHTxWIDTH in pixels, such as 240x320, found '240'"),
        (("--image-size", "0x320"), "expected HEIGHTxWIDTH"),
        (("--epochs",), "expected one argument"),
    ],
)
def test_wrong_values(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], expected: str) -> None:
    message = refusal(capsys, *words)
    assert expected in message and words[0] in message
