# SPDX-License-Identifier: Apache-2.0
"""Start a Hornbeam worker; run by the node, with its pipes on descriptors 3 and 4.

With the argument `watch` it is no worker, but watches the application's files.
"""

import os
import sys


def find_packages() -> str:
    """Return the directory that holds the packages `hornbeam` and `hornbeam_erlang`.

    In a source tree that is `python` beside `priv`; in a release it lies in `priv`.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    real = os.path.dirname(os.path.realpath(__file__))
    candidates = [
        os.path.join(here, "python"),
        os.path.join(real, "python"),
        os.path.join(os.path.dirname(real), "python"),
    ]

    for candidate in candidates:
        if os.path.isfile(os.path.join(candidate, "hornbeam", "_worker.py")):
            return candidate

    sys.exit(f"hornbeam worker: no package 'hornbeam' in {', '.join(candidates)}")


def main() -> None:
    """Set the module path up, and run the worker."""
    here = os.path.dirname(os.path.abspath(__file__))

    # Python put this directory first (not so with -P, -I or PYTHONSAFEPATH). It would
    # shadow modules of the application, a `worker` for instance.
    if sys.path and os.path.abspath(sys.path[0]) == here:
        del sys.path[0]

    sys.path.insert(0, find_packages())

    if sys.argv[1:] == ["watch"]:
        import hornbeam._watcher

        hornbeam._watcher.main()

    import hornbeam._worker

    hornbeam._worker.main()


# Not in processes that multiprocessing starts: they import this file under another
# name.
if __name__ == "__main__":
    main()
