%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_load_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([places_are_bounded/1]).
-export([a_place_comes_back/1]).
-export([closed_until_opened/1]).
-export([rank_orders_by_use/1]).
-export([ids_are_never_used_twice/1]).
-export([racing_for_the_last_places/1]).

all() ->
    [
        places_are_bounded,
        a_place_comes_back,
        closed_until_opened,
        rank_orders_by_use,
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

%% Fewer in flight comes first; among equals, whoever has had fewer.
rank_orders_by_use(_) ->
    [Idle, Used, Busy] = [hornbeam_load:new() || _ <- lists:seq(1, 3)],
    1 = hornbeam_load:next_request_id(Used),
    true = hornbeam_load:reserve(Busy, 10),
    Ranks = [hornbeam_load:rank(Load) || Load <- [Idle, Used, Busy]],
    ?assertEqual(Ranks, lists:usort(Ranks)).

%% Ids are positive and each is given once, also when many ask.
ids_are_never_used_twice(_) ->
    Load = hornbeam_load:new(),
    Take = fun() -> [hornbeam_load:next_request_id(Load) || _ <- lists:seq(1, 500)] end,
    Ids = lists:append(in_parallel(8, Take)),
    ?assertEqual(lists:seq(1, 4000), lists:sort(Ids)).

%% However many race, no more than the maximum have a place, and all that lose give back what they
%% took for a moment.
racing_for_the_last_places(_) ->
    Load = hornbeam_load:new(),
    Reserve = fun() -> hornbeam_load:reserve(Load, 5) end,
    Won = [true || true <- in_parallel(200, Reserve)],
    ?assert(length(Won) =< 5),
    ?assertEqual(length(Won), hornbeam_load:in_flight(Load)).

%% Internal.

in_parallel(Count, Fun) ->
    Self = self(),
    Pids = [spawn_link(fun() -> receive go -> Self ! {self(), Fun()} end end)
            || _ <- lists:seq(1, Count)],
    [Pid ! go || Pid <- Pids],
    [receive {Pid, Result} -> Result end || Pid <- Pids].
