%% SPDX-License-Identifier: Apache-2.0

%% @private What has come of a WebSocket's client, up to what the worker may have of it.
%%
%% Pure, but for zlib's contexts (hornbeam_ws_deflate). Around {@link hornbeam_ws_frames}, of which
%% it has the codec for both directions: messages come out while less than a window of them is with
%% the worker and not taken by the application. What was read beyond that is held as it came, so
%% that an application that does not take gets a window and one message, however much one read has
%% of compressed or of tiny ones.
-module(hornbeam_ws_inbox).

%% API
-export([new/2]).
-export([received/2]).
-export([taken/2]).
-export([room/1]).
-export([last_words/1]).
-export([drop_messages/1]).
-export([counted_bytes/1]).
-export([encode/2]).
-export([close/1]).

-export_type([inbox/0]).

-record(inbox, {
    codec :: hornbeam_ws_frames:codec(),
    %% `infinity': messages are dropped.
    window :: pos_integer() | infinity,
    %% Bytes of messages that the worker has and the application has not taken.
    untaken = 0 :: non_neg_integer(),
    %% Not looked at for want of room: whether there is something in the codec, and what came behind
    %% that, last first.
    has_more = false :: boolean(),
    held = [] :: [binary()]
}).

-opaque inbox() :: #inbox{}.

%% What a message counts at least: one that is empty costs memory too.
-define(MIN_COUNTED_BYTES, 64).
%% What comes out beyond the window when the client has gone: its last words were read, and nothing
%% is gained by keeping them, but compressed ones may be far more than they look.
-define(MAX_LAST_WORDS_BYTES, 1048576).
%% What is decompressed at a time of messages that are dropped.
-define(DROPPED_BYTES, 65536).

-spec new(hornbeam_ws_frames:codec(), Window :: pos_integer()) -> inbox().
new(Codec, Window) ->
    #inbox{codec = Codec, window = Window}.

%% @doc Bytes have come.
-spec received(binary(), inbox()) -> {[hornbeam_ws_frames:event()], inbox()}.
received(Data, Inbox = #inbox{held = Held}) ->
    case must_wait(Inbox) of
        true -> {[], Inbox#inbox{held = [Data | Held]}};
        false -> decode(Data, Inbox, [])
    end.

%% @doc The application has taken so many bytes.
-spec taken(non_neg_integer(), inbox()) -> {[hornbeam_ws_frames:event()], inbox()}.
taken(Bytes, Inbox = #inbox{untaken = Untaken}) ->
    release(Inbox#inbox{untaken = max(0, Untaken - Bytes)}).

%% @doc How many bytes may be read, 0 or less for none.
-spec room(inbox()) -> integer() | infinity.
room(#inbox{window = infinity}) -> infinity;
room(#inbox{untaken = Untaken, window = Window}) -> Window - Untaken.

%% @doc No more will come: what there is, beyond the window too.
-spec last_words(inbox()) -> {[hornbeam_ws_frames:event()], inbox()}.
last_words(Inbox = #inbox{window = Window}) when is_integer(Window) ->
    release(Inbox#inbox{window = Window + ?MAX_LAST_WORDS_BYTES});
last_words(Inbox) ->
    {[], Inbox}.

%% @doc From now on there are no messages among the events.
-spec drop_messages(inbox()) -> {[hornbeam_ws_frames:event()], inbox()}.
drop_messages(Inbox) ->
    release(Inbox#inbox{window = infinity}).

%% @doc What a message counts, in both directions.
-spec counted_bytes(binary()) -> pos_integer().
counted_bytes(Data) ->
    max(?MIN_COUNTED_BYTES, byte_size(Data)).

-spec encode(hornbeam_ws_frames:frame(), inbox()) -> {iodata(), inbox()}.
encode(Frame, Inbox = #inbox{codec = Codec0}) ->
    {Bytes, Codec} = hornbeam_ws_frames:encode(Frame, Codec0),
    {Bytes, Inbox#inbox{codec = Codec}}.

-spec close(inbox()) -> ok.
close(#inbox{codec = Codec}) ->
    hornbeam_ws_frames:close(Codec).

must_wait(#inbox{has_more = true}) -> true;
must_wait(#inbox{held = [_ | _]}) -> true;
must_wait(Inbox) -> is_full(Inbox).

%% `infinity' is above every number in Erlang's order of terms.
is_full(#inbox{untaken = Untaken, window = Window}) ->
    Untaken >= Window.

release(Inbox0 = #inbox{has_more = HasMore}) ->
    case is_full(Inbox0) of
        true ->
            {[], Inbox0};
        false when HasMore ->
            {Events, Inbox} = decode(<<>>, Inbox0, []),
            release_held(Events, Inbox);
        false ->
            release_held([], Inbox0)
    end.

release_held(Events0, Inbox = #inbox{held = Held}) ->
    {Events, Released} = lists:foldr(fun(Data, {Earlier, Left}) ->
        {Later, Next} = received(Data, Left),
        {[Later | Earlier], Next}
    end, {[Events0], Inbox#inbox{held = []}}, Held),
    {lists:append(lists:reverse(Events)), Released}.

decode(Data, Inbox = #inbox{codec = Codec0}, Events0) ->
    {New, Progress, Codec} = hornbeam_ws_frames:decode(Data, enough_bytes(Inbox), Codec0),
    {Kept, Counted} = count(New, Inbox#inbox{codec = Codec, has_more = false}),
    Events = Events0 ++ Kept,
    case Progress =:= more andalso is_full(Counted) of
        true -> {Events, Counted#inbox{has_more = true}};
        false when Progress =:= more -> decode(<<>>, Counted, Events);
        false -> {Events, Counted}
    end.

enough_bytes(#inbox{window = infinity}) -> ?DROPPED_BYTES;
enough_bytes(#inbox{untaken = Untaken, window = Window}) -> max(1, Window - Untaken).

count(Events, Inbox = #inbox{window = infinity}) ->
    {[Event || Event <- Events, not is_message(Event)], Inbox};
count(Events, Inbox = #inbox{untaken = Untaken}) ->
    Bytes = lists:sum([counted_bytes(Data) || {message, _, Data} <- Events]),
    {Events, Inbox#inbox{untaken = Untaken + Bytes}}.

is_message({message, _, _}) -> true;
is_message(_) -> false.
