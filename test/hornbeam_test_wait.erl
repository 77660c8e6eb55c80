%% SPDX-License-Identifier: Apache-2.0
%% Waiting for a condition, in place of sleeping.
-module(hornbeam_test_wait).

-export([until/1]).
-export([until/2]).

-define(DEADLINE_MS, 10000).
-define(STEP_MS, 5).

%% Returns what Condition returns once that is neither false nor undefined.
until(Condition) ->
    until(Condition, ?DEADLINE_MS).

until(Condition, TimeoutMs) ->
    poll(Condition, erlang:monotonic_time(millisecond) + TimeoutMs).

poll(Condition, DeadlineMs) ->
    case Condition() of
        Nothing when Nothing =:= false; Nothing =:= undefined ->
            case erlang:monotonic_time(millisecond) < DeadlineMs of
                true ->
                    receive after ?STEP_MS -> ok end,
                    poll(Condition, DeadlineMs);
                false ->
                    error({condition_not_met, Condition})
            end;
        Value ->
            Value
    end.
