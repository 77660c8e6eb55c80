%% SPDX-License-Identifier: Apache-2.0

%% @private Which connection waits for which request of one worker.
%%
%% An ETS table for each life of a worker, made and owned by the pool, which outlives the worker
%% and so can tell the connections when it dies, in whatever way. Public, because connections
%% insert, the worker delivers and removes, and neither should wait for a process in between.
%%
%% Rows: `{RequestId, ConnectionPid | undefined, StreamId, DispatchedMs | started | accepted |
%% answered, UnackedBytes}'. The pid becomes undefined when the stream has ended before the
%% application has (the client left, or a background task still runs): the request is still in
%% flight for the worker, but nobody is listening. So it does with a whole response, behind which a
%% connection need not detach itself. The fourth field is `started' once there can be no
%% timeout any more, of a WebSocket `accepted', and `answered' when the worker has said the last of
%% the response. The last one is what a connection has been sent and has not acknowledged: a worker
%% that does not wait for acknowledgements would fill the mailbox of a connection whose client does
%% not read.
-module(hornbeam_routes).

%% API
-export([new/0]).
-export([delete/1]).
-export([set_heir/2]).
-export([insert/4]).
-export([count/1]).
-export([done/2]).
-export([detach/2]).
-export([deliver/3]).
-export([lend/3]).
-export([finish/2]).
-export([answer/2]).
-export([return/2]).
-export([acknowledged/3]).
-export([look/2]).
-export([accepted/2]).
-export([expire/2]).
-export([unstarted/1]).
-export([orphans/1]).
-export([tell_going_away/1]).
-export([tell_all/2]).

-export_type([routes/0, stream_key/0, finished/0]).

-type routes() :: ets:tid().

-type stream_key() :: {pid(), cowboy_stream:streamid()}.

-opaque finished() :: tuple().
%% The row of a request that is over.

-define(PID, 2).
-define(DISPATCHED, 4).
-define(UNACKED, 5).
%% More messages than a window of single bytes has, on several HTTP/2 streams.
-define(MAX_MAILBOX, 262144).
%% What a message of a WebSocket counts at least (see docs/protocol.md).
-define(MIN_MESSAGE_BYTES, 64).

-spec new() -> routes().
new() ->
    ets:new(?MODULE, [public, {write_concurrency, true}, {read_concurrency, false}]).

-spec delete(routes()) -> ok.
delete(Routes) ->
    true = ets:delete(Routes),
    ok.

%% @doc The worker, which gets the table if the caller, who owns it, is killed.
-spec set_heir(routes(), pid()) -> ok.
set_heir(Routes, Worker) ->
    true = ets:setopts(Routes, {heir, Worker, ?MODULE}),
    ok.

%% @doc Register the calling connection's stream; `false' when the worker's life is over.
-spec insert(routes(), hornbeam_protocol:request_id(), stream_key(), NowMs :: integer()) ->
    boolean().
insert(Routes, Id, {Pid, StreamId}, NowMs) ->
    try ets:insert(Routes, {Id, Pid, StreamId, NowMs, 0})
    catch error:badarg -> false
    end.

%% @doc How many requests are in flight.
-spec count(routes()) -> non_neg_integer().
count(Routes) ->
    ets:info(Routes, size).

%% @doc The request is over for the worker; `false' when it was not known. A stream that waits for
%% more is told that there is none.
-spec done(routes(), hornbeam_protocol:request_id()) -> boolean().
done(Routes, Id) ->
    try ets:take(Routes, Id) of
        [] ->
            false;
        [{_, Pid, StreamId, State, _}] ->
            _ = is_pid(Pid) andalso State =/= answered andalso (Pid ! {{Pid, StreamId}, {abort, Id}}),
            true
    catch
        error:badarg -> false
    end.

%% @doc Nobody listens to the request any more.
-spec detach(routes(), hornbeam_protocol:request_id()) -> boolean().
detach(Routes, Id) ->
    try ets:update_element(Routes, Id, [{?PID, undefined}, {?DISPATCHED, started}])
    catch error:badarg -> false
    end.

%% @doc Hand a message to the stream that waits for it, or drop it when there is none. `overrun':
%% the worker has sent far more than the window lets it.
-spec deliver(routes(), hornbeam_protocol:from_worker(), Window :: pos_integer()) -> ok | overrun.
deliver(Routes, Message, Window) ->
    Id = element(2, Message),
    case lookup(Routes, Id) of
        [{_, Pid, StreamId, State, _}] when is_pid(Pid) ->
            mark(element(1, Message), State, Routes, Id),
            Pid ! {{Pid, StreamId}, Message},
            count_unacked(Routes, Id, window_bytes(Message), Window);
        _ ->
            ok
    end.

