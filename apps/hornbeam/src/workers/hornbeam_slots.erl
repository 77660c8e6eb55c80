%% SPDX-License-Identifier: Apache-2.0

%% @private The slots of a pool: who is the worker of each, who is to succeed it, and who has left it
%% and finishes what it has. Pure: the pool does what follows from a transition.
%%
%% Phases of a slot:
%%
%% <ul>
%% <li>`starting': it has a process that is not ready yet.</li>
%% <li>`ready': its process takes requests. It may have a successor, which is starting; when that is
%%   ready, it takes the slot, and the process is one of those that leave.</li>
%% <li>`backoff': it has no process; a timer starts the next.</li>
%% </ul>
%%
%% Each process belongs to a generation, the number of reloads before its start.
-module(hornbeam_slots).

%% API
-export([new/0]).
-export([add/2]).
-export([put_worker/3]).
-export([put_successor/4]).
-export([set_os_pid/4]).
-export([ready/5]).
-export([down/5]).
-export([start_failed/4]).
-export([successor_failed/2]).
-export([want/5]).
-export([due/2]).
-export([set_timer/3]).
-export([timer_due/3]).
-export([retire/2]).
-export([discard/2]).
-export([failures/2]).
-export([is_wanted/2]).
-export([state/2]).
-export([ids/1]).
-export([count/1]).
-export([ready_processes/1]).
-export([processes/1]).
-export([leaving/2]).
-export([are_all_ready/1]).
-export([shown/1]).

-export_type([slots/0, worker_id/0, process/0, state/0, urgency/0, why/0]).

-type worker_id() :: pos_integer().

-type process() :: #{
    pid := pid(),
    monitor := reference(),
    routes := hornbeam_routes:routes(),
    load := hornbeam_load:load(),
    generation := non_neg_integer(),
    os_pid => pos_integer() | undefined,
    %% Since it has been ready.
    writer => pid(),
    ready_ms => integer(),
    %% How often its slot was given to another before, once it has left it.
    restarts => non_neg_integer()
}.
%% One life of a worker.

-type urgency() :: now | in_turn.
%% Whether a successor is started at once, or when not too many others are being started.

-type why() :: reload | timeout | {max_requests, pos_integer()} | {max_memory, pos_integer()}.

-type state() ::
    missing
  | {backoff, none, none}
  | {starting | ready, Generation :: non_neg_integer(), Successor :: non_neg_integer() | none}.
%% Phase of a slot, and the generations of its process and of the successor.

-record(slot, {
    phase = backoff :: starting | ready | backoff,
    process :: process() | undefined,
    successor :: process() | undefined,
    %% Ends in a row without having been up for ?STABLE_MS.
    failures = 0 :: non_neg_integer(),
    restarts = 0 :: non_neg_integer(),
    last_reason :: hornbeam_worker_exit:reason() | undefined,
    %% Whether somebody wants it replaced, and what for.
    wanted = no :: no | urgency(),
    why = reload :: why(),
    %% Successors in a row that were of no use.
    attempts = 0 :: non_neg_integer(),
    %% Before which nothing is started here.
    timer :: reference() | undefined
}).

-record(slots, {
    slots = #{} :: #{worker_id() => #slot{}},
    %% Processes that have left their slot.
    leaving = #{} :: #{Monitor :: reference() => {worker_id(), process()}}
}).

-opaque slots() :: #slots{}.

%% A worker that was ready this long has not failed at its start. Not longer: one that is killed
%% now and then, by a request or for its memory, is to come back at once however often that is.
-define(STABLE_MS, 1000).
%% One that has come to be too large before that, as memory is looked at once a second, would also
%% be after its next start.
-define(SETTLED_MS, 5000).

-spec new() -> slots().
new() ->
    #slots{}.

%%% Transitions

%% @doc One more slot, without a process.
-spec add(worker_id(), slots()) -> slots().
add(Id, All = #slots{slots = Slots}) when not is_map_key(Id, Slots) ->
    All#slots{slots = Slots#{Id => #slot{}}}.

%% @doc A process was started for a slot that has none.
-spec put_worker(worker_id(), process(), slots()) -> slots().
put_worker(Id, Process, All) ->
    Slot = #slot{phase = backoff} = get_slot(Id, All),
    put_slot(Id, Slot#slot{phase = starting, process = Process, timer = undefined}, All).

%% @doc A successor was started for a worker that is ready and has none.
-spec put_successor(worker_id(), process(), why(), slots()) -> slots().
put_successor(Id, Process, Why, All) ->
    Slot = #slot{phase = ready, successor = undefined} = get_slot(Id, All),
    put_slot(Id, Slot#slot{successor = Process, why = Why, timer = undefined}, All).

%% @doc For the case that the process is killed.
-spec set_os_pid(worker_id(), pid(), pos_integer() | undefined, slots()) -> slots().
set_os_pid(Id, Pid, OsPid, All = #slots{slots = Slots}) ->
    case Slots of
        #{Id := Slot = #slot{process = Process = #{pid := Pid}}} ->
            put_slot(Id, Slot#slot{process = Process#{os_pid => OsPid}}, All);
        #{Id := Slot = #slot{successor = Next = #{pid := Pid}}} ->
            put_slot(Id, Slot#slot{successor = Next#{os_pid => OsPid}}, All);
        #{} ->
            All
    end.

%% @doc A process is ready. `{replaced, Former, _}': it has taken over, and the former is leaving.
-spec ready(worker_id(), pid(), Writer :: pid(), NowMs :: integer(), slots()) ->
    {started, slots()} | {replaced, process(), slots()} | unknown.
