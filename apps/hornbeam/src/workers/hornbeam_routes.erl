%% SPDX-License-Identifier: Apache-2.0

%% @private Which connection waits for which request of one worker.
%%
%% An ETS table for each life of a worker, made and owned by the pool, which outlives the worker
%% and so can tell the connections when it dies, in whatever way. Public, because connections
%% insert, the worker delivers and removes, and neither should wait for a process in between.
%%
%% Rows: `{RequestId, ConnectionPid | undefined, StreamId, DispatchedMs | started | accepted}'. The
%% pid becomes undefined when the stream has ended before the application has (the client left, or a
%% background task still runs): the request is still in flight for the worker, but nobody is
%% listening. The last field is `started' once there can be no timeout any more, of a WebSocket
%% `accepted'.
-module(hornbeam_routes).

%% API
-export([new/0]).
-export([delete/1]).
-export([insert/4]).
-export([count/1]).
-export([remove/2]).
-export([detach/2]).
-export([deliver/2]).
-export([accepted/2]).
-export([expire/2]).
-export([orphans/1]).
-export([tell_going_away/1]).
-export([take_all/1]).

-export_type([routes/0, stream_key/0]).

-type routes() :: ets:tid().

-type stream_key() :: {pid(), cowboy_stream:streamid()}.

-define(PID, 2).
-define(DISPATCHED, 4).

-spec new() -> routes().
new() ->
    ets:new(?MODULE, [public, {write_concurrency, true}, {read_concurrency, false}]).

-spec delete(routes()) -> ok.
delete(Routes) ->
    true = ets:delete(Routes),
    ok.

%% @doc Register the calling connection's stream; `false' when the worker's life is over.
-spec insert(routes(), hornbeam_protocol:request_id(), stream_key(), NowMs :: integer()) ->
    boolean().
insert(Routes, Id, {Pid, StreamId}, NowMs) ->
    try ets:insert(Routes, {Id, Pid, StreamId, NowMs})
    catch error:badarg -> false
    end.

%% @doc How many requests are in flight.
-spec count(routes()) -> non_neg_integer().
count(Routes) ->
    ets:info(Routes, size).

%% @doc The request is over for the worker; `false' when it was not known.
-spec remove(routes(), hornbeam_protocol:request_id()) -> boolean().
remove(Routes, Id) ->
    try ets:take(Routes, Id) =/= []
    catch error:badarg -> false
    end.

%% @doc Nobody listens to the request any more.
-spec detach(routes(), hornbeam_protocol:request_id()) -> boolean().
detach(Routes, Id) ->
    try ets:update_element(Routes, Id, [{?PID, undefined}, {?DISPATCHED, started}])
    catch error:badarg -> false
    end.

%% @doc Hand a message to the stream that waits for it, or drop it when there is none.
-spec deliver(routes(), hornbeam_protocol:from_worker()) -> ok.
deliver(Routes, Message) ->
    Id = element(2, Message),
    case lookup(Routes, Id) of
        [{_, Pid, StreamId, Dispatched}] when is_pid(Pid) ->
            mark_started(element(1, Message), Dispatched, Routes, Id),
            Pid ! {{Pid, StreamId}, Message},
            ok;
        _ ->
            ok
    end.

%% @doc The WebSocket session that the worker has accepted for that request, while it is open.
-spec accepted(routes(), hornbeam_protocol:request_id()) -> {ok, stream_key()} | none.
accepted(Routes, Id) ->
    case lookup(Routes, Id) of
        [{_, Pid, StreamId, accepted}] when is_pid(Pid) -> {ok, {Pid, StreamId}};
        _ -> none
    end.

%% @doc Tell the streams whose response has not started since before `LimitMs' that it will not,
%% and give the ids of their requests.
-spec expire(routes(), LimitMs :: integer()) -> [hornbeam_protocol:request_id()].
expire(Routes, LimitMs) ->
    Late = ets:select(Routes, [{{'_', '_', '_', '$1'},
                                [{is_integer, '$1'}, {'=<', '$1', LimitMs}], ['$_']}]),
    [begin
        true = is_boolean(ets:update_element(Routes, Id, {?DISPATCHED, started})),
        _ = is_pid(Pid) andalso (Pid ! {{Pid, StreamId}, {timeout, Id}}),
        Id
     end || {Id, Pid, StreamId, _} <- Late].

%% @doc Detach the requests whose connection has died without a word (it was killed, or Cowboy has
%% crashed), and give what to tell the worker of each.
-spec orphans(routes()) -> [hornbeam_protocol:to_worker()].
orphans(Routes) ->
    HasPid = [{{'$1', '$2', '_', '$3'}, [{is_pid, '$2'}], [{{'$1', '$2', '$3'}}]}],
    [farewell(Id, State) || {Id, Pid, State} <- ets:select(Routes, HasPid),
                            not is_process_alive(Pid), detach(Routes, Id)].

farewell(Id, accepted) -> {closed, Id, 1006, <<>>};
farewell(Id, _) -> {disconnect, Id}.

%% @doc Tell all WebSockets that the server is about to stop.
-spec tell_going_away(routes()) -> ok.
tell_going_away(Routes) ->
    Accepted = [{{'$1', '$2', '$3', accepted}, [{is_pid, '$2'}], [{{'$1', '$2', '$3'}}]}],
    try ets:select(Routes, Accepted) of
        Rows -> lists:foreach(fun tell_one_going_away/1, Rows)
    catch
        %% The worker has gone.
        error:badarg -> ok
    end.

tell_one_going_away({Id, Pid, StreamId}) ->
    Pid ! {{Pid, StreamId}, {going_away, Id}}.

%% @doc Empty the table: every request with the stream that waits for it, if one does.
-spec take_all(routes()) -> [{hornbeam_protocol:request_id(), stream_key() | undefined}].
take_all(Routes) ->
    Rows = ets:tab2list(Routes),
    true = ets:delete_all_objects(Routes),
    [{Id, case Pid of undefined -> undefined; _ -> {Pid, StreamId} end}
     || {Id, Pid, StreamId, _} <- Rows].

lookup(Routes, Id) ->
    try ets:lookup(Routes, Id)
    catch error:badarg -> []
    end.

%% Only messages that begin a response that goes on are marked: after a whole response the route
%% is about to be removed anyway. Informational responses do not stop the clock.
mark_started(start, Dispatched, Routes, Id) when Dispatched =/= started ->
    _ = ets:update_element(Routes, Id, {?DISPATCHED, started}),
    ok;
mark_started(accept, Dispatched, Routes, Id) when Dispatched =/= started ->
    _ = ets:update_element(Routes, Id, {?DISPATCHED, accepted}),
    ok;
mark_started(response, Dispatched, Routes, Id) when Dispatched =/= started ->
    _ = ets:update_element(Routes, Id, {?DISPATCHED, started}),
    ok;
mark_started(_, _, _, _) ->
    ok.
