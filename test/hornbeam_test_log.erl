%% SPDX-License-Identifier: Apache-2.0
%% What the node logs during a test case.
-module(hornbeam_test_log).

-export([start/0]).
-export([stop/0]).
-export([events/0]).
-export([reports/1]).
-export([texts/0]).

%% logger handler
-export([log/2]).

-define(TABLE, ?MODULE).

start() ->
    ?TABLE = ets:new(?TABLE, [named_table, public, ordered_set]),
    ok = logger:add_handler(?MODULE, ?MODULE, #{level => all}).

stop() ->
    _ = logger:remove_handler(?MODULE),
    _ = ets:info(?TABLE) =/= undefined andalso ets:delete(?TABLE),
    ok.

%% All events of level notice and above, oldest first.
events() ->
    [Event || {_, Event} <- ets:tab2list(?TABLE)].

%% Those that our code has made as `#{what => What}'.
reports(What) ->
    [Report || #{msg := {report, #{what := Given} = Report}} <- events(), Given =:= What].

%% The events as lines, for what is not ours.
texts() ->
    [
        unicode:characters_to_binary(logger_formatter:format(Event, #{single_line => true}))
     || Event <- events()
    ].

log(Event, _) ->
    try ets:insert(?TABLE, {erlang:unique_integer([monotonic]), Event})
    catch error:badarg -> true
    end.
