%% SPDX-License-Identifier: Apache-2.0

%% @private The sockets of one server, from the moment its workers are ready to the end of its drain.
%%
%% Ranch supervises acceptors and connections; this process ties them to the server: it opens them
%% when it is told to (at the first start, by whoever starts the server and wants the outcome) or
%% when the workers are ready (when its supervisor has restarted it), and at its end it closes the
%% listening sockets first, lets the requests finish, and then closes what is left.
-module(hornbeam_listener).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

%% API
-export([new_opened/1]).
-export([has_been_open/1]).
-export([start_link/3]).
-export([open/1]).
-export([info/1]).

%% gen_server
-export([init/1]).
-export([handle_continue/2]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).
-export([terminate/2]).

-export_type([opened/0]).

-type opened() :: atomics:atomics_ref().
%% For each address of `bind', and then of `ssl_redirect', the port it was opened on (1 for a unix
%% socket), 0 before that. Outlives
%% the processes of the server: once it has been open it opens by itself after a restart, and has
%% the ports again that the system chose.

-record(state, {
    name :: atom(),
    config :: hornbeam_config:config(),
    opened :: opened(),
    %% The pool that this listener is in front of: a new one has a new listener.
    pool :: pid() | undefined,
    reaper :: pid(),
    connections :: hornbeam_reaper:table(),
    %% Certificates of the moment, and who follows their files, once the listener is open.
    tls :: {hornbeam_tls_store:table(), pid() | undefined} | undefined,
    %% Ranch listeners that are open, with what `info' shows of each, and their supervisors.
    listeners = [] :: [{ranch:ref(), hornbeam_place:place(), pid()}],
    %% Files of unix sockets among them, as they were made.
    files = #{} :: #{hornbeam_bind:address() => hornbeam_socket_file:identity()}
}).

%% Between attempts to open again after a restart, when the address is still taken.
-define(REOPEN_MS, 200).
%% How many new connections the system keeps until they are accepted; at most as many as it allows
%% (on Linux net.core.somaxconn, 4096 by default). One too many is not refused but left without an
%% answer, and its client tries again a second later.
-define(BACKLOG, 4096).
%% A read of the socket takes up to this much; with the number of reads that Cowboy asks for at
%% once it bounds what an upload can pile up beyond its window.
-define(READ_BYTES, 16384).
-define(ACTIVE_READS, 64).
%% What is left of a request body that the application did not read is skipped up to this size, to
%% keep the connection; beyond it the connection is closed.
-define(MAX_SKIPPED_BYTES, 1048576).
-define(MAX_HEADER_NAME_BYTES, 256).
-define(LINE_BREAK_BYTES, 2).
-define(MAX_ACCEPTORS, 10).
%% Poll for connections to be gone while draining.
-define(DRAIN_POLL_MS, 20).
%% For connections to write what they were told when the pool has gone.
-define(DESERTED_MS, 100).

%%% API

-spec new_opened(hornbeam_config:config()) -> opened().
new_opened(Config) ->
    atomics:new(length(hornbeam_place:all(Config)), []).

%% @doc Whether all addresses were open once, so that whoever started the server has it.
-spec has_been_open(opened()) -> boolean().
has_been_open(Opened) ->
    atomics:get(Opened, 1) =/= 0.

-spec start_link(atom(), hornbeam_config:config(), opened()) -> {ok, pid()} | {error, term()}.
start_link(Name, Config, Opened) ->
    gen_server:start_link(?MODULE, {Name, Config, Opened}, []).

%% @doc Listen on all addresses of `bind', or on none: the first that cannot be had is the error.
-spec open(pid()) -> ok | {error, hornbeam_error:reason()}.
open(Listener) ->
    gen_server:call(Listener, open, infinity).

-spec info(pid()) -> #{listeners := [map()], connections := non_neg_integer()}.
info(Listener) ->
    gen_server:call(Listener, info).

%%% gen_server

-spec init({atom(), hornbeam_config:config(), opened()}) ->
    {ok, #state{}} | {ok, #state{}, {continue, reopen}}.
init({Name, Config, Opened}) ->
    process_flag(trap_exit, true),
    logger:update_process_metadata(#{hornbeam_server => Name}),
    Connections = hornbeam_reaper:new_table(),
    {ok, Reaper} = hornbeam_reaper:start_link(Config, Connections),
    State = #state{name = Name, config = Config, opened = Opened, reaper = Reaper,
                   pool = hornbeam_selection:pool_pid(Name),
                   connections = Connections, tls = new_tls(Config)},
    ok = hornbeam_sockets:take_over(Name),
    ok = hornbeam_sockets:watch_ranch(),
    case has_been_open(Opened) of
        false -> {ok, State};
        true -> {ok, State, {continue, reopen}}
    end.

-spec handle_continue(reopen, #state{}) -> {noreply, #state{}}.
handle_continue(reopen, State = #state{name = Name}) ->
    case hornbeam_selection:pool_pid(Name) of
        undefined -> ok;
        Pool ->
            Self = self(),
            _ = spawn_link(fun() -> _ = hornbeam_pool:await_ready(Pool), Self ! reopen end),
            ok
    end,
    {noreply, State}.

-spec handle_call(open | info, gen_server:from(), #state{}) -> {reply, term(), #state{}}.
handle_call(open, _From, State0) ->
    case open_all(State0) of
        {ok, State} ->
            lists:foreach(fun(Listener) -> remember_port(Listener, State) end,
                          State#state.listeners),
            {reply, ok, State};
        {error, Reason} ->
            {reply, {error, Reason}, State0}
    end;
handle_call(info, _From, State = #state{listeners = Listeners, connections = Connections}) ->
    {reply, #{listeners => [hornbeam_place:shown(Ref, Place) || {Ref, Place, _} <- Listeners],
              connections => hornbeam_reaper:connections(Connections)}, State}.

-spec handle_cast(term(), #state{}) -> no_return().
handle_cast(Request, _State) ->
    error({unexpected_cast, Request}).

-spec handle_info(term(), #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}.
handle_info(reopen, State0) ->
    case open_all(State0) of
        {ok, State} ->
            {noreply, State};
        {error, Reason} ->
            ?LOG_ERROR(#{what => reopen_failed, reason => hornbeam_error:format(Reason)}),
            _ = erlang:send_after(?REOPEN_MS, self(), reopen),
            {noreply, State0}
    end;
handle_info({'EXIT', Reaper, Reason}, State = #state{reaper = Reaper, config = Config}) ->
    ?LOG_ERROR(#{what => reaper_down, reason => Reason}),
    {ok, Successor} = hornbeam_reaper:start_link(Config, State#state.connections),
    {noreply, State#state{reaper = Successor}};
handle_info({'EXIT', Store, Reason}, State = #state{tls = {Table, Store}}) ->
    ?LOG_ERROR(#{what => tls_store_down, reason => Reason}),
    {ok, Successor} = start_store(State#state{tls = {Table, undefined}}),
    {noreply, Successor};
%% Connections are served, but nobody knows the sockets any more: they are opened anew.
handle_info({ranch_down, _, process, _, Reason}, State) ->
    ?LOG_ERROR(#{what => ranch_down, reason => Reason}),
    {stop, {shutdown, {sockets_down, Reason}}, State};
handle_info({'EXIT', Pid, Reason}, State = #state{listeners = Listeners}) ->
    case lists:keymember(Pid, 3, Listeners) of
        %% What made it die may be anywhere: all of it starts anew.
        true -> {stop, {shutdown, {sockets_down, Reason}}, State};
        %% One that could not be opened, or who waited for the workers.
        false -> {noreply, State}
    end;
handle_info({listening, Address, File}, State) ->
    {noreply, note_file(Address, File, State)};
handle_info(Message, State) ->
    ?LOG_WARNING(#{what => unexpected_message, message => Message}),
    {noreply, State}.

-spec terminate(term(), #state{}) -> ok.
terminate(Reason, State = #state{listeners = Listeners, config = Config}) ->
    lists:foreach(fun({Ref, _, _}) -> hornbeam_sockets:suspend(Ref) end, Listeners),
    maps:foreach(fun hornbeam_socket_file:remove/2, last_files(State)),
    #{shutdown_timeout := TimeoutMs} = Config,
    DeadlineMs = erlang:monotonic_time(millisecond) + TimeoutMs,
    end_connections(Reason, State, DeadlineMs),
    lists:foreach(fun stop_listener/1, Listeners).

%% Ranch may have listened again a moment ago: nobody does from now on.
last_files(State) ->
    receive
        {listening, Address, File} -> last_files(note_file(Address, File, State))
    after 0 ->
        State#state.files
    end.

note_file(Address, File, State = #state{files = Files}) when is_map_key(Address, Files) ->
    State#state{files = Files#{Address := File}};
note_file(_, _, State) ->
    State.

%% It is to be back soon.
end_connections({shutdown, {sockets_down, _}}, _, _) ->
    ok;
end_connections(_, State, DeadlineMs) ->
    %% What is left of the time after the drain is for tasks that go on behind their responses.
    ok = hornbeam_selection:stop_by(State#state.name, State#state.pool, DeadlineMs),
    drain(State, DeadlineMs).

stop_listener({Ref, _, Sup}) ->
    ok = hornbeam_sockets:stop(Ref, Sup),
    ok = hornbeam_connection:forget_options(Ref).

%%% Open

open_all(State0 = #state{name = Name, config = Config}) ->
    case start_store(State0) of
        {ok, State} ->
            Places = hornbeam_place:all(Config),
            open_all([{hornbeam_place:ref(Name, N), {Kind, with_last_port(N, Address, State)}}
                      || {N, {Kind, Address}} <- lists:zip(lists:seq(1, length(Places)), Places)],
                     [], State);
        {error, Reason} ->
            {error, Reason}
    end.

new_tls(#{ssl := true}) -> {hornbeam_tls_store:new_table(), undefined};
new_tls(#{ssl := false}) -> undefined.

start_store(State = #state{tls = {Table, undefined}, name = Name, config = Config}) ->
    case hornbeam_tls_store:start_link(Name, Config, Table) of
        {ok, Store} -> {ok, State#state{tls = {Table, Store}}};
        {error, Reason} -> {error, Reason}
    end;
start_store(State) ->
    {ok, State}.

with_last_port(N, Address = #{type := tcp, port := 0}, #state{opened = Opened}) ->
    Address#{port := atomics:get(Opened, N)};
with_last_port(_, Address, _) ->
    Address.

remember_port({{hornbeam, _, N} = Ref, {_, #{type := tcp}}, _}, #state{opened = Opened}) ->
    ok = atomics:put(Opened, N, ranch:get_port(Ref));
remember_port({{hornbeam, _, N}, {_, #{type := unix}}, _}, #state{opened = Opened}) ->
    ok = atomics:put(Opened, N, 1).

open_all([], Opened, State) ->
    Files = maps:from_list([{Address, hornbeam_socket_file:identity(Address)}
                            || {_, {_, Address = #{type := unix}}, _} <- Opened]),
    {ok, State#state{listeners = lists:reverse(Opened), files = Files}};
open_all([{Ref, Place = {_, Address}} | Rest], Opened, State) ->
    case start_listener(Ref, Place, State) of
        {ok, Sup} ->
            open_all(Rest, [{Ref, Place, Sup} | Opened], State);
        {error, Reason} ->
            ok = hornbeam_connection:forget_options(Ref),
            lists:foreach(fun stop_listener/1, Opened),
            {error, bind_error(Reason, Address)}
    end.

start_listener(Ref, {Kind, Address}, State = #state{config = Config}) ->
    case hornbeam_socket_file:check_free(Address) of
        ok ->
            ok = hornbeam_connection:set_options(Ref, protocol_opts(Kind, State)),
            hornbeam_sockets:open(Ref, transport_opts(Address, Config));
        {error, Reason} ->
            {error, Reason}
    end.

bind_error(eaddrinuse, #{text := Text}) ->
    {address_in_use, #{address => Text}};
bind_error(Reason, #{text := Text}) ->
    Message = case is_atom(Reason) of
        true -> inet:format_error(Reason);
        false -> io_lib:format("~0tp", [Reason])
    end,
    {bind_failed, #{address => Text, message => unicode:characters_to_binary(Message)}}.

transport_opts(Address, Config) ->
    #{max_connections := Wanted, socket_mode := SocketMode} = Config,
    MaxConnections = hornbeam_descriptors:max_connections(Wanted, hornbeam_descriptors:limit()),
    Acceptors = min(?MAX_ACCEPTORS, MaxConnections),
    Listener = self(),
    #{
        socket_opts => socket_opts(Address, Config),
        %% Before anybody is accepted; also when Ranch listens again after a crash of its own.
        post_listen_callback => fun(_) ->
            Listener ! {listening, Address, hornbeam_socket_file:identity(Address)},
            hornbeam_socket_file:set_mode(Address, SocketMode)
        end,
        num_acceptors => Acceptors,
        %% Ranch counts for each of its connection supervisors by itself.
        num_conns_sups => Acceptors,
        max_connections => (MaxConnections + Acceptors - 1) div Acceptors,
        %% Connections are asked to finish by terminate/2; what is left after that is cut.
        shutdown => brutal_kill,
        connection_type => supervisor,
        logger => hornbeam_cowboy_log
    }.

socket_opts(Address, #{send_timeout := SendTimeoutMs}) ->
    address_opts(Address) ++
        [{backlog, ?BACKLOG}, {send_timeout, SendTimeoutMs}, {send_timeout_close, true},
         {buffer, ?READ_BYTES}].

address_opts(#{type := unix, path := Path}) ->
    [{ip, {local, Path}}, {port, 0}];
%% An IPv6 address means IPv6 alone, whatever the system's default is: `bind' takes a list.
address_opts(#{type := tcp, ip := Ip, port := Port}) when tuple_size(Ip) =:= 8 ->
    [inet6, {ip, Ip}, {port, Port}, {ipv6_v6only, true}];
address_opts(#{type := tcp, ip := Ip, port := Port}) ->
    [{ip, Ip}, {port, Port}].

protocol_opts(Kind, State = #state{name = Name, config = Config, tls = Tls}) ->
    Table = case Tls of
        {Given, _} -> Given;
        undefined -> undefined
    end,
    maps:merge(protocol_opts(State), hornbeam_place:protocol_opts(Kind, Name, Config, Table)).

protocol_opts(#state{name = Name, config = Config, connections = Connections}) ->
    #{max_headers := MaxHeaders, max_request_line_size := LineSize, max_header_size := HeaderSize,
      window := Window} = Config,
    maps:merge(#{
        hornbeam => stream_server(Name, Config, Connections),
        stream_handlers => [hornbeam_stream],
        connection_type => supervisor,
        logger => hornbeam_cowboy_log,
        %% Running requests have limits of their own; these would cut them.
        idle_timeout => infinity,
        inactivity_timeout => infinity,
        %% The reaper's, which tells an idle connection from a head that comes slowly.
        request_timeout => infinity,
        max_keepalive => infinity,
        max_headers => MaxHeaders,
        max_header_name_length => ?MAX_HEADER_NAME_BYTES,
        %% Cowboy counts the line break where it has read only half of it; hornbeam_scope counts
        %% exactly.
        max_header_value_length => HeaderSize + ?LINE_BREAK_BYTES,
        max_request_line_length => LineSize + ?LINE_BREAK_BYTES,
        initial_stream_flow_size => Window,
        active_n => ?ACTIVE_READS,
        %% WebSockets over HTTP/2 (RFC 8441).
        enable_connect_protocol => true,
        max_skip_body_length => ?MAX_SKIPPED_BYTES
    }, hornbeam_http2:options(Config)).

stream_server(Name, Config, Connections) ->
    Read = maps:with([timeout, body_timeout, header_timeout, send_timeout, max_body,
                      max_request_line_size, max_header_size, max_headers, http_version, window,
                      retry, queue_timeout, proxy_protocol, websocket_timeout, websocket_ping,
                      websocket_max_frame_size, websocket_compress], Config),
    #{proxy_headers := Trusted} = Config,
    Server = maps:merge(Read, hornbeam_response:defaults(Config)),
    Server#{name => Name, connections => Connections, max_skipped => ?MAX_SKIPPED_BYTES,
            proxy_headers => hornbeam_proxy:new_trust(Trusted)}.

%%% Drain

%% Every connection is told at once; new ones cannot come. One that was accepted a moment before the
%% sockets were closed is told in the next round.
drain(State, DeadlineMs) ->
    case hornbeam_reaper:finish_all(State#state.connections) of
        [] -> ok;
        Pids -> await_gone(Pids, State, DeadlineMs)
    end.

await_gone(Pids, State, DeadlineMs0) ->
    NowMs = erlang:monotonic_time(millisecond),
    DeadlineMs = drain_deadline_ms(NowMs, DeadlineMs0, State),
    case NowMs >= DeadlineMs of
        true ->
            ?LOG_WARNING(#{what => drain_timeout, connections => length(Pids)});
        false ->
            case lists:filter(fun is_process_alive/1, Pids) of
                [] -> drain(State, DeadlineMs);
                Left ->
                    receive after ?DRAIN_POLL_MS -> ok end,
                    await_gone(Left, State, DeadlineMs)
            end
    end.

%% Without the pool no response can come any more.
drain_deadline_ms(NowMs, DeadlineMs, #state{name = Name}) ->
    Pool = hornbeam_selection:pool_pid(Name),
    case {hornbeam_hurry:is_asked(), is_pid(Pool) andalso is_process_alive(Pool)} of
        {true, _} -> NowMs;
        {false, true} -> DeadlineMs;
        {false, false} -> min(DeadlineMs, NowMs + ?DESERTED_MS)
    end.
