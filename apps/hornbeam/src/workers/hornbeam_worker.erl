%% SPDX-License-Identifier: Apache-2.0

%% @private One Python worker: owns its port, hands what it says to the connections.
%%
%% States of `phase':
%%
%% <ul>
%% <li>`starting': the process runs, `configure' is sent, neither `ready' nor `failed' has come.</li>
%% <li>`ready': requests are dispatched to it by the connections themselves, which insert a route
%%   (see {@link hornbeam_routes}) and write through the worker's {@link hornbeam_writer}.</li>
%% <li>`stopping': `shutdown' is sent; the process is about to leave.</li>
%% </ul>
%%
%% The Erlang process and the OS process live and die together: when the port closes, this process
%% ends with a `{shutdown, _}' reason that says why; when this process ends, the port is closed and
%% an OS process that does not leave by itself is killed. Restarting is the pool's business; without
%% the pool that has started it a worker is of no use, and leaves.
-module(hornbeam_worker).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

%% API
-export([start_link/1]).
-export([stop/2]).
-export([hurry/1]).
-export([publish/2]).
-export([probe/1]).
-export([info/1]).
-export([kill/1]).

%% gen_server
-export([init/1]).
-export([handle_continue/2]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).
-export([terminate/2]).

-export_type([start_args/0, exit_reason/0]).

-type start_args() :: #{
    pool := pid(),
    server := atom(),
    worker_id := pos_integer(),
    python := file:filename(),
    config := hornbeam_config:config(),
    routes := hornbeam_routes:routes(),
    load := hornbeam_load:load(),
    waiting := hornbeam_selection:waiting()
}.

-type exit_reason() ::
    {failed, Name :: atom(), Facts :: map()}
  | {exit_status, non_neg_integer()}
  | {protocol_error, binary()}
  | {port_closed, term()}
  | {writer_ended, term()}
  | {stalled, Milliseconds :: non_neg_integer()}
  | {flooded, WaitingBytes :: pos_integer() | connection}
  | stopped.

-record(state, {
    %% What the pool gave.
    args :: start_args(),
    port :: port(),
    os_pid :: pos_integer() | undefined,
    writer :: pid(),
    intake :: hornbeam_intake:intake(),
    phase = starting :: starting | ready | stopping,
    %% What the worker said of itself in `ready'.
    facts = #{} :: map(),
    started_ms :: integer(),
    heartbeat = hornbeam_heartbeat:new() :: hornbeam_heartbeat:heartbeat(),
    served = 0 :: non_neg_integer(),
    limits :: hornbeam_recycling:limits(),
    %% Messages of topics that wait to be written, and how many were dropped since that was told.
    backlog :: hornbeam_writer:backlog(),
    dropped = 0 :: non_neg_integer(),
    hooks = hornbeam_worker_hooks:new() :: hornbeam_worker_hooks:hooks(),
    %% Calls and casts under way that run in a process of their own.
    tasks = 0 :: non_neg_integer()
}).

%% Time for the interpreter to start and the application to be imported, on top of
%% `lifespan_timeout', which the worker watches itself.
-define(BOOT_TIMEOUT_MS, 30000).
%% How long a worker may take to leave after its `stopped', or after its input has closed.
-define(EXIT_TIMEOUT_MS, 2000).
%% How long a probe may be unanswered before requests are asked back.
-define(PROBE_MS, 20).
%% For how long a worker that has stalled is asked for them: one that does not read should not find
%% that more and more often in its pipe.
-define(REVOKE_FOR_MS, 60000).
%% How late the sweep for requests without an answer may come: a tenth of `timeout' within these.
-define(MIN_SWEEP_MS, 10).
-define(MAX_SWEEP_MS, 250).
%% How many calls and casts of a worker may be under way in processes of their own, streams apart, and
%% how many streams it may take.
-define(MAX_TASKS, 10000).
%% The worker's exit status for a packet that it cannot understand (sysexits: EX_SOFTWARE).
-define(EXIT_PROTOCOL, 70).

%%% API

-spec start_link(start_args()) -> {ok, pid()} | {error, term()}.
start_link(Args) ->
    gen_server:start_link(?MODULE, Args, []).

%% @doc Ask for an orderly end: running tasks get `TimeoutMs', then the lifespan shuts down.
%% Returns at once; the caller watches the process.
-spec stop(pid(), timeout()) -> ok.
stop(Worker, TimeoutMs) ->
    gen_server:cast(Worker, {stop, TimeoutMs}).

