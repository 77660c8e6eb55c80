%% SPDX-License-Identifier: Apache-2.0

%% @private One request, as a Cowboy stream handler: no process of its own, no copy of the request.
%%
%% Runs in the connection process. This module lets requests in and says whose turn it is; the rest
%% is done by others, none of which calls this one:
%%
%% <ul>
%% <li>{@link hornbeam_request}: what all of them may read, and nobody changes.</li>
%% <li>{@link hornbeam_admission}: whether a request is let in.</li>
%% <li>{@link hornbeam_pipeline}: whose turn it is on an HTTP/1 connection.</li>
%% <li>{@link hornbeam_exchange}: the request and its response, and their parts.</li>
%% <li>{@link hornbeam_upgrade}: where a stream becomes something else.</li>
%% <li>{@link hornbeam_takeover}: what Cowboy does, for the last request of a connection.</li>
%% <li>{@link hornbeam_websocket}: the stream, once a handshake is accepted.</li>
%% </ul>
%%
%% Smuggling. Nothing that follows a chunked body on the same HTTP/1 connection is believed: the
%% response says `connection: close', and {@link hornbeam_takeover} takes the connection over.
%%
%% WebSockets. The handshake is a request like others; on HTTP/1 its connection is taken over as
%% well, because Cowboy, when it switches protocols, drops what the worker has said already.
-module(hornbeam_stream).

-behaviour(cowboy_stream).

%% cowboy_stream
-export([init/3]).
-export([data/4]).
-export([info/3]).
-export([terminate/3]).
-export([early_error/5]).

-export_type([state/0]).

%% On the way of every request.
-compile({inline, [goes_on/1, begin_stream/3, admitted/3, take_turn/3]}).

-opaque state() ::
    {exchange, hornbeam_exchange:exchange()}
  | {websocket, hornbeam_websocket:session()}
  | handed_over.

%%% cowboy_stream

-spec init(cowboy_stream:streamid(), hornbeam_request:incoming(), cowboy:opts()) ->
    {cowboy_stream:commands(), state()}.
init(StreamId, Req, Opts) ->
    #{hornbeam := Server, hornbeam_connection := Connection} = Opts,
    Streams = hornbeam_connection:stream_began(Connection),
    Request = hornbeam_request:new(StreamId, Req, Server, Connection),
    case hornbeam_http2:is_upgrade(Req) of
        false -> begin_stream(hornbeam_admission:check(Streams, Req, Request), Req, Request);
        true -> upgrade(hornbeam_upgrade:to_http2(Req, Request), Req, Opts, Request)
    end.

-spec data(cowboy_stream:streamid(), cowboy_stream:fin(), binary(), state()) ->
    {cowboy_stream:commands(), state()}.
data(_StreamId, IsFin, Data, {exchange, Exchange}) ->
    goes_on(hornbeam_exchange:data(IsFin, Data, Exchange));
data(_StreamId, IsFin, Data, {websocket, Session}) ->
    websocket(hornbeam_websocket:data(IsFin, Data, Session)).

-spec info(cowboy_stream:streamid(), term(), state()) -> {cowboy_stream:commands(), state()}.
info(StreamId, unpark, State = {exchange, Exchange}) ->
    case hornbeam_exchange:is_parked(Exchange) of
        %% The time behind others does not count: it is not this request's.
        true -> unpark(StreamId, hornbeam_exchange:restart_clock(Exchange));
        false -> {[], State}
    end;
info(_StreamId, Message, {exchange, Exchange}) ->
    goes_on(hornbeam_exchange:info(Message, Exchange));
info(_StreamId, Message, {websocket, Session}) ->
    websocket(hornbeam_websocket:info(Message, Session));
%% Cowboy's `101 Switching Protocols', which is none for the client.
info(_StreamId, _Message, handed_over) ->
    {[], handed_over}.

-spec terminate(cowboy_stream:streamid(), cowboy_stream:reason(), state()) -> ok.
terminate(StreamId, _Reason, {exchange, Exchange}) ->
    ok = hornbeam_exchange:terminate(Exchange),
    hornbeam_pipeline:ended(StreamId);
terminate(_StreamId, Reason, {websocket, Session}) ->
    hornbeam_websocket:terminate(Reason, Session);
terminate(_StreamId, _Reason, handed_over) ->
    ok.

