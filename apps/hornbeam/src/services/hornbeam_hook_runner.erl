%% SPDX-License-Identifier: Apache-2.0

%% @private Runs an Erlang handler for one invocation, in a process of its own.
-module(hornbeam_hook_runner).

%% API
-export([start/4]).

%% Items that the handler may still give, in its process's dictionary: `emit' is a fun that the
%% handler keeps, and has no other place for what changes.
-define(CREDIT, {?MODULE, credit}).

%% @doc Run it until it ends or the caller does.
-spec start(hornbeam_hooks:handler(), Caller :: pid(), reference(),
            hornbeam_hook_call:invocation()) -> ok.
start(Handler, Caller, Ref, Invocation) ->
    Task = fun() -> run(Handler, Caller, Ref, Invocation) end,
    Done = fun(Outcome) -> hornbeam_hook_call:tell_result(Caller, Ref, Outcome) end,
    _ = hornbeam_task:start(Caller, Task, infinity, Done),
    ok.

%%% Internal

run(Handler, Caller, Ref, {Path, Method, ArgsBlob, KwargsBlob, Kind}) ->
    case {hornbeam_blob:decode_list(ArgsBlob), hornbeam_blob:decode_map(KwargsBlob)} of
        {{ok, Args}, {ok, Kwargs}} ->
            Request = #{path => Path, method => Method, args => Args, kwargs => Kwargs},
            run_as(Kind, Handler, Request, Caller, Ref);
        {{error, _} = Error, _} ->
            Error;
        {_, {error, _} = Error} ->
            Error
    end.

run_as(call, Handler, Request, _, _) ->
    {ok, hornbeam_blob:encode(handle(Handler, Request#{kind => call}))};
run_as(stream, Handler, Request, Caller, Ref) ->
    Runner = self(),
    hornbeam_hook_call:tell_invoked(Caller, Ref, Runner),
    _ = put(?CREDIT, 0),
    Emit = fun(Item) when self() =:= Runner -> emit(Item, Caller, Ref) end,
    case handle(Handler, Request#{kind => stream, emit => Emit}) of
        ok -> ok;
        Items when is_list(Items) -> lists:foreach(Emit, Items);
        Other -> error({bad_return, Other, "expected ok or a list of items"})
    end,
    {ok, hornbeam_blob:encode(undefined)}.

handle(Module, Request) when is_atom(Module) -> Module:handle(Request);
handle(Fun, Request) -> Fun(Request).

emit(Item, Caller, Ref) ->
    case get(?CREDIT) of
        0 ->
            %% No timeout: the guard ends this process with its caller.
            receive {hornbeam_credit, Ref, Count} -> put(?CREDIT, Count) end,
            emit(Item, Caller, Ref);
        Credit ->
            _ = put(?CREDIT, Credit - 1),
            hornbeam_hook_call:tell_item(Caller, Ref, hornbeam_blob:encode(Item))
    end.
