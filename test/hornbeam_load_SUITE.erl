%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_load_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([places_are_bounded/1]).
-export([a_place_as_it_was_seen/1]).
-export([a_place_comes_back/1]).
-export([closed_until_opened/1]).
-export([closed_for_ever/1]).
-export([rank_orders_by_use/1]).
-export([quiet_ones_come_later/1]).
-export([quiet_begins_with_a_request/1]).
-export([one_probe_at_a_time/1]).
-export([overdue_probe/1]).
-export([doubts_are_resolved_by_their_own_answer/1]).
-export([stalled_and_closed/1]).
-export([ids_are_never_used_twice/1]).
-export([racing_for_the_last_places/1]).

-import(hornbeam_test_parallel, [in_parallel/2]).

%% As in hornbeam_load.
-define(QUIET_MS, 10).

all() ->
    [
        places_are_bounded,
        a_place_as_it_was_seen,
        a_place_comes_back,
        closed_until_opened,
        closed_for_ever,
        rank_orders_by_use,
        quiet_ones_come_later,
        quiet_begins_with_a_request,
        one_probe_at_a_time,
        overdue_probe,
        doubts_are_resolved_by_their_own_answer,
        stalled_and_closed,
        ids_are_never_used_twice,
        racing_for_the_last_places
    ].

%% Exactly as many as there may be get a place.
places_are_bounded(_) ->
    Load = hornbeam_load:new(),
    ?assertEqual(
        [true, true, true, false, false],
        [hornbeam_load:reserve(Load, 3) || _ <- lists:seq(1, 5)]
    ),
    ?assertEqual(3, hornbeam_load:in_flight(Load)).

%% Who has seen how many there are gets a place only where it is still so.
a_place_as_it_was_seen(_) ->
    Load = hornbeam_load:new(),
    ?assert(hornbeam_load:reserve(Load, 2, 0)),
    ?assertEqual(overtaken, hornbeam_load:reserve(Load, 2, 0)),
    ?assertEqual(1, hornbeam_load:in_flight(Load)),
    ?assert(hornbeam_load:reserve(Load, 2, 1)),
    ?assertNot(hornbeam_load:reserve(Load, 2, 2)),
    ?assertEqual(2, hornbeam_load:in_flight(Load)).

%% What is released can be reserved again.
a_place_comes_back(_) ->
    Load = hornbeam_load:new(),
    true = hornbeam_load:reserve(Load, 1),
    false = hornbeam_load:reserve(Load, 1),
    ok = hornbeam_load:release(Load),
    ?assertEqual(0, hornbeam_load:in_flight(Load)),
    ?assert(hornbeam_load:reserve(Load, 1)).

%% A worker takes requests from when it says so until it does not.
closed_until_opened(_) ->
    Load = hornbeam_load:new(),
    ?assertNot(hornbeam_load:is_open(Load)),
    ok = hornbeam_load:open(Load),
    ?assert(hornbeam_load:is_open(Load)),
    ok = hornbeam_load:close(Load),
    ?assertNot(hornbeam_load:is_open(Load)).

%% A heartbeat that is still answered does not open a worker that is to leave.
closed_for_ever(_) ->
    Load = hornbeam_load:new(),
    ok = hornbeam_load:open(Load),
    ok = hornbeam_load:close(Load),
    ok = hornbeam_load:open(Load),
    ?assertNot(hornbeam_load:is_open(Load)),
    ok = hornbeam_load:stall(Load),
    ok = hornbeam_load:recover(Load),
    ?assertNot(hornbeam_load:is_open(Load)).

%% Fewer in flight comes first; among equals, whoever has had fewer.
rank_orders_by_use(_) ->
    [Idle, Used, Busy] = [hornbeam_load:new() || _ <- lists:seq(1, 3)],
    1 = hornbeam_load:next_request_id(Used),
    true = hornbeam_load:reserve(Busy, 10),
    Ranks = [hornbeam_load:rank(Load, 10) || Load <- [Idle, Used, Busy]],
    ?assertEqual(Ranks, lists:usort(Ranks)).

%% One that owes answers and says nothing comes after those that have more in flight; one that has no
%% place comes last; one that says something, or owes nothing, is as good as any.
quiet_ones_come_later(_) ->
    [Talking, Quiet, Full, Idle] = Loads = [hornbeam_load:new() || _ <- lists:seq(1, 4)],
    [true = hornbeam_load:reserve(Load, 10) || Load <- [Talking, Talking, Quiet, Full, Full, Full]],
    hornbeam_test_wait:until(fun() -> hornbeam_load:is_quiet(Quiet) end),
    Ranks = hornbeam_test_wait:within(?QUIET_MS, fun() ->
        ok = hornbeam_load:heard(Talking),
        [hornbeam_load:rank(Load, 3) || Load <- Loads]
    end),
    ?assertMatch([{free, 2, _}, {quiet, 1, _}, {taken, 3, _}, {free, 0, _}], Ranks),
    ?assertMatch([{free, 0, _}, {free, 2, _}, {quiet, 1, _}, {taken, 3, _}], lists:sort(Ranks)),
    ?assertNot(hornbeam_test_wait:within(?QUIET_MS, fun() ->
        ok = hornbeam_load:heard(Quiet),
        hornbeam_load:is_quiet(Quiet)
    end)),
    ?assertNot(hornbeam_load:is_quiet(Idle)).

