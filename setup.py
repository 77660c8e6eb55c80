# SPDX-License-Identifier: Apache-2.0
"""Build of the C extensions; everything else is in pyproject.toml.

They are optional: where they can't be built, pure Python code does their work.
"""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "hornbeam._etf_c",
            sources=sorted(glob("python/hornbeam/_etf_c*.c")),
            depends=sorted(glob("python/hornbeam/_etf_c*.h")),
            optional=True,
        ),
        Extension(
            "hornbeam._http_c",
            sources=sorted(glob("python/hornbeam/_http_c*.c")),
            depends=["python/hornbeam/_http_c.h"],
            optional=True,
        ),
    ]
)
