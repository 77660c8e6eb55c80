%% SPDX-License-Identifier: Apache-2.0

%% @private The way of one request to a worker: finding one, waiting for one, the link to it, and
%% another one when it dies.
%%
%% A worker is linked from the moment that the request is sent to it until the stream has no more
%% interest in it, or it has gone. What is told to a worker that is not linked goes nowhere.
%%
%% Queueing is the affair of {@link hornbeam_pool}, which sends `{pool, retry}' when it is this
%% request's turn and `{pool, timeout}' when it has waited for too long.
-module(hornbeam_dispatch).

%% API
-export([new/1]).
-export([restart_clock/1]).
-export([to_worker/5]).
-export([leave_queue/1]).
-export([is_from_worker/2]).
-export([request_id/1]).
-export([worker/1]).
-export([body/3]).
-export([acknowledge/2]).
-export([refuse_file/3]).
-export([lend/3]).
-export([take_file/1]).
-export([started/1]).
-export([answered/1]).
-export([worker_down/1]).
-export([unlinked/1]).
-export([lost/1]).
-export([is_late/2]).
-export([leave/2]).

-export_type([dispatch/0]).

%% On the way of every request.
-compile({inline, [link_to/3, send/4, tell/2, is_safe/1, may_retry/2]}).

-record(dispatch, {
    %% From when `timeout' and `queue_timeout' count; the latter anew when the worker has died.
    arrival_ms :: integer(),
    queue_since_ms :: integer(),
    %% Kept until the response starts: a retry sends it again.
    scope :: hornbeam_protocol:scope() | undefined,
    request_id :: hornbeam_protocol:request_id() | undefined,
    worker :: hornbeam_selection:worker() | undefined,
    is_retry = false :: boolean(),
    %% Whether another worker may have it when this one dies. One that gives it back has not begun it:
    %% then another one may have it in any case.
    may_retry = false :: boolean()
}).

-opaque dispatch() :: #dispatch{}.

-type handshake() :: hornbeam_ws_handshake:handshake() | undefined.

%% @doc A request with that scope has come; one without it is not to be dispatched.
-spec new(hornbeam_protocol:scope() | undefined) -> dispatch().
new(Scope) ->
    NowMs = erlang:monotonic_time(millisecond),
    #dispatch{arrival_ms = NowMs, queue_since_ms = NowMs, scope = Scope}.

%% @doc The time until now does not count: it is not this request's.
-spec restart_clock(dispatch()) -> dispatch().
restart_clock(Dispatch) ->
    NowMs = erlang:monotonic_time(millisecond),
    Dispatch#dispatch{arrival_ms = NowMs, queue_since_ms = NowMs}.

%%% To a worker

%% @doc Send the request to a worker, or into the queue. One that has met the end of one worker goes
%% only to one that has shown since that it lives.
-spec to_worker(hornbeam_selection:turn(), handshake(), hornbeam_request_body:body(),
                hornbeam_request:request(), dispatch()) ->
    {dispatched, hornbeam_request_body:body(), dispatch()} | queued | overloaded.
