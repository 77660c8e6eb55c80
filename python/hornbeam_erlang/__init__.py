# SPDX-License-Identifier: Apache-2.0
"""What Python applications under Hornbeam use of Erlang.

All functions can be called from coroutines, threads and plain code, and wait for their
answer. Outside of Hornbeam they work on a stand-in in this process, so that
applications can be tested with plain pytest.

    from hornbeam_erlang import state_incr

    views = state_incr("views")

What can go wrong, all of it a `HornbeamError`:

    HornbeamError
      +-- BridgeClosed       no node any more, or a process forked off a worker
      +-- CallTimeout        (TimeoutError) no answer in time
      +-- EncodeError        (TypeError, ValueError) a value has no Erlang form
      +-- FunctionNotFound   (LookupError) nothing is registered under that name
      +-- NodeDown           (ConnectionError) the other Erlang node can't be reached
      +-- NotAnInteger       (TypeError) a value to be counted up is no integer
      +-- ReentrantCall      (RuntimeError) a finalizer or signal handler called
      +-- RemoteError        the called function failed
"""

from hornbeam._errors import (
    BridgeClosed,
    CallTimeout,
    EncodeError,
    FunctionNotFound,
    HornbeamError,
    NodeDown,
    NotAnInteger,
    ReentrantCall,
    RemoteError,
)
from hornbeam._terms import Atom, Pid, Reference
from hornbeam_erlang._client import under_hornbeam, worker_id
from hornbeam_erlang._state import (
    state_decr,
    state_delete,
    state_get,
    state_incr,
    state_set,
)

# Short names. `set` hides the builtin of that name in a module that imports it.
get = state_get
set = state_set
incr = state_incr
decr = state_decr
delete = state_delete

__all__ = (
    "Atom",
    "BridgeClosed",
    "CallTimeout",
    "EncodeError",
    "FunctionNotFound",
    "HornbeamError",
    "NodeDown",
    "NotAnInteger",
    "Pid",
    "ReentrantCall",
    "Reference",
    "RemoteError",
    "decr",
    "delete",
    "get",
    "incr",
    "set",
    "state_decr",
    "state_delete",
    "state_get",
    "state_incr",
    "state_set",
    "under_hornbeam",
    "worker_id",
)
