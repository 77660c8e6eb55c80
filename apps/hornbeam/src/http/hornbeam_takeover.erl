%% SPDX-License-Identifier: Apache-2.0

%% @private The last request of an HTTP/1.1 connection, and after it the end of the connection: one
%% with a chunked body, or a WebSocket.
%%
%% Takes such a connection over from Cowboy. Its decoder of chunks waits for ever for the rest of
%% what is none, keeping all that comes, counts the digits of a size without end, and takes trailers
%% for the next request; when it upgrades to a WebSocket it drops the messages that are there for it.
%% Does for {@link hornbeam_stream} what Cowboy does for a stream: hands it the bytes and the
%% messages, carries out its commands, with the same count of flow. As nothing that follows a
%% chunked body is believed, there is no next request, and the end of the response is that of the
%% connection.
%%
%% What has gathered for the client of a WebSocket while its process waited for its turn, or wrote,
%% leaves with one write. So many small messages cost the less the more of them there are, and who
%% waits behind thousands of sockets that are written to does so for one write of each.
%%
%% A process whose WebSocket is idle hibernates: it keeps its state, and next to nothing else.
-module(hornbeam_takeover).

%% Called by cowboy_http for the command switch_protocol.
-export([takeover/7]).

%% internal
-export([loop/1]).

%% sys
-export([system_continue/3]).
-export([system_terminate/4]).
-export([system_code_change/4]).

-export_type([start/0]).

-type start() :: #{
    stream_id := cowboy_stream:streamid(),
    stream := hornbeam_stream:state(),
    %% What the bytes of the client are; of `bodiless' Cowboy would make a request of HTTP/2.
    kind := chunked | websocket | bodiless,
    method := binary(),
    %% Whether the client has said that it takes trailers.
    takes_trailers := boolean(),
    %% What the stream has said already.
    commands => cowboy_stream:commands()
}.

-record(state, {
    parent :: pid(),
    socket :: inet:socket() | ssl:sslsocket(),
    transport :: module(),
    active_n :: pos_integer(),
    %% What of start() is needed all the time.
    start :: map(),
    stream :: hornbeam_stream:state(),
    %% `complete' when the body is there, `raw' where bytes are handed on as they come.
    decoder :: hornbeam_chunked:decoder() | complete | raw,
    %% As in Cowboy: below 1 the socket is not read.
    flow :: integer() | infinity,
    out = nothing :: hornbeam_http1_out:out(),
    %% What the step under way is to write to the client of a WebSocket.
    frames = [] :: iolist()
}).

%% A WebSocket that has had nothing to do for so long is idle. Many come, or get a message, at the
%% same time, and each has four times its idle heap until then: what they take at once stays with the
%% node, in memory that the small heaps are then spread over.
-define(IDLE_MS, 200).
%% Messages for the client of a WebSocket are gathered until they have so many bytes, of which each
%% counts some more than it has: what is not written yet is with the node. More gain little.
-define(GATHERED_BYTES, 16384).
-define(FRAME_BYTES, 256).

-spec takeover(pid(), ranch:ref(), inet:socket() | ssl:sslsocket(), module(), cowboy:opts(),
               binary(), start()) -> no_return().
takeover(Parent, _Ref, Socket, Transport, Opts, Buffer, Start) ->
    process_flag(trap_exit, true),
    spare_heap(Start),
    #{active_n := ActiveN, initial_stream_flow_size := Window} = Opts,
    #{stream := Stream} = Start,
    Kept = maps:with([stream_id, method, takes_trailers], Start),
    State0 = #state{parent = Parent, socket = Socket, transport = Transport, active_n = ActiveN,
                    start = Kept, stream = Stream, decoder = decoder(Start), flow = Window},
    State1 = commands(maps:get(commands, Start, []), State0),
    State = write(received(Buffer, info(unpark, State1))),
    activate(State),
    loop(State).

