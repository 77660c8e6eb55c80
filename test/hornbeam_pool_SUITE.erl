%% SPDX-License-Identifier: Apache-2.0
%% Selection, the queue, and what becomes of workers that end; with whole servers.
-module(hornbeam_pool_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([suite/0]).
-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([backoff_grows_within_bounds/1]).
-export([fewest_in_flight/1]).
-export([light_traffic_spreads/1]).
-export([one_connection_many_workers/1]).
-export([worker_crash_is_502/1]).
-export([safe_requests_are_retried/1]).
-export([retried_by_one_that_lives/1]).
-export([retried_when_all_have_died/1]).
-export([retried_only_once/1]).
-export([retry_can_be_turned_off/1]).
-export([crash_after_the_start_cuts/1]).
-export([crash_of_one_worker_is_its_own/1]).
-export([crashes_are_answered_more_slowly/1]).
-export([failing_restart_goes_on/1]).
-export([worker_process_killed/1]).
-export([deaf_worker_process_killed/1]).
-export([os_process_killed/1]).
-export([writer_killed/1]).
-export([garbage_of_one_worker/1]).
-export([pool_killed/1]).
-export([workers_sup_killed/1]).
-export([server_sup_killed/1]).
-export([concurrency_is_bounded/1]).
-export([queue_is_in_order/1]).
-export([queue_overflows/1]).
-export([no_queue/1]).
-export([queue_timeout/1]).
-export([queued_client_leaves/1]).
-export([queued_body/1]).
-export([queued_while_the_worker_restarts/1]).
-export([retry_waits_for_the_restart/1]).
-export([blocked_worker_gets_no_more/1]).
-export([worker_that_stops_reading/1]).
-export([flood_of_nonsense/1]).
-export([many_requests_at_once/1]).
-export([stray_message/1]).

-import(hornbeam_test_client, [
    connect/1, send/2, get/2, request/2, exchange/2, response/1, values/2, close/1, serves/1
]).
-import(hornbeam_test_server, [start/2, release/2, seen/1, worker_info/2, workers/0, in_flight/0]).
-import(hornbeam_test_wait, [until/1]).

suite() ->
    [{timetrap, {seconds, 60}}].

all() ->
    [
        backoff_grows_within_bounds,
        fewest_in_flight,
        light_traffic_spreads,
        one_connection_many_workers,
        worker_crash_is_502,
        safe_requests_are_retried,
        retried_by_one_that_lives,
        retried_when_all_have_died,
        retried_only_once,
        retry_can_be_turned_off,
        crash_after_the_start_cuts,
        crash_of_one_worker_is_its_own,
        crashes_are_answered_more_slowly,
        failing_restart_goes_on,
        worker_process_killed,
        deaf_worker_process_killed,
        os_process_killed,
        writer_killed,
        garbage_of_one_worker,
        pool_killed,
        workers_sup_killed,
        server_sup_killed,
        concurrency_is_bounded,
        queue_is_in_order,
        queue_overflows,
        no_queue,
        queue_timeout,
        queued_client_leaves,
        queued_body,
        queued_while_the_worker_restarts,
        retry_waits_for_the_restart,
        blocked_worker_gets_no_more,
        worker_that_stops_reading,
        flood_of_nonsense,
        many_requests_at_once,
        stray_message
    ].

init_per_suite(Config) ->
    hornbeam_test_suite:start_node(Config).

end_per_suite(Config) ->
    hornbeam_test_suite:stop_node(Config).

init_per_testcase(_, Config) ->
    hornbeam_test_suite:start_case(Config).

end_per_testcase(_, Config) ->
    hornbeam_test_suite:end_case(Config).

%% At once, then from 100 ms on twice as much each time up to 30 s, give or take a quarter.
backoff_grows_within_bounds(_) ->
    ?assertEqual([0, 0], [hornbeam_pool_workers:backoff_ms(Failures) || Failures <- [0, 1]]),
    [
        begin
            BaseMs = min(30000, 100 * (1 bsl (Failures - 2))),
            Delays = [hornbeam_pool_workers:backoff_ms(Failures) || _ <- lists:seq(1, 200)],
            ?assert(lists:min(Delays) >= BaseMs * 3 div 4),
            ?assert(lists:max(Delays) =< BaseMs * 5 div 4),
            %% Workers that fail together do not start together.
            ?assert(length(lists:usort(Delays)) > 10)
        end
     || Failures <- lists:seq(2, 40) ++ [1000000]
    ].

%% A request goes where the fewest are, among workers that are as quiet.
fewest_in_flight(Config) ->
    Port = start(Config, #{workers => 3, heartbeat => 30000}),
    Sockets = [connect(Port) || _ <- lists:seq(1, 6)],
    [
        begin
            until(fun are_alike/0),
            get(Socket, "/hold?until=go"),
            until(fun() -> in_flight_of_all() =:= N end)
        end
     || {N, Socket} <- lists:enumerate(Sockets)
    ],
    ?assertEqual([2, 2, 2], in_flight()),
    release(Config, "go"),
    [?assertMatch(#{body := <<"released">>}, response(Socket)) || Socket <- Sockets],
    until(fun() -> in_flight() =:= [0, 0, 0] end).

%% Among idle workers, the one that has had the fewest.
light_traffic_spreads(Config) ->
    Port = start(Config, #{workers => 2}),
    Bodies = [
        begin
            #{body := Body} = request(Port, "/hello"),
            until(fun() -> in_flight() =:= [0, 0] end),
            Body
        end
     || _ <- lists:seq(1, 6)
    ],
    ?assertEqual(3, length([1 || <<"hello from 1">> <- Bodies])).

%% A connection is tied to no worker.
one_connection_many_workers(Config) ->
    Port = start(Config, #{workers => 2}),
    Held = connect(Port),
    get(Held, "/hold?until=go"),
    until(fun() -> in_flight_of_all() =:= 1 end),
    Socket = connect(Port),
    Bodies = [begin
                  get(Socket, "/hello"),
                  Body = maps:get(body, response(Socket)),
                  %% The answer may be here before its place is free.
                  until(fun() -> in_flight_of_all() =:= 1 end),
                  Body
              end || _ <- [1, 2, 3]],
    ?assertEqual(1, length(lists:usort(Bodies))),
    release(Config, "go"),
    #{body := <<"released">>} = response(Held),
    until(fun() -> in_flight() =:= [0, 0] end),
    get(Held, "/hello"),
    #{body := Other} = response(Held),
    ?assertMatch(<<"hello from ", _>>, Other).

%% What must not be done twice is not; the client learns it, and the next one is served.
worker_crash_is_502(Config) ->
    Port = start(Config, #{}),
    Requests = [
        "POST /crash HTTP/1.1\r\nHost: a\r\n\r\n",
        %% Its body has gone with the worker.
        "GET /crash HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
        "PUT /crash HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
        %% Last, because nothing is written to the worker after it: its status is what is seen.
        "DELETE /crash HTTP/1.1\r\nHost: a\r\n\r\n"
    ],
    [
        begin
            Before = length([Line || <<"1 request /crash">> = Line <- seen(Config)]),
            Response = exchange(Port, Request),
            ?assertMatch({Request, #{status := 502}}, {Request, Response}),
            ?assertEqual([], values(<<"connection">>, Response)),
            After = length([Line || <<"1 request /crash">> = Line <- seen(Config)]),
            ?assertEqual({Request, 1}, {Request, After - Before}),
            ?assertMatch(#{status := 200}, request(Port, "/hello"))
        end
     || Request <- Requests
    ],
    Info = worker_info(default, 1),
    ?assertMatch(#{state := ready, restarts := 4, last_exit := <<"exited with status 3">>}, Info),
    ?assertEqual(5, length(hornbeam_test_server:started(Config))),
    ?assertEqual(4, length(hornbeam_test_log:reports(worker_down))).

%% What may be done twice is tried once more, and nobody notices.
safe_requests_are_retried(Config) ->
    Port = start(Config, #{workers => 2}),
    [
        begin
            Socket = connect(Port),
            send(Socket, [Method, " /crash_once HTTP/1.1\r\nHost: a\r\n\r\n"]),
            Response = response(Socket, list_to_binary(Method)),
            ?assertMatch({Method, #{status := 200}}, {Method, Response}),
            ok = file:delete(filename:join(proplists:get_value(folder, Config), "crashed")),
            until(fun() -> [State || #{state := State} <- workers()] =:= [ready, ready] end)
        end
     || Method <- ["GET", "HEAD", "OPTIONS"]
    ],
    ?assertEqual(5, length(hornbeam_test_server:started(Config))).

%% What has ended one worker may have ended the others, of which the node learns later: one that has
%% stopped is such a one. The request has no other try, so it goes to the dead one's successor.
retried_by_one_that_lives(Config) ->
    {Socket, Dying, Silent} = held_beside_a_silent_one(Config),
    ok = hornbeam_worker:kill(Dying),
    release(Config, "go"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Socket)),
    ok = hornbeam_worker:kill(Silent).

%% The same where the other one does end, which becomes known later.
retried_when_all_have_died(Config) ->
    {Socket, Dying, Silent} = held_beside_a_silent_one(Config),
    ok = hornbeam_worker:kill(Dying),
    until(fun() -> length(hornbeam_test_log:reports(worker_down)) =:= 1 end),
    ok = hornbeam_worker:kill(Silent),
    until(fun() -> length(hornbeam_test_log:reports(worker_down)) =:= 2 end),
    release(Config, "go"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Socket)).

%% A request that ends each worker it meets does not go through all of them.
retried_only_once(Config) ->
    Port = start(Config, #{workers => 3}),
    ?assertMatch(#{status := 502}, request(Port, "/crash")),
    until(fun() -> [State || #{state := State} <- workers()] =:= [ready, ready, ready] end),
    Requests = [Line || <<_, " request /crash">> = Line <- seen(Config)],
    ?assertEqual(2, length(Requests)),
    ?assertEqual(5, length(hornbeam_test_server:started(Config))).

%% Some applications do in GET what cannot be done twice.
retry_can_be_turned_off(Config) ->
    Port = start(Config, #{retry => false}),
    ?assertMatch(#{status := 502}, request(Port, "/crash_once")).

%% What has begun to arrive is not begun again.
crash_after_the_start_cuts(Config) ->
    Port = start(Config, #{}),
    Socket = connect(Port),
    get(Socket, "/start_crash?until=go"),
    {200, _} = hornbeam_test_client:head(Socket),
    release(Config, "go"),
    ?assertEqual(<<"5\r\nfirst\r\n">>, hornbeam_test_client:rest(Socket)),
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% The requests of the other worker go on.
crash_of_one_worker_is_its_own(Config) ->
    Port = start(Config, #{workers => 2}),
    [Held, Doomed] = [connect(Port), connect(Port)],
    get(Held, "/hold?until=go"),
    until(fun() -> in_flight_of_all() =:= 1 end),
    send(Doomed, "POST /crash HTTP/1.1\r\nHost: a\r\n\r\n"),
    ?assertMatch(#{status := 502}, response(Doomed)),
    release(Config, "go"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Held)),
    get(Doomed, "/hello"),
    ?assertMatch(#{status := 200}, response(Doomed)).

%% A worker that fails again and again is started again and again, less and less often; the node
%% and its service to others live on.
crashes_are_answered_more_slowly(Config) ->
    _ = start(Config, #{app => "ready_then_exit:app"}),
    until(fun() -> length(hornbeam_test_log:reports(worker_down)) >= 5 end),
    Delays = [Ms || #{restart_in_ms := Ms} <- hornbeam_test_log:reports(worker_down)],
    [First, Second, Third, Fourth, Fifth | _] = Delays,
    ?assertEqual(0, First),
    ?assert(75 =< Second andalso Second =< 125),
    ?assert(150 =< Third andalso Third =< 250),
    ?assert(300 =< Fourth andalso Fourth =< 500),
    ?assert(600 =< Fifth andalso Fifth =< 1000),
    ?assert(length(hornbeam_test_server:started(Config)) =< 6),
    until(fun() -> maps:get(state, worker_info(default, 1)) =:= backoff end),
    ?assertMatch(#{last_exit := <<"exited with status 4">>}, worker_info(default, 1)).

%% A worker that could start once and now cannot does not end the server; clients hear that it is
%% not there.
failing_restart_goes_on(Config) ->
    Port = start(Config, #{app => "fails_again:app", queue_timeout => 100}),
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    ?assertMatch(#{status := 502}, exchange(Port, "POST /crash HTTP/1.1\r\nHost: a\r\n\r\n")),
    ?assertMatch(#{status := 503}, request(Port, "/hello")),
    until(fun() -> length(hornbeam_test_server:started(Config)) >= 3 end),
    #{last_exit := LastExit} = worker_info(default, 1),
    ?assertMatch(<<"importing the application", _/binary>>, LastExit).

%% Also in that way of dying the client is answered, and the OS process does not stay.
worker_process_killed(Config) ->
    Port = start(Config, #{}),
    [Post, Get] = [connect(Port), connect(Port)],
    send(Post, "POST /hold?until=go HTTP/1.1\r\nHost: a\r\n\r\n"),
    get(Get, "/hold?until=go"),
    until(fun() -> in_flight() =:= [2] end),
    exit(hornbeam_test_server:worker_pid(default, 1), kill),
    ?assertMatch(#{status := 502}, response(Post)),
    release(Config, "go"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Get)),
    [First, Second] = hornbeam_test_server:started(Config),
    until(fun() -> hornbeam_test_server:running(Config) =:= [Second] end),
    ?assertNotEqual(First, Second).

%% One that would not notice is killed.
deaf_worker_process_killed(Config) ->
    Port = start(Config, #{}),
    ?assertMatch(#{status := 200}, request(Port, "/deaf")),
    exit(hornbeam_test_server:worker_pid(default, 1), kill),
    until(fun() -> length(hornbeam_test_server:started(Config)) =:= 2 end),
    until(fun() -> length(hornbeam_test_server:running(Config)) =:= 1 end),
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% The kernel may end it, for instance for want of memory.
os_process_killed(Config) ->
    Port = start(Config, #{}),
    Socket = connect(Port),
    get(Socket, "/hold?until=go"),
    until(fun() -> in_flight() =:= [1] end),
    #{os_pid := OsPid} = worker_info(default, 1),
    ok = hornbeam_worker:kill(OsPid),
    release(Config, "go"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Socket)),
    ?assertMatch(#{last_exit := <<"ended by signal 9 (SIGKILL)">>}, worker_info(default, 1)).

%% A worker that cannot be written to is replaced.
writer_killed(Config) ->
    Port = start(Config, #{}),
    Worker = hornbeam_test_server:worker_pid(default, 1),
    {links, Links} = process_info(Worker, links),
    [Writer] = [Pid || Pid <- Links, is_pid(Pid), {hornbeam_writer, init, 1} =:=
        proc_lib:translate_initial_call(Pid)],
    exit(Writer, kill),
    until(fun() -> length(hornbeam_test_server:started(Config)) =:= 2 end),
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    until(fun() -> length(hornbeam_test_server:running(Config)) =:= 1 end).

%% A worker that talks nonsense is replaced; its requests are answered.
garbage_of_one_worker(Config) ->
    Port = start(Config, #{workers => 2}),
    Held = connect(Port),
    get(Held, "/hold?until=go"),
    until(fun() -> in_flight_of_all() =:= 1 end),
    ?assertMatch(
        #{status := 502},
        exchange(Port, "POST /garbage?hex=83 HTTP/1.1\r\nHost: a\r\n\r\n")
    ),
    ?assertMatch(#{status := 502}, exchange(Port, "POST /form HTTP/1.1\r\nHost: a\r\n\r\n")),
    release(Config, "go"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Held)),
    ?assertMatch([#{first_bytes := <<131>>}, _], hornbeam_test_log:reports(malformed_packet)),
    until(fun() -> length(hornbeam_test_server:running(Config)) =:= 2 end).

%% The server comes back on the same port, with new workers and without the old ones.
pool_killed(Config) ->
    killed(Config, fun() -> hornbeam_test_server:sup_child(default, hornbeam_pool) end).

%% The same without the supervisor of the workers.
workers_sup_killed(Config) ->
    killed(Config, fun() -> hornbeam_test_server:sup_child(default, hornbeam_workers_sup) end).

%% And without that of the server.
server_sup_killed(Config) ->
    killed(Config, fun() -> hornbeam_servers_sup:server_sup(default) end).

%% As many requests as there are places run; the others wait.
concurrency_is_bounded(Config) ->
    Port = start(Config, #{workers => 2, max_concurrency => 2}),
    Sockets = [connect(Port) || _ <- lists:seq(1, 7)],
    [get(Socket, "/hold?until=go") || Socket <- Sockets],
    until(fun() -> maps:get(queue, hornbeam:info()) =:= 3 end),
    ?assertEqual([2, 2], in_flight()),
    until(fun() -> length([Line || <<_, " request /hold">> = Line <- seen(Config)]) =:= 4 end),
    release(Config, "go"),
    [?assertMatch(#{status := 200}, response(Socket)) || Socket <- Sockets],
    ?assertEqual(0, maps:get(queue, hornbeam:info())).

%% Who came first is served first, and nobody overtakes.
queue_is_in_order(Config) ->
    Port = start(Config, #{max_concurrency => 1}),
    Held = connect(Port),
    get(Held, "/hold?until=go"),
    until(fun() -> in_flight() =:= [1] end),
    Paths = ["/whole", "/scope", "/settings", "/inform", "/hello"],
    Sockets = [
        begin
            Socket = connect(Port),
            get(Socket, Path),
            until(fun() -> maps:get(queue, hornbeam:info()) =:= N end),
            Socket
        end
     || {N, Path} <- lists:enumerate(Paths)
    ],
    release(Config, "go"),
    ?assertMatch(#{body := <<"released">>}, response(Held)),
    [response(Socket) || Socket <- Sockets],
    Served = [Path || <<"1 request ", Path/binary>> <- seen(Config)],
    ?assertEqual([<<"/hold">> | [list_to_binary(Path) || Path <- Paths]], Served).

%% The queue has an end; beyond it the answer is there at once, with advice.
queue_overflows(Config) ->
    Port = start(Config, #{max_concurrency => 1, max_queue => 2}),
    Held = [connect(Port) || _ <- [1, 2, 3]],
    [get(Socket, "/hold?until=go") || Socket <- Held],
    until(fun() -> maps:get(queue, hornbeam:info()) =:= 2 end),
    Refused = request(Port, "/hello"),
    ?assertMatch(#{status := 503}, Refused),
    ?assertEqual([<<"1">>], values(<<"retry-after">>, Refused)),
    ?assertEqual([], values(<<"connection">>, Refused)),
    release(Config, "go"),
    [?assertMatch(#{status := 200}, response(Socket)) || Socket <- Held],
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% Nobody has to wait if nobody may.
no_queue(Config) ->
    Port = start(Config, #{max_concurrency => 1, max_queue => 0}),
    Held = connect(Port),
    get(Held, "/hold?until=go"),
    until(fun() -> in_flight() =:= [1] end),
    ?assertMatch(#{status := 503}, request(Port, "/hello")),
    release(Config, "go"),
    ?assertMatch(#{status := 200}, response(Held)),
    until(fun() -> in_flight() =:= [0] end),
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% Nobody waits for longer than `queue_timeout'.
queue_timeout(Config) ->
    Port = start(Config, #{max_concurrency => 1, queue_timeout => 100}),
    Held = connect(Port),
    get(Held, "/hold?until=go"),
    until(fun() -> in_flight() =:= [1] end),
    StartMs = erlang:monotonic_time(millisecond),
    Refused = request(Port, "/hello"),
    ?assertMatch(#{status := 503}, Refused),
    ?assertEqual([<<"1">>], values(<<"retry-after">>, Refused)),
    ?assert(erlang:monotonic_time(millisecond) - StartMs >= 100),
    ?assertEqual(0, maps:get(queue, hornbeam:info())),
    release(Config, "go"),
    ?assertMatch(#{status := 200}, response(Held)).

%% Its place is free for another, and its request never runs.
queued_client_leaves(Config) ->
    Port = start(Config, #{max_concurrency => 1, max_queue => 1, queue_timeout => 60000}),
    [Held, Leaver, Next] = [connect(Port) || _ <- [1, 2, 3]],
    get(Held, "/hold?until=go"),
    until(fun() -> in_flight() =:= [1] end),
    get(Leaver, "/crash"),
    until(fun() -> maps:get(queue, hornbeam:info()) =:= 1 end),
    close(Leaver),
    until(fun() -> maps:get(queue, hornbeam:info()) =:= 0 end),
    get(Next, "/hello"),
    until(fun() -> maps:get(queue, hornbeam:info()) =:= 1 end),
    release(Config, "go"),
    ?assertMatch(#{status := 200}, response(Held)),
    ?assertMatch(#{status := 200, body := <<"hello from 1">>}, response(Next)),
    ?assertNot(lists:member(<<"1 request /crash">>, seen(Config))).

%% What came of a body while its request waited comes with it, and the rest after it.
queued_body(Config) ->
    Port = start(Config, #{max_concurrency => 1}),
    [Held, Uploading] = [connect(Port), connect(Port)],
    get(Held, "/hold?until=go"),
    until(fun() -> in_flight() =:= [1] end),
    Body = binary:copy(<<"0123456789">>, 50000),
    {First, Rest} = split_binary(Body, 1000),
    send(Uploading, ["POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: ",
                     integer_to_list(byte_size(Body)), "\r\n\r\n", First]),
    until(fun() -> maps:get(queue, hornbeam:info()) =:= 1 end),
    Sender = spawn_link(fun() -> send(Uploading, Rest) end),
    release(Config, "go"),
    ?assertMatch(#{status := 200}, response(Held)),
    ?assertMatch(#{status := 200, body := Body}, response(Uploading)),
    until(fun() -> not is_process_alive(Sender) end).

%% Requests that came while no worker was there are served by the next.
queued_while_the_worker_restarts(Config) ->
    Port = start(Config, #{max_concurrency => 1}),
    [Held | Waiting] = Sockets = [connect(Port) || _ <- lists:seq(1, 4)],
    send(Held, "POST /crash?until=go HTTP/1.1\r\nHost: a\r\n\r\n"),
    until(fun() -> in_flight() =:= [1] end),
    [get(Socket, "/hello") || Socket <- Waiting],
    until(fun() -> maps:get(queue, hornbeam:info()) =:= 3 end),
    release(Config, "go"),
    ?assertEqual([502, 200, 200, 200], [maps:get(status, response(Socket)) || Socket <- Sockets]).

%% A request that has run for longer than anybody may wait in the queue, and is to be tried again,
%% has its time in the queue for the replacement of the only worker.
retry_waits_for_the_restart(Config) ->
    Port = start(Config, #{queue_timeout => 1500}),
    Socket = connect(Port),
    get(Socket, "/hold?until=go"),
    until(fun() -> in_flight() =:= [1] end),
    OldMs = erlang:monotonic_time(millisecond) + 1600,
    until(fun() -> erlang:monotonic_time(millisecond) >= OldMs end),
    #{os_pid := OsPid} = worker_info(default, 1),
    ok = hornbeam_worker:kill(OsPid),
    release(Config, "go"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Socket)).

%% New requests go elsewhere while a loop does not answer its heartbeats.
blocked_worker_gets_no_more(Config) ->
    Port = start(Config, #{workers => 2, heartbeat => 20}),
    Blocking = connect(Port),
    get(Blocking, "/block?until=go"),
    %% The other one may be late for its heartbeats as well, and then is so for a moment.
    Blocked = until(fun() ->
        case [Id || <<Id, " blocked /block">> <- seen(Config)] of
            [Id] -> Id - $0;
            [] -> false
        end
    end),
    until(fun() -> maps:get(state, worker_info(default, Blocked)) =:= stalled end),
    Bodies = [maps:get(body, request(Port, "/hello")) || _ <- lists:seq(1, 10)],
    Other = integer_to_binary(3 - Blocked),
    ?assertEqual([<<"hello from ", Other/binary>>], lists:usort(Bodies)),
    release(Config, "go"),
    ?assertMatch(#{body := <<"unblocked">>}, response(Blocking)),
    until(fun() -> [State || #{state := State} <- workers()] =:= [ready, ready] end).

%% Its pipe fills up; the node serves through the other one, and what waits for it is bounded.
worker_that_stops_reading(Config) ->
    Port = start(Config, #{workers => 2, heartbeat => 20, stall_timeout => 1000,
                           max_concurrency => 4}),
    Blocking = connect(Port),
    send(Blocking, "POST /block?until=never HTTP/1.1\r\nHost: a\r\n\r\n"),
    until(fun() -> in_flight_of_all() =:= 1 end),
    Before = erlang:memory(binary),
    Body = binary:copy(<<"x">>, 60000),
    Stuck = [connect(Port) || _ <- lists:seq(1, 6)],
    %% Some of them go to the worker that has not been found out yet.
    [send(Socket, ["POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n", Body])
     || Socket <- Stuck],
    until(fun() -> lists:member(stalled, [State || #{state := State} <- workers()]) end),
    [?assertMatch(#{status := 200}, request(Port, "/hello")) || _ <- lists:seq(1, 100)],
    ?assert(erlang:memory(binary) - Before < 8 * 1024 * 1024),
    %% In the end it is replaced, and all have their answer.
    Statuses = [maps:get(status, response(Socket)) || Socket <- Stuck],
    ?assertEqual([], lists:usort(Statuses) -- [200, 502]),
    until(fun() -> [State || #{state := State} <- workers()] =:= [ready, ready] end).

%% Messages for requests that do not exist do not add up to anything.
flood_of_nonsense(Config) ->
    Port = start(Config, #{}),
    Flooding = connect(Port),
    get(Flooding, "/unknown?n=20000"),
    [?assertMatch(#{status := 200}, request(Port, "/hello")) || _ <- lists:seq(1, 10)],
    ?assertMatch(#{status := 200, body := <<"done">>}, response(Flooding)),
    Worker = hornbeam_test_server:worker_pid(default, 1),
    until(fun() -> process_info(Worker, message_queue_len) =:= {message_queue_len, 0} end),
    ?assertEqual([0], in_flight()).

%% Everybody gets their own answer, and all places come back.
many_requests_at_once(Config) ->
    Port = start(Config, #{workers => 2, max_concurrency => 8}),
    Self = self(),
    Clients = [
        spawn_link(fun() ->
            Socket = connect(Port),
            [
                begin
                    Text = io_lib:format("~b-~b", [Client, N]),
                    get(Socket, ["/whole?body=", Text]),
                    #{status := 200, body := Body} = response(Socket),
                    Body = iolist_to_binary(Text)
                end
             || N <- lists:seq(1, 20)
            ],
            Self ! {done, self()}
        end)
     || Client <- lists:seq(1, 40)
    ],
    [receive {done, Client} -> ok end || Client <- Clients],
    until(fun() -> in_flight() =:= [0, 0] end),
    ?assertMatch(#{queue := 0}, hornbeam:info()),
    ?assertEqual(800, lists:sum([Served || #{served := Served} <- workers()])).

%% A message from nowhere is noted, and no more.
stray_message(Config) ->
    Port = start(Config, #{}),
    Pool = hornbeam_test_server:sup_child(default, hornbeam_pool),
    Pool ! stray,
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    until(fun() -> hornbeam_test_log:reports(unexpected_message) =/= [] end),
    ?assert(is_process_alive(Pool)).

%% Internal.

%% A request that one worker has, and the OS processes of that one and of another that does not answer.
held_beside_a_silent_one(Config) ->
    Port = start(Config, #{workers => 2, heartbeat => 60000, stall_timeout => infinity}),
    Socket = connect(Port),
    get(Socket, "/hold?until=go"),
    until(fun() -> in_flight_of_all() =:= 1 end),
    [Dying] = [OsPid || #{in_flight := 1, os_pid := OsPid} <- workers()],
    [Silent] = [OsPid || #{in_flight := 0, os_pid := OsPid} <- workers()],
    signal("STOP", Silent),
    {Socket, Dying, Silent}.

signal(Name, OsPid) ->
    [] = os:cmd("kill -" ++ Name ++ " " ++ integer_to_list(OsPid)),
    ok.

%% Whether no worker is preferred because it has said something lately: all that have requests are
%% silent, and have answered their probes.
are_alike() ->
    [{_, _, Workers, _, _, _}] = ets:lookup(hornbeam_selection, default),
    Loads = [element(5, Worker) || Worker <- Workers],
    lists:all(fun(Load) ->
        not hornbeam_load:is_suspect(Load)
            andalso (hornbeam_load:in_flight(Load) =:= 0 orelse hornbeam_load:is_quiet(Load))
    end, Loads).

in_flight_of_all() ->
    lists:sum(in_flight()).

response(Socket, Method) ->
    hornbeam_test_client:response(Socket, Method).

%% Kills a process of a server that serves, and waits until it serves again.
killed(Config, Find) ->
    Port = start(Config, #{workers => 2}),
    Held = connect(Port),
    get(Held, "/hold?until=never"),
    until(fun() -> in_flight_of_all() =:= 1 end),
    Old = hornbeam_test_server:running(Config),
    Victim = Find(),
    exit(Victim, kill),
    %% Its client may be told, or only cut off; it is not left waiting.
    case gen_tcp:recv(Held, 0, 10000) of
        {ok, <<"HTTP/1.1 50", _/binary>>} -> ok;
        {error, Reason} -> ?assert(Reason =:= closed orelse Reason =:= econnreset)
    end,
    until(fun() -> serves(Port) end),
    ?assertNotEqual(Victim, Find()),
    until(fun() -> length(hornbeam_test_server:running(Config) -- Old) =:= 2 end),
    until(fun() -> length(hornbeam_test_server:running(Config)) =:= 2 end).
