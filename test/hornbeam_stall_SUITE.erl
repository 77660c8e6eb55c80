%% SPDX-License-Identifier: Apache-2.0
%% Requests that a worker has not begun when its loop is blocked, with a worker that plays one.
-module(hornbeam_stall_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([post_goes_elsewhere/1]).
-export([post_goes_elsewhere_before_the_stall/1]).
-export([body_that_comes_later/1]).
-export([body_that_was_lost/1]).
-export([nobody_else/1]).
-export([given_back_before_it_is_killed/1]).
-export([report_is_logged_once/1]).

-import(hornbeam_test_client, [connect/1, send/2, response/1, request/2]).
-import(hornbeam_test_server, [start/2, release/2, workers/0]).
-import(hornbeam_test_wait, [until/1]).

all() ->
    [post_goes_elsewhere, post_goes_elsewhere_before_the_stall, body_that_comes_later,
     body_that_was_lost, nobody_else, given_back_before_it_is_killed, report_is_logged_once].

init_per_suite(Config) ->
    hornbeam_test_suite:start_node(Config).

end_per_suite(Config) ->
    hornbeam_test_suite:stop_node(Config).

init_per_testcase(_, Config) ->
    hornbeam_test_suite:start_case(Config).

end_per_testcase(_, Config) ->
    hornbeam_test_suite:end_case(Config).

%% It is not idempotent and has a body, and is served by the other one as it was not begun.
post_goes_elsewhere(Config) ->
    {Port, Held} = asleep(Config, #{heartbeat => 100}, ""),
    Posting = post_to_sleeper(Config, Port, "five!", "five!"),
    ?assertMatch(#{status := 200, body := <<"five!">>}, response(Posting)),
    ?assert(given_back(Config)),
    in_order_again(Config, Held).

%% A probe that is not answered is enough, when another request has had it sent.
post_goes_elsewhere_before_the_stall(Config) ->
    {Port, Held} = asleep(Config, #{heartbeat => 60000, stall_timeout => infinity}, ""),
    Posting = post_to_sleeper(Config, Port, "five!", "five!"),
    %% Whoever comes later notices, if it does not get there as well.
    until(fun() ->
        Later = connect(Port),
        send(Later, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"),
        self() ! {later, Later},
        given_back(Config)
    end),
    [?assertMatch(#{status := 200}, response(Later)) || Later <- later()],
    ?assertMatch(#{status := 200, body := <<"five!">>}, response(Posting)),
    in_order_again(Config, Held).

%% What is not all there can't be given back, and is when it is.
body_that_comes_later(Config) ->
    {Port, Held} = asleep(Config, #{heartbeat => 50}, ""),
    Posting = post_to_sleeper(Config, Port, "five!", "fi"),
    until(fun() -> is_stalled() end),
    ?assertNot(given_back(Config)),
    send(Posting, "ve!"),
    ?assertMatch(#{status := 200, body := <<"five!">>}, response(Posting)),
    ?assert(given_back(Config)),
    in_order_again(Config, Held).

%% A worker that gives back another body than it has got is not believed.
body_that_was_lost(Config) ->
    {Port, Held} = asleep(Config, #{heartbeat => 50}, "&lost=2"),
    Posting = post_to_sleeper(Config, Port, "five!", "five!"),
    ?assertMatch(#{status := 502}, response(Posting)),
    in_order_again(Config, Held).

%% Where there is nobody else it stays, and is served when the loop is free.
nobody_else(Config) ->
    Port = start(Config, #{workers => 1, heartbeat => 50}),
    #{status := 200} = request(Port, "/fall_asleep?with=next&until=go"),
    Posting = connect(Port),
    post(Posting, "five!", "five!"),
    until(fun() -> kept(Config) end),
    until(fun() -> is_stalled() end),
    ?assertNot(given_back(Config)),
    New = connect(Port),
    send(New, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"),
    until(fun() -> maps:get(queue, hornbeam:info()) =:= 1 end),
    release(Config, "go"),
    %% Who has waited gets its turn at once.
    ?assertMatch(#{status := 200}, response(New)).

%% What has not begun when the worker is about to be killed waits for the next one. It is asked for two
%% heartbeats before that: as long as the worker's watchdog has to give it back.
given_back_before_it_is_killed(Config) ->
    Port = start(Config, #{workers => 1, heartbeat => 200, stall_timeout => 1000}),
    #{status := 200} = request(Port, "/fall_asleep?with=next&until=never"),
    Posting = connect(Port),
    post(Posting, "five!", "five!"),
    ?assertMatch(#{status := 200, body := <<"five!">>}, response(Posting)),
    ?assert(given_back(Config)),
    ?assertMatch([_], hornbeam_test_log:reports(worker_stalled)).

%% One warning while it lasts, one when it is over.
report_is_logged_once(Config) ->
    Port = start(Config, #{workers => 1, heartbeat => 50}),
    #{status := 200} = request(Port, "/fall_asleep?until=go"),
    until(fun() -> hornbeam_test_log:reports(loop_blocked) =/= [] end),
    [Report] = hornbeam_test_log:reports(loop_blocked),
    ?assertMatch(#{location := <<"a.py:1 in f">>, stack := <<"s">>, requests := [],
                   worker_id := 1, blocked_ms := Ms} when Ms >= 250, Report),
    release(Config, "go"),
    until(fun() -> hornbeam_test_log:reports(loop_unblocked) =/= [] end),
    [#{blocked_ms := Longer}] = hornbeam_test_log:reports(loop_unblocked),
    ?assert(Longer >= maps:get(blocked_ms, Report)),
    ?assertEqual([Report], hornbeam_test_log:reports(loop_blocked)).

%% Internal.

later() ->
    receive {later, Socket} -> [Socket | later()] after 0 -> [] end.

%% Two workers, of which one falls asleep over the next request that it gets: no heartbeat can tell
%% that before it has it. The other has as many requests as it may have.
asleep(Config, Options, Query) ->
    Port = start(Config, Options#{workers => 2, max_concurrency => 2}),
    Held = [held(Port, N) || N <- [1, 2, 3]],
    #{status := 200} = request(Port, "/fall_asleep?with=next&until=go" ++ Query),
    {Port, Held}.

%% Then the other one has places again.
post_to_sleeper(Config, Port, Body, Sent) ->
    Socket = connect(Port),
    post(Socket, Body, Sent),
    until(fun() -> kept(Config) end),
    release(Config, "held"),
    Socket.

held(Port, N) ->
    Socket = connect(Port),
    send(Socket, "GET /hold?until=held HTTP/1.1\r\nHost: a\r\n\r\n"),
    until(fun() -> lists:sum([Each || #{in_flight := Each} <- workers()]) =:= N end),
    Socket.

post(Socket, Body, Sent) ->
    send(Socket, ["POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: ",
                  integer_to_list(length(Body)), "\r\n\r\n", Sent]).

in_order_again(Config, Held) ->
    release(Config, "go"),
    [?assertMatch(#{status := 200}, response(Socket)) || Socket <- Held],
    until(fun() -> [ready, ready] =:= [State || #{state := State} <- workers()] end),
    until(fun() -> [0, 0] =:= [N || #{in_flight := N} <- workers()] end).

is_stalled() ->
    lists:member(stalled, [State || #{state := State} <- workers()]).

kept(Config) ->
    saw(Config, <<"kept">>).

given_back(Config) ->
    saw(Config, <<"returned">>).

saw(Config, Word) ->
    lists:any(fun(Line) -> binary:match(Line, Word) =/= nomatch end,
              hornbeam_test_server:seen(Config)).
