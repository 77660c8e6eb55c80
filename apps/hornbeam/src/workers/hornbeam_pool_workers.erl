%% SPDX-License-Identifier: Apache-2.0

%% @private The workers of a pool: what follows from a transition of a slot ({@link hornbeam_slots})
%% for the processes ({@link hornbeam_worker_life}), for what connections may select
%% ({@link hornbeam_selection}) and for the log.
%%
%% Part of the pool's process, which learns here what has failed, and tells those who wait for it.
%% Workers that have ended are started again: the first time at once, then with a delay that doubles
%% up to a bound, with jitter, for ever. One whose successor fails serves on, and the next successor
%% comes after the same delays.
-module(hornbeam_pool_workers).

-include_lib("kernel/include/logger.hrl").

%% API
-export([new/1]).
-export([begin_generation/1]).
-export([set_count/2]).
-export([add/2]).
-export([start/2]).
-export([start_successor/3]).
-export([started/4]).
-export([ready/5]).
-export([want/5]).
-export([timer_due/3]).
-export([down/4]).
-export([retire/2]).
-export([discard_starting/2]).
-export([stop_drained/2]).
-export([tell_going_away/1]).
-export([stop_all/1]).
-export([slots/1]).
-export([generation/1]).
-export([config/1]).
-export([free_places/1]).
-export([proven_places/1]).

%% internal
-export([backoff_ms/1]).

-export_type([workers/0, args/0, failure/0, result/0]).

-type args() :: #{
    server := atom(),
    config := hornbeam_config:config(),
    python := file:filename(),
    sup := pid(),
    waiting := hornbeam_selection:waiting()
}.
%% Of which the processes of workers are made.

-record(workers, {
    args :: args(),
    slots = hornbeam_slots:new() :: hornbeam_slots:slots(),
    %% Of processes that are started now: how many reloads there were.
    generation = 0 :: non_neg_integer(),
    worker_class :: hornbeam_selection:worker_class()
}).

-opaque workers() :: #workers{}.

-type failure() ::
    {hornbeam_slots:worker_id(), Generation :: non_neg_integer(), hornbeam_worker_exit:reason()}.
%% Which process has failed, and why.

-type result() ::
    {ok, workers()}
  | {failed, failure(), workers()}.
