%% SPDX-License-Identifier: Apache-2.0

%% @private One WebSocket, from the acceptance of its handshake on.
%%
%% A state machine that is driven as a Cowboy stream: what comes goes in, commands come out. So the
%% same code runs under Cowboy's HTTP/2 and under {@link hornbeam_takeover} for HTTP/1.1. What it
%% does beside its commands are messages: to the worker, and to itself. Phases:
%%
%% <ul>
%% <li>`open': messages go both ways.</li>
%% <li>`failing': the client has broken the protocol. Nothing that it sends counts any more, but
%%   for a bounded time the application may answer what came before. Our close frame ends it.</li>
%% <li>`closing': our close frame is sent, that of the client is awaited for a bounded time; what
%%   else it sends is dropped.</li>
%% <li>`answered': both are said, ours waits behind what an HTTP/2 client has not yet read.</li>
%% <li>`over': the last command was given.</li>
%% </ul>
%%
%% The worker gets `closed' once, after every message that was for it, and never after its own
%% death. It has the code that the client sent, or the one that the node has closed with, or 1006
%% where the client has gone without a word or says nothing any more.
%%
%% Flow control. To the worker: see {@link hornbeam_ws_inbox}; while it is full nothing is read. An
%% incomplete message does not count. To the client: `sent', a message to ourselves, comes back
%% after the write (which blocks while an HTTP/1 client does not read), and then the bytes are
%% acknowledged; on HTTP/2 not before the client has taken them, see {@link hornbeam_backlog}.
%%
%% Topics. {@link hornbeam_fanout} sends frames that are ready to be written. It is told of each
%% when it is written; on HTTP/1, where that is done next, just before, because of thousands of
%% sessions that get one frame each, a message to itself would be a good part of their work.
%%
%% Time. One timer serves `websocket_ping' and `websocket_timeout': it is not moved when something
%% comes, but looks, when it fires, at when that was.
-module(hornbeam_websocket).

%% API
-export([check/1]).
-export([accept/4]).
-export([data/3]).
-export([info/2]).
-export([terminate/2]).

-export_type([start/0, settings/0, session/0]).

-type settings() :: #{
    name := atom(),
    window := pos_integer(),
    send_timeout := timeout(),
    websocket_timeout := timeout(),
    websocket_ping := timeout(),
    websocket_max_frame_size := pos_integer() | infinity,
    websocket_compress := boolean(),
    _ => _
}.

-type start() :: #{
    key := hornbeam_routes:stream_key(),
    request_id := hornbeam_protocol:request_id(),
    worker := hornbeam_selection:worker(),
    connection := hornbeam_connection:context(),
    handshake := hornbeam_ws_handshake:handshake(),
    flow := hornbeam_flow:flow(),
    %% What the client has sent behind its handshake, last first.
    early := [binary()]
}.

-record(session, {
    key :: hornbeam_routes:stream_key(),
    request_id :: hornbeam_protocol:request_id(),
    %% Undefined once the worker is gone.
    writer :: pid() | undefined,
    routes :: hornbeam_routes:routes(),
    connection :: hornbeam_connection:context(),
    phase = open :: open | failing | closing | answered | over,
    %% What the client did wrong, while `failing'.
    failure :: {close_code(), Why :: binary()} | undefined,
    %% The worker knows that it is closed.
    told = false :: boolean(),
    inbox :: hornbeam_ws_inbox:inbox(),
    %% What the step under way has for the client.
    out = [] :: iolist(),
    window :: pos_integer(),
    flow :: hornbeam_flow:flow(),
    %% Bytes of messages given to Cowboy and not acknowledged, and whether `sent' is on its way.
    unacked = 0 :: non_neg_integer(),
    is_sent_due = false :: boolean(),
    %% HTTP/1: what is to be written is, before the next message is looked at.
    writes_at_once = false :: boolean(),
    %% Whether hornbeam_fanout knows this one, and its frames that were given to Cowboy, last first.
    is_attached = false :: boolean(),
    fanned = [] :: [hornbeam_fanout:ref()],
    %% HTTP/2: what waits for the client's window, and how much of that are pongs.
    backlog = hornbeam_backlog:new() :: hornbeam_backlog:backlog(),
    pong_bytes = 0 :: non_neg_integer(),
    send_timeout_ms :: timeout(),
    %% When something came last, and when the next ping is due.
    received_ms :: integer(),
    ping_due_ms :: integer() | infinity,
    ping_ms :: timeout(),
    timeout_ms :: timeout(),
    timer :: reference() | undefined
}).

