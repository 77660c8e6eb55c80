%% SPDX-License-Identifier: Apache-2.0

%% @private The Ranch protocol: what Cowboy's `cowboy_clear' does, and what it does not tell.
%%
%% Stream handlers do not see the socket. This module does, before Cowboy takes over, and hands
%% each stream a context: the socket (to cut a connection, which no Cowboy command does), texts of
%% both addresses and the facts of TLS (made once per connection rather than per request), and the
%% connection's activity, which the reaper reads to tell an idle connection from a busy one.
-module(hornbeam_connection).

-behaviour(ranch_protocol).

%% ranch_protocol
-export([start_link/3]).

%% API
-export([set_options/2]).
-export([forget_options/1]).
-export([stream_began/1]).
-export([stream_ended/1]).
-export([is_http2/1]).
-export([finish/1]).
-export([activity/1]).
-export([head_began/1]).
-export([has_head_begun/1]).
-export([protocol/1]).
-export([out_bytes/1]).
-export([end_stream/3]).
-export([calm/2]).
-export([resume/1]).
-export([widen/1]).
-export([cut/1]).
-export([reset/1]).
-export([abandon/0]).

%% internal
-export([init/3]).

-include_lib("kernel/include/logger.hrl").

%% Cowboy's specification wants a PROXY header, where Cowboy itself passes `undefined' for none.
-dialyzer({nowarn_function, [init/3, serve/4]}).

-export_type([context/0, activity/0, watched/0]).

-type activity() :: atomics:atomics_ref().

-type watched() :: {pid(), inet:socket() | ssl:sslsocket(), Transport :: module(), activity()}.
%% What others need who look after a connection.

-type context() :: #{
    socket := inet:socket() | ssl:sslsocket(),
    transport := module(),
    %% The socket below TLS, else the same.
    tcp := inet:socket(),
    tls := hornbeam_protocol:tls() | undefined,
    client := {binary(), inet:port_number()} | undefined,
    server := {binary(), inet:port_number() | undefined},
    %% Whether a proxy is believed that says otherwise.
    via := hornbeam_proxy:via(),
    scheme := binary(),
    activity := activity(),
    %% Whether a worker may write to the socket itself.
    lends => true,
    %% Reads that Cowboy asks the socket for at once.
    active_n := pos_integer()
}.

%% Fields of activity(): streams under way, streams so far, when the last one ended, whether it is
%% known for an HTTP/2 connection (1), whether it was asked to finish (1), and the number of the
%% request, from 1, of whose head a part was seen.
-define(STREAMS, 1).
-define(TOTAL, 2).
-define(IDLE_SINCE_MS, 3).
-define(HTTP2, 4).
-define(FINISHING, 5).
-define(HEAD, 6).
-define(ACTIVITY_FIELDS, 6).
%% Process dictionary.
-define(WIDENED, hornbeam_connection_widened).
%% With TLS, whose reads are of up to 16 KiB: of one read of the socket below, once a large body has
%% come, and how many are asked for at once.
-define(TLS_READ_BYTES, 131072).
-define(TLS_READS, 16).
%% How long a connection may take to act on the request to finish.
-define(FINISH_TIMEOUT_MS, 5000).

%% @doc What connections of this listener get for Cowboy and for streams; to be set before it is
%% opened. Not by way of Ranch: each connection would have a copy of its own.
-spec set_options(ranch:ref(), cowboy:opts()) -> ok.
set_options(Ref, Opts) ->
    persistent_term:put({?MODULE, Ref}, Opts).

%% @doc The listener is closed, and so are its connections.
-spec forget_options(ranch:ref()) -> ok.
forget_options(Ref) ->
    _ = persistent_term:erase({?MODULE, Ref}),
    ok.

-spec start_link(ranch:ref(), module(), term()) -> {ok, pid()}.
start_link(Ref, Transport, _) ->
    {ok, proc_lib:spawn_link(?MODULE, init, [self(), Ref, Transport])}.

