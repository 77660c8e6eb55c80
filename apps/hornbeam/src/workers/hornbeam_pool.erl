%% SPDX-License-Identifier: Apache-2.0

%% @private The workers of one server: selection, the queue in front of them, and their restart.
%%
%% Selection runs in the connection processes, over a row of a public table: the server's ready
%% workers, each with the atomics that tell its load. The pool process only writes that row, keeps
%% the queue of requests for which there was no place, and restarts workers that have ended:
%% the first time at once, then with a delay that doubles up to a bound, with jitter, for ever.
%%
%% Who may wait for what: a connection that found no place is in the queue until it is told to try
%% again, its time there is up, or it leaves; a lost wake-up cannot strand it, because the pool
%% looks for free places on every tick while the queue is not empty.
-module(hornbeam_pool).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

%% API
-export([create_table/0]).
-export([register_workers_sup/1]).
-export([start_link/3]).
-export([pool_pid/1]).
-export([checkout/2]).
-export([enqueue/4]).
-export([leave_queue/2]).
-export([release/2]).
-export([release/3]).
-export([worker_started/4]).
-export([worker_ready/5]).
-export([replace/3]).
-export([worker_class/1]).
-export([gathers_bodies/1]).
-export([await_ready/1]).
-export([stop_by/3]).
-export([is_stopping/1]).
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

-export_type([worker/0, turn/0, waiting/0, worker_class/0]).

-record(worker, {
    pid :: pid(),
    writer :: pid(),
    routes :: hornbeam_routes:routes(),
    load :: hornbeam_load:load()
}).

-type worker() :: {Pid :: pid(), Writer :: pid(), hornbeam_routes:routes(), hornbeam_load:load()}.
%% A place that was reserved: it is given back by the worker process when the application's call
%% has returned, or by whoever could not use it, with `release/2'.

-opaque waiting() :: atomics:atomics_ref().
%% How many requests are in the queue or on their way into it, and how many may be: read without
%% asking the pool. And when the pool is to have stopped, once it is stopping.

-type turn() :: new | queued.
%% Whether a request has just come, or was told by the pool that its turn has come.

-type worker_class() :: asgi | wsgi | undefined.
%% The interface of the application, which workers tell when they are ready.

-record(slot, {
    phase = starting :: starting | ready | backoff | draining,
    pid :: pid() | undefined,
    monitor :: reference() | undefined,
    routes :: hornbeam_routes:routes() | undefined,
    load :: hornbeam_load:load() | undefined,
    writer :: pid() | undefined,
    os_pid :: pos_integer() | undefined,
    ready_ms :: integer() | undefined,
    %% Ends in a row without having been up for ?STABLE_MS.
    failures = 0 :: non_neg_integer(),
    restarts = 0 :: non_neg_integer(),
    last_reason :: term(),
    %% The worker that is to take over when it is ready.
    successor :: #slot{} | undefined
}).

-record(state, {
    name :: atom(),
    config :: hornbeam_config:config(),
    python :: file:filename(),
    sup :: pid(),
    started_ms :: integer(),
    slots = #{} :: #{WorkerId :: pos_integer() => #slot{}},
    %% Workers whose successor has taken over: they finish what they have.
    draining = #{} :: #{Monitor :: reference() => {WorkerId :: pos_integer(), #slot{}}},
    worker_class :: worker_class(),
    %% Number waiting, read by connections and workers without asking this process.
    waiting :: waiting(),
    queue = hornbeam_queue:new() :: hornbeam_queue:queue(hornbeam_routes:stream_key()),
    tick :: reference() | undefined,
    %% Those who wait in await_ready/1, and whether all workers have been ready once.
    awaiting = [] :: [gen_server:from()],
    outcome = pending :: pending | ready | {error, hornbeam_error:reason()}
}).

-define(TABLE, ?MODULE).
%% Fields of waiting().
-define(WAITING, 1).
-define(MAX_WAITING, 2).
-define(STOP_BY_MS, 3).
%% How often the queue is looked after while somebody is in it.
-define(TICK_MS, 50).
%% A worker that was ready this long has not failed at its start.
-define(STABLE_MS, 5000).
%% Requests in flight per worker, where the option does not say.
-define(ASGI_CONCURRENCY, 1000).
-define(MIN_BACKOFF_MS, 100).
-define(MAX_BACKOFF_MS, 30000).

%%% API

%% @doc Make the table that all pools share. Called once, before the supervision tree starts.
-spec create_table() -> ok.
create_table() ->
    _ = ets:new(?TABLE, [named_table, public, {read_concurrency, true}]),
    ok.

%% @doc Called by the supervisor of the server's workers, which starts before the pool.
-spec register_workers_sup(atom()) -> ok.
register_workers_sup(Name) ->
    true = ets:insert(?TABLE, {{workers_sup, Name}, self()}),
    ok.

-spec start_link(atom(), hornbeam_config:config(), file:filename()) ->
    {ok, pid()} | {error, term()}.
start_link(Name, Config, Python) ->
    gen_server:start_link(?MODULE, {Name, Config, Python}, []).

-spec pool_pid(atom()) -> pid() | undefined.
pool_pid(Name) ->
    case ets:lookup(?TABLE, Name) of
        [{_, Pid, _, _, _, _}] -> Pid;
        [] -> undefined
    end.

%% @doc Reserve a place in the ready worker with the fewest requests in flight.
%%
%% `full': no place, or others were there first. `down': there is no such server (any more).
-spec checkout(atom(), turn()) -> {ok, worker()} | full | down.
checkout(Name, Turn) ->
    case ets:lookup(?TABLE, Name) of
        [{_, _Pid, Workers, Max, Waiting, _}] ->
            case Turn =:= queued orelse atomics:get(Waiting, ?WAITING) =< 0 of
                true -> select(Workers, Max);
                false -> full
            end;
        [] ->
            down
    end.

