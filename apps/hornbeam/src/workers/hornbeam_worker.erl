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
%%
%% This module has the states, and what every request passes through. What else belongs to a worker
%% has modules of its own, whose parts of the state are kept here: what is known of it
%% ({@link hornbeam_worker_info}), whether it answers ({@link hornbeam_worker_pulse}), places that were
%% lost ({@link hornbeam_worker_places}), calls in both directions ({@link hornbeam_worker_calls}) and
%% messages of topics ({@link hornbeam_worker_offers}). Without a state are requests that nobody waits for any more
%% ({@link hornbeam_worker_sweep}) and its end ({@link hornbeam_worker_stop}).
-module(hornbeam_worker).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

%% API
-export([start_link/1]).
-export([stop/2]).
-export([hurry/1]).
-export([publish/2]).
-export([probe/1]).
-export([prove/2]).
-export([info/1]).
-export([kill/1]).

%% gen_server
-export([init/1]).
-export([handle_continue/2]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).
-export([terminate/2]).

-export_type([start_args/0]).

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

-record(state, {
    %% What the pool gave.
    args :: start_args(),
    port :: port(),
    os_pid :: pos_integer() | undefined,
    writer :: pid(),
    intake :: hornbeam_intake:intake(),
    phase = starting :: hornbeam_worker_exit:phase(),
    served = 0 :: non_neg_integer(),
    limits :: hornbeam_recycling:limits(),
    info :: hornbeam_worker_info:info(),
    pulse :: hornbeam_worker_pulse:pulse(),
    places = hornbeam_worker_places:new() :: hornbeam_worker_places:places(),
    calls :: hornbeam_worker_calls:calls(),
    offers :: hornbeam_worker_offers:offers(),
    lender = none :: hornbeam_lender:lender()
}).