%% @doc Have one that is ending end soon. Whatever it was asked before, it is the last that is asked of it.
-spec hurry(pid()) -> ok.
hurry(Worker) ->
    gen_server:cast(Worker, hurry).

%% @doc Hand on an encoded `publish' message. A worker that does not read loses it, and is told how
%% many it has lost.
-spec publish(pid(), hornbeam_protocol:encoded()) -> ok.
publish(Worker, Encoded) ->
    Worker ! {publish, Encoded},
    ok.

%% @doc Find out whether the loop answers. For who has got `true' of hornbeam_load:want_probe/1.
-spec probe(pid()) -> true.
probe(Worker) ->
    Worker ! probe,
    true.

%% @doc What `hornbeam:info/0' shows of the worker, or `undefined' when it has just gone.
-spec info(pid()) -> map() | undefined.
info(Worker) ->
    try gen_server:call(Worker, info, 1000)
    catch exit:_ -> undefined
    end.

%% @doc End the OS process of a worker whose port is closed or about to be. The pid is still the
%% worker's: nobody but the VM reaps it, and it has not told us yet.
-spec kill(pos_integer()) -> ok.
kill(OsPid) ->
    _ = os:cmd("kill -KILL " ++ integer_to_list(OsPid)),
    ok.

%%% gen_server

