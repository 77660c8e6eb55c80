%% SPDX-License-Identifier: Apache-2.0

%% @private The pool of one server: the queue in front of its workers, and the process that looks after
%% them.
%%
%% Selection runs in the connection processes (see {@link hornbeam_selection}). The pool process only
%% writes what they read, keeps the queue of requests for which there was no place
%% ({@link hornbeam_waiting}), and sees to it that each slot has a worker
%% ({@link hornbeam_pool_workers}). Workers are replaced without a gap, for a reload or because
%% somebody wants one replaced: its successor takes over when it is ready. What is asked of the
%% workers as a whole is decided by {@link hornbeam_rollout} and done by
%% {@link hornbeam_pool_rollout}, once the first start is over ({@link hornbeam_pool_start}).
%%
%% Who may wait for what: a connection that found no place is in the queue until it is told to try
%% again, its time there is up, or it leaves; a lost wake-up cannot strand it, because the pool
%% looks for free places on every tick while the queue is not empty.
%%
%% One whose worker has died waits for a worker that has shown since that it lives. As long as there is
%% none with a place, but one that may still show it, it waits beside the queue: the places of that one
%% are for all others, who must not wait behind it. The dead worker's `max_concurrency' bounds how many
%% do so.
-module(hornbeam_pool).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

%% API
-export([start_link/3]).
-export([enqueue/4]).
-export([await_proof/3]).
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

%% gen_server
-export([init/1]).
-export([handle_continue/2]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).
-export([terminate/2]).

-record(state, {
    name :: atom(),
    started_ms :: integer(),
    workers :: hornbeam_pool_workers:workers(),
    rollout = hornbeam_rollout:new() :: hornbeam_rollout:rollout(),
    start = hornbeam_pool_start:new() :: hornbeam_pool_start:start(),
    waiting :: hornbeam_waiting:waiting(),
    %% Who waits for a worker that has shown that it lives.
    in_doubt = hornbeam_waiting:new_uncounted() :: hornbeam_waiting:waiting(),
    %% How long a request may wait.
    waiting_limit_ms :: timeout(),
    tick :: reference() | undefined
}).

%% How often the queue is looked after while somebody is in it.
-define(TICK_MS, 50).

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

%% @doc The same for one that goes only to a worker that has shown that it lives: its turn comes when
%% there is such a place, or no worker that may show it still.
-spec await_proof(atom(), hornbeam_routes:stream_key(), ArrivalMs :: integer()) -> ok | down.
await_proof(Name, StreamKey, ArrivalMs) ->
    case hornbeam_selection:pool_pid(Name) of
        undefined -> down;
        Pid -> gen_server:cast(Pid, {await_proof, StreamKey, ArrivalMs})
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

%% @doc A worker takes requests again, or those that it did not take.
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
    Waiting = hornbeam_waiting:new(MaxQueue),
    Args = #{server => Name, config => Config, python => Python, sup => Sup,
             waiting => hornbeam_waiting:counter(Waiting)},
    State = #state{name = Name, started_ms = now_ms(), workers = hornbeam_pool_workers:new(Args),
                   waiting = Waiting, waiting_limit_ms = waiting_limit_ms(Config)},
    {ok, State, {continue, start_workers}}.