%% @doc The worker wants to borrow the client's socket: the stream may lend it.
-spec lend(routes(), hornbeam_protocol:request_id(), hornbeam_lender:lender()) -> ok.
lend(Routes, Id, Lender) ->
    case lookup(Routes, Id) of
        [{_, Pid, StreamId, _, _}] when is_pid(Pid) ->
            Pid ! {{Pid, StreamId}, {borrow, Id, Lender}},
            ok;
        _ ->
            ok
    end.

%% @doc Forget a request that is over with a whole response, which {@link answer/2} hands on: the same
%% as {@link deliver/3} and then {@link done/2}, but with one operation on the table.
-spec finish(routes(), hornbeam_protocol:request_id()) -> finished() | unknown.
finish(Routes, Id) ->
    try ets:take(Routes, Id) of
        [Row] -> Row;
        [] -> unknown
    catch
        error:badarg -> unknown
    end.

%% @doc Hand the response to the stream that waits for it.
-spec answer(finished(), hornbeam_protocol:from_worker()) -> ok.
answer({_, Pid, StreamId, State, _}, Message = {response, _, _, _, _}) ->
    _ = is_pid(Pid) andalso answer_stream({Pid, StreamId}, State, Message),
    ok.

answer_stream(Key = {Pid, _}, DispatchedMs, Message) when is_integer(DispatchedMs) ->
    Pid ! {Key, Message};
%% It had begun another response, and gets no end of that.
answer_stream(Key = {Pid, _}, State, {response, Id, _, _, _}) ->
    State =/= answered andalso (Pid ! {Key, {abort, Id}}).

%% @doc Look after the connection that a message was for: what is not held back by a window, like
%% informational responses, gathers in its mailbox.
-spec look(routes(), hornbeam_protocol:from_worker()) -> ok | flooded.
look(Routes, Message) when is_integer(element(2, Message)) ->
    case lookup(Routes, element(2, Message)) of
        [{_, Pid, _, _, _}] when is_pid(Pid) -> look_at(process_info(Pid, message_queue_len));
        _ -> ok
    end;
look(_, _) ->
    ok.

look_at({message_queue_len, Length}) when Length > ?MAX_MAILBOX -> flooded;
look_at(_) -> ok.

%% @doc The connection tells the worker that its client has taken so many bytes.
-spec acknowledged(routes(), hornbeam_protocol:request_id(), non_neg_integer()) -> ok.
acknowledged(Routes, Id, Bytes) ->
    try ets:update_counter(Routes, Id, {?UNACKED, -Bytes}) of
        _ -> ok
    catch
        error:badarg -> ok
    end.

%% @doc The worker gives a request back that it has not begun: it is over there, and its stream may
%% have it served elsewhere, unless it has had a part of an answer. `false' when it was not known.
-spec return(routes(), hornbeam_protocol:from_worker()) -> boolean().
return(Routes, Message = {returned, Id, _}) ->
    try ets:take(Routes, Id) of
        [{_, Pid, StreamId, State, _}] ->
            _ = is_pid(Pid) andalso return_to({Pid, StreamId}, State, Message),
            true;
        [] ->
            false
    catch
        error:badarg -> false
    end.

return_to(Key = {Pid, _}, DispatchedMs, Message) when is_integer(DispatchedMs) ->
    Pid ! {Key, Message};
%% Nothing more comes of what has begun.
return_to(Key = {Pid, _}, State, {returned, Id, _}) ->
    State =/= answered andalso (Pid ! {Key, {abort, Id}}).

%% @doc The WebSocket session that the worker has accepted for that request, while it is open.
-spec accepted(routes(), hornbeam_protocol:request_id()) -> {ok, stream_key()} | none.
accepted(Routes, Id) ->
    case lookup(Routes, Id) of
        [{_, Pid, StreamId, accepted, _}] when is_pid(Pid) -> {ok, {Pid, StreamId}};
        _ -> none
    end.

%% @doc Tell the streams whose response has not started since before `LimitMs' that it will not,
%% and give the ids of their requests.
-spec expire(routes(), LimitMs :: integer()) -> [hornbeam_protocol:request_id()].
expire(Routes, LimitMs) ->
    Late = ets:select(Routes, [{{'_', '_', '_', '$1', '_'},
                                [{is_integer, '$1'}, {'=<', '$1', LimitMs}], ['$_']}]),
    [begin
        true = is_boolean(ets:update_element(Routes, Id, {?DISPATCHED, started})),
        _ = is_pid(Pid) andalso (Pid ! {{Pid, StreamId}, {timeout, Id}}),
        Id
     end || {Id, Pid, StreamId, _, _} <- Late].

