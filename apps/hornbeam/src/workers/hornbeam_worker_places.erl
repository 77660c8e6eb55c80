%% SPDX-License-Identifier: Apache-2.0

%% @private Places in a worker that were lost: whoever took one was killed before it had entered its
%% request.
%%
%% A connection takes a place ({@link hornbeam_load:reserve/2}), and at once enters its request
%% ({@link hornbeam_routes:insert/4}); from then on the worker gives the place back. In between nobody
%% knows whose it is, as it would cost every request something to say so. So the worker's process
%% counts, at each beat: places that have no request are those of connections that are just between
%% the two steps, and those that are lost. The former are others each time, and seldom any at all: what
%% is the least of many looks, over some time, is lost.
%%
%% That may be wrong about a connection that got no time to run for as long. It enters its request
%% then, and there are more requests than places, which can't be otherwise: so the place is counted
%% again. Until then the worker may have one request more than `max_concurrency'.
-module(hornbeam_worker_places).

-include_lib("kernel/include/logger.hrl").

%% API
-export([new/0]).
-export([correct/2]).

%% internal
-export([look/4]).

-export_type([places/0]).

-record(places, {
    %% The least number of places without a request, in how many looks, and since when.
    least :: non_neg_integer() | undefined,
    looks = 0 :: non_neg_integer(),
    since_ms = 0 :: integer()
}).

-opaque places() :: #places{}.

%% What it takes to call a place lost: both of them.
-define(MIN_LOOKS, 10).
-define(MIN_MS, 1000).

-spec new() -> places().
new() ->
    #places{}.

%% @doc Look once, and correct what is found. Runs in the worker's process: nobody else gives back
%% places of requests.
-spec correct(hornbeam_worker:start_args(), places()) -> places().
correct(#{load := Load, routes := Routes, pool := Pool}, Places0) ->
    {Lost, Places} = look(erlang:monotonic_time(millisecond), Load, Routes, Places0),
    _ = Lost > 0 andalso tell(Lost, Pool),
    Places.

tell(Lost, Pool) ->
    ?LOG_WARNING(#{what => places_recovered, count => Lost}),
    hornbeam_pool:has_place(Pool).

%% @doc How many places were given back just now.
-spec look(NowMs :: integer(), hornbeam_load:load(), hornbeam_routes:routes(), places()) ->
    {integer(), places()}.
look(NowMs, Load, Routes, Places) ->
    %% In this order: a request that is entered meanwhile makes neither difference larger.
    RequestsBefore = hornbeam_routes:count(Routes),
    Taken = hornbeam_load:taken(Load),
    Without = Taken - hornbeam_routes:count(Routes),
    case RequestsBefore > Taken of
        true -> settle(Taken - RequestsBefore, NowMs, Load);
        false -> note(max(0, Without), NowMs, Load, begin_at(NowMs, Places))
    end.

begin_at(NowMs, #places{looks = 0}) -> #places{since_ms = NowMs};
begin_at(_, Places) -> Places.

%% Erlang's term order puts `undefined' above every number.
note(Without, NowMs, Load, #places{least = Least0, looks = Looks0, since_ms = SinceMs}) ->
    case {min(Without, Least0), Looks0 + 1} of
        {Least, Looks} when Looks >= ?MIN_LOOKS, NowMs - SinceMs >= ?MIN_MS ->
            settle(Least, NowMs, Load);
        {Least, Looks} ->
            {0, #places{least = Least, looks = Looks, since_ms = SinceMs}}
    end.

settle(Lost, NowMs, Load) ->
    ok = hornbeam_load:forget(Load, Lost),
    {Lost, #places{since_ms = NowMs}}.