%% What lives in a WebSocket's heap is so little that a collection of all of it takes no longer than
%% one of the new, and a second heap for the old would be as large as the first.
spare_heap(#{kind := websocket}) ->
    _ = process_flag(fullsweep_after, 0),
    ok;
spare_heap(_) ->
    ok.

decoder(#{kind := bodiless}) -> complete;
decoder(#{kind := websocket}) -> raw;
decoder(#{kind := chunked}) -> hornbeam_chunked:new().

%% @private
-spec loop(#state{}) -> no_return().
loop(State = #state{socket = Socket, transport = Transport, parent = Parent}) ->
    {Data, Closed, Error, Passive} = Transport:messages(),
    receive
        {Data, Socket, Bytes} ->
            loop(write(received(Bytes, State)));
        {Closed, Socket} ->
            terminate({socket_error, closed, 'The socket has been closed.'}, State);
        {Error, Socket, Reason} ->
            terminate({socket_error, Reason, 'An error has occurred on the socket.'}, State);
        {Passive, Socket} ->
            activate(State),
            loop(State);
        {{Pid, _}, Message} when Pid =:= self() ->
            go_on(State, write(gather(?FRAME_BYTES, info(Message, State))));
        {'EXIT', Parent, Reason} ->
            terminate({stop, {exit, Reason}, 'Parent process terminated.'}, State);
        {system, From, Request} ->
            sys:handle_system_msg(Request, From, Parent, ?MODULE, [], State);
        {'$gen_call', From, Call} ->
            %% Ranch takes connections for supervisors; this one has no children.
            cowboy_children:handle_supervisor_call(Call, From, cowboy_children:init(), ?MODULE),
            loop(State);
        %% Timers of Cowboy's that fired while they were cancelled.
        _ ->
            loop(State)
    after idle_ms(State) ->
        proc_lib:hibernate(?MODULE, loop, [State])
    end.

%% What Cowboy has left on stack and heap would stay until the WebSocket is idle for the first time,
%% and where many come at once it is a good part of the memory that the node takes for them.
-spec go_on(#state{}, #state{}) -> no_return().
go_on(#state{out = nothing}, State = #state{out = raw}) ->
    proc_lib:hibernate(?MODULE, loop, [State]);
go_on(_, State) ->
    loop(State).

%% No timeout: requests have limits of their own.
idle_ms(#state{out = raw}) -> ?IDLE_MS;
idle_ms(_) -> infinity.

%% What else is there for the client by now.
gather(_, State = #state{frames = []}) ->
    State;
gather(Bytes, State = #state{frames = Frames}) ->
    case Bytes + iolist_size(Frames) < ?GATHERED_BYTES of
        true -> gather_next(Bytes, State);
        false -> State
    end.

gather_next(Bytes, State) ->
    receive
        %% That what came before is written.
        {{Pid, _}, sent} when Pid =:= self() ->
            info(sent, write(State));
        {{Pid, _}, Message} when Pid =:= self() ->
            gather(Bytes + ?FRAME_BYTES, info(Message, State))
    after 0 ->
        State
    end.

%%% From the client

received(_, State = #state{decoder = complete}) ->
    State;
received(<<>>, State = #state{decoder = raw}) ->
    State;
received(Bytes, State = #state{decoder = raw}) ->
    body(nofin, Bytes, State);
received(Bytes, State = #state{decoder = Decoder}) ->
    case hornbeam_chunked:decode(Bytes, Decoder) of
        {more, <<>>, Next} -> State#state{decoder = Next};
        {more, Body, Next} -> body(nofin, Body, State#state{decoder = Next});
        {done, Body, _Rest} -> body(fin, Body, State#state{decoder = complete});
        {error, Why} -> malformed(Why, State)
    end.

body(IsFin, Body, State = #state{start = #{stream_id := StreamId}, stream = Stream0}) ->
    {Commands, Stream} = hornbeam_stream:data(StreamId, IsFin, Body, Stream0),
    commands(Commands, count(IsFin, byte_size(Body), State#state{stream = Stream})).

count(fin, _, State) ->
    State#state{flow = infinity};
count(nofin, Bytes, State = #state{flow = Flow0}) ->
    Flow = Flow0 - Bytes,
    _ = Flow =< 0 andalso setopts([{active, false}], State),
    State#state{flow = Flow}.

%% An answer where none has begun; else the response breaks off.
-spec malformed(binary(), #state{}) -> no_return().
malformed(Why, State = #state{out = nothing}) ->
    terminate({connection_error, protocol_error, Why}, info({response, 400, #{}, <<>>}, State));
malformed(Why, State) ->
    terminate({connection_error, protocol_error, Why}, State).

info(Message, State = #state{start = #{stream_id := StreamId}, stream = Stream0}) ->
    {Commands, Stream} = hornbeam_stream:info(StreamId, Message, Stream0),
    commands(Commands, State#state{stream = Stream}).

%%% To the client

commands([Command | Rest], State) -> commands(Rest, command(Command, State));
commands([], State) -> State.

command({inform, Status, Headers}, State = #state{out = nothing}) ->
    send(hornbeam_http1_out:head(Status, Headers), State);
command({response, Status, Headers, Body}, State = #state{out = nothing}) ->
    send([hornbeam_http1_out:head(Status, Headers), Body], State#state{out = complete});
command({headers, 101, Headers}, State = #state{out = nothing}) ->
    send(hornbeam_http1_out:head(101, Headers), State#state{out = raw});
command({headers, Status, Headers}, State = #state{out = nothing, start = #{method := Method}}) ->
    sent(hornbeam_http1_out:start(Status, Headers, Method, takes_trailers(State)), State);
command({data, nofin, Data}, State = #state{out = raw, frames = Frames}) ->
    State#state{frames = [Frames, Data]};
command({data, fin, Data}, State = #state{out = raw, frames = Frames}) ->
    send([Frames, Data], State#state{out = complete, frames = []});
command({data, IsFin, Data}, State = #state{out = Out}) ->
    sent(hornbeam_http1_out:part(IsFin, Data, Out), State);
command({trailers, Trailers}, State = #state{out = Out}) ->
    sent(hornbeam_http1_out:trailers(Trailers, takes_trailers(State), Out), State);
command({flow, Bytes}, State = #state{flow = Flow}) when is_integer(Flow) ->
    Credited = State#state{flow = max(Flow, 0) + Bytes},
    _ = Flow =< 0 andalso activate(Credited),
    Credited;
command({flow, _}, State) ->
    State;
command(stop, State) ->
    terminate(normal, write(State)).

takes_trailers(#state{start = #{takes_trailers := TakesTrailers}}) ->
    TakesTrailers.

sent({Bytes, Out}, State) ->
    send(Bytes, State#state{out = Out});
sent(too_large, State) ->
    terminate({internal_error, response_body_too_large, 'More than Content-Length.'}, State).

write(State = #state{frames = []}) ->
    State;
write(State = #state{frames = Frames}) ->
    send(Frames, State#state{frames = []}).

send([], State) ->
    State;
send(Data, State = #state{socket = Socket, transport = Transport}) ->
    case Transport:send(Socket, Data) of
        ok -> State;
        {error, Reason} -> terminate({socket_error, Reason, 'An error on the socket.'}, State)
    end.

%%% The socket

activate(State = #state{flow = Flow, active_n = ActiveN}) ->
    %% `infinity' is above every number in Erlang's order of terms.
    _ = Flow > 0 andalso setopts([{active, ActiveN}], State),
    ok.

%% An error here is one of the socket, of which there is a message too.
setopts(Options, #state{socket = Socket, transport = Transport}) ->
    _ = Transport:setopts(Socket, Options),
    ok.

-spec terminate(cowboy_stream:reason(), #state{}) -> no_return().
terminate(Reason, #state{start = #{stream_id := StreamId}, stream = Stream, socket = Socket,
                         transport = Transport, active_n = ActiveN}) ->
    ok = hornbeam_stream:terminate(StreamId, Reason, Stream),
    ok = hornbeam_linger:linger(Socket, Transport, ActiveN),
    %% Below Cowboy's calls to a stream handler an exception would be caught, and logged.
    ok = hornbeam_connection:abandon(),
    exit({shutdown, Reason}).

%%% sys

-spec system_continue(pid(), [sys:debug_option()], #state{}) -> no_return().
system_continue(_, _, State) ->
    loop(State).

%% Asked to finish: that is what it does anyway.
-spec system_terminate(term(), pid(), [sys:debug_option()], #state{}) -> no_return().
system_terminate(_Reason, _, _, State) ->
    loop(State).

-spec system_code_change(#state{}, module(), term(), term()) -> {ok, #state{}}.
system_code_change(State, _, _, _) ->
    {ok, State}.
