%% SPDX-License-Identifier: Apache-2.0

%% @private What a published message is for a WebSocket: one frame, encoded for all. Pure.
-module(hornbeam_fanout_message).

%% API
-export([frame/1]).

-export_type([message/0]).

-type message() :: {blob, hornbeam_blob:blob()} | {term, term()}.
%% As Python encoded it, or as Erlang code gave it.

-define(VERSION, 131).
-define(BINARY_EXT, 109).
-define(BIT_BINARY_EXT, 77).

%% @doc The bytes of the frame, flat: what is sent to thousands of processes is a reference. No
%% frame for what is neither `str' nor `bytes'.
-spec frame(message()) -> {ok, Frame :: binary()} | none.
frame({blob, <<?VERSION, ?BINARY_EXT, Bytes:32, Data:Bytes/binary>>}) ->
    {ok, hornbeam_ws_frames:encode_shared(kind(Data), Data)};
frame({blob, <<?VERSION, ?BIT_BINARY_EXT, Bytes:32, Bits, Data:Bytes/binary>>})
        when Bits =:= 8; Bytes =:= 0 ->
    {ok, hornbeam_ws_frames:encode_shared(binary, Data)};
frame({term, Data}) when is_binary(Data) ->
    {ok, hornbeam_ws_frames:encode_shared(kind(Data), Data)};
frame(_) ->
    none.

%% The emulator's own check is the fastest, and gives back the very binary.
kind(Data) ->
    case unicode:characters_to_binary(Data) of
        Text when is_binary(Text) -> text;
        _ -> binary
    end.
