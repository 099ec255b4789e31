"""The stages in order, in one process: the command line, the plan, training jobs and what runs them, the blend."""

import common  # noqa: F401
