%% SPDX-License-Identifier: Apache-2.0

%% @private One request and its response: in which phase they are, and what ends them.
%%
%% A state machine that is driven as a Cowboy stream; all that can happen in it is in this one
%% place, which makes the module longer than others. How it happens is the affair of its parts, each
%% of which owns its state and calls none above it: {@link hornbeam_dispatch}, the way to a worker
%% and the link to it; {@link hornbeam_request_body} and {@link hornbeam_response_body}, flow control
%% both ways. Phases:
%%
%% <ul>
%% <li>`parked': pipelined behind a request that is not over; starts when that one has ended.</li>
%% <li>`gathering': a small body comes in before a worker is asked for, whose thread it would
%%   hold.</li>
%% <li>`queued': no worker had a place; the pool says when to try again, or that time is up.</li>
%% <li>`dispatched': a worker has it; no response yet.</li>
%% <li>`started': the response has begun and goes on.</li>
%% <li>`skipping': the response is complete, the rest of the request's body is read and dropped so
%%   that the next request can come.</li>
%% <li>`over': nothing more will be sent; what still comes is ignored.</li>
%% </ul>
-module(hornbeam_exchange).

-include_lib("kernel/include/logger.hrl").

%% API
-export([new/4]).
-export([request/1]).
-export([kind/1]).
-export([initial_flow/1]).
-export([close/1]).
-export([is_parked/1]).
-export([restart_clock/1]).
-export([proceed/1]).
-export([data/3]).
-export([info/2]).
-export([refuse/4]).
-export([overloaded/1]).
-export([cut/1]).
-export([terminate/1]).

-export_type([exchange/0]).

%% On the way of every request.
-compile({inline, [message/2, from_worker/2, response_headers/2, dispatch/2, leave/1, kind/3]}).

-type kind() :: plain | websocket | chunked.
%% The latter two are the last of an HTTP/1 connection, which is taken over for them.

-record(exchange, {
    phase :: parked | gathering | queued | dispatched | started | skipping | over,
    kind :: kind(),
    request :: hornbeam_request:request(),
    %% What makes this one a WebSocket's, until it is accepted.
    handshake :: hornbeam_ws_handshake:handshake() | undefined,
    %% The connection is not to be used after this response.
    close :: boolean(),
    dispatch :: hornbeam_dispatch:dispatch(),
    request_body :: hornbeam_request_body:body(),
    response_body :: hornbeam_response_body:body()
}).

-opaque exchange() :: #exchange{}.

-type result() :: {cowboy_stream:commands(), exchange()}.

%%% The beginning

%% @doc A request with that scope; one without it is not let in.
-spec new(hornbeam_protocol:scope() | undefined, hornbeam_ws_handshake:handshake() | undefined,
          hornbeam_request:incoming(), hornbeam_request:request()) -> exchange().
new(Scope, Handshake, Req, Request = #{version := Version}) ->
    Kind = kind(Version, Handshake, Req),
    #exchange{
        phase = parked, kind = Kind, request = Request, handshake = Handshake,
        close = Kind =/= plain,
        dispatch = hornbeam_dispatch:new(Scope),
        request_body = hornbeam_request_body:new(Req, Request),
        response_body = hornbeam_response_body:new()
    }.

-spec request(exchange()) -> hornbeam_request:request().
request(#exchange{request = Request}) ->
    Request.

kind('HTTP/2', _, _) -> plain;
kind(_, undefined, #{has_body := true, body_length := undefined}) -> chunked;
kind(_, undefined, _) -> plain;
kind(_, _, _) -> websocket.

%% @doc Whether an HTTP/1 connection is to be taken over for it, and why.
-spec kind(exchange()) -> kind().
kind(#exchange{kind = Kind}) ->
    Kind.

%% @doc HTTP/2: what the client may send anyway, so that Cowboy's count and ours are one.
-spec initial_flow(exchange()) -> cowboy_stream:commands().
initial_flow(#exchange{request = Request, request_body = Body}) ->
    hornbeam_request_body:initial_flow(Request, Body).

%% @doc The connection is not to be used after this response.
-spec close(exchange()) -> exchange().
close(Exchange) ->
    Exchange#exchange{close = true}.

-spec is_parked(exchange()) -> boolean().
is_parked(#exchange{phase = Phase}) ->
    Phase =:= parked.

%% @doc Time counts from now.
-spec restart_clock(exchange()) -> exchange().
restart_clock(Exchange = #exchange{dispatch = Dispatch}) ->
    Exchange#exchange{dispatch = hornbeam_dispatch:restart_clock(Dispatch)}.

%%% What comes

%% @doc Bytes of the client.
-spec data(cowboy_stream:fin(), binary(), exchange()) -> result().
data(_IsFin, _Data, Exchange = #exchange{phase = over}) ->
    {[], Exchange};
data(IsFin, Data, Exchange = #exchange{handshake = Handshake}) when Handshake =/= undefined ->
    handshake_data(IsFin, Data, Exchange);
data(fin, _Data, Exchange = #exchange{phase = skipping}) ->
    stop_skipping(Exchange);
data(nofin, _Data, Exchange = #exchange{phase = skipping}) ->
    {[], Exchange};
data(IsFin, Data, Exchange0 = #exchange{request = Request, request_body = Body0}) ->
    {What, Body} = hornbeam_request_body:received(IsFin, Data, Request, Body0),
    Exchange = Exchange0#exchange{request_body = Body},
    case What of
        part -> forward(Data, Exchange);
        end_of_stream -> {[], Exchange};
        too_large -> fail(413, <<"the request body is too large">>, Exchange)
    end.

%% @doc A message of the worker, of the pool, of Cowboy or of the exchange to itself; `accepted'
%% when it is a WebSocket from now on.
-spec info(term(), exchange()) ->
    result() | {accepted, cowboy_stream:commands(), hornbeam_websocket:session()}.
