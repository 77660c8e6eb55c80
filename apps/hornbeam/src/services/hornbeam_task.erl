%% SPDX-License-Identifier: Apache-2.0

%% @private Runs code that may wait or crash in a process of its own, with a deadline.
%%
%% Two processes for a task: the runner, which does the work, and its guard, which outlives it and
%% tells how it ended. The guard watches three things: the runner, the clock and the owner (the
%% worker or the process that asked). At the deadline, and when the owner ends, the runner is
%% killed; so nothing of a task is left when nobody wants its outcome.
-module(hornbeam_task).

-include_lib("kernel/include/logger.hrl").

%% API
-export([start/4]).
-export([run/2]).
-export([cast/2]).
-export([remote_error/3]).

-export_type([task/0, error/0, remote_error/0]).

-type task() :: fun(() -> hornbeam_services:result()).

-type error() :: {timeout, #{timeout_ms := non_neg_integer()}} | remote_error().
%% What may become of any task.

-type remote_error() ::
    {remote_error, #{class := binary(), reason := binary(), stack := binary()}}.
%% Texts, for humans.

%% How much of a reason, which may hold any term, is told.
-define(MAX_TEXT_CHARS, 4096).

%% @doc Run the task; `Done' gets its outcome, in the guard, unless the owner ends before. The
%% guard is returned.
-spec start(Owner :: pid(), task(), timeout(), fun((hornbeam_services:result()) -> term())) ->
    pid().
start(Owner, Task, TimeoutMs, Done) ->
    DeadlineMs = deadline_ms(TimeoutMs),
    spawn(fun() -> guard(Owner, Task, TimeoutMs, DeadlineMs, Done) end).

%% @doc Run the task and wait for its outcome.
-spec run(task(), timeout()) -> hornbeam_services:result().
run(Task, TimeoutMs) ->
    Alias = alias([reply]),
    Guard = start(self(), Task, TimeoutMs, fun(Outcome) -> Alias ! {Alias, Outcome} end),
    Monitor = monitor(process, Guard),
    %% No timeout: the guard has one where there is one, and its end is an answer too.
    receive
        {Alias, Outcome} ->
            demonitor(Monitor, [flush]),
            Outcome;
        {'DOWN', Monitor, process, _, Reason} ->
            _ = unalias(Alias),
            {error, remote_error(exit, Reason, [])}
    end.

%% @doc Run the task for nobody: it has no deadline, and a failure is logged with these fields.
%% The process is returned.
-spec cast(task(), Fields :: map()) -> pid().
cast(Task, Fields) ->
    spawn(fun() ->
        case attempt(Task) of
            {ok, _} -> ok;
            {error, {Name, Facts}} ->
                ?LOG_WARNING(Fields#{what => cast_failed, error => Name, facts => Facts})
        end
    end).

%% @doc An exception as text.
-spec remote_error(error | exit | throw, Reason :: term(), Stack :: list()) -> remote_error().
remote_error(Class, Reason, Stack) ->
    {remote_error, #{class => atom_to_binary(Class), reason => text("~0tp", [Reason]),
                     stack => stack_text(Stack)}}.

%%% Internal

deadline_ms(infinity) -> infinity;
deadline_ms(TimeoutMs) -> erlang:monotonic_time(millisecond) + TimeoutMs.

guard(Owner, Task, TimeoutMs, DeadlineMs, Done) ->
    OwnerMonitor = monitor(process, Owner),
    Tag = make_ref(),
    Guard = self(),
    {Runner, Monitor} = spawn_monitor(fun() -> Guard ! {Tag, attempt(Task)} end),
    receive
        {Tag, Outcome} ->
            Done(Outcome);
        {'DOWN', Monitor, process, _, Reason} ->
            %% Killed, or taken along by a process that it was linked to.
            Done({error, remote_error(exit, Reason, [])});
        {'DOWN', OwnerMonitor, process, _, _} ->
            exit(Runner, kill)
    after left_ms(DeadlineMs) ->
        exit(Runner, kill),
        Done({error, {timeout, #{timeout_ms => TimeoutMs}}})
    end.

left_ms(infinity) -> infinity;
left_ms(DeadlineMs) -> max(0, DeadlineMs - erlang:monotonic_time(millisecond)).

attempt(Task) ->
    try Task() of
        Outcome -> Outcome
    catch
        Class:Reason:Stack -> {error, remote_error(Class, Reason, outer_frames(Stack))}
    end.

%% Without the frames of this module, which are the same in all stacks.
outer_frames(Stack) ->
    lists:takewhile(fun(Frame) -> element(1, Frame) =/= ?MODULE end, Stack).

stack_text(Stack) ->
    Lines = [frame_text(Frame) || Frame <- Stack],
    unicode:characters_to_binary(lists:join($\n, Lines)).

frame_text({Module, Function, Args, Location}) ->
    Arity = case Args of
        _ when is_list(Args) -> length(Args);
        _ -> Args
    end,
    [text("~tw:~tw/~b", [Module, Function, Arity]), location_text(Location)];
frame_text(Frame) ->
    text("~0tp", [Frame]).

location_text(Location) ->
    case {proplists:get_value(file, Location), proplists:get_value(line, Location)} of
        {undefined, _} -> "";
        {File, undefined} -> text(" (~ts)", [File]);
        {File, Line} -> text(" (~ts:~b)", [File, Line])
    end.

text(Format, Args) ->
    unicode:characters_to_binary(io_lib:format(Format, Args, [{chars_limit, ?MAX_TEXT_CHARS}])).
