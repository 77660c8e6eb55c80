%% SPDX-License-Identifier: Apache-2.0

%% @private How busy one worker is, readable by every connection without a message.
%%
%% A handful of atomics: requests in flight, whether the worker takes new ones, the counter from which
%% request ids come, when it was last heard of, and whether it has shown that it lives since another
%% one died. Written by connections (reserve), the worker (release, open, close, stall, heard, proven)
%% and the pool; each operation is one atomic instruction, so
%% there is no order to keep.
-module(hornbeam_load).

%% API
-export([new/0]).
-export([reserve/2]).
-export([reserve/3]).
-export([release/1]).
-export([in_flight/1]).
-export([taken/1]).
-export([forget/2]).
-export([rank/2]).
-export([is_quiet/1]).
-export([is_suspect/1]).
-export([heard/1]).
-export([want_probe/1]).
-export([overdue/1]).
-export([probed/1]).
-export([doubt/1]).
-export([proven/2]).
-export([is_proven/1]).
-export([open/1]).
-export([close/1]).
-export([stall/1]).
-export([recover/1]).
-export([is_open/1]).
-export([next_request_id/1]).

-export_type([load/0]).

-opaque load() :: atomics:atomics_ref().

-define(IN_FLIGHT, 1).
-define(TAKES, 2).
-define(LAST_ID, 3).
-define(HEARD_MS, 4).
-define(PROBE, 5).
-define(DOUBT, 6).
-define(PROVEN, 7).

%% Values of ?TAKES. A worker that has stalled may be closed meanwhile, and stays so.
-define(NEW, 0).
-define(OPEN, 1).
-define(STALLED, 2).
-define(CLOSED, 3).

%% Values of ?PROBE: none is out; one is; it has not been answered in time.
-define(NONE, 0).
-define(OUT, 1).
-define(OVERDUE, 2).

%% For how long a worker with requests in flight may say nothing before others are preferred. Its loop
%% may be blocked, or its requests may wait for something: a probe tells.
-define(QUIET_MS, 10).

-spec new() -> load().
new() ->
    atomics:new(7, [{signed, true}]).

%% @doc Take a place for one request, if fewer than `Max' are in flight.
-spec reserve(load(), pos_integer()) -> boolean().
reserve(Load, Max) ->
    case atomics:add_get(Load, ?IN_FLIGHT, 1) of
        1 ->
            %% It had nothing to say before.
            heard(Load),
            true;
        N when N =< Max ->
            true;
        _ ->
            atomics:sub(Load, ?IN_FLIGHT, 1),
            false
    end.

%% @doc Take a place for one request where still so many are in flight as was seen, fewer than `Max'.
-spec reserve(load(), pos_integer(), Seen :: integer()) -> boolean() | overtaken.
reserve(_, Max, Seen) when Seen >= Max ->
    false;
reserve(Load, _, Seen) ->
    case atomics:compare_exchange(Load, ?IN_FLIGHT, Seen, Seen + 1) of
        ok when Seen =:= 0 ->
            heard(Load),
            true;
        ok ->
            true;
        _ ->
            overtaken
    end.

-spec release(load()) -> ok.
release(Load) ->
    atomics:sub(Load, ?IN_FLIGHT, 1).

-spec in_flight(load()) -> non_neg_integer().
in_flight(Load) ->
    max(0, atomics:get(Load, ?IN_FLIGHT)).

%% @doc How many places are taken, by count: less than none where too many were given back.
-spec taken(load()) -> integer().
taken(Load) ->
    atomics:get(Load, ?IN_FLIGHT).

%% @doc So many places belong to nobody any more; where it is a negative number, so many do.
-spec forget(load(), integer()) -> ok.
forget(Load, Count) ->
    atomics:sub(Load, ?IN_FLIGHT, Count).

