%% SPDX-License-Identifier: Apache-2.0

%% @private Requests that wait for a place in a worker: oldest first.
%%
%% Pure. A tree ordered by arrival with an index by key, rather than a `queue': entries leave from
%% the middle (the client has gone), and one that was woken in vain comes back to where it was.
-module(hornbeam_queue).

%% API
-export([new/0]).
-export([in/3]).
-export([out/1]).
-export([remove/2]).
-export([expire/2]).
-export([size/1]).

-export_type([queue/1]).

-type arrival_ms() :: integer().
%% Erlang monotonic time in milliseconds at which the request came.

-type position() :: {arrival_ms(), Tiebreak :: non_neg_integer()}.

-record(queue, {
    tiebreak = 0 :: non_neg_integer(),
    entries = gb_trees:empty() :: gb_trees:tree(position(), Key :: term()),
    %% Key to position, for remove/2.
    index = #{} :: #{term() => position()}
}).

-opaque queue(_Key) :: #queue{}.

-spec new() -> queue(_).
new() ->
    #queue{}.

%% @doc Insert `Key', which must not be there yet, at the place of its arrival.
-spec in(Key, arrival_ms(), queue(Key)) -> queue(Key).
in(Key, ArrivalMs, Queue = #queue{tiebreak = Tiebreak, entries = Entries, index = Index})
        when not is_map_key(Key, Index) ->
    Position = {ArrivalMs, Tiebreak},
    Queue#queue{tiebreak = Tiebreak + 1,
                entries = gb_trees:insert(Position, Key, Entries),
                index = Index#{Key => Position}}.

-spec out(queue(Key)) -> {ok, Key, queue(Key)} | empty.
out(Queue = #queue{entries = Entries0, index = Index}) ->
    case gb_trees:is_empty(Entries0) of
        true ->
            empty;
        false ->
            {_, Key, Entries} = gb_trees:take_smallest(Entries0),
            {ok, Key, Queue#queue{entries = Entries, index = maps:remove(Key, Index)}}
    end.

%% @doc Take `Key' out; `false' when it is not there.
-spec remove(Key, queue(Key)) -> {ok, queue(Key)} | false.
remove(Key, Queue = #queue{entries = Entries, index = Index}) ->
    case Index of
        #{Key := Position} ->
            {ok, Queue#queue{entries = gb_trees:delete(Position, Entries),
                             index = maps:remove(Key, Index)}};
        #{} ->
            false
    end.

%% @doc Take out all that came at `LimitMs' or earlier, oldest first.
-spec expire(LimitMs :: arrival_ms(), queue(Key)) -> {[Key], queue(Key)}.
expire(LimitMs, Queue) ->
    expire(LimitMs, Queue, []).

expire(LimitMs, Queue = #queue{entries = Entries}, Expired) ->
    case gb_trees:is_empty(Entries) orelse gb_trees:smallest(Entries) of
        {{ArrivalMs, _}, Key} when ArrivalMs =< LimitMs ->
            {ok, Rest} = remove(Key, Queue),
            expire(LimitMs, Rest, [Key | Expired]);
        _ ->
            {lists:reverse(Expired), Queue}
    end.

-spec size(queue(_)) -> non_neg_integer().
size(#queue{index = Index}) ->
    map_size(Index).
