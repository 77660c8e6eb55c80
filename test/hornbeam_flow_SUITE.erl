%% SPDX-License-Identifier: Apache-2.0
%% What properties do not say: see also prop_flow.
-module(hornbeam_flow_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([nothing_to_ask_for_within_the_window/1]).
-export([asks_for_what_was_taken/1]).
-export([excess_is_paid_back_first/1]).
-export([nothing_taken/1]).
-export([grows_when_it_is_taken/1]).
-export([grows_to_a_limit/1]).
-export([allowed_anew/1]).
-export([resume_only_where_reading_has_stopped/1]).

all() ->
    [
        nothing_to_ask_for_within_the_window,
        asks_for_what_was_taken,
        excess_is_paid_back_first,
        nothing_taken,
        grows_when_it_is_taken,
        grows_to_a_limit,
        allowed_anew,
        resume_only_where_reading_has_stopped
    ].

%% Credit brings the window back to its size, not above it.
nothing_to_ask_for_within_the_window(_) ->
    Flow = hornbeam_flow:received(10, hornbeam_flow:new(100)),
    {[{flow, 10}], Full} = hornbeam_flow:credit(10, Flow),
    ?assertMatch({[], _}, hornbeam_flow:credit(0, Full)).

%% A byte taken is a byte that may come.
asks_for_what_was_taken(_) ->
    Flow = hornbeam_flow:received(100, hornbeam_flow:new(100)),
    {[{flow, 30}], Flow1} = hornbeam_flow:credit(30, Flow),
    ?assertMatch({[{flow, 70}], _}, hornbeam_flow:credit(70, Flow1)).

%% Cowboy has delivered 150 where 100 were asked for: the first 50 taken bring nothing more.
excess_is_paid_back_first(_) ->
    Flow = hornbeam_flow:received(150, hornbeam_flow:new(100)),
    {[], Flow1} = hornbeam_flow:credit(50, Flow),
    ?assertMatch({[{flow, 1}], _}, hornbeam_flow:credit(1, Flow1)).

%% An application that takes nothing gets the window once.
nothing_taken(_) ->
    Flow = hornbeam_flow:received(100, hornbeam_flow:new(100)),
    ?assertMatch({[], _}, hornbeam_flow:credit(0, Flow)).

%% Four windows have to be taken; the next one is eight times as large.
grows_when_it_is_taken(_) ->
    {[{flow, 100}], Flow} = take(100, take(299, hornbeam_flow:new(100))),
    {[{flow, 701}], Grown} = credit_after(1, Flow),
    ?assertMatch({[{flow, 800}], _}, credit_after(800, Grown)).

%% By itself to 1 MiB, and no further.
grows_to_a_limit(_) ->
    [begin
        {_, Flow} = take(3 * Window, take(Window, hornbeam_flow:new(Window))),
        {[{flow, Size}], _} = hornbeam_flow:credit(2 * Full, hornbeam_flow:received(Full, Flow)),
        ?assertEqual({Window, Full}, {Window, Size})
     end || {Window, Full} <- [{131072, 1048576}, {131073, 1048576}, {1048576, 1048576},
                               {2097152, 2097152}]].

take(Bytes, {_, Flow}) -> take(Bytes, Flow);
take(Bytes, Flow) -> credit_after(Bytes, Flow).

credit_after(Bytes, Flow) ->
    hornbeam_flow:credit(Bytes, hornbeam_flow:received(Bytes, Flow)).

%% What may come is said again once half of it is gone, and nothing is where nothing may come.
allowed_anew(_) ->
    New = hornbeam_flow:new(100),
    ?assertMatch({[], _}, hornbeam_flow:allow(100, hornbeam_flow:received(49, New))),
    {[{flow, 50}], Full} = hornbeam_flow:allow(100, hornbeam_flow:received(50, New)),
    {[{flow, 100}], _} = hornbeam_flow:allow(100, hornbeam_flow:received(150, Full)),
    {[{flow, 1}], _} = hornbeam_flow:allow(1, hornbeam_flow:received(100, Full)),
    Stopped = hornbeam_flow:received(100, Full),
    [?assertMatch({[], _}, hornbeam_flow:allow(Room, Stopped)) || Room <- [0, -1]].

%% A socket that is read needs no waking.
resume_only_where_reading_has_stopped(_) ->
    New = hornbeam_flow:new(100),
    ?assertNot(hornbeam_flow:is_stopped(New)),
    ?assert(hornbeam_flow:is_stopped(hornbeam_flow:received(100, New))),
    ?assertEqual([], hornbeam_flow:resume(New)),
    ?assertEqual([], hornbeam_flow:resume(hornbeam_flow:received(99, New))),
    ?assertEqual([{flow, 1}], hornbeam_flow:resume(hornbeam_flow:received(100, New))),
    ?assertEqual([{flow, 1}], hornbeam_flow:resume(hornbeam_flow:received(101, New))).
