%% SPDX-License-Identifier: Apache-2.0
%% What suites do before and after their cases: a node for the suite; a folder, a log and the proof
%% that nothing is left for a case.
-module(hornbeam_test_suite).

-export([start_node/1]).
-export([stop_node/1]).
-export([start_case/1]).
-export([end_case/1]).
-export([stop_servers/0]).

%% For init_per_suite.
start_node(Config) ->
    {ok, Started} = application:ensure_all_started(hornbeam),
    [{started, Started} | Config].

%% For end_per_suite: what start_node/1 has started, and no more.
stop_node(Config) ->
    [application:stop(App) || App <- lists:reverse(proplists:get_value(started, Config))].

%% For init_per_testcase.
start_case(Config) ->
    ok = hornbeam_test_log:start(),
    [{before, hornbeam_test_server:snapshot()} | hornbeam_test_server:new_folder(Config)].

%% For end_per_testcase. Whatever has happened, nothing is left: no process, port, table, listener or
%% OS process.
end_case(Config) ->
    ok = stop_servers(),
    ok = hornbeam_test_log:stop(),
    hornbeam_test_server:check_nothing_left(Config).

%% All, and the connections of this test case, also where the node itself has been killed.
stop_servers() ->
    _ = hornbeam_test_client:close_all(),
    _ = [hornbeam:stop(Name) || whereis(hornbeam_servers_sup) =/= undefined,
                                Name <- hornbeam_servers_sup:names()],
    ok.
