%% SPDX-License-Identifier: Apache-2.0

%% @private One request, as a Cowboy stream handler: no process of its own, no copy of the request.
%%
%% Runs in the connection process. Phases:
%%
%% <ul>
%% <li>`parked': pipelined behind a request that is not over; starts when that one has ended.</li>
%% <li>`gathering': a small body comes in before a worker is asked for, whose thread it would hold.</li>
%% <li>`queued': no worker had a place; the pool says when to try again, or that time is up.</li>
%% <li>`dispatched': a worker has it; no response yet.</li>
%% <li>`started': the response has begun and goes on.</li>
%% <li>`skipping': the response is complete, the rest of the request's body is read and dropped so
%%   that the next request can come.</li>
%% <li>`over': nothing more will be sent; what still comes is ignored.</li>
%% </ul>
%%
%% Flow control. Response bodies: Cowboy's `send' returns when the driver has taken the bytes and
%% blocks this process while the client does not read; a message that the handler sends to its own
%% stream comes back only after that, and then the bytes are acknowledged to the worker. On HTTP/2
%% they may be in Cowboy's queue by then: see {@link hornbeam_backlog}. Request bodies: see
%% {@link hornbeam_flow}.
%%
%% Files. When a file is open, its worker is told so and has done its part: `worker' and `request_id'
%% are undefined from then on. See {@link hornbeam_file}.
%%
%% Smuggling. Nothing that follows a chunked body on the same HTTP/1 connection is believed: the
%% response says `connection: close', and {@link hornbeam_takeover} takes the connection over.
%%
%% WebSockets. The handshake is a request like others; on HTTP/1 its connection is taken over as
%% well, because Cowboy, when it switches protocols, drops what the worker has said already. Once it
%% is accepted {@link hornbeam_websocket} has the stream.
-module(hornbeam_stream).

-behaviour(cowboy_stream).

-include_lib("kernel/include/logger.hrl").

%% cowboy_stream
-export([init/3]).
-export([data/4]).
-export([info/3]).
-export([terminate/3]).
-export([early_error/5]).

-export_type([server/0, state/0]).

-type server() :: #{
    name := atom(),
    connections := hornbeam_reaper:table(),
    %% Options that streams read, as hornbeam_config has checked them.
    timeout := timeout(),
    body_timeout := timeout(),
    send_timeout := timeout(),
    max_body := non_neg_integer() | infinity,
    max_request_line_size := pos_integer(),
    max_header_size := pos_integer(),
    max_headers := pos_integer(),
    send_timeout := timeout(),
    http_version := [atom()],
    window := pos_integer(),
    max_skipped := non_neg_integer(),
    websocket_timeout := timeout(),
    websocket_ping := timeout(),
    websocket_max_frame_size := pos_integer() | infinity,
    websocket_compress := boolean(),
    retry := boolean(),
    server_header := binary() | undefined,
    date_header := boolean(),
    %% What connections read.
    header_timeout := timeout(),
    proxy_headers := hornbeam_proxy:trust(),
    proxy_protocol := boolean()
}.
%% What is the same for all streams of a listener.

-record(stream, {
    id :: cowboy_stream:streamid(),
    phase :: parked | gathering | queued | dispatched | started | skipping | over,
    server :: server(),
    connection :: hornbeam_connection:context(),
    method :: binary(),
    version :: cowboy:http_version(),
    %% From when `timeout' and `queue_timeout' count; the latter anew when the worker has died.
    arrival_ms :: integer(),
    queue_since_ms :: integer(),
    %% Kept until the response starts: a retry sends it again.
    scope :: hornbeam_protocol:scope() | undefined,
    request_id :: hornbeam_protocol:request_id() | undefined,
    worker :: hornbeam_selection:worker() | undefined,
    retried = false :: boolean(),
    %% The client waits for 100 Continue (RFC 9110 10.1.1).
    expects_continue :: boolean(),
    %% What makes this one a WebSocket's, until it is accepted.
    handshake :: hornbeam_ws_handshake:handshake() | undefined,
    %% Body parts that came before there was a worker for them, or what a client has sent behind its
    %% handshake, last first.
    held = [] :: [binary()],
    body_complete :: boolean(),
    %% As Content-Length says; undefined for a chunked body.
    body_length :: non_neg_integer() | undefined,
    body_bytes = 0 :: non_neg_integer(),
    %% HTTP/2: the body is there by its length, the end of the stream is not.
    awaits_end = false :: boolean(),
    flow :: hornbeam_flow:flow(),
    %% The timer, and what its message is known by: one that fires while it is being cancelled is
    %% not taken for its successor.
    body_timer :: {Timer :: reference(), Name :: reference()} | undefined,
    %% A body whose end is the end of the connection.
    close_delimited = false :: boolean(),
    %% The response goes without a body: HEAD, 204, 304.
    bodiless = false :: boolean(),
    %% The connection is not to be used after this response.
    close :: boolean(),
    %% Response bytes written to the socket and not yet acknowledged to the worker.
    unacked = 0 :: non_neg_integer(),
    %% What is sent as the rest of the body.
    file :: hornbeam_file:file() | undefined,
    %% HTTP/2: what of the response waits for the client's window.
    backlog :: hornbeam_backlog:backlog()
}).

-opaque state() :: #stream{} | handed_over | {websocket, hornbeam_websocket:session()}.

%% Process dictionary of a connection (HTTP/1 only): the stream whose response is due, and the last
%% one that was parked behind it.
-define(CURRENT, hornbeam_current).
-define(LAST_PARKED, hornbeam_last_parked).

%% Of a body that is gathered.
-define(MAX_GATHERED_BYTES, 65536).

%% Pipelined requests that may wait behind the current one; a client that sends more is cut off.
-define(MAX_PIPELINED, 64).
%% How long the end of a request's stream may come behind its body.
-define(END_MS, 1000).

%%% cowboy_stream

-spec init(cowboy_stream:streamid(), cowboy_req:req(), cowboy:opts()) ->
    {cowboy_stream:commands(), state()}.
