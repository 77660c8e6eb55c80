%% SPDX-License-Identifier: Apache-2.0

%% @private What is to become of a server's workers as a whole: a reload or another number of them.
%% One thing at a time, in the order in which they were asked for. Pure.
%%
%% A reload replaces all workers by such of its generation. The first alone, which shows whether the new
%% version starts at all; then a quarter of them at a time, so that a reload of many does not take
%% for ever, nor the machine's memory twice. Those who ask for a reload while others wait for one
%% that has not begun wait for the same one; one that has begun may have read older files.
-module(hornbeam_rollout).

%% API
-export([new/0]).
-export([ask_for_reload/2]).
-export([ask_for_newest/1]).
-export([ask_for_scale/3]).
-export([next/1]).
-export([begin_reload/3]).
-export([begin_scale/3]).
-export([step/2]).
-export([concerns/3]).
-export([finish/1]).

-export_type([rollout/0, waiter/0, action/0]).

-type waiter() :: gen_server:from().

-type action() ::
    {succeed, hornbeam_slots:worker_id()}
    %% The worker is ready: start its successor, in place of one that is being started, if any.
  | {start, hornbeam_slots:worker_id()}.
    %% It is not: start it anew.

-record(reload, {
    generation :: pos_integer(),
    todo :: [hornbeam_slots:worker_id()],
    under_way = [] :: [hornbeam_slots:worker_id()],
    total :: non_neg_integer(),
    done = 0 :: non_neg_integer(),
    %% None where nobody wants to know the outcome.
    waiters :: [waiter()]
}).

-record(scale, {
    %% How many workers there were.
    before = 0 :: non_neg_integer(),
    %% Those that were added and are not ready yet.
    starting :: [hornbeam_slots:worker_id()],
    waiter :: waiter()
}).

-record(rollout, {
    current = none :: none | #reload{} | #scale{},
    asked = [] :: [{reload, [waiter()]} | {scale, pos_integer(), waiter()}]
}).

-opaque rollout() :: #rollout{}.

-spec new() -> rollout().
new() ->
    #rollout{}.

-spec ask_for_reload(waiter(), rollout()) -> rollout().
ask_for_reload(Waiter, Rollout) ->
    ask([Waiter], Rollout).

