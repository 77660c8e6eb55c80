# SPDX-License-Identifier: Apache-2.0
"""What `hornbeam_erlang` promises, as code that runs on the stand-in and on a node.

A scenario is a function of a key that nobody else uses; it asserts, and returns
nothing. Those of `plain` wait for their answers, those of `tasks` are coroutines. `app`
runs them from all kinds of callers. On the Erlang side, or in the stand-in, there are
functions:

    add(A, B)       the sum                      echo(Value)     the value
    fail(Reason)    fails with `error:Reason`    sleep(Ms)       takes so long
    note(Key)       adds 1 to a key of the state
"""