ready(Id, Pid, Writer, NowMs, All = #slots{slots = Slots}) ->
    Facts = #{writer => Writer, ready_ms => NowMs},
    case Slots of
        #{Id := Slot = #slot{phase = starting, process = Process = #{pid := Pid}}} ->
            Ready = Slot#slot{phase = ready, process = maps:merge(Process, Facts)},
            {started, put_slot(Id, Ready, All)};
        #{Id := Slot = #slot{process = Former, successor = Next = #{pid := Pid}}} ->
            #slot{restarts = Restarts, why = Why, attempts = Attempts} = Slot,
            Ready = #slot{phase = ready, process = maps:merge(Next, Facts),
                          restarts = Restarts + 1, last_reason = {replaced, Why},
                          attempts = Attempts},
            Left = add_leaving(Id, counted(Former, Slot), put_slot(Id, Ready, All)),
            {replaced, Former, Left};
        #{} ->
            unknown
    end.

%% @doc A process has ended. `worker': the slot has none now, after so many failures in a row;
%% `succeeded': its successor, which is still starting, has come into its place; `successor': the
%% worker itself serves on; `left': it had left its slot before.
-spec down(worker_id(), Monitor :: reference(), hornbeam_worker_exit:reason(), NowMs :: integer(),
           slots()) ->
    {worker | succeeded | successor | left, process(), slots()} | unknown.
down(Id, Monitor, Reason, NowMs, All = #slots{slots = Slots, leaving = Leaving}) ->
    case Slots of
        #{Id := Slot = #slot{process = Process = #{monitor := Monitor}, successor = undefined}} ->
            {worker, Process, put_slot(Id, to_backoff(Reason, NowMs, Slot), All)};
        #{Id := Slot = #slot{process = Process = #{monitor := Monitor}, successor = Next}} ->
            Moved = #slot{phase = starting, process = Next, restarts = Slot#slot.restarts + 1,
                          last_reason = Reason},
            {succeeded, Process, put_slot(Id, Moved, All)};
        #{Id := #slot{successor = Next = #{monitor := Monitor}}} ->
            {successor, Next, successor_failed(Id, All)};
        #{} when is_map_key(Monitor, Leaving) ->
            {{_, Process}, Rest} = maps:take(Monitor, Leaving),
            {left, Process, All#slots{leaving = Rest}};
        #{} ->
            unknown
    end.

%% @doc No process could be started for a slot that has none.
-spec start_failed(worker_id(), hornbeam_worker_exit:reason(), NowMs :: integer(), slots()) ->
    slots().
start_failed(Id, Reason, NowMs, All) ->
    put_slot(Id, to_backoff(Reason, NowMs, get_slot(Id, All)), All).

%% @doc The successor of a worker could not be started, or has ended.
-spec successor_failed(worker_id(), slots()) -> slots().
successor_failed(Id, All) ->
    Slot = #slot{attempts = Attempts} = get_slot(Id, All),
    put_slot(Id, Slot#slot{successor = undefined, attempts = Attempts + 1}, All).

to_backoff(Reason, NowMs, Slot = #slot{process = Process, failures = Failures}) ->
    #slot{
        failures = case has_served(?STABLE_MS, Process, NowMs) of
            true -> 0;
            false -> Failures + 1
        end,
        restarts = Slot#slot.restarts + 1,
        last_reason = Reason
    }.

has_served(Ms, #{ready_ms := ReadyMs}, NowMs) -> NowMs - ReadyMs >= Ms;
has_served(_, _, _) -> false.

%% @doc Somebody wants a worker replaced, which holds until it is. How many successors were of no use
%% so far: a worker that has come to be too large just after its start counts as one.
-spec want(worker_id(), pid(), urgency(), {why(), NowMs :: integer()}, slots()) ->
    {ok, Attempts :: non_neg_integer(), slots()} | ignored.
want(Id, Pid, Urgency, {Why, NowMs}, All = #slots{slots = Slots}) ->
    case Slots of
        #{Id := Slot = #slot{phase = ready, process = #{pid := Pid}, wanted = Wanted}}
                when Wanted =:= no; Wanted =:= in_turn, Urgency =:= now ->
            Attempts = attempts(Why, NowMs, Slot),
            Wanting = Slot#slot{wanted = Urgency, why = Why, attempts = Attempts},
            {ok, Attempts, put_slot(Id, Wanting, All)};
        #{} ->
            ignored
    end.

attempts(_, _, #slot{wanted = in_turn, attempts = Attempts}) ->
    Attempts;
attempts({max_memory, _}, NowMs, #slot{process = Process, attempts = Attempts}) ->
    case has_served(?SETTLED_MS, Process, NowMs) of
        true -> 0;
        false -> Attempts + 1
    end;
attempts(_, _, _) ->
    0.

%% @doc The workers for which a successor is to be started now, with what for. Of those that have
%% their turn only so many that no more than `Limit' successors are on their way.
-spec due(Limit :: pos_integer(), slots()) -> [{worker_id(), why()}].
due(Limit, #slots{slots = Slots}) ->
    Starting = length([Id || {Id, #slot{successor = #{}}} <- maps:to_list(Slots)]),
    Waiting = [{Id, Slot} || {Id, Slot} <- lists:sort(maps:to_list(Slots)), is_due(Slot)],
    Now = [{Id, Why} || {Id, #slot{wanted = now, why = Why}} <- Waiting],
    InTurn = [{Id, Why} || {Id, #slot{wanted = in_turn, why = Why}} <- Waiting],
    Now ++ lists:sublist(InTurn, max(0, Limit - Starting - length(Now))).

is_due(#slot{phase = ready, successor = undefined, timer = undefined, wanted = Wanted}) ->
    Wanted =/= no;
is_due(_) ->
    false.

%% @doc Nothing is started in the slot before this timer is due.
-spec set_timer(worker_id(), reference(), slots()) -> slots().
set_timer(Id, Timer, All) ->
    put_slot(Id, (get_slot(Id, All))#slot{timer = Timer}, All).

%% @doc A timer is due: a worker is to be `start'-ed, or a successor may be (see due/2).
-spec timer_due(worker_id(), reference(), slots()) -> {start | successor, slots()} | stale.
timer_due(Id, Timer, All = #slots{slots = Slots}) ->
    case Slots of
        #{Id := Slot = #slot{timer = Timer, phase = Phase}} ->
            What = case Phase of
                backoff -> start;
                ready -> successor
            end,
            {What, put_slot(Id, Slot#slot{timer = undefined}, All)};
        #{} ->
            stale
    end.

%% @doc How often in a row the worker has ended, or its successors were of no use.
-spec failures(worker_id(), slots()) -> {Worker :: non_neg_integer(), Successors :: non_neg_integer()}.
failures(Id, All) ->
    #slot{failures = Failures, attempts = Attempts} = get_slot(Id, All),
    {Failures, Attempts}.

%% @doc Whether somebody wants the worker replaced.
-spec is_wanted(worker_id(), slots()) -> boolean().
is_wanted(Id, All) ->
    (get_slot(Id, All))#slot.wanted =/= no.

%% @doc Take a slot away. Its worker is leaving, if it was ready; what was starting is discarded.
-spec retire(worker_id(), slots()) ->
    {Leaving :: [process()], Discarded :: [process()], slots()}.
retire(Id, All = #slots{slots = Slots}) ->
    #slot{phase = Phase, process = Process, successor = Next} = Slot = get_slot(Id, All),
    Rest = All#slots{slots = maps:remove(Id, Slots)},
    Starting = [Next || Next =/= undefined] ++ [Process || Phase =:= starting],
    Leaving = [counted(Process, Slot) || Phase =:= ready],
    Left = lists:foldl(fun(Each, Before) -> add_leaving(Id, Each, Before) end, Rest,
                       Leaving ++ Starting),
    {Leaving, Starting, Left}.

%% @doc Take what is starting in a slot out of it: the successor, or the worker itself.
-spec discard(worker_id(), slots()) -> {process(), slots()}.
discard(Id, All) ->
    case get_slot(Id, All) of
        Slot = #slot{phase = ready, successor = Next = #{}} ->
            {Next, add_leaving(Id, Next, put_slot(Id, Slot#slot{successor = undefined}, All))};
        Slot = #slot{phase = starting, process = Process} ->
            Empty = Slot#slot{phase = backoff, process = undefined},
            {Process, add_leaving(Id, Process, put_slot(Id, Empty, All))}
    end.

%%% Queries

-spec state(worker_id(), slots()) -> state().
state(Id, #slots{slots = Slots}) ->
    case Slots of
        #{Id := #slot{phase = backoff}} -> {backoff, none, none};
        #{Id := #slot{phase = Phase, process = Process, successor = Next}} ->
            {Phase, generation(Process), generation(Next)};
        #{} -> missing
    end.

generation(#{generation := Generation}) -> Generation;
generation(undefined) -> none.

-spec ids(slots()) -> [worker_id()].
ids(#slots{slots = Slots}) ->
    lists:sort(maps:keys(Slots)).

-spec count(slots()) -> non_neg_integer().
count(#slots{slots = Slots}) ->
    map_size(Slots).

%% @doc Those that take requests.
-spec ready_processes(slots()) -> [process()].
ready_processes(#slots{slots = Slots}) ->
    [Process || #slot{phase = ready, process = Process} <- maps:values(Slots)].

%% @doc All, also those that leave.
-spec processes(slots()) -> [process()].
processes(#slots{slots = Slots, leaving = Leaving}) ->
    [Process || #slot{process = Process = #{}} <- maps:values(Slots)]
        ++ [Next || #slot{successor = Next = #{}} <- maps:values(Slots)]
        ++ [Process || {_, Process} <- maps:values(Leaving)].

%% @doc A process that has left its slot, while it runs.
-spec leaving(Monitor :: reference(), slots()) -> {ok, process()} | gone.
leaving(Monitor, #slots{leaving = Leaving}) ->
    case Leaving of
        #{Monitor := {_, Process}} -> {ok, Process};
        #{} -> gone
    end.

-spec are_all_ready(slots()) -> boolean().
are_all_ready(#slots{slots = Slots}) ->
    lists:all(fun(#slot{phase = Phase}) -> Phase =:= ready end, maps:values(Slots)).

%% @doc What `hornbeam:info/0' shows of each, and the process to ask for more, if it is ready.
-spec shown(slots()) -> [{map(), pid() | undefined}].
shown(#slots{slots = Slots, leaving = Leaving}) ->
    Shown = [{Id, shown_slot(Id, Slot)} || {Id, Slot} <- maps:to_list(Slots)]
        ++ [{Id, {#{worker_id => Id, state => draining, restarts => Restarts}, undefined}}
            || {Id, #{restarts := Restarts}} <- maps:values(Leaving)],
    [Each || {_, Each} <- lists:keysort(1, Shown)].

shown_slot(Id, #slot{phase = Phase, restarts = Restarts, last_reason = Reason, process = Process}) ->
    Shown = #{worker_id => Id, state => Phase, restarts => Restarts},
    Pid = case Phase of
        ready -> maps:get(pid, Process);
        _ -> undefined
    end,
    case Reason of
        undefined -> {Shown, Pid};
        _ -> {Shown#{last_exit => hornbeam_worker_exit:text(Reason)}, Pid}
    end.

%%% Internal

get_slot(Id, #slots{slots = Slots}) ->
    maps:get(Id, Slots).

counted(Process, #slot{restarts = Restarts}) ->
    Process#{restarts => Restarts}.

put_slot(Id, Slot, All = #slots{slots = Slots}) ->
    All#slots{slots = Slots#{Id => Slot}}.

add_leaving(Id, Process = #{monitor := Monitor}, All = #slots{leaving = Leaving}) ->
    All#slots{leaving = Leaving#{Monitor => {Id, Process}}}.
