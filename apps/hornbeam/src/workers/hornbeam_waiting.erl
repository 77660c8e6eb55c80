%% SPDX-License-Identifier: Apache-2.0

%% @private Those who wait for a place in a worker: the queue, the number that connections read, and
%% the words that they are told. Part of the pool's process.
%%
%% Who waits is monitored: a connection that is killed, or gives up without a word, must not keep a
%% place in the queue that others could have.
%%
%% There may be some more who are not counted: nobody who comes is to stand in line behind them.
-module(hornbeam_waiting).

%% API
-export([new/1]).
-export([new_uncounted/0]).
-export([counter/1]).
-export([size/1]).
-export([in/3]).
-export([leave/2]).
-export([wake/2]).
-export([expire/2]).

-export_type([waiting/0]).

-record(waiting, {
    queue = hornbeam_queue:new() :: hornbeam_queue:queue(hornbeam_routes:stream_key()),
    monitors = #{} :: #{hornbeam_routes:stream_key() => reference()},
    counter :: hornbeam_selection:waiting() | none
}).

-opaque waiting() :: #waiting{}.

-spec new(MaxQueue :: non_neg_integer()) -> waiting().
new(MaxQueue) ->
    #waiting{counter = hornbeam_selection:new_waiting(MaxQueue)}.

%% @doc For those who hold up nobody, and whose number has another bound.
-spec new_uncounted() -> waiting().
new_uncounted() ->
    #waiting{counter = none}.

-spec counter(waiting()) -> hornbeam_selection:waiting().
counter(#waiting{counter = Counter}) when Counter =/= none ->
    Counter.

-spec size(waiting()) -> non_neg_integer().
size(#waiting{queue = Queue}) ->
    hornbeam_queue:size(Queue).

%% @doc One more, who has been counted already, where they are counted. Should its connection die, the
%% calling process gets `{{waiting_down, StreamKey}, Monitor, process, Pid, Reason}', and it is to leave.
-spec in(hornbeam_routes:stream_key(), ArrivalMs :: integer(), waiting()) -> waiting().
in(StreamKey = {Pid, _}, ArrivalMs, Waiting = #waiting{queue = Queue, monitors = Monitors}) ->
    Monitor = monitor(process, Pid, [{tag, {waiting_down, StreamKey}}]),
    Waiting#waiting{queue = hornbeam_queue:in(StreamKey, ArrivalMs, Queue),
                    monitors = Monitors#{StreamKey => Monitor}}.

%% @doc One does not wait any longer, or has not waited.
-spec leave(hornbeam_routes:stream_key(), waiting()) -> waiting().
leave(StreamKey, Waiting = #waiting{queue = Queue0}) ->
    case hornbeam_queue:remove(StreamKey, Queue0) of
        {ok, Queue} -> forget(StreamKey, Waiting#waiting{queue = Queue});
        false -> Waiting
    end.

%% @doc Wake as many as there are places. Those woken reserve for themselves: one that has died since
%% costs nothing but its turn.
-spec wake(Places :: non_neg_integer(), waiting()) -> waiting().
wake(0, Waiting) ->
    Waiting;
wake(Places, Waiting = #waiting{queue = Queue0}) ->
    case hornbeam_queue:out(Queue0) of
        empty ->
            Waiting;
        {ok, StreamKey = {Pid, _}, Queue} ->
            Taken = case is_process_alive(Pid) of
                true ->
                    Pid ! {StreamKey, {pool, retry}},
                    1;
                false ->
                    0
            end,
            wake(Places - Taken, forget(StreamKey, Waiting#waiting{queue = Queue}))
    end.

%% @doc The time of those who came at `LimitMs' or earlier is over.
-spec expire(LimitMs :: integer(), waiting()) -> waiting().
expire(LimitMs, Waiting = #waiting{queue = Queue0}) ->
    {Expired, Queue} = hornbeam_queue:expire(LimitMs, Queue0),
    _ = [Pid ! {StreamKey, {pool, timeout}} || StreamKey = {Pid, _} <- Expired],
    lists:foldl(fun forget/2, Waiting#waiting{queue = Queue}, Expired).

%%% Internal

%% One that is not in the queue any more.
forget(StreamKey, Waiting = #waiting{monitors = Monitors0, counter = Counter}) ->
    _ = Counter =/= none andalso hornbeam_selection:no_longer_waiting(Counter, 1),
    {Monitor, Monitors} = maps:take(StreamKey, Monitors0),
    true = demonitor(Monitor, [flush]),
    Waiting#waiting{monitors = Monitors}.
