%% SPDX-License-Identifier: Apache-2.0

%% @private The workers of one server: their start, the queue in front of them, their replacement.
%%
%% Selection runs in the connection processes (see {@link hornbeam_selection}). The pool process only
%% writes what they read, keeps the queue of requests for which there was no place, and sees to it
%% that each slot has a worker (see {@link hornbeam_slots}). Workers that have ended are started
%% again: the first time at once, then with a delay that doubles up to a bound, with jitter, for ever.
%% Workers are replaced without a gap, for a reload (see {@link hornbeam_rollout}) or because somebody
%% wants one replaced: its successor takes over when it is ready. One whose successor fails serves on,
%% and the next successor comes after the same delays.
%%
%% Who may wait for what: a connection that found no place is in the queue until it is told to try
%% again, its time there is up, or it leaves; a lost wake-up cannot strand it, because the pool
%% looks for free places on every tick while the queue is not empty.
-module(hornbeam_pool).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

%% API
-export([start_link/3]).
-export([enqueue/4]).
-export([leave_queue/2]).
-export([release/2]).
-export([release/3]).
-export([has_place/1]).
-export([worker_started/4]).
-export([worker_ready/5]).
-export([replace/3]).
-export([recycle/4]).
-export([reload/1]).
-export([reload_newest/1]).
-export([scale/2]).
-export([await_ready/1]).
-export([info/1]).

%% internal
-export([backoff_ms/1]).

%% gen_server
-export([init/1]).
-export([handle_continue/2]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).
-export([terminate/2]).

-record(state, {
    name :: atom(),
    config :: hornbeam_config:config(),
    python :: file:filename(),
    sup :: pid(),
    started_ms :: integer(),
    slots = hornbeam_slots:new() :: hornbeam_slots:slots(),
    %% Of processes that are started now: how many reloads there were.
    generation = 0 :: non_neg_integer(),
    rollout = hornbeam_rollout:new() :: hornbeam_rollout:rollout(),
    worker_class :: hornbeam_selection:worker_class(),
    waiting :: hornbeam_waiting:waiting(),
    tick :: reference() | undefined,
    %% Those who wait in await_ready/1, and whether all workers have been ready once.
    awaiting = [] :: [gen_server:from()],
    outcome = pending :: pending | ready | {error, hornbeam_error:reason()}
}).

%% How often the queue is looked after while somebody is in it.
-define(TICK_MS, 50).
%% Requests in flight per worker, where the option does not say.
-define(ASGI_CONCURRENCY, 1000).
-define(MIN_BACKOFF_MS, 100).
-define(MAX_BACKOFF_MS, 30000).
%% What requests of a worker that was replaced get to end, where files are watched.
-define(DEVELOPMENT_DRAIN_MS, 1000).

%%% API

-spec start_link(atom(), hornbeam_config:config(), file:filename()) ->
    {ok, pid()} | {error, term()}.
start_link(Name, Config, Python) ->
    gen_server:start_link(?MODULE, {Name, Config, Python}, []).

%% @doc Wait for a place. The stream gets `{pool, retry}' when its turn has come and
%% `{pool, timeout}' when `queue_timeout' is over since `ArrivalMs'. One that found no place in its
%% turn (`queued') comes back to where it was, whatever the length of the queue.
-spec enqueue(atom(), hornbeam_routes:stream_key(), ArrivalMs :: integer(),
              hornbeam_selection:turn()) -> ok | full | down.
enqueue(Name, StreamKey, ArrivalMs, Turn) ->
    case hornbeam_selection:admit(Name, Turn) of
        {ok, Pid} -> gen_server:cast(Pid, {enqueue, StreamKey, ArrivalMs});
        Refused -> Refused
    end.

%% @doc The stream does not wait any longer; nothing happens when it does not wait.
-spec leave_queue(atom(), hornbeam_routes:stream_key()) -> ok.
leave_queue(Name, StreamKey) ->
    case hornbeam_selection:pool_pid(Name) of
        undefined -> ok;
        Pid -> gen_server:cast(Pid, {leave_queue, StreamKey})
    end.

