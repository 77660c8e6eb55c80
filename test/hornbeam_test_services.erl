%% SPDX-License-Identifier: Apache-2.0
%% Servers with the worker `fake_services.py', and what they are asked to do.
-module(hornbeam_test_services).

-export([start/1]).
-export([start/2]).
-export([call/3]).
-export([cast/3]).

%% A server of such workers; its port.
start(Config) ->
    start(Config, #{}).

start(Config, Options) ->
    Fake = hornbeam_test_server:python(),
    Python = filename:join(filename:dirname(Fake), "fake_services.py"),
    hornbeam_test_server:start(Config, maps:merge(#{python => Python, app => "services:app"},
                                                  Options)).

%% The outcome of a call with the arguments that a Python expression gives, as text.
call(Port, Function, Args) ->
    ask(Port, "/call", Function, Args).

cast(Port, Function, Args) ->
    ask(Port, "/cast", Function, Args).

ask(Port, Path, Function, Args) ->
    Query = uri_string:compose_query([{"f", Function}, {"args", Args}]),
    #{status := 200, body := Body} = hornbeam_test_client:request(Port, [Path, "?", Query]),
    iolist_to_binary(Body).
