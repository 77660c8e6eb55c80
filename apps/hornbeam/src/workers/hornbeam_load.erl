%% SPDX-License-Identifier: Apache-2.0

%% @private How busy one worker is, readable by every connection without a message.
%%
%% A handful of atomics: requests in flight, whether the worker takes new ones, and the counter
%% from which request ids come. Written by connections (reserve), the worker (release, open,
%% close) and the pool; each operation is one atomic instruction, so there is no order to keep.
-module(hornbeam_load).

%% API
-export([new/0]).
-export([reserve/2]).
-export([release/1]).
-export([in_flight/1]).
-export([rank/1]).
-export([open/1]).
-export([close/1]).
-export([is_open/1]).
-export([next_request_id/1]).

-export_type([load/0]).

-opaque load() :: atomics:atomics_ref().

-define(IN_FLIGHT, 1).
-define(OPEN, 2).
-define(LAST_ID, 3).

-spec new() -> load().
new() ->
    atomics:new(3, [{signed, true}]).

%% @doc Take a place for one request, if fewer than `Max' are in flight.
-spec reserve(load(), pos_integer()) -> boolean().
reserve(Load, Max) ->
    case atomics:add_get(Load, ?IN_FLIGHT, 1) of
        N when N =< Max ->
            true;
        _ ->
            atomics:sub(Load, ?IN_FLIGHT, 1),
            false
    end.

-spec release(load()) -> ok.
release(Load) ->
    atomics:sub(Load, ?IN_FLIGHT, 1).

-spec in_flight(load()) -> non_neg_integer().
in_flight(Load) ->
    max(0, atomics:get(Load, ?IN_FLIGHT)).

%% @doc What to compare workers by: fewest in flight first, then fewest dispatched so far.
-spec rank(load()) -> {integer(), integer()}.
rank(Load) ->
    {atomics:get(Load, ?IN_FLIGHT), atomics:get(Load, ?LAST_ID)}.

%% @doc New requests may come.
-spec open(load()) -> ok.
open(Load) ->
    atomics:put(Load, ?OPEN, 1).

%% @doc No new requests: the worker is blocked, stopping or gone.
-spec close(load()) -> ok.
close(Load) ->
    atomics:put(Load, ?OPEN, 0).

-spec is_open(load()) -> boolean().
is_open(Load) ->
    atomics:get(Load, ?OPEN) =:= 1.

-spec next_request_id(load()) -> pos_integer().
next_request_id(Load) ->
    atomics:add_get(Load, ?LAST_ID, 1).
