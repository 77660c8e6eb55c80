%% SPDX-License-Identifier: Apache-2.0
%% A worker is replaced while it serves, and nobody notices.
-module(hornbeam_replace_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([suite/0]).
-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([successor_takes_over/1]).
-export([successor_that_can_not_start/1]).
-export([successor_killed/1]).
-export([worker_dies_first/1]).
-export([both_die/1]).
-export([draining_worker_killed/1]).
-export([replaced_twice_at_once/1]).
-export([replaced_again_and_again/1]).
-export([strangers_are_not_replaced/1]).
-export([stop_while_the_successor_starts/1]).
-export([stop_while_draining/1]).
-export([pool_killed_in_the_middle/1]).
-export([timeout_of_wsgi/1]).
-export([timeout_of_asgi/1]).
-export([places_of_wsgi/1]).
-export([places_of_asgi/1]).
-export([places_as_the_option_says/1]).

-import(hornbeam_test_client, [connect/1, send/2, get/2, request/2, response/1, serves/1]).
-import(hornbeam_test_server, [
    start/2, release/2, running/1, started/1, worker_info/2, workers/0, in_flight/0
]).
-import(hornbeam_test_wait, [until/1]).

suite() ->
    [{timetrap, {seconds, 60}}].

all() ->
    [
        successor_takes_over,
        successor_that_can_not_start,
        successor_killed,
        worker_dies_first,
        both_die,
        draining_worker_killed,
        replaced_twice_at_once,
        replaced_again_and_again,
        strangers_are_not_replaced,
        stop_while_the_successor_starts,
        stop_while_draining,
        pool_killed_in_the_middle,
        timeout_of_wsgi,
        timeout_of_asgi,
        places_of_wsgi,
        places_of_asgi,
        places_as_the_option_says
    ].

init_per_suite(Config) ->
    %% That a worker has drained is no more than an information.
    ok = logger:set_module_level(hornbeam_pool_workers, info),
    hornbeam_test_suite:start_node(Config).

end_per_suite(Config) ->
    ok = logger:unset_module_level(hornbeam_pool_workers),
    hornbeam_test_suite:stop_node(Config).

init_per_testcase(_, Config) ->
    hornbeam_test_suite:start_case(Config).

end_per_testcase(_, Config) ->
    hornbeam_test_suite:end_case(Config).

%% The worker serves until its successor is ready, and then finishes what it has.
successor_takes_over(Config) ->
    Port = start(Config, #{app => "drains_and_waits:app"}),
    Held = connect(Port),
    get(Held, "/hold?until=go"),
    until(fun() -> in_flight() =:= [1] end),
    [First] = started(Config),
    replace(),
    Second = second(Config),
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    ?assertMatch(#{os_pid := First, restarts := 0}, worker_info(default, 1)),
    release(Config, "ready"),
    until(fun() -> states() =:= [draining, ready] end),
    [#{os_pid := Second, restarts := 1}] = [Info || Info = #{state := ready} <- workers()],
    [?assertMatch(#{status := 200}, request(Port, "/hello")) || _ <- lists:seq(1, 5)],
    until(fun() -> lists:member(<<"1 shutdown">>, hornbeam_test_server:seen(Config)) end),
    ?assertEqual(lists:sort([First, Second]), lists:sort(running(Config))),
    release(Config, "go"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Held)),
    until(fun() -> running(Config) =:= [Second] end),
    until(fun() -> states() =:= [ready] end),
    ?assertMatch([#{worker_id := 1, reason := <<"stopped">>}], reports(worker_drained)),
    ?assertEqual([], reports(worker_down)).

%% The worker serves on, and may be replaced another time.
successor_that_can_not_start(Config) ->
    Port = start(Config, #{app => "fails_again:app"}),
    [First] = started(Config),
    [
        begin
            replace(),
            until(fun() -> length(reports(successor_down)) =:= N end),
            ?assertMatch(#{status := 200}, request(Port, "/hello")),
            ?assertMatch(#{os_pid := First, restarts := 0, state := ready}, worker_info(default, 1))
        end
     || N <- [1, 2]
    ],
    [#{worker_id := 1, reason := <<"importing the application", _/binary>>} | _] =
        reports(successor_down),
    until(fun() -> running(Config) =:= [First] end).

successor_killed(Config) ->
    Port = start(Config, #{app => "drains_and_waits:app"}),
    [First] = started(Config),
    replace(),
    ok = hornbeam_worker:kill(second(Config)),
    until(fun() -> reports(successor_down) =/= [] end),
    [#{reason := <<"ended by signal 9 (SIGKILL)">>}] = reports(successor_down),
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    ?assertMatch(#{os_pid := First}, worker_info(default, 1)).

%% The successor comes into its place as soon as it is ready; nobody starts a third one.
worker_dies_first(Config) ->
    Port = start(Config, #{app => "drains_and_waits:app"}),
    [First] = started(Config),
    Doomed = connect(Port),
    send(Doomed, "POST /hold?until=never HTTP/1.1\r\nHost: a\r\n\r\n"),
    until(fun() -> in_flight() =:= [1] end),
    replace(),
    Second = second(Config),
    ok = hornbeam_worker:kill(First),
    ?assertMatch(#{status := 502}, response(Doomed)),
    until(fun() -> states() =:= [starting] end),
    Waiting = connect(Port),
    get(Waiting, "/hello"),
    until(fun() -> maps:get(queue, hornbeam:info()) =:= 1 end),
    release(Config, "ready"),
    ?assertMatch(#{status := 200}, response(Waiting)),
    Info = worker_info(default, 1),
    ?assertMatch(#{os_pid := Second, restarts := 1, last_exit := <<"ended by signal 9 (SIGKILL)">>}, Info),
    ?assertEqual([First, Second], started(Config)).

%% Then a third one is started as for any worker that has ended.
both_die(Config) ->
    Port = start(Config, #{app => "drains_and_waits:app"}),
    [First] = started(Config),
    replace(),
    Second = second(Config),
    ok = hornbeam_worker:kill(First),
    until(fun() -> states() =:= [starting] end),
    ok = hornbeam_worker:kill(Second),
    release(Config, "ready"),
    until(fun() -> states() =:= [ready] end),
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    ?assertMatch([First, Second, _], started(Config)),
    ?assertEqual(2, length(reports(worker_down))).

%% What is safe goes to the successor, the rest is 502.
draining_worker_killed(Config) ->
    Port = start(Config, #{app => "drains:app"}),
    [First] = started(Config),
    [Safe, Unsafe] = [connect(Port), connect(Port)],
    get(Safe, "/hold?until=go"),
    send(Unsafe, "POST /hold?until=go HTTP/1.1\r\nHost: a\r\n\r\n"),
    until(fun() -> in_flight() =:= [2] end),
    replace(),
    until(fun() -> states() =:= [draining, ready] end),
    ok = hornbeam_worker:kill(First),
    ?assertMatch(#{status := 502}, response(Unsafe)),
    release(Config, "go"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Safe)),
    ?assertMatch(#{restarts := 1}, worker_info(default, 1)),
    ?assertMatch([#{reason := <<"ended by signal 9 (SIGKILL)">>}], reports(worker_drained)).

%% One successor is enough, also where it is asked for by a worker that has left its place.
replaced_twice_at_once(Config) ->
    Port = start(Config, #{app => "drains_and_waits:app"}),
    Old = hornbeam_test_server:worker_pid(default, 1),
    [hornbeam_pool:replace(pool(), 1, Old) || _ <- lists:seq(1, 5)],
    _ = second(Config),
    release(Config, "ready"),
    until(fun() -> length(running(Config)) =:= 1 andalso states() =:= [ready] end),
    hornbeam_pool:replace(pool(), 1, Old),
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    ?assertEqual(2, length(started(Config))).

%% Under load: no request fails, and no place is lost.
replaced_again_and_again(Config) ->
    Port = start(Config, #{app => "drains:app", workers => 2, max_concurrency => 4}),
    Self = self(),
    Clients = [spawn_link(fun() -> ask_until_told(Self, connect(Port), 0) end)
               || _ <- lists:seq(1, 10)],
    [
        begin
            [hornbeam_pool:replace(pool(), Id, hornbeam_test_server:worker_pid(default, Id))
             || Id <- [1, 2]],
            until(fun() -> length(reports(worker_drained)) =:= 2 * N end)
        end
     || N <- lists:seq(1, 4)
    ],
    [Client ! enough || Client <- Clients],
    Served = [receive {served, Client, Count} -> Count end || Client <- Clients],
    ?assert(lists:all(fun(Count) -> Count > 0 end, Served)),
    until(fun() -> in_flight() =:= [0, 0] end),
    ?assertEqual([], reports(worker_down)),
    ?assertEqual(10, length(started(Config))).

%% Neither an id that does not exist, nor a process that is no worker of it.
strangers_are_not_replaced(Config) ->
    Port = start(Config, #{}),
    hornbeam_pool:replace(pool(), 2, hornbeam_test_server:worker_pid(default, 1)),
    hornbeam_pool:replace(pool(), 1, self()),
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    ?assertMatch([_], started(Config)).

stop_while_the_successor_starts(Config) ->
    _ = start(Config, #{app => "drains_and_waits:app"}),
    replace(),
    _ = second(Config),
    ?assertEqual(ok, hornbeam:stop()),
    until(fun() -> running(Config) =:= [] end).

%% The request of the worker that is leaving is waited for as any other.
stop_while_draining(Config) ->
    Port = start(Config, #{app => "drains:app"}),
    Held = connect(Port),
    get(Held, "/hold?until=go"),
    until(fun() -> in_flight() =:= [1] end),
    replace(),
    until(fun() -> states() =:= [draining, ready] end),
    {Stopping, Monitor} = spawn_monitor(fun() -> ok = hornbeam:stop() end),
    until(fun() -> hornbeam_test_server:is_running(hd(started(Config)))
                       andalso refuses(Port) end),
    release(Config, "go"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Held)),
    ok = hornbeam_test_client:close(Held),
    receive {'DOWN', Monitor, process, Stopping, Reason} -> ?assertEqual(normal, Reason) end,
    until(fun() -> running(Config) =:= [] end).

pool_killed_in_the_middle(Config) ->
    Port = start(Config, #{app => "drains_and_waits:app"}),
    replace(),
    _ = second(Config),
    exit(pool(), kill),
    release(Config, "ready"),
    until(fun() -> length(started(Config)) =:= 3 andalso length(running(Config)) =:= 1 end),
    until(fun() -> serves(Port) end).

%% A thread can't be ended: the client has its answer, and the worker a successor.
timeout_of_wsgi(Config) ->
    Port = start(Config, #{worker_class => wsgi, timeout => 200, heartbeat => 20}),
    [First] = started(Config),
    ?assertMatch(#{status := 504}, request(Port, "/hold?until=never&stay")),
    Second = second(Config),
    until(fun() -> states() =:= [ready] andalso running(Config) =:= [Second] end),
    [#{request_ids := [_]} = Report] = reports(worker_replaced_after_timeout),
    %% Ids are numbers, also where they could be characters.
    {Format, Values} = hornbeam_worker_log:ids_text(Report#{request_ids := [9, 10]}),
    ?assertEqual("    request_ids: [9,10]\n    what: worker_replaced_after_timeout",
                 lists:flatten(io_lib:format(Format, Values))),
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    ?assertNotEqual(First, Second).

%% A task can.
timeout_of_asgi(Config) ->
    Port = start(Config, #{timeout => 200, heartbeat => 20}),
    ?assertMatch(#{status := 504}, request(Port, "/hold?until=never")),
    until(fun() -> in_flight() =:= [0] end),
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    ?assertMatch([_], started(Config)),
    ?assertEqual([], reports(worker_replaced_after_timeout)).

%% As many as it has threads.
places_of_wsgi(Config) ->
    places(#{worker_class => wsgi, threads => 2}, 2, Config).

places_of_asgi(Config) ->
    places(#{worker_class => asgi, threads => 2}, 4, Config).

places_as_the_option_says(Config) ->
    places(#{worker_class => wsgi, threads => 2, max_concurrency => 3}, 3, Config).

%% Internal.

%% Of four requests so many are with the worker at once; the others have their turn.
places(Options, Expected, Config) ->
    Port = start(Config, Options),
    Sockets = [connect(Port) || _ <- lists:seq(1, 4)],
    [get(Socket, "/hold?until=go") || Socket <- Sockets],
    until(fun() -> in_flight() =:= [Expected] end),
    until(fun() -> maps:get(queue, hornbeam:info()) =:= 4 - Expected end),
    ?assertEqual([Expected], in_flight()),
    release(Config, "go"),
    [?assertMatch(#{status := 200}, response(Socket)) || Socket <- Sockets].

ask_until_told(Parent, Socket, N) ->
    receive
        enough -> Parent ! {served, self(), N}
    after 0 ->
        get(Socket, "/hello"),
        #{status := 200} = response(Socket),
        ask_until_told(Parent, Socket, N + 1)
    end.

replace() ->
    hornbeam_pool:replace(pool(), 1, hornbeam_test_server:worker_pid(default, 1)).

pool() ->
    hornbeam_selection:pool_pid(default).

%% The process of the successor, once it runs.
second(Config) ->
    until(fun() -> length(started(Config)) =:= 2 end),
    lists:last(started(Config)).

states() ->
    lists:sort([State || #{state := State} <- workers()]).

reports(What) ->
    hornbeam_test_log:reports(What).

refuses(Port) ->
    case gen_tcp:connect({127, 0, 0, 1}, Port, []) of
        {ok, Socket} ->
            ok = gen_tcp:close(Socket),
            false;
        {error, _} ->
            true
    end.
