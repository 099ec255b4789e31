"""Keras, quietly, on this machine's hardware. The only module that knows which backend is underneath."""

import contextlib
import importlib.util
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from common import environment
from common.environment import load_matplotlib
from common.errors import UserError

BACKENDS = ("tensorflow", "jax")
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
DETERMINISM = ("auto", "yes", "no")
AMX = "AMX-BF16"
M_PERTURB = -6  # glibc's option: what malloc writes into the memory that it gives out (malloc.h, mallopt(3))


def start(precision: str, seed: int, deterministic: str = "auto") -> str:
    """Loads Keras, sets the seed and the dtype policy, which is returned, for one of `PRECISIONS` and `DETERMINISM`."""
    import cv2

    cv2.setNumThreads(1)  # batches are made by threads of our own
    keras = load_keras()
    policy, _ = choose_precision(precision)
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(policy)
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        if choose_determinism(deterministic)[0]:
            tensorflow.config.experimental.enable_op_determinism()
        if policy == "mixed_bfloat16" and bfloat16_unit() == AMX:
            clear_new_memory()
    return policy


def clear_new_memory(byte: int | None = 0) -> bool:
    """Lets malloc fill all memory that it gives out from here on; False where the C library cannot (only glibc can).

    oneDNN's weight gradients of convolutions in bfloat16 on AMX (3.7.3, which TensorFlow 2.21 has) multiply some of
    their scratch memory, which nobody wrote, by zero. Old bytes that spell a NaN or an infinity there make NaN of it,
    once in some hundred steps. What it costs: `python -m benchmarks.stale_memory`.

    Args:
        byte: what is written, 0 to 255; None ends it.
    """
    import ctypes

    value = 0 if byte is None else (byte ^ 0xFF) or 0x100  # glibc inverts it and writes the lowest byte; 0 is 'nothing'
    library = ctypes.CDLL(None)
    return hasattr(library, "mallopt") and library.mallopt(M_PERTURB, value) == 1


def load_keras() -> Any:
    """Imports Keras with its own defaults, without the libraries' greetings; what they print on failure is shown."""
    first = "keras" not in sys.modules
    if first:
        environment.pin()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend not in BACKENDS or importlib.util.find_spec(backend) is None:
        raise UserError(
            f"KERAS_BACKEND={backend}: expected {' or '.join(BACKENDS)}, and installed. "
            "For JAX: .venv/bin/python -m pip install jax (see its own instructions for GPUs and TPUs)."
        )
    with stderr_held_back():
        if first:
            load_matplotlib()
            _import_without_configuration()
        import keras

        keras.config.set_floatx("float32")  # where a notebook has loaded Keras before
        keras.config.set_epsilon(1e-7)
        keras.config.set_image_data_format("channels_last")
        if keras.backend.backend() == "tensorflow":
            import tensorflow

            tensorflow.config.list_physical_devices()
            tensorflow.get_logger().setLevel("ERROR")  # its advice on retracing is for its own developers
    return keras


def _import_without_configuration() -> None:
    """Imports Keras where it finds no keras.json; its downloads stay where it always keeps them."""
    home = os.environ.get("KERAS_HOME")
    os.environ["KERAS_HOME"] = os.devnull  # there is nothing inside it, and nothing can be written there
    try:
        from keras.src.backend import config
    finally:
        del os.environ["KERAS_HOME"]
        if home:
            os.environ["KERAS_HOME"] = home
    config._KERAS_DIR = str(environment.keras_home())
    with contextlib.suppress(OSError):
        environment.keras_home().mkdir(parents=True, exist_ok=True)


def choose_precision(precision: str) -> tuple[str, str]:
    """The dtype policy for `--precision`, and the reason."""
    if precision != "auto":
        return precision, "as asked"
    capability = _gpu_compute_capability()
    if capability is not None:
        name = f"GPU of compute capability {capability[0]}.{capability[1]}"
        if capability >= (8, 0):
            return "mixed_bfloat16", name
        return ("mixed_float16", name) if capability >= (7, 0) else ("float32", f"{name} has no fast half precision")
    if _backend() != "tensorflow":
        return "float32", f"{_backend()} on a CPU gains nothing by less"
    unit = bfloat16_unit()
    return ("mixed_bfloat16", f"CPU with {unit}") if unit else ("float32", "CPU without bfloat16 units")


def choose_determinism(asked: str) -> tuple[bool, str]:
    """Whether operations give the same bits each time, for `--deterministic`, and the reason."""
    if _backend() != "tensorflow":
        return False, f"{_backend()} is left as it is"
    where = "GPU: slower, and the same bytes each time" if has_accelerator() else "CPU"
    return asked != "no", where if asked == "auto" else "as asked"