%% The time before its first request does not count: it had nothing to say.
quiet_begins_with_a_request(_) ->
    Load = hornbeam_load:new(),
    true = hornbeam_load:reserve(Load, 10),
    hornbeam_test_wait:until(fun() -> hornbeam_load:is_quiet(Load) end),
    ok = hornbeam_load:release(Load),
    ?assertNot(hornbeam_load:is_quiet(Load)),
    ?assertNot(hornbeam_test_wait:within(?QUIET_MS, fun() ->
        true = hornbeam_load:reserve(Load, 10),
        IsQuiet = hornbeam_load:is_quiet(Load),
        ok = hornbeam_load:release(Load),
        IsQuiet
    end)).

%% However many notice at the same time, one probe is sent until it is answered.
one_probe_at_a_time(_) ->
    Load = hornbeam_load:new(),
    Want = fun(_) -> hornbeam_load:want_probe(Load) end,
    ?assertEqual([true], [true || true <- in_parallel(50, Want)]),
    ok = hornbeam_load:probed(Load),
    ?assert(hornbeam_load:want_probe(Load)).

%% What a worker says counts for nothing while its loop does not answer, nor that it has nothing to do.
overdue_probe(_) ->
    Load = hornbeam_load:new(),
    ok = hornbeam_load:overdue(Load),
    ?assertNot(hornbeam_load:is_suspect(Load)),
    true = hornbeam_load:want_probe(Load),
    ?assertMatch({free, 0, 0}, hornbeam_load:rank(Load, 1)),
    ok = hornbeam_load:overdue(Load),
    ok = hornbeam_load:heard(Load),
    ?assertMatch({quiet, 0, 0}, hornbeam_load:rank(Load, 1)),
    ?assert(hornbeam_load:is_suspect(Load)),
    ?assertNot(hornbeam_load:want_probe(Load)),
    ok = hornbeam_load:probed(Load),
    ?assertMatch({free, 0, 0}, hornbeam_load:rank(Load, 1)).

%% An answer from before the last death says nothing about what that one means.
doubts_are_resolved_by_their_own_answer(_) ->
    Load = hornbeam_load:new(),
    ?assert(hornbeam_load:is_proven(Load)),
    First = hornbeam_load:doubt(Load),
    ?assertNot(hornbeam_load:is_proven(Load)),
    Second = hornbeam_load:doubt(Load),
    ?assertNot(hornbeam_load:proven(Load, First)),
    ?assertNot(hornbeam_load:is_proven(Load)),
    %% Nor does one that nobody has asked for.
    ?assertNot(hornbeam_load:proven(Load, Second + 1)),
    ?assertNot(hornbeam_load:proven(Load, 1 bsl 70)),
    ?assertNot(hornbeam_load:is_proven(Load)),
    ?assert(hornbeam_load:proven(Load, Second)),
    ?assert(hornbeam_load:is_proven(Load)),
    %% Said again, it is no news, however often.
    ?assertNot(hornbeam_load:proven(Load, Second)),
    ?assert(hornbeam_load:is_proven(Load)).

%% A worker that was closed while it was stalled does not open when it recovers.
stalled_and_closed(_) ->
    Load = hornbeam_load:new(),
    ok = hornbeam_load:stall(Load),
    ok = hornbeam_load:recover(Load),
    ?assertNot(hornbeam_load:is_open(Load)),
    ok = hornbeam_load:open(Load),
    ok = hornbeam_load:stall(Load),
    ?assertNot(hornbeam_load:is_open(Load)),
    ok = hornbeam_load:recover(Load),
    ?assert(hornbeam_load:is_open(Load)),
    ok = hornbeam_load:stall(Load),
    ok = hornbeam_load:close(Load),
    ok = hornbeam_load:recover(Load),
    ?assertNot(hornbeam_load:is_open(Load)).

%% Ids are positive and each is given once, also when many ask.
ids_are_never_used_twice(_) ->
    Load = hornbeam_load:new(),
    Take = fun(_) -> [hornbeam_load:next_request_id(Load) || _ <- lists:seq(1, 500)] end,
    Ids = lists:append(in_parallel(8, Take)),
    ?assertEqual(lists:seq(1, 4000), lists:sort(Ids)).

%% However many race, no more than the maximum have a place, and all that lose give back what they
%% took for a moment.
racing_for_the_last_places(_) ->
    Load = hornbeam_load:new(),
    Reserve = fun(_) -> hornbeam_load:reserve(Load, 5) end,
    Won = [true || true <- in_parallel(200, Reserve)],
    ?assert(length(Won) =< 5),
    ?assertEqual(length(Won), hornbeam_load:in_flight(Load)).
