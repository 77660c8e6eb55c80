# SPDX-License-Identifier: Apache-2.0
"""All jobs by name, in the order in which they run."""

from bench.job import Job
from bench.jobs import disturbed, events, http, idle, shared, sockets

JOBS: dict[str, Job] = {
    job.name: job
    for job in (
        *http.JOBS,
        *events.JOBS,
        *sockets.JOBS,
        shared.COUNTER,
        *disturbed.JOBS,
        *idle.JOBS,
        *shared.GROWING,
    )
}
