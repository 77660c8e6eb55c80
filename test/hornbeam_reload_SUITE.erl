%% SPDX-License-Identifier: Apache-2.0
%% Reload, recycling of workers and their number, with whole servers of fake workers.
-module(hornbeam_reload_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([suite/0]).
-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([reload_replaces_all/1]).
-export([reload_finishes_what_is_in_flight/1]).
-export([reload_loses_nothing/1]).
-export([reload_goes_one_after_the_other/1]).
-export([broken_version_leaves_the_old/1]).
-export([worker_that_exits_at_its_start/1]).
-export([second_reload_waits_for_the_first/1]).
-export([reload_while_in_backoff/1]).
-export([reload_ends_a_start_of_the_old_version/1]).
-export([reload_while_a_worker_dies/1]).
-export([reload_while_stopping/1]).
-export([reload_of_nothing/1]).
-export([request_that_takes_too_long/1]).
-export([hangup_reloads/1]).
-export([max_requests_recycles/1]).
-export([max_requests_in_turn/1]).
-export([jitter_is_of_each_life/1]).
-export([failing_successor_backs_off/1]).
-export([max_memory_recycles/1]).
-export([too_little_memory_backs_off/1]).
-export([memory_of_a_process/1]).
-export([scale_up_and_down/1]).
-export([scale_up_that_fails/1]).
-export([scale_down_drains/1]).
-export([scale_out_of_bounds/1]).
-export([scale_waits_for_a_reload/1]).
-export([scale_down_ends_a_backoff/1]).
-export([scale_is_forgotten_by_a_crash/1]).
-export([pool_killed_while_reloading/1]).

-import(hornbeam_test_client, [connect/1, send/2, get/2, request/2, response/1]).
-import(hornbeam_test_parallel, [in_background/1, outcome/1]).
-import(hornbeam_test_server, [start/2, release/2, workers/0]).
-import(hornbeam_test_wait, [until/1]).

suite() ->
    [{timetrap, {seconds, 60}}].

all() ->
    [Case || {Case, 1} <- ?MODULE:module_info(exports), not lists:member(Case, [
        module_info, init_per_suite, end_per_suite
    ])].

init_per_suite(Config) ->
    hornbeam_test_suite:start_node(Config).

end_per_suite(Config) ->
    hornbeam_test_suite:stop_node(Config).

init_per_testcase(_, Config) ->
    hornbeam_test_suite:start_case(Config).

end_per_testcase(_, Config) ->
    hornbeam_test_suite:end_case(Config).

%% Reload.

%% Each slot has another process, and info says why; the former ones end.
reload_replaces_all(Config) ->
    Port = start(Config, #{app => "patient:app", workers => 3}),
    Before = os_pids(),
    ?assertEqual(ok, hornbeam:reload()),
    After = os_pids(),
    ?assertEqual(3, length(After -- Before)),
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    ?assertMatch(#{restarts := 1, last_exit := <<"replaced by a reload">>}, worker_of(2)),
    ?assertEqual([], hornbeam_test_log:reports(worker_down)),
    ?assertMatch([_], hornbeam_test_log:reports(reloaded)),
    until(fun() -> lists:sort(hornbeam_test_server:running(Config)) =:= After end).

%% What a former worker has got it finishes, also a body that still comes.
reload_finishes_what_is_in_flight(Config) ->
    Port = start(Config, #{app => "patient:app"}),
    [Held, Upload] = [connect(Port), connect(Port)],
    get(Held, "/hold?until=go"),
    send(Upload, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc"),
    until(fun() -> in_flight() =:= [2] end),
    ok = hornbeam:reload(),
    ?assertMatch([#{state := draining}, #{state := ready}], lists:sort(workers())),
    ?assertMatch(#{body := <<"hello from 1">>}, request(Port, "/hello")),
    send(Upload, "def"),
    release(Config, "go"),
    ?assertMatch(#{status := 200, body := <<"abcdef">>}, response(Upload)),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Held)).

%% Clients that ask all the time get an answer to each of their questions.
reload_loses_nothing(Config) ->
    Port = start(Config, #{app => "patient:app", workers => 2}),
    Stop = counters:new(1, []),
    Clients = [spawn_monitor(fun() -> ask(connect(Port), Stop, 0) end) || _ <- lists:seq(1, 8)],
    [?assertEqual(ok, hornbeam:reload()) || _ <- [1, 2, 3]],
    %% Each asks on until it has had enough answers, or one is wrong.
    counters:put(Stop, 1, 1),
    Counts = [receive {'DOWN', Monitor, process, _, {asked, Count}} -> Count end
              || {_, Monitor} <- Clients],
    ?assertEqual(8, length([Count || Count <- Counts, Count > 10])).

%% Never more than one is being started while it is not known whether the new version starts.
reload_goes_one_after_the_other(Config) ->
    _ = start(Config, #{workers => 3, app => "as_told:app"}),
    tell(Config, "when_told"),
    Reload = in_background(fun() -> hornbeam:reload() end),
    until(fun() -> length(hornbeam_test_server:started(Config)) =:= 4 end),
    ?assertEqual([ready, ready, ready], states()),
    release(Config, "ready"),
    ?assertEqual(ok, outcome(Reload)),
    ?assertEqual(6, length(hornbeam_test_server:started(Config))).

%% The reason has the traceback, and nothing else has happened.
broken_version_leaves_the_old(Config) ->
    Port = start(Config, #{workers => 2, app => "as_told:app"}),
    Before = os_pids(),
    tell(Config, "fails"),
    {error, {app_import_failed, Facts}} = hornbeam:reload(),
    ?assertMatch(#{message := <<"ImportError: no">>, traceback := <<"Traceback", _/binary>>}, Facts),
    ?assertEqual(Before, os_pids()),
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    [#{reason := Logged}] = hornbeam_test_log:reports(reload_failed),
    ?assertMatch({_, _}, binary:match(Logged, <<"Traceback">>)),
    %% It is not tried again by itself, and the next reload is as good as any.
    tell(Config, "paths"),
    ?assertEqual(ok, hornbeam:reload()),
    ?assertEqual(5, length(hornbeam_test_server:started(Config))).

%% The same for one that says nothing.
worker_that_exits_at_its_start(Config) ->
    _ = start(Config, #{app => "as_told:app"}),
    tell(Config, "exit_at_start"),
    ?assertEqual({error, {worker_exited, #{status => 7, worker_id => 1}}}, hornbeam:reload()),
    ?assertEqual([ready], states()).

%% Files may have changed since the first has read them; those who ask meanwhile share the second.
second_reload_waits_for_the_first(Config) ->
    _ = start(Config, #{app => "as_told:app"}),
    tell(Config, "when_told"),
    First = in_background(fun() -> hornbeam:reload() end),
    until(fun() -> length(hornbeam_test_server:started(Config)) =:= 2 end),
    Others = [in_background(fun() -> hornbeam:reload() end) || _ <- [1, 2, 3]],
    until(fun() -> lists:all(fun has_asked/1, Others) end),
    release(Config, "ready"),
    ?assertEqual([ok, ok, ok, ok], [outcome(Each) || Each <- [First | Others]]),
    ?assertEqual(3, length(hornbeam_test_server:started(Config))).

%% A worker that waits for its next start is started at once.
reload_while_in_backoff(Config) ->
    Port = start(Config, #{app => "as_told:app", queue_timeout => 100}),
    tell(Config, "fails"),
    #{os_pid := OsPid} = worker_of(1),
    ok = hornbeam_worker:kill(OsPid),
    until(fun() -> [Ms || #{restart_in_ms := Ms} <- hornbeam_test_log:reports(worker_down),
                          Ms > 600] =/= [] end),
    until(fun() -> states() =:= [backoff] end),
    ?assertMatch({error, {app_import_failed, _}}, hornbeam:reload()),
    ?assertEqual([backoff], states()),
    tell(Config, "paths"),
    ?assertEqual(ok, hornbeam:reload()),
    ?assertEqual([ready], states()),
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% What began to start before the reload is not waited for.
reload_ends_a_start_of_the_old_version(Config) ->
    Port = start(Config, #{app => "as_told:app"}),
    tell(Config, "silent"),
    #{os_pid := OsPid} = worker_of(1),
    ok = hornbeam_worker:kill(OsPid),
    until(fun() -> length(hornbeam_test_server:started(Config)) =:= 2 end),
    ?assertEqual([starting], states()),
    tell(Config, "paths"),
    ?assertEqual(ok, hornbeam:reload()),
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    until(fun() -> length(hornbeam_test_server:running(Config)) =:= 1 end).

%% Its successor, which is starting, has its place at once.
reload_while_a_worker_dies(Config) ->
    _ = start(Config, #{app => "as_told:app"}),
    tell(Config, "when_told"),
    Reload = in_background(fun() -> hornbeam:reload() end),
    until(fun() -> length(hornbeam_test_server:started(Config)) =:= 2 end),
    #{os_pid := OsPid} = worker_of(1),
    ok = hornbeam_worker:kill(OsPid),
    until(fun() -> states() =:= [starting] end),
    release(Config, "ready"),
    ?assertEqual(ok, outcome(Reload)),
    ?assertEqual(2, length(hornbeam_test_server:started(Config))).

%% Nobody waits for ever, and nothing stays.
reload_while_stopping(Config) ->
    _ = start(Config, #{app => "as_told:app"}),
    tell(Config, "silent"),
    Reload = in_background(fun() -> hornbeam:reload() end),
    until(fun() -> length(hornbeam_test_server:started(Config)) =:= 2 end),
    ok = hornbeam:stop(),
    ?assertEqual({error, {interrupted, #{name => default}}}, outcome(Reload)).

%% There has to be a server of that name.
reload_of_nothing(_) ->
    ?assertEqual({error, {not_started, #{name => default}}}, hornbeam:reload()),
    ?assertEqual({error, {not_started, #{name => nobody}}}, hornbeam:reload(nobody)),
    ?assertEqual({error, {not_started, #{name => nobody}}}, hornbeam:scale(nobody, 2)).

%% A request that the former worker does not finish in `shutdown_timeout' is answered all the same.
request_that_takes_too_long(Config) ->
    Port = start(Config, #{app => "patient:app", shutdown_timeout => 100}),
    [Post, Get] = [connect(Port), connect(Port)],
    send(Post, "POST /hold?until=go HTTP/1.1\r\nHost: a\r\n\r\n"),
    get(Get, "/hold?until=go"),
    until(fun() -> in_flight() =:= [2] end),
    ok = hornbeam:reload(),
    until(fun() -> length(hornbeam_test_server:running(Config)) =:= 1 end),
    release(Config, "go"),
    ?assertMatch(#{status := 502}, response(Post)),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Get)).

%% The signal that would end the node reloads what it serves.
hangup_reloads(Config) ->
    _ = start(Config, #{}),
    [Before] = os_pids(),
    ok = hornbeam_hangup:install(),
    ok = hornbeam_hangup:install(),
    ?assertEqual("", os:cmd("kill -HUP " ++ os:getpid())),
    until(fun() -> [Before] =/= os_pids() andalso states() =:= [ready] end),
    until(fun() -> length(hornbeam_test_log:reports(reloaded)) =:= 1 end),
    ok = hornbeam_hangup:remove(),
    ok = hornbeam_hangup:remove(),
    ?assertNot(lists:member(hornbeam_hangup, gen_event:which_handlers(erl_signal_server))).

%% Recycling.

%% After so many requests there is another process, and nobody notices.
max_requests_recycles(Config) ->
    Port = start(Config, #{app => "patient:app", max_requests => 3}),
    Before = os_pids(),
    [?assertMatch(#{status := 200}, request(Port, "/hello")) || _ <- lists:seq(1, 3)],
    until(fun() -> os_pids() -- Before =/= [] end),
    ?assertMatch(#{restarts := 1, last_exit := <<"replaced after 3 requests">>}, worker_of(1)),
    ?assertMatch([#{limit := max_requests, value := 3}], hornbeam_test_log:reports(worker_recycled)),
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% Workers of the same age are replaced one after the other; all of them serve until then.
max_requests_in_turn(Config) ->
    Port = start(Config, #{workers => 3, max_requests => 2, app => "as_told:app"}),
    tell(Config, "when_told"),
    [?assertMatch(#{status := 200}, request(Port, "/hello")) || _ <- lists:seq(1, 20)],
    until(fun() -> length(hornbeam_test_log:reports(worker_recycled)) =:= 3 end),
    until(fun() -> length(hornbeam_test_server:started(Config)) =:= 4 end),
    ?assertEqual([ready, ready, ready], states()),
    release(Config, "ready"),
    until(fun() -> lists:all(fun(#{restarts := N}) -> N >= 1 end, workers()) end),
    ?assertEqual([], hornbeam_test_log:reports(worker_down)).

%% Every life has a limit of its own, between the option and the option with the jitter.
jitter_is_of_each_life(_) ->
    Limit = fun() ->
        Limits = hornbeam_recycling:new(#{max_requests => 10, max_requests_jitter => 5,
                                          max_memory => infinity}),
        [At] = [N || N <- lists:seq(1, 100),
                     element(1, hornbeam_recycling:served(N, Limits)) =:= recycle],
        At
    end,
    ?assertEqual([10, 11, 12, 13, 14, 15], lists:usort([Limit() || _ <- lists:seq(1, 300)])).

%% It is tried again and again, less and less often, while the worker serves.
failing_successor_backs_off(Config) ->
    Port = start(Config, #{max_requests => 1, app => "as_told:app"}),
    tell(Config, "fails"),
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    until(fun() -> length(hornbeam_test_log:reports(successor_down)) >= 4 end),
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    Times = [Time || #{msg := {report, #{what := successor_down}}, meta := #{time := Time}}
                     <- hornbeam_test_log:events()],
    [First, Second, Third | _] = gaps_ms(Times),
    ?assert(First >= 75),
    ?assert(Second >= 150),
    ?assert(Third >= 300),
    %% Once it can start, it does.
    tell(Config, "paths"),
    until(fun() -> maps:get(restarts, worker_of(1)) >= 1 end).

%% A worker that has grown too large is replaced; its size is looked at once a second.
max_memory_recycles(Config) ->
    Port = start(Config, #{app => "patient:app", heartbeat => 50, max_memory => 64 * 1024 * 1024}),
    Before = os_pids(),
    ?assertMatch(#{status := 200}, request(Port, "/grow?bytes=100000000")),
    until(fun() -> os_pids() -- Before =/= [] end),
    [#{limit := max_memory, value := Bytes} | _] = hornbeam_test_log:reports(worker_recycled),
    ?assert(Bytes > 64 * 1024 * 1024),
    ?assertMatch(#{last_exit := <<"replaced at ", _/binary>>}, worker_of(1)),
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% Where the limit is less than a worker needs, it is not replaced all the time.
too_little_memory_backs_off(Config) ->
    Port = start(Config, #{heartbeat => 10, max_memory => 1048576}),
    until(fun() -> length(hornbeam_test_server:started(Config)) >= 4 end),
    Times = [Time || #{msg := {report, #{what := worker_recycled}}, meta := #{time := Time}}
                     <- hornbeam_test_log:events()],
    [First, Second, Third | _] = gaps_ms(Times) ++ [infinity],
    ?assert(First >= 75),
    ?assert(Second >= 150),
    ?assert(Third >= 300),
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% Ours is known, that of no process is not.
memory_of_a_process(_) ->
    Own = hornbeam_recycling:resident_bytes(list_to_integer(os:getpid())),
    ?assert(is_integer(Own) andalso Own > 10000000 andalso Own < 100000000000),
    ?assertEqual(undefined, hornbeam_recycling:resident_bytes(undefined)),
    ?assertEqual(undefined, hornbeam_recycling:resident_bytes(999999999)).

%% Number of workers.

%% Those that are added serve when it returns, those that are too many go.
scale_up_and_down(Config) ->
    Port = start(Config, #{app => "patient:app", workers => 1}),
    ?assertEqual(ok, hornbeam:scale(3)),
    ?assertEqual([{1, ready}, {2, ready}, {3, ready}],
                 [{Id, State} || #{worker_id := Id, state := State} <- workers()]),
    ?assertMatch(#{options := #{workers := 3}}, hornbeam:info()),
    Bodies = [maps:get(body, request(Port, "/hello")) || _ <- lists:seq(1, 9)],
    ?assertEqual([<<"hello from 1">>, <<"hello from 2">>, <<"hello from 3">>], lists:usort(Bodies)),
    [Kept | _] = os_pids(),
    ?assertEqual(ok, hornbeam:scale(default, 1)),
    ?assertMatch(#{options := #{workers := 1}}, hornbeam:info()),
    until(fun() -> hornbeam_test_server:running(Config) =:= [Kept] end),
    until(fun() -> length(workers()) =:= 1 end),
    ?assertMatch([#{worker_id := 1, restarts := 0}], workers()),
    ?assertMatch(#{body := <<"hello from 1">>}, request(Port, "/hello")),
    ?assertEqual(ok, hornbeam:scale(1)),
    ?assertEqual([], hornbeam_test_log:reports(worker_down)).

%% All or none.
scale_up_that_fails(Config) ->
    Port = start(Config, #{app => "second_fails:app"}),
    ?assertMatch({error, {app_import_failed, _}}, hornbeam:scale(4)),
    ?assertMatch(#{options := #{workers := 1}}, hornbeam:info()),
    until(fun() -> length(workers()) =:= 1 end),
    until(fun() -> length(hornbeam_test_server:running(Config)) =:= 1 end),
    ?assertMatch(#{body := <<"hello from 1">>}, request(Port, "/hello")),
    ?assertMatch([_], hornbeam_test_log:reports(scale_failed)).

%% A worker that goes finishes what it has.
scale_down_drains(Config) ->
    Port = start(Config, #{app => "patient:app", workers => 2}),
    Held = [connect(Port), connect(Port)],
    [get(Socket, "/hold?until=go") || Socket <- Held],
    until(fun() -> in_flight() =:= [1, 1] end),
    ?assertEqual(ok, hornbeam:scale(1)),
    ?assertMatch([#{worker_id := 1, state := ready}, #{worker_id := 2, state := draining}], workers()),
    release(Config, "go"),
    [?assertMatch(#{status := 200, body := <<"released">>}, response(Socket)) || Socket <- Held],
    until(fun() -> length(workers()) =:= 1 end).

%% The same bounds as of the option, in the same words.
scale_out_of_bounds(Config) ->
    _ = start(Config, #{}),
    [
        begin
            {error, {invalid_options, #{errors := [Error]}} = Reason} = hornbeam:scale(Count),
            ?assertMatch(#{key := workers, value := Count}, Error),
            ?assertMatch({_, _}, binary:match(iolist_to_binary(hornbeam:format_error(Reason)),
                                              <<"expected an integer from 1 to 1024">>))
        end
     || Count <- [0, -1, 1025, 2.0, two, infinity]
    ],
    ?assertEqual([ready], states()).

%% One thing at a time, in order.
scale_waits_for_a_reload(Config) ->
    _ = start(Config, #{app => "as_told:app"}),
    tell(Config, "when_told"),
    Reload = in_background(fun() -> hornbeam:reload() end),
    until(fun() -> length(hornbeam_test_server:started(Config)) =:= 2 end),
    Scale = in_background(fun() -> hornbeam:scale(2) end),
    until(fun() -> has_asked(Scale) end),
    ?assertEqual([ready], states()),
    release(Config, "ready"),
    ?assertEqual([ok, ok], [outcome(Reload), outcome(Scale)]),
    ?assertEqual([ready, ready], states()).

%% Whatever state the worker is in, its slot goes, and no timer brings it back.
scale_down_ends_a_backoff(Config) ->
    _ = start(Config, #{workers => 2, app => "as_told:app"}),
    tell(Config, "fails"),
    #{os_pid := OsPid} = worker_of(2),
    ok = hornbeam_worker:kill(OsPid),
    until(fun() -> length([1 || #{worker_id := 2} <- hornbeam_test_log:reports(worker_down)]) >= 3 end),
    ?assertEqual(ok, hornbeam:scale(1)),
    ?assertMatch([#{worker_id := 1, state := ready}], workers()),
    Started = length(hornbeam_test_server:started(Config)),
    tell(Config, "paths"),
    ?assertEqual(ok, hornbeam:scale(2)),
    ?assertEqual([ready, ready], states()),
    ?assertEqual(Started + 1, length(hornbeam_test_server:started(Config))).

%% A server that comes back after a crash has the number of the options.
scale_is_forgotten_by_a_crash(Config) ->
    _ = start(Config, #{workers => 1}),
    ok = hornbeam:scale(2),
    Pool = hornbeam_test_server:sup_child(default, hornbeam_pool),
    exit(Pool, kill),
    until(fun() -> is_back(Pool) end),
    ?assertMatch(#{options := #{workers := 1}}, hornbeam:info()).

%% Whoever waits is told.
pool_killed_while_reloading(Config) ->
    _ = start(Config, #{app => "as_told:app"}),
    tell(Config, "silent"),
    Reload = in_background(fun() -> hornbeam:reload() end),
    until(fun() -> length(hornbeam_test_server:started(Config)) =:= 2 end),
    tell(Config, "paths"),
    Pool = hornbeam_test_server:sup_child(default, hornbeam_pool),
    exit(Pool, kill),
    {error, {interrupted, _} = Reason} = outcome(Reload),
    ?assertEqual(<<"the server named default has ended or was started anew before that was done">>,
                 iolist_to_binary(hornbeam:format_error(Reason))),
    until(fun() -> is_back(Pool) end).

%% Internal.

worker_of(WorkerId) ->
    [Info] = [Info || #{worker_id := Id, state := State} = Info <- workers(), Id =:= WorkerId,
                      State =/= draining],
    Info.

states() ->
    [State || #{state := State} <- workers(), State =/= draining].

os_pids() ->
    lists:sort([OsPid || #{os_pid := OsPid, state := ready} <- workers()]).

in_flight() ->
    [InFlight || #{in_flight := InFlight} <- workers()].

is_back(OldPool) ->
    case hornbeam_selection:pool_pid(default) of
        Pool when is_pid(Pool), Pool =/= OldPool ->
            case hornbeam:info() of
                #{workers := [#{state := ready}]} -> true;
                _ -> false
            end;
        _ ->
            false
    end.

%% How workers start from now on.
tell(Config, Start) ->
    Path = filename:join(proplists:get_value(folder, Config), "start"),
    ok = file:write_file(Path ++ ".new", Start),
    ok = file:rename(Path ++ ".new", Path).

%% Whether the pool has what somebody asks of it in the background, and nothing more to read.
has_asked({Pid, _}) ->
    Pool = hornbeam_test_server:sup_child(default, hornbeam_pool),
    {monitors, Asked} = process_info(Pid, monitors),
    lists:member({process, Pool}, Asked)
        andalso {status, waiting} =:= process_info(Pid, status)
        andalso {message_queue_len, 0} =:= process_info(Pool, message_queue_len)
        andalso {status, waiting} =:= process_info(Pool, status).

gaps_ms(Times) ->
    lists:zipwith(fun(Earlier, Later) -> (Later - Earlier) div 1000 end,
                  lists:droplast(Times), tl(Times)).

%% Requests on one connection, until it is to stop; any fault is the reason of its end.
ask(Socket, Stop, Count) ->
    case counters:get(Stop, 1) of
        1 when Count > 10 ->
            exit({asked, Count});
        _ ->
            send(Socket, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"),
            #{status := 200, body := <<"body">>} = response(Socket),
            ask(Socket, Stop, Count + 1)
    end.
