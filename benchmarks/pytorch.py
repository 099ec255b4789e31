"""Training and prediction against the same networks in PyTorch: bfloat16 autocast, channels_last, the same batch.

    python -m benchmarks.pytorch --install        makes a virtual environment of its own in /tmp, about 1 GB; once
    python -m benchmarks.pytorch                  the three networks at 224x224, BatchNorm frozen in both

torchvision's VGG16 (features only), ResNet50 and InceptionV3 (no auxiliary head) with a new 10-way head, AdamW, one
batch in memory, without a compiler (--compile: with torch.compile). The two take turns, one process each.
"""

import subprocess
import sys
from pathlib import Path

from benchmarks.common import NETWORKS, ROOT, figures, machine, parser

HOME = Path("/tmp/distracted-drivers-pytorch")  # noqa: S108
PACKAGES = ("torch==2.13.0", "torchvision==0.28.0", "numpy")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--install", action="store_true", help=f"PyTorch into {HOME}")
    command.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=tuple(NETWORKS))
    command.add_argument("--steps", type=int, default=6)
    command.add_argument("--size", type=int, default=224)
    command.add_argument("--compile", action="store_true")
    command.add_argument("--data", type=Path, help="not needed: the batch is made up")
    arguments = command.parse_args()
    if arguments.install:
        install()
    python = HOME / "bin" / "python"
    if not python.exists():
        sys.exit(f"PyTorch is not there: python -m benchmarks.pytorch --install ({HOME})")
    print(machine())
    print(f"{'images/s':14}{'training':^26}{'prediction':^26}\n{'':14}" + 2 * f"{'PyTorch':>9}{'here':>8}{'':>9}")
    common = [f"--steps={arguments.steps}", f"--size={arguments.size}"]
    for name in arguments.networks:
        options = [*common, *(["--compile"] if arguments.compile else [])]
        theirs = figures(ROOT / "benchmarks" / "pytorch_step.py", name, *options, python=str(python))
        ours = figures("-m", "benchmarks.gpu", "--one", name, *common, "--batch=32", "--side=1024")
        cells = [f"{theirs[x]:9.2f}{ours[x]:8.2f}{ours[x] / theirs[x]:8.2f}x" for x in ("training", "prediction")]
        print(f"{name:14}" + "".join(cells), flush=True)


def install() -> None:
    """Makes the environment; the builds for CPUs where their index can be had, else those of PyPI (several GB)."""
    subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True)
    pip = [str(HOME / "bin" / "pip"), "install", "--quiet", "--timeout", "20", "--retries", "1", *PACKAGES]
    for options in (["--index-url", CPU_INDEX], []):
        if subprocess.run([*pip, *options], check=False).returncode == 0:
            return
    sys.exit(f"{' '.join(PACKAGES)} cannot be installed here: neither {CPU_INDEX} nor the package index has them")


if __name__ == "__main__":
    main()
