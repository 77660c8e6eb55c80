%% SPDX-License-Identifier: Apache-2.0

%% @private The calls of a worker that attach its WebSocket sessions to topics.
%%
%% Apart from {@link hornbeam_services}, as the sessions are found by the routes of the worker. The
%% fan-out process may be busy, so it is asked in a task.
-module(hornbeam_worker_topics).

%% API
-export([call/3]).

-type not_open() :: {not_open, #{request_id := hornbeam_protocol:request_id()}}.

-define(IS_OVERFLOW(Overflow), (Overflow =:= close orelse Overflow =:= drop_oldest)).

-spec call(attach | detach, Args :: tuple(), hornbeam_routes:routes()) ->
    {task, hornbeam_task:task(), infinity} | {error, not_open() | {unknown_function, map()}}.
call(attach, {Id, Pattern, Overflow, MaxQueue}, Routes)
        when is_integer(Id), is_binary(Pattern), ?IS_OVERFLOW(Overflow),
             is_integer(MaxQueue), MaxQueue > 0 ->
    with_session(Id, Routes, fun(Key) ->
        %% It would be kept for long, and its packet with it.
        Attached = hornbeam_fanout:attach(Key, binary:copy(Pattern), Overflow, MaxQueue),
        attached(Attached, Key, Id, Routes)
    end);
call(detach, {Id, Pattern}, Routes) when is_integer(Id), is_binary(Pattern) ->
    with_session(Id, Routes, fun(Key) -> {ok, hornbeam_fanout:detach(Key, Pattern)} end);
call(Function, Args, _) ->
    {error, {unknown_function, #{function => Function, arity => tuple_size(Args)}}}.

%%% Internal

with_session(Id, Routes, Fun) ->
    case hornbeam_routes:accepted(Routes, Id) of
        {ok, Key} -> {task, fun() -> Fun(Key) end, infinity};
        none -> not_open(Id)
    end.

%% A session that ends leaves its route first and has itself forgotten after: if the route is still
%% there now that it is attached, it will be forgotten.
attached(ok, Key, Id, Routes) ->
    case hornbeam_routes:accepted(Routes, Id) of
        {ok, Key} ->
            {ok, true};
        none ->
            ok = hornbeam_fanout:forget(Key),
            not_open(Id)
    end;
attached({error, _} = Error, _, _, _) ->
    Error.

not_open(Id) ->
    {error, {not_open, #{request_id => Id}}}.
