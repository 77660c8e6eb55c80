%% SPDX-License-Identifier: Apache-2.0

%% @private The first start of a pool: whether all its workers have been ready once, or one has failed
%% before that, and those who wait for this. Part of the pool's process. Once decided, it stays so.
-module(hornbeam_pool_start).

%% API
-export([new/0]).
-export([is_pending/1]).
-export([await/2]).
-export([look/2]).
-export([failed/2]).

-export_type([start/0]).

-type outcome() :: ok | {error, hornbeam_error:reason()}.

-record(start, {
    awaiting = [] :: [gen_server:from()],
    outcome = pending :: pending | outcome()
}).

-opaque start() :: #start{}.

-spec new() -> start().
new() ->
    #start{}.

-spec is_pending(start()) -> boolean().
is_pending(#start{outcome = Outcome}) ->
    Outcome =:= pending.

%% @doc Somebody wants to know, and is told now or when it is decided.
-spec await(gen_server:from(), start()) -> start().
await(From, Start = #start{outcome = pending, awaiting = Awaiting}) ->
    Start#start{awaiting = [From | Awaiting]};
await(From, Start = #start{outcome = Outcome}) ->
    gen_server:reply(From, Outcome),
    Start.

%% @doc A worker has become ready: perhaps the last one.
-spec look(hornbeam_slots:slots(), start()) -> start().
look(Slots, Start = #start{outcome = pending}) ->
    case hornbeam_slots:are_all_ready(Slots) of
        true -> decide(ok, Start);
        false -> Start
    end;
look(_, Start) ->
    Start.

%% @doc A worker could not be started, or has ended.
-spec failed(hornbeam_pool_workers:failure(), start()) -> start().
failed({WorkerId, _, Reason}, Start = #start{outcome = pending}) ->
    decide({error, hornbeam_worker_exit:start_reason(Reason, WorkerId)}, Start);
failed(_, Start) ->
    Start.

decide(Outcome, Start = #start{awaiting = Awaiting}) ->
    lists:foreach(fun(From) -> gen_server:reply(From, Outcome) end, Awaiting),
    Start#start{outcome = Outcome, awaiting = []}.
