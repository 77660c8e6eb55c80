%% SPDX-License-Identifier: Apache-2.0
%% Waiting for a condition, in place of sleeping.
-module(hornbeam_test_wait).

-export([until/1]).
-export([until/2]).
-export([for_message/1]).

-define(DEADLINE_MS, 10000).
-define(STEP_MS, 5).

%% Returns what Condition returns once that is neither false nor undefined.
until(Condition) ->
    until(Condition, ?DEADLINE_MS).

until(Condition, TimeoutMs) ->
    poll(Condition, erlang:monotonic_time(millisecond) + TimeoutMs).

%% The first message for which Match has a clause; others stay.
for_message(Match) ->
    until(fun() -> take(Match) end).

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

take(Match) ->
    {messages, Messages} = process_info(self(), messages),
    case lists:search(fun(Message) -> is_match(Match, Message) end, Messages) of
        {value, Message} -> receive Message -> {ok, Match(Message)} end;
        false -> false
    end.

is_match(Match, Message) ->
    try Match(Message) of
        _ -> true
    catch
        error:function_clause -> false
    end.