%% @doc What to compare workers by, if each takes `Max' requests: those that have a place and answer
%% come first, then fewest in flight, then fewest dispatched so far.
-spec rank(load(), Max :: pos_integer()) -> {free | quiet | taken, integer(), integer()}.
rank(Load, Max) ->
    InFlight = atomics:get(Load, ?IN_FLIGHT),
    {state(InFlight, Max, Load), InFlight, atomics:get(Load, ?LAST_ID)}.

%% In the order of these atoms. What a worker says while a probe is overdue does not come from its
%% loop.
state(InFlight, Max, _) when InFlight >= Max ->
    taken;
state(InFlight, _, Load) ->
    case is_overdue(Load) orelse (InFlight > 0 andalso is_silent(Load)) of
        true -> quiet;
        false -> free
    end.

%% @doc Whether the worker has requests in flight and has said nothing for some time.
-spec is_quiet(load()) -> boolean().
is_quiet(Load) ->
    atomics:get(Load, ?IN_FLIGHT) > 0 andalso is_silent(Load).

%% @doc Whether it is quiet, or does not answer a probe, as far as is known now.
-spec is_suspect(load()) -> boolean().
is_suspect(Load) ->
    case atomics:get(Load, ?PROBE) of
        ?NONE -> false;
        ?OUT -> is_quiet(Load);
        ?OVERDUE -> true
    end.

is_overdue(Load) ->
    atomics:get(Load, ?PROBE) =:= ?OVERDUE.

is_silent(Load) ->
    erlang:monotonic_time(millisecond) - atomics:get(Load, ?HEARD_MS) > ?QUIET_MS.

%% @doc The worker has said something.
-spec heard(load()) -> ok.
heard(Load) ->
    atomics:put(Load, ?HEARD_MS, erlang:monotonic_time(millisecond)).

%% @doc Whether the caller is to have the worker probed: nobody else has, since the last answer.
-spec want_probe(load()) -> boolean().
want_probe(Load) ->
    atomics:compare_exchange(Load, ?PROBE, ?NONE, ?OUT) =:= ok.

%% @doc The probe should have been answered by now.
-spec overdue(load()) -> ok.
overdue(Load) ->
    _ = atomics:compare_exchange(Load, ?PROBE, ?OUT, ?OVERDUE),
    ok.

%% @doc The probe is answered.
-spec probed(load()) -> ok.
probed(Load) ->
    atomics:put(Load, ?PROBE, ?NONE).

%% @doc Another worker has died, and what has ended that one may have ended this one, of which nobody
%% knows yet. The number of this doubt, for {@link proven/2}.
-spec doubt(load()) -> pos_integer().
doubt(Load) ->
    atomics:add_get(Load, ?DOUBT, 1).

%% @doc The worker has answered what it was asked because of that doubt. Whether that has ended it:
%% where there is a newer one, or it has ended before, that says nothing.
-spec proven(load(), Doubt :: pos_integer()) -> boolean().
proven(Load, Doubt) ->
    case atomics:get(Load, ?DOUBT) of
        Doubt -> atomics:exchange(Load, ?PROVEN, Doubt) =/= Doubt;
        _ -> false
    end.

%% @doc Whether the worker has said something since the last death of another one was known.
-spec is_proven(load()) -> boolean().
is_proven(Load) ->
    atomics:get(Load, ?DOUBT) =:= atomics:get(Load, ?PROVEN).

%% @doc New requests may come, unless it was closed.
-spec open(load()) -> ok.
open(Load) ->
    _ = atomics:compare_exchange(Load, ?TAKES, ?NEW, ?OPEN),
    ok.

%% @doc Never a new request again: the worker is to leave, or has gone. A heartbeat that it still
%% answers must not open it for those who read the list of workers before it was taken from it.
-spec close(load()) -> ok.
close(Load) ->
    atomics:put(Load, ?TAKES, ?CLOSED).

%% @doc No new requests until it has recovered.
-spec stall(load()) -> ok.
stall(Load) ->
    _ = atomics:compare_exchange(Load, ?TAKES, ?OPEN, ?STALLED),
    ok.

-spec recover(load()) -> ok.
recover(Load) ->
    _ = atomics:compare_exchange(Load, ?TAKES, ?STALLED, ?OPEN),
    ok.

-spec is_open(load()) -> boolean().
is_open(Load) ->
    atomics:get(Load, ?TAKES) =:= ?OPEN.

-spec next_request_id(load()) -> pos_integer().
next_request_id(Load) ->
    atomics:add_get(Load, ?LAST_ID, 1).
