%% SPDX-License-Identifier: Apache-2.0
%% The queue beside a model: a list of {Arrival, Insertion, Key}, sorted.
-module(prop_queue).

-include("hornbeam_proper.hrl").

-import(proper_types, [integer/2, list/1, oneof/1]).

-export([prop_behaves_like_a_sorted_list/0]).

%% Any run of operations gives what the sorted list gives.
prop_behaves_like_a_sorted_list() ->
    ?FORALL(Operations, list(operation()), run(Operations, 0, hornbeam_queue:new(), [])).

operation() ->
    Key = integer(1, 8),
    ArrivalMs = integer(-5, 5),
    oneof([{in, Key, ArrivalMs}, {in, Key, ArrivalMs}, out, {remove, Key}, {expire, ArrivalMs}]).

run([], _, Queue, Model) ->
    hornbeam_queue:size(Queue) =:= length(Model);
run([Operation | Rest], Count, Queue0, Model0) ->
    {Result, Queue} = apply_queue(Operation, Queue0, Model0),
    {Expected, Model} = apply_model(Operation, Count, Model0),
    Result =:= Expected andalso hornbeam_queue:size(Queue) =:= length(Model) andalso
        run(Rest, Count + 1, Queue, Model).

%% A key that is there is not put in again: callers never do.
apply_queue({in, Key, ArrivalMs}, Queue, Model) ->
    case lists:keymember(Key, 3, Model) of
        true -> {none, Queue};
        false -> {none, hornbeam_queue:in(Key, ArrivalMs, Queue)}
    end;
apply_queue(out, Queue, _) ->
    case hornbeam_queue:out(Queue) of
        {ok, Key, Rest} -> {Key, Rest};
        empty -> {empty, Queue}
    end;
apply_queue({remove, Key}, Queue, _) ->
    case hornbeam_queue:remove(Key, Queue) of
        {ok, Rest} -> {true, Rest};
        false -> {false, Queue}
    end;
apply_queue({expire, LimitMs}, Queue, _) ->
    hornbeam_queue:expire(LimitMs, Queue).

apply_model({in, Key, ArrivalMs}, Count, Model) ->
    case lists:keymember(Key, 3, Model) of
        true -> {none, Model};
        false -> {none, lists:sort([{ArrivalMs, Count, Key} | Model])}
    end;
apply_model(out, _, []) ->
    {empty, []};
apply_model(out, _, [{_, _, Key} | Model]) ->
    {Key, Model};
apply_model({remove, Key}, _, Model) ->
    {lists:keymember(Key, 3, Model), lists:keydelete(Key, 3, Model)};
apply_model({expire, LimitMs}, _, Model) ->
    {Expired, Left} = lists:splitwith(fun({Ms, _, _}) -> Ms =< LimitMs end, Model),
    {[Key || {_, _, Key} <- Expired], Left}.
