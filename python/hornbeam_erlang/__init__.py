# SPDX-License-Identifier: Apache-2.0
"""What Python applications under Hornbeam use of Erlang.

All functions can be called from coroutines, threads and plain code, and wait for their
answer; `hornbeam_erlang.aio` has the same as coroutines. Outside of Hornbeam they work
on a stand-in in this process, so that applications can be tested with plain pytest.

    from hornbeam_erlang import state_incr

    views = state_incr("views")

What can go wrong, all of it a `HornbeamError`:

    HornbeamError
      +-- BridgeClosed         no node any more, or a process forked off a worker
      +-- CallTimeout          (TimeoutError) no answer in time
      +-- EncodeError          (TypeError, ValueError) a value has no Erlang form
      +-- FunctionNotFound     (LookupError) nothing is registered under that name
      |     +-- ServiceNotFound    no service is registered under that path
      +-- NodeDown             (ConnectionError) the other Erlang node can't be reached
      +-- NotAllowed           (PermissionError) the node does not let that be called
      +-- NotAnInteger         (TypeError) a value to be counted up is no integer
      +-- ReentrantCall        (RuntimeError) a finalizer or signal handler called
      +-- RemoteError          the called function failed
      +-- ServiceDown          (ConnectionError) the service's worker died meanwhile
      +-- StateFull            the shared state has reached its bound on memory
      +-- TooManyCalls         too many calls of this worker are under way
      +-- UnknownAtom          (ValueError) the node knows no atom of that name
"""

from hornbeam._errors import (
    BridgeClosed,
    CallTimeout,
    EncodeError,
    FunctionNotFound,
    HornbeamError,
    NodeDown,
    NotAllowed,
    NotAnInteger,
    ReentrantCall,
    RemoteError,
    ServiceDown,
    ServiceNotFound,
    StateFull,
    TooManyCalls,
    UnknownAtom,
)
from hornbeam._terms import Atom, Pid, Reference
from hornbeam_erlang._attachments import attach, detach
from hornbeam_erlang._client import (
    under_hornbeam,
    worker_id,
)
from hornbeam_erlang._functions import (
    call,
    cast,
    connect,
    node,
    nodes,
    ping,
    rpc_call,
    rpc_cast,
)
from hornbeam_erlang._pubsub import (
    Subscription,
    publish,
    subscribe,
)
from hornbeam_erlang._services import (
    AsyncStream,
    Execution,
    Stream,
    await_result,
    execute,
    execute_async,
    register_hook,
    stream,
    stream_async,
    unregister_hook,
)
from hornbeam_erlang._state import (
    state_add,
    state_cas,
    state_decr,
    state_delete,
    state_get,
    state_get_multi,
    state_incr,
    state_keys,
    state_pop,
    state_set,
    state_set_multi,
    state_update,
)

# Short names. `set` hides the builtin of that name in a module that imports it.
get = state_get
set = state_set
incr = state_incr
decr = state_decr
delete = state_delete

__all__ = (
    "AsyncStream",
    "Atom",
    "BridgeClosed",
    "CallTimeout",
    "EncodeError",
    "Execution",
    "FunctionNotFound",
    "HornbeamError",
    "NodeDown",
    "NotAllowed",
    "NotAnInteger",
    "Pid",
    "ReentrantCall",
    "Reference",
    "RemoteError",
    "ServiceDown",
    "ServiceNotFound",
    "StateFull",
    "Stream",
    "Subscription",
    "TooManyCalls",
    "UnknownAtom",
    "attach",
    "await_result",
    "call",
    "cast",
    "connect",
    "decr",
    "delete",
    "detach",
    "execute",
    "execute_async",
    "get",
    "incr",
    "node",
    "nodes",
    "ping",
    "publish",
    "register_hook",
    "rpc_call",
    "rpc_cast",
    "set",
    "state_add",
    "state_cas",
    "state_decr",
    "state_delete",
    "state_get",
    "state_get_multi",
    "state_incr",
    "state_keys",
    "state_pop",
    "state_set",
    "state_set_multi",
    "state_update",
    "stream",
    "stream_async",
    "subscribe",
    "under_hornbeam",
    "unregister_hook",
    "worker_id",
)