-opaque session() :: #session{}.

-type close_code() :: hornbeam_ws_frames:close_code().

%% How long a client may take to answer a close frame, or to end the connection after it.
-define(CLOSE_TIMEOUT_MS, 5000).
%% How long an application may take to answer what came before a fault of the client.
-define(ANSWER_TIMEOUT_MS, 1000).

%%% API

%% @doc Whether a request is a WebSocket's handshake, and one to hand on.
-spec check(hornbeam_request:incoming()) ->
    no_websocket
  | {ok, hornbeam_ws_handshake:handshake()}
  | {refuse, {Status :: 400..599, Why :: binary(), cowboy:http_headers()}}.
check(Req) ->
    case hornbeam_ws_handshake:is_request(Req) of
        true -> check_stream(Req);
        %% RFC 9220 3.
        false when is_map_key(protocol, Req) -> {refuse, {501, <<"an unknown protocol">>, #{}}};
        false -> no_websocket
    end.

check_stream(#{version := 'HTTP/2', has_body := false}) ->
    {refuse, {400, <<"the stream was ended before the handshake">>, #{}}};
check_stream(Req) ->
    hornbeam_ws_handshake:check(Req).

%% @doc The application has accepted: the response to the handshake, and what follows it.
-spec accept(Subprotocol :: binary() | undefined, cowboy:http_headers(), start(), settings()) ->
    {cowboy_stream:commands(), session()}.
accept(Subprotocol, Headers0, Start = #{handshake := Handshake}, Settings) ->
    #{websocket_compress := Compress} = Settings,
    {Status, Headers, Deflate} = hornbeam_ws_handshake:accept(
        Handshake, Subprotocol, Headers0, #{compress => Compress}),
    New = new(Deflate, Start, Settings),
    {Commands, Session} = open(New#session{writes_at_once = Status =:= 101}, Start, Settings),
    {[{headers, Status, Headers} | Commands], Session}.

open(New, #{early := Early}, #{name := Name}) ->
    Session0 = schedule(New),
    Session = case hornbeam_selection:is_stopping(Name) of
        true -> going_away(Session0);
        false -> Session0
    end,
    commands(lists:foldr(fun take/2, Session, Early)).

%% @doc Bytes of the client; `fin' where it has ended an HTTP/2 stream.
-spec data(cowboy_stream:fin(), binary(), session()) -> {cowboy_stream:commands(), session()}.
data(_, _, Session = #session{phase = over}) ->
    {[], Session};
data(IsFin, Data, Session0 = #session{flow = Flow}) ->
    Session = take(Data, Session0#session{received_ms = now_ms(),
                                          flow = hornbeam_flow:received(byte_size(Data), Flow)}),
    case IsFin of
        nofin -> commands(Session);
        %% RFC 8441 5: the same as a TCP connection that is closed.
        fin -> commands(over(vanished(1006, Session)))
    end.

%% @doc A message of the worker, of the session to itself, of the server or of Cowboy.
-spec info(term(), session()) -> {cowboy_stream:commands(), session()}.
info({fanout, Ref, Frame}, Session = #session{phase = open, writes_at_once = true}) ->
    ok = hornbeam_fanout:taken(Ref),
    {[{data, nofin, Frame}], Session};
info(Message, Session = #session{phase = over}) ->
    linger(Message, Session);
info(Message, Session) ->
    commands(handle(Message, Session)).

%% @doc The connection or its stream has ended, in whatever way.
-spec terminate(cowboy_stream:reason(), session()) -> ok.
terminate(Reason, Session0) ->
    Session = stop_timer(vanished(code(Reason), Session0)),
    #session{routes = Routes, request_id = Id, connection = Connection, inbox = Inbox,
             backlog = Backlog} = Session,
    _ = hornbeam_routes:detach(Routes, Id),
    forget(Session),
    ok = hornbeam_ws_inbox:close(Inbox),
    ok = hornbeam_backlog:stop(Backlog),
    hornbeam_connection:stream_ended(Connection).

new(Deflate, Start, Settings) ->
    #{key := Key, request_id := Id, worker := {_, Writer, Routes, _}, flow := Flow,
      connection := Connection} = Start,
    #{send_timeout := SendTimeoutMs, window := Window, websocket_ping := PingMs,
      websocket_timeout := TimeoutMs,
      websocket_max_frame_size := MaxSize} = Settings,
    Codec = hornbeam_ws_frames:new(#{max_size => MaxSize, deflate => Deflate}),
    NowMs = now_ms(),
    #session{key = Key, request_id = Id, writer = Writer, routes = Routes,
             connection = Connection, send_timeout_ms = SendTimeoutMs,
             inbox = hornbeam_ws_inbox:new(Codec, Window),
             window = Window, flow = Flow, received_ms = NowMs,
             ping_due_ms = later(NowMs, PingMs), ping_ms = PingMs, timeout_ms = TimeoutMs}.

%% The server stops (after the drain, or without one), or the client has gone without a word.
code({stop, {exit, _}, _}) -> 1001;
code(_) -> 1006.

%%% From the client

take(Data, Session = #session{inbox = Inbox}) ->
    look(hornbeam_ws_inbox:received(Data, Inbox), Session).

look({Events, Inbox}, Session) ->
    lists:foldl(fun event/2, Session#session{inbox = Inbox}, Events).

event({message, Kind, Data}, Session = #session{phase = open, request_id = Id}) ->
    tell({message, Id, Kind, Data}, Session);
event({ping, Payload}, Session = #session{phase = open, pong_bytes = PongBytes}) ->
    Bytes = hornbeam_ws_inbox:counted_bytes(Payload),
    send({pong, Payload}, Session#session{pong_bytes = PongBytes + Bytes});
event({close, Code, Reason}, Session = #session{phase = open}) ->
    finish(send(close_frame(Code, <<>>), tell_closed(Code, Reason, Session)));
event({close, Code, Reason}, Session = #session{phase = closing}) ->
    over(tell_closed(Code, Reason, Session));
event({error, Code, Why}, Session = #session{phase = open}) ->
    failing({Code, Why}, Session);
event({error, _, _}, Session = #session{phase = closing}) ->
    over(tell_closed(1006, <<>>, Session));
event(_, Session) ->
    Session.

%% What came before the fault is good, and the client may have got its answers if they had been
%% faster. The worker says when there are no more, with a `close' of its own.
failing(Failure, Session = #session{writer = undefined}) ->
    failed(Session#session{failure = Failure});
failing({Code, Why} = Failure, Session = #session{request_id = Id}) ->
    Told = tell({ending, Id, Code, Why}, Session#session{failure = Failure}),
    await(?ANSWER_TIMEOUT_MS, failing, Told).

failed(Session = #session{failure = {Code, Why}}) ->
    over(send(close_frame(Code, Why), tell_closed(Code, Why, Session))).

%% No more will come.
vanished(Code, Session = #session{phase = open, inbox = Inbox}) ->
    tell_closed(Code, <<>>, look(hornbeam_ws_inbox:last_words(Inbox), Session));
vanished(Code, Session) ->
    tell_closed(Code, <<>>, Session).

%%% From the worker and others

handle({message, Id, Kind, Data}, Session = #session{phase = Phase, request_id = Id})
        when Phase =:= open; Phase =:= failing ->
    sent_later(hornbeam_ws_inbox:counted_bytes(Data), send({Kind, Data}, Session));
handle({close, Id, _, _}, Session = #session{phase = failing, request_id = Id}) ->
    failed(Session);
handle({close, Id, Code, Reason}, Session = #session{phase = open, request_id = Id}) ->
    close(Code, Reason, Session);
handle({abort, Id}, Session = #session{request_id = Id}) ->
    end_by_node(1011, <<>>, Session);
handle({credit, Id, Bytes}, Session = #session{request_id = Id, inbox = Inbox}) ->
    resumed(Session, look(hornbeam_ws_inbox:taken(Bytes, Inbox), Session));
handle({worker_down, Id}, Session = #session{request_id = Id}) ->
    end_by_node(1012, <<"the worker of this connection has ended">>, without_worker(Session));
handle({worker_replaced, Id}, Session = #session{request_id = Id}) ->
    end_by_node(1012, <<"service restart">>, without_worker(Session));
handle({going_away, Id}, Session = #session{request_id = Id}) ->
    going_away(Session);
handle(sent, Session = #session{unacked = Unacked, backlog = Backlog0}) ->
    {Bytes, Backlog} = hornbeam_backlog:sent(Unacked, Backlog0),
    Sent = Session#session{is_sent_due = false, unacked = 0, backlog = Backlog},
    acknowledge(Bytes, tell_taken(Sent));
handle({fanout, Ref, Frame}, Session = #session{phase = open, fanned = Fanned, out = Out}) ->
    sent_soon(Session#session{fanned = [Ref | Fanned], out = [Out, Frame]});
%% Nobody waits for it any more.
handle({fanout, Ref, _}, Session) ->
    ok = hornbeam_fanout:taken(Ref),
    Session;
handle(fanout_attached, Session) ->
    Session#session{is_attached = true};
handle(fanout_overflow, Session) ->
    end_by_node(1013, <<"the client does not keep up">>, Session);
handle({alarm, stream_buffer_full, on}, Session) ->
    filled(Session);
handle({alarm, stream_buffer_full, off}, Session) ->
    drained(Session);
handle({send_timeout, Name}, Session = #session{backlog = Backlog0}) ->
    case hornbeam_backlog:expired(Name, send_clock(Session), Backlog0) of
        {going, Backlog} -> Session#session{backlog = Backlog};
        stalled -> over(tell_closed(1006, <<>>, Session))
    end;
handle(tick, Session = #session{phase = open}) ->
    tick(now_ms(), Session);
handle(close_timeout, Session = #session{phase = failing}) ->
    failed(Session);
handle(close_timeout, Session) ->
    over(tell_closed(1006, <<>>, Session));
%% Of a session that is closing, or of a stream of that number that was before.
handle(_, Session) ->
    Session.

going_away(Session) ->
    end_by_node(1001, <<"the server is going away">>, Session).

end_by_node(Code, Reason, Session = #session{phase = open}) ->
    close(Code, Reason, tell_closed(Code, Reason, Session));
end_by_node(_, _, Session = #session{phase = failing}) ->
    failed(Session);
end_by_node(_, _, Session) ->
    Session.

without_worker(Session) ->
    Session#session{writer = undefined, told = true}.

%%% To the worker

tell(_, Session = #session{writer = undefined}) ->
    Session;
tell(Message, Session = #session{writer = Writer}) ->
    ok = hornbeam_writer:send(Writer, hornbeam_protocol:encode(Message)),
    Session.

tell_closed(_, _, Session = #session{told = true}) ->
    Session;
tell_closed(Code, Reason, Session = #session{request_id = Id}) ->
    tell({closed, Id, Code, Reason}, Session#session{told = true}).

%% Less than a quarter of a window is not worth an acknowledgement. Otherwise one stands for all
%% that is written before it is looked at.
sent_later(Bytes, Session = #session{unacked = Unacked0, window = Window}) ->
    Unacked = Unacked0 + Bytes,
    Counted = Session#session{unacked = Unacked},
    case Unacked * 4 >= Window of
        true -> sent_soon(Counted);
        false -> Counted
    end.

sent_soon(Session = #session{is_sent_due = true}) ->
    Session;
sent_soon(Session = #session{key = Key}) ->
    self() ! {Key, sent},
    Session#session{is_sent_due = true}.

acknowledge(0, Session) ->
    Session;
acknowledge(Bytes, Session = #session{request_id = Id, routes = Routes}) ->
    ok = hornbeam_routes:acknowledged(Routes, Id, Bytes),
    tell({ack, Id, Bytes}, Session).

tell_taken(Session = #session{fanned = []}) ->
    Session;
tell_taken(Session = #session{fanned = Fanned}) ->
    case is_congested(Session) of
        true -> Session;
        false ->
            lists:foreach(fun hornbeam_fanout:taken/1, lists:reverse(Fanned)),
            Session#session{fanned = []}
    end.

%% The word that it knows this one may not have been looked at. One that comes later finds that the
%% route has gone, see hornbeam_worker_topics.
forget(#session{is_attached = true, key = Key}) ->
    hornbeam_fanout:forget(Key);
forget(#session{key = Key}) ->
    receive
        {Key, fanout_attached} -> hornbeam_fanout:forget(Key)
    after 0 ->
        ok
    end.

%%% To the client

send(Frame, Session = #session{inbox = Inbox0, out = Out}) ->
    {Bytes, Inbox} = hornbeam_ws_inbox:encode(Frame, Inbox0),
    Session#session{inbox = Inbox, out = [Out, Bytes]}.

%% 1005 says that there was no code; others that may not be sent are the application's own.
close_frame(Code, Reason) ->
    case hornbeam_ws_frames:is_close_code(Code) of
        true -> {close, Code, Reason};
        false -> close
    end.

close(Code, Reason, Session) ->
    Closing = await_close(closing, send(close_frame(Code, Reason), Session)),
    look(hornbeam_ws_inbox:drop_messages(Closing#session.inbox), Closing).

%% Both sides have said it. What an HTTP/2 client has not read yet would be lost in a reset.
finish(Session) ->
    case is_congested(Session) of
        true -> await_close(answered, Session);
        false -> over(Session)
    end.

await_close(Phase, Session) ->
    await(?CLOSE_TIMEOUT_MS, Phase, Session).

await(TimeMs, Phase, Session) ->
    start_timer(TimeMs, close_timeout, Session#session{phase = Phase}).

over(Session = #session{key = Key}) ->
    self() ! {Key, end_expected},
    Session#session{phase = over}.

commands(Session = #session{phase = over, out = Out}) ->
    case is_congested(Session) of
        %% Cowboy would wait for ever for a client that does not read.
        true -> {[reset()], Session#session{out = []}};
        false -> {[{data, fin, Out}, stop], Session#session{out = []}}
    end;
commands(Session0 = #session{out = Out}) ->
    {Flow, Session} = read_on(Session0),
    case Out of
        [] -> {Flow, Session};
        _ -> {[{data, nofin, Out} | Flow], Session#session{out = []}}
    end.

%%% HTTP/2: behind the client's window

is_congested(#session{backlog = Backlog}) ->
    hornbeam_backlog:is_full(Backlog).

filled(Session = #session{backlog = Backlog}) ->
    {OutBytes, StartTimer} = send_clock(Session),
    Session#session{backlog = hornbeam_backlog:filled(OutBytes, StartTimer, Backlog),
                    pong_bytes = 0}.

drained(Session = #session{phase = Phase, backlog = Backlog0}) ->
    {Bytes, [], Backlog} = hornbeam_backlog:drained(Backlog0),
    Drained = acknowledge(Bytes, tell_taken(Session#session{backlog = Backlog})),
    case Phase of
        answered -> over(Drained);
        _ -> resumed(Session, Drained)
    end.

send_clock(#session{key = Key, connection = Connection, send_timeout_ms = TimeoutMs}) ->
    StartTimer = fun
        (_) when TimeoutMs =:= infinity -> undefined;
        (Name) -> erlang:send_after(TimeoutMs, self(), {Key, {send_timeout, Name}})
    end,
    {hornbeam_connection:out_bytes(Connection), StartTimer}.

%% The stream lives behind its end: where something is queued, for want of window, it has as long as
%% a close frame has to be answered. Where nothing is, Cowboy has forgotten the end, which needs no
%% window (see hornbeam_connection).
linger({alarm, stream_buffer_full, on}, Session) ->
    {[], await_close(over, filled(Session))};
linger(end_expected, Session = #session{key = {_, StreamId}, connection = Connection}) ->
    case is_congested(Session) of
        true ->
            {[], Session};
        false ->
            ok = hornbeam_connection:end_stream(Connection, StreamId, false),
            {[reset()], Session}
    end;
linger(close_timeout, Session) ->
    {[reset()], Session};
linger(_, Session) ->
    {[], Session}.

reset() ->
    {internal_error, websocket_over, 'The WebSocket is closed.'}.

%%% Reading

read_on(Session = #session{flow = Flow0}) ->
    {Commands, Flow} = hornbeam_flow:allow(room(Session), Flow0),
    {Commands, Session#session{flow = Flow}}.

room(Session = #session{inbox = Inbox, window = Window, pong_bytes = PongBytes}) ->
    %% A client that reads no pongs does not need to send more pings.
    case PongBytes > Window andalso is_congested(Session) of
        true -> 0;
        false -> min(Window, hornbeam_ws_inbox:room(Inbox))
    end.

%% The time that the socket was not read is not the client's.
resumed(Before, Session) ->
    case room(Before) =< 0 of
        true -> Session#session{received_ms = now_ms()};
        false -> Session
    end.

%%% Time

tick(NowMs, Session = #session{received_ms = ReceivedMs, timeout_ms = TimeoutMs}) ->
    case {room(Session) > 0, NowMs >= later(ReceivedMs, TimeoutMs)} of
        {true, true} -> timed_out(Session);
        {true, false} -> schedule(ping(NowMs, Session));
        {false, _} -> schedule(Session#session{received_ms = NowMs})
    end.

%% Nobody is there to answer.
timed_out(Session) ->
    Reason = <<"nothing was received in time">>,
    over(send(close_frame(1001, Reason), tell_closed(1006, Reason, Session))).

ping(NowMs, Session = #session{ping_due_ms = DueMs, ping_ms = PingMs}) when NowMs >= DueMs ->
    send({ping, <<>>}, Session#session{ping_due_ms = later(NowMs, PingMs)});
ping(_, Session) ->
    Session.

schedule(Session = #session{ping_due_ms = PingDueMs, received_ms = ReceivedMs,
                            timeout_ms = TimeoutMs}) ->
    %% `infinity' is above every number in Erlang's order of terms.
    case min(PingDueMs, later(ReceivedMs, TimeoutMs)) of
        infinity -> Session;
        DueMs -> start_timer(max(0, DueMs - now_ms()), tick, Session)
    end.

start_timer(TimeMs, Message, Session = #session{key = Key}) ->
    Stopped = stop_timer(Session),
    Stopped#session{timer = erlang:send_after(TimeMs, self(), {Key, Message})}.

stop_timer(Session = #session{timer = undefined}) ->
    Session;
stop_timer(Session = #session{timer = Timer}) ->
    _ = erlang:cancel_timer(Timer, [{async, true}, {info, false}]),
    Session#session{timer = undefined}.

later(_, infinity) -> infinity;
later(SinceMs, TimeMs) -> SinceMs + TimeMs.

now_ms() ->
    erlang:monotonic_time(millisecond).
