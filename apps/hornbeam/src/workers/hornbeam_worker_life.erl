%% SPDX-License-Identifier: Apache-2.0

%% @private What a pool does with one process of a worker, from its start to its end. All of it runs
%% in the pool, which owns the table of the worker's routes.
-module(hornbeam_worker_life).

%% API
-export([start/3]).
-export([drain/1]).
-export([stop_drained/2]).
-export([discard/1]).
-export([stop_all/2]).
-export([doubt/1]).
-export([withdrawn/2]).

%% How often a worker that leaves is looked after.
-define(LOOK_MS, 50).
%% Who enters requests and sends them.
-define(SENDER, hornbeam_dispatch).

%% @doc Start a process. Its end comes as `{{worker_down, WorkerId}, Monitor, process, Pid, Reason}'.
-spec start(pid(), #{worker_id := hornbeam_slots:worker_id(), atom() => term()},
            Generation :: non_neg_integer()) ->
    {ok, hornbeam_slots:process()} | {error, hornbeam_worker_exit:reason()}.
start(WorkersSup, Given = #{worker_id := WorkerId}, Generation) ->
    Routes = hornbeam_routes:new(),
    Load = hornbeam_load:new(),
    Args = Given#{pool => self(), routes => Routes, load => Load},
    case hornbeam_workers_sup:start_worker(WorkersSup, Args) of
        {ok, Pid} ->
            Monitor = monitor(process, Pid, [{tag, {worker_down, WorkerId}}]),
            %% If this process is killed, the worker tells those who wait for it.
            ok = hornbeam_routes:set_heir(Routes, Pid),
            {ok, #{pid => Pid, monitor => Monitor, routes => Routes, load => Load,
                   generation => Generation}};
        {error, Reason} ->
            hornbeam_routes:delete(Routes),
            {error, Reason}
    end.

%% @doc It is to leave, and others are published in its place. `{stop_drained, Monitor}' comes as a
%% timeout when it is time for stop_drained/2.
-spec drain(hornbeam_slots:process()) -> ok.
drain(#{monitor := Monitor, load := Load}) ->
    hornbeam_load:close(Load),
    look_later(Monitor).

%% @doc It is told to end when whoever has a place there has sent its request.
-spec stop_drained(hornbeam_slots:process(), TimeoutMs :: timeout()) -> ok.
stop_drained(#{pid := Pid, load := Load, routes := Routes, monitor := Monitor}, TimeoutMs) ->
    case hornbeam_load:in_flight(Load) =:= hornbeam_routes:count(Routes)
        andalso not lists:any(fun is_sending/1, hornbeam_routes:unstarted(Routes)) of
        true -> hornbeam_worker:stop(Pid, TimeoutMs);
        false -> look_later(Monitor)
    end.

%% A connection that has entered its request may get no time to run before it sends it. To note that
%% it has done so would cost every request an operation on the table; instead it is looked up where
%% the connection is just now, which is in that very function. Nothing there is deep: the frames that
%% are left out of a stack are those of its callers.
is_sending(Connection) ->
    case process_info(Connection, current_stacktrace) of
        {current_stacktrace, Stack} -> lists:keymember(?SENDER, 1, Stack);
        undefined -> false
    end.

look_later(Monitor) ->
    _ = erlang:start_timer(?LOOK_MS, self(), {stop_drained, Monitor}),
    ok.

%% @doc One that was not ready has nothing to finish.
-spec discard(hornbeam_slots:process()) -> ok.
discard(#{pid := Pid}) ->
    hornbeam_worker:stop(Pid, 0).

%% @doc End them side by side, wait for that, and tell those who wait for them still.
%%
%% No timeout: a worker bounds its own end, and the pool's supervisor bounds this wait.
-spec stop_all([hornbeam_slots:process()], TimeoutMs :: timeout()) -> ok.
stop_all(Processes, TimeoutMs) ->
    lists:foreach(fun(#{pid := Pid, load := Load}) ->
                      hornbeam_load:close(Load),
                      hornbeam_worker:stop(Pid, TimeoutMs)
                  end, Processes),
    lists:foreach(fun await_down/1, Processes).

await_down(Process = #{monitor := Monitor}) ->
    receive {{worker_down, _}, Monitor, process, _, Reason} -> withdrawn(Process, Reason) end.

%% @doc Another one has died: requests that were lost with that one come here when this one has
%% answered.
-spec doubt(hornbeam_slots:process()) -> ok.
doubt(#{pid := Pid, load := Load}) ->
    hornbeam_worker:prove(Pid, hornbeam_load:doubt(Load)).

%% @doc It has ended, and is no longer published: those who wait for it are told.
-spec withdrawn(hornbeam_slots:process(), hornbeam_worker_exit:reason()) -> ok.
withdrawn(Process = #{routes := Routes}, Reason) ->
    end_os_process(Process, Reason),
    %% Whoever inserts a route from now on sees that the process is dead (see hornbeam_dispatch).
    Word = case Reason of
        {shutdown, stopped} -> worker_replaced;
        _ -> worker_down
    end,
    ok = hornbeam_routes:tell_all(Routes, Word),
    hornbeam_routes:delete(Routes).

%% A worker that was killed could not do that itself.
end_os_process(#{os_pid := OsPid}, killed) when is_integer(OsPid) -> hornbeam_worker:kill(OsPid);
end_os_process(_, _) -> ok.
