%% SPDX-License-Identifier: Apache-2.0
%% What waits for a slow session beside a list.
-module(prop_fanout_queue).

-include("hornbeam_proper.hrl").

-import(proper_types, [frequency/1, integer/2, list/1, oneof/1]).

-export([prop_queue_is_a_list/0]).

-define(MIB, 1048576).
-define(MAX_BYTES, (16 * ?MIB)).
-define(NUMBER_BYTES, 4).
%% More than PropEr makes.
-define(MAX_STEPS, 1000).

%% Frames come out in the order in which they went in, but for those that had to go; the bounds
%% hold; and `close' says so exactly where a frame does not fit.
prop_queue_is_a_list() ->
    Bytes = all_bytes(),
    ?FORALL(Steps, list(step()),
        run([frame(Step, Bytes) || Step <- number(Steps)], hornbeam_fanout_queue:new(), [])).

step() ->
    frequency([
        {4, {push, oneof([<<"a">>, <<"b">>]), size(), oneof([close, drop_oldest]), integer(1, 4)}},
        {2, pop}
    ]).

%% Two of the second kind fill the queue exactly, beside them the smallest is too much.
size() ->
    frequency([{4, integer(0, 10)}, {4, 8 * ?MIB - ?NUMBER_BYTES}, {1, 17 * ?MIB}]).

number(Steps) ->
    lists:zip(lists:seq(1, length(Steps)), Steps).

%% Frames are parts of the same bytes, each with a beginning of its own: large ones cost nothing.
all_bytes() ->
    Numbers = << <<N:32>> || N <- lists:seq(1, ?MAX_STEPS) >>,
    <<Numbers/binary, 0:(17 * ?MIB)/unit:8>>.

frame({N, {push, Subject, Size, Overflow, Max}}, Bytes) ->
    {push, {Subject, binary:part(Bytes, ?NUMBER_BYTES * N, ?NUMBER_BYTES + Size)}, Overflow, Max};
frame({_, pop}, _) ->
    pop.

run([], Queue, Model) ->
    is_same(Queue, Model);
run([pop | Steps], Queue, []) ->
    hornbeam_fanout_queue:peek(Queue) =:= empty andalso run(Steps, Queue, []);
run([pop | Steps], Queue, [{_, Frame} | Model]) ->
    hornbeam_fanout_queue:peek(Queue) =:= {ok, Frame} andalso
        run(Steps, hornbeam_fanout_queue:drop(Queue), Model);
run([{push, Entry = {Subject, Frame}, Overflow, Max} | Steps], Queue, Model) ->
    Pushed = hornbeam_fanout_queue:push(Subject, Frame, {Overflow, Max}, Queue),
    case {Pushed, push(Entry, Overflow, Max, 0, Model)} of
        {overflow, overflow} ->
            run(Steps, Queue, Model);
        {{ok, Dropped, Next}, {ok, Dropped, NextModel}} ->
            is_same(Next, NextModel) andalso run(Steps, Next, NextModel);
        _ ->
            false
    end.

%% One clause for each rule.
push(Entry = {Subject, Frame}, Overflow, Max, Dropped, Model) ->
    Own = [Own || Own = {Of, _} <- Model, Of =:= Subject],
    Bytes = bytes(Model),
    IsRoom = length(Own) < Max andalso (Bytes =:= 0 orelse Bytes + byte_size(Frame) =< ?MAX_BYTES),
    case {IsRoom, Overflow, Own} of
        {true, _, _} -> {ok, Dropped, Model ++ [Entry]};
        {false, close, _} -> overflow;
        {false, drop_oldest, []} -> {ok, Dropped + 1, Model};
        {false, drop_oldest, [Oldest | _]} ->
            push(Entry, Overflow, Max, Dropped + 1, lists:delete(Oldest, Model))
    end.

is_same(Queue, Model) ->
    hornbeam_fanout_queue:size(Queue) =:= {length(Model), bytes(Model)}.

bytes(Model) ->
    lists:sum([byte_size(Frame) || {_, Frame} <- Model]).
