%% SPDX-License-Identifier: Apache-2.0

%% @private The Ranch protocol: what Cowboy's `cowboy_clear' does, and what it does not tell.
%%
%% Stream handlers do not see the socket. This module does, before Cowboy takes over, and hands
%% each stream a context: the socket (to cut a connection, which no Cowboy command does), texts of
%% both addresses (made once per connection rather than per request), and the connection's
%% activity, which the reaper reads to tell an idle connection from a busy one.
-module(hornbeam_connection).

-behaviour(ranch_protocol).

%% ranch_protocol
-export([start_link/3]).

%% API
-export([stream_began/1]).
-export([stream_ended/1]).
-export([activity/1]).
-export([cut/1]).
-export([reset/1]).

%% internal
-export([init/4]).

-export_type([context/0, activity/0]).

-type activity() :: atomics:atomics_ref().

-type context() :: #{
    socket := inet:socket() | ssl:sslsocket(),
    transport := module(),
    client := {binary(), inet:port_number()} | undefined,
    server := {binary(), inet:port_number() | undefined},
    activity := activity()
}.

%% Fields of activity(): streams under way, streams so far, when the last one ended.
-define(STREAMS, 1).
-define(TOTAL, 2).
-define(IDLE_SINCE_MS, 3).

-spec start_link(ranch:ref(), module(), cowboy:opts()) -> {ok, pid()}.
start_link(Ref, Transport, Opts) ->
    {ok, proc_lib:spawn_link(?MODULE, init, [self(), Ref, Transport, Opts])}.

-spec init(pid(), ranch:ref(), module(), cowboy:opts()) -> ok.
init(Parent, Ref, Transport, Opts = #{hornbeam := #{connections := Connections}}) ->
    %% Cowboy's connection process supervises the processes of user-supplied handlers.
    process_flag(trap_exit, true),
    {ok, Socket} = ranch:handshake(Ref),
    Activity = atomics:new(3, [{signed, true}]),
    ok = atomics:put(Activity, ?IDLE_SINCE_MS, erlang:monotonic_time(millisecond)),
    Context = #{
        socket => Socket,
        transport => Transport,
        client => client(Transport:peername(Socket)),
        server => server(Transport:sockname(Socket)),
        activity => Activity
    },
    ok = hornbeam_reaper:register(Connections, Context),
    cowboy_http:init(Parent, Ref, Socket, Transport, undefined,
                     Opts#{hornbeam_connection => Context}).

%% @doc A request has begun on this connection.
-spec stream_began(context()) -> ok.
stream_began(#{activity := Activity}) ->
    ok = atomics:add(Activity, ?STREAMS, 1),
    ok = atomics:add(Activity, ?TOTAL, 1).

%% @doc A request is over.
-spec stream_ended(context()) -> ok.
stream_ended(#{activity := Activity}) ->
    ok = atomics:put(Activity, ?IDLE_SINCE_MS, erlang:monotonic_time(millisecond)),
    ok = atomics:sub(Activity, ?STREAMS, 1).

%% @doc Streams under way, streams so far, and since when (monotonic milliseconds) there is none.
-spec activity(activity()) ->
    {Streams :: non_neg_integer(), Total :: non_neg_integer(), IdleSinceMs :: integer()}.
activity(Activity) ->
    {atomics:get(Activity, ?STREAMS), atomics:get(Activity, ?TOTAL),
     atomics:get(Activity, ?IDLE_SINCE_MS)}.

%% @doc End the calling HTTP/1 connection without ending its response well.
%%
%% Cowboy's ways to end a stream complete the chunked body first. What remains is to let it see a
%% socket error, which it takes after the messages that are there already.
-spec cut(context()) -> ok.
cut(#{socket := Socket, transport := Transport}) ->
    self() ! {element(3, Transport:messages()), Socket, econnaborted},
    ok.

%% @doc The same where the end of the connection is the end of the body (HTTP/1.0): a client would
%% take a closed connection for a complete response, so it gets a reset.
-spec reset(context()) -> ok.
reset(Context = #{socket := Socket, transport := Transport}) ->
    _ = Transport:setopts(Socket, [{linger, {true, 0}}]),
    _ = Transport:close(Socket),
    cut(Context).

client({ok, {Ip, Port}}) when is_tuple(Ip) -> {ip_text(Ip), Port};
%% A unix socket's client has no name.
client(_) -> undefined.

server({ok, {local, Path}}) -> {Path, undefined};
server({ok, {Ip, Port}}) -> {ip_text(Ip), Port};
server({error, _}) -> {<<>>, undefined}.

%% Clients of an IPv4 address that reach a dual-stack socket are shown as IPv4.
ip_text({0, 0, 0, 0, 0, 16#ffff, High, Low}) ->
    ip_text({High bsr 8, High band 255, Low bsr 8, Low band 255});
ip_text(Ip) ->
    list_to_binary(inet:ntoa(Ip)).
