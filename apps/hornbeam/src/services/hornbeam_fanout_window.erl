%% SPDX-License-Identifier: Apache-2.0

%% @private How many shared frames a session has in its mailbox.
%%
%% One atomic word for each session, so that in the normal case neither side sends the other a
%% message about it: {@link hornbeam_fanout} adds the cost of what it sends, the session subtracts
%% the cost of what it has written. A frame costs 1, and 1 more for each 64 KiB of it.
%%
%% Where the window is full the fan-out process queues, and sets `HELD' in the word. The session
%% that has written down to `LOW' then sets `TOLD' beside it and says so, once; the fan-out process
%% goes on with the queue and clears `TOLD', or both when the queue is empty. Only the fan-out
%% process adds to the count and clears, so what it has read can only shrink meanwhile. The race of
%% the two is who sets `TOLD': whoever does has to see to it that the queue goes on. When the
%% fan-out process has set `HELD' or cleared `TOLD' it looks at the count once more, because there
%% may be nothing left in the mailbox, and so nobody else who would.
-module(hornbeam_fanout_window).

%% API
-export([new/0]).
-export([cost/1]).
-export([admit/2]).
-export([hold/1]).
-export([admit_held/2]).
-export([is_told/1]).
-export([keep/1]).
-export([release/1]).
-export([reopen/1]).
-export([taken/2]).

-export_type([window/0, cost/0]).

-opaque window() :: atomics:atomics_ref().

-type cost() :: pos_integer().

%% What may be in a mailbox, and from where on the queue goes on. A frame that costs more than the
%% limit goes at `LOW' as well.
-define(LIMIT, 16).
-define(LOW, 8).
-define(COST_BYTES, 65536).

-define(HELD, (1 bsl 40)).
-define(TOLD, (1 bsl 41)).
-define(COUNT(Word), ((Word) band (?HELD - 1))).

-spec new() -> window().
new() ->
    atomics:new(1, [{signed, true}]).

-spec cost(binary()) -> cost().
cost(Frame) ->
    1 + byte_size(Frame) div ?COST_BYTES.

%%% For the fan-out process

%% @doc Whether the frame may be sent, which then counts; never while the window is held.
-spec admit(window(), cost()) -> boolean().
admit(Window, Cost) ->
    admit(Window, atomics:get(Window, 1), Cost).

%% @doc From now on the session says when there is room; with `go_on' there is already.
-spec hold(window()) -> wait | go_on.
hold(Window) ->
    look_again(Window, atomics:add_get(Window, 1, ?HELD)).

%% @doc As `admit/2' while the window is held, for what comes from the queue.
-spec admit_held(window(), cost()) -> boolean().
admit_held(Window, Cost) ->
    admit(Window, ?COUNT(atomics:get(Window, 1)), Cost).

%% @doc Whether the session has said that there is room, and neither `keep' nor `release' came.
-spec is_told(window()) -> boolean().
is_told(Window) ->
    atomics:get(Window, 1) >= ?TOLD.

%% @doc The session has said that there is room, and still there is a queue.
-spec keep(window()) -> wait | go_on.
keep(Window) ->
    look_again(Window, atomics:sub_get(Window, 1, ?TOLD)).

%% @doc The session has said that there is room, and the queue is empty.
-spec release(window()) -> ok.
release(Window) ->
    atomics:sub(Window, 1, ?HELD + ?TOLD).

%% @doc There is no queue any more, whatever the session has said.
-spec reopen(window()) -> ok.
reopen(Window) ->
    Word = atomics:get(Window, 1),
    case atomics:compare_exchange(Window, 1, Word, ?COUNT(Word)) of
        ok -> ok;
        %% It has just taken one.
        _ -> reopen(Window)
    end.

%%% For the session

%% @doc A frame is written; with `resume' the fan-out process wants to know it.
-spec taken(window(), cost()) -> ok | resume.
taken(Window, Cost) ->
    case atomics:sub_get(Window, 1, Cost) of
        Word when Word >= ?HELD ->
            case look_again(Window, Word) of
                go_on -> resume;
                wait -> ok
            end;
        _ ->
            ok
    end.

%%% Internal

admit(Window, Count, Cost) when Count =< ?LOW; Count + Cost =< ?LIMIT ->
    ok = atomics:add(Window, 1, Cost),
    true;
admit(_, _, _) ->
    false.

%% `go_on' for the one of the two sides that has set `TOLD'.
look_again(Window, Word) when Word < ?TOLD, Word - ?HELD =< ?LOW ->
    case atomics:compare_exchange(Window, 1, Word, Word + ?TOLD) of
        ok -> go_on;
        %% The other side has seen a word that is as low.
        _ -> wait
    end;
look_again(_, _) ->
    wait.
