"""Kaggle's kernel: unpacks the code that it carries, and has it run the pipeline (tools/kaggle.py)."""

import base64
import io
import lzma
import os
import subprocess
import sys
import zipfile
from pathlib import Path

# kaggle/push.sh fills these in: options of run_all.sh, and the repository as a compressed zip archive in base64.
OPTIONS = []
CODE = ""

root = Path(os.environ.get("STATEFARM_KAGGLE", "/kaggle"))
code = root / "tmp" / "code"
zipfile.ZipFile(io.BytesIO(lzma.decompress(base64.b64decode(CODE)))).extractall(code)
command = [sys.executable, "-m", "tools.kaggle", "kernel", str(root), *OPTIONS]
status = subprocess.run(command, cwd=code, stderr=subprocess.STDOUT, check=False).returncode
if status:
    sys.exit(f"The pipeline exited with status {status}; see above. What is finished is in working/runs.")
