%% SPDX-License-Identifier: Apache-2.0

%% @private Whether text that comes in pieces is UTF-8, said as early as it can be.
%%
%% Pure. The emulator's own check is faster than any written in Erlang, and refuses what RFC 3629
%% forbids; but it calls an unfinished character at the end unfinished even where no byte could
%% make it good any more, so those up to three bytes are looked at here.
-module(hornbeam_ws_utf8).

%% API
-export([new/0]).
-export([check/2]).
-export([is_complete/1]).

-export_type([held/0]).

-opaque held() :: binary().
%% The beginning of a character that the next piece has to go on with, up to three bytes.

%% @doc The beginning of a text.
-spec new() -> held().
new() ->
    <<>>.

%% @doc Take the next piece.
-spec check(binary(), held()) -> {ok, held()} | error.
check(Piece, <<>>) ->
    check(Piece);
check(Piece, Held) ->
    check(<<Held/binary, Piece/binary>>).

%% @doc Whether the text may end here.
-spec is_complete(held()) -> boolean().
is_complete(Held) ->
    Held =:= <<>>.

check(Bytes) ->
    case unicode:characters_to_binary(Bytes) of
        Text when is_binary(Text) ->
            {ok, <<>>};
        {incomplete, _, Rest} ->
            case is_beginning(Rest) of
                %% Copied, or it would keep the whole piece.
                true -> {ok, binary:copy(Rest)};
                false -> error
            end;
        {error, _, _} ->
            error
    end.

%% The second byte decides; the emulator has seen to those behind it.
is_beginning(<<C>>) -> C >= 16#C2 andalso C =< 16#F4;
is_beginning(<<16#E0, C, _/binary>>) -> C >= 16#A0 andalso C =< 16#BF;
is_beginning(<<16#ED, C, _/binary>>) -> C >= 16#80 andalso C =< 16#9F;
is_beginning(<<16#F0, C, _/binary>>) -> C >= 16#90 andalso C =< 16#BF;
is_beginning(<<16#F4, C, _/binary>>) -> C >= 16#80 andalso C =< 16#8F;
is_beginning(<<Lead, C, _/binary>>) ->
    Lead >= 16#E1 andalso Lead =< 16#F3 andalso C >= 16#80 andalso C =< 16#BF.
