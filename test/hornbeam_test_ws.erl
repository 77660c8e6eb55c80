%% SPDX-License-Identifier: Apache-2.0
%% The client's side of WebSocket frames, written apart from the server's: byte by byte, without a
%% thought for speed.
-module(hornbeam_test_ws).

-export([frame/2]).
-export([frame/3]).
-export([message/3]).
-export([mask/2]).
-export([parse/1]).
-export([deflater/1]).
-export([compress/2]).
-export([inflater/1]).
-export([decompress/2]).

%% A whole frame, masked.
frame(Opcode, Payload) ->
    frame(Opcode, Payload, #{}).

%% Options: `fin', `rsv', `key' (`none': not masked), and the `length' to announce, a number or bits
%% of any kind.
frame(Opcode, Payload, Options) ->
    Fin = maps:get(fin, Options, 1),
    Rsv = maps:get(rsv, Options, 0),
    Length = length_bits(maps:get(length, Options, byte_size(Payload))),
    case maps:get(key, Options, <<16#37, 16#FA, 16#21, 16#3D>>) of
        none ->
            <<Fin:1, Rsv:3, Opcode:4, 0:1, Length/bits, Payload/binary>>;
        Key ->
            Masked = mask(Payload, Key),
            <<Fin:1, Rsv:3, Opcode:4, 1:1, Length/bits, Key/binary, Masked/binary>>
    end.

length_bits(Length) when is_bitstring(Length) -> Length;
length_bits(Length) when Length =< 125 -> <<Length:7>>;
length_bits(Length) when Length =< 65535 -> <<126:7, Length:16>>;
length_bits(Length) -> <<127:7, Length:64>>.

%% A message in fragments; `rsv' goes on the first.
message(Opcode, Parts, Options) ->
    Last = length(Parts),
    iolist_to_binary([
        frame(
            case Number of 1 -> Opcode; _ -> 0 end,
            Part,
            Options#{
                fin => case Number of Last -> 1; _ -> 0 end,
                rsv => case Number of 1 -> maps:get(rsv, Options, 0); _ -> 0 end
            })
     || {Number, Part} <- lists:zip(lists:seq(1, Last), Parts)
    ]).

mask(Payload, Key) ->
    << <<(Byte bxor binary:at(Key, Index rem 4))>>
       || {Index, Byte} <- lists:zip(indexes(Payload), binary_to_list(Payload)) >>.

indexes(<<>>) -> [];
indexes(Payload) -> lists:seq(0, byte_size(Payload) - 1).

%% The first frame of the server's in these bytes: {Fin, Rsv, Opcode, Payload, Rest}.
parse(Data) ->
    case iolist_to_binary(Data) of
        <<Fin:1, Rsv:3, Opcode:4, 0:1, 127:7, Length:64, Payload:Length/binary, Rest/binary>>
                when Length > 65535 ->
            {Fin, Rsv, Opcode, Payload, Rest};
        <<Fin:1, Rsv:3, Opcode:4, 0:1, 126:7, Length:16, Payload:Length/binary, Rest/binary>>
                when Length > 125 ->
            {Fin, Rsv, Opcode, Payload, Rest};
        <<Fin:1, Rsv:3, Opcode:4, 0:1, Length:7, Payload:Length/binary, Rest/binary>>
                when Length < 126 ->
            {Fin, Rsv, Opcode, Payload, Rest}
    end.

%% zlib as a client has it.
deflater(Bits) ->
    Deflater = zlib:open(),
    ok = zlib:deflateInit(Deflater, default, deflated, -Bits, 8, default),
    Deflater.

%% The payload of a compressed message.
compress(Deflater, Message) ->
    Flushed = iolist_to_binary(zlib:deflate(Deflater, Message, sync)),
    case byte_size(Flushed) of
        %% Nothing to flush.
        0 -> <<0>>;
        Size -> binary:part(Flushed, 0, Size - 4)
    end.

inflater(Bits) ->
    Inflater = zlib:open(),
    ok = zlib:inflateInit(Inflater, -Bits),
    Inflater.

decompress(Inflater, Payload) ->
    iolist_to_binary(zlib:inflate(Inflater, <<Payload/binary, 0, 0, 255, 255>>)).
