%% SPDX-License-Identifier: Apache-2.0
%% Servers with the fake worker `fake_worker.py' in place of Python's runtime, and what they leave.
-module(hornbeam_test_server).

-export([new_folder/1]).
-export([options/2]).
-export([start/2]).
-export([start/3]).
-export([port/1]).
-export([sup_child/2]).
-export([worker_pid/2]).
-export([worker_info/2]).
-export([workers/0]).
-export([in_flight/0]).
-export([release/2]).
-export([seen/1]).
-export([await_seen/2]).
-export([started/1]).
-export([running/1]).
-export([is_running/1]).
-export([python/0]).
-export([source_folder/0]).
-export([snapshot/0]).
-export([assert_nothing_left/1]).
-export([check_nothing_left/1]).

-include_lib("stdlib/include/assert.hrl").

%% A folder of the test case's own, in its configuration as `folder'.
new_folder(Config) ->
    Unique = integer_to_list(erlang:unique_integer([positive])),
    Folder = filename:join(proplists:get_value(priv_dir, Config), "fake_" ++ Unique),
    ok = filelib:ensure_dir(filename:join(Folder, "x")),
    [{folder, Folder} | Config].

%% Options for one fake worker on any port, with those given over them.
options(Config, Options) ->
    maps:merge(
        #{
            bind => "127.0.0.1:0",
            workers => 1,
            python => python(),
            env => #{"FAKE_DIR" => folder(Config)}
        },
        Options
    ).

%% A server named like the folder's test case; its port.
start(Config, Options) ->
    start(Config, default, Options).

start(Config, Name, Options) ->
    App = maps:get(app, Options, "paths:app"),
    ok = hornbeam:start(Name, App, options(Config, maps:remove(app, Options))),
    port(Name).

port(Name) ->
    #{port := Port} = hornbeam:info(Name),
    Port.

sup_child(Name, Id) ->
    hornbeam_server_sup:child(hornbeam_servers_sup:server_sup(Name), Id).

%% The Erlang process of a worker that is ready.
worker_pid(Name, WorkerId) ->
    OsPid = maps:get(os_pid, worker_info(Name, WorkerId)),
    Children = supervisor:which_children(sup_child(Name, hornbeam_workers_sup)),
    [Pid] = [Pid || {_, Pid, _, _} <- Children, os_pid(Pid) =:= OsPid],
    Pid.

%% What `hornbeam:info/1' says of a worker.
worker_info(Name, WorkerId) ->
    #{workers := Workers} = hornbeam:info(Name),
    [Info] = [Info || #{worker_id := Id} = Info <- Workers, Id =:= WorkerId],
    Info.

%% What `hornbeam:info/0' says of all workers, and how many requests each has.
workers() ->
    maps:get(workers, hornbeam:info()).

in_flight() ->
    [maps:get(in_flight, Worker, undefined) || Worker <- workers()].

%% Lets go on what waits for `until=Key'.
release(Config, Key) ->
    ok = file:write_file(filename:join(folder(Config), Key), <<>>).

%% The messages that the fake workers have got, as lines without the heads of batches.
seen(Config) ->
    lines(Config, "seen").

await_seen(Config, Line) ->
    hornbeam_test_wait:until(fun() -> lists:member(Line, seen(Config)) end).

%% OS processes that were ever started for this test case, oldest first.
started(Config) ->
    [binary_to_integer(Line) || Line <- lines(Config, "pids")].

running(Config) ->
    [OsPid || OsPid <- started(Config), is_running(OsPid)].

%% One that has ended and was not reaped yet has ended.
is_running(OsPid) ->
    case file:read_file("/proc/" ++ integer_to_list(OsPid) ++ "/stat") of
        {ok, Stat} ->
            [_, <<State, _/binary>>] = binary:split(Stat, <<") ">>),
            State =/= $Z;
        {error, _} ->
            false
    end.

python() ->
    filename:join(source_folder(), "fake_worker.py").

%% The folder of the tests' sources. rebar3 compiles copies of them, but the application's own.
source_folder() ->
    Source = proplists:get_value(source, hornbeam:module_info(compile)),
    [_, "src", _, "apps" | Root] = lists:reverse(filename:split(Source)),
    filename:join(lists:reverse(["test" | Root])).

%% What there is in the node that a server could leave behind. The first server of a node starts
%% applications that stay; so they are started first.
snapshot() ->
    {ok, _} = application:ensure_all_started(hornbeam),
    #{
        processes => ours(),
        ports => lists:sort([Port || Port <- erlang:ports(), not is_own(Port)]),
        tables => lists:sort(ets:all()),
        servers => lists:sort(ets:tab2list(hornbeam_selection)),
        listeners => lists:sort(maps:keys(ranch:info()))
    }.

assert_nothing_left(Before) ->
    IsBack = fun() -> left(Before) =:= nothing_left() end,
    try hornbeam_test_wait:until(IsBack)
    catch error:_ -> ?assertEqual(nothing_left(), left(Before))
    end.

%% For end_per_testcase: nothing is there that was not there at `before', and no OS process.
check_nothing_left(Config) ->
    try
        assert_nothing_left(proplists:get_value(before, Config)),
        hornbeam_test_wait:until(fun() -> running(Config) =:= [] end)
    of
        _ -> ok
    catch
        error:Reason -> {fail, Reason}
    end.

%% Internal.

left(Before) ->
    maps:map(fun(Kind, Things) -> Things -- maps:get(Kind, Before) end, snapshot()).

nothing_left() ->
    #{processes => [], ports => [], tables => [], servers => [], listeners => []}.

%% The sockets of clients are the test's.
is_own(Port) ->
    erlang:port_info(Port, connected) =:= {connected, self()}.

%% The group leader tells apart the processes of applications from those of the test framework,
%% which come and go.
ours() ->
    {group_leader, Leader} = process_info(whereis(hornbeam_sup), group_leader),
    {group_leader, RanchLeader} = process_info(whereis(ranch_sup), group_leader),
    lists:sort([
        Pid
     || Pid <- processes(),
        {group_leader, Of} <- [process_info(Pid, group_leader)],
        Of =:= Leader orelse Of =:= RanchLeader orelse Of =:= group_leader()
    ]).

os_pid(Pid) ->
    case hornbeam_worker:info(Pid) of
        #{os_pid := OsPid} -> OsPid;
        undefined -> undefined
    end.

folder(Config) ->
    proplists:get_value(folder, Config).

lines(Config, Name) ->
    case file:read_file(filename:join(folder(Config), Name)) of
        {ok, Text} -> binary:split(Text, <<"\n">>, [global, trim]);
        {error, enoent} -> []
    end.
