%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_backlog_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([acknowledges_at_once/1]).
-export([holds_while_full/1]).
-export([holds_the_end/1]).
-export([client_that_takes_nothing/1]).
-export([client_that_takes_little/1]).
-export([stale_timers/1]).
-export([no_timeout/1]).

all() ->
    [
        acknowledges_at_once,
        holds_while_full,
        holds_the_end,
        client_that_takes_nothing,
        client_that_takes_little,
        stale_timers,
        no_timeout
    ].

%% Nothing waits: what was sent is sent.
acknowledges_at_once(_) ->
    Backlog = hornbeam_backlog:new(),
    ?assertNot(hornbeam_backlog:is_full(Backlog)),
    ?assertMatch({7, _}, hornbeam_backlog:sent(7, Backlog)),
    ?assertMatch({0, [], _}, hornbeam_backlog:drained(Backlog)).

%% All of it comes when the queue is empty, once.
holds_while_full(_) ->
    Full = hornbeam_backlog:filled(0, timer(), hornbeam_backlog:new()),
    ?assert(hornbeam_backlog:is_full(Full)),
    {0, More} = hornbeam_backlog:sent(7, Full),
    {0, Most} = hornbeam_backlog:sent(5, More),
    {12, [], Empty} = hornbeam_backlog:drained(Most),
    ?assertNot(hornbeam_backlog:is_full(Empty)),
    ?assertMatch({0, [], _}, hornbeam_backlog:drained(Empty)),
    ?assertMatch({3, _}, hornbeam_backlog:sent(3, Empty)).

holds_the_end(_) ->
    Full = hornbeam_backlog:filled(0, timer(), hornbeam_backlog:new()),
    Held = hornbeam_backlog:hold([{trailers, #{}}, stop], Full),
    {0, [{trailers, #{}}, stop], Empty} = hornbeam_backlog:drained(Held),
    ?assertMatch({0, [], _}, hornbeam_backlog:drained(Empty)).

%% What answers a ping now and then is no progress.
client_that_takes_nothing(_) ->
    Backlog = hornbeam_backlog:filled(5000, timer(), hornbeam_backlog:new()),
    Name = started(),
    ?assertEqual(stalled, hornbeam_backlog:expired(Name, {5000, timer()}, Backlog)),
    ?assertEqual(stalled, hornbeam_backlog:expired(Name, {6023, timer()}, Backlog)).

%% It is looked at again, from where it is then.
client_that_takes_little(_) ->
    Backlog = hornbeam_backlog:filled(5000, timer(), hornbeam_backlog:new()),
    {going, Later} = hornbeam_backlog:expired(started(), {6024, timer()}, Backlog),
    ?assertEqual(stalled, hornbeam_backlog:expired(started(), {7047, timer()}, Later)).

%% One that fired while it was being stopped says nothing.
stale_timers(_) ->
    Backlog = hornbeam_backlog:filled(0, timer(), hornbeam_backlog:new()),
    Stale = started(),
    {0, [], Empty} = hornbeam_backlog:drained(Backlog),
    ?assertEqual({going, Empty}, hornbeam_backlog:expired(Stale, {0, timer()}, Empty)),
    Again = hornbeam_backlog:filled(0, timer(), Empty),
    ?assertNotEqual(Stale, started()),
    ?assertEqual({going, Again}, hornbeam_backlog:expired(Stale, {0, timer()}, Again)).

%% `infinity' starts none, and there is none to stop.
no_timeout(_) ->
    None = fun(_) -> undefined end,
    Backlog = hornbeam_backlog:filled(0, None, hornbeam_backlog:new()),
    ?assert(hornbeam_backlog:is_full(Backlog)),
    ?assertEqual(ok, hornbeam_backlog:stop(Backlog)),
    ?assertMatch({0, [], _}, hornbeam_backlog:drained(Backlog)).

%% Internal.

%% A timer that never fires, and tells its name.
timer() ->
    fun(Name) ->
        self() ! {started, Name},
        erlang:send_after(60000, self(), Name)
    end.

started() ->
    receive {started, Name} -> Name after 0 -> error(not_started) end.
