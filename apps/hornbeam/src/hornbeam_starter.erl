%% SPDX-License-Identifier: Apache-2.0

%% @private Starts a server as a whole or not at all, and describes one that runs.
%%
%% The start runs in a process of its own: whoever asked for it may be killed meanwhile, and the
%% server must not stay half started.
-module(hornbeam_starter).

%% API
-export([start/3]).
-export([info/1]).
-export([reload/1]).
-export([scale/2]).

-spec start(hornbeam:name(), hornbeam_config:config(), file:filename()) ->
    ok | {error, hornbeam_error:reason()}.
start(Name, Config, Python) ->
    Caller = self(),
    Tag = make_ref(),
    {Pid, Monitor} = spawn_monitor(fun() -> Caller ! {Tag, run(Name, Config, Python)} end),
    %% No timeout: each step below is bounded by the workers' own limits.
    receive
        {Tag, Outcome} ->
            demonitor(Monitor, [flush]),
            Outcome;
        {'DOWN', Monitor, process, Pid, Reason} ->
            error({start_failed, Reason})
    end.

-spec info(hornbeam:name()) -> hornbeam:info() | undefined.
info(Name) ->
    case hornbeam_servers_sup:server_sup(Name) of
        undefined ->
            undefined;
        Sup ->
            %% It may be stopped, or restart, at any moment.
            try describe(Name, Sup)
            catch exit:_ -> undefined
            end
    end.

-spec reload(hornbeam:name()) -> ok | {error, hornbeam_error:reason()}.
reload(Name) ->
    ask_pool(Name, fun hornbeam_pool:reload/1).

%% @doc `Count' has been checked.
-spec scale(hornbeam:name(), pos_integer()) -> ok | {error, hornbeam_error:reason()}.
scale(Name, Count) ->
    ask_pool(Name, fun(Pool) -> hornbeam_pool:scale(Pool, Count) end).

ask_pool(Name, Ask) ->
    case hornbeam_selection:pool_pid(Name) of
        undefined ->
            {error, {not_started, #{name => Name}}};
        Pool ->
            %% It is stopped, or has crashed, before it could answer.
            try Ask(Pool)
            catch exit:_ -> {error, {interrupted, #{name => Name}}}
            end
    end.

describe(Name, Sup) ->
    Pool = hornbeam_pool:info(hornbeam_server_sup:child(Sup, hornbeam_pool)),
    Sockets = #{listeners := Listeners} =
        hornbeam_listener:info(hornbeam_server_sup:child(Sup, hornbeam_listener)),
    maps:merge(first(Listeners), maps:merge(Sockets, Pool#{name => Name})).

run(Name, Config, Python) ->
    case hornbeam_servers_sup:start_server(Name, Config, Python) of
        {ok, Sup} ->
            case open(Name, Sup) of
                ok ->
                    ok;
                {error, Reason} ->
                    _ = hornbeam_servers_sup:stop_server(Name),
                    {error, Reason}
            end;
        {error, already_started} ->
            {error, {already_started, #{name => Name}}}
    end.

open(Name, Sup) ->
    try hornbeam_pool:await_ready(hornbeam_server_sup:child(Sup, hornbeam_pool)) of
        ok -> hornbeam_listener:open(hornbeam_server_sup:child(Sup, hornbeam_listener));
        {error, Reason} -> {error, Reason}
    catch
        %% Somebody has stopped it before it was up.
        exit:_ -> {error, {not_started, #{name => Name}}}
    end.

first([Listener | _]) -> Listener;
first([]) -> #{address => <<>>, port => undefined, url => <<>>}.