to_worker(Turn, Handshake, Body, Request = #{server := #{name := Name}}, Dispatch) ->
    case hornbeam_selection:checkout(Name, Turn, which(Dispatch)) of
        {ok, Worker} ->
            case link_to(Worker, Request, Dispatch) of
                {ok, Linked} -> send(Handshake, Body, Request, Linked);
                gone -> enqueue(Turn, Request, Dispatch)
            end;
        full ->
            wait_for_place(Turn, Request, Dispatch);
        down ->
            overloaded
    end.

which(#dispatch{is_retry = false}) -> any;
which(#dispatch{is_retry = true}) -> proven.

%% In the queue it would have its turn at once where a worker has a place but is in doubt.
wait_for_place(Turn, Request = #{server := #{name := Name}}, Dispatch) ->
    case which(Dispatch) =:= proven andalso hornbeam_selection:has_doubtful(Name) of
        true -> await_proof(Request, Dispatch);
        false -> enqueue(Turn, Request, Dispatch)
    end.

await_proof(Request = #{server := #{name := Name}}, Dispatch) ->
    SinceMs = queued_since_ms(Request, Dispatch),
    case hornbeam_pool:await_proof(Name, hornbeam_request:key(Request), SinceMs) of
        ok -> queued;
        down -> overloaded
    end.

link_to(Worker = {Pid, _, Routes, Load}, Request, Dispatch = #dispatch{arrival_ms = ArrivalMs}) ->
    Id = hornbeam_load:next_request_id(Load),
    Inserted = hornbeam_routes:insert(Routes, Id, hornbeam_request:key(Request), ArrivalMs),
    %% After the insertion: if the worker is alive now, the pool finds the route when it dies.
    case Inserted andalso is_process_alive(Pid) of
        true ->
            {ok, Dispatch#dispatch{worker = Worker, request_id = Id}};
        false ->
            #{server := #{name := Name}} = Request,
            hornbeam_pool:release(Name, Load),
            gone
    end.

%% What is held of a WebSocket is for its session.
send(undefined, Body0, Request, Dispatch = #dispatch{request_id = Id, scope = Scope}) ->
    {Data, More, Body} = hornbeam_request_body:take(Body0),
    ok = tell({request, Id, Scope, Data, More}, Dispatch),
    IsBodiless = not More andalso Data =:= <<>>,
    MayRetry = IsBodiless andalso is_safe(Request) andalso may_retry(Request, Dispatch),
    {dispatched, Body, Dispatch#dispatch{may_retry = MayRetry}};
send(Handshake, Body, Request, Dispatch = #dispatch{request_id = Id, scope = Scope}) ->
    ok = tell({websocket, Id, Scope, hornbeam_ws_handshake:subprotocols(Handshake)}, Dispatch),
    {dispatched, Body, Dispatch#dispatch{may_retry = may_retry(Request, Dispatch)}}.

%% RFC 9110 9.2.2: these may be sent again when a worker dies before it has answered. With a body
%% they are not: it has gone with the worker.
is_safe(#{method := Method}) ->
    Method =:= <<"GET">> orelse Method =:= <<"HEAD">> orelse Method =:= <<"OPTIONS">>.

may_retry(#{server := #{retry := Retry}}, #dispatch{is_retry = IsRetry}) ->
    Retry andalso not IsRetry.

enqueue(Turn, Request = #{server := #{name := Name}}, Dispatch) ->
    SinceMs = queued_since_ms(Request, Dispatch),
    case hornbeam_pool:enqueue(Name, hornbeam_request:key(Request), SinceMs, Turn) of
        ok -> queued;
        full -> overloaded;
        down -> overloaded
    end.

%% The pool lets all wait for the shorter one of the two limits. Once a worker has died they do not
%% count from the same time any more: so that one is told by which both hold.
queued_since_ms(#{server := #{queue_timeout := infinity}}, #dispatch{arrival_ms = ArrivalMs}) ->
    ArrivalMs;
queued_since_ms(#{server := #{timeout := infinity}}, #dispatch{queue_since_ms = SinceMs}) ->
    SinceMs;
queued_since_ms(#{server := Server}, #dispatch{arrival_ms = ArrivalMs, queue_since_ms = SinceMs}) ->
    #{queue_timeout := QueueMs, timeout := AnswerMs} = Server,
    min(SinceMs + QueueMs, ArrivalMs + AnswerMs) - min(QueueMs, AnswerMs).

%% @doc The request ends while it is queued.
-spec leave_queue(hornbeam_request:request()) -> ok.
leave_queue(Request = #{server := #{name := Name}}) ->
    hornbeam_pool:leave_queue(Name, hornbeam_request:key(Request)).

%%% The link

%% @doc Whether a message is one of the worker's that has the request: not a late one, of a worker
%% that was replaced.
-spec is_from_worker(Message :: term(), dispatch()) -> boolean().
is_from_worker(Message, #dispatch{request_id = Id}) ->
    is_tuple(Message) andalso tuple_size(Message) >= 2 andalso element(2, Message) =:= Id.

-spec request_id(dispatch()) -> hornbeam_protocol:request_id() | undefined.
request_id(#dispatch{request_id = Id}) ->
    Id.

%% @doc The worker, for who takes the link over.
-spec worker(dispatch()) -> hornbeam_selection:worker().
worker(#dispatch{worker = Worker}) when Worker =/= undefined ->
    Worker.

%% @doc More of the request's body.
-spec body(Data :: binary(), More :: boolean(), dispatch()) -> ok.
body(Data, More, Dispatch = #dispatch{request_id = Id}) ->
    tell({body, Id, Data, More}, Dispatch).

%% @doc The client has taken so many bytes of the response.
-spec acknowledge(Bytes :: non_neg_integer(), dispatch()) -> ok.
acknowledge(0, _) ->
    ok;
acknowledge(_, #dispatch{worker = undefined}) ->
    ok;
acknowledge(Bytes, Dispatch = #dispatch{worker = {_, _, Routes, _}, request_id = Id}) ->
    ok = hornbeam_routes:acknowledged(Routes, Id, Bytes),
    tell({ack, Id, Bytes}, Dispatch).

%% @doc The file that the worker has named is not to be had.
-spec refuse_file(Reason :: atom(), SizeBytes :: non_neg_integer(), dispatch()) -> ok.
refuse_file(Reason, Size, Dispatch = #dispatch{request_id = Id}) ->
    tell({refused, Id, Reason, Size}, Dispatch).

%% @doc The worker wants to borrow the client's socket. `kept': it does not get it, and is told so.
-spec lend(inet:socket() | undefined, hornbeam_lender:lender(), dispatch()) -> lent | kept.
lend(Socket, Lender, Dispatch = #dispatch{request_id = Id}) ->
    case Socket =/= undefined andalso hornbeam_lender:lend(Id, Socket, Lender) of
        lent ->
            lent;
        _ ->
            ok = tell({kept, Id}, Dispatch),
            kept
    end.

%% @doc The file is open: its worker has done its part, and the link ends.
-spec take_file(dispatch()) -> dispatch().
take_file(Dispatch = #dispatch{request_id = Id, worker = {_, _, Routes, _}}) ->
    ok = tell({opened, Id}, Dispatch),
    _ = hornbeam_routes:detach(Routes, Id),
    Dispatch#dispatch{worker = undefined, request_id = undefined, scope = undefined}.

%% @doc The response has started: there can be no retry.
-spec started(dispatch()) -> dispatch().
started(Dispatch) ->
    Dispatch#dispatch{scope = undefined}.

%% @doc The response has come as a whole: with that the worker has ended the link (see {@link
%% hornbeam_routes}).
-spec answered(dispatch()) -> dispatch().
answered(Dispatch) ->
    Dispatch#dispatch{worker = undefined}.

%% @doc The worker has gone, or had to: whether another one may be asked. The route went with it.
-spec worker_down(dispatch()) -> {again | lost, dispatch()}.
worker_down(Dispatch = #dispatch{scope = Scope, may_retry = true}) when Scope =/= undefined ->
    {again, unlinked(Dispatch#dispatch{is_retry = true})};
worker_down(Dispatch) ->
    {lost, lost(Dispatch)}.

%% @doc The worker that had it has gone, or gives it back: it is to go to another one.
-spec unlinked(dispatch()) -> dispatch().
unlinked(Dispatch) ->
    Dispatch#dispatch{worker = undefined, request_id = undefined,
                      queue_since_ms = erlang:monotonic_time(millisecond)}.

%% @doc The same where it goes nowhere.
-spec lost(dispatch()) -> dispatch().
lost(Dispatch) ->
    Dispatch#dispatch{worker = undefined}.

%% @doc Whether it has been there for longer than the application may take for an answer.
-spec is_late(hornbeam_request:request(), dispatch()) -> boolean().
is_late(#{server := #{timeout := TimeoutMs}}, #dispatch{arrival_ms = ArrivalMs}) ->
    %% Erlang's term order puts `infinity' above every number.
    erlang:monotonic_time(millisecond) - ArrivalMs >= TimeoutMs.

%% @doc The stream listens no more. The worker need not be told after a whole response: it knows.
-spec leave(IsAnswered :: boolean(), dispatch()) -> dispatch().
leave(_, Dispatch = #dispatch{worker = undefined}) ->
    Dispatch;
leave(IsAnswered, Dispatch = #dispatch{worker = {_, _, Routes, _}, request_id = Id}) ->
    _ = hornbeam_routes:detach(Routes, Id) andalso not IsAnswered andalso
        tell({disconnect, Id}, Dispatch),
    Dispatch#dispatch{worker = undefined}.

tell(_Message, #dispatch{worker = undefined}) ->
    ok;
tell(Message, #dispatch{worker = {_, Writer, _, _}}) ->
    hornbeam_writer:send(Writer, hornbeam_protocol:encode(Message)).
