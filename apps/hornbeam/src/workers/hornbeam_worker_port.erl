%% SPDX-License-Identifier: Apache-2.0

%% @private How the OS process of a worker is started, and what it is told first.
-module(hornbeam_worker_port).

%% API
-export([open/1]).
-export([os_pid/1]).
-export([settings/1]).

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
                       root_path, loop, threads, window, websocket_drain], Config),
    Given#{server => atom_to_binary(Server), worker_id => WorkerId}.
