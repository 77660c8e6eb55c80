# SPDX-License-Identifier: Apache-2.0
"""How the state machines of the test suite are run.

HORNBEAM_MODEL_RUNS runs more of them: `make soak SOAK=models`.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def machine_settings(runs: int, steps: int) -> settings:
    """So many runs of so many steps at most, unless the environment wants more runs."""
    return settings(
        max_examples=int(os.environ.get("HORNBEAM_MODEL_RUNS", runs)),
        stateful_step_count=steps,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
