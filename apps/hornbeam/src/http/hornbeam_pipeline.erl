%% SPDX-License-Identifier: Apache-2.0

%% @private Whose turn it is on an HTTP/1 connection: requests that a client sends without waiting
%% for the response to the one before are parked, and answered in their order.
%%
%% The streams of a connection share a process, and have no state in common but its dictionary: the
%% stream whose response is due, and the last one that was parked behind it. On HTTP/2 streams run
%% side by side, and none of that is used.
-module(hornbeam_pipeline).

%% API
-export([arrive/1]).
-export([park/1]).
-export([is_busy/0]).
-export([standing/1]).
-export([leave/0]).
-export([ended/1]).

%% Process dictionary.
-define(CURRENT, hornbeam_current).
-define(LAST_PARKED, hornbeam_last_parked).

%% Pipelined requests that may wait behind the current one; a client that sends more is cut off.
-define(MAX_PIPELINED, 64).

%% @doc A request has come: it has its turn at once (`side_by_side' with others, or `first'), or is
%% to be parked.
-spec arrive(hornbeam_request:request()) -> side_by_side | first | behind | too_far_ahead.
arrive(#{version := 'HTTP/2'}) ->
    side_by_side;
arrive(#{stream_id := StreamId}) ->
    case get(?CURRENT) of
        undefined ->
            put(?CURRENT, StreamId),
            first;
        Current when StreamId - Current > ?MAX_PIPELINED ->
            too_far_ahead;
        _ ->
            behind
    end.

%% @doc It will be told `unpark' when its turn has come.
-spec park(cowboy_stream:streamid()) -> ok.
park(StreamId) ->
    put(?LAST_PARKED, StreamId),
    ok.

%% @doc Whether the response to a request is due.
-spec is_busy() -> boolean().
is_busy() ->
    get(?CURRENT) =/= undefined.

%% @doc How a stream stands whose turn has come: as the last that was parked, with others behind it,
%% or alone on a connection that was taken over.
-spec standing(cowboy_stream:streamid()) -> last | followed | alone.
standing(StreamId) ->
    case {get(?CURRENT), get(?LAST_PARKED)} of
        {StreamId, StreamId} -> last;
        {StreamId, _} -> followed;
        _ -> alone
    end.

%% @doc The connection is taken over by the current stream: of that nothing is current.
-spec leave() -> ok.
leave() ->
    _ = erase(?CURRENT),
    ok.

%% @doc A stream has ended: the next one has its turn.
-spec ended(cowboy_stream:streamid()) -> ok.
ended(StreamId) ->
    case get(?CURRENT) of
        StreamId -> unpark(StreamId + 1, get(?LAST_PARKED));
        _ -> ok
    end.

unpark(Next, Last) when is_integer(Last), Next =< Last ->
    put(?CURRENT, Next),
    self() ! {{self(), Next}, unpark},
    ok;
unpark(_, _) ->
    _ = erase(?CURRENT),
    ok.