-spec init(pid(), ranch:ref(), module()) -> no_return().
init(Parent, Ref, _Transport) ->
    Opts = persistent_term:get({?MODULE, Ref}),
    #{hornbeam := #{connections := Connections} = Server, active_n := ActiveN0} = Opts,
    {ok, Tcp} = ranch:handshake(Ref),
    Header = proxy_header(Tcp, Server),
    {Socket, Transport, Tls} = secure(Tcp, Opts),
    ActiveN = reads_at_once(Tls, ActiveN0),
    %% Cowboy's connection process supervises the processes of user-supplied handlers.
    process_flag(trap_exit, true),
    Activity = atomics:new(?ACTIVITY_FIELDS, [{signed, true}]),
    ok = atomics:put(Activity, ?IDLE_SINCE_MS, erlang:monotonic_time(millisecond)),
    Context = (addresses(Header, Transport:peername(Socket), Transport:sockname(Socket), Server))#{
        socket => Socket,
        transport => Transport,
        scheme => scheme(Transport:secure()),
        tcp => Tcp,
        tls => Tls,
        activity => Activity,
        active_n => ActiveN
    },
    ok = hornbeam_reaper:register(Connections, Context),
    keep_http2_out(Parent, Context, Opts),
    serve(Parent, Ref, Context, Opts#{active_n := ActiveN}).

%% With TLS, ALPN has done that.
keep_http2_out(_Parent, #{tls := Tls}, _Opts) when Tls =/= undefined ->
    ok;
keep_http2_out(Parent, Context, Opts = #{hornbeam := #{http_version := Versions}}) ->
    case lists:member('HTTP/2', Versions) orelse hornbeam_preface:await_http1(Parent, Context) of
        http2 -> refuse(505, <<"this HTTP version is not enabled">>, Context, Opts);
        _ -> ok
    end.

secure(Tcp, #{hornbeam_tls := undefined}) ->
    {Tcp, hornbeam_tcp_socket, undefined};
secure(Tcp, Opts = #{hornbeam_tls := Table}) ->
    Material = hornbeam_tls_store:material(Table),
    {ok, Socket} = hornbeam_handshake:secure(Tcp, Material, Opts),
    {Socket, hornbeam_tls_socket, hornbeam_tls:facts(Socket, Material)}.

reads_at_once(undefined, ActiveN) -> ActiveN;
reads_at_once(_, ActiveN) -> min(ActiveN, ?TLS_READS).

%% @doc A request has begun on this connection: how many are under way.
-spec stream_began(context()) -> Streams :: pos_integer().
stream_began(#{activity := Activity}) ->
    Streams = atomics:add_get(Activity, ?STREAMS, 1),
    ok = atomics:add(Activity, ?TOTAL, 1),
    Streams.

%% @doc A request is over.
-spec stream_ended(context()) -> ok.
stream_ended(Context = #{activity := Activity}) ->
    ok = atomics:put(Activity, ?IDLE_SINCE_MS, erlang:monotonic_time(millisecond)),
    Streams = atomics:sub_get(Activity, ?STREAMS, 1),
    _ = Streams =:= 0 andalso atomics:get(Activity, ?FINISHING) =:= 1 andalso
        poke(self(), Context),
    ok.

%% @doc The connection's streams are those of HTTP/2.
-spec is_http2(activity()) -> ok.
is_http2(Activity) ->
    atomics:put(Activity, ?HTTP2, 1).

%% @doc Which protocol the connection is known to speak.
-spec protocol(activity()) -> http1 | http2.
protocol(Activity) ->
    case atomics:get(Activity, ?HTTP2) of
        0 -> http1;
        1 -> http2
    end.

%% @doc Ask a connection to finish: it ends after what it is sending, at once if there is nothing.
%% A system message is how Cowboy is told so; sys:terminate/3 waits, hence the process.
-spec finish(watched()) -> ok.
finish({Pid, Socket, Transport, Activity}) ->
    ok = atomics:put(Activity, ?FINISHING, 1),
    _ = spawn(fun() ->
        try sys:terminate(Pid, shutdown, ?FINISH_TIMEOUT_MS) of
            ok -> poke(Pid, #{socket => Socket, transport => Transport, activity => Activity})
        catch
            exit:_ -> ok
        end
    end),
    ok.

%% An HTTP/2 connection that is to end looks whether it has streams left when it has parsed what
%% came, and not when the last of them ends: so nothing comes.
poke(Pid, #{socket := Socket, transport := Transport, activity := Activity}) ->
    _ = protocol(Activity) =:= http2 andalso
        (Pid ! {element(1, Transport:messages()), Socket, <<>>}),
    ok.

%% @doc Bytes that have gone out.
-spec out_bytes(context()) -> non_neg_integer().
out_bytes(#{socket := Socket, transport := Transport}) ->
    case Transport:getstat(Socket, [send_oct]) of
        {ok, [{send_oct, Bytes}]} -> Bytes;
        {error, _} -> 0
    end.

%% @doc End an HTTP/2 stream behind Cowboy's back, which has no room in its window for an end that
%% needs none. A client that is still sending is told not to.
-spec end_stream(context(), cowboy_stream:streamid(), BodyComplete :: boolean()) -> ok.
end_stream(#{socket := Socket, transport := Transport}, StreamId, BodyComplete) ->
    Reset = [cow_http2:rst_stream(StreamId, no_error) || not BodyComplete],
    %% An error is one of the socket, of which Cowboy learns as well.
    _ = Transport:send(Socket, [cow_http2:data(StreamId, fin, <<>>) | Reset]),
    ok.

%% @doc End an HTTP/2 connection whose client goes too far.
-spec calm(context(), cowboy_stream:streamid()) -> ok.
calm(#{socket := Socket, transport := Transport}, StreamId) ->
    _ = Transport:send(Socket, cow_http2:goaway(StreamId, enhance_your_calm, <<>>)),
    abandon().

%% @doc Streams under way, streams so far, and since when (monotonic milliseconds) there is none.
-spec activity(activity()) ->
    {Streams :: non_neg_integer(), Total :: non_neg_integer(), IdleSinceMs :: integer()}.
activity(Activity) ->
    {atomics:get(Activity, ?STREAMS), atomics:get(Activity, ?TOTAL),
     atomics:get(Activity, ?IDLE_SINCE_MS)}.

%% @doc A part of the next request's head was seen. Called by the connection, where none is under way.
-spec head_began(activity()) -> ok.
head_began(Activity) ->
    atomics:put(Activity, ?HEAD, atomics:get(Activity, ?TOTAL) + 1).

%% @doc Whether it was, of the request that is next.
-spec has_head_begun(activity()) -> boolean().
has_head_begun(Activity) ->
    atomics:get(Activity, ?HEAD) =:= atomics:get(Activity, ?TOTAL) + 1.

%% @doc A large body comes: read more of it at once. For good: another one may follow.
-spec widen(context()) -> ok.
widen(Context) ->
    case put(?WIDENED, true) of
        undefined ->
            %% An error is one of the socket, of which Cowboy learns as well.
            _ = read_large(Context),
            ok;
        true ->
            ok
    end.

read_large(#{socket := Socket, transport := hornbeam_tcp_socket}) ->
    hornbeam_tcp_socket:read_large(Socket);
read_large(#{socket := Socket, transport := Transport}) ->
    Transport:setopts(Socket, [{buffer, ?TLS_READ_BYTES}]).

%% @doc Have the socket read again, behind Cowboy's back.
%%
%% When the last part of a request body comes out of the mailbox after Cowboy has stopped reading for
%% want of credit, it takes the socket for active, ignores credit from then on and does not read the
%% next request, nor see the client leave.
-spec resume(context()) -> ok.
resume(#{socket := Socket, transport := Transport, active_n := ActiveN}) ->
    %% An error is one of the socket, of which Cowboy learns as well.
    _ = Transport:setopts(Socket, [{active, ActiveN}]),
    ok.

%% @doc End the calling HTTP/1 connection without ending its response well.
%%
%% Cowboy's ways to end a stream complete the chunked body first. What remains is to let it see a
%% socket error, which it takes after the messages that are there already.
-spec cut(context()) -> ok.
cut(#{socket := Socket, transport := Transport}) ->
    self() ! {element(3, Transport:messages()), Socket, econnaborted},
    ok.

%% @doc The same where the end of the connection is the end of the body (HTTP/1.0): a client would
%% take a closed connection for a complete response, so it gets a reset. Below TLS, which would say
%% goodbye (`close_notify') and so make it complete.
-spec reset(context()) -> ok.
reset(Context = #{tcp := Tcp}) ->
    _ = inet:setopts(Tcp, [{linger, {true, 0}}]),
    _ = gen_tcp:close(Tcp),
    cut(Context).

%% @doc End the calling connection now, where Cowboy's parser must not go on: it catches whatever a
%% stream handler throws. Workers learn that the client has gone when they look whether this process
%% lives.
-spec abandon() -> ok.
abandon() ->
    %% As a signal, which nothing catches, and with a reason that Ranch does not log: clients could
    %% fill the log with it.
    _ = process_flag(trap_exit, false),
    true = exit(self(), {shutdown, abandoned}),
    ok.

%% Cowboy's parser takes a line that ends in LF alone for one that ends in CRLF, until it falls off
%% its end, and it has no answer to a bad `Connection' of a request with a body: the client's fault,
%% not one to fill the log with.
serve(Parent, Ref, Context = #{socket := Socket, transport := Transport}, Opts0) ->
    Cowboy = cowboy_module(Context),
    Opts = Opts0#{hornbeam_connection => Context},
    _ = is_for_streams(Cowboy, Opts) andalso hornbeam_http1:serve(Parent, Context, Opts),
    try
        Cowboy:init(Parent, Ref, Socket, Transport, undefined, Opts)
    catch
        error:Reason:Stack ->
            case lists:any(fun is_parser/1, Stack) of
                true -> refuse(400, <<"the request could not be read">>, Context, Opts);
                false -> erlang:raise(error, Reason, Stack)
            end
    end.

%% A listener that redirects has a stream handler of its own.
is_for_streams(Cowboy, #{stream_handlers := Handlers}) ->
    Cowboy =:= cowboy_http andalso Handlers =:= [hornbeam_stream].

cowboy_module(#{tls := undefined}) ->
    cowboy_http;
cowboy_module(#{socket := Socket}) ->
    case hornbeam_tls:protocol(Socket) of
        http2 -> cowboy_http2;
        http1 -> cowboy_http
    end.

is_parser({cowboy_http, parse, _, _}) -> true;
is_parser({cowboy_http, error_terminate, _, _}) -> true;
is_parser(_) -> false.

%% Where responses are still due, this one would be taken for one of them; their workers learn that
%% the client has gone when they look whether this process lives.
-spec refuse(400..599, binary(), context(), cowboy:opts()) -> no_return().
refuse(Status, Why, #{socket := Socket, transport := Transport}, Opts) ->
    #{hornbeam := Server, active_n := ActiveN} = Opts,
    _ = case hornbeam_pipeline:is_busy() of
        false ->
            {response, _, Headers, Body} = hornbeam_response:error(Status, Why, Server),
            Lines = maps:to_list(Headers#{<<"connection">> => <<"close">>}),
            _ = Transport:send(Socket, [cow_http:response(Status, 'HTTP/1.1', Lines), Body]),
            hornbeam_linger:linger(Socket, Transport, ActiveN);
        true ->
            ok
    end,
    exit({shutdown, malformed_request}).

scheme(false) -> <<"http">>;
scheme(true) -> <<"https">>.

%%% Addresses

%% Who connects without a PROXY header where one is due is refused: without an answer, as that would
%% be one to a proxy that does not speak HTTP here.
proxy_header(_, #{proxy_protocol := false}) ->
    unknown;
proxy_header(Socket, #{proxy_protocol := true, header_timeout := TimeoutMs}) ->
    case hornbeam_proxy_header:receive_from(Socket, TimeoutMs) of
        {ok, Header} ->
            Header;
        {error, Reason} ->
            ?LOG_DEBUG(#{what => proxy_header_refused, reason => Reason}),
            exit({shutdown, proxy_header_refused})
    end.

addresses(unknown, Peer, Local, #{proxy_headers := Trust}) ->
    #{client => client(Peer), server => server(Local),
      via => hornbeam_proxy:via(peer(Peer), undefined, Trust)};
addresses({proxied, Header}, _, _, #{proxy_headers := Trust}) ->
    #{source := Source, destination := Destination, scheme := Scheme} = Header,
    %% Who is believed is who has written the HTTP: the proxy's client.
    Peer = peer({ok, Source}),
    #{client => client({ok, Source}), server => proxied_server(Destination),
      via => hornbeam_proxy:via(Peer, Scheme, Trust)}.

peer({ok, {local, _}}) -> unix;
peer({ok, unix}) -> unix;
peer({ok, {Ip, _}}) -> Ip;
%% It has gone.
peer({error, _}) -> unknown.

client({ok, {Ip, Port}}) when is_tuple(Ip) -> {hornbeam_ip:to_text(Ip), Port};
%% A unix socket's client has no name.
client(_) -> undefined.

server({ok, {local, Path}}) -> {Path, undefined};
server({ok, {Ip, Port}}) -> {hornbeam_ip:to_text(Ip), Port};
server({error, _}) -> {<<>>, undefined}.

proxied_server({unix, Path}) -> {Path, undefined};
proxied_server(Destination) -> server({ok, Destination}).