%% @doc Wait for a place. The stream gets `{pool, retry}' when its turn has come and
%% `{pool, timeout}' when `queue_timeout' is over since `ArrivalMs'. One that found no place in its
%% turn (`queued') comes back to where it was, whatever the length of the queue.
-spec enqueue(atom(), hornbeam_routes:stream_key(), ArrivalMs :: integer(), turn()) ->
    ok | full | down.
enqueue(Name, StreamKey, ArrivalMs, Turn) ->
    case ets:lookup(?TABLE, Name) of
        [{_, Pid, _, _, Waiting, _}] ->
            case atomics:add_get(Waiting, ?WAITING, 1) > atomics:get(Waiting, ?MAX_WAITING) of
                true when Turn =:= new ->
                    atomics:sub(Waiting, ?WAITING, 1),
                    full;
                _ ->
                    gen_server:cast(Pid, {enqueue, StreamKey, ArrivalMs})
            end;
        [] ->
            down
    end.

%% @doc The stream does not wait any longer; nothing happens when it does not wait.
-spec leave_queue(atom(), hornbeam_routes:stream_key()) -> ok.
leave_queue(Name, StreamKey) ->
    case pool_pid(Name) of
        undefined -> ok;
        Pid -> gen_server:cast(Pid, {leave_queue, StreamKey})
    end.

%% @doc Give back a place that could not be used.
-spec release(atom(), hornbeam_load:load()) -> ok.
release(Name, Load) ->
    hornbeam_load:release(Load),
    case pool_pid(Name) of
        undefined -> ok;
        Pid -> gen_server:cast(Pid, released)
    end.

%% @doc The same for the worker process, for each request that is over: no message where nobody
%% waits.
-spec release(pid(), hornbeam_load:load(), waiting()) -> ok.
release(Pool, Load, Waiting) ->
    hornbeam_load:release(Load),
    case atomics:get(Waiting, ?WAITING) > 0 of
        true -> gen_server:cast(Pool, released);
        false -> ok
    end.

%% @doc Told by a worker when its OS process is there, for the case that it is killed.
-spec worker_started(pid(), pos_integer(), pid(), pos_integer() | undefined) -> ok.
worker_started(Pool, WorkerId, Worker, OsPid) ->
    gen_server:cast(Pool, {worker_started, WorkerId, Worker, OsPid}).

