%% SPDX-License-Identifier: Apache-2.0
%% Waiting for a condition, in place of sleeping.
-module(hornbeam_test_wait).

-export([until/1]).
-export([until/2]).
-export([within/2]).

-define(DEADLINE_MS, 10000).
-define(STEP_MS, 5).

%% Returns what Condition returns once that is neither false nor undefined.
until(Condition) ->
    until(Condition, ?DEADLINE_MS).

until(Condition, TimeoutMs) ->
    poll(Condition, erlang:monotonic_time(millisecond) + TimeoutMs).

%% What Fun returns where it takes no longer than that. A run that was held up for longer has seen what
%% may be so later, and says nothing of what is so in that time: then there is another one.
within(Ms, Fun) ->
    StartUs = erlang:monotonic_time(microsecond),
    Result = Fun(),
    case erlang:monotonic_time(microsecond) - StartUs < 1000 * Ms of
        true -> Result;
        false -> within(Ms, Fun)
    end.

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
