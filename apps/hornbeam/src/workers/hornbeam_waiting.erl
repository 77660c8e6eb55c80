%% SPDX-License-Identifier: Apache-2.0

%% @private Those who wait for a place in a worker: the queue, the number that connections read, and
%% the words that they are told. Part of the pool's process.
-module(hornbeam_waiting).

%% API
-export([new/1]).
-export([counter/1]).
-export([size/1]).
-export([in/3]).
-export([leave/2]).
-export([wake/2]).
-export([expire/2]).

-export_type([waiting/0]).

-record(waiting, {
    queue = hornbeam_queue:new() :: hornbeam_queue:queue(hornbeam_routes:stream_key()),
    counter :: hornbeam_selection:waiting()
}).

-opaque waiting() :: #waiting{}.

-spec new(MaxQueue :: non_neg_integer()) -> waiting().
new(MaxQueue) ->
    #waiting{counter = hornbeam_selection:new_waiting(MaxQueue)}.

-spec counter(waiting()) -> hornbeam_selection:waiting().
counter(#waiting{counter = Counter}) ->
    Counter.

-spec size(waiting()) -> non_neg_integer().
size(#waiting{queue = Queue}) ->
    hornbeam_queue:size(Queue).

%% @doc One more, who has been counted already.
-spec in(hornbeam_routes:stream_key(), ArrivalMs :: integer(), waiting()) -> waiting().
in(StreamKey, ArrivalMs, Waiting = #waiting{queue = Queue}) ->
    Waiting#waiting{queue = hornbeam_queue:in(StreamKey, ArrivalMs, Queue)}.

%% @doc One does not wait any longer, or has not waited.
-spec leave(hornbeam_routes:stream_key(), waiting()) -> waiting().
leave(StreamKey, Waiting = #waiting{queue = Queue0, counter = Counter}) ->
    case hornbeam_queue:remove(StreamKey, Queue0) of
        {ok, Queue} ->
            hornbeam_selection:no_longer_waiting(Counter, 1),
            Waiting#waiting{queue = Queue};
        false ->
            Waiting
    end.

%% @doc Wake as many as there are places. Those woken reserve for themselves: one that has died since
%% costs nothing but its turn.
-spec wake(Places :: non_neg_integer(), waiting()) -> waiting().
wake(0, Waiting) ->
    Waiting;
wake(Places, Waiting = #waiting{queue = Queue0, counter = Counter}) ->
    case hornbeam_queue:out(Queue0) of
        empty ->
            Waiting;
        {ok, {Pid, StreamId}, Queue} ->
            hornbeam_selection:no_longer_waiting(Counter, 1),
            Taken = case is_process_alive(Pid) of
                true ->
                    Pid ! {{Pid, StreamId}, {pool, retry}},
                    1;
                false ->
                    0
            end,
            wake(Places - Taken, Waiting#waiting{queue = Queue})
    end.

%% @doc The time of those who came at `LimitMs' or earlier is over.
-spec expire(LimitMs :: integer(), waiting()) -> waiting().
expire(LimitMs, Waiting = #waiting{queue = Queue0, counter = Counter}) ->
    {Expired, Queue} = hornbeam_queue:expire(LimitMs, Queue0),
    hornbeam_selection:no_longer_waiting(Counter, length(Expired)),
    _ = [Pid ! {{Pid, StreamId}, {pool, timeout}} || {Pid, StreamId} <- Expired],
    Waiting#waiting{queue = Queue}.
