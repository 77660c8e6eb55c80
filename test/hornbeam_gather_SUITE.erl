%% SPDX-License-Identifier: Apache-2.0
%% A small body is complete before a worker of a WSGI application is asked for.
-module(hornbeam_gather_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([suite/0]).
-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([dispatched_when_complete/1]).
-export([dispatched_at_the_limit/1]).
-export([a_small_window_is_the_limit/1]).
-export([not_for_asgi/1]).
-export([chunks/1]).
-export([told_to_continue/1]).
-export([pipelined/1]).
-export([gathered_and_queued/1]).
-export([body_without_progress/1]).
-export([body_with_progress/1]).
-export([timer_ends_with_the_body/1]).
-export([body_too_large/1]).
-export([client_leaves/1]).
-export([worker_killed_meanwhile/1]).
-export([stop_meanwhile/1]).

-import(hornbeam_test_client, [connect/1, send/2, get/2, request/2, response/1, close/1]).
-import(hornbeam_test_server, [start/2, release/2, seen/1, worker_info/2]).
-import(hornbeam_test_wait, [until/1]).

%% As in hornbeam_request_body.
-define(MAX_GATHERED_BYTES, 65536).

suite() ->
    [{timetrap, {seconds, 60}}].

all() ->
    [
        dispatched_when_complete,
        dispatched_at_the_limit,
        a_small_window_is_the_limit,
        not_for_asgi,
        chunks,
        told_to_continue,
        pipelined,
        gathered_and_queued,
        body_without_progress,
        body_with_progress,
        timer_ends_with_the_body,
        body_too_large,
        client_leaves,
        worker_killed_meanwhile,
        stop_meanwhile
    ].

init_per_suite(Config) ->
    hornbeam_test_suite:start_node(Config).

end_per_suite(Config) ->
    hornbeam_test_suite:stop_node(Config).

init_per_testcase(_, Config) ->
    hornbeam_test_suite:start_case(Config).

end_per_testcase(_, Config) ->
    hornbeam_test_suite:end_case(Config).

dispatched_when_complete(Config) ->
    Port = wsgi(Config, #{}),
    Socket = uploading(Port, 10, <<"01234">>),
    not_dispatched(Port, Config),
    send(Socket, <<"5678">>),
    not_dispatched(Port, Config),
    send(Socket, <<"9">>),
    ?assertMatch(#{status := 200, body := <<"0123456789">>}, response(Socket)),
    %% The connection goes on.
    get(Socket, "/hello"),
    ?assertMatch(#{status := 200}, response(Socket)).

%% What is larger goes on while the worker reads it.
dispatched_at_the_limit(Config) ->
    Port = wsgi(Config, #{}),
    Body = binary:copy(<<"x">>, ?MAX_GATHERED_BYTES + 10),
    <<Below:(?MAX_GATHERED_BYTES - 1)/binary, Next:1/binary, Rest/binary>> = Body,
    Socket = uploading(Port, byte_size(Body), Below),
    not_dispatched(Port, Config),
    send(Socket, Next),
    until(fun() -> is_dispatched(Config) end),
    send(Socket, Rest),
    ?assertMatch(#{status := 200, body := Body}, response(Socket)).

a_small_window_is_the_limit(Config) ->
    Port = wsgi(Config, #{window => 4096}),
    Body = binary:copy(<<"x">>, 5000),
    <<Below:4095/binary, Next:1/binary, Rest/binary>> = Body,
    Socket = uploading(Port, byte_size(Body), Below),
    not_dispatched(Port, Config),
    send(Socket, Next),
    until(fun() -> is_dispatched(Config) end),
    send(Socket, Rest),
    ?assertMatch(#{status := 200, body := Body}, response(Socket)).

%% Its tasks cost nothing while they wait.
not_for_asgi(Config) ->
    Port = start(Config, #{worker_class => asgi}),
    Socket = uploading(Port, 10, <<"01234">>),
    until(fun() -> is_dispatched(Config) end),
    send(Socket, <<"56789">>),
    ?assertMatch(#{status := 200, body := <<"0123456789">>}, response(Socket)).

chunks(Config) ->
    Port = wsgi(Config, #{}),
    Socket = connect(Port),
    send(Socket, "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
    not_dispatched(Port, Config),
    send(Socket, "2\r\nde\r\n"),
    not_dispatched(Port, Config),
    send(Socket, "0\r\n\r\n"),
    ?assertMatch(#{status := 200, body := <<"abcde">>}, response(Socket)).

%% By the node: the worker does not know of the request yet.
told_to_continue(Config) ->
    Port = wsgi(Config, #{}),
    Socket = connect(Port),
    send(Socket, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"),
    ?assertEqual({100, []}, hornbeam_test_client:head(Socket)),
    not_dispatched(Port, Config),
    send(Socket, <<"abc">>),
    ?assertMatch(#{status := 200, body := <<"abc">>}, response(Socket)).

%% It is its turn before it is complete.
pipelined(Config) ->
    Port = wsgi(Config, #{}),
    Socket = connect(Port),
    get(Socket, "/hold?until=go"),
    send(Socket, [head(6), <<"abc">>]),
    until(fun() -> lists:member(<<"1 request /hold">>, seen(Config)) end),
    release(Config, "go"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Socket)),
    not_dispatched(Port, Config),
    send(Socket, <<"def">>),
    ?assertMatch(#{status := 200, body := <<"abcdef">>}, response(Socket)).

%% Its place in the queue is that of when it was complete.
gathered_and_queued(Config) ->
    Port = wsgi(Config, #{threads => 1}),
    Held = connect(Port),
    get(Held, "/hold?until=go"),
    until(fun() -> maps:get(in_flight, worker_info(default, 1)) =:= 1 end),
    Socket = uploading(Port, 6, <<"abc">>),
    ?assertEqual(0, maps:get(queue, hornbeam:info())),
    send(Socket, <<"def">>),
    until(fun() -> maps:get(queue, hornbeam:info()) =:= 1 end),
    release(Config, "go"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Held)),
    ?assertMatch(#{status := 200, body := <<"abcdef">>}, response(Socket)).

body_without_progress(Config) ->
    Port = wsgi(Config, #{body_timeout => 100}),
    [
        ?assertMatch({Sent, #{status := 408}}, {Sent, response(uploading(Port, 10, Sent))})
     || Sent <- [<<>>, <<"01234">>]
    ],
    ?assertNot(is_dispatched(Config)).

%% Neither `body_timeout' nor `timeout' is over as long as something comes; the time that it took is
%% not the application's.
body_with_progress(Config) ->
    Port = wsgi(Config, #{body_timeout => 200, timeout => 400, heartbeat => 20}),
    ?assertMatch(#{status := 200, body := <<"xxxxxxxxxx">>},
                 response(uploaded_slowly(Port, 10, 50, 200))).

%% A byte now and then. An upload that was held up for as long as the server waits says nothing of one
%% that goes on.
uploaded_slowly(Port, Length, PauseMs, LimitMs) ->
    Socket = uploading(Port, Length, <<>>),
    LongestMs = lists:max([begin
        StartMs = erlang:monotonic_time(millisecond),
        receive after PauseMs -> ok end,
        _ = gen_tcp:send(Socket, <<"x">>),
        erlang:monotonic_time(millisecond) - StartMs
    end || _ <- lists:seq(1, Length)]),
    case LongestMs < LimitMs of
        true -> Socket;
        false -> close(Socket), uploaded_slowly(Port, Length, PauseMs, LimitMs)
    end.

timer_ends_with_the_body(Config) ->
    Port = wsgi(Config, #{body_timeout => 100}),
    Socket = hornbeam_test_wait:within(100, fun() ->
        Uploading = connect(Port),
        send(Uploading, "POST /hold?until=go HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx"),
        _ = gen_tcp:send(Uploading, <<"y">>),
        Uploading
    end),
    DueMs = erlang:monotonic_time(millisecond) + 300,
    until(fun() -> erlang:monotonic_time(millisecond) >= DueMs end),
    release(Config, "go"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Socket)).

body_too_large(Config) ->
    Port = wsgi(Config, #{max_body => 4}),
    Socket = connect(Port),
    send(Socket, "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
    not_dispatched(Port, Config),
    send(Socket, "2\r\nde\r\n"),
    ?assertMatch(#{status := 413}, response(Socket)),
    ?assertNot(is_dispatched(Config)).

%% Nothing of it remains, and the worker has never heard of it.
client_leaves(Config) ->
    Port = wsgi(Config, #{}),
    Socket = uploading(Port, 10, <<"01234">>),
    until(fun() -> maps:get(connections, hornbeam:info()) =:= 1 end),
    close(Socket),
    until(fun() -> maps:get(connections, hornbeam:info()) =:= 0 end),
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    ?assertNot(is_dispatched(Config)).

%% A request that no worker had is no worker's loss.
worker_killed_meanwhile(Config) ->
    Port = wsgi(Config, #{}),
    Socket = uploading(Port, 10, <<"01234">>),
    not_dispatched(Port, Config),
    #{os_pid := OsPid} = worker_info(default, 1),
    ok = hornbeam_worker:kill(OsPid),
    until(fun() -> length(hornbeam_test_server:started(Config)) =:= 2 end),
    send(Socket, <<"56789">>),
    ?assertMatch(#{status := 200, body := <<"0123456789">>}, response(Socket)).

stop_meanwhile(Config) ->
    Port = wsgi(Config, #{shutdown_timeout => 100}),
    Socket = uploading(Port, 10, <<"01234">>),
    not_dispatched(Port, Config),
    ?assertEqual(ok, hornbeam:stop()),
    ?assert(hornbeam_test_client:is_closed(Socket)).

%% Internal.

wsgi(Config, Options) ->
    start(Config, Options#{worker_class => wsgi}).

uploading(Port, Length, Sent) ->
    Socket = connect(Port),
    send(Socket, [head(Length), Sent]),
    Socket.

head(Length) ->
    ["POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: ", integer_to_list(Length), "\r\n\r\n"].

is_dispatched(Config) ->
    lists:member(<<"1 request /echo">>, seen(Config)).

%% Others that come later are served, so that it would have been dispatched by now.
not_dispatched(Port, Config) ->
    [?assertMatch(#{status := 200}, request(Port, "/hello")) || _ <- [1, 2]],
    ?assertNot(is_dispatched(Config)).
