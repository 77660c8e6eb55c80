%% SPDX-License-Identifier: Apache-2.0
%% What properties do not say: see also prop_queue.
-module(hornbeam_queue_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([oldest_first/1]).
-export([arrival_decides_not_insertion/1]).
-export([leaving_from_the_middle/1]).
-export([expiry_includes_the_limit/1]).
-export([empty/1]).
-export([nobody_waits_twice/1]).

all() ->
    [
        oldest_first,
        arrival_decides_not_insertion,
        leaving_from_the_middle,
        expiry_includes_the_limit,
        empty,
        nobody_waits_twice
    ].

%% Those that came in the same millisecond leave in the order in which they were put in.
oldest_first(_) ->
    ?assertEqual([a, b, c], drain(queue([{a, 5}, {b, 5}, {c, 5}]))).

%% One that was woken in vain comes back to its place in front of younger ones.
arrival_decides_not_insertion(_) ->
    {ok, a, Rest} = hornbeam_queue:out(queue([{a, 1}, {b, 2}])),
    ?assertEqual([a, b], drain(hornbeam_queue:in(a, 1, Rest))),
    ?assertEqual([c, b, a], drain(queue([{a, 3}, {b, 2}, {c, -1}]))).

%% Whoever leaves is not served, and cannot leave twice.
leaving_from_the_middle(_) ->
    {ok, Queue} = hornbeam_queue:remove(b, queue([{a, 1}, {b, 2}, {c, 3}])),
    ?assertEqual(2, hornbeam_queue:size(Queue)),
    ?assertEqual(false, hornbeam_queue:remove(b, Queue)),
    ?assertEqual([a, c], drain(Queue)).

%% Exactly at the limit is over it.
expiry_includes_the_limit(_) ->
    {Expired, Left} = hornbeam_queue:expire(2, queue([{c, 3}, {b, 2}, {a, 1}])),
    ?assertEqual([a, b], Expired),
    ?assertEqual([c], drain(Left)),
    ?assertMatch({[], _}, hornbeam_queue:expire(0, queue([{a, 1}]))).

%% An empty queue has nothing to give.
empty(_) ->
    Queue = hornbeam_queue:new(),
    ?assertEqual(0, hornbeam_queue:size(Queue)),
    ?assertEqual(empty, hornbeam_queue:out(Queue)),
    ?assertEqual({[], Queue}, hornbeam_queue:expire(1 bsl 60, Queue)),
    ?assertEqual(false, hornbeam_queue:remove(a, Queue)).

%% To be in it twice is a mistake of the caller's.
nobody_waits_twice(_) ->
    ?assertError(function_clause, hornbeam_queue:in(a, 2, queue([{a, 1}]))).

%% Internal.

queue(Entries) ->
    lists:foldl(
        fun({Key, ArrivalMs}, Queue) -> hornbeam_queue:in(Key, ArrivalMs, Queue) end,
        hornbeam_queue:new(),
        Entries
    ).

drain(Queue) ->
    case hornbeam_queue:out(Queue) of
        {ok, Key, Rest} -> [Key | drain(Rest)];
        empty -> []
    end.