def compiles_with_xla() -> bool:
    """Whether Keras compiles a network with XLA. Not on TensorFlow: minutes on each GPU, and no determinism."""
    return _backend() != "tensorflow"


def expects_bfloat16(precision: str) -> bool:
    """Whether `--precision` will be bfloat16 on this CPU, without loading Keras, for estimates of time."""
    wanted = precision == "mixed_bfloat16" or (precision == "auto" and environment.keras_backend() == "tensorflow")
    return wanted and bool(bfloat16_unit())


def versions() -> dict[str, str]:
    """Versions of what computes, for the record of a run."""
    import numpy

    keras = load_keras()
    found = {"python": platform.python_version(), "numpy": numpy.__version__, "keras": keras.__version__}
    backend = _backend()
    module = sys.modules.get(backend)
    return found | {"backend": backend, backend: getattr(module, "__version__", "unknown")}


def apply_adam(
    variable: Any, momentum: Any, velocity: Any, gradient: Any, step: Any, rate: Any, optimizer: Any
) -> bool:
    """Adam's update of one variable as one native operation, where the backend has it; False where it has none.

    Keras's own dozen of element-wise operations each goes through the memory once, which takes about twice the time.
    """
    if _backend() != "tensorflow":
        return False
    import tensorflow

    step = tensorflow.cast(step, tensorflow.float32)
    tensorflow.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=momentum.value.handle,
        v=velocity.value.handle,
        beta1_power=optimizer.beta_1**step,
        beta2_power=optimizer.beta_2**step,
        lr=tensorflow.cast(rate, tensorflow.float32),
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        epsilon=optimizer.epsilon,
        grad=gradient,
    )
    return True


def only_if(condition: Any, change: Callable[[], None], variables: Sequence[Any]) -> None:
    """Calls `change`, which assigns to `variables`, where a condition holds, which is known only when the step runs."""
    if _backend() == "tensorflow":
        import tensorflow

        tensorflow.cond(condition, change, lambda: None)
        return
    keras = load_keras()
    before = [variable.value for variable in variables]
    change()
    for variable, old in zip(variables, before, strict=True):
        variable.assign(keras.ops.where(condition, variable.value, old))


def gradients(function: Callable[[list[Any]], Any], inputs: Sequence[Any]) -> list[Any]:
    """The gradients of the sum of what a function of arrays returns, with respect to each of them, as NumPy arrays."""
    import numpy

    if _backend() == "jax":
        import jax

        found = jax.grad(lambda arrays: function(arrays).sum())([jax.numpy.asarray(array) for array in inputs])
    else:
        import tensorflow

        tensors = [tensorflow.convert_to_tensor(array) for array in inputs]
        with tensorflow.GradientTape() as tape:
            tape.watch(tensors)
            result = tensorflow.reduce_sum(function(tensors))
        found = tape.gradient(result, tensors)
    return [numpy.asarray(array) for array in found]


def _backend() -> str:
    return str(load_keras().backend.backend())


@cache
def bfloat16_unit() -> str:
    """The processor's bfloat16 instructions, or nothing."""
    try:
        flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
    except OSError:
        return ""
    return AMX if "amx_bf16" in flags else "AVX512-BF16" if "avx512_bf16" in flags else ""


def has_accelerator() -> bool:
    """Whether the backend computes on something that is not the CPU."""
    return _gpu_compute_capability() is not None


def _gpu_compute_capability() -> tuple[int, int] | None:
    """Of the first GPU that the backend sees; (8, 0) where it sees one but not its capability (TPUs, other makers)."""
    if _backend() == "tensorflow":
        import tensorflow

        devices = tensorflow.config.list_physical_devices("GPU")
        if not devices:
            return None
        found = tensorflow.config.experimental.get_device_details(devices[0]).get("compute_capability")
        return tuple(found) if found else (8, 0)
    import jax

    device = jax.devices()[0]
    if device.platform == "cpu":
        return None
    major, _, minor = str(getattr(device, "compute_capability", "8.0")).partition(".")
    return (int(major), int(minor or 0)) if major.isdigit() else (8, 0)


def peak_memory() -> tuple[int, int]:
    """Bytes that this process took at most: of the machine's memory, and of its first GPU's (0 without one)."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if not has_accelerator() or _backend() != "tensorflow":
        return own, 0
    import tensorflow

    return own, int(tensorflow.config.experimental.get_memory_info("GPU:0")["peak"])


@contextlib.contextmanager
def stderr_held_back() -> Iterator[None]:
    """Holds back what native code writes to standard error, and shows it only if the block fails."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(saved, 2)
            held.seek(0)
            sys.stderr.write(held.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
