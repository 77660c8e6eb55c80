%% SPDX-License-Identifier: Apache-2.0

%% @private How the OS process of a worker is started, and what it is told first.
-module(hornbeam_worker_port).

%% API
-export([open/1]).
-export([os_pid/1]).
-export([settings/1]).
-export([hold/1]).
-export([let_go/1]).

-export_type([held/0]).

-type held() :: file:fd() | undefined.
%% The end of the pipe from which the worker reads, opened a second time.

%% @doc Start it. Fails with `error:Reason' where there is no such interpreter.
-spec open(hornbeam_worker:start_args()) -> port().
open(#{python := Python, config := Config}) ->
    hornbeam_interpreter:open(Python, [], Config).

%% @doc Its number; `undefined' if it has gone already.
-spec os_pid(port()) -> pos_integer() | undefined.
os_pid(Port) ->
    case erlang:port_info(Port, os_pid) of
        {os_pid, OsPid} -> OsPid;
        undefined -> undefined
    end.

%% @doc What its `configure' message holds.
-spec settings(hornbeam_worker:start_args()) -> map().
settings(#{server := Server, worker_id := WorkerId, config := Config}) ->
    Given = maps:with([app, worker_class, pythonpath, chdir, lifespan, lifespan_timeout,
                       root_path, loop, threads, window, send_timeout, websocket_drain], Config),
    Given#{server => atom_to_binary(Server), worker_id => WorkerId}.

%% @doc Keep the pipe to the worker whole, so that a write to one that has just died does not fail. The
%% port would close at once, and how the worker has died (its exit status) would never be known: under
%% load that is every third death. Nothing is ever read here, and it is let go of with the process that
%% calls this. Where the system does not show descriptors as files it is not done.
-spec hold(OsPid :: pos_integer() | undefined) -> held().
hold(undefined) ->
    undefined;
hold(OsPid) ->
    case file:open(io_lib:format("/proc/~b/fd/3", [OsPid]), [read, raw]) of
        {ok, Held} -> Held;
        {error, _} -> undefined
    end.

%% @doc Have writes fail again when nobody could read them.
-spec let_go(held()) -> undefined.
let_go(undefined) ->
    undefined;
let_go(Held) ->
    _ = file:close(Held),
    undefined.
