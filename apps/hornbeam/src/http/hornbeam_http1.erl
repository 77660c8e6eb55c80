%% SPDX-License-Identifier: Apache-2.0

%% @private The usual requests of an HTTP/1.1 connection, one after the other, until one comes that is
%% not: from there on Cowboy has the connection.
%%
%% Cowboy takes a head apart byte by byte, and appends each to a binary of its own: with the headers
%% of a browser that takes longer than all that the node does otherwise. {@link hornbeam_head} takes
%% what nearly all clients send, and leaves to Cowboy what it does not know for certain; what is wrong
%% is always Cowboy's to answer.
%%
%% Does for {@link hornbeam_stream} what Cowboy does for a stream: hands it the bytes and the
%% messages, and carries out its commands. A body is counted, and no more of it read than fits in the
%% window: requests with a larger one, or one of unknown length, are Cowboy's. There is one stream at a
%% time: what comes behind a request waits until that has its response, whatever it is.
-module(hornbeam_http1).

%% API
-export([serve/3]).
-export([has_begun/1]).

%% sys
-export([system_continue/3]).
-export([system_terminate/4]).
-export([system_code_change/4]).

%% Streams of Cowboy, which begin with 1, never get what is late for one of these.
-define(FIRST_STREAM_ID, (1 bsl 32)).
%% So many bytes wait behind a request before the socket is not read any more.
-define(MAX_WAITING_BYTES, 65536).
%% So many bytes of a body may stay in memory with the head that came with them.
-define(MAX_SHARED_BYTES, 2048).

-record(state, {
    parent :: pid(),
    socket :: inet:socket() | ssl:sslsocket(),
    transport :: module(),
    %% Of Transport:messages/0.
    messages :: {atom(), atom(), atom(), atom()},
    %% Of Cowboy's options: what a stream reads, and what is read here. All of them are so many that
    %% each look into them takes its time.
    opts :: cowboy:opts(),
    scheme :: binary(),
    active_n :: pos_integer(),
    window :: pos_integer(),
    max_headers :: pos_integer(),
    max_part_of_head :: pos_integer(),
    %% Bytes that are not taken apart yet.
    buffer = <<>> :: binary(),
    %% They are the beginning of a head, and more was waited for already.
    has_waited = false :: boolean(),
    %% The socket is not read on: before the first request, and where too much waits behind one.
    is_paused = true :: boolean(),
    %% Of the request under way, or of the next.
    stream_id = ?FIRST_STREAM_ID :: cowboy_stream:streamid(),
    stream = none :: none | hornbeam_stream:state(),
    method = <<>> :: binary(),
    %% What has not come of its body.
    missing = 0 :: non_neg_integer(),
    out = nothing :: hornbeam_http1_out:out(),
    %% It is the last of this connection.
    is_last = false :: boolean()
}).

%% On the way of every request.
-compile({inline, [received/2, hold/1, info/2, go_on/1]}).

%% @doc Serve a connection until its next request is one for Cowboy, which finds what has come in the
%% mailbox, as if it came from the socket then.
-spec serve(pid(), hornbeam_connection:context(), cowboy:opts()) -> unusual.
serve(Parent, Context, Opts) ->
    #{socket := Socket, transport := Transport, scheme := Scheme} = Context,
    #{active_n := ActiveN, initial_stream_flow_size := Window, max_headers := MaxHeaders,
      max_request_line_length := LineSize, max_header_value_length := ValueSize} = Opts,
    State = #state{parent = Parent, socket = Socket, transport = Transport, scheme = Scheme,
                   opts = #{hornbeam => maps:get(hornbeam, Opts),
                            hornbeam_connection => lending(Context)},
                   messages = Transport:messages(), active_n = ActiveN, window = Window,
                   max_headers = MaxHeaders, max_part_of_head = min(LineSize, ValueSize)},
    ok = read_once(State),
    loop(State).

