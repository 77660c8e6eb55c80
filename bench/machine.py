# SPDX-License-Identifier: Apache-2.0
"""What the figures were measured on and with."""

import os
import platform
import re
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "uvicorn", "uvloop", "httptools", "websockets", "granian", "hypercorn", "h2",
    "gunicorn", "uvicorn-worker", "daphne", "fastapi", "starlette", "Flask", "redis",
)  # fmt: skip
_VERSION = re.compile(r"v?=?(\d+\.\d[\w.]*)")


def describe() -> dict[str, str]:
    """Facts by name, in the order of a table."""
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    return {
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{_memory_gib():.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "load average before": load,
        "Python": platform.python_version(),
        "Erlang/OTP": _otp(),
        "loads": ", ".join(
            f"{name} {version}"
            for name, option in (("wrk", "-v"), ("h2load", "--version"))
            if (version := _program_version(name, option))
        ),
        "Redis": _program_version("redis-server", "--version") or "none",
        "packages": ", ".join(
            f"{name} {version}" for name in PACKAGES if (version := _package(name))
        ),
    }


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found[1] if found else platform.machine()


def _memory_gib() -> float:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return pages / 1024**3


def _otp() -> str:
    code = 'io:put_chars(erlang:system_info(otp_release)), io:put_chars([" ERTS ",' \
        ' erlang:system_info(version)]), halt().'  # fmt: skip
    return _output(["erl", "-noinput", "-eval", code])


def _program_version(name: str, option: str) -> str | None:
    if shutil.which(name) is None:
        return None

    found = _VERSION.search(_output([name, option]))
    return found[1] if found else "of unknown version"


def _package(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _output(command: list[str]) -> str:
    # `wrk -v` says it and exits with status 1.
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
