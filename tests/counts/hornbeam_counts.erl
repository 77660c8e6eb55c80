%% SPDX-License-Identifier: Apache-2.0

%% Counts what a node does between two moments: what its processes execute, what they leave to the
%% collector, which functions they call. Tests load it into a node of their own and have requests
%% come in between.
%%
%% Two kinds, each for itself, as tracing costs reductions: `work' looks from outside, `calls' sets
%% breakpoints that count and traces the messages of the processes of a request's path.
-module(hornbeam_counts).

%% API
-export([await_no_connections/0]).
-export([start/1]).
-export([stop/0]).
-export([suspend_writer/0]).
-export([resume_writer/1]).

-type kind() :: work | calls.

-type role() :: connection | writer | worker.
%% The three processes that a request passes through.

-type counts() :: #{atom() => non_neg_integer()}.

-define(WAIT_MS, 10000).
-define(POLL_MS, 2).

-define(TIMERS, [{erlang, send_after, '_'}, {erlang, start_timer, '_'}]).
-define(SPAWNS, [{erlang, spawn, '_'}, {erlang, spawn_link, '_'}, {erlang, spawn_opt, '_'},
                 {erlang, spawn_monitor, '_'}]).

%% @doc Wait until those of former clients have gone, which would be counted else.
-spec await_no_connections() -> ok.
await_no_connections() ->
    await(fun() -> not lists:keymember(connection, 2, roles()) end).

%% @doc Begin to count; the processes of the path have to be there already.
-spec start(kind()) -> ok.
start(Kind) ->
    Caller = self(),
    {Counter, Monitor} = spawn_monitor(fun() ->
        process_flag(message_queue_data, off_heap),
        true = register(?MODULE, self()),
        count(Kind, Caller)
    end),
    started = answer(Counter, Monitor),
    ok.

%% @doc What was counted since.
-spec stop() -> counts().
stop() ->
    Counter = whereis(?MODULE),
    Monitor = monitor(process, Counter),
    Counter ! {stop, self()},
    answer(Counter, Monitor).

answer(Process, Monitor) ->
    receive
        {Process, Answer} ->
            true = demonitor(Monitor, [flush]),
            Answer;
        {'DOWN', Monitor, process, _, Reason} ->
            error(Reason)
    end.

count(Kind, Caller) ->
    Stop = begin_to(Kind),
    Caller ! {self(), started},
    receive
        {stop, Asking} ->
            Counts = Stop(),
            true = unregister(?MODULE),
            Asking ! {self(), Counts}
    end.

begin_to(work) ->
    Roles = roles(),
    Before = reductions(Roles),
    Collected = collected(Roles),
    fun() ->
        After = reductions(Roles),
        #{words => collected(Roles) - Collected,
          connection_reductions => maps:get(connection, After) - maps:get(connection, Before),
          writer_reductions => maps:get(writer, After) - maps:get(writer, Before),
          worker_reductions => maps:get(worker, After) - maps:get(worker, Before)}
    end;
begin_to(calls) ->
    Traced = [Pid || {Pid, _} <- roles()],
    Groups = groups(),
    _ = [erlang:trace_pattern(Pattern, true, [local, call_count])
         || {_, Patterns} <- Groups, Pattern <- Patterns],
    _ = [erlang:trace(Pid, true, ['receive']) || Pid <- Traced],
    fun() ->
        _ = [erlang:trace(Pid, false, ['receive']) || Pid <- Traced],
        Called = maps:from_list([{Name, called(Patterns)} || {Name, Patterns} <- Groups]),
        _ = [erlang:trace_pattern(Pattern, false, [local, call_count])
             || {_, Patterns} <- Groups, Pattern <- Patterns],
        Called#{messages => lists:sum([received(Pid, 0) || Pid <- Traced])}
    end.

