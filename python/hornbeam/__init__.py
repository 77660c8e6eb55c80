# SPDX-License-Identifier: Apache-2.0
"""The Python side of Hornbeam: the runtime that serves an application under Erlang/OTP.

Nothing in here is for applications; they import `hornbeam_erlang`.
"""

__all__ = ()