%% @doc Give back a place that could not be used.
-spec release(atom(), hornbeam_load:load()) -> ok.
release(Name, Load) ->
    hornbeam_load:release(Load),
    case hornbeam_selection:pool_pid(Name) of
        undefined -> ok;
        Pid -> gen_server:cast(Pid, released)
    end.

%% @doc The same for the worker process, for each request that is over: no message where nobody
%% waits.
-spec release(pid(), hornbeam_load:load(), hornbeam_selection:waiting()) -> ok.
release(Pool, Load, Waiting) ->
    hornbeam_load:release(Load),
    case hornbeam_selection:is_somebody_waiting(Waiting) of
        true -> gen_server:cast(Pool, released);
        false -> ok
    end.

%% @doc A worker takes requests again.
-spec has_place(pid()) -> ok.
has_place(Pool) ->
    gen_server:cast(Pool, released).

%% @doc Told by a worker when its OS process is there, for the case that it is killed.
-spec worker_started(pid(), pos_integer(), pid(), pos_integer() | undefined) -> ok.
worker_started(Pool, WorkerId, Worker, OsPid) ->
    gen_server:cast(Pool, {worker_started, WorkerId, Worker, OsPid}).

%% @doc Told by a worker when it can take requests.
-spec worker_ready(pid(), pos_integer(), pid(), pid(), hornbeam_selection:worker_class()) -> ok.
worker_ready(Pool, WorkerId, Worker, Writer, WorkerClass) ->
    gen_server:cast(Pool, {worker_ready, WorkerId, Worker, Writer, WorkerClass}).

%% @doc Start a successor for a worker, which serves on until that is ready, and then ends when it
%% has finished what it has. Nothing happens when it is being replaced already.
-spec replace(pid(), pos_integer(), pid()) -> ok.
replace(Pool, WorkerId, Worker) ->
    gen_server:cast(Pool, {want, WorkerId, Worker, now, timeout}).

%% @doc The same for a worker that has served for long enough: when not too many others are being
%% replaced, so that workers of the same age do not leave at the same time.
-spec recycle(pid(), pos_integer(), pid(), hornbeam_slots:why()) -> ok.
recycle(Pool, WorkerId, Worker, Why) ->
    gen_server:cast(Pool, {want, WorkerId, Worker, in_turn, Why}).

%% @doc Replace all workers. Returns when no request goes to one that was there before.
%%
%% No timeout: each worker bounds its own start, and then is ready or ends.
-spec reload(pid()) -> ok | {error, hornbeam_error:reason()}.
reload(Pool) ->
    gen_server:call(Pool, reload, infinity).

%% @doc The same for files that have changed, without an answer. A reload that is under way begins
%% anew: what it would bring is out of date.
-spec reload_newest(pid()) -> ok.
reload_newest(Pool) ->
    gen_server:cast(Pool, reload_newest).

%% @doc Have so many workers. Returns when those that were added are ready; see reload/1 for the
%% timeout.
-spec scale(pid(), pos_integer()) -> ok | {error, hornbeam_error:reason()}.
scale(Pool, Count) ->
    gen_server:call(Pool, {scale, Count}, infinity).

%% @doc Wait until all workers have been ready once, or one has failed before that.
%% No timeout: each worker bounds its own start and then ends, which is an answer too.
-spec await_ready(pid()) -> ok | {error, hornbeam_error:reason()}.
await_ready(Pool) ->
    gen_server:call(Pool, await_ready, infinity).

-spec info(pid()) -> #{workers := [map()], queue := non_neg_integer(),
                       uptime_ms := non_neg_integer(), options := map()}.
info(Pool) ->
    {Slots, Info} = gen_server:call(Pool, info),
    %% Asked for here: a worker that is busy must not hold up the pool.
    Info#{workers => [shown_worker(Slot) || Slot <- Slots]}.

%%% gen_server

