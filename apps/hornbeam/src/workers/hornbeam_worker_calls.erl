%% SPDX-License-Identifier: Apache-2.0

%% @private Calls between a worker and the node, in both directions, and how many there may be.
%%
%% Runs in the worker's process. What a worker calls is answered here at once where a look into a
%% table is enough; what may wait runs in a process of its own ({@link hornbeam_task}), and so do the
%% streams that it takes. What the node invokes of a worker is kept by {@link hornbeam_worker_hooks},
%% whose messages to Python are sent from here.
-module(hornbeam_worker_calls).

-include_lib("kernel/include/logger.hrl").

%% API
-export([new/3]).
-export([call/4]).
-export([cast/3]).
-export([task_down/1]).
-export([invoke/4]).
-export([credit/3]).
-export([produce/3]).
-export([result/3]).
-export([process_down/2]).

-export_type([calls/0]).

-record(calls, {
    port :: port(),
    writer :: pid(),
    routes :: hornbeam_routes:routes(),
    hooks = hornbeam_worker_hooks:new() :: hornbeam_worker_hooks:hooks(),
    %% Calls and casts under way that run in a process of their own.
    tasks = 0 :: non_neg_integer()
}).

-opaque calls() :: #calls{}.

%% How many calls and casts of a worker may be under way in processes of their own, streams apart, and
%% how many streams it may take.
-define(MAX_TASKS, 10000).

-spec new(port(), Writer :: pid(), hornbeam_routes:routes()) -> calls().
new(Port, Writer, Routes) ->
    #calls{port = Port, writer = Writer, routes = Routes}.

%%% What the worker calls

