%% SPDX-License-Identifier: Apache-2.0
%% Servers with the worker `fake_services.py', what they are asked to do, and what comes of it.
-module(hornbeam_test_services).

-export([start/1]).
-export([start/2]).
-export([call/3]).
-export([cast/3]).
-export([said/2]).
-export([for_message/1]).

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

%% A worker gets messages as if its port had read them.
said(Worker, Messages) ->
    {links, Links} = process_info(Worker, links),
    [Port] = [Port || Port <- Links, is_port(Port)],
    Worker ! {Port, {data, term_to_binary(Messages)}},
    ok.

%% The first message for which Match has a clause; others stay.
for_message(Match) ->
    hornbeam_test_wait:until(fun() -> take(Match) end).

take(Match) ->
    {messages, Messages} = process_info(self(), messages),
    case lists:search(fun(Message) -> is_match(Match, Message) end, Messages) of
        {value, Message} -> receive Message -> {ok, Match(Message)} end;
        false -> false
    end.

is_match(Match, Message) ->
    try Match(Message) of
        _ -> true
    catch
        error:function_clause -> false
    end.