-spec init(start_args()) -> {ok, #state{}, {continue, configure}} | {stop, term()}.
init(Args = #{server := Server, worker_id := WorkerId, pool := Pool}) ->
    process_flag(trap_exit, true),
    _ = monitor(process, Pool, [{tag, pool_down}]),
    logger:update_process_metadata(#{hornbeam_server => Server, worker_id => WorkerId}),
    #{python := Python, config := Config} = Args,
    try hornbeam_worker_port:open(Args) of
        Port ->
            OsPid = case erlang:port_info(Port, os_pid) of
                {os_pid, Pid} -> Pid;
                undefined -> undefined
            end,
            hornbeam_pool:worker_started(Pool, WorkerId, self(), OsPid),
            {ok, #state{args = Args, port = Port, os_pid = OsPid,
                        limits = hornbeam_recycling:new(Config),
                        writer = hornbeam_writer:start_link(Port),
                        intake = hornbeam_intake:new(Port),
                        backlog = hornbeam_writer:new_backlog(),
                        started_ms = erlang:monotonic_time(millisecond)},
             {continue, configure}}
    catch
        error:Reason ->
            Facts = #{python => unicode:characters_to_binary(Python), message => Reason},
            {stop, {shutdown, {failed, python_not_found, Facts}}}
    end.

-spec handle_continue(configure, #state{}) -> {noreply, #state{}}.
handle_continue(configure, State = #state{args = Args}) ->
    #{config := #{lifespan_timeout := LifespanTimeout}} = Args,
    ok = send({configure, hornbeam_worker_port:settings(Args)}, State),
    case LifespanTimeout of
        infinity -> ok;
        _ ->
            _ = erlang:start_timer(LifespanTimeout + ?BOOT_TIMEOUT_MS, self(), boot),
            ok
    end,
    {noreply, State}.

-spec handle_call(info, gen_server:from(), #state{}) -> {reply, map(), #state{}}.
handle_call(info, _From, State = #state{args = Args}) ->
    #{worker_id := WorkerId, load := Load} = Args,
    {reply, (State#state.facts)#{
        worker_id => WorkerId,
        os_pid => State#state.os_pid,
        state => shown_phase(State),
        in_flight => hornbeam_load:in_flight(Load),
        served => State#state.served,
        uptime_ms => erlang:monotonic_time(millisecond) - State#state.started_ms,
        memory_bytes => hornbeam_recycling:resident_bytes(State#state.os_pid)
    }, State}.

-spec handle_cast({stop, timeout()} | hurry, #state{}) ->
    {noreply, #state{}} | {stop, term(), #state{}}.
handle_cast(hurry, State = #state{phase = stopping}) ->
    {noreply, say_shutdown(0, State)};
handle_cast(hurry, State) ->
    {noreply, State};
handle_cast({stop, _}, State = #state{phase = stopping}) ->
    {noreply, State};
handle_cast({stop, _}, State = #state{phase = starting}) ->
    {stop, {shutdown, stopped}, State};
handle_cast({stop, TimeoutMs}, State = #state{args = #{load := Load}}) ->
    hornbeam_load:close(Load),
    hornbeam_hook_registry:leave_all(),
    {noreply, say_shutdown(TimeoutMs, State#state{phase = stopping})}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}.
handle_info({Port, {data, Packet}}, State = #state{port = Port, intake = Intake0}) ->
    hornbeam_load:heard(maps:get(load, State#state.args)),
    case hornbeam_intake:took(byte_size(Packet), Intake0) of
        {ok, Intake} -> handle_packet(Packet, fun(_) -> ok end, State#state{intake = Intake});
        {look, Intake} -> handle_packet(Packet, look(State), State#state{intake = Intake});
        {flooded, WaitingBytes} -> {stop, {shutdown, {flooded, WaitingBytes}}, State}
    end;
handle_info({Port, {exit_status, Status}}, State = #state{port = Port}) ->
    {stop, {shutdown, exit_reason(Status, State)}, State#state{os_pid = undefined}};
handle_info({publish, Encoded}, State) ->
    {noreply, offer(Encoded, tell_dropped(State))};
handle_info({hornbeam_invoke, Caller, Ref, Invocation}, State = #state{hooks = Hooks}) ->
    {noreply, tell_hooks(hornbeam_worker_hooks:invoke(Caller, Ref, Invocation, Hooks), State)};
handle_info({hornbeam_credit, Ref, Count}, State = #state{hooks = Hooks}) ->
    {noreply, tell_hooks(hornbeam_worker_hooks:credit(Ref, Count, Hooks), State)};
%% What it has is cancelled: the connections end with the pool as well.
handle_info({pool_down, _, process, _, _}, State) ->
    handle_cast({stop, 0}, State);
handle_info({'ETS-TRANSFER', Routes, _, _}, State) ->
    ok = hornbeam_routes:tell_all(Routes, worker_down),
    {noreply, State};
handle_info({task_down, _, process, _, _}, State = #state{tasks = Tasks}) ->
    {noreply, State#state{tasks = Tasks - 1}};
handle_info({'DOWN', Monitor, process, _, _} = Message, State = #state{hooks = Hooks}) ->
    case hornbeam_worker_hooks:process_down(Monitor, Hooks) of
        unknown ->
            ?LOG_WARNING(#{what => unexpected_message, message => Message}),
            {noreply, State};
        Told ->
            {noreply, tell_hooks(Told, State)}
    end;
handle_info({timeout, _, heartbeat}, State) ->
    heartbeat(tell_dropped(State));
handle_info({timeout, _, sweep}, State) ->
    expire_requests(State),
    {noreply, State};
handle_info(probe, State = #state{heartbeat = Beats}) ->
    ok = send({ping, 0}, State),
    _ = erlang:start_timer(?PROBE_MS, self(), probed),
    {noreply, State#state{heartbeat = hornbeam_heartbeat:probe(Beats)}};
handle_info({timeout, _, probed}, State) ->
    ask_back(State),
    {noreply, State};
handle_info({timeout, _, boot}, State = #state{phase = starting, args = #{config := Config}}) ->
    #{lifespan_timeout := LifespanTimeout} = Config,
    Facts = #{timeout_ms => LifespanTimeout + ?BOOT_TIMEOUT_MS},
    {stop, {shutdown, {failed, startup_timeout, Facts}}, State};
handle_info({timeout, _, boot}, State) ->
    {noreply, State};
handle_info({timeout, _, stop}, State) ->
    ?LOG_WARNING(#{what => worker_stop_timeout, os_pid => State#state.os_pid}),
    {stop, {shutdown, stopped}, State};
handle_info({'EXIT', Port, _}, State = #state{port = Port, phase = stopping}) ->
    {stop, {shutdown, stopped}, State};
handle_info({'EXIT', Port, Reason}, State = #state{port = Port}) ->
    %% Without an exit status: a write failed (the worker has closed its input, or is just dying).
    {stop, {shutdown, {port_closed, Reason}}, State};
handle_info({'EXIT', Writer, normal}, State = #state{writer = Writer}) ->
    %% The port has closed, of which the owner learns as well.
    {noreply, State};
handle_info({'EXIT', Writer, Reason}, State = #state{writer = Writer}) ->
    {stop, {shutdown, {writer_ended, Reason}}, State};
handle_info({'EXIT', _Parent, Reason}, State) ->
    {stop, Reason, State};
handle_info(Message, State) ->
    ?LOG_WARNING(#{what => unexpected_message, message => Message}),
    {noreply, State}.

%% The OS process is never left behind, also one that would not leave by itself (a C extension that
%% holds the interpreter's lock). It ends before the port closes: OTP 25 frees what it has read of
%% an unfinished packet at the end of the input, but not in port_close/1.
-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, #state{os_pid = undefined}) ->
    ok;
terminate(Reason, State = #state{port = Port, os_pid = OsPid}) ->
    _ = (State#state.phase =:= ready) andalso (Reason =:= shutdown) andalso
        stop_now(State),
    receive
        {Port, {exit_status, _}} -> ok
    after 0 ->
        kill(OsPid),
        _ = is_list(erlang:port_info(Port)) andalso wait_for_exit(Port, ?EXIT_TIMEOUT_MS),
        ok
    end.

%%% Messages of the worker

handle_packet(Packet, Look, State) ->
    case hornbeam_protocol:decode(Packet) of
        {ok, Messages} ->
            case Look(Messages) of
                ok -> handle_messages(hornbeam_protocol:join(Messages), State);
                flooded -> {stop, {shutdown, {flooded, connection}}, State}
            end;
        {error, {malformed, FirstBytes}} ->
            ?LOG_ERROR(#{what => malformed_packet, first_bytes => FirstBytes}),
            {stop, {shutdown, {protocol_error, FirstBytes}}, State}
    end.

look(#state{args = #{routes := Routes}}) ->
    fun
        ([]) -> ok;
        (Messages) -> hornbeam_routes:look(Routes, lists:last(Messages))
    end.

handle_messages([], State) ->
    {noreply, State};
%% How nearly all requests end: together that is one step.
handle_messages([Response = {response, Id, _, _, _}, {done, Id} | Rest], State) ->
    #state{args = #{routes := Routes}} = State,
    handle_messages(Rest, count_done(hornbeam_routes:answer(Routes, Response), State));
handle_messages([Message | Rest], State0) ->
    case handle_message(Message, State0) of
        {ok, State} -> handle_messages(Rest, State);
        {stop, Reason} -> {stop, {shutdown, Reason}, State0}
    end.

handle_message({done, Id}, State = #state{args = #{routes := Routes}}) ->
    {ok, count_done(hornbeam_routes:done(Routes, Id), State)};
handle_message({call, CallId, Function, Args}, State) ->
    #state{port = Port, writer = Writer} = State,
    Reply = fun(Result) -> reply(CallId, Result, Port, Writer) end,
    case bounded(call(Function, Args, State), State) of
        {task, Task, TimeoutMs} ->
            {ok, watch_task(hornbeam_task:start(self(), Task, TimeoutMs, Reply), State)};
        {stream, Invocation, TimeoutMs} ->
            Sink = stream_sink(Reply, Writer),
            Hooks = hornbeam_worker_hooks:open_stream(Sink, Invocation, TimeoutMs,
                                                      State#state.hooks),
            {ok, State#state{hooks = Hooks}};
        Result ->
            Reply(Result),
            {ok, State}
    end;
handle_message({result, Id, Outcome, Value}, State = #state{hooks = Hooks}) ->
    {ok, State#state{hooks = hornbeam_worker_hooks:result(Id, {Outcome, Value}, Hooks)}};
handle_message({produce, Id, Blob}, State = #state{hooks = Hooks}) ->
    {ok, tell_hooks(hornbeam_worker_hooks:produce(Id, Blob, Hooks), State)};
handle_message({cast, stream_credit, {Id, Count}}, State) when is_integer(Count), Count > 0 ->
    hornbeam_worker_hooks:give_credit(Id, Count, State#state.hooks),
    {ok, State};
handle_message({cast, stream_cancel, {Id}}, State) ->
    hornbeam_worker_hooks:cancel(Id, State#state.hooks),
    {ok, State};
handle_message({cast, Function, Args}, State) ->
    case bounded(hornbeam_services:cast(Function, Args), State) of
        {task, Task, _} ->
            {ok, watch_task(hornbeam_task:cast(Task, #{function => Function}), State)};
        {ok, _} ->
            {ok, State};
        {error, {Name, Facts}} ->
            ?LOG_WARNING(#{what => cast_failed, function => Function, error => Name,
                           facts => Facts}),
            {ok, State}
    end;
handle_message({returned, Id, _} = Message, State = #state{args = Args}) when Id > 0 ->
    #{routes := Routes, load := Load, pool := Pool, waiting := Waiting} = Args,
    case hornbeam_routes:return(Routes, Message) of
        true -> hornbeam_pool:release(Pool, Load, Waiting);
        false -> ok
    end,
    {ok, State};
handle_message({pong, N}, State = #state{heartbeat = Beats}) ->
    {ok, handle_pong(hornbeam_heartbeat:pong(N, now_ms(), Beats), N, State)};
handle_message({blocked, Report}, State) ->
    {ok, report_stall(Report, State)};
handle_message({log, Level, Report}, State) ->
    hornbeam_worker_log:told(Level, Report),
    {ok, State};
handle_message({ready, Facts = #{worker_class := Class}},
               State = #state{phase = starting, args = Args})
        when Class =:= asgi; Class =:= wsgi ->
    #{pool := Pool, worker_id := WorkerId, load := Load} = Args,
    hornbeam_load:open(Load),
    hornbeam_pool:worker_ready(Pool, WorkerId, self(), State#state.writer,
                               Class),
    start_heartbeat(State),
    start_sweep(State),
    Shown = maps:with([python, codec, loop, worker_class, lifespan], Facts),
    {ok, State#state{phase = ready, facts = Shown}};
handle_message({failed, Name, Facts}, #state{phase = starting}) ->
    {stop, {failed, Name, Facts}};
handle_message({stopped, Facts}, State = #state{phase = stopping}) ->
    hornbeam_worker_log:stopped(Facts),
    _ = erlang:start_timer(?EXIT_TIMEOUT_MS, self(), stop),
    {ok, State};
handle_message(Message, State = #state{args = #{routes := Routes, config := Config}})
        when is_integer(element(2, Message)) ->
    #{window := Window} = Config,
    case hornbeam_routes:deliver(Routes, Message, Window) of
        ok -> {ok, State};
        overrun -> protocol_error(overrun, Message)
    end;
handle_message(Message, _State) ->
    protocol_error(unexpected, Message).

protocol_error(Why, Message) ->
    FirstBytes = unicode:characters_to_binary(io_lib:format("~0tP", [Message, 12])),
    ?LOG_ERROR(#{what => malformed_packet, first_bytes => FirstBytes, why => Why}),
    {stop, {protocol_error, FirstBytes}}.

count_done(true, State = #state{args = Args, served = Served0, limits = Limits}) ->
    #{load := Load, pool := Pool, waiting := Waiting} = Args,
    hornbeam_pool:release(Pool, Load, Waiting),
    Served = Served0 + 1,
    recycle(hornbeam_recycling:served(Served, Limits), State#state{served = Served});
%% Not known, or done before.
count_done(false, State) ->
    State.

call(Function, Args, #state{args = #{routes := Routes}})
        when Function =:= attach; Function =:= detach ->
    hornbeam_worker_topics:call(Function, Args, Routes);
call(Function, Args, _) ->
    hornbeam_services:call(Function, Args).

%% What a worker asks for without waiting does not fill the node with processes.
bounded({task, _, _}, #state{tasks = ?MAX_TASKS}) ->
    too_many_calls();
bounded({stream, _, _} = Stream, #state{hooks = Hooks}) ->
    case hornbeam_worker_hooks:stream_count(Hooks) of
        ?MAX_TASKS -> too_many_calls();
        _ -> Stream
    end;
bounded(Answer, _) ->
    Answer.

too_many_calls() ->
    {error, {too_many_calls, #{limit => ?MAX_TASKS}}}.

%% It may be killed by what it runs, so nothing else tells of its end for sure.
watch_task(Task, State = #state{tasks = Tasks}) ->
    _ = monitor(process, Task, [{tag, task_down}]),
    State#state{tasks = Tasks + 1}.

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

%%% Hooks

tell_hooks({Messages, Hooks}, State) ->
    lists:foreach(fun(Message) -> send(Message, State) end, Messages),
    State#state{hooks = Hooks}.

%% Runs in the relay: items take the writer's way, and nothing of them waits in this process. The
%% reply has been written, or waits there too, before the first of them.
stream_sink(Reply, Writer) ->
    fun
        (Id, opened) -> Reply({ok, Id});
        (_, {not_opened, Error}) -> Reply({error, Error});
        (Id, {item, Blob}) -> send_by(Writer, {item, Id, Blob});
        (Id, stream_end) -> send_by(Writer, {stream_end, Id});
        (Id, {stream_error, Error}) -> send_by(Writer, {stream_error, Id, Error})
    end.

%%% Topics

%% Once something was dropped, nothing is let in before that could be told: what a worker loses is
%% one gap, not every other message.
offer(_, State = #state{dropped = Dropped}) when Dropped > 0 ->
    State#state{dropped = Dropped + 1};
offer(Encoded, State = #state{writer = Writer, backlog = Backlog}) ->
    case hornbeam_writer:offer(Writer, Backlog, Encoded) of
        ok -> State;
        full -> State#state{dropped = 1}
    end.

tell_dropped(State = #state{dropped = 0}) ->
    State;
tell_dropped(State = #state{dropped = Dropped, backlog = Backlog}) ->
    case hornbeam_writer:is_drained(Backlog) of
        true ->
            ok = send({dropped, Dropped}, State),
            ?LOG_WARNING(#{what => publishes_dropped, count => Dropped}),
            State#state{dropped = 0};
        false ->
            State
    end.

%%% Heartbeat

start_heartbeat(#state{args = #{config := #{heartbeat := HeartbeatMs}}}) ->
    _ = erlang:start_timer(HeartbeatMs, self(), heartbeat),
    ok.

heartbeat(State0 = #state{args = #{config := #{stall_timeout := StallMs}}}) ->
    NowMs = now_ms(),
    drop_orphans(State0),
    {Action, Beats} = hornbeam_heartbeat:beat(NowMs, StallMs, State0#state.heartbeat),
    State = State0#state{heartbeat = Beats},
    case Action of
        {kill, SilentMs} ->
            ?LOG_ERROR(#{what => worker_stalled, silent_ms => SilentMs,
                         os_pid => State#state.os_pid}),
            {stop, {shutdown, {stalled, SilentMs}}, State};
        _ ->
            start_heartbeat(State),
            Looked = hornbeam_recycling:beat(NowMs, State#state.os_pid, State#state.limits),
            {noreply, act_on_beat(Action, recycle(Looked, State))}
    end.

act_on_beat({ping, N}, State) ->
    ok = send({ping, N}, State),
    State;
act_on_beat({stalled, SilentMs}, State = #state{args = #{load := Load}}) ->
    hornbeam_load:stall(Load),
    revoke(open, State),
    inspect(SilentMs, State);
act_on_beat({silent, SilentMs}, State) ->
    %% Bodies may have come as a whole meanwhile.
    _ = SilentMs < ?REVOKE_FOR_MS andalso revoke(open, State),
    revoke_before_kill(SilentMs, State),
    inspect(SilentMs, State).

inspect(SilentMs, State0 = #state{heartbeat = Beats0}) ->
    {What, Beats} = hornbeam_heartbeat:inspect(SilentMs, Beats0),
    State = State0#state{heartbeat = Beats},
    case What of
        ask ->
            ok = send({inspect}, State),
            State;
        give_up ->
            report_stall(no_stack, State);
        wait ->
            State
    end.

handle_pong({alive, Beats}, N, State = #state{args = #{load := Load}}) ->
    _ = N =:= 0 andalso hornbeam_load:probed(Load),
    State#state{heartbeat = Beats};
handle_pong({{recovered, SilentMs}, Beats}, _, State = #state{args = #{load := Load}}) ->
    hornbeam_load:recover(Load),
    _ = hornbeam_heartbeat:is_reported(State#state.heartbeat) andalso
        ?LOG_WARNING(#{what => loop_unblocked, worker_id => worker_id(State),
                       os_pid => State#state.os_pid, blocked_ms => SilentMs}),
    %% There may be somebody in the queue whom it could serve.
    hornbeam_pool:has_place(maps:get(pool, State#state.args)),
    State#state{heartbeat = Beats};
handle_pong(unknown, _, State) ->
    State.

%% Requests that have not begun could be served elsewhere at once.
ask_back(State = #state{heartbeat = Beats, args = #{load := Load}}) ->
    case hornbeam_heartbeat:is_probe_out(Beats) andalso not hornbeam_heartbeat:is_stalled(Beats) of
        true ->
            hornbeam_load:overdue(Load),
            _ = erlang:start_timer(2 * ?PROBE_MS, self(), probed),
            revoke(answering, State);
        false ->
            ok
    end.

revoke(How, State = #state{args = #{server := Server}}) ->
    _ = hornbeam_selection:has_other(Server, self(), How) andalso send({revoke}, State),
    ok.

%% What has not begun would fail with it otherwise; so it waits for its successor.
revoke_before_kill(SilentMs, State = #state{args = #{config := Config}}) ->
    #{stall_timeout := StallMs, heartbeat := HeartbeatMs} = Config,
    _ = StallMs =/= infinity andalso SilentMs + 2 * HeartbeatMs >= StallMs
        andalso send({revoke}, State),
    ok.

%% Once for each stall. One that has just ended is not worth it.
report_stall(Report, State = #state{heartbeat = Beats}) ->
    case hornbeam_heartbeat:is_stalled(Beats) andalso not hornbeam_heartbeat:is_reported(Beats) of
        true ->
            hornbeam_worker_log:blocked(#{
                worker_id => worker_id(State),
                os_pid => State#state.os_pid,
                blocked_ms => hornbeam_heartbeat:silent_ms(now_ms(), Beats)
            }, Report),
            State#state{heartbeat = hornbeam_heartbeat:reported(Beats)};
        false ->
            State
    end.

%% It serves on until its successor is ready.
recycle({keep, Limits}, State) ->
    State#state{limits = Limits};
recycle({recycle, Why = {Limit, Value}, Limits}, State = #state{args = Args}) ->
    #{pool := Pool, worker_id := WorkerId} = Args,
    ?LOG_NOTICE(#{what => worker_recycled, worker_id => WorkerId, limit => Limit, value => Value}),
    hornbeam_pool:recycle(Pool, WorkerId, self(), Why),
    State#state{limits = Limits}.

%% One sweep over the requests in flight, in place of a timer for each.
start_sweep(#state{args = #{config := #{timeout := infinity}}}) ->
    ok;
start_sweep(#state{args = #{config := #{timeout := TimeoutMs}}}) ->
    SweepMs = min(max(TimeoutMs div 10, ?MIN_SWEEP_MS), ?MAX_SWEEP_MS),
    _ = erlang:start_timer(SweepMs, self(), sweep),
    ok.

expire_requests(State = #state{args = #{routes := Routes, config := Config}}) ->
    #{timeout := TimeoutMs} = Config,
    cancel(hornbeam_routes:expire(Routes, now_ms() - TimeoutMs), State),
    start_sweep(State).

cancel([], _) ->
    ok;
cancel(Ids, State = #state{facts = Facts, args = Args}) ->
    lists:foreach(fun(Id) -> send({cancel, Id}, State) end, Ids),
    case Facts of
        %% A thread cannot be ended from outside: its process is.
        #{worker_class := wsgi} ->
            #{pool := Pool, worker_id := WorkerId} = Args,
            ?LOG_WARNING(#{what => worker_replaced_after_timeout, request_ids => Ids}),
            hornbeam_pool:replace(Pool, WorkerId, self());
        #{} ->
            ok
    end.

%% Nothing else would tell the worker: its application would wait for acknowledgements for ever.
drop_orphans(State = #state{args = #{routes := Routes}}) ->
    lists:foreach(fun(Farewell) -> send(Farewell, State) end, hornbeam_routes:orphans(Routes)).

%%% Start and stop

send(Message, #state{writer = Writer}) ->
    send_by(Writer, Message).

send_by(Writer, Message) ->
    hornbeam_writer:send(Writer, hornbeam_protocol:encode(Message)).

%% One that was killed while it was about to stop has not stopped.
exit_reason(0, #state{phase = stopping}) -> stopped;
exit_reason(?EXIT_PROTOCOL, _) -> {protocol_error, <<"told by the worker">>};
exit_reason(Status, _) -> {exit_status, Status}.

shown_phase(#state{phase = ready, heartbeat = Beats}) ->
    case hornbeam_heartbeat:is_stalled(Beats) of
        true -> stalled;
        false -> ready
    end;
shown_phase(#state{phase = Phase}) ->
    Phase.

worker_id(#state{args = #{worker_id := WorkerId}}) ->
    WorkerId.

now_ms() ->
    erlang:monotonic_time(millisecond).

%% The time is over earlier where it is said again.
say_shutdown(TimeoutMs0, State = #state{args = #{config := Config}}) ->
    TimeoutMs = case hornbeam_hurry:is_asked() of
        true -> 0;
        false -> TimeoutMs0
    end,
    ok = send({shutdown, TimeoutMs}, State),
    case hornbeam_hurry:bound_ms(stop_bound_ms(TimeoutMs, Config)) of
        infinity -> ok;
        BoundMs ->
            _ = erlang:start_timer(BoundMs, self(), stop),
            ok
    end,
    State.

stop_bound_ms(infinity, _) -> infinity;
stop_bound_ms(_, #{lifespan_timeout := infinity}) -> infinity;
stop_bound_ms(TimeoutMs, #{lifespan_timeout := LifespanMs}) ->
    TimeoutMs + LifespanMs + ?EXIT_TIMEOUT_MS.

%% The supervisor wants this process to end: the same as stop/2, waited for here. The supervisor's
%% own timeout bounds it.
stop_now(State = #state{port = Port, args = #{config := Config}}) ->
    #{shutdown_timeout := TimeoutMs} = Config,
    ok = send({shutdown, TimeoutMs}, State),
    wait_for_exit(Port, hornbeam_hurry:bound_ms(stop_bound_ms(TimeoutMs, Config))).

wait_for_exit(Port, TimeoutMs) ->
    receive
        {Port, {exit_status, Status}} ->
            %% Seen again by terminate/2.
            self() ! {Port, {exit_status, Status}},
            ok
    after TimeoutMs ->
        ok
    end.
