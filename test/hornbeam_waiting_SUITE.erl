%% SPDX-License-Identifier: Apache-2.0
%% Those who wait: what they are told, and what is left of those who have gone.
-module(hornbeam_waiting_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([init_per_testcase/2]).

-export([woken_in_order/1]).
-export([time_is_over/1]).
-export([leaving/1]).
-export([dying/1]).
-export([nothing_is_left/1]).
-export([uncounted/1]).

all() ->
    [woken_in_order, time_is_over, leaving, dying, nothing_is_left, uncounted].

init_per_testcase(_, Config) ->
    ok = hornbeam_selection:create_table(),
    Config.

%% The oldest are told to try again, and are not counted any more.
woken_in_order(_) ->
    Waiting = hornbeam_waiting:wake(2, waiting([{1, 10}, {2, 5}, {3, 20}])),
    ?assertEqual([{2, retry}, {1, retry}], told()),
    ?assertEqual(1, hornbeam_waiting:size(Waiting)),
    ?assert(hornbeam_selection:is_somebody_waiting(hornbeam_waiting:counter(Waiting))),
    check_nobody(hornbeam_waiting:wake(5, Waiting)).

%% So are those whose time is over.
time_is_over(_) ->
    Waiting = hornbeam_waiting:expire(10, waiting([{1, 10}, {2, 11}])),
    ?assertEqual([{1, timeout}], told()),
    check_nobody(hornbeam_waiting:wake(1, Waiting)).

%% Who leaves is told nothing, and can't leave twice.
leaving(_) ->
    Waiting = hornbeam_waiting:leave({self(), 1}, waiting([{1, 10}])),
    check_nobody(hornbeam_waiting:leave({self(), 1}, Waiting)),
    ?assertEqual([], told()).

%% A connection that dies is reported for each of its requests, before it waits or while it does.
dying(_) ->
    {Pid, Monitor} = spawn_monitor(fun() -> receive stop -> ok end end),
    Early = enter({Pid, 1}, 10, waiting([])),
    Pid ! stop,
    receive {'DOWN', Monitor, process, Pid, _} -> ok end,
    Waiting = enter({Pid, 2}, 10, Early),
    ?assertEqual([1, 2], lists:sort([reported(Pid), reported(Pid)])),
    Left = hornbeam_waiting:leave({Pid, 1}, Waiting),
    ?assertEqual(1, hornbeam_waiting:size(Left)),
    %% It takes nobody's turn meanwhile.
    check_nobody(hornbeam_waiting:wake(1, enter({self(), 3}, 20, Left))),
    ?assertEqual([{3, retry}], told()).

%% However they go, the monitors go with them.
nothing_is_left(_) ->
    Pid = spawn_link(fun() -> receive stop -> ok end end),
    Full = lists:foldl(fun(N, Waiting) -> enter({Pid, N}, N, Waiting) end, waiting([]),
                       lists:seq(1, 9)),
    ?assertEqual(9, monitors()),
    Some = hornbeam_waiting:leave({Pid, 5}, hornbeam_waiting:expire(3, Full)),
    ?assertEqual(5, monitors()),
    check_nobody(hornbeam_waiting:wake(9, Some)),
    ?assertEqual(0, monitors()),
    Pid ! stop.

%% Nobody is counted, whatever becomes of them.
uncounted(_) ->
    Three = lists:foldl(fun({N, ArrivalMs}, Waiting) ->
        hornbeam_waiting:in({self(), N}, ArrivalMs, Waiting)
    end, hornbeam_waiting:new_uncounted(), [{1, 10}, {2, 5}, {3, 20}]),
    ?assertEqual(3, hornbeam_waiting:size(Three)),
    Woken = hornbeam_waiting:wake(1, hornbeam_waiting:expire(5, Three)),
    ?assertEqual([{2, timeout}, {1, retry}], told()),
    Left = hornbeam_waiting:leave({self(), 3}, Woken),
    ?assertEqual(0, hornbeam_waiting:size(Left)).

%% Internal.

waiting(Entries) ->
    lists:foldl(fun({StreamId, ArrivalMs}, Waiting) ->
        enter({self(), StreamId}, ArrivalMs, Waiting)
    end, hornbeam_waiting:new(100), Entries).

enter(StreamKey, ArrivalMs, Waiting) ->
    ok = hornbeam_selection:publish(?MODULE, [], 1, hornbeam_waiting:counter(Waiting), asgi),
    {ok, _} = hornbeam_selection:admit(?MODULE, new),
    hornbeam_waiting:in(StreamKey, ArrivalMs, Waiting).

check_nobody(Waiting) ->
    ?assertEqual(0, hornbeam_waiting:size(Waiting)),
    ?assertNot(hornbeam_selection:is_somebody_waiting(hornbeam_waiting:counter(Waiting))).

told() ->
    receive
        {{_, StreamId}, {pool, What}} -> [{StreamId, What} | told()]
    after 0 ->
        []
    end.

reported(Pid) ->
    receive
        {{waiting_down, {Pid, StreamId}}, _, process, Pid, _} -> StreamId
    after 5000 ->
        error(not_reported)
    end.

monitors() ->
    {monitors, Monitors} = process_info(self(), monitors),
    length(Monitors).
