%% SPDX-License-Identifier: Apache-2.0
%% What users call: start, stop, info and their errors.
-module(hornbeam_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([suite/0]).
-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([start_and_stop_again_and_again/1]).
-export([applications_environment/1]).
-export([already_started/1]).
-export([started_twice_at_once/1]).
-export([not_started/1]).
-export([application_not_running/1]).
-export([stopped_twice_at_once/1]).
-export([all_wrong_options_at_once/1]).
-export([interpreter_not_found/1]).
-export([application_fails/1]).
-export([worker_exits/1]).
-export([worker_talks_nonsense/1]).
-export([one_of_several_workers_fails/1]).
-export([never_ready/1]).
-export([stopped_while_starting/1]).
-export([starter_killed/1]).
-export([info_of_a_server/1]).
-export([info_while_starting/1]).
-export([info_while_stopping/1]).
-export([several_servers/1]).
-export([servers_do_not_wait_for_each_other/1]).
-export([application_stopped/1]).
-export([supervisor_of_the_servers_killed/1]).
-export([supervisor_killed_while_a_server_starts/1]).
-export([supervisor_killed_while_a_server_stops/1]).
-export([names_are_atoms/1]).

-import(hornbeam_test_client, [connect/1, get/2, request/2, response/1, close/1, serves/1]).
-import(hornbeam_test_parallel, [in_parallel/2, in_background/1, outcome/1]).
-import(hornbeam_test_server, [start/2, start/3, options/2, release/2, await_seen/2]).
-import(hornbeam_test_wait, [until/1]).

suite() ->
    [{timetrap, {seconds, 60}}].

all() ->
    [
        start_and_stop_again_and_again,
        applications_environment,
        already_started,
        started_twice_at_once,
        not_started,
        application_not_running,
        stopped_twice_at_once,
        all_wrong_options_at_once,
        interpreter_not_found,
        application_fails,
        worker_exits,
        worker_talks_nonsense,
        one_of_several_workers_fails,
        never_ready,
        stopped_while_starting,
        starter_killed,
        info_of_a_server,
        info_while_starting,
        info_while_stopping,
        several_servers,
        servers_do_not_wait_for_each_other,
        application_stopped,
        supervisor_of_the_servers_killed,
        supervisor_killed_while_a_server_starts,
        supervisor_killed_while_a_server_stops,
        names_are_atoms
    ].

init_per_suite(Config) ->
    hornbeam_test_suite:start_node(Config).

end_per_suite(Config) ->
    hornbeam_test_suite:stop_node(Config).

init_per_testcase(_, Config) ->
    hornbeam_test_suite:start_case(Config).

end_per_testcase(Case, Config) ->
    %% What has been started again has other processes.
    Restarts = [application_not_running, application_stopped, supervisor_of_the_servers_killed,
                supervisor_killed_while_a_server_starts, supervisor_killed_while_a_server_stops],
    case lists:member(Case, Restarts) of
        true ->
            ok = hornbeam_test_suite:stop_servers(),
            ok = hornbeam_test_log:stop();
        false ->
            hornbeam_test_suite:end_case(Config)
    end.

%% Each time as the first time.
start_and_stop_again_and_again(Config) ->
    [
        begin
            Port = start(Config, #{}),
            ?assertMatch(#{status := 200}, request(Port, "/hello")),
            ?assertEqual(ok, hornbeam:stop()),
            ?assertEqual({error, econnrefused}, gen_tcp:connect({127, 0, 0, 1}, Port, [])),
            hornbeam_test_server:assert_nothing_left(proplists:get_value(before, Config)),
            ?assertEqual([], hornbeam_test_server:running(Config))
        end
     || _ <- [1, 2, 3]
    ],
    ?assertEqual([], hornbeam_test_log:at_least(warning)).

%% What stands in sys.config is as good as what the call says, which wins.
applications_environment(Config) ->
    Options = options(Config, #{workers => 2, server_header => "from the environment"}),
    maps:foreach(fun(Key, Value) -> application:set_env(hornbeam, Key, Value) end, Options),
    try
        ok = hornbeam:start("paths:app"),
        #{port := Port, options := #{workers := 2}} = hornbeam:info(),
        Response = request(Port, "/hello"),
        ?assertEqual([<<"from the environment">>],
                     hornbeam_test_client:values(<<"server">>, Response)),
        ok = hornbeam:stop(),
        ok = hornbeam:start(<<"paths:app">>, #{workers => 1}),
        ?assertMatch(#{options := #{workers := 1}}, hornbeam:info())
    after
        [application:unset_env(hornbeam, Key) || Key <- maps:keys(Options)]
    end.

%% A name is taken until its server has been stopped.
already_started(Config) ->
    Port = start(Config, #{}),
    ?assertEqual(
        {error, {already_started, #{name => default}}},
        hornbeam:start("paths:app", options(Config, #{}))
    ),
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% One of them wins.
started_twice_at_once(Config) ->
    Results = in_parallel(4, fun(_) -> hornbeam:start("paths:app", options(Config, #{})) end),
    ?assertEqual(1, length([ok || ok <- Results])),
    ?assertEqual(3, length([error || {error, {already_started, _}} <- Results])),
    ?assertMatch(#{workers := [#{state := ready}]}, hornbeam:info()).

%% There is nothing to stop, and nothing to tell.
not_started(_) ->
    ?assertEqual({error, {not_started, #{name => default}}}, hornbeam:stop()),
    ?assertEqual({error, {not_started, #{name => other}}}, hornbeam:stop(other)),
    ?assertEqual({error, {not_started, #{name => default}}}, hornbeam:info()),
    ?assertEqual({error, {not_started, #{name => other}}}, hornbeam:info(other)).

%% The same without the application, which a start starts.
application_not_running(Config) ->
    ok = application:stop(hornbeam),
    ?assertEqual({error, {not_started, #{name => default}}}, hornbeam:stop()),
    ?assertEqual({error, {not_started, #{name => default}}}, hornbeam:info()),
    Port = start(Config, #{}),
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% Both wait for the end, and at most one is too late to find it.
stopped_twice_at_once(Config) ->
    _ = start(Config, #{}),
    Results = in_parallel(4, fun(_) -> hornbeam:stop() end),
    ?assert(lists:member(ok, Results)),
    ?assertEqual([], [Other || Other <- Results, Other =/= ok,
                               Other =/= {error, {not_started, #{name => default}}}]),
    ?assertEqual([], hornbeam_test_server:running(Config)).

%% In one answer, that a human can read; nothing has been started for it.
all_wrong_options_at_once(Config) ->
    {error, Reason = {invalid_options, #{errors := Errors}}} =
        hornbeam:start("no app", options(Config, #{workers => 0, no_such_option => 1})),
    ?assertEqual([app, no_such_option, workers], [Key || #{key := Key} <- Errors]),
    Text = unicode:characters_to_list(hornbeam:format_error(Reason)),
    [?assertNotEqual(nomatch, string:find(Text, Word))
     || Word <- ["no app", "no_such_option", "workers", "expected"]],
    ?assertEqual([], hornbeam_test_server:started(Config)).

%% Neither by name, nor as a path, nor in a virtual environment.
interpreter_not_found(Config) ->
    Reasons = [
        {python_not_found, #{python => "no-such-python"}},
        {python_not_found, #{python => "/no/such/python"}},
        {python_not_found, #{python => "/etc/passwd"}},
        {venv_not_found, #{python => "python3", venv => "/no/such/venv"}}
    ],
    [
        begin
            {error, Reason} = hornbeam:start("paths:app", options(Config, Options)),
            ?assertMatch({Name, _}, Reason),
            Text = unicode:characters_to_list(hornbeam:format_error(Reason)),
            ?assertNotEqual(nomatch, string:find(Text, "no"))
        end
     || {Name, Options} <- Reasons
    ].

%% With what Python had to say.
application_fails(Config) ->
    {error, Reason} = hornbeam:start("fails:app", options(Config, #{})),
    ?assertEqual(
        {app_import_failed, #{
            app => <<"fails:app">>,
            message => <<"ImportError: no">>,
            traceback => <<"Traceback (most recent call last): ...">>
        }},
        Reason
    ),
    Text = unicode:characters_to_list(hornbeam:format_error(Reason)),
    ?assertNotEqual(nomatch, string:find(Text, "\nTraceback (most recent call last)")),
    ?assertEqual([], hornbeam_test_server:running(Config)).

%% Without a word, with a status or by a signal.
worker_exits(Config) ->
    {error, Reason} = hornbeam:start("exit_at_start:app", options(Config, #{})),
    ?assertEqual({worker_exited, #{status => 7, worker_id => 1}}, Reason),
    ?assertEqual(
        <<"worker 1 exited with status 7 before it was ready">>,
        unicode:characters_to_binary(hornbeam:format_error(Reason))
    ),
    ?assertEqual([], hornbeam_test_server:running(Config)).

%% It is no worker.
worker_talks_nonsense(Config) ->
    {error, Reason} = hornbeam:start("garbage_at_start:app", options(Config, #{})),
    ?assertMatch({worker_exited, #{worker_id := 1}}, Reason),
    Text = unicode:characters_to_list(hornbeam:format_error(Reason)),
    ?assertNotEqual(nomatch, string:find(Text, "this is no term")),
    {error, Other} = hornbeam:start("p:a", options(Config, #{python => "/bin/cat", env => #{}})),
    ?assertMatch({worker_exited, _}, Other).

%% All or nothing.
one_of_several_workers_fails(Config) ->
    ?assertMatch(
        {error, {app_import_failed, _}},
        hornbeam:start("second_fails:app", options(Config, #{workers => 3}))
    ),
    ?assertEqual([], hornbeam_test_server:running(Config)).

%% The time for the start has an end, also for a process that hears nothing.
never_ready(Config) ->
    [
        begin
            Starting = start_in_background(Config, App, #{lifespan_timeout => 1000}),
            await_seen(Config, <<"1 configured">>),
            %% What the timer sends: it is too long to wait for.
            [{_, Worker, _, _}] = supervisor:which_children(
                hornbeam_test_server:sup_child(default, hornbeam_workers_sup)
            ),
            Worker ! {timeout, make_ref(), boot},
            ?assertEqual(
                {error, {startup_timeout, #{timeout_ms => 31000}}},
                outcome(Starting)
            ),
            ?assertEqual([], hornbeam_test_server:running(Config)),
            ok = file:delete(filename:join(proplists:get_value(folder, Config), "seen"))
        end
     || App <- ["silent:app", "deaf_at_start:app"]
    ].

%% A start need not be waited for.
stopped_while_starting(Config) ->
    Starting = start_in_background(Config, "silent:app", #{}),
    await_seen(Config, <<"1 configured">>),
    ?assertEqual(ok, hornbeam:stop()),
    ?assertEqual({error, {not_started, #{name => default}}}, outcome(Starting)),
    ?assertEqual([], hornbeam_test_server:running(Config)).

%% Whoever asked for a server may be gone when it is there: it is there as a whole.
starter_killed(Config) ->
    {Starter, _} = start_in_background(Config, "when_told:app", #{}),
    until(fun() -> hornbeam_test_server:started(Config) =/= [] end),
    exit(Starter, kill),
    release(Config, "ready"),
    until(fun() -> is_integer(maps:get(port, hornbeam:info())) end),
    ?assertMatch(#{status := 200}, request(hornbeam_test_server:port(default), "/hello")).

%% Where it is, what runs, how busy it is, and what it was told, without secrets.
info_of_a_server(Config) ->
    Port = start(Config, #{workers => 2, env => #{
        "FAKE_DIR" => proplists:get_value(folder, Config), "SECRET" => "hush"
    }}),
    Socket = connect(Port),
    get(Socket, "/hold?until=go"),
    await_held(Config),
    Info = #{workers := Workers, url := Url} = hornbeam:info(),
    ?assertMatch(
        #{
            name := default,
            address := <<"127.0.0.1">>,
            port := Port,
            listeners := [#{port := Port}],
            connections := 1,
            queue := 0,
            uptime_ms := Uptime,
            options := #{app := <<"paths:app">>, workers := 2}
        } when Uptime >= 0,
        Info
    ),
    ?assertEqual(Url, list_to_binary("http://127.0.0.1:" ++ integer_to_list(Port))),
    ?assertEqual([1, 2], [Id || #{worker_id := Id} <- Workers]),
    ?assertEqual(1, lists:sum([InFlight || #{in_flight := InFlight} <- Workers])),
    OsPids = [OsPid || #{os_pid := OsPid, state := ready, restarts := 0} <- Workers],
    ?assertEqual(lists:sort(hornbeam_test_server:running(Config)), lists:sort(OsPids)),
    ?assertEqual(nomatch, string:find(io_lib:format("~p", [Info]), "hush")),
    release(Config, "go"),
    ?assertMatch(#{status := 200}, response(Socket)).

%% It can be looked at before it is there.
info_while_starting(Config) ->
    Starting = start_in_background(Config, "when_told:app", #{workers => 2}),
    until(fun() -> length(hornbeam_test_server:started(Config)) =:= 2 end),
    ?assertMatch(
        #{
            listeners := [],
            port := undefined,
            connections := 0,
            workers := [
                #{worker_id := 1, state := starting, restarts := 0},
                #{worker_id := 2, state := starting, restarts := 0}
            ]
        },
        hornbeam:info()
    ),
    release(Config, "ready"),
    ?assertEqual(ok, outcome(Starting)),
    ?assertMatch(#{workers := [#{state := ready}, #{state := ready}]}, hornbeam:info()).

%% And while it ends: as one that is there or as one that is not.
info_while_stopping(Config) ->
    Port = start(Config, #{}),
    Socket = connect(Port),
    get(Socket, "/hold?until=go"),
    await_held(Config),
    Stopping = in_background(fun() -> hornbeam:stop() end),
    until(fun() -> gen_tcp:connect({127, 0, 0, 1}, Port, []) =:= {error, econnrefused} end),
    Asking = spawn_monitor(fun() -> exit({info, hornbeam:info()}) end),
    release(Config, "go"),
    ?assertMatch(#{status := 200}, response(Socket)),
    close(Socket),
    ?assertEqual(ok, outcome(Stopping)),
    {Pid, Monitor} = Asking,
    receive
        {'DOWN', Monitor, process, Pid, {info, Info}} ->
            ?assert(is_map(Info) orelse Info =:= {error, {not_started, #{name => default}}})
    end.

%% Each has its own workers, port and end.
several_servers(Config) ->
    First = start(Config, first, #{}),
    Second = start(Config, second, #{workers => 2}),
    ?assertEqual([first, second], hornbeam_servers_sup:names()),
    ?assertNotEqual(First, Second),
    ?assertMatch(#{name := second, workers := [_, _]}, hornbeam:info(second)),
    ?assertMatch(#{status := 502},
                 hornbeam_test_client:exchange(First, "POST /crash HTTP/1.1\r\nHost: a\r\n\r\n")),
    ?assertMatch(#{workers := [#{restarts := 0}, #{restarts := 0}]}, hornbeam:info(second)),
    ?assertMatch(#{status := 200}, request(First, "/hello")),
    ?assertEqual(ok, hornbeam:stop(first)),
    ?assertMatch({error, {not_started, #{name := first}}}, hornbeam:info(first)),
    ?assertMatch(#{status := 200}, request(Second, "/hello")),
    ?assertEqual({error, {not_started, #{name => default}}}, hornbeam:stop()),
    ?assertEqual(2, length(hornbeam_test_server:running(Config))).

%% One that takes its time to end holds up nobody.
servers_do_not_wait_for_each_other(Config) ->
    First = start(Config, first, #{}),
    Second = start(Config, second, #{}),
    Socket = connect(First),
    get(Socket, "/hold?until=go"),
    await_held(Config),
    Stopping = in_background(fun() -> hornbeam:stop(first) end),
    until(fun() -> gen_tcp:connect({127, 0, 0, 1}, First, []) =:= {error, econnrefused} end),
    ?assertMatch(#{name := second}, hornbeam:info(second)),
    ?assertMatch(#{status := 200}, request(Second, "/hello")),
    Third = start(Config, third, #{}),
    ?assertMatch(#{status := 200}, request(Third, "/hello")),
    ?assertEqual(ok, hornbeam:stop(second)),
    %% All the while the first has been at its end.
    ?assertEqual({error, timeout}, gen_tcp:recv(Socket, 0, 0)),
    release(Config, "go"),
    ?assertMatch(#{status := 200}, response(Socket)),
    close(Socket),
    ?assertEqual(ok, outcome(Stopping)).

%% With the application its servers end, in order.
application_stopped(Config) ->
    Port = start(Config, #{}),
    Socket = connect(Port),
    get(Socket, "/hold?until=go"),
    await_held(Config),
    Stopping = in_background(fun() -> application:stop(hornbeam) end),
    until(fun() -> gen_tcp:connect({127, 0, 0, 1}, Port, []) =:= {error, econnrefused} end),
    release(Config, "go"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Socket)),
    close(Socket),
    ?assertEqual(ok, outcome(Stopping)),
    await_seen(Config, <<"1 shutdown">>),
    ?assertEqual([], hornbeam_test_server:running(Config)),
    ?assertEqual(#{}, ranch:info()),
    {ok, _} = application:ensure_all_started(hornbeam).

%% The servers come back by themselves, where they were; what is stopped stays so.
supervisor_of_the_servers_killed(Config) ->
    First = start(Config, first, #{server_header => "one", workers => 2}),
    Second = start(Config, second, #{server_header => "two"}),
    _ = start(Config, third, #{}),
    ok = hornbeam:stop(third),
    Former = hornbeam_test_server:running(Config),
    kill_servers_sup(),
    [begin
        until(fun() -> serves(Port) end),
        ?assertEqual([Header], hornbeam_test_client:values(<<"server">>, request(Port, "/hello")))
     end || {Port, Header} <- [{First, <<"one">>}, {Second, <<"two">>}]],
    ?assertEqual([first, second], hornbeam_servers_sup:names()),
    ?assertMatch(#{port := First, options := #{workers := 2}}, hornbeam:info(first)),
    until(fun() -> length(hornbeam_test_server:running(Config)) =:= 3 end),
    ?assertEqual([], [OsPid || OsPid <- Former, hornbeam_test_server:is_running(OsPid)]),
    ?assertEqual(ok, hornbeam:stop(first)),
    kill_servers_sup(),
    until(fun() -> serves(Second) end),
    ?assertEqual([second], hornbeam_servers_sup:names()).

%% And wait for its successor: until then the former listeners may answer.
kill_servers_sup() ->
    Former = whereis(hornbeam_servers_sup),
    exit(Former, kill),
    until(fun() -> not lists:member(whereis(hornbeam_servers_sup), [Former, undefined]) end).


%% Whoever asked for it gets an error, and nothing of it stays.
supervisor_killed_while_a_server_starts(Config) ->
    Starting = start_in_background(Config, "when_told:app", #{}),
    until(fun() -> hornbeam_test_server:started(Config) =/= [] end),
    exit(whereis(hornbeam_servers_sup), kill),
    ?assertEqual({error, {not_started, #{name => default}}}, outcome(Starting)),
    until(fun() -> hornbeam_test_server:running(Config) =:= [] end),
    ?assertEqual([], hornbeam_servers_sup:names()),
    Port = start(Config, #{}),
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% It is stopped in any case, whatever its supervisor goes through meanwhile.
supervisor_killed_while_a_server_stops(Config) ->
    Port = start(Config, #{}),
    Socket = connect(Port),
    get(Socket, "/hold?until=go"),
    await_held(Config),
    Stopping = in_background(fun() -> hornbeam:stop() end),
    until(fun() -> gen_tcp:connect({127, 0, 0, 1}, Port, []) =:= {error, econnrefused} end),
    exit(whereis(hornbeam_servers_sup), kill),
    release(Config, "go"),
    ?assert(lists:member(outcome(Stopping), [ok, {error, {not_started, #{name => default}}}])),
    ?assertEqual([], hornbeam_servers_sup:names()),
    until(fun() -> hornbeam_test_server:running(Config) =:= [] end),
    ?assertEqual({error, econnrefused}, gen_tcp:connect({127, 0, 0, 1}, Port, [])).

%% Anything else is a mistake of the caller's.
names_are_atoms(Config) ->
    ?assertError(function_clause, hornbeam:start("name", "paths:app", options(Config, #{}))),
    ?assertError(function_clause, hornbeam:stop("name")),
    ?assertError(function_clause, hornbeam:info(<<"name">>)).

%% Internal.

start_in_background(Config, App, Options) ->
    All = options(Config, Options),
    in_background(fun() -> hornbeam:start(App, All) end).

await_held(Config) ->
    until(fun() ->
        lists:any(fun(Line) -> binary:match(Line, <<"request /hold">>) =/= nomatch end,
                  hornbeam_test_server:seen(Config))
    end).