%% @doc The connections of requests whose response has not started.
-spec unstarted(routes()) -> [pid()].
unstarted(Routes) ->
    lists:usort(ets:select(Routes, [{{'_', '$1', '_', '$2', '_'},
                                     [{is_pid, '$1'}, {is_integer, '$2'}], ['$1']}])).

%% @doc Detach the requests whose connection has died without a word (it was killed, or Cowboy has
%% crashed), and give what to tell the worker of each.
-spec orphans(routes()) -> [hornbeam_protocol:to_worker()].
orphans(Routes) ->
    HasPid = [{{'$1', '$2', '_', '$3', '_'}, [{is_pid, '$2'}], [{{'$1', '$2', '$3'}}]}],
    [farewell(Id, State) || {Id, Pid, State} <- ets:select(Routes, HasPid),
                            not is_process_alive(Pid), detach(Routes, Id)].

farewell(Id, accepted) -> {closed, Id, 1006, <<>>};
farewell(Id, _) -> {disconnect, Id}.

%% @doc Tell all WebSockets that the server is about to stop.
-spec tell_going_away(routes()) -> ok.
tell_going_away(Routes) ->
    Accepted = [{{'$1', '$2', '$3', accepted, '_'}, [{is_pid, '$2'}], [{{'$1', '$2', '$3'}}]}],
    try ets:select(Routes, Accepted) of
        Rows -> lists:foreach(fun tell_one_going_away/1, Rows)
    catch
        %% The worker has gone.
        error:badarg -> ok
    end.

tell_one_going_away({Id, Pid, StreamId}) ->
    Pid ! {{Pid, StreamId}, {going_away, Id}}.

%% @doc The worker's life is over: tell the streams that wait for it why, and forget them.
-spec tell_all(routes(), worker_down | worker_replaced) -> ok.
tell_all(Routes, Word) ->
    Rows = ets:tab2list(Routes),
    true = ets:delete_all_objects(Routes),
    lists:foreach(fun({Id, Pid, StreamId, _, _}) -> tell_one(Pid, StreamId, {Word, Id}) end, Rows).

tell_one(undefined, _, _) -> ok;
tell_one(Pid, StreamId, Message) -> Pid ! {{Pid, StreamId}, Message}.

lookup(Routes, Id) ->
    try ets:lookup(Routes, Id)
    catch error:badarg -> []
    end.

%% Informational responses do not stop the clock.
mark(start, State, Routes, Id) when is_integer(State) -> put_state(started, Routes, Id);
mark(accept, State, Routes, Id) when is_integer(State) -> put_state(accepted, Routes, Id);
mark(response, State, Routes, Id) when is_integer(State) ->
    _ = ets:update_element(Routes, Id, [{?PID, undefined}, {?DISPATCHED, answered}]),
    ok;
mark(Last, started, Routes, Id) when Last =:= last; Last =:= trailers; Last =:= abort ->
    put_state(answered, Routes, Id);
mark(abort, State, Routes, Id) when is_integer(State) -> put_state(answered, Routes, Id);
mark(_, _, _, _) -> ok.

put_state(State, Routes, Id) ->
    _ = ets:update_element(Routes, Id, {?DISPATCHED, State}),
    ok.

%% What the connection acknowledges. A whole response is the only one of its request.
window_bytes({data, _, Data}) -> byte_size(Data);
window_bytes({last, _, Data}) -> byte_size(Data);
window_bytes({start, _, _, _, Body}) -> byte_size(Body);
window_bytes({message, _, _, Data}) -> max(?MIN_MESSAGE_BYTES, byte_size(Data));
window_bytes(_) -> 0.

%% A worker may send while less than a window is unacknowledged, by its own count, which lags behind
%% this one: twice as much is a fault whatever the size of this message.
count_unacked(_, _, 0, _) ->
    ok;
count_unacked(Routes, Id, Bytes, Window) ->
    try ets:update_counter(Routes, Id, {?UNACKED, Bytes}) of
        Unacked when Unacked - Bytes > 2 * Window -> overrun;
        _ -> ok
    catch
        error:badarg -> ok
    end.
