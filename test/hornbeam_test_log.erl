%% SPDX-License-Identifier: Apache-2.0
%% What the node logs during a test case.
-module(hornbeam_test_log).

-export([start/0]).
-export([stop/0]).
-export([events/0]).
-export([reports/1]).
-export([at_least/1]).

%% logger handler
-export([log/2]).

-define(TABLE, ?MODULE).

start() ->
    ok = stop(),
    ?TABLE = ets:new(?TABLE, [named_table, public, ordered_set]),
    ok = logger:add_handler(?MODULE, ?MODULE, #{level => all}).

stop() ->
    _ = logger:remove_handler(?MODULE),
    _ = ets:info(?TABLE) =/= undefined andalso ets:delete(?TABLE),
    ok.

%% All events that the node lets through to handlers, oldest first.
events() ->
    [Event || {_, Event} <- ets:tab2list(?TABLE)].

%% Those that our code has made as `#{what => What}'.
reports(What) ->
    [Report || #{msg := {report, #{what := Given} = Report}} <- events(), Given =:= What].

%% The events of a level or of a worse one.
at_least(Level) ->
    [
        Event
     || Event = #{level := Given} <- events(),
        logger:compare_levels(Given, Level) =/= lt
    ].

log(Event, _) ->
    try ets:insert(?TABLE, {erlang:unique_integer([monotonic]), Event})
    catch error:badarg -> true
    end.
