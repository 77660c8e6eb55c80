%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_ws_inbox_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([comes_out_while_there_is_room/1]).
-export([held_in_order/1]).
-export([small_messages_count_more/1]).
-export([control_frames_behind_a_full_window/1]).
-export([last_words_go_beyond_the_window/1]).
-export([last_words_are_bounded/1]).
-export([messages_are_dropped/1]).
-export([dropped_ones_are_still_checked/1]).

-define(WINDOW, 1000).
-define(MIB, 1048576).

all() ->
    [
        comes_out_while_there_is_room,
        held_in_order,
        small_messages_count_more,
        control_frames_behind_a_full_window,
        last_words_go_beyond_the_window,
        last_words_are_bounded,
        messages_are_dropped,
        dropped_ones_are_still_checked
    ].

%% The one that makes it full comes out whole, the next one does not, until enough is taken.
comes_out_while_there_is_room(_) ->
    {Events, Full} = receive_all([message(999), message(5000), message(100)], new()),
    ?assertEqual([999, 5000], sizes(Events)),
    ?assertEqual(?WINDOW - 5999, hornbeam_ws_inbox:room(Full)),
    {[], Still} = hornbeam_ws_inbox:taken(4999, Full),
    {Later, Free} = hornbeam_ws_inbox:taken(1, Still),
    ?assertEqual([100], sizes(Later)),
    ?assertEqual(?WINDOW - 999 - 100, hornbeam_ws_inbox:room(Free)).

%% However the bytes are cut, and however much is taken at a time.
held_in_order(_) ->
    Sizes = lists:seq(100, 130),
    Bytes = iolist_to_binary([message(Size) || Size <- Sizes]),
    [
        ?assertEqual({CutBytes, TakenBytes, Sizes},
                     {CutBytes, TakenBytes, sizes(all_of(cut(CutBytes, Bytes), TakenBytes))})
     || CutBytes <- [1, 7, 1000, byte_size(Bytes)],
        TakenBytes <- [64, 1000, 100000]
    ].

small_messages_count_more(_) ->
    {Events, Full} = receive_all(lists:duplicate(100, message(0)), new()),
    ?assert(length(Events) >= ?WINDOW div 64),
    ?assert(hornbeam_ws_inbox:room(Full) =< 0),
    {[], _} = receive_all([message(0)], Full).

%% They keep their place: what is behind what is not read is not read.
control_frames_behind_a_full_window(_) ->
    Ping = hornbeam_test_ws:frame(9, <<"x">>),
    {[{ping, <<"x">>}, {message, _, _}], Full} = receive_all([Ping, message(1000), Ping], new()),
    {[], Fuller} = receive_all([Ping], Full),
    ?assertMatch({[{ping, _}, {ping, _}], _}, hornbeam_ws_inbox:taken(1, Fuller)).

last_words_go_beyond_the_window(_) ->
    Close = hornbeam_test_ws:frame(8, <<1000:16, "bye">>),
    {[_], Full} = receive_all([message(1000)], new()),
    {[], Fuller} = receive_all([message(1000), message(1000), Close], Full),
    {Events, _} = hornbeam_ws_inbox:last_words(Fuller),
    ?assertMatch([{message, _, _}, {message, _, _}, {close, 1000, <<"bye">>}], Events).

last_words_are_bounded(_) ->
    {[_], Full} = receive_all([message(1000)], new()),
    {[], Fuller} = receive_all(lists:duplicate(100, message(100000)), Full),
    {Events, _} = hornbeam_ws_inbox:last_words(Fuller),
    ?assertEqual(?MIB div 100000 + 1, length(Events)).

%% What is there, what was held and what comes; all of it can be read.
messages_are_dropped(_) ->
    Close = hornbeam_test_ws:frame(8, <<1000:16>>),
    {[_], Full} = receive_all([message(1000)], new()),
    {[], Fuller} = receive_all([message(1000), hornbeam_test_ws:frame(9, <<>>)], Full),
    {[{ping, <<>>}], Dropping} = hornbeam_ws_inbox:drop_messages(Fuller),
    ?assertEqual(infinity, hornbeam_ws_inbox:room(Dropping)),
    ?assertMatch({[{close, 1000, <<>>}], _}, receive_all([message(100000), Close], Dropping)).

dropped_ones_are_still_checked(_) ->
    {[], Dropping} = hornbeam_ws_inbox:drop_messages(new()),
    NoText = hornbeam_test_ws:frame(1, <<255>>),
    ?assertMatch({[{error, 1007, _}], _}, receive_all([NoText], Dropping)).

%% Internal.

new() ->
    Codec = hornbeam_ws_frames:new(#{max_size => infinity, deflate => undefined}),
    hornbeam_ws_inbox:new(Codec, ?WINDOW).

message(Size) ->
    hornbeam_test_ws:frame(2, binary:copy(<<"x">>, Size)).

receive_all(Frames, Inbox) ->
    hornbeam_ws_inbox:received(iolist_to_binary(Frames), Inbox).

sizes(Events) ->
    [byte_size(Data) || {message, binary, Data} <- Events].

cut(Size, Bytes) when byte_size(Bytes) > Size ->
    <<Part:Size/binary, Rest/binary>> = Bytes,
    [Part | cut(Size, Rest)];
cut(_, Bytes) ->
    [Bytes].

%% What comes out when the application takes so much each time that nothing comes.
all_of(Parts, TakenBytes) ->
    {Events, Inbox} = lists:foldl(fun(Part, {Earlier, Before}) ->
        {New, After} = hornbeam_ws_inbox:received(Part, Before),
        {Earlier ++ New, After}
    end, {[], new()}, Parts),
    Events ++ rest(TakenBytes, Inbox).

rest(TakenBytes, Inbox) ->
    case hornbeam_ws_inbox:room(Inbox) of
        ?WINDOW -> [];
        _ ->
            {Events, Next} = hornbeam_ws_inbox:taken(TakenBytes, Inbox),
            Events ++ rest(TakenBytes, Next)
    end.