%% Time for the interpreter to start and the application to be imported, on top of
%% `lifespan_timeout', which the worker watches itself.
-define(BOOT_TIMEOUT_MS, 30000).

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

%% @doc Have it answer, because of a doubt that hornbeam_load:doubt/1 has numbered.
-spec prove(pid(), Doubt :: pos_integer()) -> ok.
prove(Worker, Doubt) ->
    Worker ! {prove, Doubt},
    ok.

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
    hornbeam_worker_stop:kill(OsPid).

%%% gen_server

-spec init(start_args()) -> {ok, #state{}, {continue, configure}} | {stop, term()}.
init(Args = #{server := Server, worker_id := WorkerId, pool := Pool, python := Python}) ->
    process_flag(trap_exit, true),
    _ = monitor(process, Pool, [{tag, pool_down}]),
    logger:update_process_metadata(#{hornbeam_server => Server, worker_id => WorkerId}),
    try hornbeam_worker_port:open(Args) of
        Port ->
            State = started(Port, Args),
            hornbeam_pool:worker_started(Pool, WorkerId, self(), State#state.os_pid),
            {ok, State, {continue, configure}}
    catch
        error:Reason ->
            Facts = #{python => unicode:characters_to_binary(Python), message => Reason},
            {stop, {shutdown, {failed, python_not_found, Facts}}}
    end.

started(Port, Args = #{config := Config, routes := Routes}) ->
    OsPid = hornbeam_worker_port:os_pid(Port),
    Writer = hornbeam_writer:start_link(Port),
    #state{args = Args, port = Port, os_pid = OsPid, writer = Writer,
           intake = hornbeam_intake:new(Port),
           limits = hornbeam_recycling:new(Config),
           info = hornbeam_worker_info:new(Args, OsPid),
           pulse = hornbeam_worker_pulse:new(Args, OsPid, Writer),
           calls = hornbeam_worker_calls:new(Port, Writer, Routes),
           offers = hornbeam_worker_offers:new(Writer)}.

-spec handle_continue(configure, #state{}) -> {noreply, #state{}}.
handle_continue(configure, State = #state{args = Args}) ->
    #{config := #{lifespan_timeout := LifespanTimeout}} = Args,
    Configure = {configure, hornbeam_worker_port:settings(Args)},
    ok = hornbeam_writer:say(State#state.writer, Configure),
    _ = LifespanTimeout =/= infinity andalso
        erlang:start_timer(LifespanTimeout + ?BOOT_TIMEOUT_MS, self(), boot),
    {noreply, State}.

-spec handle_call(info, gen_server:from(), #state{}) -> {reply, map(), #state{}}.
handle_call(info, _From, State = #state{served = Served, info = Info}) ->
    {reply, hornbeam_worker_info:show(shown_phase(State), Served, Info), State}.

-spec handle_cast({stop, timeout()} | hurry, #state{}) ->
    {noreply, #state{}} | {stop, term(), #state{}}.
handle_cast(hurry, State = #state{phase = stopping}) ->
    ask_to_stop(0, State),
    {noreply, State};
handle_cast(hurry, State) ->
    {noreply, State};
handle_cast({stop, _}, State = #state{phase = stopping}) ->
    {noreply, State};
handle_cast({stop, _}, State = #state{phase = starting}) ->
    {stop, {shutdown, stopped}, State};
handle_cast({stop, TimeoutMs}, State = #state{args = #{load := Load}}) ->
    hornbeam_load:close(Load),
    hornbeam_hook_registry:leave_all(),
    ask_to_stop(TimeoutMs, State),
    {noreply, State#state{phase = stopping}}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}.
handle_info({Port, {data, Packet}}, State = #state{port = Port, intake = Intake0}) ->
    hornbeam_load:heard(maps:get(load, State#state.args)),
    case hornbeam_intake:took(byte_size(Packet), Intake0) of
        {ok, Intake} -> handle_packet(Packet, fun(_) -> ok end, State#state{intake = Intake});
        {look, Intake} -> handle_packet(Packet, look(State), State#state{intake = Intake});
        {flooded, WaitingBytes} -> {stop, {shutdown, {flooded, WaitingBytes}}, State}
    end;
handle_info({Port, {exit_status, Status}}, State = #state{port = Port, phase = Phase}) ->
    Reason = hornbeam_worker_exit:of_status(Status, Phase),
    {stop, {shutdown, Reason}, State#state{os_pid = undefined}};
handle_info({publish, Encoded}, State = #state{offers = Offers}) ->
    {noreply, State#state{offers = hornbeam_worker_offers:offer(Encoded, Offers)}};
handle_info({hornbeam_invoke, Caller, Ref, Invocation}, State = #state{calls = Calls}) ->
    {noreply, State#state{calls = hornbeam_worker_calls:invoke(Caller, Ref, Invocation, Calls)}};
handle_info({hornbeam_credit, Ref, Count}, State = #state{calls = Calls}) ->
    {noreply, State#state{calls = hornbeam_worker_calls:credit(Ref, Count, Calls)}};
%% What it has is cancelled: the connections end with the pool as well.
handle_info({pool_down, _, process, _, _}, State) ->
    handle_cast({stop, 0}, State);
handle_info({'ETS-TRANSFER', Routes, _, _}, State) ->
    ok = hornbeam_routes:tell_all(Routes, worker_down),
    {noreply, State};
handle_info({task_down, _, process, _, _}, State = #state{calls = Calls}) ->
    {noreply, State#state{calls = hornbeam_worker_calls:task_down(Calls)}};
handle_info({'DOWN', Monitor, process, _, _} = Message, State = #state{calls = Calls0}) ->
    case hornbeam_worker_calls:process_down(Monitor, Calls0) of
        unknown -> unexpected(Message, State);
        Calls -> {noreply, State#state{calls = Calls}}
    end;
handle_info(probe, State = #state{pulse = Pulse}) ->
    {noreply, State#state{pulse = hornbeam_worker_pulse:probe(Pulse)}};
handle_info({prove, Doubt}, State = #state{writer = Writer}) ->
    ok = hornbeam_writer:say(Writer, {ping, -Doubt}),
    {noreply, State};
handle_info({timeout, _, Timer}, State) ->
    handle_timeout(Timer, State);
handle_info({'EXIT', From, Reason}, State) ->
    handle_exit(From, Reason, State);
handle_info(Message, State) ->
    unexpected(Message, State).

unexpected(Message, State) ->
    ?LOG_WARNING(#{what => unexpected_message, message => Message}),
    {noreply, State}.

-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, #state{os_pid = undefined}) ->
    ok;
terminate(Reason, #state{port = Port, os_pid = OsPid, args = #{config := Config}} = State) ->
    _ = (State#state.phase =:= ready) andalso (Reason =:= shutdown) andalso
        hornbeam_worker_stop:ask_and_wait(Port, State#state.writer, Config),
    hornbeam_worker_stop:end_process(Port, OsPid).

%%% Timers and ends

handle_timeout(heartbeat, State) ->
    heartbeat(State);
handle_timeout(sweep, State = #state{args = Args, writer = Writer, info = Info}) ->
    ok = hornbeam_worker_sweep:expire(hornbeam_worker_info:worker_class(Info), Writer, Args),
    {noreply, State};
handle_timeout({probed, Probe}, State = #state{pulse = Pulse}) ->
    ok = hornbeam_worker_pulse:ask_back(Probe, Pulse),
    {noreply, State};
handle_timeout(boot, State = #state{phase = starting, args = #{config := Config}}) ->
    #{lifespan_timeout := LifespanTimeout} = Config,
    Facts = #{timeout_ms => LifespanTimeout + ?BOOT_TIMEOUT_MS},
    {stop, {shutdown, {failed, startup_timeout, Facts}}, State};
handle_timeout(boot, State) ->
    {noreply, State};
handle_timeout(stop, State) ->
    ?LOG_WARNING(#{what => worker_stop_timeout, os_pid => State#state.os_pid}),
    {stop, {shutdown, stopped}, State};
handle_timeout(Timer, State) ->
    unexpected({timeout, Timer}, State).

handle_exit(Port, _, State = #state{port = Port, phase = stopping}) ->
    {stop, {shutdown, stopped}, State};
handle_exit(Port, Reason, State = #state{port = Port}) ->
    %% Without an exit status: a write failed, as the worker has closed its input.
    {stop, {shutdown, {port_closed, Reason}}, State};
handle_exit(Writer, normal, State = #state{writer = Writer}) ->
    %% The port has closed, of which the owner learns as well.
    {noreply, State};
handle_exit(Writer, Reason, State = #state{writer = Writer}) ->
    {stop, {shutdown, {writer_ended, Reason}}, State};
handle_exit(_Parent, Reason, State) ->
    {stop, Reason, State}.

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
    handle_messages(Rest, answer(hornbeam_routes:finish(Routes, Id), Response, State));
handle_messages([Message | Rest], State0) ->
    case handle_message(Message, State0) of
        {ok, State} -> handle_messages(Rest, State);
        {stop, Reason} -> {stop, {shutdown, Reason}, State0}
    end.

handle_message({done, Id}, State = #state{args = #{routes := Routes}}) ->
    {ok, count_done(hornbeam_routes:done(Routes, Id), State)};
handle_message({call, CallId, Function, Args}, State = #state{calls = Calls}) ->
    {ok, State#state{calls = hornbeam_worker_calls:call(CallId, Function, Args, Calls)}};
handle_message({cast, Function, Args}, State = #state{calls = Calls}) ->
    {ok, State#state{calls = hornbeam_worker_calls:cast(Function, Args, Calls)}};
handle_message({result, Id, Outcome, Value}, State = #state{calls = Calls}) ->
    {ok, State#state{calls = hornbeam_worker_calls:result(Id, {Outcome, Value}, Calls)}};
handle_message({produce, Id, Blob}, State = #state{calls = Calls}) ->
    {ok, State#state{calls = hornbeam_worker_calls:produce(Id, Blob, Calls)}};
handle_message({returned, Id, _} = Message, State = #state{args = Args}) when Id > 0 ->
    #{routes := Routes, load := Load, pool := Pool, waiting := Waiting} = Args,
    case hornbeam_routes:return(Routes, Message) of
        true -> hornbeam_pool:release(Pool, Load, Waiting);
        false -> ok
    end,
    {ok, State};
handle_message({pong, N}, State = #state{args = #{load := Load, pool := Pool}}) when N < 0 ->
    _ = hornbeam_load:proven(Load, -N) andalso hornbeam_pool:has_place(Pool),
    {ok, State};
handle_message({pong, N}, State = #state{pulse = Pulse}) ->
    {ok, State#state{pulse = hornbeam_worker_pulse:pong(N, Pulse)}};
handle_message({blocked, Report}, State = #state{pulse = Pulse}) ->
    {ok, State#state{pulse = hornbeam_worker_pulse:report_stall(Report, Pulse)}};
handle_message({log, Level, Report}, State) ->
    hornbeam_worker_log:told(Level, Report),
    {ok, State};
handle_message({ready, Facts = #{worker_class := Class}},
               State = #state{phase = starting, args = Args})
        when Class =:= asgi; Class =:= wsgi ->
    #{pool := Pool, worker_id := WorkerId, load := Load} = Args,
    hornbeam_load:open(Load),
    hornbeam_pool:worker_ready(Pool, WorkerId, self(), State#state.writer, Class),
    ok = hornbeam_worker_sweep:start(Args),
    {ok, State#state{phase = ready, info = hornbeam_worker_info:ready(Facts, State#state.info),
                     pulse = hornbeam_worker_pulse:start(State#state.pulse),
                     lender = hornbeam_lender:connect(maps:get(lending, Facts, undefined))}};
handle_message({failed, Name, Facts}, #state{phase = starting}) ->
    {stop, {failed, Name, Facts}};
handle_message({stopped, Facts}, State = #state{phase = stopping}) ->
    hornbeam_worker_log:stopped(Facts),
    ok = hornbeam_worker_stop:await_exit(),
    {ok, State};
handle_message({borrow, Id}, State = #state{args = #{routes := Routes}, lender = Lender}) ->
    ok = hornbeam_routes:lend(Routes, Id, Lender),
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

%% The place is given back first: whoever has its answer may ask again at once, and is to find the
%% worker free.
answer(unknown, _, State) ->
    State;
answer(Finished, Response, State0) ->
    State = count_done(true, State0),
    ok = hornbeam_routes:answer(Finished, Response),
    State.

count_done(true, State = #state{args = Args, served = Served0, limits = Limits}) ->
    #{load := Load, pool := Pool, waiting := Waiting} = Args,
    hornbeam_pool:release(Pool, Load, Waiting),
    Served = Served0 + 1,
    recycle(hornbeam_recycling:served(Served, Limits), State#state{served = Served});
%% Not known, or done before.
count_done(false, State) ->
    State.

heartbeat(State = #state{args = Args = #{routes := Routes}, writer = Writer, os_pid = OsPid}) ->
    Offers = hornbeam_worker_offers:tell_dropped(State#state.offers),
    ok = hornbeam_worker_sweep:drop_orphans(Writer, Routes),
    Places = hornbeam_worker_places:correct(Args, State#state.places),
    case hornbeam_worker_pulse:beat(State#state.pulse) of
        {kill, SilentMs} ->
            {stop, {shutdown, {stalled, SilentMs}}, State};
        {ok, Pulse} ->
            NowMs = erlang:monotonic_time(millisecond),
            Looked = hornbeam_recycling:beat(NowMs, OsPid, State#state.limits),
            {noreply, recycle(Looked, State#state{pulse = Pulse, offers = Offers, places = Places})}
    end.

%% It serves on until its successor is ready.
recycle({keep, Limits}, State) ->
    State#state{limits = Limits};
recycle({recycle, Why = {Limit, Value}, Limits}, State = #state{args = Args}) ->
    #{pool := Pool, worker_id := WorkerId} = Args,
    ?LOG_NOTICE(#{what => worker_recycled, worker_id => WorkerId, limit => Limit, value => Value}),
    hornbeam_pool:recycle(Pool, WorkerId, self(), Why),
    State#state{limits = Limits}.

ask_to_stop(TimeoutMs, #state{args = #{config := Config}, writer = Writer}) ->
    ok = hornbeam_worker_stop:ask(TimeoutMs, Writer, Config).

shown_phase(#state{phase = ready, pulse = Pulse}) ->
    case hornbeam_worker_pulse:is_stalled(Pulse) of
        true -> stalled;
        false -> ready
    end;
shown_phase(#state{phase = Phase}) ->
    Phase.
