%% SPDX-License-Identifier: Apache-2.0

%% @private What is published to a worker without being asked for: as much as it takes, and then how
%% many it has lost.
%%
%% Runs in the worker's process; how much may wait is {@link hornbeam_writer}'s business.
-module(hornbeam_worker_offers).

-include_lib("kernel/include/logger.hrl").

%% API
-export([new/1]).
-export([offer/2]).
-export([tell_dropped/1]).

-export_type([offers/0]).

-record(offers, {
    writer :: pid(),
    %% Messages of topics that wait to be written, and how many were dropped since that was told.
    backlog :: hornbeam_writer:backlog(),
    dropped = 0 :: non_neg_integer()
}).

-opaque offers() :: #offers{}.

-spec new(Writer :: pid()) -> offers().
new(Writer) ->
    #offers{writer = Writer, backlog = hornbeam_writer:new_backlog()}.

%% @doc Hand on an encoded `publish' message, or drop it.
-spec offer(hornbeam_protocol:encoded(), offers()) -> offers().
offer(Encoded, Offers) ->
    offer_next(Encoded, tell_dropped(Offers)).

%% Once something was dropped, nothing is let in before that could be told: what a worker loses is
%% one gap, not every other message.
offer_next(_, Offers = #offers{dropped = Dropped}) when Dropped > 0 ->
    Offers#offers{dropped = Dropped + 1};
offer_next(Encoded, Offers = #offers{writer = Writer, backlog = Backlog}) ->
    case hornbeam_writer:offer(Writer, Backlog, Encoded) of
        ok -> Offers;
        full -> Offers#offers{dropped = 1}
    end.

%% @doc Tell the worker how many it has lost, if any, as soon as there is room again.
-spec tell_dropped(offers()) -> offers().
tell_dropped(Offers = #offers{dropped = 0}) ->
    Offers;
tell_dropped(Offers = #offers{writer = Writer, dropped = Dropped, backlog = Backlog}) ->
    case hornbeam_writer:is_drained(Backlog) of
        true ->
            ok = hornbeam_writer:say(Writer, {dropped, Dropped}),
            ?LOG_WARNING(#{what => publishes_dropped, count => Dropped}),
            Offers#offers{dropped = 0};
        false ->
            Offers
    end.
