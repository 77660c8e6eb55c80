%% SPDX-License-Identifier: Apache-2.0

%% @private What is known of a worker: what it has said of itself in `ready', and what
%% `hornbeam:info/0' shows of it.
-module(hornbeam_worker_info).

%% API
-export([new/2]).
-export([ready/2]).
-export([worker_class/1]).
-export([show/3]).

-export_type([info/0, state/0]).

-type state() :: hornbeam_worker_exit:phase() | stalled.

-record(info, {
    worker_id :: pos_integer(),
    os_pid :: pos_integer() | undefined,
    load :: hornbeam_load:load(),
    started_ms :: integer(),
    %% What it said in `ready'.
    facts = #{} :: map()
}).

-opaque info() :: #info{}.

%% @doc Of one that starts now.
-spec new(hornbeam_worker:start_args(), OsPid :: pos_integer() | undefined) -> info().
new(#{worker_id := WorkerId, load := Load}, OsPid) ->
    #info{worker_id = WorkerId, os_pid = OsPid, load = Load, started_ms = now_ms()}.

%% @doc It is ready, and says these things of itself.
-spec ready(Facts :: map(), info()) -> info().
ready(Facts, Info) ->
    Info#info{facts = maps:with([python, codec, loop, worker_class, lifespan], Facts)}.

%% @doc The class of one that is ready.
-spec worker_class(info()) -> asgi | wsgi.
worker_class(#info{facts = #{worker_class := Class}}) ->
    Class.

-spec show(state(), Served :: non_neg_integer(), info()) -> map().
show(State, Served, #info{worker_id = WorkerId, os_pid = OsPid, load = Load} = Info) ->
    (Info#info.facts)#{
        worker_id => WorkerId,
        os_pid => OsPid,
        state => State,
        in_flight => hornbeam_load:in_flight(Load),
        served => Served,
        uptime_ms => now_ms() - Info#info.started_ms,
        memory_bytes => hornbeam_recycling:resident_bytes(OsPid)
    }.

now_ms() ->
    erlang:monotonic_time(millisecond).
