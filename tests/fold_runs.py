"""Finished fold runs without training, as the pipeline leaves them."""

from pathlib import Path
from typing import Any

from common.run_folder import CONFIG, FAILED, FINISHED, FoldFolder, RunFolder


def finish_fold(
    run: Path,
    model: str,
    fold: int | str,
    settings: dict[str, Any] | None = None,
    results: dict[str, Any] | None = None,
) -> FoldFolder:
    """Marks a fold run as finished, with every file that is in its folder as an output; again after a change."""
    folder = RunFolder(run).fold(model, fold)
    folder.path.mkdir(parents=True, exist_ok=True)
    known = (folder.config() or {}).get("settings", {})
    outputs = {path.name for path in folder.path.iterdir() if path.is_file()} - {CONFIG, FINISHED, FAILED}
    folder.start({"settings": known if settings is None else settings})
    folder.finish(results or {}, sorted(outputs))
    return folder
