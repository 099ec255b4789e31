"""Kaggle's kernel: unpacks the code that it carries, and has it run the pipeline (tools/kaggle.py).

kaggle/push.sh fills in the two constants.
"""

import base64
import io
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

OPTIONS = ["--time-budget", "8h30m"]  # of run_all.sh
CODE = ""  # the repository: an xz-compressed tar archive, as base64

started = time.time()
root = Path(os.environ.get("STATEFARM_KAGGLE", "/kaggle"))
code = root / "tmp" / "code"
with tarfile.open(fileobj=io.BytesIO(base64.b64decode(CODE)), mode="r:xz") as archive:
    archive.extractall(code, filter="data")
command = [sys.executable, "-m", "tools.kaggle", "kernel", str(root), str(started), *OPTIONS]
process = subprocess.Popen(command, cwd=code, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
for line in process.stdout:
    print(line, end="", flush=True)
if process.wait():
    sys.exit(f"The pipeline exited with status {process.returncode}; see above. What is finished is in working/runs.")
