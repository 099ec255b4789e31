"""What a person does with the pipeline and its trained networks: plan, predict, explain, compare, export."""

import common  # noqa: F401
