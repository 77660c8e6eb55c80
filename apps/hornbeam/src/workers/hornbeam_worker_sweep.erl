%% SPDX-License-Identifier: Apache-2.0

%% @private Requests of a worker that nobody waits for any more: those that have taken longer than
%% `timeout', and those whose connection has gone.
%%
%% Runs in the worker's process, which calls {@link expire/3} when it gets `{timeout, _, sweep}'.
-module(hornbeam_worker_sweep).

-include_lib("kernel/include/logger.hrl").

%% API
-export([start/1]).
-export([expire/3]).
-export([drop_orphans/2]).

%% How late the sweep for requests without an answer may come: a tenth of `timeout' within these.
-define(MIN_SWEEP_MS, 10).
-define(MAX_SWEEP_MS, 250).

%% @doc One sweep over the requests in flight, in place of a timer for each.
-spec start(hornbeam_worker:start_args()) -> ok.
start(#{config := #{timeout := infinity}}) ->
    ok;
start(#{config := #{timeout := TimeoutMs}}) ->
    SweepMs = min(max(TimeoutMs div 10, ?MIN_SWEEP_MS), ?MAX_SWEEP_MS),
    _ = erlang:start_timer(SweepMs, self(), sweep),
    ok.

%% @doc Cancel what has taken too long.
-spec expire(WorkerClass :: asgi | wsgi, Writer :: pid(), hornbeam_worker:start_args()) -> ok.
expire(WorkerClass, Writer, Args = #{routes := Routes, config := #{timeout := TimeoutMs}}) ->
    NowMs = erlang:monotonic_time(millisecond),
    cancel(hornbeam_routes:expire(Routes, NowMs - TimeoutMs), WorkerClass, Writer, Args),
    start(Args).

cancel([], _, _, _) ->
    ok;
cancel(Ids, WorkerClass, Writer, Args) ->
    lists:foreach(fun(Id) -> hornbeam_writer:say(Writer, {cancel, Id}) end, Ids),
    case WorkerClass of
        %% A thread cannot be ended from outside: its process is.
        wsgi ->
            #{pool := Pool, worker_id := WorkerId} = Args,
            ok = hornbeam_worker_log:replaced_after_timeout(Ids),
            hornbeam_pool:replace(Pool, WorkerId, self());
        asgi ->
            ok
    end.

%% @doc Take leave of requests whose connection has gone. Nothing else would tell the worker: its
%% application would wait for acknowledgements for ever.
-spec drop_orphans(Writer :: pid(), hornbeam_routes:routes()) -> ok.
drop_orphans(Writer, Routes) ->
    lists:foreach(fun(Farewell) -> hornbeam_writer:say(Writer, Farewell) end,
                  hornbeam_routes:orphans(Routes)).