%% @doc Told by a worker when it can take requests.
-spec worker_ready(pid(), pos_integer(), pid(), pid(), worker_class()) -> ok.
worker_ready(Pool, WorkerId, Worker, Writer, WorkerClass) ->
    gen_server:cast(Pool, {worker_ready, WorkerId, Worker, Writer, WorkerClass}).

%% @doc Start a successor for a worker, which serves on until that is ready, and then ends when it
%% has finished what it has. Nothing happens when it is being replaced already.
-spec replace(pid(), pos_integer(), pid()) -> ok.
replace(Pool, WorkerId, Worker) ->
    gen_server:cast(Pool, {replace, WorkerId, Worker}).

%% @doc The interface of the server's application, once a worker has told it.
-spec worker_class(atom()) -> worker_class().
worker_class(Name) ->
    case ets:lookup(?TABLE, Name) of
        [{_, _, _, _, _, WorkerClass}] -> WorkerClass;
        [] -> undefined
    end.

%% @doc Whether small bodies are to be complete before a request is dispatched: a WSGI application
%% reads with a thread of its own, which should not wait for a slow client.
-spec gathers_bodies(atom()) -> boolean().
gathers_bodies(Name) ->
    worker_class(Name) =:= wsgi.

%% @doc Wait until all workers have been ready once, or one has failed before that.
%% No timeout: each worker bounds its own start and then ends, which is an answer too.
-spec await_ready(pid()) -> ok | {error, hornbeam_error:reason()}.
await_ready(Pool) ->
    gen_server:call(Pool, await_ready, infinity).

