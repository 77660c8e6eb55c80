%% SPDX-License-Identifier: Apache-2.0
%% What goes on at the same time as a test.
-module(hornbeam_test_parallel).

-export([in_parallel/2]).
-export([in_background/1]).
-export([is_under_way/1]).
-export([outcome/1]).

-define(TIMEOUT_MS, 20000).

%% What the function returns for each number up to Count. They begin at the same time.
in_parallel(Count, Fun) ->
    Self = self(),
    Pids = [spawn_link(fun() -> receive go -> Self ! {self(), Fun(N)} end end)
            || N <- lists:seq(1, Count)],
    [Pid ! go || Pid <- Pids],
    [receive {Pid, Result} -> Result end || Pid <- Pids].

%% Something that takes time, in a process of its own.
in_background(Fun) ->
    spawn_monitor(fun() -> exit({outcome, Fun()}) end).

is_under_way({Pid, _}) ->
    is_process_alive(Pid).

%% What it has returned.
outcome({Pid, Monitor}) ->
    receive
        {'DOWN', Monitor, process, Pid, {outcome, Outcome}} -> Outcome;
        {'DOWN', Monitor, process, Pid, Reason} -> error({failed_in_background, Reason})
    after ?TIMEOUT_MS ->
        error({no_outcome, process_info(Pid, current_stacktrace)})
    end.