-spec early_error(cowboy_stream:streamid(), cowboy_stream:reason(), cowboy_stream:partial_req(),
                  Response, cowboy:opts()) -> Response
    when Response :: cowboy_stream:resp_command().
early_error(_StreamId, Reason, _PartialReq, Response, Opts) ->
    #{hornbeam := Server, hornbeam_connection := Connection} = Opts,
    %% Cowboy writes the answer at once: into the response that is under way, or as that to an
    %% earlier request. It must not get there.
    _ = hornbeam_pipeline:is_busy() andalso hornbeam_connection:reset(Connection),
    hornbeam_refusal:early(Reason, Response, Server).

goes_on({Commands, Exchange}) ->
    {Commands, {exchange, Exchange}};
goes_on({accepted, Commands, Session}) ->
    {Commands, {websocket, Session}}.

websocket({Commands, Session}) ->
    {Commands, {websocket, Session}}.

%%% The beginning

begin_stream({ok, Handshake, Req}, _, Request) ->
    Exchange = admitted(Handshake, Req, Request),
    case hornbeam_pipeline:arrive(Request) of
        first -> take_turn(Req, Request, Exchange);
        side_by_side -> begin_http2(hornbeam_exchange:proceed(Exchange));
        behind -> park(Request, Exchange);
        too_far_ahead -> goes_on(hornbeam_exchange:cut(Exchange))
    end;
begin_stream({refuse, Status, Why, Headers}, Req, Request) ->
    Exchange = hornbeam_exchange:new(undefined, undefined, Req, Request),
    goes_on(hornbeam_exchange:refuse(Status, Why, Headers, Exchange));
begin_stream(overloaded, Req, Request) ->
    Exchange = hornbeam_exchange:new(undefined, undefined, Req, Request),
    goes_on(hornbeam_exchange:overloaded(Exchange)).

admitted(Handshake, Req, Request) ->
    Scope = hornbeam_admission:scope(Handshake, Req, Request),
    hornbeam_exchange:new(Scope, Handshake, Req, Request).

begin_http2({Commands, Exchange}) ->
    {hornbeam_exchange:initial_flow(Exchange) ++ Commands, {exchange, Exchange}}.

take_turn(Req, Request, Exchange) ->
    case hornbeam_exchange:kind(Exchange) of
        plain -> goes_on(hornbeam_exchange:proceed(Exchange));
        websocket -> hand_over(websocket, false, Request, Exchange);
        chunked -> hand_over(chunked, hornbeam_scope:takes_trailers(Req), Request, Exchange)
    end.

hand_over(Kind, TakesTrailers, Request, Exchange) ->
    State = {exchange, Exchange},
    {hornbeam_upgrade:hand_over(Kind, TakesTrailers, Request, State), handed_over}.

park(#{stream_id := StreamId}, Exchange) ->
    ok = case hornbeam_exchange:kind(Exchange) of
        %% It can't be handed over before its turn, and Cowboy must not get to the chunks until
        %% then.
        chunked -> hornbeam_connection:abandon();
        _ -> hornbeam_pipeline:park(StreamId)
    end,
    {[], {exchange, Exchange}}.

unpark(StreamId, Exchange) ->
    Standing = hornbeam_pipeline:standing(StreamId),
    case hornbeam_exchange:kind(Exchange) of
        websocket when Standing =:= last ->
            hand_over(websocket, false, hornbeam_exchange:request(Exchange), Exchange);
        websocket when Standing =:= followed ->
            Why = <<"a request behind a WebSocket's handshake">>,
            goes_on(hornbeam_exchange:refuse(400, Why, #{}, Exchange));
        _ ->
            goes_on(hornbeam_exchange:proceed(Exchange))
    end.

upgrade(Verdict, Req, Opts, Request) ->
    Exchange = admitted(undefined, Req, Request),
    case Verdict of
        ok ->
            {[], {exchange, Exchange}};
        ignore ->
            State = {exchange, hornbeam_exchange:close(Exchange)},
            hornbeam_upgrade:answer_here(Req, Opts, Request, {[], State});
        {refuse, Status, Why} ->
            Closing = hornbeam_exchange:close(Exchange),
            Refused = goes_on(hornbeam_exchange:refuse(Status, Why, #{}, Closing)),
            hornbeam_upgrade:answer_here(Req, Opts, Request, Refused)
    end.
