%% SPDX-License-Identifier: Apache-2.0
%% A real pool without Python: its workers are Erlang processes that speak to it, and to those who
%% send them requests, as hornbeam_worker, its writer and the worker behind them do together.
%%
%% A worker notes in a table what it has executed, and whatever it should never see.
-module(hornbeam_test_pool).

-export([start/2]).
-export([stop/1]).
-export([pool/1]).
-export([workers/1]).
-export([tell/2]).
-export([executions/2]).
-export([violations/1]).

-export_type([pool/0]).

-record(test_pool, {name :: atom(), sup :: pid(), pool :: pid(), table :: ets:tid()}).
-opaque pool() :: #test_pool{}.

-record(worker, {
    args :: hornbeam_worker:start_args() | undefined,
    table :: ets:tid(),
    max :: pos_integer(),
    phase = starting :: starting | ready | stopping,
    is_stalled = false :: boolean(),
    %% The doubt in which it was asked to answer while it was stalled.
    doubt = none :: pos_integer() | none,
    %% Requests that have come and not begun, last first, and those that run: their timers.
    waiting = [] :: [{pos_integer(), Key :: binary(), Body :: binary()}],
    running = #{} :: #{pos_integer() => reference()}
}).

-define(WINDOW, 65536).

%% Options: as a server's, and `fails', one of how many starts fails.
start(Name, Options = #{max_concurrency := Max}) ->
    Table = ets:new(?MODULE, [public, bag]),
    Fails = maps:get(fails, Options, infinity),
    Test = self(),
    Sup = spawn_link(fun() ->
        ok = hornbeam_selection:register_workers_sup(Name),
        Test ! {self(), registered},
        supervise(#worker{table = Table, max = Max}, Fails, 1)
    end),
    receive {Sup, registered} -> ok end,
    Config = maps:merge(#{max_queue => 1000, workers => 2, threads => 1, queue_timeout => infinity,
                          timeout => infinity, shutdown_timeout => infinity, reload => false},
                        maps:remove(fails, Options)),
    {ok, Pool} = hornbeam_pool:start_link(Name, Config, "none"),
    #test_pool{name = Name, sup = Sup, pool = Pool, table = Table}.

stop(#test_pool{name = Name, sup = Sup, pool = Pool, table = Table}) ->
    unlink(Pool),
    ok = gen_server:stop(Pool),
    unlink(Sup),
    exit(Sup, kill),
    ok = hornbeam_selection:forget(Name),
    true = ets:delete(Table),
    ok.

pool(#test_pool{pool = Pool}) ->
    Pool.

%% Those that run, the oldest first.
workers(#test_pool{table = Table}) ->
    [Pid || {worker, Pid, _} <- lists:keysort(3, ets:lookup(Table, worker)), is_process_alive(Pid)].

%% `kill', `stall', `recover', `replace', `revoke'.
tell(kill, Pid) -> exit(Pid, kill);
tell(What, Pid) -> Pid ! {test, What}.

%% How often a request has begun.
executions(Key, #test_pool{table = Table}) ->
    length(ets:lookup(Table, {executed, Key})).

violations(#test_pool{table = Table}) ->
    [What || {_, What} <- ets:lookup(Table, violation)].

%%% The supervisor

supervise(Worker, Fails, N) ->
    receive
        {'$gen_call', From, {start_child, [Args]}} ->
            IsBad = is_integer(Fails) andalso N rem Fails =:= 0,
            Pid = spawn(fun() -> begin_worker(IsBad, Worker#worker{args = Args}) end),
            gen_server:reply(From, {ok, Pid}),
            supervise(Worker, Fails, N + 1)
    end.

%%% The worker

begin_worker(true, _) ->
    exit({shutdown, {exit_status, 1}});
begin_worker(false, Worker = #worker{args = #{pool := Pool}, table = Table}) ->
    _ = monitor(process, Pool),
    true = ets:insert(Table, {worker, self(), erlang:unique_integer([monotonic])}),
    self() ! ready,
    loop(Worker).

loop(Worker) ->
    receive
        Message -> loop(handle(Message, Worker))
    end.

handle(ready, Worker = #worker{phase = starting, args = Args}) ->
    #{pool := Pool, worker_id := Id, load := Load} = Args,
    hornbeam_load:open(Load),
    hornbeam_pool:worker_ready(Pool, Id, self(), self(), asgi),
    Worker#worker{phase = ready};
handle({send, Encoded}, Worker) ->
    [Message] = binary_to_term(iolist_to_binary(hornbeam_protocol:batch([Encoded]))),
    told(Message, Worker);
handle({'$gen_cast', {stop, _}}, #worker{phase = starting}) ->
    exit({shutdown, stopped});
handle({'$gen_cast', {stop, TimeoutMs}}, Worker = #worker{args = #{load := Load}}) ->
    hornbeam_load:close(Load),
    _ = TimeoutMs =:= 0 andalso exit({shutdown, stopped}),
    leave_if_idle(Worker#worker{phase = stopping, is_stalled = false});
handle({end_of, Id}, Worker = #worker{running = Running}) ->
    _ = deliver({response, Id, 200, [], <<>>}, Worker),
    over(Id, Worker#worker{running = maps:remove(Id, Running)});
handle({test, stall}, Worker = #worker{phase = ready, args = #{load := Load}}) ->
    hornbeam_load:stall(Load),
    Worker#worker{is_stalled = true};
handle({test, revoke}, Worker = #worker{is_stalled = true, waiting = Waiting}) ->
    lists:foldl(fun return/2, Worker#worker{waiting = []}, lists:reverse(Waiting));
handle({test, recover}, Worker = #worker{is_stalled = true, args = Args}) ->
    #{pool := Pool, load := Load} = Args,
    hornbeam_load:recover(Load),
    hornbeam_pool:has_place(Pool),
    begin_waiting(prove(Worker#worker{is_stalled = false}));
handle({test, replace}, Worker = #worker{args = #{pool := Pool, worker_id := Id}}) ->
    hornbeam_pool:replace(Pool, Id, self()),
    Worker;
handle({'DOWN', _, process, _, _}, _) ->
    exit({shutdown, stopped});
handle({prove, Doubt}, Worker) ->
    prove(Worker#worker{doubt = Doubt});
%% Probes, and what a test says to one that is not in that state.
handle(_, Worker) ->
    Worker.

told({request, Id, Scope, Body, false}, Worker0 = #worker{waiting = Waiting}) ->
    Key = element(4, Scope),
    Worker = Worker0#worker{waiting = [{Id, Key, Body} | Waiting]},
    ok = check(Worker),
    case Worker of
        #worker{is_stalled = true} -> Worker;
        #worker{} -> begin_waiting(Worker)
    end;
told({disconnect, Id}, Worker = #worker{running = Running}) ->
    case Running of
        #{Id := Timer} ->
            _ = erlang:cancel_timer(Timer),
            over(Id, Worker#worker{running = maps:remove(Id, Running)});
        #{} ->
            Worker
    end;
told(_, Worker) ->
    Worker.

check(Worker = #worker{waiting = Waiting, running = Running, max = Max, phase = Phase}) ->
    _ = length(Waiting) + map_size(Running) > Max andalso violation(too_many, Worker),
    _ = Phase =/= ready andalso violation({request_while, Phase}, Worker),
    ok.

violation(What, #worker{table = Table}) ->
    ets:insert(Table, {violation, What}).

%% One of three answers at once, the others take their time.
begin_waiting(Worker = #worker{waiting = []}) ->
    Worker;
begin_waiting(Worker = #worker{waiting = Waiting, running = Running0, table = Table}) ->
    Running = lists:foldl(fun({Id, Key, _}, Before) ->
        true = ets:insert(Table, {{executed, Key}, erlang:unique_integer()}),
        Before#{Id => erlang:send_after(max(0, rand:uniform(6) - 2), self(), {end_of, Id})}
    end, Running0, lists:reverse(Waiting)),
    Worker#worker{waiting = [], running = Running}.

return({Id, _, Body}, Worker = #worker{args = Args}) ->
    #{routes := Routes, load := Load, pool := Pool, waiting := Counter} = Args,
    _ = hornbeam_routes:return(Routes, {returned, Id, Body}) andalso
        hornbeam_pool:release(Pool, Load, Counter),
    Worker.

over(Id, Worker = #worker{args = Args}) ->
    #{routes := Routes, load := Load, pool := Pool, waiting := Counter} = Args,
    _ = hornbeam_routes:done(Routes, Id) andalso hornbeam_pool:release(Pool, Load, Counter),
    leave_if_idle(Worker).

deliver(Message, #worker{args = #{routes := Routes}}) ->
    hornbeam_routes:deliver(Routes, Message, ?WINDOW).

%% The loop answers: the requests of one that has died may come here.
prove(Worker = #worker{is_stalled = false, doubt = Doubt, args = #{load := Load, pool := Pool}})
        when is_integer(Doubt) ->
    _ = hornbeam_load:proven(Load, Doubt) andalso hornbeam_pool:has_place(Pool),
    Worker#worker{doubt = none};
prove(Worker) ->
    Worker.

leave_if_idle(#worker{phase = stopping, running = Running, waiting = []})
        when map_size(Running) =:= 0 ->
    exit({shutdown, stopped});
leave_if_idle(Worker = #worker{phase = stopping}) ->
    begin_waiting(Worker);
leave_if_idle(Worker) ->
    Worker.
