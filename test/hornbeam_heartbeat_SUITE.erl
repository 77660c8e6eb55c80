%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_heartbeat_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([beats_that_are_answered/1]).
-export([two_missed_beats_are_a_stall/1]).
-export([no_more_pings_than_it_takes/1]).
-export([killed_in_the_end/1]).
-export([never_killed/1]).
-export([late_answers_are_answers/1]).
-export([recovery_tells_how_long_it_was/1]).
-export([unknown_answers/1]).
-export([probes_are_not_beats/1]).
-export([asked_once_where_it_is/1]).
-export([short_stalls_are_not_for_the_log/1]).

all() ->
    [beats_that_are_answered, two_missed_beats_are_a_stall, no_more_pings_than_it_takes,
     killed_in_the_end, never_killed, late_answers_are_answers, recovery_tells_how_long_it_was,
     unknown_answers, probes_are_not_beats, asked_once_where_it_is,
     short_stalls_are_not_for_the_log].

%% Pings are numbered from 1, and nothing else happens.
beats_that_are_answered(_) ->
    lists:foldl(fun(N, Beats0) ->
        {{ping, N}, Beats1} = hornbeam_heartbeat:beat(N * 100, 1000, Beats0),
        {alive, Beats} = hornbeam_heartbeat:pong(N, N * 100 + 99, Beats1),
        ?assertEqual(0, hornbeam_heartbeat:silent_ms(N * 100 + 99, Beats)),
        Beats
    end, hornbeam_heartbeat:new(), lists:seq(1, 20)).

%% The second beat is sent while the first may be on its way; when the third is due it is a stall.
two_missed_beats_are_a_stall(_) ->
    {Actions, Beats} = silent([0, 100, 200, 300], infinity, hornbeam_heartbeat:new()),
    ?assertEqual([{ping, 1}, {ping, 2}, {stalled, 200}, {silent, 300}], Actions),
    ?assert(hornbeam_heartbeat:is_stalled(Beats)).

no_more_pings_than_it_takes(_) ->
    {Actions, _} = silent(lists:seq(0, 60000, 100), infinity, hornbeam_heartbeat:new()),
    ?assertEqual([1, 2], [N || {ping, N} <- Actions]).

killed_in_the_end(_) ->
    {Actions, _} = silent([0, 100, 200, 999, 1000], 1000, hornbeam_heartbeat:new()),
    ?assertEqual([{silent, 999}, {kill, 1000}], lists:nthtail(3, Actions)).

never_killed(_) ->
    {Actions, _} = silent([0, 1, 2, 1 bsl 60], infinity, hornbeam_heartbeat:new()),
    ?assertEqual({silent, 1 bsl 60}, lists:last(Actions)).

%% A loop that answers each beat after the next one is slow, and never silent for long.
late_answers_are_answers(_) ->
    {_, Begun} = silent([0, 100], 250, hornbeam_heartbeat:new()),
    lists:foldl(fun(N, Beats0) ->
        {alive, Beats1} = hornbeam_heartbeat:pong(N, N * 100 + 50, Beats0),
        {{ping, Next}, Beats} = hornbeam_heartbeat:beat((N + 1) * 100, 250, Beats1),
        ?assertEqual(N + 2, Next),
        Beats
    end, Begun, lists:seq(1, 20)).

recovery_tells_how_long_it_was(_) ->
    {_, Stalled} = silent([0, 100, 200], infinity, hornbeam_heartbeat:new()),
    {{recovered, 950}, Back} = hornbeam_heartbeat:pong(1, 950, Stalled),
    ?assertNot(hornbeam_heartbeat:is_stalled(Back)),
    ?assertMatch({alive, _}, hornbeam_heartbeat:pong(2, 951, Back)).

%% Numbers that were not sent, or were answered already, say nothing.
unknown_answers(_) ->
    {_, Beats} = silent([0], infinity, hornbeam_heartbeat:new()),
    [?assertEqual(unknown, hornbeam_heartbeat:pong(N, 1, Beats)) || N <- [-1, 0, 2]],
    {alive, Answered} = hornbeam_heartbeat:pong(1, 1, Beats),
    ?assertEqual(unknown, hornbeam_heartbeat:pong(1, 2, Answered)).

%% A probe that is not answered does not make a stall, and its answer does not end one.
probes_are_not_beats(_) ->
    {Probe, Probed} = hornbeam_heartbeat:probe(hornbeam_heartbeat:new()),
    ?assert(hornbeam_heartbeat:is_probe_out(Probe, Probed)),
    {Actions, Stalled} = silent([0, 100, 200], infinity, Probed),
    ?assertEqual([{ping, 1}, {ping, 2}, {stalled, 200}], Actions),
    {alive, Answered} = hornbeam_heartbeat:pong(0, 300, Stalled),
    ?assert(hornbeam_heartbeat:is_stalled(Answered)),
    ?assertNot(hornbeam_heartbeat:is_probe_out(Probe, Answered)),
    %% What is looked after is that probe, and not the next one.
    {Next, Again} = hornbeam_heartbeat:probe(Answered),
    ?assertNot(hornbeam_heartbeat:is_probe_out(Probe, Again)),
    ?assert(hornbeam_heartbeat:is_probe_out(Next, Again)).

%% It has half a second to answer; a report ends the matter until the next stall.
asked_once_where_it_is(_) ->
    {_, Stalled} = silent([0, 250, 500], infinity, hornbeam_heartbeat:new()),
    {ask, Asked} = hornbeam_heartbeat:inspect(500, Stalled),
    ?assertMatch({wait, _}, hornbeam_heartbeat:inspect(999, Asked)),
    ?assertMatch({give_up, _}, hornbeam_heartbeat:inspect(1000, Asked)),
    Reported = hornbeam_heartbeat:reported(Asked),
    ?assertMatch({wait, _}, hornbeam_heartbeat:inspect(5000, Reported)),
    {{recovered, _}, Back} = hornbeam_heartbeat:pong(2, 6000, Reported),
    ?assertMatch({ask, _}, hornbeam_heartbeat:inspect(500, Back)).

short_stalls_are_not_for_the_log(_) ->
    ?assertMatch({wait, _}, hornbeam_heartbeat:inspect(249, hornbeam_heartbeat:new())),
    ?assertMatch({ask, _}, hornbeam_heartbeat:inspect(250, hornbeam_heartbeat:new())).

%% Internal.

%% The beats at these times, of a worker that does not answer.
silent(Times, StallMs, Beats0) ->
    lists:mapfoldl(fun(NowMs, Beats) -> hornbeam_heartbeat:beat(NowMs, StallMs, Beats) end,
                   Beats0, Times).