%% `failed': a process could not be started, or has ended before it was ready.

%% Requests in flight per worker, where the option does not say.
-define(ASGI_CONCURRENCY, 1000).
-define(MIN_BACKOFF_MS, 100).
-define(MAX_BACKOFF_MS, 30000).
%% What requests of a worker that was replaced get to end, where files are watched.
-define(DEVELOPMENT_DRAIN_MS, 1000).

%% @doc None yet, which is published.
-spec new(args()) -> workers().
new(Args) ->
    publish(#workers{args = Args}).

%% @doc What is started from now on has read the files as they are now.
-spec begin_generation(workers()) -> workers().
begin_generation(Workers = #workers{generation = Generation}) ->
    Workers#workers{generation = Generation + 1}.

%% @doc How many there are to be, as the options are shown and told to workers.
-spec set_count(pos_integer(), workers()) -> workers().
set_count(Count, Workers = #workers{args = Args = #{config := Config}}) ->
    Workers#workers{args = Args#{config := Config#{workers := Count}}}.

%%% Starts

%% @doc One more worker.
-spec add(hornbeam_slots:worker_id(), workers()) -> result().
add(WorkerId, Workers = #workers{slots = Slots}) ->
    start(WorkerId, Workers#workers{slots = hornbeam_slots:add(WorkerId, Slots)}).

%% @doc A process for a slot that has none. If there is none to be had, another try comes later.
-spec start(hornbeam_slots:worker_id(), workers()) -> result().
start(WorkerId, Workers = #workers{slots = Slots}) ->
    case start_process(WorkerId, Workers) of
        {ok, Process} ->
            {ok, Workers#workers{slots = hornbeam_slots:put_worker(WorkerId, Process, Slots)}};
        {error, Reason} ->
            Failed = hornbeam_slots:start_failed(WorkerId, Reason, now_ms(), Slots),
            Later = start_later(WorkerId, Reason, Workers#workers{slots = Failed}),
            {failed, {WorkerId, Workers#workers.generation, Reason}, Later}
    end.

%% @doc A process that is to take the place of one that is ready.
-spec start_successor(hornbeam_slots:worker_id(), hornbeam_slots:why(), workers()) -> result().
start_successor(WorkerId, Why, Workers = #workers{slots = Slots}) ->
    case start_process(WorkerId, Workers) of
        {ok, Process} ->
            Put = hornbeam_slots:put_successor(WorkerId, Process, Why, Slots),
            {ok, Workers#workers{slots = Put}};
        {error, Reason} ->
            Failed = Workers#workers{slots = hornbeam_slots:successor_failed(WorkerId, Slots)},
            successor_failed({WorkerId, Workers#workers.generation, Reason}, Failed)
    end.

start_process(WorkerId, #workers{args = Args, generation = Generation}) ->
    {Sup, Given} = maps:take(sup, Args),
    hornbeam_worker_life:start(Sup, Given#{worker_id => WorkerId}, Generation).

%% @doc A worker has its OS process, for the case that it is killed.
-spec started(hornbeam_slots:worker_id(), pid(), pos_integer() | undefined, workers()) -> workers().
started(WorkerId, Pid, OsPid, Workers = #workers{slots = Slots}) ->
    Workers#workers{slots = hornbeam_slots:set_os_pid(WorkerId, Pid, OsPid, Slots)}.

%% @doc A worker can take requests: it is published, and one in whose place it has come is to leave.
-spec ready(hornbeam_slots:worker_id(), pid(), Writer :: pid(), hornbeam_selection:worker_class(),
            workers()) -> {ok, workers()} | unknown.
ready(WorkerId, Pid, Writer, WorkerClass, Workers0 = #workers{slots = Slots0}) ->
    Workers = Workers0#workers{worker_class = WorkerClass},
    case hornbeam_slots:ready(WorkerId, Pid, Writer, now_ms(), Slots0) of
        {started, Slots} -> {ok, put_ready(WorkerId, [], Workers#workers{slots = Slots})};
        {replaced, Former, Slots} ->
            {ok, put_ready(WorkerId, [Former], Workers#workers{slots = Slots})};
        unknown -> unknown
    end.

put_ready(WorkerId, Replaced, Workers) ->
    ?LOG_INFO(#{what => worker_ready, worker_id => WorkerId}),
    Published = publish(Workers),
    lists:foreach(fun hornbeam_worker_life:drain/1, Replaced),
    Published.

%% @doc Somebody wants a worker replaced. It may have its successor now, unless too many were of no
%% use so far.
-spec want(hornbeam_slots:worker_id(), pid(), hornbeam_slots:urgency(), hornbeam_slots:why(),
           workers()) -> {ok, workers()} | ignored.
want(WorkerId, Pid, Urgency, Why, Workers = #workers{slots = Slots0}) ->
    case hornbeam_slots:want(WorkerId, Pid, Urgency, {Why, now_ms()}, Slots0) of
        {ok, 0, Slots} -> {ok, Workers#workers{slots = Slots}};
        {ok, _, Slots} -> {ok, succeed_later(WorkerId, Workers#workers{slots = Slots})};
        ignored -> ignored
    end.

%% @doc `{timeout, Timer, {next_start, WorkerId}}' has come.
-spec timer_due(hornbeam_slots:worker_id(), reference(), workers()) -> result() | stale.
timer_due(WorkerId, Timer, Workers = #workers{slots = Slots0}) ->
    case hornbeam_slots:timer_due(WorkerId, Timer, Slots0) of
        {start, Slots} -> start(WorkerId, Workers#workers{slots = Slots});
        {successor, Slots} -> {ok, Workers#workers{slots = Slots}};
        stale -> stale
    end.

%%% Ends

%% @doc `{{worker_down, WorkerId}, Monitor, process, _, Reason}' has come. `ended': it had been ready.
-spec down(hornbeam_slots:worker_id(), Monitor :: reference(), hornbeam_worker_exit:reason(),
           workers()) -> result() | {ended, failure(), workers()}.
down(WorkerId, Monitor, Reason, Workers = #workers{slots = Slots0}) ->
    {What, Process, Slots} = hornbeam_slots:down(WorkerId, Monitor, Reason, now_ms(), Slots0),
    #{generation := Generation} = Process,
    is_down(What, Process, {WorkerId, Generation, Reason}, Workers#workers{slots = Slots}).

is_down(worker, Process, Failure = {WorkerId, _, Reason}, Workers) ->
    Later = start_later(WorkerId, Reason, withdraw(Process, Reason, Workers)),
    case Process of
        #{ready_ms := _} -> {ended, Failure, Later};
        #{} -> {failed, Failure, Later}
    end;
%% The successor has not come into its place yet: it does now.
is_down(succeeded, Process, {WorkerId, _, Reason}, Workers) ->
    log_down(WorkerId, Reason, 0),
    {ok, withdraw(Process, Reason, Workers)};
is_down(successor, Process, Failure = {_, _, Reason}, Workers) ->
    hornbeam_worker_life:withdrawn(Process, Reason),
    successor_failed(Failure, Workers);
is_down(left, Process, {WorkerId, _, Reason}, Workers) ->
    _ = is_map_key(ready_ms, Process) andalso log_drained(WorkerId, Reason),
    withdrawn(Process, Reason, Workers),
    {ok, Workers}.

withdraw(Process = #{load := Load}, Reason, Workers0) ->
    hornbeam_load:close(Load),
    Workers = publish(Workers0),
    withdrawn(Process, Reason, Workers),
    Workers.

%% Before those who waited for it go elsewhere: what has ended this one may have ended others.
withdrawn(Process, Reason, #workers{slots = Slots}) ->
    _ = Reason =/= {shutdown, stopped} andalso
        lists:foreach(fun hornbeam_worker_life:doubt/1, hornbeam_slots:ready_processes(Slots)),
    hornbeam_worker_life:withdrawn(Process, Reason).

start_later(WorkerId, Reason, Workers = #workers{slots = Slots}) ->
    {Failures, _} = hornbeam_slots:failures(WorkerId, Slots),
    DelayMs = backoff_ms(Failures),
    log_down(WorkerId, Reason, DelayMs),
    set_timer(WorkerId, DelayMs, Workers).

%% The worker itself serves on. Where only a reload has wanted the successor, that has failed.
successor_failed(Failure = {WorkerId, _, Reason}, Workers = #workers{slots = Slots}) ->
    ?LOG_ERROR(#{what => successor_down, worker_id => WorkerId,
                 reason => hornbeam_worker_exit:text(Reason)}),
    case hornbeam_slots:is_wanted(WorkerId, Slots) of
        true -> {failed, Failure, succeed_later(WorkerId, Workers)};
        false -> {failed, Failure, Workers}
    end.

%% Never at once: there is a worker.
succeed_later(WorkerId, Workers = #workers{slots = Slots}) ->
    {_, Attempts} = hornbeam_slots:failures(WorkerId, Slots),
    set_timer(WorkerId, backoff_ms(Attempts + 1), Workers).

set_timer(WorkerId, DelayMs, Workers = #workers{slots = Slots}) ->
    Timer = erlang:start_timer(DelayMs, self(), {next_start, WorkerId}),
    Workers#workers{slots = hornbeam_slots:set_timer(WorkerId, Timer, Slots)}.

%% @private The first failure in a row is answered at once, the second after 100 ms, 200 ms, .. 30 s,
%% give or take a quarter, so that workers that fail together do not start together.
-spec backoff_ms(Failures :: non_neg_integer()) -> non_neg_integer().
backoff_ms(Failures) when Failures =< 1 ->
    0;
backoff_ms(Failures) ->
    BaseMs = min(?MAX_BACKOFF_MS, ?MIN_BACKOFF_MS bsl min(Failures - 2, 20)),
    BaseMs * 3 div 4 + rand:uniform(BaseMs div 2).

log_down(WorkerId, Reason, DelayMs) ->
    ?LOG_ERROR(#{what => worker_down, worker_id => WorkerId,
                 reason => hornbeam_worker_exit:text(Reason), restart_in_ms => DelayMs}).

log_drained(WorkerId, Reason) ->
    ?LOG_INFO(#{what => worker_drained, worker_id => WorkerId,
                reason => hornbeam_worker_exit:text(Reason)}).

%% @doc Take workers away. Those that are ready leave when others cannot select them any more.
-spec retire([hornbeam_slots:worker_id()], workers()) -> workers().
retire(Ids, Workers0) ->
    {Leaving, Discarded, Workers} = lists:foldl(fun retire_one/2, {[], [], Workers0}, Ids),
    Published = publish(Workers),
    lists:foreach(fun hornbeam_worker_life:drain/1, Leaving),
    lists:foreach(fun hornbeam_worker_life:discard/1, Discarded),
    Published.

retire_one(Id, {Leaving0, Discarded0, Workers = #workers{slots = Slots0}}) ->
    {Leaving, Discarded, Slots} = hornbeam_slots:retire(Id, Slots0),
    {Leaving ++ Leaving0, Discarded ++ Discarded0, Workers#workers{slots = Slots}}.

%% @doc End what is starting in a slot: the successor, or the worker itself.
-spec discard_starting(hornbeam_slots:worker_id(), workers()) -> workers().
discard_starting(WorkerId, Workers = #workers{slots = Slots0}) ->
    {Process, Slots} = hornbeam_slots:discard(WorkerId, Slots0),
    hornbeam_worker_life:discard(Process),
    Workers#workers{slots = Slots}.

%% @doc `{timeout, _, {stop_drained, Monitor}}' has come: see whether one that leaves may end.
-spec stop_drained(Monitor :: reference(), workers()) -> ok.
stop_drained(Monitor, #workers{slots = Slots, args = #{config := Config}}) ->
    case hornbeam_slots:leaving(Monitor, Slots) of
        {ok, Process} -> hornbeam_worker_life:stop_drained(Process, drain_timeout(Config));
        gone -> ok
    end.

%% Who develops wants to see the new version, also in streams that clients open again.
drain_timeout(#{reload := false, shutdown_timeout := TimeoutMs}) ->
    TimeoutMs;
drain_timeout(#{shutdown_timeout := TimeoutMs}) ->
    min(?DEVELOPMENT_DRAIN_MS, TimeoutMs).

-spec tell_going_away(workers()) -> ok.
tell_going_away(#workers{slots = Slots}) ->
    lists:foreach(fun(#{routes := Routes}) -> hornbeam_routes:tell_going_away(Routes) end,
                  hornbeam_slots:processes(Slots)).

%% @doc End all, and wait for that: side by side, by the time by which the pool is to have stopped.
-spec stop_all(workers()) -> ok.
stop_all(#workers{slots = Slots, args = #{config := Config, waiting := Waiting}}) ->
    TimeoutMs = case hornbeam_selection:stop_deadline_ms(Waiting) of
        none -> maps:get(shutdown_timeout, Config);
        DeadlineMs -> max(0, DeadlineMs - now_ms())
    end,
    hornbeam_worker_life:stop_all(hornbeam_slots:processes(Slots), TimeoutMs).

%%% Queries

-spec slots(workers()) -> hornbeam_slots:slots().
slots(#workers{slots = Slots}) ->
    Slots.

-spec generation(workers()) -> non_neg_integer().
generation(#workers{generation = Generation}) ->
    Generation.

-spec config(workers()) -> hornbeam_config:config().
config(#workers{args = #{config := Config}}) ->
    Config.

%% @doc How many requests they would take now.
-spec free_places(workers()) -> non_neg_integer().
free_places(Workers) ->
    free_places(open_loads(Workers), max_concurrency(Workers)).

%% @doc How many of them in workers that have shown that they live; `infinity' where that is no matter
%% any more, as there is none of which it could not be said.
-spec proven_places(workers()) -> non_neg_integer() | infinity.
proven_places(Workers) ->
    case lists:partition(fun hornbeam_load:is_proven/1, open_loads(Workers)) of
        {_, []} -> infinity;
        {Proven, _} -> free_places(Proven, max_concurrency(Workers))
    end.

%%% Internal

open_loads(#workers{slots = Slots}) ->
    [Load || #{load := Load} <- hornbeam_slots:ready_processes(Slots), hornbeam_load:is_open(Load)].

free_places(Loads, Max) ->
    lists:sum([max(0, Max - hornbeam_load:in_flight(Load)) || Load <- Loads]).

publish(Workers = #workers{args = Args, slots = Slots, worker_class = WorkerClass}) ->
    #{server := Name, waiting := Waiting} = Args,
    Ready = [{Pid, Writer, Routes, Load}
             || #{pid := Pid, writer := Writer, routes := Routes, load := Load}
                <- hornbeam_slots:ready_processes(Slots)],
    ok = hornbeam_selection:publish(Name, Ready, max_concurrency(Workers), Waiting, WorkerClass),
    Workers.

max_concurrency(#workers{args = #{config := Config}, worker_class = WorkerClass}) ->
    case Config of
        %% A request of a WSGI application takes a thread.
        #{max_concurrency := auto, threads := Threads} when WorkerClass =:= wsgi -> Threads;
        #{max_concurrency := auto} -> ?ASGI_CONCURRENCY;
        #{max_concurrency := Max} -> Max
    end.

now_ms() ->
    erlang:monotonic_time(millisecond).
