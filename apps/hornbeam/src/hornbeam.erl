%% SPDX-License-Identifier: Apache-2.0

%% @doc Serve Python ASGI applications from Erlang.
%%
%% ```
%% ok = hornbeam:start("app:app", #{worker_class => asgi, workers => 2}).
%% #{url := Url} = hornbeam:info().
%% ok = hornbeam:stop().
%% '''
%%
%% Options are those of {@link hornbeam_config}; the same keys may stand in `sys.config' under
%% `hornbeam', where the call's options win. Several servers can run in one node, each with a name;
%% the functions without a name mean the server `default'.
-module(hornbeam).

%% API
-export([start/1]).
-export([start/2]).
-export([start/3]).
-export([stop/0]).
-export([stop/1]).
-export([reload/0]).
-export([reload/1]).
-export([scale/1]).
-export([scale/2]).
-export([info/0]).
-export([info/1]).
-export([register_function/2]).
-export([register_function/3]).
-export([unregister_function/1]).
-export([format_error/1]).

-export_type([name/0, app/0, info/0]).

-type name() :: atom().
%% Name of a server in this node.

-type app() :: string() | binary().
%% `"module:attribute"'; the attribute may be dotted, and is `application' or `app' when left out.

-type info() :: #{
    name := name(),
    %% First of `bind': its address, its port (the real one where 0 was asked for), its URL.
    address := binary(),
    port := inet:port_number() | undefined,
    url := binary(),
    %% The same for all of `bind'.
    listeners := [map()],
    connections := non_neg_integer(),
    %% For each worker: worker_id, state, restarts, and where it runs os_pid, in_flight, served,
    %% uptime_ms, memory_bytes, codec, python, loop, lifespan, worker_class.
    workers := [map()],
    %% Requests that wait for a place in a worker.
    queue := non_neg_integer(),
    uptime_ms := non_neg_integer(),
    %% In force, secrets masked.
    options := map()
}.

-define(DEFAULT, default).