%% @doc It waits for the answer.
-spec call(hornbeam_protocol:call_id(), Function :: atom(), Args :: tuple(), calls()) -> calls().
call(CallId, Function, Args, Calls = #calls{port = Port, writer = Writer}) ->
    Reply = fun(Result) -> reply(CallId, Result, Port, Writer) end,
    case bounded(answer(Function, Args, Calls), Calls) of
        {task, Task, TimeoutMs} ->
            watch_task(hornbeam_task:start(self(), Task, TimeoutMs, Reply), Calls);
        {stream, Invocation, TimeoutMs} ->
            Hooks = hornbeam_worker_hooks:open_stream(stream_sink(Reply, Writer), Invocation,
                                                      TimeoutMs, Calls#calls.hooks),
            Calls#calls{hooks = Hooks};
        Result ->
            Reply(Result),
            Calls
    end.

%% @doc It does not wait for one.
-spec cast(Function :: atom(), Args :: tuple(), calls()) -> calls().
cast(stream_credit, {Id, Count}, Calls) when is_integer(Count), Count > 0 ->
    hornbeam_worker_hooks:give_credit(Id, Count, Calls#calls.hooks),
    Calls;
cast(stream_cancel, {Id}, Calls) ->
    hornbeam_worker_hooks:cancel(Id, Calls#calls.hooks),
    Calls;
cast(Function, Args, Calls) ->
    case bounded(hornbeam_services:cast(Function, Args), Calls) of
        {task, Task, _} ->
            watch_task(hornbeam_task:cast(Task, #{function => Function}), Calls);
        {ok, _} ->
            Calls;
        {error, {Name, Facts}} ->
            ?LOG_WARNING(#{what => cast_failed, function => Function, error => Name,
                           facts => Facts}),
            Calls
    end.

%% @doc `{task_down, _, process, _, _}' has come.
-spec task_down(calls()) -> calls().
task_down(Calls = #calls{tasks = Tasks}) ->
    Calls#calls{tasks = Tasks - 1}.

%%% What the node invokes

%% @doc Somebody invokes a hook of this worker.
-spec invoke(Caller :: pid(), reference(), hornbeam_hook_call:invocation(), calls()) -> calls().
invoke(Caller, Ref, Invocation, Calls = #calls{hooks = Hooks}) ->
    tell_hooks(hornbeam_worker_hooks:invoke(Caller, Ref, Invocation, Hooks), Calls).

%% @doc Its caller will take so many items more.
-spec credit(reference(), pos_integer(), calls()) -> calls().
credit(Ref, Count, Calls = #calls{hooks = Hooks}) ->
    tell_hooks(hornbeam_worker_hooks:credit(Ref, Count, Hooks), Calls).

%% @doc Python gives an item.
-spec produce(hornbeam_protocol:invoke_id(), hornbeam_blob:blob(), calls()) -> calls().
produce(Id, Blob, Calls = #calls{hooks = Hooks}) ->
    tell_hooks(hornbeam_worker_hooks:produce(Id, Blob, Hooks), Calls).

%% @doc Python has the result, or the stream has ended.
-spec result(hornbeam_protocol:invoke_id(), {ok, hornbeam_blob:blob()} | {error, map()}, calls()) ->
    calls().
result(Id, Result, Calls = #calls{hooks = Hooks}) ->
    Calls#calls{hooks = hornbeam_worker_hooks:result(Id, Result, Hooks)}.

%% @doc A process has ended; `unknown' where it had to do with none of these.
-spec process_down(Monitor :: reference(), calls()) -> calls() | unknown.
process_down(Monitor, Calls = #calls{hooks = Hooks}) ->
    case hornbeam_worker_hooks:process_down(Monitor, Hooks) of
        unknown -> unknown;
        Told -> tell_hooks(Told, Calls)
    end.

%%% Internal

answer(Function, Args, #calls{routes = Routes}) when Function =:= attach; Function =:= detach ->
    hornbeam_worker_topics:call(Function, Args, Routes);
answer(Function, Args, _) ->
    hornbeam_services:call(Function, Args).

%% What a worker asks for without waiting does not fill the node with processes.
bounded({task, _, _}, #calls{tasks = ?MAX_TASKS}) ->
    too_many_calls();
bounded({stream, _, _} = Stream, #calls{hooks = Hooks}) ->
    case hornbeam_worker_hooks:stream_count(Hooks) of
        ?MAX_TASKS -> too_many_calls();
        _ -> Stream
    end;
bounded(Answer, _) ->
    Answer.

too_many_calls() ->
    {error, {too_many_calls, #{limit => ?MAX_TASKS}}}.

%% It may be killed by what it runs, so nothing else tells of its end for sure.
watch_task(Task, Calls = #calls{tasks = Tasks}) ->
    _ = monitor(process, Task, [{tag, task_down}]),
    Calls#calls{tasks = Tasks + 1}.

%% The reply goes straight to the port where the pipe has room: a synchronous caller waits for it.
reply(CallId, Result, Port, Writer) ->
    Encoded = hornbeam_protocol:encode(case Result of
        {ok, Value} -> {reply, CallId, ok, Value};
        {error, Error} -> {reply, CallId, error, Error}
    end),
    try port_command(Port, hornbeam_protocol:batch([Encoded]), [nosuspend]) of
        true -> ok;
        false -> hornbeam_writer:send(Writer, Encoded)
    catch
        error:badarg -> ok
    end.

tell_hooks({Messages, Hooks}, Calls = #calls{writer = Writer}) ->
    lists:foreach(fun(Message) -> hornbeam_writer:say(Writer, Message) end, Messages),
    Calls#calls{hooks = Hooks}.

%% Runs in the relay: items take the writer's way, and nothing of them waits in this process. The
%% reply has been written, or waits there too, before the first of them.
stream_sink(Reply, Writer) ->
    fun
        (Id, opened) -> Reply({ok, Id});
        (_, {not_opened, Error}) -> Reply({error, Error});
        (Id, {item, Blob}) -> hornbeam_writer:say(Writer, {item, Id, Blob});
        (Id, stream_end) -> hornbeam_writer:say(Writer, {stream_end, Id});
        (Id, {stream_error, Error}) -> hornbeam_writer:say(Writer, {stream_error, Id, Error})
    end.
