"""What a user's shell sets for other programs changes nothing here."""

import json
import os
from pathlib import Path

import pytest

from common.environment import THREADS
from tests.commands import run_python, succeeded

HOSTILE = {
    "MPLBACKEND": "module://not_installed_here",
    "OMP_NUM_THREADS": "77",
    "OPENBLAS_CORETYPE": "Prescott",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_NUM_INTRAOP_THREADS": "77",
    "KERAS_MAX_EPOCHS": "0",
    "XLA_FLAGS": "--no_such_flag --xla_gpu_cuda_data_dir=/opt/cuda",
    "PYTHONOPTIMIZE": "2",
    "PYTHONWARNINGS": "error",
    "PYTHONIOENCODING": "ascii",
    "OPENCV_IO_MAX_IMAGE_PIXELS": "1",
}
CONFIGURATION = {"floatx": "float64", "epsilon": 1, "backend": "torch", "image_data_format": "channels_first"}


ON_PURPOSE = {
    **{"KERAS_BACKEND": "jax", "KERAS_HOME": "/k", "CUDA_VISIBLE_DEVICES": "1", "STATEFARM_DATA": "/d", THREADS: "3"},
    **{"PYTHON": "python3.12", "HTTPS_PROXY": "http://p", "PIP_INDEX_URL": "http://i", "JAX_PLATFORMS": "cpu"},
    **{"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
}


def test_what_changes_results_goes_and_what_people_set_on_purpose_stays() -> None:
    """Also for what libraries and Python itself read when they are loaded."""
    code = (
        "import json, os, sys; sys.argv = ['-m']\n"  # as `python -m` has it while it imports the package
        "import tools, preprocessing\n"
        "print(sys.flags.optimize, sys.warnoptions, sys.stdout.encoding, sys.flags.utf8_mode, chr(0x2192))\n"
        "print(json.dumps(dict(os.environ)))\n"
    )
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = succeeded(run_python("-c", code, **HOSTILE, **ON_PURPOSE, **locale))
    flags, found = done.stdout.splitlines()
    assert flags == "0 [] utf-8 1 →"
    kept = {"MPLBACKEND": HOSTILE["MPLBACKEND"], "OPENCV_IO_MAX_IMAGE_PIXELS": "100000000"}  # matplotlib's is set later
    kept |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), "3")
    kept |= ON_PURPOSE | {"XLA_FLAGS": "--xla_gpu_cuda_data_dir=/opt/cuda"}
    assert {name: text for name, text in json.loads(found).items() if name in HOSTILE | kept} == kept


def test_keras_is_configured_by_us_alone_and_keeps_its_downloads_where_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps(CONFIGURATION))
    monkeypatch.delenv("KERAS_HOME", raising=False)
    code = (
        "from models.finetuning import runtime; keras = runtime.load_keras()\n"
        "import os; from keras.src.backend import config; from common.environment import keras_home\n"
        "ours = keras.config\n"
        "print(ours.floatx(), ours.epsilon(), ours.image_data_format(), ours.backend())\n"
        "print(config.max_epochs(), config.keras_home(), keras_home() / 'models', os.environ.get('KERAS_HOME'))"
    )
    variables = HOSTILE | {"HOME": str(tmp_path), "PYTHONOPTIMIZE": "0", "PYTHONWARNINGS": "ignore"}
    done = succeeded(run_python("-c", code, **variables))
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    assert done.stdout.splitlines()[-2:] == [
        f"float32 1e-07 channels_last {backend}",
        f"None {tmp_path}/.keras {tmp_path}/.keras/models None",
    ]