%% @doc Say by when (monotonic milliseconds) running tasks have to end when the pool is stopped: the
%% drain before that has had its share of `shutdown_timeout'. WebSockets are told: they would not
%% end by themselves.
-spec stop_by(atom(), pid() | undefined, DeadlineMs :: integer()) -> ok.
stop_by(Name, Pool, DeadlineMs) ->
    case ets:lookup(?TABLE, Name) of
        [{_, Pool, Workers, _, Waiting, _}] ->
            %% In this order: one that is accepted now finds the mark, or is told.
            ok = atomics:put(Waiting, ?STOP_BY_MS, DeadlineMs),
            [hornbeam_routes:tell_going_away(Routes) || #worker{routes = Routes} <- Workers],
            ok;
        %% A successor's, or gone.
        _ ->
            ok
    end.

%% @doc Whether the server is about to stop.
-spec is_stopping(atom()) -> boolean().
is_stopping(Name) ->
    case ets:lookup(?TABLE, Name) of
        [{_, _, _, _, Waiting, _}] -> atomics:get(Waiting, ?STOP_BY_MS) =/= 0;
        [] -> true
    end.

-spec info(pid()) -> #{workers := [map()], queue := non_neg_integer(),
                       uptime_ms := non_neg_integer(), options := map()}.
info(Pool) ->
    {Slots, Info} = gen_server:call(Pool, info),
    %% Asked for here: a worker that is busy must not hold up the pool.
    Info#{workers => [shown_worker(WorkerId, Slot) || {WorkerId, Slot} <- Slots]}.

%%% gen_server

-spec init({atom(), hornbeam_config:config(), file:filename()}) ->
    {ok, #state{}, {continue, start_workers}}.
init({Name, Config = #{max_queue := MaxQueue}, Python}) ->
    process_flag(trap_exit, true),
    logger:update_process_metadata(#{hornbeam_server => Name}),
    Waiting = atomics:new(3, [{signed, true}]),
    ok = atomics:put(Waiting, ?MAX_WAITING, MaxQueue),
    State = #state{name = Name, config = Config, python = Python, waiting = Waiting,
                   sup = ets:lookup_element(?TABLE, {workers_sup, Name}, 2),
                   started_ms = erlang:monotonic_time(millisecond)},
    {ok, publish(State), {continue, start_workers}}.

-spec handle_continue(start_workers, #state{}) -> {noreply, #state{}}.
handle_continue(start_workers, State = #state{config = #{workers := Count}}) ->
    {noreply, lists:foldl(fun start_worker/2, State, lists:seq(1, Count))}.

-spec handle_call(await_ready | info, gen_server:from(), #state{}) ->
    {noreply, #state{}} | {reply, term(), #state{}}.
handle_call(await_ready, From, State = #state{outcome = pending, awaiting = Awaiting}) ->
    {noreply, State#state{awaiting = [From | Awaiting]}};
handle_call(await_ready, _From, State = #state{outcome = ready}) ->
    {reply, ok, State};
handle_call(await_ready, _From, State = #state{outcome = Error}) ->
    {reply, Error, State};
handle_call(info, _From, State = #state{slots = Slots, draining = Draining, queue = Queue}) ->
    Info = #{queue => hornbeam_queue:size(Queue),
             uptime_ms => erlang:monotonic_time(millisecond) - State#state.started_ms,
             options => hornbeam_config:mask(State#state.config)},
    {reply, {lists:sort(maps:to_list(Slots) ++ maps:values(Draining)), Info}, State}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast({worker_started, WorkerId, Pid, OsPid}, State = #state{slots = Slots}) ->
    case Slots of
        #{WorkerId := Slot = #slot{pid = Pid}} ->
            {noreply, State#state{slots = Slots#{WorkerId := Slot#slot{os_pid = OsPid}}}};
        #{WorkerId := Slot = #slot{successor = Next = #slot{pid = Pid}}} ->
            Started = Slot#slot{successor = Next#slot{os_pid = OsPid}},
            {noreply, State#state{slots = Slots#{WorkerId := Started}}};
        #{} ->
            {noreply, State}
    end;
handle_cast({worker_ready, WorkerId, Pid, Writer, WorkerClass}, State0) ->
    #state{slots = Slots} = State0,
    State = State0#state{worker_class = WorkerClass},
    case Slots of
        #{WorkerId := Slot = #slot{pid = Pid}} ->
            {noreply, worker_ready(WorkerId, Slot, Writer, State)};
        #{WorkerId := Slot = #slot{successor = Next = #slot{pid = Pid}}} ->
            {noreply, drain(WorkerId, Slot, worker_ready(WorkerId, Next, Writer, State))};
        #{} ->
            {noreply, State0}
    end;
handle_cast({replace, WorkerId, Pid}, State = #state{slots = Slots}) ->
    case Slots of
        #{WorkerId := Slot = #slot{phase = ready, pid = Pid, successor = undefined}} ->
            {noreply, start_successor(WorkerId, Slot, State)};
        #{} ->
            {noreply, State}
    end;
handle_cast({enqueue, StreamKey, ArrivalMs}, State = #state{queue = Queue}) ->
    Waiting = State#state{queue = hornbeam_queue:in(StreamKey, ArrivalMs, Queue)},
    {noreply, wake(ensure_tick(Waiting))};
handle_cast({leave_queue, StreamKey}, State = #state{queue = Queue0, waiting = Waiting}) ->
    case hornbeam_queue:remove(StreamKey, Queue0) of
        {ok, Queue} ->
            atomics:sub(Waiting, ?WAITING, 1),
            {noreply, State#state{queue = Queue}};
        false ->
            {noreply, State}
    end;
handle_cast(released, State) ->
    {noreply, wake(State)}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info({{worker_down, WorkerId}, Monitor, process, _Pid, Reason}, State) ->
    case State of
        #state{slots = #{WorkerId := Slot = #slot{monitor = Monitor}}} ->
            {noreply, worker_down(WorkerId, Slot, Reason, State)};
        #state{slots = #{WorkerId := Slot = #slot{successor = #slot{monitor = Monitor}}}} ->
            {noreply, successor_down(WorkerId, Slot, Reason, State)};
        #state{draining = Draining = #{Monitor := {_, Slot}}} ->
            log_drained(WorkerId, Reason),
            release_slot(Slot, Reason),
            {noreply, State#state{draining = maps:remove(Monitor, Draining)}}
    end;
handle_info({timeout, _, {restart, WorkerId}}, State) ->
    {noreply, start_worker(WorkerId, State)};
handle_info({timeout, _, {stop_drained, Monitor}}, State = #state{draining = Draining}) ->
    case Draining of
        #{Monitor := {_, Slot}} -> stop_drained(Slot, State);
        #{} -> ok
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
terminate(_Reason, State = #state{name = Name, slots = Slots, sup = Sup}) ->
    %% Only this pool's own: if the server's supervisor was killed, a successor may be there already.
    true = ets:match_delete(?TABLE, {Name, self(), '_', '_', '_', '_'}),
    true = ets:delete_object(?TABLE, {{workers_sup, Name}, Sup}),
    TimeoutMs = stop_ms(State),
    Known = maps:values(Slots) ++ [Slot || {_, Slot} <- maps:values(State#state.draining)]
        ++ [Next || #slot{successor = Next = #slot{}} <- maps:values(Slots)],
    Running = [Slot || Slot = #slot{pid = Pid} <- Known, is_pid(Pid)],
    _ = [hornbeam_worker:stop(Pid, TimeoutMs) || #slot{pid = Pid} <- Running],
    lists:foreach(fun await_down/1, Running).

stop_ms(#state{waiting = Waiting, config = #{shutdown_timeout := TimeoutMs}}) ->
    case atomics:get(Waiting, ?STOP_BY_MS) of
        0 -> TimeoutMs;
        DeadlineMs -> max(0, DeadlineMs - erlang:monotonic_time(millisecond))
    end.

%% No timeout: a worker bounds its own end, and this process's supervisor bounds this wait.
await_down(Slot = #slot{monitor = Monitor}) ->
    receive {{worker_down, _}, Monitor, process, _, Reason} -> end_os_process(Slot, Reason) end.

%%% Selection

select(Workers, Max) ->
    case least_loaded(Workers, undefined, undefined) of
        undefined ->
            full;
        #worker{pid = Pid, writer = Writer, routes = Routes, load = Load} ->
            case hornbeam_load:reserve(Load, Max) of
                true -> {ok, {Pid, Writer, Routes, Load}};
                %% Others took the last places meanwhile.
                false -> full
            end
    end.

%% Among equals the one that has had the fewest requests, so that light traffic spreads too.
least_loaded([Worker = #worker{load = Load} | Rest], Best, Least) ->
    case hornbeam_load:is_open(Load) of
        true ->
            case hornbeam_load:rank(Load) of
                Rank when Best =:= undefined; Rank < Least -> least_loaded(Rest, Worker, Rank);
                _ -> least_loaded(Rest, Best, Least)
            end;
        false ->
            least_loaded(Rest, Best, Least)
    end;
least_loaded([], Best, _) ->
    Best.

publish(State = #state{name = Name, slots = Slots, config = Config, waiting = Waiting}) ->
    #state{worker_class = WorkerClass} = State,
    Workers = [#worker{pid = Pid, writer = Writer, routes = Routes, load = Load}
               || #slot{phase = ready, pid = Pid, writer = Writer, routes = Routes, load = Load}
                  <- maps:values(Slots)],
    Max = max_concurrency(Config, WorkerClass),
    true = ets:insert(?TABLE, {Name, self(), Workers, Max, Waiting, WorkerClass}),
    State.

%% A request of a WSGI application takes a thread.
max_concurrency(#{max_concurrency := auto, threads := Threads}, wsgi) -> Threads;
max_concurrency(#{max_concurrency := auto}, _) -> ?ASGI_CONCURRENCY;
max_concurrency(#{max_concurrency := Max}, _) -> Max.

%%% Workers

start_worker(WorkerId, State = #state{slots = Slots}) ->
    Slot = maps:get(WorkerId, Slots, #slot{}),
    case start_process(WorkerId, State) of
        {ok, #slot{pid = Pid, monitor = Monitor, routes = Routes, load = Load}} ->
            Started = Slot#slot{phase = starting, pid = Pid, monitor = Monitor, routes = Routes,
                                load = Load},
            State#state{slots = Slots#{WorkerId => Started}};
        {error, Reason} ->
            restart_later(WorkerId, Slot, Reason, State)
    end.

start_process(WorkerId, State = #state{sup = Sup}) ->
    Routes = hornbeam_routes:new(),
    Load = hornbeam_load:new(),
    Args = #{pool => self(), server => State#state.name, worker_id => WorkerId,
             python => State#state.python, config => State#state.config,
             routes => Routes, load => Load, waiting => State#state.waiting},
    case hornbeam_workers_sup:start_worker(Sup, Args) of
        {ok, Pid} ->
            Monitor = monitor(process, Pid, [{tag, {worker_down, WorkerId}}]),
            {ok, #slot{pid = Pid, monitor = Monitor, routes = Routes, load = Load}};
        {error, Reason} ->
            hornbeam_routes:delete(Routes),
            {error, Reason}
    end.

worker_ready(WorkerId, Slot, Writer, State = #state{slots = Slots}) ->
    Ready = Slot#slot{phase = ready, writer = Writer, ready_ms = erlang:monotonic_time(millisecond)},
    ?LOG_INFO(#{what => worker_ready, worker_id => WorkerId}),
    wake(settle(publish(State#state{slots = Slots#{WorkerId := Ready}}))).

%%% Replacement

start_successor(WorkerId, Slot, State = #state{slots = Slots}) ->
    case start_process(WorkerId, State) of
        {ok, Next} ->
            State#state{slots = Slots#{WorkerId := Slot#slot{successor = Next}}};
        {error, Reason} ->
            log_successor_down(WorkerId, Reason),
            State
    end.

%% The successor has the slot already.
drain(WorkerId, Slot, State = #state{draining = Draining}) ->
    #slot{monitor = Monitor, load = Load, restarts = Restarts} = Slot,
    #state{slots = Slots = #{WorkerId := Next}} = State,
    hornbeam_load:close(Load),
    _ = erlang:start_timer(?TICK_MS, self(), {stop_drained, Monitor}),
    Left = Slot#slot{phase = draining, successor = undefined},
    State#state{slots = Slots#{WorkerId := Next#slot{restarts = Restarts + 1}},
                draining = Draining#{Monitor => {WorkerId, Left}}}.

%% It is told to end when whoever has a place there has sent its request.
stop_drained(Slot = #slot{pid = Pid, load = Load, routes = Routes}, State) ->
    #state{config = #{shutdown_timeout := TimeoutMs}} = State,
    case hornbeam_load:in_flight(Load) =:= hornbeam_routes:count(Routes) of
        true ->
            hornbeam_worker:stop(Pid, TimeoutMs);
        false ->
            _ = erlang:start_timer(?TICK_MS, self(), {stop_drained, Slot#slot.monitor}),
            ok
    end.

%% The worker itself serves on. It is for whoever wanted it replaced to want it again.
successor_down(WorkerId, Slot = #slot{successor = Next}, Reason, State = #state{slots = Slots}) ->
    log_successor_down(WorkerId, Reason),
    release_slot(Next, Reason),
    State#state{slots = Slots#{WorkerId := Slot#slot{successor = undefined}}}.

%% Its successor, if it has one, has not come into its place yet: it does now.
worker_down(WorkerId, Slot = #slot{successor = Next = #slot{}}, Reason, State0) ->
    #state{slots = Slots} = State0,
    hornbeam_load:close(Slot#slot.load),
    #slot{restarts = Restarts} = Slot,
    Moved = Next#slot{restarts = Restarts + 1, last_reason = Reason},
    State = publish(State0#state{slots = Slots#{WorkerId := Moved}}),
    log_down(WorkerId, Reason, 0),
    release_slot(Slot, Reason),
    State;
worker_down(WorkerId, Slot, Reason, State0 = #state{slots = Slots}) ->
    hornbeam_load:close(Slot#slot.load),
    State = publish(State0#state{slots = maps:remove(WorkerId, Slots)}),
    release_slot(Slot, Reason),
    restart_later(WorkerId, Slot, Reason, State).

%% After the worker is no longer published.
release_slot(Slot = #slot{routes = Routes}, Reason) ->
    end_os_process(Slot, Reason),
    %% Whoever inserts a route from now on sees that the process is dead (see hornbeam_stream).
    Word = case Reason of
        {shutdown, stopped} -> worker_replaced;
        _ -> worker_down
    end,
    _ = [Pid ! {{Pid, StreamId}, {Word, Id}}
         || {Id, {Pid, StreamId}} <- hornbeam_routes:take_all(Routes)],
    hornbeam_routes:delete(Routes).

%% A worker that was killed could not do that itself.
end_os_process(#slot{os_pid = OsPid}, killed) when is_integer(OsPid) -> hornbeam_worker:kill(OsPid);
end_os_process(_, _) -> ok.

restart_later(WorkerId, Slot = #slot{failures = Failures0}, Reason, State0) ->
    Failures = case was_stable(Slot) of
        true -> 0;
        false -> Failures0 + 1
    end,
    DelayMs = backoff_ms(Failures),
    log_down(WorkerId, Reason, DelayMs),
    _ = erlang:start_timer(DelayMs, self(), {restart, WorkerId}),
    Waiting = Slot#slot{phase = backoff, pid = undefined, monitor = undefined, routes = undefined,
                        load = undefined, writer = undefined, os_pid = undefined,
                        ready_ms = undefined,
                        failures = Failures, restarts = Slot#slot.restarts + 1,
                        last_reason = Reason},
    #state{slots = Slots} = State0,
    fail(Reason, WorkerId, State0#state{slots = Slots#{WorkerId => Waiting}}).

was_stable(#slot{ready_ms = undefined}) -> false;
was_stable(#slot{ready_ms = ReadyMs}) ->
    erlang:monotonic_time(millisecond) - ReadyMs >= ?STABLE_MS.

%% @private The first failure in a row is answered at once, the second after 100 ms, 200 ms, .. 30 s,
%% give or take a quarter, so that workers that fail together do not start together.
-spec backoff_ms(Failures :: non_neg_integer()) -> non_neg_integer().
backoff_ms(Failures) when Failures =< 1 ->
    0;
backoff_ms(Failures) ->
    BaseMs = min(?MAX_BACKOFF_MS, ?MIN_BACKOFF_MS bsl min(Failures - 2, 20)),
    BaseMs * 3 div 4 + rand:uniform(BaseMs div 2).

log_down(WorkerId, Reason, DelayMs) ->
    ?LOG_ERROR(#{what => worker_down, worker_id => WorkerId, reason => reason_text(Reason),
                 restart_in_ms => DelayMs}).

log_successor_down(WorkerId, Reason) ->
    ?LOG_ERROR(#{what => successor_down, worker_id => WorkerId, reason => reason_text(Reason)}).

log_drained(WorkerId, Reason) ->
    ?LOG_INFO(#{what => worker_drained, worker_id => WorkerId, reason => reason_text(Reason)}).

reason_text(Reason) ->
    unicode:characters_to_binary(reason_chars(Reason)).

reason_chars({shutdown, stopped}) ->
    "stopped";
reason_chars({shutdown, {failed, Name, Facts}}) ->
    hornbeam_error:format({Name, Facts});
reason_chars({shutdown, {exit_status, Status}}) when Status > 128 ->
    io_lib:format("ended by signal ~b", [Status - 128]);
reason_chars({shutdown, {exit_status, Status}}) ->
    io_lib:format("exited with status ~b", [Status]);
reason_chars({shutdown, {stalled, SilentMs}}) ->
    io_lib:format("its event loop was blocked for ~b ms", [SilentMs]);
reason_chars({shutdown, {protocol_error, FirstBytes}}) ->
    io_lib:format("it broke the protocol: ~0tp", [FirstBytes]);
reason_chars(Reason) ->
    io_lib:format("~0tP", [Reason, 30]).

%%% The first start

settle(State = #state{outcome = pending, slots = Slots}) ->
    case lists:all(fun(#slot{phase = Phase}) -> Phase =:= ready end, maps:values(Slots)) of
        true -> answer(ready, State);
        false -> State
    end;
settle(State) ->
    State.

fail(Reason, WorkerId, State = #state{outcome = pending}) ->
    answer({error, start_reason(Reason, WorkerId)}, State);
fail(_, _, State) ->
    State.

answer(Outcome, State = #state{awaiting = Awaiting}) ->
    Reply = case Outcome of
        ready -> ok;
        {error, _} -> Outcome
    end,
    _ = [gen_server:reply(From, Reply) || From <- Awaiting],
    State#state{outcome = Outcome, awaiting = []}.

start_reason({shutdown, {failed, Name, Facts}}, _) ->
    {Name, Facts};
start_reason({shutdown, Reason}, WorkerId) ->
    start_reason(Reason, WorkerId);
start_reason({exit_status, Status}, WorkerId) ->
    {worker_exited, #{status => Status, worker_id => WorkerId}};
start_reason(Reason, WorkerId) ->
    {worker_exited, #{status => Reason, worker_id => WorkerId}}.

%%% Queue

%% Wake as many as there are places. Those woken reserve for themselves: one that has died since
%% costs nothing but its turn.
wake(State = #state{queue = Queue}) ->
    case hornbeam_queue:size(Queue) of
        0 -> State;
        _ -> wake(free_places(State), State)
    end.

wake(0, State) ->
    State;
wake(Places, State = #state{queue = Queue0, waiting = Waiting}) ->
    case hornbeam_queue:out(Queue0) of
        empty ->
            State;
        {ok, {Pid, StreamId}, Queue} ->
            atomics:sub(Waiting, ?WAITING, 1),
            Taken = case is_process_alive(Pid) of
                true ->
                    Pid ! {{Pid, StreamId}, {pool, retry}},
                    1;
                false ->
                    0
            end,
            wake(Places - Taken, State#state{queue = Queue})
    end.

free_places(#state{slots = Slots, config = Config, worker_class = WorkerClass}) ->
    Max = max_concurrency(Config, WorkerClass),
    lists:sum([max(0, Max - hornbeam_load:in_flight(Load))
               || #slot{phase = ready, load = Load} <- maps:values(Slots),
                  hornbeam_load:is_open(Load)]).

expire_queue(State = #state{config = #{queue_timeout := infinity}}) ->
    State;
expire_queue(State = #state{queue = Queue0, waiting = Waiting, config = Config}) ->
    #{queue_timeout := QueueTimeoutMs} = Config,
    LimitMs = erlang:monotonic_time(millisecond) - QueueTimeoutMs,
    {Expired, Queue} = hornbeam_queue:expire(LimitMs, Queue0),
    atomics:sub(Waiting, ?WAITING, length(Expired)),
    _ = [Pid ! {{Pid, StreamId}, {pool, timeout}} || {Pid, StreamId} <- Expired],
    State#state{queue = Queue}.

ensure_tick(State = #state{tick = undefined, queue = Queue}) ->
    case hornbeam_queue:size(Queue) of
        0 -> State;
        _ -> State#state{tick = erlang:start_timer(?TICK_MS, self(), tick)}
    end;
ensure_tick(State) ->
    State.

%%% Info

shown_worker(WorkerId, Slot = #slot{phase = ready, pid = Pid}) ->
    case hornbeam_worker:info(Pid) of
        undefined -> shown_slot(WorkerId, Slot);
        Info -> maps:merge(shown_slot(WorkerId, Slot), Info)
    end;
shown_worker(WorkerId, Slot) ->
    shown_slot(WorkerId, Slot).

shown_slot(WorkerId, #slot{phase = Phase, restarts = Restarts, last_reason = Reason}) ->
    Shown = #{worker_id => WorkerId, state => Phase, restarts => Restarts},
    case Reason of
        undefined -> Shown;
        _ -> Shown#{last_exit => reason_text(Reason)}
    end.
