%% SPDX-License-Identifier: Apache-2.0

%% @private Keeps private keys out of the log.
%%
%% OTP's supervisors of TLS connections log what they have started with all of its arguments, at
%% level `info' for each connection: among them the options with the key. This is a filter for all
%% of the node that takes the arguments away.
-module(hornbeam_tls_log).

%% API
-export([start/0]).
-export([stop/0]).

%% logger
-export([filter/2]).

%% @doc Begin to filter; also where that has been done already.
-spec start() -> ok.
start() ->
    case logger:add_primary_filter(?MODULE, {fun ?MODULE:filter/2, []}) of
        ok -> ok;
        {error, {already_exist, _}} -> ok
    end.

-spec stop() -> ok.
stop() ->
    _ = logger:remove_primary_filter(?MODULE),
    ok.

-spec filter(logger:log_event(), []) -> logger:filter_return().
filter(Event = #{msg := {report, Report = #{label := {supervisor, _}, report := Facts}}}, []) ->
    Event#{msg := {report, Report#{report := [without_arguments(Fact) || Fact <- Facts]}}};
filter(_, []) ->
    ignore.

%% A child that was started, or one that was not or has ended.
without_arguments({Kind, Child}) when Kind =:= started; Kind =:= offender ->
    {Kind, [shown(Fact) || Fact <- Child]};
without_arguments(Fact) ->
    Fact.

shown({mfargs, {Module, Function, Arguments}} = Given) when is_list(Arguments) ->
    case application:get_application(Module) of
        {ok, ssl} -> {mfargs, {Module, Function, length(Arguments)}};
        _ -> Given
    end;
shown(Fact) ->
    Fact.
