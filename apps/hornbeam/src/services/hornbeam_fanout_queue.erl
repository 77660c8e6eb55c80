%% SPDX-License-Identifier: Apache-2.0

%% @private Frames that wait for one session that does not keep up. Pure.
%%
%% One order for all; but each attachment of the session has its own bound and its own policy, so
%% that a lane is kept for each: the numbers of its frames, oldest first.
-module(hornbeam_fanout_queue).

%% API
-export([new/0]).
-export([push/4]).
-export([peek/1]).
-export([drop/1]).
-export([size/1]).

-export_type([queue/0, options/0, overflow/0]).

-type overflow() :: close | drop_oldest.

-type options() :: {overflow(), MaxQueue :: pos_integer()}.
%% What becomes of a session when that many frames of an attachment wait.

-type serial() :: non_neg_integer().

-record(queue, {
    next = 0 :: serial(),
    frames = gb_trees:empty() :: gb_trees:tree(serial(), {hornbeam_topic:subject(), binary()}),
    lanes = #{} :: #{hornbeam_topic:subject() => {Length :: pos_integer(), queue:queue(serial())}},
    bytes = 0 :: non_neg_integer()
}).

-opaque queue() :: #queue{}.

%% What may wait of one session, or one larger frame.
-define(MAX_BYTES, 16777216).

-spec new() -> queue().
new() ->
    #queue{}.

%% @doc Queue a frame; `Dropped' others, or this one, had to go for it.
-spec push(hornbeam_topic:subject(), Frame :: binary(), options(), queue()) ->
    {ok, Dropped :: non_neg_integer(), queue()} | overflow.
push(Subject, Frame, {close, MaxQueue}, Queue) ->
    case fits(Subject, Frame, MaxQueue, Queue) of
        true -> {ok, 0, insert(Subject, Frame, Queue)};
        false -> overflow
    end;
push(Subject, Frame, {drop_oldest, MaxQueue}, Queue) ->
    push_dropping(Subject, Frame, MaxQueue, 0, Queue).

%% @doc The oldest frame.
-spec peek(queue()) -> {ok, Frame :: binary()} | empty.
peek(#queue{frames = Frames}) ->
    case gb_trees:is_empty(Frames) of
        true ->
            empty;
        false ->
            {_, {_, Frame}} = gb_trees:smallest(Frames),
            {ok, Frame}
    end.

%% @doc The queue without its oldest frame.
-spec drop(queue()) -> queue().
drop(Queue = #queue{frames = Frames}) ->
    {_, {Subject, _}} = gb_trees:smallest(Frames),
    drop_of(Subject, Queue).

-spec size(queue()) -> {Frames :: non_neg_integer(), Bytes :: non_neg_integer()}.
size(#queue{frames = Frames, bytes = Bytes}) ->
    {gb_trees:size(Frames), Bytes}.

%%% Internal

fits(Subject, Frame, MaxQueue, Queue = #queue{bytes = Bytes}) ->
    length_of(Subject, Queue) < MaxQueue andalso
        (Bytes =:= 0 orelse Bytes + byte_size(Frame) =< ?MAX_BYTES).

push_dropping(Subject, Frame, MaxQueue, Dropped, Queue) ->
    case fits(Subject, Frame, MaxQueue, Queue) of
        true ->
            {ok, Dropped, insert(Subject, Frame, Queue)};
        false ->
            case length_of(Subject, Queue) of
                %% Other attachments take all the bytes that there are.
                0 -> {ok, Dropped + 1, Queue};
                _ -> push_dropping(Subject, Frame, MaxQueue, Dropped + 1, drop_of(Subject, Queue))
            end
    end.

insert(Subject, Frame, Queue) ->
    #queue{next = Number, frames = Frames, lanes = Lanes, bytes = Bytes} = Queue,
    {Length, Lane} = maps:get(Subject, Lanes, {0, queue:new()}),
    Queue#queue{
        next = Number + 1,
        frames = gb_trees:insert(Number, {Subject, Frame}, Frames),
        lanes = Lanes#{Subject => {Length + 1, queue:in(Number, Lane)}},
        bytes = Bytes + byte_size(Frame)
    }.

%% The oldest of that attachment.
drop_of(Subject, Queue = #queue{frames = Frames, lanes = Lanes, bytes = Bytes}) ->
    {Length, Lane} = maps:get(Subject, Lanes),
    {{value, Number}, Rest} = queue:out(Lane),
    {{_, Frame}, Others} = gb_trees:take(Number, Frames),
    Queue#queue{
        frames = Others,
        lanes = case Length of
            1 -> maps:remove(Subject, Lanes);
            _ -> Lanes#{Subject => {Length - 1, Rest}}
        end,
        bytes = Bytes - byte_size(Frame)
    }.

length_of(Subject, #queue{lanes = Lanes}) ->
    case Lanes of
        #{Subject := {Length, _}} -> Length;
        #{} -> 0
    end.