%% @doc The files have changed, and nobody waits. A reload that is under way has read files that
%% nobody wants to see served any more: it is to begin anew, with who waits for it.
-spec ask_for_newest(rollout()) -> {anew | later, rollout()}.
ask_for_newest(Rollout = #rollout{current = #reload{}}) ->
    {anew, Rollout};
ask_for_newest(Rollout) ->
    {later, ask([], Rollout)}.

ask(New, Rollout = #rollout{asked = Asked}) ->
    case lists:reverse(Asked) of
        [{reload, Waiters} | Earlier] ->
            Rollout#rollout{asked = lists:reverse(Earlier, [{reload, New ++ Waiters}])};
        _ ->
            Rollout#rollout{asked = Asked ++ [{reload, New}]}
    end.

-spec ask_for_scale(Count :: pos_integer(), waiter(), rollout()) -> rollout().
ask_for_scale(Count, Waiter, Rollout = #rollout{asked = Asked}) ->
    Rollout#rollout{asked = Asked ++ [{scale, Count, Waiter}]}.

%% @doc What is to begin now, if nothing else is under way.
-spec next(rollout()) -> {reload | {scale, pos_integer()}, rollout()} | none.
next(#rollout{current = none, asked = [{reload, Waiters} | Asked]}) ->
    Reload = #reload{generation = 1, todo = [], total = 0, waiters = Waiters},
    {reload, #rollout{current = Reload, asked = Asked}};
next(#rollout{current = none, asked = [{scale, Count, Waiter} | Asked]}) ->
    {{scale, Count}, #rollout{current = #scale{starting = [], waiter = Waiter}, asked = Asked}};
next(#rollout{}) ->
    none.

%% @doc Replace these workers by such of that generation; also where a former one was under way.
-spec begin_reload(Generation :: pos_integer(), [hornbeam_slots:worker_id()], rollout()) -> rollout().
begin_reload(Generation, Ids, Rollout = #rollout{current = Reload = #reload{}}) ->
    Begun = Reload#reload{generation = Generation, todo = Ids, total = length(Ids),
                          under_way = [], done = 0},
    Rollout#rollout{current = Begun}.

%% @doc Wait for these workers, which were added.
-spec begin_scale(Before :: non_neg_integer(), [hornbeam_slots:worker_id()], rollout()) -> rollout().
begin_scale(Before, Ids, Rollout = #rollout{current = Scale = #scale{}}) ->
    Rollout#rollout{current = Scale#scale{before = Before, starting = Ids}}.

%% @doc What follows from the state of the slots.
-spec step(hornbeam_slots:slots(), rollout()) -> {[action()], rollout()} | done | idle.
step(_, #rollout{current = none}) ->
    idle;
step(Slots, Rollout = #rollout{current = Scale = #scale{starting = Starting}}) ->
    case [Id || Id <- Starting, not is_ready(hornbeam_slots:state(Id, Slots))] of
        [] -> done;
        Left -> {[], Rollout#rollout{current = Scale#scale{starting = Left}}}
    end;
step(Slots, Rollout = #rollout{current = Reload0 = #reload{}}) ->
    Reload = look_after(Slots, Reload0),
    #reload{todo = Todo, under_way = UnderWay} = Reload,
    Free = max(0, limit(Reload) - length(UnderWay)),
    case lists:split(min(Free, length(Todo)), Todo) of
        {[], []} when UnderWay =:= [] ->
            done;
        {Now, Later} ->
            Actions = [action(Id, hornbeam_slots:state(Id, Slots)) || Id <- Now],
            Moved = Reload#reload{todo = Later, under_way = UnderWay ++ Now},
            {Actions, Rollout#rollout{current = Moved}}
    end.

%% Those that are as they should be are done, also such as were not our doing: a worker that has died
%% meanwhile was started anew, or was taken away.
look_after(Slots, Reload = #reload{todo = Todo, under_way = UnderWay, done = Done}) ->
    IsNew = fun(Id) -> is_renewed(hornbeam_slots:state(Id, Slots), Reload) end,
    {Ready, Left} = lists:partition(IsNew, UnderWay),
    StillTodo = [Id || Id <- Todo, not IsNew(Id)],
    Reload#reload{todo = StillTodo, under_way = Left, done = Done + length(Ready)}.

is_renewed(missing, _) -> true;
is_renewed({ready, Generation, _}, #reload{generation = Wanted}) -> Generation >= Wanted;
is_renewed(_, _) -> false.

is_ready(missing) -> true;
is_ready({Phase, _, _}) -> Phase =:= ready.

limit(#reload{done = 0}) -> 1;
limit(#reload{total = Total}) -> max(1, Total div 4).

action(Id, {ready, _, _}) -> {succeed, Id};
action(Id, _) -> {start, Id}.

%% @doc Whether it fails when a process of that slot and generation could not become ready.
-spec concerns(hornbeam_slots:worker_id(), Generation :: non_neg_integer(), rollout()) -> boolean().
concerns(Id, Generation, #rollout{current = #reload{generation = Wanted, under_way = UnderWay}}) ->
    Generation >= Wanted andalso lists:member(Id, UnderWay);
concerns(Id, _, #rollout{current = #scale{starting = Starting}}) ->
    lists:member(Id, Starting);
concerns(_, _, #rollout{current = none}) ->
    false.

%% @doc It is over, well or not: what it was (of another number, the former one), and who waits.
-spec finish(rollout()) ->
    {reload | {scale, Before :: non_neg_integer()}, [waiter()], rollout()}.
finish(Rollout = #rollout{current = #reload{waiters = Waiters}}) ->
    {reload, Waiters, Rollout#rollout{current = none}};
finish(Rollout = #rollout{current = #scale{before = Before, waiter = Waiter}}) ->
    {{scale, Before}, [Waiter], Rollout#rollout{current = none}}.
