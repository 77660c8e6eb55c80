%% SPDX-License-Identifier: Apache-2.0

%% @private How much of a request body, or of a WebSocket, may come, beyond what the application has
%% taken.
%%
%% Pure. Two numbers: what we are willing to receive (`room', from the worker's credits) and what
%% Cowboy thinks it may receive (`flow', a mirror of its own count). They are not the same: Cowboy
%% delivers more than it was asked for, a whole read of the socket, and forgets the excess when it
%% gets new credit; following it would let the buffered body grow with each round.
%%
%% Small windows keep a fast client and a fast application waiting for each other. So a window grows
%% once an application has shown that it takes what comes: it costs more only where that one stalls
%% later.
-module(hornbeam_flow).

%% API
-export([new/1]).
-export([received/2]).
-export([credit/2]).
-export([allow/2]).
-export([resume/1]).
-export([is_stopped/1]).

-export_type([flow/0]).

-record(flow, {
    %% What may be untaken at most.
    window :: pos_integer(),
    %% How much is to be taken before the window grows; undefined: it has.
    trial :: integer() | undefined,
    room :: integer(),
    flow :: integer()
}).

-opaque flow() :: #flow{}.

%% How many windows an application takes before the next ones are larger, and how much larger. None
%% grows beyond the last of these; one that was configured to be larger stays as it is.
-define(TRIAL_WINDOWS, 4).
-define(GROWTH, 8).
-define(MAX_GROWN_BYTES, 1048576).

%% @doc `Window': what Cowboy lets in for a new stream (its `initial_stream_flow_size').
-spec new(pos_integer()) -> flow().
new(Window) ->
    #flow{window = Window, trial = ?TRIAL_WINDOWS * Window, room = Window, flow = Window}.

%% @doc So many bytes have come.
-spec received(non_neg_integer(), flow()) -> flow().
received(Bytes, State = #flow{room = Room, flow = Flow}) ->
    State#flow{room = Room - Bytes, flow = Flow - Bytes}.

%% @doc The application has taken so many bytes: what to tell Cowboy. One that says that it has
%% taken more than there was gets no more than a window for it.
-spec credit(non_neg_integer(), flow()) -> {[{flow, pos_integer()}], flow()}.
credit(Bytes, State = #flow{window = Window, room = Room0, trial = Trial})
        when is_integer(Trial), Bytes >= Trial ->
    Grown = max(Window, min(?GROWTH * Window, ?MAX_GROWN_BYTES)),
    credit(Bytes, State#flow{window = Grown, trial = undefined, room = Room0 + Grown - Window});
credit(Bytes, State = #flow{window = Window, room = Room0, flow = Flow}) ->
    Room = min(Room0 + Bytes, Window),
    Tried = tried(Bytes, State#flow{room = Room}),
    %% Cowboy counts from 0 again when it gets credit while below it.
    case Room - max(Flow, 0) of
        Size when Size > 0 -> {[{flow, Size}], Tried#flow{flow = Room}};
        _ -> {[], Tried}
    end.

tried(_, State = #flow{trial = undefined}) -> State;
tried(Bytes, State = #flow{trial = Trial}) -> State#flow{trial = Trial - Bytes}.

%% @doc So many bytes may come now, whatever was said before: what to tell Cowboy. Not worth telling
%% while it believes in half of them.
-spec allow(Room :: integer(), flow()) -> {[{flow, pos_integer()}], flow()}.
allow(Room, State = #flow{flow = Flow}) when Room > 0, Flow =< Room div 2 ->
    {[{flow, Room - max(Flow, 0)}], State#flow{room = Room, flow = Room}};
allow(Room, State) ->
    {[], State#flow{room = Room}}.

%% @doc What makes Cowboy read again, if it has stopped, to skip the rest of the body.
-spec resume(flow()) -> [{flow, pos_integer()}].
resume(Flow) ->
    case is_stopped(Flow) of
        true -> [{flow, 1}];
        false -> []
    end.

%% @doc Whether Cowboy has stopped to read the socket.
-spec is_stopped(flow()) -> boolean().
is_stopped(#flow{flow = Flow}) ->
    Flow =< 0.