init(StreamId, Req, Opts) ->
    #{hornbeam := Server, hornbeam_connection := Connection} = Opts,
    Streams = hornbeam_connection:stream_began(Connection),
    Stream = new(StreamId, Req, Server, Connection),
    case hornbeam_http2:is_upgrade(Req) of
        false -> begin_stream(Streams, Req, Stream);
        true -> upgrade(Req, Opts, Stream)
    end.

-spec data(cowboy_stream:streamid(), cowboy_stream:fin(), binary(), state()) ->
    {cowboy_stream:commands(), state()}.
data(_StreamId, IsFin, Data, {websocket, Session}) ->
    websocket(hornbeam_websocket:data(IsFin, Data, Session));
data(_StreamId, _IsFin, _Data, Stream = #stream{phase = over}) ->
    {[], Stream};
data(_StreamId, IsFin, Data, Stream) when Stream#stream.handshake =/= undefined ->
    handshake_data(IsFin, Data, Stream);
data(_StreamId, fin, _Data, Stream = #stream{phase = skipping}) ->
    stop_skipping(Stream);
data(_StreamId, IsFin, <<>>, Stream = #stream{awaits_end = true}) ->
    {[], Stream#stream{awaits_end = IsFin =:= nofin}};
data(_StreamId, nofin, _Data, Stream = #stream{phase = skipping}) ->
    {[], start_body_timer(Stream)};
%% Where trailers follow, Cowboy does not tell of the end.
data(StreamId, nofin, Data, Stream = #stream{body_bytes = Bytes, body_length = Length})
        when Bytes + byte_size(Data) =:= Length ->
    data(StreamId, fin, Data, Stream#stream{awaits_end = true});
data(_StreamId, IsFin, Data, Stream0) ->
    #stream{body_bytes = Bytes0, server = #{max_body := MaxBody}, flow = Flow} = Stream0,
    Bytes = Bytes0 + byte_size(Data),
    _ = IsFin =:= fin andalso hornbeam_flow:is_stopped(Flow) andalso resume(Stream0),
    Stream = Stream0#stream{body_bytes = Bytes,
                            body_complete = IsFin =:= fin,
                            expects_continue = false,
                            flow = hornbeam_flow:received(byte_size(Data), Flow)},
    case Bytes > MaxBody of
        true -> fail(413, <<"the request body is too large">>, Stream);
        false -> forward(Data, Stream)
    end.

-spec info(cowboy_stream:streamid(), term(), state()) -> {cowboy_stream:commands(), state()}.
info(_StreamId, Message, {websocket, Session}) ->
    websocket(hornbeam_websocket:info(Message, Session));
%% Cowboy's `101 Switching Protocols', which is none for the client.
info(_StreamId, _Message, handed_over) ->
    {[], handed_over};
%% HTTP/2, also behind the end: Cowboy begins to queue for want of window, and has sent all of it.
info(_StreamId, {alarm, stream_buffer_full, on}, Stream = #stream{backlog = Backlog}) ->
    {OutBytes, StartTimer} = send_clock(Stream),
    {[], Stream#stream{backlog = hornbeam_backlog:filled(OutBytes, StartTimer, Backlog)}};
info(_StreamId, {alarm, stream_buffer_full, off}, Stream = #stream{backlog = Backlog0}) ->
    {Bytes, Commands, Backlog} = hornbeam_backlog:drained(Backlog0),
    Drained = Stream#stream{backlog = Backlog},
    case Stream#stream.file of
        undefined -> {Commands, acknowledge(Bytes, expect_end(Commands, Drained))};
        _ -> read_part(Drained)
    end;
info(_StreamId, {send_timeout, Name}, Stream = #stream{backlog = Backlog0}) ->
    case hornbeam_backlog:expired(Name, send_clock(Stream), Backlog0) of
        {going, Backlog} -> {[], Stream#stream{backlog = Backlog}};
        stalled -> stalled(Stream)
    end;
info(_StreamId, end_expected, Stream = #stream{phase = over, backlog = Backlog}) ->
    {force_end(hornbeam_backlog:is_full(Backlog), Stream), Stream};
%% Cowboy wants to complete a response that was broken off: it must not look complete.
info(_StreamId, {data, fin, <<>>}, Stream) ->
    {[], Stream};
%% Nor is its own answer, to a body that makes no sense or a fault of ours, like the others.
info(_StreamId, {response, Status, _, _}, Stream = #stream{server = Server, method = Method}) ->
    {response, _, Headers, Body} =
        hornbeam_response:error(Status, <<"the request could not be handled">>, Server),
    Closing = Headers#{<<"connection">> => <<"close">>},
    {[hornbeam_response:whole(Status, Closing, Body, Method)], Stream};
info(_StreamId, {body_timeout, Name}, Stream = #stream{phase = skipping, body_timer = {_, Name}}) ->
    case Stream#stream.awaits_end of
        true -> stop_skipping(Stream);
        false -> cut(Stream#stream{phase = over, body_timer = undefined})
    end;
info(_StreamId, _Message, Stream = #stream{phase = Phase})
        when Phase =:= skipping; Phase =:= over ->
    {[], Stream};
%% `Upgrade: h2c': the request came by HTTP/1.1, its answer goes by HTTP/2, and so does what follows.
%% Nothing may be sent on the stream before Cowboy has sent its settings, which it does next.
info(StreamId, {switch_protocol, _, _, _} = Switch, Stream) ->
    self() ! {{self(), StreamId}, unpark},
    {[Switch], Stream#stream{version = 'HTTP/2'}};
info(_StreamId, unpark, Stream = #stream{phase = parked}) ->
    %% The time behind others does not count: it is not this request's.
    NowMs = erlang:monotonic_time(millisecond),
    unpark(Stream#stream{arrival_ms = NowMs, queue_since_ms = NowMs});
info(_StreamId, {pool, retry}, Stream = #stream{phase = queued}) ->
    dispatch(queued, Stream);
info(_StreamId, {pool, timeout}, Stream = #stream{phase = queued}) ->
    overloaded(Stream);
info(_StreamId, {sent, Bytes0}, Stream0 = #stream{backlog = Backlog0, file = File}) ->
    {Bytes, Backlog} = hornbeam_backlog:sent(Bytes0, Backlog0),
    Stream = Stream0#stream{backlog = Backlog},
    case File of
        undefined -> {[], acknowledge(Bytes, Stream)};
        _ -> read_if_room(Stream)
    end;
info(_StreamId, send_file, Stream = #stream{file = File}) when File =/= undefined ->
    send_part(Stream);
info(_StreamId, {body_timeout, Name}, Stream = #stream{body_timer = {_, Name}}) ->
    fail(408, <<"the request body did not arrive in time">>, Stream#stream{body_timer = undefined});
info(_StreamId, Message, Stream = #stream{request_id = Id})
        when is_tuple(Message), tuple_size(Message) >= 2, element(2, Message) =:= Id ->
    case Stream#stream.version =/= 'HTTP/2' orelse hornbeam_http2:fits(Message) of
        true -> from_worker(Message, Stream);
        false -> headers_too_large(Message, Stream)
    end;
%% Late: of a worker that was replaced, of a timer that was stopped, or after the end.
info(_StreamId, _Message, Stream) ->
    {[], Stream}.

-spec terminate(cowboy_stream:streamid(), cowboy_stream:reason(), state()) -> ok.
terminate(_StreamId, _Reason, handed_over) ->
    ok;
terminate(_StreamId, Reason, {websocket, Session}) ->
    hornbeam_websocket:terminate(Reason, Session);
terminate(StreamId, _Reason, Stream) ->
    #stream{connection = Connection, phase = Phase, server = #{name := Name}} = Stream,
    hornbeam_connection:stream_ended(Connection),
    _ = stop_body_timer(Stream),
    _ = close_file(Stream),
    ok = hornbeam_backlog:stop(Stream#stream.backlog),
    case Phase of
        queued -> hornbeam_pool:leave_queue(Name, {self(), StreamId});
        _ -> ok
    end,
    _ = leave(Stream),
    unpark_next(Stream).

-spec early_error(cowboy_stream:streamid(), cowboy_stream:reason(), cowboy_stream:partial_req(),
                  Response, cowboy:opts()) -> Response
    when Response :: cowboy_stream:resp_command().
early_error(_StreamId, Reason, _PartialReq, {response, Status, Headers, _}, Opts) ->
    #{hornbeam := Server, hornbeam_connection := Connection} = Opts,
    %% Cowboy writes the answer at once: into the response that is under way, or as that to an
    %% earlier request. It must not get there.
    _ = get(?CURRENT) =/= undefined andalso hornbeam_connection:reset(Connection),
    {response, _, Defaults, Body} = hornbeam_response:error(Status, early_text(Reason), Server),
    {response, Status, maps:merge(Defaults, maps:remove(<<"content-length">>, Headers)), Body}.

websocket({Commands, Session}) ->
    {Commands, {websocket, Session}}.

resume(#stream{version = 'HTTP/2'}) -> ok;
resume(#stream{connection = Connection}) -> hornbeam_connection:resume(Connection).

%%% Admission

new(StreamId, Req, Server = #{window := Window}, Connection) ->
    #{method := Method, version := Version, has_body := HasBody, body_length := Length} = Req,
    NowMs = erlang:monotonic_time(millisecond),
    #stream{
        id = StreamId, phase = parked, server = Server, connection = Connection,
        method = Method, version = Version,
        arrival_ms = NowMs, queue_since_ms = NowMs,
        expects_continue = HasBody andalso expects_continue(Req),
        body_complete = not HasBody,
        body_length = Length,
        flow = hornbeam_flow:new(stream_window(Version, Window)),
        close = is_chunked_http1(Req),
        backlog = hornbeam_backlog:new()
    }.

stream_window('HTTP/2', Window) -> hornbeam_http2:stream_window(Window);
stream_window(_, Window) -> Window.

begin_stream(Streams, Req, Stream = #stream{version = 'HTTP/2'}) ->
    ok = hornbeam_connection:is_http2(Stream#stream.connection),
    begin_http2(Streams =< hornbeam_http2:max_streams(), Req, Stream);
begin_stream(_Streams, Req, Stream = #stream{server = Server}) ->
    case hornbeam_scope:check(Req, Server) of
        ok -> admit_kind(Stream, Req);
        {refuse, {Status, Why}} -> refuse(Status, Why, Stream)
    end.

%% Cowboy does not count as long as the client has not acknowledged the settings.
begin_http2(false, _Req, Stream) ->
    overloaded(Stream);
begin_http2(true, Req = #{headers := Headers}, Stream = #stream{id = StreamId, server = Server}) ->
    #{max_header_size := MaxHeaderSize} = Server,
    case hornbeam_scope:check(Req, Server) of
        ok ->
            #{scheme := Scheme} = Stream#stream.connection,
            {Commands, Admitted} = admit_kind(Stream, hornbeam_scope:settled(Req, Scheme)),
            {initial_flow(Admitted) ++ Commands, Admitted};
        {refuse, {Status, Why}} ->
            _ = hornbeam_http2:is_bomb(Headers, MaxHeaderSize) andalso
                hornbeam_connection:calm(Stream#stream.connection, StreamId),
            refuse(Status, Why, Stream)
    end.

%% What the client may send anyway, so that Cowboy's count and ours are one.
initial_flow(#stream{body_complete = true}) -> [];
initial_flow(#stream{server = #{window := Window}}) -> [{flow, hornbeam_http2:stream_window(Window)}].

%% Cowboy is about to change to HTTP/2 and calls this before it says so to the client. A request
%% that is not to change is answered by HTTP/1.1, and is the last of its connection. So is one with
%% a body, which Cowboy would take for the preface; what is there of it can't be had.
upgrade(Req = #{has_body := HasBody}, Opts, Stream0 = #stream{server = Server}) ->
    %% A response that is still due would never come.
    _ = get(?CURRENT) =/= undefined andalso hornbeam_connection:abandon(),
    #{http_version := Versions} = Server,
    Stream = Stream0#stream{scope = scope(Req, Stream0), close = true},
    case {hornbeam_scope:check(Req, Server), HasBody, lists:member('HTTP/2', Versions)} of
        {ok, false, true} ->
            {[], Stream#stream{close = false}};
        {ok, false, false} ->
            answer_here(Req, Opts, {[], Stream});
        {ok, true, _} ->
            Why = <<"a request with a body can not change the protocol">>,
            answer_here(Req, Opts, refuse(400, Why, Stream));
        {{refuse, {Status, Why}}, _, _} ->
            answer_here(Req, Opts, refuse(Status, Why, Stream))
    end.

-spec answer_here(cowboy_req:req(), cowboy:opts(), {cowboy_stream:commands(), #stream{}}) ->
    no_return().
answer_here(Req, Opts, {Commands, Stream}) ->
    #{method := Method, ref := Ref} = Req,
    #stream{id = StreamId, connection = #{socket := Socket, transport := Transport}} = Stream,
    Start = #{stream_id => StreamId, stream => Stream, method => Method,
              takes_trailers => hornbeam_scope:takes_trailers(Req),
              kind => bodiless, commands => Commands},
    [Parent | _] = get('$ancestors'),
    hornbeam_takeover:takeover(Parent, Ref, Socket, Transport, Opts, <<>>, Start).

admit_kind(Stream, Req) ->
    case hornbeam_websocket:check(Req) of
        no_websocket ->
            admit(Stream, Req);
        Handshake ->
            #stream{server = #{name := Name}} = Stream,
            admit_handshake(hornbeam_selection:worker_class(Name), Handshake, Stream, Req)
    end.

%% A WSGI application has no WebSockets: it may answer without one, as it is asked by HTTP/1.
admit_handshake(wsgi, _, Stream = #stream{version = 'HTTP/1.1'}, Req) ->
    admit(Stream, Req);
admit_handshake(wsgi, _, Stream, _Req) ->
    refuse(501, <<"this application has no WebSockets">>, Stream);
admit_handshake(_, {ok, Handshake}, Stream = #stream{version = Version}, Req) ->
    admit(Stream#stream{handshake = Handshake, close = Version =/= 'HTTP/2'}, Req);
admit_handshake(_, {refuse, {Status, Why, Headers}}, Stream, _Req) ->
    refuse(Status, Why, Headers, Stream).

admit(Stream0 = #stream{id = StreamId}, Req) ->
    Stream = Stream0#stream{scope = scope(Req, Stream0)},
    case Stream#stream.version =:= 'HTTP/2' orelse get(?CURRENT) of
        true ->
            gather_or_dispatch(Stream);
        undefined ->
            put(?CURRENT, StreamId),
            dispatch_or_hand_over(Stream, Req);
        _ ->
            park(is_too_far_ahead(StreamId), Stream)
    end.

scope(Req, #stream{handshake = Handshake, connection = Connection}) ->
    #{client := Client, server := Address, via := Via, tls := Tls} = Connection,
    Plain = hornbeam_scope:with_tls(hornbeam_scope:new(Req, Client, Address), Tls),
    Scope = hornbeam_proxy:scope(Plain, Via),
    case Handshake of
        undefined -> Scope;
        _ -> hornbeam_scope:of_websocket(Scope)
    end.

dispatch_or_hand_over(Stream = #stream{handshake = Handshake}, _) when Handshake =/= undefined ->
    hand_over(websocket, false, Stream);
dispatch_or_hand_over(Stream = #stream{body_complete = false, body_length = undefined}, Req) ->
    hand_over(chunked, hornbeam_scope:takes_trailers(Req), Stream);
dispatch_or_hand_over(Stream, _) ->
    gather_or_dispatch(Stream).

hand_over(Kind, TakesTrailers, Stream = #stream{id = StreamId, method = Method}) ->
    %% There is only this stream now.
    _ = erase(?CURRENT),
    %% Copied, or it would keep the 16 KiB that it was read with for as long as a WebSocket is open.
    Start = #{stream_id => StreamId, stream => Stream, kind => Kind,
              method => binary:copy(Method), takes_trailers => TakesTrailers},
    {[{switch_protocol, #{}, hornbeam_takeover, Start}], handed_over}.

park(true, Stream) ->
    hornbeam_connection:cut(Stream#stream.connection),
    {[], Stream#stream{phase = over}};
%% It can't be handed over before its turn, and Cowboy must not get to the chunks until then.
park(false, Stream = #stream{body_complete = false, body_length = undefined}) ->
    hornbeam_connection:abandon(),
    {[], Stream};
park(false, Stream) ->
    put(?LAST_PARKED, Stream#stream.id),
    {[], Stream#stream{phase = parked}}.

is_too_far_ahead(StreamId) ->
    case get(?CURRENT) of
        undefined -> false;
        Current -> StreamId - Current > ?MAX_PIPELINED
    end.

expects_continue(#{version := 'HTTP/1.0'}) -> false;
expects_continue(#{headers := #{<<"expect">> := Expect}}) ->
    string:lowercase(Expect) =:= <<"100-continue">>;
expects_continue(_) -> false.

is_chunked_http1(#{version := Version, has_body := true, body_length := undefined}) ->
    Version =/= 'HTTP/2';
is_chunked_http1(_) ->
    false.

%% Of a connection that was taken over nothing is current.
unpark(Stream = #stream{id = StreamId, handshake = Handshake, version = Version})
        when Handshake =/= undefined, Version =/= 'HTTP/2' ->
    case {get(?CURRENT), get(?LAST_PARKED)} of
        {StreamId, StreamId} -> dispatch_or_hand_over(Stream, #{});
        {StreamId, _} -> refuse(400, <<"a request behind a WebSocket's handshake">>, Stream);
        _ -> dispatch(new, Stream)
    end;
unpark(Stream) ->
    gather_or_dispatch(Stream).

unpark_next(#stream{version = 'HTTP/2'}) ->
    ok;
unpark_next(#stream{id = StreamId}) ->
    case get(?CURRENT) of
        StreamId ->
            Next = StreamId + 1,
            case get(?LAST_PARKED) of
                Last when is_integer(Last), Next =< Last ->
                    put(?CURRENT, Next),
                    self() ! {{self(), Next}, unpark},
                    ok;
                _ ->
                    _ = erase(?CURRENT),
                    ok
            end;
        _ ->
            ok
    end.

%%% Dispatch

gather_or_dispatch(Stream = #stream{body_complete = true}) ->
    dispatch(new, Stream);
gather_or_dispatch(Stream = #stream{server = #{name := Name}}) ->
    case hornbeam_selection:gathers_bodies(Name) of
        true -> gather(Stream#stream{phase = gathering});
        false -> dispatch(new, Stream)
    end.

gather(Stream = #stream{body_complete = Complete, body_bytes = Bytes, version = Version}) ->
    #stream{server = #{window := Window}} = Stream,
    %% What may come unread is the limit, too: for the rest the client would wait in vain.
    case Complete orelse Bytes >= min(stream_window(Version, Window), ?MAX_GATHERED_BYTES) of
        true ->
            %% The time of a slow client is not the application's.
            NowMs = erlang:monotonic_time(millisecond),
            dispatch(new, (stop_body_timer(Stream))#stream{arrival_ms = NowMs,
                                                           queue_since_ms = NowMs});
        false ->
            ask_for_body(Stream)
    end.

ask_for_body(Stream = #stream{expects_continue = true}) ->
    {[{inform, 100, #{}}], start_body_timer(Stream#stream{expects_continue = false})};
ask_for_body(Stream) ->
    {[], start_body_timer(Stream)}.

dispatch(Turn, Stream = #stream{server = #{name := Name}}) ->
    case hornbeam_selection:checkout(Name, Turn) of
        {ok, Worker} -> dispatch_to(Worker, Turn, Stream);
        full -> enqueue(Turn, Stream);
        down -> overloaded(Stream)
    end.

dispatch_to(Worker = {Pid, Writer, Routes, Load}, Turn, Stream) ->
    #stream{id = StreamId, server = #{name := Name}} = Stream,
    Id = hornbeam_load:next_request_id(Load),
    Inserted = hornbeam_routes:insert(Routes, Id, {self(), StreamId}, Stream#stream.arrival_ms),
    %% After the insertion: if the worker is alive now, the pool finds the route when it dies.
    case Inserted andalso is_process_alive(Pid) of
        true ->
            {Message, Held} = request(Id, Stream),
            hornbeam_writer:send(Writer, hornbeam_protocol:encode(Message)),
            {[], Stream#stream{phase = dispatched, worker = Worker, request_id = Id,
                               scope = kept_scope(Stream), held = Held}};
        false ->
            hornbeam_pool:release(Name, Load),
            enqueue(Turn, Stream)
    end.

%% The message, and what is still held after it.
request(Id, #stream{handshake = undefined, scope = Scope, held = Held, body_complete = Complete}) ->
    {{request, Id, Scope, iolist_to_binary(lists:reverse(Held)), not Complete}, []};
request(Id, #stream{handshake = Handshake, scope = Scope, held = Held}) ->
    {{websocket, Id, Scope, hornbeam_ws_handshake:subprotocols(Handshake)}, Held}.

enqueue(Turn, Stream = #stream{id = StreamId, queue_since_ms = SinceMs, server = Server}) ->
    #{name := Name} = Server,
    case hornbeam_pool:enqueue(Name, {self(), StreamId}, SinceMs, Turn) of
        ok -> {[], Stream#stream{phase = queued}};
        full -> overloaded(Stream);
        down -> overloaded(Stream)
    end.

%% RFC 9110 9.2.2: these may be sent again when a worker dies before it has answered. With a body
%% they are not: it has gone with the worker.
kept_scope(Stream = #stream{scope = Scope}) ->
    case may_retry(Stream) of
        true -> Scope;
        false -> undefined
    end.

may_retry(#stream{retried = true}) -> false;
may_retry(#stream{server = #{retry := false}}) -> false;
may_retry(#stream{handshake = Handshake}) when Handshake =/= undefined -> true;
may_retry(#stream{body_complete = false}) -> false;
may_retry(#stream{body_bytes = Bytes}) when Bytes > 0 -> false;
may_retry(#stream{method = Method}) ->
    Method =:= <<"GET">> orelse Method =:= <<"HEAD">> orelse Method =:= <<"OPTIONS">>.

%%% From the worker

from_worker({response, _, Status, Headers, Body}, Stream = #stream{phase = dispatched}) ->
    #stream{method = Method} = Stream,
    Command = hornbeam_response:whole(Status, response_headers(Headers, Stream), Body, Method),
    finish([Command], Stream);
from_worker({start, _, Status, Headers, Body}, Stream0 = #stream{phase = dispatched}) ->
    #stream{method = Method} = Stream0,
    Map = hornbeam_response:streamed(Status, response_headers(Headers, Stream0)),
    Stream = Stream0#stream{
        phase = started, scope = undefined,
        bodiless = not hornbeam_response:has_body(Status, Method),
        close_delimited = is_close_delimited(Map, Stream0)
    },
    {Commands, Sent} = body(nofin, Body, Stream),
    {[head(hornbeam_response:status(Status), Map, Stream) | Commands], Sent};
from_worker({accept, _, Subprotocol, Headers}, Stream = #stream{phase = dispatched})
        when Stream#stream.handshake =/= undefined ->
    accept(Subprotocol, Headers, Stream);
from_worker({data, _, Data}, Stream = #stream{phase = started}) ->
    body(nofin, Data, Stream);
from_worker({last, _, Data}, Stream = #stream{phase = started}) ->
    {Commands, Sent} = body(fin, Data, Stream),
    finish(Commands, Sent);
from_worker({trailers, _, _}, Stream = #stream{phase = started, bodiless = true}) ->
    {Commands, Sent} = body(fin, <<>>, Stream),
    finish(Commands, Sent);
from_worker({trailers, _, Headers}, Stream = #stream{phase = started, backlog = Backlog}) ->
    {Commands, Finished} = finish([{trailers, hornbeam_response:trailers(Headers)}], Stream),
    case hornbeam_backlog:is_full(Backlog) of
        true -> {[], Finished#stream{backlog = hornbeam_backlog:hold(Commands, Backlog)}};
        false -> {Commands, expect_end(Commands, Finished)}
    end;
from_worker({file, _, {Status, Headers}, Path, Offset, Bytes},
            Stream = #stream{phase = dispatched}) ->
    open_file({Status, response_headers(Headers, Stream)}, {Path, Offset, Bytes}, Stream);
from_worker({file, _, undefined, Path, Offset, Bytes}, Stream = #stream{phase = started}) ->
    open_file(undefined, {Path, Offset, Bytes}, Stream);
from_worker({inform, _, Status, Headers}, Stream = #stream{phase = dispatched}) ->
    {[{inform, hornbeam_response:status(Status), hornbeam_response:trailers(Headers)}], Stream};
from_worker({credit, _, Bytes}, Stream = #stream{flow = Flow0}) ->
    {Commands, Flow} = hornbeam_flow:credit(Bytes, Flow0),
    {Commands, Stream#stream{flow = Flow}};
from_worker({waiting, _, Received}, Stream = #stream{body_bytes = Received}) ->
    waiting(Stream);
%% More was on its way to the worker than it had when it said so.
from_worker({waiting, _, _}, Stream) ->
    {[], Stream};
from_worker({abort, _}, Stream) ->
    fail(500, <<"Internal Server Error">>, Stream);
from_worker({timeout, _}, Stream) ->
    fail(504, <<"the application did not answer in time">>, Stream);
from_worker({worker_down, _}, Stream) ->
    worker_down(Stream);
%% It had to end before this request was over.
from_worker({worker_replaced, _}, Stream) ->
    worker_down(Stream);
from_worker(_, Stream) ->
    {[], Stream}.

accept(Subprotocol, Headers, Stream = #stream{id = StreamId, server = Server}) ->
    #stream{request_id = Id, worker = Worker, connection = Connection, version = Version,
            handshake = Handshake, flow = Flow, held = Early} = Stream,
    Start = #{key => {self(), StreamId}, request_id => Id, worker => Worker,
              connection => Connection, handshake => Handshake, flow => Flow, early => Early},
    Map = hornbeam_response:headers(Headers, Version, Server),
    websocket(hornbeam_websocket:accept(Subprotocol, Map, Start, Server)).

%% What a client sends behind its handshake is for the session, if there is to be one. One that ends
%% its HTTP/2 stream has gone.
handshake_data(fin, _, Stream = #stream{phase = started}) ->
    {[], Stream};
handshake_data(fin, _, Stream) ->
    fail(400, <<"the stream was ended before the handshake">>, Stream);
handshake_data(nofin, Data, Stream = #stream{held = Held, flow = Flow}) ->
    {[], Stream#stream{held = [Data | Held],
                       flow = hornbeam_flow:received(byte_size(Data), Flow)}}.

%% A client that was never told to continue may not send its body at all: what follows on the
%% connection could be either.
response_headers(Headers, Stream = #stream{version = Version, server = Server}) ->
    Map = hornbeam_response:headers(Headers, Version, Server),
    case Stream#stream.close orelse Stream#stream.expects_continue of
        true -> Map#{<<"connection">> => <<"close">>};
        false -> Map
    end.

is_close_delimited(#{<<"content-length">> := _}, _) -> false;
is_close_delimited(_, #stream{version = Version}) -> Version =:= 'HTTP/1.0'.

%% On HTTP/2 the head ends a stream that has no body: Cowboy sends it so for HEAD in any case, and
%% an end of its own would come on top of that.
head(Status, Headers, #stream{version = 'HTTP/2', bodiless = true}) ->
    {response, Status, Headers, <<>>};
head(Status, Headers, _) ->
    {headers, Status, Headers}.

%% Bytes of a body that the client does not get are acknowledged like others: the application
%% should not have to know.
body(IsFin, Data, Stream = #stream{bodiless = true, version = Version}) ->
    Commands = case IsFin of
        fin when Version =/= 'HTTP/2' -> [{data, fin, <<>>}];
        _ -> []
    end,
    {Commands, acknowledge(byte_size(Data), Stream)};
body(nofin, <<>>, Stream) ->
    {[], Stream};
body(fin, <<>>, Stream) ->
    Commands = [{data, fin, <<>>}],
    {Commands, expect_end(Commands, Stream)};
body(IsFin, Data, Stream = #stream{unacked = Unacked0, id = StreamId}) ->
    #stream{server = #{window := Window}} = Stream,
    Unacked = Unacked0 + byte_size(Data),
    case Unacked >= Window div 4 andalso IsFin =:= nofin of
        true ->
            %% Comes back after Cowboy has carried out the command below.
            self() ! {{self(), StreamId}, {sent, Unacked}},
            {[{data, IsFin, Data}], Stream#stream{unacked = 0}};
        false ->
            {[{data, IsFin, Data}], Stream#stream{unacked = Unacked}}
    end.

%% Cowboy queues the end of a body also where nothing but its window is missing, which an end does
%% not need, and forgets it there. Where the stream lives after the commands, that is the case.
expect_end([_ | _], Stream = #stream{version = 'HTTP/2', id = StreamId}) ->
    self() ! {{self(), StreamId}, end_expected},
    Stream;
expect_end(_, Stream) ->
    Stream.

force_end(true, _Stream) ->
    [];
force_end(false, #stream{id = StreamId, connection = Connection, body_complete = Complete}) ->
    ok = hornbeam_connection:end_stream(Connection, StreamId, Complete),
    [{internal_error, ended, 'The response has ended.'}].

%% What hornbeam_backlog measures the client by.
send_clock(#stream{id = StreamId, connection = Connection, server = Server}) ->
    #{send_timeout := TimeoutMs} = Server,
    StartTimer = fun
        (_) when TimeoutMs =:= infinity ->
            undefined;
        (Name) ->
            erlang:send_after(TimeoutMs, self(), {{self(), StreamId}, {send_timeout, Name}})
    end,
    {hornbeam_connection:out_bytes(Connection), StartTimer}.

stalled(Stream = #stream{phase = started}) ->
    fail(408, <<"the client does not take the response">>, Stream);
stalled(Stream) ->
    cut(Stream).

acknowledge(0, Stream) ->
    Stream;
acknowledge(Bytes, Stream) ->
    tell_worker({ack, Stream#stream.request_id, Bytes}, Stream).

%%% Files

%% Until the file is open nothing has been sent that promises it: the application can still do something
%% else.
open_file(Head, {Path, Offset, Bytes}, Stream = #stream{request_id = Id}) ->
    case hornbeam_file:open(Path, Offset, Bytes) of
        {error, {Reason, Size}} ->
            {[], tell_worker({refused, Id, Reason, Size}, Stream)};
        {whole, Data} ->
            send_whole(Head, Data, opened(undefined, Stream));
        {ok, File, Length} ->
            send_file(Head, Length, opened(File, Stream))
    end.

opened(File, Stream0 = #stream{request_id = Id, worker = {_, _, Routes, _}}) ->
    Stream = tell_worker({opened, Id}, Stream0),
    _ = hornbeam_routes:detach(Routes, Id),
    Stream#stream{worker = undefined, request_id = undefined, scope = undefined, file = File}.

send_whole({Status, Headers}, Data, Stream = #stream{method = Method}) ->
    Map = hornbeam_response:sized(Status, Headers, byte_size(Data)),
    finish([hornbeam_response:whole(Status, Map, Data, Method)], Stream);
send_whole(undefined, Data, Stream) ->
    {Commands, Sent} = body(fin, Data, Stream),
    finish(Commands, Sent).

send_file({Status, Headers}, Length, Stream = #stream{method = Method, connection = Connection}) ->
    Map = hornbeam_response:sized(Status, Headers, Length),
    Started = Stream#stream{phase = started},
    case hornbeam_response:has_body(Status, Method) of
        false ->
            finish([hornbeam_response:whole(Status, Map, <<>>, Method)], close_file(Started));
        true when Stream#stream.version =/= 'HTTP/2', map_get(transport, Connection) =:= ranch_tcp ->
            %% For Cowboy the response is complete: the body is written behind its back.
            self() ! {{self(), Stream#stream.id}, send_file},
            {[{response, hornbeam_response:status(Status), Map, <<>>}], watch_file(Started)};
        true ->
            {Commands, Read} = read_part(Started),
            {[{headers, hornbeam_response:status(Status), Map} | Commands], Read}
    end;
send_file(undefined, _, Stream = #stream{bodiless = true}) ->
    {Commands, Sent} = body(fin, <<>>, close_file(Stream)),
    finish(Commands, Sent);
send_file(undefined, _, Stream) ->
    read_part(Stream).

watch_file(Stream = #stream{file = File, connection = #{socket := Socket}, server = Server}) ->
    #{send_timeout := TimeoutMs} = Server,
    Stream#stream{file = hornbeam_file:watch(Socket, TimeoutMs, File)}.

send_part(Stream = #stream{id = StreamId, file = File0, connection = #{socket := Socket}}) ->
    case hornbeam_file:send(Socket, File0) of
        {more, File} ->
            self() ! {{self(), StreamId}, send_file},
            {[], Stream#stream{file = File}};
        complete ->
            finish([], close_file(Stream));
        closed ->
            cut(Stream#stream{phase = over});
        {failed, Why} ->
            fail(500, Why, Stream)
    end.

%% On HTTP/2 the next part waits until Cowboy has sent the last one.
read_if_room(Stream = #stream{backlog = Backlog}) ->
    case hornbeam_backlog:is_full(Backlog) of
        true -> {[], Stream};
        false -> read_part(Stream)
    end.

read_part(Stream = #stream{file = File0}) ->
    case hornbeam_file:read(File0) of
        {nofin, Data, File} ->
            case body(nofin, Data, Stream#stream{file = File}) of
                %% That it was sent is told later, and brings the next part.
                {Commands, Sent = #stream{unacked = 0}} -> {Commands, Sent};
                {Commands, Sent} -> {Commands, ask_for_part(Sent)}
            end;
        {fin, Data} ->
            {Commands, Sent} = body(fin, Data, close_file(Stream)),
            finish(Commands, Sent);
        {failed, Why} ->
            fail(500, Why, Stream)
    end.

ask_for_part(Stream = #stream{id = StreamId, unacked = Unacked}) ->
    self() ! {{self(), StreamId}, {sent, Unacked}},
    Stream#stream{unacked = 0}.

close_file(Stream = #stream{file = undefined}) ->
    Stream;
close_file(Stream = #stream{file = File}) ->
    ok = hornbeam_file:close(File),
    Stream#stream{file = undefined}.

%% The application waits for body: the client is told to send, and has `body_timeout' to do so.
%% After the head of the final response it is too late to tell.
waiting(Stream = #stream{body_complete = true}) ->
    {[], Stream};
waiting(Stream = #stream{expects_continue = true, phase = Phase}) when Phase =/= dispatched ->
    {[], start_body_timer(Stream)};
waiting(Stream) ->
    ask_for_body(Stream).

start_body_timer(Stream = #stream{server = #{body_timeout := infinity}}) ->
    Stream;
start_body_timer(Stream = #stream{server = #{body_timeout := TimeoutMs}}) ->
    start_body_timer(TimeoutMs, Stream).

start_body_timer(TimeoutMs, Stream = #stream{id = StreamId}) ->
    Stopped = stop_body_timer(Stream),
    Name = make_ref(),
    Message = {{self(), StreamId}, {body_timeout, Name}},
    Stopped#stream{body_timer = {erlang:send_after(TimeoutMs, self(), Message), Name}}.

stop_body_timer(Stream = #stream{body_timer = undefined}) ->
    Stream;
stop_body_timer(Stream = #stream{body_timer = {Timer, _}}) ->
    _ = erlang:cancel_timer(Timer, [{async, true}, {info, false}]),
    Stream#stream{body_timer = undefined}.

worker_down(Stream = #stream{phase = dispatched, scope = Scope}) when Scope =/= undefined ->
    %% The route went with the worker.
    dispatch(queued, Stream#stream{retried = true, worker = undefined, request_id = undefined,
                                   queue_since_ms = erlang:monotonic_time(millisecond)});
worker_down(Stream) ->
    fail(502, <<"the worker that served this request has ended">>,
         Stream#stream{worker = undefined}).

%%% To the worker

forward(Data, Stream = #stream{phase = Phase, held = Held}) when Phase =:= parked; Phase =:= queued ->
    {[], Stream#stream{held = [Data | Held]}};
forward(Data, Stream = #stream{phase = gathering, held = Held}) ->
    gather(Stream#stream{held = [Data | Held]});
forward(Data, Stream = #stream{request_id = Id, body_complete = Complete}) ->
    {[], tell_worker({body, Id, Data, not Complete}, stop_body_timer(Stream))}.

tell_worker(_Message, Stream = #stream{worker = undefined}) ->
    Stream;
tell_worker(Message, Stream = #stream{worker = {_, Writer, _, _}}) ->
    ok = hornbeam_writer:send(Writer, hornbeam_protocol:encode(Message)),
    Stream.

%% This stream listens no more. The worker need not be told after a whole response: it knows.
leave(Stream = #stream{worker = undefined}) ->
    Stream;
leave(Stream = #stream{worker = {_, _, Routes, _}, request_id = Id, phase = Phase}) ->
    _ = hornbeam_routes:detach(Routes, Id) andalso Phase =/= over andalso
        tell_worker({disconnect, Id}, Stream),
    Stream#stream{worker = undefined}.

%%% Ends

%% A response that ends well.
finish(Commands, Stream = #stream{awaits_end = true}) ->
    %% Stopped now, the stream would be reset.
    Left = leave(Stream#stream{phase = over}),
    {Commands, start_body_timer(?END_MS, Left#stream{phase = skipping})};
finish(Commands, Stream = #stream{body_complete = true}) ->
    {Commands ++ [stop], Stream#stream{phase = over}};
finish(Commands, Stream = #stream{flow = Flow}) ->
    case may_skip(Stream) of
        true ->
            %% Not left to Cowboy, which does not look at what it has read behind the body.
            #stream{server = #{max_skipped := MaxSkipped}} = Stream,
            Left = leave(Stream#stream{phase = over}),
            {Commands ++ [{flow, MaxSkipped}],
             start_body_timer(Left#stream{phase = skipping})};
        false ->
            %% Where Cowboy waits for credit it would not see the client leave.
            {Commands ++ hornbeam_flow:resume(Flow) ++ [stop], Stream#stream{phase = over}}
    end.

stop_skipping(Stream) ->
    {[stop], expect_end([stop], stop_body_timer(Stream#stream{phase = over}))}.

%% Whether the connection can go on behind the rest of the body.
may_skip(#stream{version = 'HTTP/2'}) -> false;
may_skip(#stream{close = true}) -> false;
may_skip(#stream{expects_continue = true}) -> false;
may_skip(#stream{body_length = Length, body_bytes = Bytes, server = #{max_skipped := Max}}) ->
    is_integer(Length) andalso Length - Bytes =< Max.

headers_too_large(Message, Stream = #stream{request_id = Id}) ->
    ?LOG_ERROR(#{what => headers_too_large, message => element(1, Message), request_id => Id}),
    fail(500, <<"Internal Server Error">>, Stream).

%% A response that cannot be: an error where nothing has been sent, a cut where something has.
fail(Status, Text, Stream = #stream{phase = started}) ->
    ?LOG_INFO(#{what => response_cut, status => Status, why => Text,
                request_id => Stream#stream.request_id}),
    Left = leave(Stream),
    cut(Left#stream{phase = over});
fail(Status, Text, Stream) ->
    Left = leave(Stream),
    refuse(Status, Text, Left).

cut(Stream = #stream{version = 'HTTP/2'}) ->
    {[{internal_error, response_cut, 'The response could not be completed.'}], Stream};
cut(Stream = #stream{connection = Connection, close_delimited = true}) ->
    hornbeam_connection:reset(Connection),
    {[], Stream};
cut(Stream = #stream{connection = Connection}) ->
    hornbeam_connection:cut(Connection),
    {[], Stream}.

overloaded(Stream = #stream{server = Server}) ->
    {response, Status, Headers, Body} =
        hornbeam_response:error(503, <<"all workers are busy">>, Server),
    answer({response, Status, Headers#{<<"retry-after">> => <<"1">>}, Body}, Stream).

refuse(Status, Text, Stream) ->
    refuse(Status, Text, #{}, Stream).

refuse(Status, Text, More, Stream = #stream{server = Server}) ->
    {response, _, Headers, Body} = hornbeam_response:error(Status, Text, Server),
    answer({response, Status, maps:merge(Headers, More), Body}, Stream).

%% An answer of the server itself. The connection ends with it where the request was at fault or
%% its body is not all there.
answer({response, Status, Headers0, Body}, Stream) ->
    #stream{method = Method, close = Close0, body_complete = Complete} = Stream,
    Close = Close0 orelse not Complete orelse ends_connection(Status),
    Headers = case Close of
        true -> Headers0#{<<"connection">> => <<"close">>};
        false -> Headers0
    end,
    finish([hornbeam_response:whole(Status, Headers, Body, Method)], Stream#stream{close = Close}).

ends_connection(Status) ->
    Status =:= 400 orelse Status =:= 408 orelse Status =:= 413 orelse Status =:= 414
        orelse Status =:= 431 orelse Status =:= 505.

early_text({_, _, Why}) when is_atom(Why) -> atom_to_binary(Why);
early_text(_) -> <<"the request could not be read">>.
