%% SPDX-License-Identifier: Apache-2.0
%% Requests whose worker has died, while no other one has shown yet that it lives: they are told when
%% one has, have the time and leave as others do that wait, and hold up nobody.
-module(hornbeam_proof_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([suite/0]).
-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([told_when_one_shows_that_it_lives/1]).
-export([told_when_a_successor_is_ready/1]).
-export([told_when_there_is_none_to_show_it/1]).
-export([nobody_waits_behind_them/1]).
-export([time_is_that_of_the_queue/1]).
-export([time_is_that_of_the_answer/1]).
-export([both_limits_hold_in_the_queue/1]).
-export([client_leaves/1]).

-import(hornbeam_test_client, [connect/1, get/2, response/1]).
-import(hornbeam_test_server, [start/2, release/2, workers/0, in_flight/0]).
-import(hornbeam_test_wait, [until/1]).

suite() ->
    [{timetrap, {seconds, 60}}].

all() ->
    [
        told_when_one_shows_that_it_lives,
        told_when_a_successor_is_ready,
        told_when_there_is_none_to_show_it,
        nobody_waits_behind_them,
        time_is_that_of_the_queue,
        time_is_that_of_the_answer,
        both_limits_hold_in_the_queue,
        client_leaves
    ].

init_per_suite(Config) ->
    hornbeam_test_suite:start_node(Config).

end_per_suite(Config) ->
    hornbeam_test_suite:stop_node(Config).

init_per_testcase(_, Config) ->
    1 = erlang:trace_pattern({hornbeam_dispatch, to_worker, 5}, true, [call_count]),
    hornbeam_test_suite:start_case(Config).

end_per_testcase(_, Config) ->
    %% One that is stopped reads nothing, not even that it is to end.
    _ = [signal("KILL", OsPid) || OsPid <- hornbeam_test_server:running(Config)],
    Left = hornbeam_test_suite:end_case(Config),
    1 = erlang:trace_pattern({hornbeam_dispatch, to_worker, 5}, false, [call_count]),
    Left.

%% It does not ask again before it is told.
told_when_one_shows_that_it_lives(Config) ->
    {_, Socket, Silent} = in_doubt(Config, #{}),
    ?assertEqual(2, tries()),
    release(Config, "go"),
    signal("CONT", Silent),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Socket)),
    ?assertEqual({3, 0}, {tries(), queue()}),
    %% The other one is still to come.
    ?assertMatch([_], [Id || #{worker_id := Id, state := starting} <- workers()]).

told_when_a_successor_is_ready(Config) ->
    {_, Socket, Silent} = in_doubt(Config, #{}),
    release(Config, "go"),
    release(Config, "ready"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Socket)),
    ?assertEqual({3, 0}, {tries(), queue()}),
    signal("KILL", Silent).

%% The silent one ends as well: they wait for a place like others, and get one.
told_when_there_is_none_to_show_it(Config) ->
    {_, Socket, Silent} = in_doubt(Config, #{}),
    signal("KILL", Silent),
    until(fun() -> length(hornbeam_test_log:reports(worker_down)) =:= 2 end),
    %% Told on the tick, and in the queue then.
    until(fun() -> tries() =:= 3 andalso queue() =:= 1 end),
    release(Config, "go"),
    release(Config, "ready"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Socket)),
    ?assertEqual({4, 0}, {tries(), queue()}).

%% The places of a worker that has shown nothing are for all others, also where none may queue.
nobody_waits_behind_them(Config) ->
    {Port, Socket, Silent} = in_doubt(Config, #{max_queue => 0}),
    Other = connect(Port),
    get(Other, "/hello"),
    until(fun() -> lists:sort(in_flight()) =:= [1, undefined] end),
    ?assertEqual(1, queue()),
    release(Config, "go"),
    signal("CONT", Silent),
    ?assertMatch(#{status := 200}, response(Other)),
    ?assertMatch(#{status := 200}, response(Socket)).

time_is_that_of_the_queue(Config) ->
    {_, Socket, Silent} = bereaved(Config, #{queue_timeout => 200}),
    ?assertMatch(#{status := 503}, response(Socket)),
    ?assertEqual({2, 0}, {tries(), queue()}),
    signal("KILL", Silent).

time_is_that_of_the_answer(Config) ->
    {_, Socket, Silent} = bereaved(Config, #{timeout => 2000, queue_timeout => infinity}),
    ?assertMatch(#{status := 504}, response(Socket)),
    ?assertEqual({2, 0}, {tries(), queue()}),
    signal("KILL", Silent).

%% The time of the answer counts from the arrival, that of the queue from the death. The pool waits for
%% the shorter one, and is told from when, so that neither is exceeded.
both_limits_hold_in_the_queue(_) ->
    Since = fun(QueueMs, AnswerMs, Dispatch) ->
        Server = #{name => ?MODULE, window => 65536, queue_timeout => QueueMs, timeout => AnswerMs},
        enqueued(Server, Dispatch)
    end,
    {First, Arrived = {_, ArrivedMs}} = timed(fun() -> hornbeam_dispatch:new([]) end),
    until(fun() -> erlang:monotonic_time(millisecond) > ArrivedMs + 20 end),
    {Second, Died} = timed(fun() -> hornbeam_dispatch:unlinked(First) end),
    [
        begin
            LimitMs = min(QueueMs, AnswerMs),
            Limits = {QueueMs, AnswerMs},
            check_by(Arrived, Arrived, Limits, Since(QueueMs, AnswerMs, First) + LimitMs),
            check_by(Died, Arrived, Limits, Since(QueueMs, AnswerMs, Second) + LimitMs)
        end
     || {QueueMs, AnswerMs} <- [{5000, 30000}, {5000, 5000}, {5010, 5000}, {30000, 5000},
                                {5000, infinity}, {infinity, 5000}]
    ],
    ?assert(is_integer(Since(infinity, infinity, Second))).

%% As in the queue, nothing is left of it.
client_leaves(Config) ->
    {_, Socket, Silent} = in_doubt(Config, #{queue_timeout => 60000}),
    hornbeam_test_client:close(Socket),
    until(fun() -> queue() =:= 0 end),
    signal("CONT", Silent),
    until(fun() -> in_flight_of_ready() =:= [0] end),
    ?assertEqual(2, tries()).

%% Internal.

%% A request that waits for a worker to show that it lives.
in_doubt(Config, Options) ->
    Found = bereaved(Config, Options),
    until(fun() -> queue() =:= 1 end),
    Found.

%% A request whose worker has died, beside one that says nothing and a successor that is not ready.
bereaved(Config, Options) ->
    Port = start(Config, maps:merge(#{app => "as_told:app", workers => 2, heartbeat => 60000,
                                      stall_timeout => infinity}, Options)),
    Start = filename:join(proplists:get_value(folder, Config), "start"),
    ok = file:write_file(Start, <<"when_told">>),
    Socket = connect(Port),
    get(Socket, "/hold?until=go"),
    until(fun() -> lists:sort(in_flight()) =:= [0, 1] end),
    [Dying] = [OsPid || #{in_flight := 1, os_pid := OsPid} <- workers()],
    [Silent] = [OsPid || #{in_flight := 0, os_pid := OsPid} <- workers()],
    signal("STOP", Silent),
    signal("KILL", Dying),
    {Port, Socket, Silent}.

signal(Name, OsPid) ->
    _ = os:cmd("kill -" ++ Name ++ " " ++ integer_to_list(OsPid)),
    ok.

queue() ->
    maps:get(queue, hornbeam:info()).

in_flight_of_ready() ->
    [InFlight || #{state := ready, in_flight := InFlight} <- workers()].

%% How often a worker has been looked for.
tries() ->
    {call_count, Count} = erlang:trace_info({hornbeam_dispatch, to_worker, 5}, call_count),
    Count.

%% From when the pool, which is this process, is told that it waits.
enqueued(Server, Dispatch) ->
    Request = #{stream_id => 1, method => <<"GET">>, version => 'HTTP/1.1', server => Server},
    Body = hornbeam_request_body:new(#{has_body => false, body_length => 0}, Request),
    ok = hornbeam_selection:publish(?MODULE, [], 1, hornbeam_selection:new_waiting(1), asgi),
    queued = hornbeam_dispatch:to_worker(queued, undefined, Body, Request, Dispatch),
    ok = hornbeam_selection:forget(?MODULE),
    receive {'$gen_cast', {enqueue, _, SinceMs}} -> SinceMs end.

plus(_, infinity) -> infinity;
plus(Ms, LimitMs) -> Ms + LimitMs.

%% What has read the clock itself, and between which times.
timed(Do) ->
    BeforeMs = erlang:monotonic_time(millisecond),
    Done = Do(),
    {Done, {BeforeMs, erlang:monotonic_time(millisecond)}}.

%% Terms of Erlang: `infinity' is above all numbers.
check_by(Queued, Arrived, {QueueMs, AnswerMs} = Limits, ByMs) ->
    [FromMs, ToMs] = [min(plus(element(N, Queued), QueueMs), plus(element(N, Arrived), AnswerMs))
                      || N <- [1, 2]],
    ?assert(ByMs >= FromMs andalso ByMs =< ToMs, {Limits, FromMs, ToMs, ByMs}).