-spec init({atom(), hornbeam_config:config(), file:filename()}) ->
    {ok, #state{}, {continue, start_workers}}.
init({Name, Config = #{max_queue := MaxQueue}, Python}) ->
    process_flag(trap_exit, true),
    logger:update_process_metadata(#{hornbeam_server => Name}),
    Sup = hornbeam_selection:workers_sup(Name),
    %% Without it no worker can be started, and none runs.
    _ = monitor(process, Sup, [{tag, workers_sup_down}]),
    State = #state{name = Name, config = Config, python = Python,
                   waiting = hornbeam_waiting:new(MaxQueue), sup = Sup,
                   started_ms = erlang:monotonic_time(millisecond)},
    {ok, publish(State), {continue, start_workers}}.

-spec handle_continue(start_workers, #state{}) -> {noreply, #state{}}.
handle_continue(start_workers, State = #state{config = #{workers := Count}}) ->
    {noreply, lists:foldl(fun add_worker/2, State, lists:seq(1, Count))}.

-spec handle_call(term(), gen_server:from(), #state{}) ->
    {noreply, #state{}} | {reply, term(), #state{}}.
handle_call(await_ready, From, State = #state{outcome = pending, awaiting = Awaiting}) ->
    {noreply, State#state{awaiting = [From | Awaiting]}};
handle_call(await_ready, _From, State = #state{outcome = ready}) ->
    {reply, ok, State};
handle_call(await_ready, _From, State = #state{outcome = Error}) ->
    {reply, Error, State};
handle_call(reload, From, State = #state{rollout = Rollout}) ->
    Asked = hornbeam_rollout:ask_for_reload(From, Rollout),
    {noreply, advance(State#state{rollout = Asked})};
handle_call({scale, Count}, From, State = #state{rollout = Rollout}) ->
    Asked = hornbeam_rollout:ask_for_scale(Count, From, Rollout),
    {noreply, advance(State#state{rollout = Asked})};
handle_call(info, _From, State = #state{slots = Slots, waiting = Waiting}) ->
    Info = #{queue => hornbeam_waiting:size(Waiting),
             uptime_ms => now_ms() - State#state.started_ms,
             options => hornbeam_config:mask(State#state.config)},
    {reply, {hornbeam_slots:shown(Slots), Info}, State}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast({worker_started, WorkerId, Pid, OsPid}, State = #state{slots = Slots}) ->
    {noreply, State#state{slots = hornbeam_slots:set_os_pid(WorkerId, Pid, OsPid, Slots)}};
handle_cast({worker_ready, WorkerId, Pid, Writer, WorkerClass}, State = #state{slots = Slots0}) ->
    case hornbeam_slots:ready(WorkerId, Pid, Writer, now_ms(), Slots0) of
        {started, Slots} ->
            {noreply, worker_ready(WorkerId, WorkerClass, [], State#state{slots = Slots})};
        {replaced, Former, Slots} ->
            {noreply, worker_ready(WorkerId, WorkerClass, [Former], State#state{slots = Slots})};
        unknown ->
            {noreply, State}
    end;
handle_cast({want, WorkerId, Pid, Urgency, Why}, State = #state{slots = Slots0}) ->
    case hornbeam_slots:want(WorkerId, Pid, Urgency, {Why, now_ms()}, Slots0) of
        {ok, 0, Slots} ->
            {noreply, advance(State#state{slots = Slots})};
        {ok, _, Slots} ->
            {noreply, advance(succeed_later(WorkerId, State#state{slots = Slots}))};
        ignored ->
            {noreply, State}
    end;
handle_cast(reload_newest, State = #state{rollout = Rollout}) ->
    case hornbeam_rollout:ask_for_newest(Rollout) of
        {anew, Asked} -> {noreply, advance(begin_reload(State#state{rollout = Asked}))};
        {later, Asked} -> {noreply, advance(State#state{rollout = Asked})}
    end;
handle_cast(going_away, State = #state{slots = Slots}) ->
    _ = [hornbeam_routes:tell_going_away(Routes)
         || #{routes := Routes} <- hornbeam_slots:processes(Slots)],
    {noreply, State};
handle_cast({enqueue, StreamKey, ArrivalMs}, State = #state{waiting = Waiting}) ->
    Queued = State#state{waiting = hornbeam_waiting:in(StreamKey, ArrivalMs, Waiting)},
    {noreply, wake(ensure_tick(Queued))};
handle_cast({leave_queue, StreamKey}, State = #state{waiting = Waiting}) ->
    {noreply, State#state{waiting = hornbeam_waiting:leave(StreamKey, Waiting)}};
handle_cast(released, State) ->
    {noreply, wake(State)}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}.
handle_info({{worker_down, WorkerId}, Monitor, process, _Pid, Reason}, State = #state{}) ->
    #state{slots = Slots0} = State,
    {What, Process, Slots} = hornbeam_slots:down(WorkerId, Monitor, Reason, now_ms(), Slots0),
    Down = process_down(What, WorkerId, {Process, Reason}, State#state{slots = Slots}),
    {noreply, advance(Down)};
handle_info({{waiting_down, StreamKey}, _, process, _, _}, State = #state{waiting = Waiting}) ->
    {noreply, State#state{waiting = hornbeam_waiting:leave(StreamKey, Waiting)}};
handle_info({workers_sup_down, _, process, _, Reason}, State) ->
    {stop, {shutdown, {workers_sup_down, Reason}}, State};
handle_info({timeout, Timer, {next_start, WorkerId}}, State = #state{slots = Slots0}) ->
    case hornbeam_slots:timer_due(WorkerId, Timer, Slots0) of
        {start, Slots} -> {noreply, advance(start_worker(WorkerId, State#state{slots = Slots}))};
        {successor, Slots} -> {noreply, advance(State#state{slots = Slots})};
        stale -> {noreply, State}
    end;
handle_info({timeout, _, {stop_drained, Monitor}}, State = #state{slots = Slots}) ->
    case hornbeam_slots:leaving(Monitor, Slots) of
        {ok, Process} -> hornbeam_worker_life:stop_drained(Process, drain_timeout(State));
        gone -> ok
    end,
    {noreply, State};
handle_info({timeout, Tick, tick}, State0 = #state{tick = Tick}) ->
    State = expire_queue(State0#state{tick = undefined}),
    {noreply, wake(ensure_tick(State))};
handle_info(Message, State) ->
    ?LOG_WARNING(#{what => unexpected_message, message => Message}),
    {noreply, State}.

%% The workers end here, side by side, rather than by their supervisor after this process: their
%% tables belong to this one.
-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, State = #state{name = Name, slots = Slots}) ->
    ok = hornbeam_selection:withdraw(Name),
    hornbeam_worker_life:stop_all(hornbeam_slots:processes(Slots), stop_ms(State)).

stop_ms(State = #state{waiting = Waiting}) ->
    case hornbeam_selection:stop_deadline_ms(hornbeam_waiting:counter(Waiting)) of
        none -> shutdown_timeout(State);
        DeadlineMs -> max(0, DeadlineMs - now_ms())
    end.

shutdown_timeout(#state{config = #{shutdown_timeout := TimeoutMs}}) ->
    TimeoutMs.

%% Who develops wants to see the new version, also in streams that clients open again.
drain_timeout(State = #state{config = #{reload := Reload}}) ->
    case Reload of
        false -> shutdown_timeout(State);
        #{} -> min(?DEVELOPMENT_DRAIN_MS, shutdown_timeout(State))
    end.

%%% Selection

publish(State = #state{name = Name, slots = Slots, config = Config, waiting = Waiting}) ->
    #state{worker_class = WorkerClass} = State,
    Workers = [{Pid, Writer, Routes, Load}
               || #{pid := Pid, writer := Writer, routes := Routes, load := Load}
                  <- hornbeam_slots:ready_processes(Slots)],
    Max = max_concurrency(Config, WorkerClass),
    ok = hornbeam_selection:publish(Name, Workers, Max, hornbeam_waiting:counter(Waiting),
                                    WorkerClass),
    State.

%% A request of a WSGI application takes a thread.
max_concurrency(#{max_concurrency := auto, threads := Threads}, wsgi) -> Threads;
max_concurrency(#{max_concurrency := auto}, _) -> ?ASGI_CONCURRENCY;
max_concurrency(#{max_concurrency := Max}, _) -> Max.

%%% Starts

add_worker(WorkerId, State = #state{slots = Slots}) ->
    start_worker(WorkerId, State#state{slots = hornbeam_slots:add(WorkerId, Slots)}).

start_worker(WorkerId, State = #state{slots = Slots}) ->
    case start_process(WorkerId, State) of
        {ok, Process} ->
            State#state{slots = hornbeam_slots:put_worker(WorkerId, Process, Slots)};
        {error, Reason} ->
            Failed = hornbeam_slots:start_failed(WorkerId, Reason, now_ms(), Slots),
            never_ready(WorkerId, State#state.generation, Reason,
                        start_later(WorkerId, Reason, State#state{slots = Failed}))
    end.

start_successor({WorkerId, Why}, State = #state{slots = Slots}) ->
    case start_process(WorkerId, State) of
        {ok, Process} ->
            State#state{slots = hornbeam_slots:put_successor(WorkerId, Process, Why, Slots)};
        {error, Reason} ->
            Failed = State#state{slots = hornbeam_slots:successor_failed(WorkerId, Slots)},
            successor_failed(WorkerId, State#state.generation, Reason, Failed)
    end.

start_process(WorkerId, State = #state{sup = Sup, waiting = Waiting}) ->
    Args = #{server => State#state.name, worker_id => WorkerId, python => State#state.python,
             config => State#state.config, waiting => hornbeam_waiting:counter(Waiting)},
    hornbeam_worker_life:start(Sup, Args, State#state.generation).

worker_ready(WorkerId, WorkerClass, Replaced, State) ->
    ?LOG_INFO(#{what => worker_ready, worker_id => WorkerId}),
    Published = publish(State#state{worker_class = WorkerClass}),
    lists:foreach(fun hornbeam_worker_life:drain/1, Replaced),
    wake(advance(settle(Published))).

%%% Ends

process_down(worker, WorkerId, {Process, Reason}, State0) ->
    State = withdraw(Process, Reason, State0),
    Later = start_later(WorkerId, Reason, State),
    case Process of
        #{ready_ms := _} -> settle_failed(WorkerId, Reason, Later);
        #{generation := Generation} -> never_ready(WorkerId, Generation, Reason, Later)
    end;
%% The successor has not come into its place yet: it does now.
process_down(succeeded, WorkerId, {Process, Reason}, State) ->
    log_down(WorkerId, Reason, 0),
    withdraw(Process, Reason, State);
process_down(successor, WorkerId, {Process = #{generation := Generation}, Reason}, State) ->
    hornbeam_worker_life:withdrawn(Process, Reason),
    successor_failed(WorkerId, Generation, Reason, State);
process_down(left, WorkerId, {Process, Reason}, State) ->
    _ = is_map_key(ready_ms, Process) andalso log_drained(WorkerId, Reason),
    hornbeam_worker_life:withdrawn(Process, Reason),
    State.

withdraw(Process = #{load := Load}, Reason, State0) ->
    hornbeam_load:close(Load),
    State = publish(State0),
    hornbeam_worker_life:withdrawn(Process, Reason),
    State.

start_later(WorkerId, Reason, State = #state{slots = Slots}) ->
    {Failures, _} = hornbeam_slots:failures(WorkerId, Slots),
    DelayMs = backoff_ms(Failures),
    log_down(WorkerId, Reason, DelayMs),
    set_timer(WorkerId, DelayMs, State).

%% The worker itself serves on. Where only a reload has wanted the successor, that has failed.
successor_failed(WorkerId, Generation, Reason, State = #state{slots = Slots}) ->
    ?LOG_ERROR(#{what => successor_down, worker_id => WorkerId,
                 reason => hornbeam_worker_exit:text(Reason)}),
    Later = case hornbeam_slots:is_wanted(WorkerId, Slots) of
        true -> succeed_later(WorkerId, State);
        false -> State
    end,
    rollout_failed(WorkerId, Generation, Reason, Later).

%% Never at once: there is a worker.
succeed_later(WorkerId, State = #state{slots = Slots}) ->
    {_, Attempts} = hornbeam_slots:failures(WorkerId, Slots),
    set_timer(WorkerId, backoff_ms(Attempts + 1), State).

set_timer(WorkerId, DelayMs, State = #state{slots = Slots}) ->
    Timer = erlang:start_timer(DelayMs, self(), {next_start, WorkerId}),
    State#state{slots = hornbeam_slots:set_timer(WorkerId, Timer, Slots)}.

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

%%% Replacement

%% After everything that may have been waited for.
advance(State = #state{outcome = pending}) ->
    State;
advance(State0 = #state{slots = Slots, rollout = Rollout0}) ->
    case hornbeam_rollout:step(Slots, Rollout0) of
        {[], Rollout} ->
            start_due(State0#state{rollout = Rollout});
        {Actions, Rollout} ->
            advance(lists:foldl(fun act/2, State0#state{rollout = Rollout}, Actions));
        done ->
            advance(answer_rollout(ok, State0));
        idle ->
            begin_next(State0)
    end.

begin_next(State0 = #state{rollout = Rollout0}) ->
    case hornbeam_rollout:next(Rollout0) of
        {reload, Rollout} -> advance(begin_reload(State0#state{rollout = Rollout}));
        {{scale, Count}, Rollout} -> advance(begin_scale(Count, State0#state{rollout = Rollout}));
        none -> start_due(State0)
    end.

start_due(State = #state{slots = Slots}) ->
    Limit = max(1, hornbeam_slots:count(Slots) div 4),
    lists:foldl(fun start_successor/2, State, hornbeam_slots:due(Limit, Slots)).

begin_reload(State = #state{generation = Generation, slots = Slots, rollout = Rollout}) ->
    Begun = hornbeam_rollout:begin_reload(Generation + 1, hornbeam_slots:ids(Slots), Rollout),
    State#state{generation = Generation + 1, rollout = Begun}.

%% The highest ids leave first.
begin_scale(Count, State0 = #state{slots = Slots, rollout = Rollout, config = Config}) ->
    Ids = hornbeam_slots:ids(Slots),
    Added = lists:seq(1, Count) -- Ids,
    ?LOG_NOTICE(#{what => scaling, from => length(Ids), to => Count}),
    Begun = hornbeam_rollout:begin_scale(length(Ids), Added, Rollout),
    Scaled = remove_workers(Count, State0#state{rollout = Begun}),
    lists:foldl(fun add_awaited/2, Scaled#state{config = Config#{workers := Count}}, Added).

%% Once one has failed, there is no point in the others.
add_awaited(WorkerId, State = #state{rollout = Rollout, generation = Generation}) ->
    case hornbeam_rollout:concerns(WorkerId, Generation, Rollout) of
        true -> add_worker(WorkerId, State);
        false -> State
    end.

remove_workers(Count, State0 = #state{slots = Slots, config = Config}) ->
    Ids = [Id || Id <- hornbeam_slots:ids(Slots), Id > Count],
    Fewer = State0#state{config = Config#{workers := Count}},
    {Leaving, Discarded, State} = lists:foldl(fun retire/2, {[], [], Fewer}, Ids),
    Published = publish(State),
    lists:foreach(fun hornbeam_worker_life:drain/1, Leaving),
    lists:foreach(fun hornbeam_worker_life:discard/1, Discarded),
    Published.

retire(Id, {Leaving0, Discarded0, State = #state{slots = Slots0}}) ->
    {Leaving, Discarded, Slots} = hornbeam_slots:retire(Id, Slots0),
    {Leaving ++ Leaving0, Discarded ++ Discarded0, State#state{slots = Slots}}.

%% What was started before the reload may have read older files.
act({_, Id} = Action, State = #state{slots = Slots, generation = Wanted}) ->
    case {Action, hornbeam_slots:state(Id, Slots)} of
        {_, {backoff, _, _}} -> start_worker(Id, State);
        {{succeed, _}, {_, _, none}} -> start_successor({Id, reload}, State);
        {{succeed, _}, {_, _, Wanted}} -> State;
        {{start, _}, {starting, Wanted, _}} -> State;
        {_, _} -> act(Action, discard_starting(Id, State))
    end.

discard_starting(Id, State = #state{slots = Slots0}) ->
    {Process, Slots} = hornbeam_slots:discard(Id, Slots0),
    hornbeam_worker_life:discard(Process),
    State#state{slots = Slots}.

%% A process has ended before it was ready, or could not be started.
never_ready(WorkerId, Generation, Reason, State) ->
    rollout_failed(WorkerId, Generation, Reason, settle_failed(WorkerId, Reason, State)).

rollout_failed(WorkerId, Generation, Reason, State = #state{rollout = Rollout}) ->
    case hornbeam_rollout:concerns(WorkerId, Generation, Rollout) of
        true -> answer_rollout({error, hornbeam_worker_exit:start_reason(Reason, WorkerId)}, State);
        false -> State
    end.

answer_rollout(Answer, State0 = #state{rollout = Rollout0}) ->
    {What, Waiters, Rollout} = hornbeam_rollout:finish(Rollout0),
    log_rollout(What, Answer),
    State = undo(What, Answer, State0#state{rollout = Rollout}),
    _ = [gen_server:reply(From, Answer) || From <- Waiters],
    State.

%% Workers that were replaced stay; of those that were added none does.
undo({scale, Before}, {error, _}, State) -> remove_workers(Before, State);
undo(_, _, State) -> State.

log_rollout(reload, ok) ->
    ?LOG_NOTICE(#{what => reloaded});
log_rollout({scale, _}, ok) ->
    ok;
log_rollout(reload, {error, Reason}) ->
    ?LOG_ERROR(#{what => reload_failed, reason => hornbeam_worker_exit:error_text(Reason)},
               #{report_cb => fun hornbeam_worker_exit:readable/1});
log_rollout({scale, _}, {error, Reason}) ->
    ?LOG_ERROR(#{what => scale_failed, reason => hornbeam_worker_exit:error_text(Reason)}).

%%% The first start

settle(State = #state{outcome = pending, slots = Slots}) ->
    case hornbeam_slots:are_all_ready(Slots) of
        true -> answer(ready, State);
        false -> State
    end;
settle(State) ->
    State.

settle_failed(WorkerId, Reason, State = #state{outcome = pending}) ->
    answer({error, hornbeam_worker_exit:start_reason(Reason, WorkerId)}, State);
settle_failed(_, _, State) ->
    State.

answer(Outcome, State = #state{awaiting = Awaiting}) ->
    Reply = case Outcome of
        ready -> ok;
        {error, _} -> Outcome
    end,
    _ = [gen_server:reply(From, Reply) || From <- Awaiting],
    State#state{outcome = Outcome, awaiting = []}.

%%% Queue

wake(State = #state{waiting = Waiting}) ->
    case hornbeam_waiting:size(Waiting) of
        0 -> State;
        _ -> State#state{waiting = hornbeam_waiting:wake(free_places(State), Waiting)}
    end.

free_places(#state{slots = Slots, config = Config, worker_class = WorkerClass}) ->
    Max = max_concurrency(Config, WorkerClass),
    lists:sum([max(0, Max - hornbeam_load:in_flight(Load))
               || #{load := Load} <- hornbeam_slots:ready_processes(Slots),
                  hornbeam_load:is_open(Load)]).

%% A request that has waited for `timeout' has had its time, too; the stream knows which it was.
expire_queue(State = #state{waiting = Waiting, config = Config}) ->
    #{queue_timeout := QueueMs, timeout := AnswerMs} = Config,
    case min(QueueMs, AnswerMs) of
        infinity -> State;
        LimitMs -> State#state{waiting = hornbeam_waiting:expire(now_ms() - LimitMs, Waiting)}
    end.

ensure_tick(State = #state{tick = undefined, waiting = Waiting}) ->
    case hornbeam_waiting:size(Waiting) of
        0 -> State;
        _ -> State#state{tick = erlang:start_timer(?TICK_MS, self(), tick)}
    end;
ensure_tick(State) ->
    State.

%%% Info

shown_worker({Shown, undefined}) ->
    Shown;
shown_worker({Shown, Pid}) ->
    case hornbeam_worker:info(Pid) of
        undefined -> Shown;
        Info -> maps:merge(Shown, Info)
    end.

now_ms() ->
    erlang:monotonic_time(millisecond).