%% A request that has waited for `timeout' has had its time, too; the stream knows which it was.
waiting_limit_ms(#{queue_timeout := QueueMs, timeout := AnswerMs}) ->
    min(QueueMs, AnswerMs).

-spec handle_continue(start_workers, #state{}) -> {noreply, #state{}}.
handle_continue(start_workers, State = #state{workers = Workers}) ->
    #{workers := Count} = hornbeam_pool_workers:config(Workers),
    {noreply, lists:foldl(fun add_worker/2, State, lists:seq(1, Count))}.

-spec handle_call(term(), gen_server:from(), #state{}) ->
    {noreply, #state{}} | {reply, term(), #state{}}.
handle_call(await_ready, From, State = #state{start = Start}) ->
    {noreply, State#state{start = hornbeam_pool_start:await(From, Start)}};
handle_call(reload, From, State = #state{rollout = Rollout}) ->
    Asked = hornbeam_rollout:ask_for_reload(From, Rollout),
    {noreply, advance(State#state{rollout = Asked})};
handle_call({scale, Count}, From, State = #state{rollout = Rollout}) ->
    Asked = hornbeam_rollout:ask_for_scale(Count, From, Rollout),
    {noreply, advance(State#state{rollout = Asked})};
handle_call(info, _From, State = #state{workers = Workers}) ->
    Info = #{queue => queued(State),
             uptime_ms => now_ms() - State#state.started_ms,
             options => hornbeam_config:mask(hornbeam_pool_workers:config(Workers))},
    {reply, {hornbeam_slots:shown(hornbeam_pool_workers:slots(Workers)), Info}, State}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast(released, State) ->
    {noreply, wake(State)};
handle_cast({enqueue, StreamKey, ArrivalMs}, State = #state{waiting = Waiting}) ->
    Queued = State#state{waiting = hornbeam_waiting:in(StreamKey, ArrivalMs, Waiting)},
    {noreply, wake(ensure_tick(Queued))};
handle_cast({await_proof, StreamKey, ArrivalMs}, State = #state{in_doubt = InDoubt}) ->
    Queued = State#state{in_doubt = hornbeam_waiting:in(StreamKey, ArrivalMs, InDoubt)},
    {noreply, wake(ensure_tick(Queued))};
handle_cast({leave_queue, StreamKey}, State) ->
    {noreply, leave_queues(StreamKey, State)};
handle_cast({worker_started, WorkerId, Pid, OsPid}, State = #state{workers = Workers}) ->
    {noreply, put_workers(hornbeam_pool_workers:started(WorkerId, Pid, OsPid, Workers), State)};
handle_cast({worker_ready, WorkerId, Pid, Writer, Class}, State = #state{workers = Workers}) ->
    case hornbeam_pool_workers:ready(WorkerId, Pid, Writer, Class, Workers) of
        {ok, Ready} -> {noreply, wake(advance(look_at_start(put_workers(Ready, State))))};
        unknown -> {noreply, State}
    end;
handle_cast({want, WorkerId, Pid, Urgency, Why}, State = #state{workers = Workers}) ->
    case hornbeam_pool_workers:want(WorkerId, Pid, Urgency, Why, Workers) of
        {ok, Wanting} -> {noreply, advance(put_workers(Wanting, State))};
        ignored -> {noreply, State}
    end;
handle_cast(reload_newest, State = #state{workers = Workers, rollout = Rollout}) ->
    Asked = hornbeam_pool_rollout:reload_newest({Workers, Rollout}),
    {noreply, advance(put_both(Asked, State))};
handle_cast(going_away, State = #state{workers = Workers}) ->
    ok = hornbeam_pool_workers:tell_going_away(Workers),
    {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}.
handle_info({{worker_down, WorkerId}, Monitor, process, _Pid, Reason}, State = #state{}) ->
    Down = hornbeam_pool_workers:down(WorkerId, Monitor, Reason, State#state.workers),
    {noreply, advance(follow(Down, State))};
handle_info({{waiting_down, StreamKey}, _, process, _, _}, State) ->
    {noreply, leave_queues(StreamKey, State)};
handle_info({workers_sup_down, _, process, _, Reason}, State) ->
    {stop, {shutdown, {workers_sup_down, Reason}}, State};
handle_info({timeout, Timer, {next_start, WorkerId}}, State = #state{workers = Workers}) ->
    case hornbeam_pool_workers:timer_due(WorkerId, Timer, Workers) of
        stale -> {noreply, State};
        Result -> {noreply, advance(follow(Result, State))}
    end;
handle_info({timeout, _, {stop_drained, Monitor}}, State = #state{workers = Workers}) ->
    ok = hornbeam_pool_workers:stop_drained(Monitor, Workers),
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
terminate(_Reason, #state{name = Name, workers = Workers}) ->
    ok = hornbeam_selection:withdraw(Name),
    hornbeam_pool_workers:stop_all(Workers).

%%% Workers

add_worker(WorkerId, State = #state{workers = Workers}) ->
    follow(hornbeam_pool_workers:add(WorkerId, Workers), State).

%% Who waits for the first start, a reload or another number of workers learns of what has failed.
follow({ok, Workers}, State) ->
    put_workers(Workers, State);
follow({ended, Failure, Workers}, State) ->
    start_failed(Failure, put_workers(Workers, State));
follow({failed, Failure, Workers}, State) ->
    #state{rollout = Rollout} = Failed = start_failed(Failure, State),
    put_both(hornbeam_pool_rollout:failed(Failure, {Workers, Rollout}), Failed).

start_failed(Failure, State = #state{start = Start}) ->
    State#state{start = hornbeam_pool_start:failed(Failure, Start)}.

look_at_start(State = #state{start = Start, workers = Workers}) ->
    Slots = hornbeam_pool_workers:slots(Workers),
    State#state{start = hornbeam_pool_start:look(Slots, Start)}.

%% After everything that may have been waited for.
advance(State = #state{start = Start, workers = Workers, rollout = Rollout}) ->
    case hornbeam_pool_start:is_pending(Start) of
        true -> State;
        false -> put_both(hornbeam_pool_rollout:advance({Workers, Rollout}), State)
    end.

put_workers(Workers, State) ->
    State#state{workers = Workers}.

put_both({Workers, Rollout}, State) ->
    State#state{workers = Workers, rollout = Rollout}.

%%% Queue

wake(State) ->
    wake_queued(wake_in_doubt(State)).

wake_in_doubt(State = #state{in_doubt = InDoubt, workers = Workers}) ->
    case hornbeam_waiting:size(InDoubt) of
        0 ->
            State;
        Size ->
            %% Erlang's term order puts `infinity' above every number.
            Places = min(Size, hornbeam_pool_workers:proven_places(Workers)),
            State#state{in_doubt = hornbeam_waiting:wake(Places, InDoubt)}
    end.

wake_queued(State = #state{waiting = Waiting, workers = Workers}) ->
    case hornbeam_waiting:size(Waiting) of
        0 ->
            State;
        _ ->
            Places = hornbeam_pool_workers:free_places(Workers),
            State#state{waiting = hornbeam_waiting:wake(Places, Waiting)}
    end.

expire_queue(State = #state{waiting_limit_ms = infinity}) ->
    State;
expire_queue(State = #state{waiting_limit_ms = LimitMs}) ->
    NowMs = now_ms(),
    in_queues(fun(Waiting) -> hornbeam_waiting:expire(NowMs - LimitMs, Waiting) end, State).

leave_queues(StreamKey, State) ->
    in_queues(fun(Waiting) -> hornbeam_waiting:leave(StreamKey, Waiting) end, State).

in_queues(Do, State = #state{waiting = Waiting, in_doubt = InDoubt}) ->
    State#state{waiting = Do(Waiting), in_doubt = Do(InDoubt)}.

queued(#state{waiting = Waiting, in_doubt = InDoubt}) ->
    hornbeam_waiting:size(Waiting) + hornbeam_waiting:size(InDoubt).

ensure_tick(State = #state{tick = undefined}) ->
    case queued(State) of
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
