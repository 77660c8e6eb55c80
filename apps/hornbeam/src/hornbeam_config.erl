%% SPDX-License-Identifier: Apache-2.0
%% @doc The options of a server: their defaults, their check and their merging.
%%
%% Three layers make a configuration: the defaults below, the environment of the application
%% `hornbeam' (`sys.config') and the options of the call; the later wins. What is wrong is
%% reported all at once, so that a user corrects a configuration in one go.
-module(hornbeam_config).

%% API.
-export([defaults/0]).
-export([validate/2]).
-export([unsupported/0]).
-export([python_executable/1]).
-export([mask/1]).
-export([node_defaults/0]).
-export([validate_node/0]).
-export([node_option/1]).

-type options() :: #{atom() => term()}.
%% What a user passes to `hornbeam:start/2': any of the keys of {@link config()} except `app'.
%% Text may be a string or a binary.

-type time_ms() :: pos_integer().
%% Milliseconds, at most 2^32 - 1.

-type config() :: #{
    app := binary(),
    %% `module:attribute'.
    bind := [hornbeam_bind:address(), ...],
    %% Addresses to listen on: "ip:port", "[v6]:port", "host:port", ":port" (all of IPv4) or
    %% "unix:/path". Default "127.0.0.1:8000".
    socket_mode := 0..8#777 | undefined,
    %% Permissions of unix sockets in `bind'. Default: as the umask of the node leaves them.
    worker_class := asgi | wsgi | auto,
    %% The interface of the application; `auto', the default, looks at the callable.
    workers := 1..1024,
    %% OS processes. Default: the number of cores.
    threads := 1..1024,
    %% Size of a worker's thread pool. Default 8.
    loop := auto | uvloop | asyncio | trio,
    %% Default `auto': uvloop where it is installed, else asyncio.
    python := binary(),
    %% The interpreter: a command in PATH, or a path. Default "python3".
    venv := binary() | undefined,
    %% Folder of a virtual environment whose interpreter is taken. Default none.
    pythonpath := [binary()],
    %% Folders in front of Python's module path. Default ["."].
    chdir := binary() | undefined,
    %% Working directory of the workers. Default: the node's.
    env := #{binary() => binary() | false},
    %% Environment variables of the workers on top of the node's; `false' removes one.
    lifespan := auto | on | off,
    %% Whether the application's startup and shutdown run. Default `auto'.
    lifespan_timeout := time_ms() | infinity,
    %% For startup and for shutdown. Default 30000 ms.
    root_path := binary(),
    %% ASGI root_path; no slash at its end. Default "".
    timeout := time_ms() | infinity,
    %% Until the response starts. Default 30000 ms.
    keepalive := time_ms() | infinity,
    %% An idle connection is closed after it. Default 5000 ms.
    header_timeout := time_ms() | infinity,
    %% To receive the head of a request. Default 10000 ms.
    body_timeout := time_ms() | infinity,
    %% Without progress of an upload that the application waits for. Default 30000 ms.
    send_timeout := time_ms() | infinity,
    %% A client that takes nothing of a write for that long is cut. Default 30000 ms.
    shutdown_timeout := time_ms(),
    %% For requests to finish at a stop. Default 30000 ms.
    max_body := non_neg_integer() | infinity,
    %% Bytes of a request body. Default `infinity'.
    max_request_line_size := 64..1048576,
    %% Bytes. Default 8190.
    max_header_size := 64..1048576,
    %% Bytes of all headers of a request. Default 16384.
    max_headers := 1..10000,
    %% Headers of a request. Default 100.
    max_connections := pos_integer() | infinity,
    %% Open connections. Default 16384.
    max_concurrency := pos_integer() | auto,
    %% Requests in flight per worker. Default `auto': 1000 for ASGI, `threads' for WSGI.
    max_queue := non_neg_integer(),
    %% Requests that wait for a worker. Default 1024.
    queue_timeout := time_ms() | infinity,
    %% How long one waits. Default 5000 ms.
    max_requests := pos_integer() | infinity,
    %% A worker is replaced after so many. Default `infinity'.
    max_requests_jitter := non_neg_integer(),
    %% A random number up to this is added to `max_requests'. Default 0.
    max_memory := pos_integer() | infinity,
    %% Resident bytes above which a worker is replaced. Default `infinity'.
    heartbeat := 10..60000,
    %% Milliseconds between the beats of a worker. Default 250.
    stall_timeout := time_ms() | infinity,
    %% A worker whose event loop is blocked for so long is killed. Default 60000 ms.
    window := 4096..16777216,
    %% Bytes of a body that may be under way, unacknowledged. Default 65536.
    retry := boolean(),
    %% Whether a safe request whose worker died is tried once more. Default true.
    http_version := ['HTTP/1.1' | 'HTTP/2', ...],
    %% Default both.
    server_header := binary(),
    %% Value of the `server' header, empty for none. Default "hornbeam".
    date_header := boolean(),
    %% Whether responses carry `date'. Default true.
    ssl := boolean(),
    %% Whether `bind' takes HTTPS in place of HTTP. Default false.
    certfile := binary() | undefined,
    %% The server's certificate as PEM, followed by those that sign it.
    keyfile := binary() | undefined,
    %% Its private key. Default: it is in `certfile'.
    password := binary() | undefined,
    %% Of an encrypted private key.
    cacertfile := binary() | undefined,
    %% Certificates of those who sign clients' ones.
    verify := verify_none | verify_peer,
    %% Whether a client must have a certificate. Default `verify_none'.
    sni := [{Host :: binary(), hornbeam_identity:source()}],
    %% Other certificates for other names, "*.name" for all names of one label more. Default none.
    ssl_redirect := off | {[hornbeam_bind:address(), ...], Port :: inet:port_number() | bound},
    %% Where plain HTTP is answered with the URL with TLS, and the port of that: `bound' means the
    %% first of `bind'. Default `off'.
    websocket_timeout := time_ms() | infinity,
    %% A WebSocket from which nothing has come for so long is closed. Default 60000 ms.
    websocket_ping := time_ms() | infinity,
    %% How often one is sent a ping. Default 20000 ms.
    websocket_max_frame_size := pos_integer() | infinity,
    %% Bytes of a frame, and of a whole message, that a client may send. Default 16777216.
    websocket_compress := boolean(),
    %% Whether permessage-deflate is agreed on with clients that offer it. Default false.
    websocket_drain := close | keep,
    %% What becomes of WebSockets of a worker that is replaced: closed at once, the default, or when
    %% `shutdown_timeout' is over.
    proxy_headers := off | [hornbeam_ip:network() | unix, ...],
    %% Peers whose `Forwarded' and `X-Forwarded-*' headers are believed: addresses, networks like
    %% "10.0.0.0/8", and "unix" for the clients of a unix socket. Default `off'.
    proxy_protocol := boolean(),
    %% Whether every connection begins with a PROXY header, version 1 or 2. Default false.
    access_log := off | access_log_format() | {access_log_format(), File :: binary()},
    reload := false | #{dirs := [binary()] | undefined, include := [binary()],
                        exclude := [binary()]},
    %% Whether the workers are replaced when files of the application change. Default false.
    routes := list(),
    hooks := #{atom() => fun()},
    mounts := list(),
    status_path := off | binary(),
    metrics_path := off | binary()
}.
%% A checked configuration with every option in one form.

-type access_log_format() :: common | combined | json.

-type node_options() :: #{
    state_max_memory := pos_integer() | infinity,
    %% Bytes that the shared state may take. Default `infinity'.
    rpc_allow := all | [{module(), Function :: atom()}],
    %% What Python may call on nodes by `rpc_call' and `rpc_cast'; the function `_' stands for all
    %% of a module. Default `all'.
    reload_on_sighup := boolean()
    %% Whether SIGHUP reloads all servers, rather than to end the node. Default false.
}.
%% Options of the node, which all its servers share. They stand in the environment of the
%% application `hornbeam' only, and are read when it starts.

