%% SPDX-License-Identifier: Apache-2.0
%% Whatever process of the tree is killed, the service comes back by itself, with its state.
-module(hornbeam_kill_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([suite/0]).
-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([each_in_turn/1]).
-export([at_random/1]).
-export([root_killed/1]).
-export([ranch_killed/1]).
-export([workers_that_crash_a_thousand_times/1]).
-export([connections_that_crash_a_thousand_times/1]).
-export([requests_without_their_pool/1]).
-export([queue_without_its_pool/1]).
-export([workers_leave_without_their_pool/1]).

-import(hornbeam_test_client, [connect/1, send/2, get/2, request/2, response/1, is_closed/1]).
-import(hornbeam_test_server, [start/2, start/3, await_seen/2, sup_child/2]).
-import(hornbeam_test_wait, [until/1]).

%% How long the random kills go on, and how often they happen: below what the supervisors bear, as
%% those of the tests of ours are no crashes of one kind. KILL_SECONDS sets another time.
-define(RANDOM_MS, 4000).
-define(PAUSE_MS, 400).

suite() ->
    [{timetrap, 120000 + random_ms()}].

random_ms() ->
    case os:getenv("KILL_SECONDS") of
        false -> ?RANDOM_MS;
        Seconds -> 1000 * list_to_integer(Seconds)
    end.

all() ->
    [
        each_in_turn,
        at_random,
        root_killed,
        ranch_killed,
        workers_that_crash_a_thousand_times,
        connections_that_crash_a_thousand_times,
        requests_without_their_pool,
        queue_without_its_pool,
        workers_leave_without_their_pool
    ].

init_per_suite(Config) ->
    hornbeam_test_suite:start_node(Config).

end_per_suite(Config) ->
    hornbeam_test_suite:stop_node(Config).

init_per_testcase(_, Config) ->
    {ok, _} = application:ensure_all_started(hornbeam),
    %% The log of all these crashes says nothing that is looked at.
    #{level := Level} = logger:get_primary_config(),
    ok = logger:set_primary_config(level, none),
    [{level, Level} | hornbeam_test_server:new_folder(Config)].

end_per_testcase(_, Config) ->
    ok = hornbeam_test_suite:stop_servers(),
    ok = logger:set_primary_config(level, proplists:get_value(level, Config)),
    until(fun() -> hornbeam_test_server:running(Config) =:= [] end).

%% Each process that there is, from the root's children down to what its leaves are linked to.
each_in_turn(Config) ->
    Fixture = start_all(Config),
    Places = [Place || Place <- lists:sort(maps:keys(tree())), is_first_of_its_kind(Place)],
    ?assert(length(Places) > 30),
    Times = [{kill_and_measure(Place, Fixture), Place} || Place <- Places],
    {SlowestMs, _} = lists:max(Times),
    ct:pal("~b places, back after ~b ms at most:~n~p", [length(Places), SlowestMs, lists:sort(Times)]),
    %% A second, as it is documented, on a machine that has nothing else to do.
    ?assert(SlowestMs < 5000),
    check_all_is_as_before(Fixture, Config).

%% Any of them at any time, under load.
at_random(Config) ->
    Fixture = start_all(Config),
    Seed = erlang:unique_integer([positive]) + os:system_time(),
    ct:pal("seed ~b", [Seed]),
    _ = rand:seed(exsss, Seed),
    Clients = [spawn_link(fun() -> ask_for_ever(Port) end) || #{port := Port} <- [Fixture],
                                                              _ <- lists:seq(1, 4)],
    kill_for(erlang:monotonic_time(millisecond) + random_ms()),
    %% With answers, and none that was wrong.
    [?assert(stop_client(Client) > 0) || Client <- Clients],
    check_all_is_as_before(Fixture, Config).

%% Nobody restarts the application, but nothing of it stays.
root_killed(Config) ->
    Port = start(Config, #{workers => 2}),
    exit(whereis(hornbeam_sup), kill),
    until(fun() -> gen_tcp:connect({127, 0, 0, 1}, Port, []) =:= {error, econnrefused} end),
    until(fun() -> hornbeam_test_server:running(Config) =:= [] end),
    until(fun() -> not lists:keymember(hornbeam, 1, application:which_applications()) end),
    {ok, _} = application:ensure_all_started(hornbeam),
    ?assertEqual([], hornbeam_servers_sup:names()),
    Again = start(Config, #{}),
    ?assert(serves(Again)).

%% Nobody restarts Ranch's application either, but servers need it.
ranch_killed(Config) ->
    Fixture = start_all(Config),
    Supervisors = [whereis(hornbeam_sup), whereis(hornbeam_servers_sup)],
    [begin
        Former = whereis(ranch_sup),
        End(Former),
        until(fun() -> not lists:member(whereis(ranch_sup), [Former, undefined]) end),
        until(fun() -> is_whole(Fixture) end),
        ?assertMatch(#{port := Port} when Port =:= map_get(port, Fixture), info())
     end || End <- [fun(Pid) -> exit(Pid, kill) end, fun(_) -> application:stop(ranch) end]],
    ?assertEqual(Supervisors, [whereis(hornbeam_sup), whereis(hornbeam_servers_sup)]),
    check_all_is_as_before(Fixture, Config).

%% Faults of applications count for no supervisor.
workers_that_crash_a_thousand_times(Config) ->
    Port = start(Config, #{}),
    Supervisors = supervisors(),
    WorkersSup = sup_child(default, hornbeam_workers_sup),
    {ok, Checked} = hornbeam_config:validate("paths:app", #{}),
    Args = #{server => default, worker_id => 2, python => "/bin/false", config => Checked,
             waiting => hornbeam_selection:new_waiting(1)},
    Crashes = fun() ->
        [begin
            {ok, #{monitor := Monitor, routes := Routes}} =
                hornbeam_worker_life:start(WorkersSup, Args, 0),
            receive {{worker_down, 2}, Monitor, process, _, _} -> ok end,
            hornbeam_routes:delete(Routes)
         end || _ <- lists:seq(1, 250)]
    end,
    in_parallel(4, Crashes),
    ?assertEqual(Supervisors, supervisors()),
    ?assert(serves(Port)).

connections_that_crash_a_thousand_times(Config) ->
    Port = start(Config, #{}),
    Supervisors = supervisors(),
    Crashes = fun() ->
        [begin
            Socket = connect(Port),
            get(Socket, "/hello"),
            #{status := 200} = response(Socket),
            [exit(Pid, kill) || Pid <- ranch:procs({hornbeam, default, 1}, connections)],
            true = is_closed(Socket)
         end || _ <- lists:seq(1, 20)]
    end,
    _ = Crashes(),
    Sockets = [connect(Port) || _ <- lists:seq(1, 1000)],
    until(fun() -> length(ranch:procs({hornbeam, default, 1}, connections)) =:= 1000 end),
    [exit(Pid, kill) || Pid <- ranch:procs({hornbeam, default, 1}, connections)],
    [?assert(is_closed(Socket)) || Socket <- Sockets],
    ?assertEqual(Supervisors, supervisors()),
    ?assert(serves(Port)).

%% They are told, as if their worker had died.
requests_without_their_pool(Config) ->
    Port = start(Config, #{}),
    Socket = connect(Port),
    send(Socket, "POST /hold?until=never HTTP/1.1\r\nHost: a\r\n\r\n"),
    await_seen(Config, <<"1 request /hold">>),
    exit(sup_child(default, hornbeam_pool), kill),
    ?assertMatch(#{status := 502}, response(Socket)),
    until(fun() -> serves(Port) end).

%% And those that wait are not left waiting.
queue_without_its_pool(Config) ->
    Port = start(Config, #{max_concurrency => 1, queue_timeout => 60000}),
    Running = connect(Port),
    get(Running, "/hold?until=never"),
    await_seen(Config, <<"1 request /hold">>),
    Queued = connect(Port),
    get(Queued, "/hello"),
    until(fun() -> maps:get(queue, hornbeam:info()) =:= 1 end),
    exit(sup_child(default, hornbeam_pool), kill),
    ?assert(is_closed(Queued)),
    until(fun() -> serves(Port) end).

%% In order: with the end of their lifespans, and without waiting for what they have.
workers_leave_without_their_pool(Config) ->
    Port = start(Config, #{workers => 2}),
    Former = hornbeam_test_server:running(Config),
    Socket = connect(Port),
    get(Socket, "/hold?until=never"),
    await_seen(Config, <<"1 request /hold">>),
    exit(sup_child(default, hornbeam_pool), kill),
    until(fun() -> serves(Port) end),
    until(fun() -> [] =:= [OsPid || OsPid <- Former, hornbeam_test_server:is_running(OsPid)] end),
    %% Until the pool is back, those who leave may still be asked.
    until(fun() -> are_workers_ready(2) end),
    ?assertEqual(2, length(hornbeam_test_server:running(Config))),
    [?assert(lists:member(Line, hornbeam_test_server:seen(Config)))
     || Line <- [<<"1 shutdown">>, <<"2 shutdown">>]].

are_workers_ready(Count) ->
    case hornbeam:info() of
        #{workers := Workers} ->
            [State || #{state := State} <- Workers] =:= lists:duplicate(Count, ready);
        {error, {not_started, _}} ->
            false
    end.

%%% What must survive

start_all(Config) ->
    Port = start(Config, #{workers => 2}),
    Other = start(Config, other, #{}),
    ok = hornbeam_state:set(<<"kept">>, {a, <<"value">>}),
    ok = hornbeam_pubsub:subscribe(<<"kept:#">>),
    ok = hornbeam:register_function(<<"kept">>, fun(N) -> N + 1 end),
    ok = hornbeam_hooks:register(<<"kept">>, fun(#{args := [N]}) -> N * 2 end),
    Fixture = #{port => Port, other => Other, shape => undefined},
    until(fun() -> is_whole(Fixture) end),
    Fixture#{shape => shape(), tables => length(ets:all()), ports => length(erlang:ports()),
             rows => lists:sort([element(1, Row) || Row <- ets:tab2list(hornbeam_selection)])}.

%% Everything answers, and nothing is missing from the tree.
is_whole(#{port := Port, other := Other, shape := Shape}) ->
    serves(Port) andalso serves(Other) andalso are_services_there() andalso
        (Shape =:= undefined orelse shape() =:= Shape).

are_services_there() ->
    %% One of their processes may be missing at this moment.
    try do_all_services_answer() catch exit:{noproc, _} -> false; exit:{killed, _} -> false end.

do_all_services_answer() ->
    Tag = make_ref(),
    hornbeam_state:get(<<"kept">>) =:= {a, <<"value">>} andalso
        hornbeam_functions:call(<<"kept">>, [1], 1000) =:= {ok, 2} andalso
        hornbeam_hooks:execute(<<"kept">>, undefined, [4]) =:= {ok, 8} andalso
        hornbeam_pubsub:publish(<<"kept:topic">>, Tag) =:= 1 andalso
        receive {hornbeam_pubsub, _, Tag} -> true after 1000 -> false end.

check_all_is_as_before(Fixture = #{tables := Tables, ports := Ports, rows := Rows}, Config) ->
    until(fun() -> is_whole(Fixture) end),
    until(fun() -> length(hornbeam_test_server:running(Config)) =:= 3 end),
    %% Those of requests that have failed.
    _ = hornbeam_test_client:close_all(),
    IsBack = fun() -> length(ets:all()) =< Tables andalso length(erlang:ports()) =< Ports end,
    _ = try until(IsBack)
    catch Class:Reason:Stack ->
        ct:pal("before ~b tables and ~b ports; now ~p~nand ~p", [
            Tables, Ports, [{ets:info(Table, name), ets:info(Table, owner)} || Table <- ets:all()],
            [erlang:port_info(Port) || Port <- erlang:ports()]
        ]),
        erlang:raise(Class, Reason, Stack)
    end,
    ?assertEqual(Rows, lists:sort([element(1, Row) || Row <- ets:tab2list(hornbeam_selection)])),
    ?assertMatch(#{port := Port, options := #{workers := 2}} when Port =:= map_get(port, Fixture),
                 hornbeam:info()).

%%% The tree

kill_and_measure(Place, Fixture) ->
    StartMs = erlang:monotonic_time(millisecond),
    %% It may be missing: others of its kind have just been killed.
    _ = [begin
            exit(Pid, kill),
            until(fun() -> not is_process_alive(Pid) end)
         end || Pid <- [maps:get(Place, tree(), undefined)], is_pid(Pid)],
    until(fun() -> is_whole(Fixture) end),
    ElapsedMs = erlang:monotonic_time(millisecond) - StartMs,
    ElapsedMs.

%% There are ten acceptors, and so many supervisors of connections, for each listener.
is_first_of_its_kind(Place) ->
    case lists:last(Place) of
        {acceptor, N} -> N =:= 1;
        {ranch_conns_sup, N} -> N =:= 1;
        _ -> true
    end.

kill_for(EndMs) ->
    case erlang:monotonic_time(millisecond) < EndMs of
        true ->
            Pids = maps:values(tree()),
            _ = Pids =/= [] andalso exit(lists:nth(rand:uniform(length(Pids)), Pids), kill),
            receive after ?PAUSE_MS -> ok end,
            kill_for(EndMs);
        false ->
            ok
    end.

%% All processes below the root by their places in it.
tree() ->
    maps:from_list(walk([], whereis(hornbeam_sup))).

walk(Place, Sup) ->
    Children = try supervisor:which_children(Sup) catch exit:_ -> [] end,
    Named = [{[name(Id, N) | Place], Pid, Type}
             || {N, {Id, Pid, Type, _}} <- lists:enumerate(lists:sort(Children)), is_pid(Pid)],
    lists:append([[{lists:reverse(Child), Pid} | below(Type, Child, Pid)]
                  || {Child, Pid, Type} <- Named]).

name({acceptor, _, N}, _) -> {acceptor, N};
name(Id, N) when Id =:= undefined; Id =:= hornbeam_worker -> {child, N};
name(Id, _) -> Id.

%% Connections come and go.
below(supervisor, [{ranch_conns_sup, _} | _], _) -> [];
below(supervisor, Place, Pid) -> walk(Place, Pid);
below(worker, Place, Pid) -> linked(Place, Pid).

linked(Place, Pid) ->
    Links = case process_info(Pid, links) of
        {links, All} -> [Link || Link <- All, is_pid(Link), parent(Link) =:= Pid];
        undefined -> []
    end,
    Called = lists:sort([{proc_lib:translate_initial_call(Link), Link} || Link <- Links]),
    lists:append([linked(N, Initial, Place, Link)
                  || {N, {Initial, Link}} <- lists:enumerate(Called)]).

linked(N, {supervisor, Module, 1}, Place, Link) ->
    Here = [{Module, N} | Place],
    [{lists:reverse(Here), Link} | walk(Here, Link)];
linked(_, {Module, init, 1}, Place, Link) when Module =/= ranch_listener_sup ->
    [{lists:reverse([Module | Place]), Link}];
linked(N, {Module, init, 1}, Place, Link) ->
    linked(N, {supervisor, Module, 1}, Place, Link);
linked(_, _, _, _) ->
    [].

parent(Pid) ->
    case process_info(Pid, dictionary) of
        {dictionary, Dictionary} ->
            case lists:keyfind('$ancestors', 1, Dictionary) of
                {_, [Parent | _]} -> Parent;
                _ -> undefined
            end;
        undefined ->
            undefined
    end.

shape() ->
    lists:sort(maps:keys(tree())).

supervisors() ->
    lists:sort([Pid || {_, Pid} <- [{root, whereis(hornbeam_sup)} | maps:to_list(tree())],
                       {supervisor, _, _} <- [proc_lib:translate_initial_call(Pid)]]).

%%% Clients

%% Requests that fail are counted; one that gets something else than its answer crashes.
ask_for_ever(Port) ->
    ask_for_ever(Port, 0).

ask_for_ever(Port, Answers) ->
    Answered = case answer(Port) of
        hello -> 1;
        failed -> 0
    end,
    receive
        {stop, From} -> From ! {answers, self(), Answers + Answered}
    after 2 ->
        ask_for_ever(Port, Answers + Answered)
    end.

stop_client(Client) ->
    Client ! {stop, self()},
    receive {answers, Client, Answers} -> Answers end.

%% Its process may be missing at this moment.
info() ->
    until(fun() -> try hornbeam:info() catch exit:_ -> undefined end end).

serves(Port) ->
    answer(Port) =:= hello.

answer(Port) ->
    try request(Port, "/hello") of
        #{status := 200, ended := complete, body := <<"hello from ", _/binary>>} -> hello;
        #{status := Status} when Status >= 500 -> failed;
        #{ended := cut} -> failed
    catch
        error:{badmatch, {error, _}} -> failed;
        error:{case_clause, {error, _}} -> failed
    end.

in_parallel(Count, Fun) ->
    Monitors = [spawn_monitor(Fun) || _ <- lists:seq(1, Count)],
    [receive {'DOWN', Monitor, process, Pid, Reason} -> ?assertEqual(normal, Reason) end
     || {Pid, Monitor} <- Monitors].
