# SPDX-License-Identifier: Apache-2.0
"""Build of the codec's C extension; everything else is in pyproject.toml.

The extension is optional: where it can't be built, the pure Python codec does its work.
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
        )
    ]
)