-type error_entry() :: #{
    key := hornbeam_option:key(), value := term(), expected := binary()
}.
%% One thing that is wrong, `expected' as the end of a sentence.

-export_type([options/0, config/0, node_options/0, access_log_format/0, error_entry/0, time_ms/0]).

%% Keys that application:get_all_env/1 may give though no user has set them as options.
-define(INTERNAL_KEYS, [included_applications]).

-define(MASK, <<"***">>).

%% API.

%% @doc Every option with its default, in the form that a user would write.
-spec defaults() -> options().
defaults() ->
    #{
        bind => <<"127.0.0.1:8000">>,
        socket_mode => undefined,
        worker_class => auto,
        workers => cores(),
        threads => 8,
        loop => auto,
        python => <<"python3">>,
        venv => undefined,
        pythonpath => [<<".">>],
        chdir => undefined,
        env => #{},
        lifespan => auto,
        lifespan_timeout => 30000,
        root_path => <<>>,
        timeout => 30000,
        keepalive => 5000,
        header_timeout => 10000,
        body_timeout => 30000,
        send_timeout => 30000,
        shutdown_timeout => 30000,
        max_body => infinity,
        max_request_line_size => 8190,
        max_header_size => 16384,
        max_headers => 100,
        max_connections => 16384,
        max_concurrency => auto,
        max_queue => 1024,
        queue_timeout => 5000,
        max_requests => infinity,
        max_requests_jitter => 0,
        max_memory => infinity,
        heartbeat => 250,
        stall_timeout => 60000,
        window => 65536,
        retry => true,
        http_version => ['HTTP/1.1', 'HTTP/2'],
        server_header => <<"hornbeam">>,
        date_header => true,
        ssl => false,
        certfile => undefined,
        keyfile => undefined,
        cacertfile => undefined,
        password => undefined,
        verify => verify_none,
        sni => [],
        ssl_redirect => off,
        websocket_timeout => 60000,
        websocket_ping => 20000,
        websocket_max_frame_size => 16777216,
        websocket_compress => false,
        websocket_drain => close,
        proxy_headers => off,
        proxy_protocol => false,
        access_log => off,
        reload => false,
        routes => [],
        hooks => #{},
        mounts => [],
        status_path => off,
        metrics_path => off
    }.

%% @doc Options that this version knows but does not act on: every value but the default is
%% refused, so that nobody relies on what is not there.
-spec unsupported() -> [atom()].
unsupported() ->
    [
        access_log,
        routes,
        hooks,
        mounts,
        status_path,
        metrics_path
    ].

%% @doc Merges the call's options over the application's environment over the defaults, and
%% checks the result. The error lists all that is wrong, sorted by key.
-spec validate(App :: term(), Options :: term()) ->
    {ok, config()} | {error, {invalid_options, #{errors := [error_entry(), ...]}}}.
validate(App, Options) when is_map(Options) ->
    Merged = maps:merge(maps:without(node_keys(), environment()), Options),
    Checked = maps:map(fun check_server/2, maps:merge(defaults(), Merged)),
    Results = Checked#{app => hornbeam_option:check_app(App)},
    Given = Merged#{app => App},
    Wrong = [{Key, map_get(Key, Given), Expected} || {Key, {error, Expected}} <- sorted(Results)],
    case Wrong of
        [] -> validate_together(maps:map(fun(_, {ok, Value}) -> Value end, Results));
        _ -> invalid(Wrong)
    end;
validate(_, Options) ->
    invalid([{options, Options, "a map of options"}]).

%% @doc The interpreter that workers run, as an absolute path.
-spec python_executable(config()) ->
    {ok, file:filename()}
    | {error, {python_not_found | venv_not_found, #{atom() => binary()}}}.
python_executable(#{venv := undefined, python := Python}) ->
    case find_executable(Python) of
        {ok, _} = Ok -> Ok;
        error -> {error, {python_not_found, #{python => Python}}}
    end;
python_executable(#{venv := Venv, python := Python}) ->
    Path = filename:join([Venv, <<"bin">>, command_in_venv(Python)]),
    case find_executable(Path) of
        {ok, _} = Ok -> Ok;
        error -> {error, {venv_not_found, #{venv => Venv, python => Path}}}
    end.

%% @doc The configuration as it may be shown or logged: secrets are replaced.
-spec mask(config()) -> map().
mask(Config) ->
    maps:map(fun mask/2, Config).

%% @doc The options of the node with their defaults.
-spec node_defaults() -> node_options().
node_defaults() ->
    #{
        state_max_memory => infinity,
        rpc_allow => all,
        reload_on_sighup => false
    }.

%% @doc Checks the options of the node, which stand in the environment of the application.
-spec validate_node() -> ok | {error, {invalid_options, #{errors := [error_entry(), ...]}}}.
validate_node() ->
    Given = maps:with(node_keys(), environment()),
    Checked = maps:map(fun hornbeam_option:check/2, Given),
    case [{Key, map_get(Key, Given), Expected} || {Key, {error, Expected}} <- sorted(Checked)] of
        [] -> ok;
        Wrong -> invalid(Wrong)
    end.

%% @doc An option of the node, once {@link validate_node/0} has found it well.
-spec node_option(state_max_memory | rpc_allow | reload_on_sighup) -> term().
node_option(Key) ->
    application:get_env(hornbeam, Key, map_get(Key, node_defaults())).

%% Internal.

node_keys() ->
    maps:keys(node_defaults()).

environment() ->
    maps:without(?INTERNAL_KEYS, maps:from_list(application:get_all_env(hornbeam))).

cores() ->
    case erlang:system_info(logical_processors_available) of
        unknown -> erlang:system_info(schedulers_online);
        Cores -> Cores
    end.

check_server(Key, Value) ->
    case lists:member(Key, node_keys()) of
        true -> {error, "it in the environment of the application hornbeam: all servers share it"};
        false -> check(Key, Value)
    end.

check(Key, Value) ->
    case hornbeam_option:check(Key, Value) of
        {ok, Checked} -> check_supported(Key, Checked);
        {error, Expected} -> {error, [Expected, suggestion(Key)]}
    end.

check_supported(Key, Checked) ->
    case lists:member(Key, unsupported()) of
        true -> check_default(Checked, hornbeam_option:check(Key, map_get(Key, defaults())));
        false -> {ok, Checked}
    end.

check_default(Value, {ok, Value}) ->
    {ok, Value};
check_default(_, {ok, Default}) ->
    {error, io_lib:format("~0tp; this version supports no other value", [Default])}.

validate_together(Config) ->
    case lists:sort(hornbeam_option:check_together(Config)) of
        [] -> {ok, Config};
        Wrong -> invalid(Wrong)
    end.

invalid(Wrong) ->
    {error, {invalid_options, #{errors => [entry(Each) || Each <- Wrong]}}}.

entry({Key, Value, Expected}) ->
    Text = unicode:characters_to_binary(Expected),
    #{key => Key, value => mask(Key, Value), expected => Text}.

sorted(Map) ->
    lists:sort(maps:to_list(Map)).

mask(password, Value) when Value =/= undefined -> ?MASK;
mask(sni, Hosts) when is_list(Hosts) -> [mask_host(Host) || Host <- Hosts];
mask(env, Env) when is_map(Env) -> maps:map(fun(_, _) -> ?MASK end, Env);
mask(env, Env) when is_list(Env) -> ?MASK;
mask(_, Value) -> Value.

mask_host({Host, #{password := Password} = Options}) ->
    {Host, Options#{password := mask(password, Password)}};
mask_host(Other) ->
    Other.

%% A name without a slash is looked up in PATH, as a shell does it.
find_executable(Python) ->
    Name =
        case binary:match(Python, <<"/">>) of
            nomatch -> Python;
            _ -> filename:absname(Python)
        end,
    case os:find_executable(unicode:characters_to_list(Name)) of
        false -> error;
        Path -> {ok, filename:absname(Path)}
    end.

%% The default names no version; `bin/python' is there in every virtual environment.
command_in_venv(<<"python3">>) -> <<"python">>;
command_in_venv(Python) -> Python.

suggestion(Key) ->
    Names = maps:keys(defaults()) ++ node_keys(),
    case {lists:member(Key, Names), key_text(Key)} of
        {false, {ok, Text}} -> nearest(Text, Names);
        {_, _} -> ""
    end.

key_text(Key) when is_atom(Key) -> {ok, atom_to_binary(Key)};
key_text(Key) -> hornbeam_form:text(Key).

nearest(Text, Names) ->
    case hornbeam_near:names(Text, [atom_to_binary(Name) || Name <- Names]) of
        [Near | _] -> ["; did you mean the atom ", Near, "?"];
        [] -> ""
    end.