%% @equiv start(default, App, #{})
-spec start(app()) -> ok | {error, hornbeam_error:reason()}.
start(App) ->
    start(?DEFAULT, App, #{}).

%% @equiv start(default, App, Options)
-spec start(app(), hornbeam_config:options()) -> ok | {error, hornbeam_error:reason()}.
start(App, Options) ->
    start(?DEFAULT, App, Options).

%% @doc Start a server: its workers, then its sockets. Returns when it answers requests.
%%
%% Starts the OTP application `hornbeam' where it does not run. Checks all options at once. An
%% error leaves nothing of the server running. See {@link format_error/1} for the reason as a
%% sentence.
-spec start(name(), app(), hornbeam_config:options()) -> ok | {error, hornbeam_error:reason()}.
start(Name, App, Options) when is_atom(Name) ->
    with_application(fun() -> start_server(Name, App, Options) end).

%% @equiv stop(default)
-spec stop() -> ok | {error, hornbeam_error:reason()}.
stop() ->
    stop(?DEFAULT).

%% @doc Stop a server: sockets are closed first, requests finish within `shutdown_timeout', the
%% applications' lifespans shut down, the workers end. Returns when all that is done.
-spec stop(name()) -> ok | {error, hornbeam_error:reason()}.
stop(Name) when is_atom(Name) ->
    case is_running() andalso hornbeam_servers_sup:stop_server(Name) of
        ok -> ok;
        _ -> not_started(Name)
    end.

%% @equiv reload(default)
-spec reload() -> ok | {error, hornbeam_error:reason()}.
reload() ->
    reload(?DEFAULT).

%% @doc Replace the workers of a server by such that have imported the application anew, without
%% losing a request: each serves until its successor is ready.
%%
%% Returns when no request goes to the former workers any more; they finish what they have. If a new
%% worker cannot start, the one that it was to replace serves on, and so do the others; the reason is
%% one of those of {@link start/3}. The options stay those of the start. Who asks for a reload while
%% another is under way waits for that, and then gets one of his own.
-spec reload(name()) -> ok | {error, hornbeam_error:reason()}.
reload(Name) when is_atom(Name) ->
    case is_running() of
        true -> hornbeam_starter:reload(Name);
        false -> not_started(Name)
    end.

%% @equiv scale(default, Count)
-spec scale(pos_integer()) -> ok | {error, hornbeam_error:reason()}.
scale(Count) ->
    scale(?DEFAULT, Count).

%% @doc Have so many workers. Returns when those that were added are ready; those that are too many,
%% the highest numbers, get no new requests then and finish what they have.
%%
%% If one that was added cannot start, there are as many as before.
-spec scale(name(), Count :: pos_integer()) -> ok | {error, hornbeam_error:reason()}.
scale(Name, Count) when is_atom(Name) ->
    case {hornbeam_option:check(workers, Count), is_running()} of
        {{ok, Checked}, true} -> hornbeam_starter:scale(Name, Checked);
        {{ok, _}, false} -> not_started(Name);
        {{error, Expected}, _} -> {error, invalid_count(Count, Expected)}
    end.

%% @equiv info(default)
-spec info() -> info() | {error, hornbeam_error:reason()}.
info() ->
    info(?DEFAULT).

%% @doc What a server is and does at this moment.
-spec info(name()) -> info() | {error, hornbeam_error:reason()}.
info(Name) when is_atom(Name) ->
    case is_running() andalso hornbeam_starter:info(Name) of
        Info when is_map(Info) -> Info;
        _ -> not_started(Name)
    end.

%% @doc Let Python call a fun by that name; see {@link hornbeam_functions}. Starts the OTP
%% application where it does not run, so that functions can be there before the first server is.
-spec register_function(hornbeam_functions:name(), fun()) -> ok | {error, hornbeam_error:reason()}.
register_function(Name, Fun) ->
    with_application(fun() -> hornbeam_functions:register(Name, Fun) end).

%% @doc The same for the function of a module, of any arity.
-spec register_function(hornbeam_functions:name(), module(), Function :: atom()) ->
    ok | {error, hornbeam_error:reason()}.
register_function(Name, Module, Function) ->
    with_application(fun() -> hornbeam_functions:register(Name, Module, Function) end).

%% @doc Forget a function; whether it was there.
-spec unregister_function(hornbeam_functions:name()) ->
    boolean() | {error, hornbeam_error:reason()}.
unregister_function(Name) ->
    with_application(fun() -> hornbeam_functions:unregister(Name) end).

%% @doc The reason of an error as a sentence for a human.
-spec format_error(hornbeam_error:reason() | term()) -> unicode:chardata().
format_error(Reason) ->
    hornbeam_error:format(Reason).

%% Where it does not start for another reason than its options, that is no error of the caller's.
with_application(Fun) ->
    case application:ensure_all_started(hornbeam) of
        {ok, _} ->
            Fun();
        {error, {hornbeam, {{invalid_options, _} = Reason, {hornbeam_app, start, _}}}} ->
            {error, Reason}
    end.

start_server(Name, App, Options) ->
    case hornbeam_config:validate(App, Options) of
        {ok, Config} ->
            start_checked(Name, Config);
        {error, Reason} ->
            {error, Reason}
    end.

%% Files that are not there, or not what they should be, are found before a worker is started.
start_checked(Name, Config) ->
    case {hornbeam_config:python_executable(Config), hornbeam_tls:check(Config)} of
        {{ok, Python}, ok} -> hornbeam_starter:start(Name, Config, Python);
        {{error, Reason}, _} -> {error, Reason};
        {_, {error, Reason}} -> {error, Reason}
    end.

is_running() ->
    whereis(hornbeam_sup) =/= undefined.

invalid_count(Count, Expected) ->
    Text = unicode:characters_to_binary(Expected),
    {invalid_options, #{errors => [#{key => workers, value => Count, expected => Text}]}}.

not_started(Name) ->
    {error, {not_started, #{name => Name}}}.