%% HTTP/2, also behind the end: Cowboy begins to queue for want of window, and has sent all of it.
info({alarm, stream_buffer_full, Alarm}, Exchange) ->
    buffer_alarm(Alarm, Exchange);
info({send_timeout, Name}, Exchange) ->
    send_timeout(Name, Exchange);
info(end_expected, Exchange = #exchange{phase = over}) ->
    #exchange{request = Request, request_body = Body, response_body = Response} = Exchange,
    IsComplete = hornbeam_request_body:is_complete(Body),
    {hornbeam_response_body:force_end(IsComplete, Request, Response), Exchange};
%% Cowboy wants to complete a response that was broken off: it must not look complete.
info({data, fin, <<>>}, Exchange) ->
    {[], Exchange};
%% Nor is its own answer, to a body that makes no sense or a fault of ours, like the others.
info({response, Status, _, _}, Exchange = #exchange{request = Request}) ->
    Why = <<"the request could not be handled">>,
    Headers = #{<<"connection">> => <<"close">>},
    {[hornbeam_refusal:response(Status, Why, Headers, Request)], Exchange};
info({body_timeout, Name}, Exchange) ->
    body_timeout(Name, Exchange);
info(_Message, Exchange = #exchange{phase = Phase}) when Phase =:= skipping; Phase =:= over ->
    {[], Exchange};
info({switch_protocol, _, _, _} = Switch, Exchange) ->
    switched(Switch, Exchange);
info({pool, retry}, Exchange = #exchange{phase = queued}) ->
    dispatch(queued, Exchange);
info({pool, timeout}, Exchange = #exchange{phase = queued}) ->
    queue_timeout(Exchange);
info({sent, Bytes}, Exchange) ->
    #exchange{request = Request, dispatch = Dispatch, response_body = Body} = Exchange,
    carry_out(hornbeam_response_body:sent(Bytes, Request, Dispatch, Body), Exchange);
info(Message, Exchange) ->
    message(Message, Exchange).

%% Nothing may be sent on the stream before Cowboy has sent its settings, which it does next.
switched(Switch, Exchange = #exchange{request = Request}) ->
    ok = hornbeam_request:tell(unpark, Request),
    {[Switch], Exchange#exchange{request = Request#{version := 'HTTP/2'}}}.

%%% To the worker

%% @doc It has its turn: it goes to a worker, when what is gathered of its body is there.
-spec proceed(exchange()) -> result().
proceed(Exchange = #exchange{request = Request, request_body = Body}) ->
    case hornbeam_request_body:is_complete(Body) orelse not gathers_bodies(Request) of
        true -> dispatch(new, Exchange);
        false -> gather(Exchange#exchange{phase = gathering})
    end.

gathers_bodies(#{server := #{name := Name}}) ->
    hornbeam_selection:gathers_bodies(Name).

gather(Exchange = #exchange{request = Request, request_body = Body, dispatch = Dispatch}) ->
    case hornbeam_request_body:is_gathered(Request, Body) of
        true ->
            %% The time of a slow client is not the application's.
            dispatch(new, Exchange#exchange{request_body = hornbeam_request_body:stop_clock(Body),
                                        dispatch = hornbeam_dispatch:restart_clock(Dispatch)});
        false ->
            incoming(hornbeam_request_body:ask(Request, Body), Exchange)
    end.

dispatch(Turn, Exchange = #exchange{request = Request, handshake = Handshake}) ->
    #exchange{request_body = Body0, dispatch = Dispatch0} = Exchange,
    case hornbeam_dispatch:to_worker(Turn, Handshake, Body0, Request, Dispatch0) of
        {dispatched, Body, Dispatch} ->
            {[], Exchange#exchange{phase = dispatched, request_body = Body, dispatch = Dispatch}};
        queued ->
            {[], Exchange#exchange{phase = queued}};
        overloaded ->
            overloaded(Exchange)
    end.

forward(Data, Exchange = #exchange{phase = Phase, request_body = Body})
        when Phase =:= parked; Phase =:= queued; Phase =:= gathering ->
    Held = Exchange#exchange{request_body = hornbeam_request_body:hold(Data, Body)},
    case Phase of
        gathering -> gather(Held);
        _ -> {[], Held}
    end;
forward(Data, Exchange = #exchange{request_body = Body, dispatch = Dispatch}) ->
    More = not hornbeam_request_body:is_complete(Body),
    ok = hornbeam_dispatch:body(Data, More, Dispatch),
    {[], Exchange#exchange{request_body = hornbeam_request_body:stop_clock(Body)}}.

%% What a client sends behind its handshake is for the session, if there is to be one. One that ends
%% its HTTP/2 stream has gone.
handshake_data(fin, _, Exchange = #exchange{phase = started}) ->
    {[], Exchange};
handshake_data(fin, _, Exchange) ->
    fail(400, <<"the stream was ended before the handshake">>, Exchange);
handshake_data(nofin, Data, Exchange = #exchange{request_body = Body}) ->
    {[], Exchange#exchange{request_body = hornbeam_request_body:early(Data, Body)}}.

incoming({Commands, Body}, Exchange) ->
    {Commands, Exchange#exchange{request_body = Body}}.

%%% From the worker

%% What is none of its messages is late: of a worker that was replaced, or after the end.
message(Message, Exchange = #exchange{request = #{version := Version}, dispatch = Dispatch}) ->
    case hornbeam_dispatch:is_from_worker(Message, Dispatch) of
        true when Version =:= 'HTTP/2' ->
            case hornbeam_http2:fits(Message) of
                true -> from_worker(Message, Exchange);
                false -> headers_too_large(Message, Exchange)
            end;
        true ->
            from_worker(Message, Exchange);
        false ->
            {[], Exchange}
    end.

from_worker({response, _, Status, Headers, Data}, Exchange = #exchange{phase = dispatched}) ->
    #exchange{request = #{method := Method}, dispatch = Dispatch} = Exchange,
    Command = hornbeam_response:whole(Status, response_headers(Headers, Exchange), Data, Method),
    finish([Command], Exchange#exchange{dispatch = hornbeam_dispatch:answered(Dispatch)});
from_worker({start, _, Status, Headers, Data}, Exchange = #exchange{phase = dispatched}) ->
    start(Status, response_headers(Headers, Exchange), Data, Exchange);
from_worker({accept, _, Subprotocol, Headers}, Exchange = #exchange{phase = dispatched})
        when Exchange#exchange.handshake =/= undefined ->
    accept(Subprotocol, Headers, Exchange);
from_worker({accept, _, _, _}, Exchange = #exchange{phase = dispatched}) ->
    fail(500, <<"Internal Server Error">>, Exchange);
from_worker({data, _, Data}, Exchange = #exchange{phase = started}) ->
    send(nofin, Data, Exchange);
from_worker({last, _, Data}, Exchange = #exchange{phase = started}) ->
    send(fin, Data, Exchange);
from_worker({trailers, _, Headers}, Exchange = #exchange{phase = started}) ->
    trailers(Headers, Exchange);
from_worker({file, _, {Status, Headers}, Path, Offset, Bytes},
            Exchange = #exchange{phase = dispatched}) ->
    Head = {Status, response_headers(Headers, Exchange)},
    open_file(Head, hornbeam_file:open(Path, Offset, Bytes), Exchange);
from_worker({file, _, undefined, Path, Offset, Bytes}, Exchange = #exchange{phase = started}) ->
    open_file(undefined, hornbeam_file:open(Path, Offset, Bytes), Exchange);
from_worker({borrow, _, Lender}, Exchange = #exchange{phase = started}) ->
    #exchange{request = Request, dispatch = Dispatch, response_body = Body} = Exchange,
    Lent = hornbeam_response_body:lend(Lender, Request, Dispatch, Body),
    {[], Exchange#exchange{response_body = Lent}};
from_worker({written, _, Bytes}, Exchange = #exchange{phase = started, response_body = Body}) ->
    carry_out(hornbeam_response_body:written(Bytes, Body), Exchange);
from_worker({inform, _, Status, Headers}, Exchange = #exchange{phase = dispatched}) ->
    {[{inform, hornbeam_response:status(Status), hornbeam_response:trailers(Headers)}], Exchange};
from_worker({credit, _, Bytes}, Exchange) ->
    #exchange{request = Request, request_body = Body} = Exchange,
    incoming(hornbeam_request_body:credit(Bytes, Request, Body), Exchange);
from_worker({waiting, _, Received}, Exchange = #exchange{phase = Phase}) ->
    #exchange{request = Request, request_body = Body} = Exchange,
    HasStarted = Phase =/= dispatched,
    incoming(hornbeam_request_body:waiting(Received, HasStarted, Request, Body), Exchange);
from_worker({returned, _, Data}, Exchange = #exchange{phase = dispatched}) ->
    returned(Data, Exchange);
from_worker({abort, _}, Exchange) ->
    fail(500, <<"Internal Server Error">>, Exchange);
from_worker({timeout, _}, Exchange) ->
    fail(504, <<"the application did not answer in time">>, Exchange);
from_worker({worker_down, _}, Exchange) ->
    worker_down(Exchange);
%% It had to end before this request was over.
from_worker({worker_replaced, _}, Exchange) ->
    worker_down(Exchange);
from_worker(_, Exchange) ->
    {[], Exchange}.

worker_down(Exchange = #exchange{dispatch = Dispatch0}) ->
    {Verdict, Dispatch} = hornbeam_dispatch:worker_down(Dispatch0),
    Left = Exchange#exchange{dispatch = Dispatch},
    case Verdict of
        again -> dispatch(queued, Left);
        lost -> lost(Left)
    end.

lost(Exchange) ->
    fail(502, <<"the worker that served this request has ended">>, Exchange).

%% The worker has not begun the request, so any other may have it, whatever its method.
returned(_, Exchange = #exchange{handshake = Handshake}) when Handshake =/= undefined ->
    dispatch_anew(Exchange);
returned(Data, Exchange = #exchange{request_body = Body0, dispatch = Dispatch}) ->
    case hornbeam_request_body:give_back(Data, Body0) of
        {ok, Body} -> dispatch_anew(Exchange#exchange{request_body = Body});
        lost -> lost(Exchange#exchange{dispatch = hornbeam_dispatch:lost(Dispatch)})
    end.

dispatch_anew(Exchange = #exchange{dispatch = Dispatch}) ->
    dispatch(queued, Exchange#exchange{dispatch = hornbeam_dispatch:unlinked(Dispatch)}).

accept(Subprotocol, Headers, Exchange = #exchange{request = Request, handshake = Handshake}) ->
    #exchange{dispatch = Dispatch, request_body = Body} = Exchange,
    #{version := Version, server := Server} = Request,
    Map = hornbeam_response:headers(Headers, Version, Server),
    {Commands, Session} =
        hornbeam_upgrade:accept({Subprotocol, Map}, Handshake, Request, Dispatch, Body),
    {accepted, Commands, Session}.

%% A client that was never told to continue may not send its body at all: what follows on the
%% connection could be either.
response_headers(Headers, #exchange{request = Request, request_body = Body, close = Close}) ->
    #{version := Version, server := Server} = Request,
    Map = hornbeam_response:headers(Headers, Version, Server),
    case Close orelse hornbeam_request_body:expects_continue(Body) of
        true -> Map#{<<"connection">> => <<"close">>};
        false -> Map
    end.

%%% The response

start(Status, Headers, Data, Exchange = #exchange{request = Request, dispatch = Dispatch0}) ->
    Dispatch = hornbeam_dispatch:started(Dispatch0),
    {Head, Body} = hornbeam_response_body:start(Status, Headers, Request,
                                                Exchange#exchange.response_body),
    Started = Exchange#exchange{phase = started, dispatch = Dispatch, response_body = Body},
    {Commands, Sent} = send(nofin, Data, Started),
    {Head ++ Commands, Sent}.

send(IsFin, Data, Exchange = #exchange{request = Request, dispatch = Dispatch}) ->
    #exchange{response_body = Body} = Exchange,
    carry_out(hornbeam_response_body:data(IsFin, Data, Request, Dispatch, Body), Exchange).

trailers(Headers, Exchange = #exchange{request = Request, response_body = Body}) ->
    case hornbeam_response_body:is_bodiless(Body) of
        true ->
            send(fin, <<>>, Exchange);
        false ->
            Trailers = {trailers, hornbeam_response:trailers(Headers)},
            {Commands, Finished} = finish([Trailers], Exchange),
            outgoing(hornbeam_response_body:finish(Commands, Request, Body), Finished)
    end.

%% Until the file is open nothing has been sent that promises it: the application can still do
%% something else.
open_file(_, {error, {Reason, Size}}, Exchange = #exchange{dispatch = Dispatch}) ->
    ok = hornbeam_dispatch:refuse_file(Reason, Size, Dispatch),
    {[], Exchange};
open_file(Head, Opened, Exchange = #exchange{request = Request, dispatch = Dispatch0}) ->
    #exchange{response_body = Body} = Exchange,
    Dispatch = hornbeam_dispatch:take_file(Dispatch0),
    carry_out(hornbeam_response_body:file(Head, Opened, Request, Dispatch, Body),
              Exchange#exchange{phase = started, dispatch = Dispatch}).

buffer_alarm(on, Exchange = #exchange{request = Request, response_body = Body}) ->
    {[], Exchange#exchange{response_body = hornbeam_response_body:filled(Request, Body)}};
buffer_alarm(off, Exchange = #exchange{request = Request, response_body = Body}) ->
    #exchange{dispatch = Dispatch} = Exchange,
    carry_out(hornbeam_response_body:drained(Request, Dispatch, Body), Exchange).

outgoing({Commands, Body}, Exchange) ->
    {Commands, Exchange#exchange{response_body = Body}}.

-spec carry_out(hornbeam_response_body:step(), exchange()) -> result().
carry_out({Next, Commands, Body}, Exchange0) ->
    Exchange = Exchange0#exchange{response_body = Body},
    case Next of
        go_on ->
            {Commands, Exchange};
        finish ->
            finish(Commands, Exchange);
        cut ->
            cut(Exchange);
        {fail, Why} ->
            {More, Failed} = fail(500, Why, Exchange),
            {Commands ++ More, Failed}
    end.

%%% Time

body_timeout(Name, Exchange = #exchange{phase = Phase, request = Request}) ->
    #exchange{request_body = Body0} = Exchange,
    case Phase =/= over andalso hornbeam_request_body:timed_out(Name, Request, Body0) of
        {nothing, Body} -> {[], Exchange#exchange{request_body = Body}};
        {Missing, Body} -> body_missing(Missing, Exchange#exchange{request_body = Body});
        _ -> {[], Exchange}
    end.

body_missing(end_of_stream, Exchange = #exchange{phase = skipping}) ->
    stop_skipping(Exchange);
body_missing(part, Exchange = #exchange{phase = skipping}) ->
    cut(Exchange);
body_missing(_, Exchange) ->
    fail(408, <<"the request body did not arrive in time">>, Exchange).

%% It may have waited for a place for as long as for an answer.
queue_timeout(Exchange = #exchange{request = Request, dispatch = Dispatch}) ->
    case hornbeam_dispatch:is_late(Request, Dispatch) of
        true -> fail(504, <<"the application did not answer in time">>, Exchange);
        false -> overloaded(Exchange)
    end.

%% The client takes nothing of the response.
send_timeout(Name, Exchange = #exchange{phase = Phase, request = Request, response_body = Body0}) ->
    case hornbeam_response_body:timed_out(Name, Request, Body0) of
        {going, Body} ->
            {[], Exchange#exchange{response_body = Body}};
        stalled when Phase =:= started ->
            fail(408, <<"the client does not take the response">>, Exchange);
        stalled ->
            cut(Exchange)
    end.

%%% Ends

%% A response that ends well.
finish(Commands, Exchange = #exchange{request = Request, request_body = Body0, close = Close}) ->
    {Phase, More, Body} = hornbeam_request_body:finish(Close, Request, Body0),
    Finished = Exchange#exchange{phase = Phase, request_body = Body},
    case Phase of
        over -> {Commands ++ More, Finished};
        skipping -> {Commands ++ More, leave(Finished)}
    end.

stop_skipping(Exchange = #exchange{request = Request, request_body = Body}) ->
    Commands = [stop],
    ok = hornbeam_response_body:expect_end(Commands, Request),
    Stopped = hornbeam_request_body:stop_clock(Body),
    {Commands, Exchange#exchange{phase = over, request_body = Stopped}}.

leave(Exchange = #exchange{phase = Phase, dispatch = Dispatch}) ->
    IsAnswered = Phase =:= over orelse Phase =:= skipping,
    Exchange#exchange{dispatch = hornbeam_dispatch:leave(IsAnswered, Dispatch)}.

headers_too_large(Message, Exchange = #exchange{dispatch = Dispatch}) ->
    ?LOG_ERROR(#{what => headers_too_large, message => element(1, Message),
                 request_id => hornbeam_dispatch:request_id(Dispatch)}),
    fail(500, <<"Internal Server Error">>, Exchange).

%% A response that cannot be: an error where nothing has been sent, a cut where something has.
fail(Status, Text, Exchange = #exchange{phase = started, dispatch = Dispatch}) ->
    ?LOG_INFO(#{what => response_cut, status => Status, why => Text,
                request_id => hornbeam_dispatch:request_id(Dispatch)}),
    cut(leave(Exchange));
fail(Status, Text, Exchange) ->
    refuse(Status, Text, #{}, leave(Exchange)).

%% @doc End it so that it does not look complete.
-spec cut(exchange()) -> result().
cut(Exchange = #exchange{request = Request, response_body = Body}) ->
    {hornbeam_response_body:cut(Request, Body), Exchange#exchange{phase = over}}.

%% @doc There is no worker for it.
-spec overloaded(exchange()) -> result().
overloaded(Exchange) ->
    refuse(503, <<"all workers are busy">>, #{<<"retry-after">> => <<"1">>}, Exchange).

%% @doc An answer of the server itself. The connection ends with it where the request was at fault
%% or its body is not all there.
-spec refuse(Status :: 400..599, Text :: binary(), cowboy:http_headers(), exchange()) -> result().
refuse(Status, Text, Headers0, Exchange) ->
    #exchange{request = Request, request_body = Body, close = Close0} = Exchange,
    Close = Close0 orelse not hornbeam_request_body:is_complete(Body) orelse
        hornbeam_refusal:ends_connection(Status),
    Headers = case Close of
        true -> Headers0#{<<"connection">> => <<"close">>};
        false -> Headers0
    end,
    Refusal = hornbeam_refusal:response(Status, Text, Headers, Request),
    finish([Refusal], Exchange#exchange{close = Close}).

%% @doc The stream has ended, in whatever way.
-spec terminate(exchange()) -> ok.
terminate(Exchange = #exchange{phase = Phase, request = Request = #{connection := Connection}}) ->
    hornbeam_connection:stream_ended(Connection),
    ok = hornbeam_request_body:close(Exchange#exchange.request_body),
    ok = hornbeam_response_body:close(Exchange#exchange.response_body),
    _ = Phase =:= queued andalso hornbeam_dispatch:leave_queue(Request),
    _ = leave(Exchange),
    ok.