%% What goes out on another way can be counted here, and with TLS there is no other way.
lending(Context = #{tls := undefined}) -> Context#{lends => true};
lending(Context) -> Context.

%% @doc Of a state that `sys' shows: whether a part of a head has come.
-spec has_begun(term()) -> boolean().
has_begun(#state{buffer = Buffer}) -> Buffer =/= <<>>;
has_begun(_) -> false.

loop(State = #state{socket = Socket, messages = {Data, Closed, Error, Passive}, parent = Parent,
                    stream_id = StreamId}) ->
    receive
        {Data, Socket, Bytes} ->
            go_on(received(Bytes, State));
        {{Pid, StreamId}, Message} when Pid =:= self() ->
            go_on(info(Message, State));
        {Passive, Socket} ->
            loop(read_on(State));
        {Closed, Socket} ->
            terminate({socket_error, closed, 'The socket has been closed.'}, State);
        {Error, Socket, Reason} ->
            terminate({socket_error, Reason, 'An error has occurred on the socket.'}, State);
        {'EXIT', Parent, shutdown} ->
            loop(finish({stop, {exit, shutdown}, 'Asked to shut down.'}, State));
        {'EXIT', Parent, Reason} ->
            terminate({stop, {exit, Reason}, 'Parent process terminated.'}, State);
        {system, From, Request} ->
            sys:handle_system_msg(Request, From, Parent, ?MODULE, [], State);
        {'$gen_call', From, Call} ->
            %% Ranch takes connections for supervisors; this one has no children.
            cowboy_children:handle_supervisor_call(Call, From, cowboy_children:init(), ?MODULE),
            loop(State);
        %% Late, for a stream that is over.
        _ ->
            loop(State)
    end.

%% Between two requests, or within one.
go_on(State = #state{stream = none, buffer = Buffer, max_headers = MaxHeaders})
        when Buffer =/= <<>> ->
    case hornbeam_head:parse(Buffer, MaxHeaders) of
        {ok, Head, Behind} when byte_size(Behind) =< ?MAX_SHARED_BYTES ->
            request(Head, Behind, State);
        {ok, _, Behind} ->
            request(alone(Behind, State), Behind, State);
        more -> await_more(State);
        unusual -> leave(State)
    end;
go_on(State) ->
    loop(State).

%% Its parts are parts of a read, which would stay as long as the request waits for its response.
alone(Behind, #state{buffer = Buffer, max_headers = MaxHeaders}) ->
    Bytes = binary:copy(binary:part(Buffer, 0, byte_size(Buffer) - byte_size(Behind))),
    {ok, Head, <<>>} = hornbeam_head:parse(Bytes, MaxHeaders),
    Head.

%% Once, and as long as no limit of Cowboy's can be near: it looks at each part that comes.
await_more(State = #state{has_waited = HasWaited, buffer = Buffer, max_part_of_head = Max}) ->
    case not HasWaited andalso byte_size(Buffer) < Max of
        true ->
            _ = State#state.is_paused andalso read_once(State),
            loop(State#state{has_waited = true});
        false ->
            leave(State)
    end.

%%% From the client

received(Bytes, State = #state{missing = 0, buffer = <<>>}) ->
    hold(State#state{buffer = Bytes});
received(Bytes, State = #state{missing = 0, buffer = Buffer}) ->
    hold(State#state{buffer = <<Buffer/binary, Bytes/binary>>});
received(Bytes, State) ->
    body(Bytes, State).

hold(State) ->
    case is_full(State) of
        true -> pause(State);
        false -> State
    end.

%% Without the part of a body that has no room in the window there is nothing to be held back.
request(#{body_length := Length} = Head, Behind, State = #state{window = Window})
        when Length < Window ->
    begin_stream(Head, Behind, State);
request(_, _, State) ->
    leave(State).

begin_stream(Head, Behind, State = #state{stream_id = StreamId, scheme = Scheme, opts = Opts}) ->
    #{method := Method, body_length := Length} = Head,
    Req = Head#{version => 'HTTP/1.1', scheme => Scheme, has_body => Length > 0},
    {Commands, Stream} = hornbeam_stream:init(StreamId, Req, Opts),
    Begun = State#state{buffer = <<>>, has_waited = false, stream = Stream, method = Method,
                        missing = Length, out = nothing},
    go_on(body(Behind, commands(Commands, resume(Begun)))).

body(<<>>, State) ->
    State;
body(Bytes, State = #state{missing = 0}) ->
    hold(State#state{buffer = Bytes});
body(Bytes, State = #state{missing = Missing}) when byte_size(Bytes) < Missing ->
    data(nofin, Bytes, State#state{missing = Missing - byte_size(Bytes)});
body(Bytes, State = #state{missing = Missing}) ->
    <<Body:Missing/binary, Behind/binary>> = Bytes,
    data(fin, Body, State#state{missing = 0, buffer = Behind}).

data(IsFin, Data, State = #state{stream_id = StreamId, stream = Stream0}) ->
    {Commands, Stream} = hornbeam_stream:data(StreamId, IsFin, Data, Stream0),
    commands(Commands, State#state{stream = Stream}).

info(_, State = #state{stream = none}) ->
    State;
info(Message, State = #state{stream_id = StreamId, stream = Stream0}) ->
    {Commands, Stream} = hornbeam_stream:info(StreamId, Message, Stream0),
    commands(Commands, State#state{stream = Stream}).

%%% To the client

commands([Command | Rest], State) -> commands(Rest, command(Command, State));
commands([], State) -> State.

command({response, Status, Headers0, Body}, State0 = #state{out = nothing}) ->
    {Headers, State} = connection(Headers0, State0),
    send([hornbeam_http1_out:head(Status, Headers), Body], State#state{out = complete});
command({headers, Status, Headers0}, State0 = #state{out = nothing, method = Method}) ->
    {Headers, State} = connection(Headers0, State0),
    %% A client that takes trailers is Cowboy's.
    sent(hornbeam_http1_out:start(Status, Headers, Method, false), State);
command({data, IsFin, Data}, State = #state{out = Out}) ->
    sent(hornbeam_http1_out:part(IsFin, Data, Out), State);
%% By the worker, to whom the socket was lent.
command({set_options, #{written := Bytes}}, State = #state{out = Out}) ->
    sent(hornbeam_http1_out:written(Bytes, Out), State);
command({trailers, Trailers}, State = #state{out = Out}) ->
    sent(hornbeam_http1_out:trailers(Trailers, false, Out), State);
command({inform, Status, Headers}, State = #state{out = nothing}) ->
    send(hornbeam_http1_out:head(Status, Headers), State);
%% All of the body may come.
command({flow, _}, State) ->
    State;
command(stop, State) ->
    stop(State).

%% RFC 9112 9.6: who is to close says so, unless the head has gone out already.
connection(Headers = #{<<"connection">> := Options}, State = #state{is_last = IsLast}) ->
    case is_close(Options) of
        true -> {Headers, State#state{is_last = true}};
        false when IsLast -> {Headers#{<<"connection">> := [<<"close, ">>, Options]}, State};
        false -> {Headers, State}
    end;
connection(Headers, State = #state{is_last = true}) ->
    {Headers#{<<"connection">> => <<"close">>}, State};
connection(Headers, State) ->
    {Headers, State}.

is_close(Options) ->
    lists:member(<<"close">>, cow_http_hd:parse_connection(iolist_to_binary(Options))).

sent({Bytes, Out}, State) ->
    send(Bytes, State#state{out = Out});
sent(too_large, State) ->
    terminate({internal_error, response_body_too_large, 'More than Content-Length.'}, State).

send([], State) ->
    State;
send(Bytes, State = #state{socket = Socket, transport = Transport}) ->
    case Transport:send(Socket, Bytes) of
        ok -> State;
        {error, Reason} -> terminate({socket_error, Reason, 'An error on the socket.'}, State)
    end.

%% The next request has its turn where this one has come to its end in both directions.
stop(State = #state{out = complete, missing = 0, is_last = false}) ->
    #state{stream_id = StreamId, stream = Stream} = State,
    ok = hornbeam_stream:terminate(StreamId, normal, Stream),
    resume(State#state{stream = none, stream_id = StreamId + 1});
stop(State) ->
    terminate(normal, State).

%%% The socket

%% What waits behind a request, not what is there of the next one's head.
is_full(#state{stream = Stream, buffer = Buffer}) ->
    Stream =/= none andalso byte_size(Buffer) >= ?MAX_WAITING_BYTES.

%% As much has come as was asked for.
read_on(State) ->
    case State#state.is_paused orelse is_full(State) of
        true ->
            State#state{is_paused = true};
        false ->
            ok = activate(State),
            State
    end.

pause(State = #state{is_paused = true}) ->
    State;
pause(State) ->
    ok = setopts([{active, false}], State),
    State#state{is_paused = true}.

%% Only what is paused: reads that are asked for come on top of those that were before.
resume(State = #state{is_paused = false}) ->
    State;
resume(State) ->
    ok = activate(State),
    State#state{is_paused = false}.

%% Of a client that leaves at once behind a first request that is for Cowboy, the end is not read
%% before Cowboy has the socket: it does not begin with one that is closed.
read_once(State) ->
    setopts([{active, once}], State).

activate(State = #state{active_n = ActiveN}) ->
    setopts([{active, ActiveN}], State).

%% An error here is one of the socket, of which there is a message too.
setopts(Options, #state{socket = Socket, transport = Transport}) ->
    _ = Transport:setopts(Socket, Options),
    ok.

%%% The end

%% End after the request under way, at once if there is none.
finish(Reason, State = #state{stream = none}) -> terminate(Reason, State);
finish(_, State) -> State#state{is_last = true}.

-spec terminate(cowboy_stream:reason(), #state{}) -> no_return().
terminate(Reason, #state{stream_id = StreamId, stream = Stream, socket = Socket,
                         transport = Transport, active_n = ActiveN}) ->
    _ = Stream =:= none orelse hornbeam_stream:terminate(StreamId, Reason, Stream),
    ok = hornbeam_linger:linger(Socket, Transport, ActiveN),
    exit({shutdown, Reason}).

%% Cowboy gets what has come, in its pieces: where a limit is passed in one of them it says so, and not
%% what is wrong in the next. Behind them comes that the client has gone, if it has.
leave(State = #state{socket = Socket, messages = {Data, _, _, _}, buffer = Buffer}) ->
    ok = setopts([{active, false}], State),
    ok = hornbeam_tcp_socket:read_few(),
    Behind = from_socket(State),
    self() ! {Data, Socket, Buffer},
    _ = [self() ! Message || Message <- Behind],
    unusual.

from_socket(State = #state{socket = Socket, messages = {Data, Closed, Error, Passive}}) ->
    receive
        {Data, Socket, _} = Message -> [Message | from_socket(State)];
        {Closed, Socket} = Message -> [Message];
        {Error, Socket, _} = Message -> [Message];
        {Passive, Socket} -> from_socket(State)
    after 0 ->
        []
    end.

%%% sys

-spec system_continue(pid(), [sys:debug_option()], #state{}) -> unusual.
system_continue(_, _, State) ->
    loop(State).

-spec system_terminate(term(), pid(), [sys:debug_option()], #state{}) -> unusual.
system_terminate(Reason, _, _, State) ->
    loop(finish({stop, {exit, Reason}, 'sys:terminate/2,3 was called.'}, State)).

-spec system_code_change(#state{}, module(), term(), term()) -> {ok, #state{}}.
system_code_change(State, _, _, _) ->
    {ok, State}.