groups() ->
    {ok, Modules} = application:get_key(hornbeam, modules),
    _ = [{module, _} = code:ensure_loaded(Module) || Module <- Modules],
    [{ets, [{ets, '_', '_'}]},
     {timers, ?TIMERS},
     {spawns, ?SPAWNS},
     {packets_out, [{hornbeam_protocol, batch, '_'}]},
     {packets_in, [{hornbeam_protocol, decode, '_'}]},
     %% The last one: it includes the codec's.
     {functions, [{Module, '_', '_'} || Module <- Modules -- [hornbeam_protocol]]}].

%%% Processes

-spec roles() -> [{pid(), role()}].
roles() ->
    [{Pid, Role} || Pid <- processes(), (Role = role(Pid)) =/= other].

role(Pid) ->
    case proc_lib:translate_initial_call(Pid) of
        {hornbeam_connection, init, _} -> connection;
        {hornbeam_writer, init, _} -> writer;
        {hornbeam_worker, init, _} -> worker;
        _ -> other
    end.

reductions(Roles) ->
    lists:foldl(fun({Pid, Role}, Sums) ->
        {reductions, Reductions} = process_info(Pid, reductions),
        maps:update_with(Role, fun(Sum) -> Sum + Reductions end, Sums)
    end, #{connection => 0, writer => 0, worker => 0}, Roles).

%% All that has been allocated so far and is not in use: the words that collections have freed,
%% when each process has just been collected. What other processes of the node leave is little.
collected(Roles) ->
    _ = [erlang:garbage_collect(Pid) || {Pid, _} <- Roles],
    {_, Words, _} = statistics(garbage_collection),
    Words.

%%% Calls and messages

called(Patterns) ->
    lists:sum([called_function({Module, Name, Arity})
               || {Module, Function, _} <- Patterns,
                  {Name, Arity} <- Module:module_info(functions),
                  Function =:= '_' orelse Function =:= Name]).

called_function(Function) ->
    case erlang:trace_info(Function, call_count) of
        {call_count, Count} when is_integer(Count) -> Count;
        _ -> 0
    end.

received(Pid, Count) ->
    Ref = erlang:trace_delivered(Pid),
    received(Pid, Ref, Count).

received(Pid, Ref, Count) ->
    receive
        {trace, Pid, 'receive', _} -> received(Pid, Ref, Count + 1);
        {trace_delivered, Pid, Ref} -> Count
    end.

%%% Batches

%% @doc Let messages to a worker gather. Its writer goes on with resume_writer/1.
-spec suspend_writer() -> ok.
suspend_writer() ->
    Caller = self(),
    {Holder, Monitor} = spawn_monitor(fun() ->
        true = register(hornbeam_counts_holder, self()),
        [Writer] = [Pid || {Pid, writer} <- roles()],
        true = erlang:suspend_process(Writer),
        Caller ! {self(), suspended},
        receive
            {resume, Asking, Count} ->
                ok = await(fun() -> has_messages(Writer, Count) end),
                true = erlang:resume_process(Writer),
                true = unregister(hornbeam_counts_holder),
                Asking ! {self(), resumed}
        end
    end),
    suspended = answer(Holder, Monitor),
    ok.

%% @doc Wait until so many messages have gathered, and let them go.
-spec resume_writer(pos_integer()) -> ok.
resume_writer(Count) ->
    Holder = whereis(hornbeam_counts_holder),
    Monitor = monitor(process, Holder),
    Holder ! {resume, self(), Count},
    resumed = answer(Holder, Monitor),
    ok.

has_messages(Writer, Count) ->
    {message_queue_len, Length} = process_info(Writer, message_queue_len),
    Length >= Count.

await(Condition) ->
    await(Condition, ?WAIT_MS div ?POLL_MS).

await(Condition, Polls) when Polls > 0 ->
    case Condition() of
        true ->
            ok;
        false ->
            receive after ?POLL_MS -> ok end,
            await(Condition, Polls - 1)
    end.
