%% SPDX-License-Identifier: Apache-2.0

%% @private WebSocket frames and messages (RFC 6455 5 to 8, RFC 7692), the server's side.
%%
%% Pure, but for zlib's contexts (hornbeam_ws_deflate). Bytes go in as they come, in any cut, and
%% events come out: whole messages, control frames, and at most one `close' or `error', after which
%% whatever still comes is ignored. The payload of a message is unmasked, decompressed and checked
%% as it arrives, so what is wrong is found at its first wrong byte; that of a control frame, at
%% most 125 bytes, when all of it is there.
%%
%% What a peer can make the codec hold is `max_size' bytes of a message and one piece more: a frame
%% that would exceed it is refused at its header, and a compressed one at the byte that does.
-module(hornbeam_ws_frames).

%% API
-export([new/1]).
-export([decode/2]).
-export([decode/3]).
-export([pending_bytes/1]).
-export([close/1]).
-export([encode/2]).
-export([encode_shared/2]).
-export([is_close_code/1]).

-export_type([codec/0]).
-export_type([event/0]).
-export_type([frame/0]).
-export_type([close_code/0]).

-type close_code() :: 1000..4999.

-type event() ::
    {message, text | binary, binary()}
  | {ping, binary()}
  | {pong, binary()}
  | {close, 1005 | close_code(), Reason :: binary()}
    %% 1005: the frame had no code.
  | {error, 1002 | 1007 | 1009, Why :: binary()}.
    %% What the peer did wrong, and the code to close with.

-type frame() ::
    {text | binary, iodata()}
  | {ping | pong, binary()}
  | {close, close_code(), Reason :: binary()}
    %% A reason that is too long for a frame is cut.
  | close.

-record(header, {
    is_last :: boolean(),
    rsv :: 0..7,
    opcode :: 0..15,
    length :: non_neg_integer(),
    key = 0 :: mask_key()
}).

%% A message of which something has come.
-record(message, {
    type :: text | binary,
    is_compressed :: boolean(),
    %% Bytes of it on the wire, as its frames' headers have announced them.
    announced = 0 :: non_neg_integer(),
    %% What of it is there, unmasked and decompressed, the last part first, and its size.
    parts = [] :: [binary()],
    size = 0 :: non_neg_integer(),
    text = hornbeam_ws_utf8:new() :: hornbeam_ws_utf8:held()
}).

%% A frame of a message, whose header has come: the bytes that are to come, and the key that the
%% next of them is masked with.
-record(payload, {
    is_last :: boolean(),
    left :: non_neg_integer(),
    key :: mask_key()
}).

-record(codec, {
    max_size :: pos_integer() | infinity,
    deflate :: hornbeam_ws_deflate:deflate() | undefined,
    expected = header :: header | #payload{} | nothing,
    %% What is there of a header or of a control frame, or what decode/3 has left over.
    held = <<>> :: binary(),
    message = none :: #message{} | none
}).

-opaque codec() :: #codec{}.

-type mask_key() :: 0..16#FFFFFFFF.

%% Opcodes; from CLOSE on they are of control frames.
-define(CONTINUATION, 0).
-define(TEXT, 1).
-define(BINARY, 2).
-define(CLOSE, 8).
-define(PING, 9).
-define(PONG, 10).

-define(RSV_COMPRESSED, 4).

-define(MAX_CONTROL_BYTES, 125).
-define(MAX_REASON_BYTES, (?MAX_CONTROL_BYTES - 2)).
%% Small parts of a message are put together until they are that large: a peer that sends single
%% bytes would have each cost fifty.
-define(SMALL_PART_BYTES, 4096).
%% With less than that compression does not pay: a packet's headers are as large.
-define(MIN_COMPRESSED_BYTES, 64).

%% @doc The codec of a new connection. `max_size' bounds a message in bytes, as it comes on the wire
%% and as it is after decompression.
-spec new(#{
    max_size := pos_integer() | infinity,
    deflate := hornbeam_ws_deflate:deflate() | undefined
}) -> codec().
new(#{max_size := MaxSize, deflate := Deflate}) ->
    #codec{max_size = MaxSize, deflate = Deflate}.

%% @doc Take what has come.
-spec decode(binary(), codec()) -> {[event()], codec()}.
decode(Data, Codec0) ->
    {Events, done, Codec} = decode(Data, infinity, Codec0),
    {Events, Codec}.

%% @doc Take what has come, and stop after the message with which those of this call have reached
%% `EnoughBytes': with `more', the rest is kept, and calling again, with no bytes, goes on. A read
%% of 64 KiB can hold compressed messages of 64 MiB, each of them within `max_size'.
-spec decode(binary(), EnoughBytes :: pos_integer() | infinity, codec()) ->
    {[event()], done | more, codec()}.
decode(Data, EnoughBytes, Codec = #codec{held = <<>>}) ->
    decode(Data, EnoughBytes, Codec, []);
decode(<<>>, EnoughBytes, Codec = #codec{held = Held}) ->
    decode(Held, EnoughBytes, Codec#codec{held = <<>>}, []);
decode(Data, EnoughBytes, Codec = #codec{held = Held}) ->
    decode(<<Held/binary, Data/binary>>, EnoughBytes, Codec#codec{held = <<>>}, []).

%% @doc How many bytes are held of a message that is not complete.
-spec pending_bytes(codec()) -> non_neg_integer().
pending_bytes(#codec{held = Held, message = none}) -> byte_size(Held);
pending_bytes(#codec{held = Held, message = Message}) -> byte_size(Held) + Message#message.size.

%% @doc Free what the codec has of zlib. The process that has used it must call this, or end.
-spec close(codec()) -> ok.
close(#codec{deflate = undefined}) -> ok;
close(#codec{deflate = Deflate}) -> hornbeam_ws_deflate:close(Deflate).

%% @doc A frame as it goes to the client, compressed where that was agreed on and pays.
-spec encode(frame(), codec()) -> {iodata(), codec()}.
encode({Type, Data}, Codec = #codec{deflate = Deflate0}) when Type =:= text; Type =:= binary ->
    case iolist_size(Data) of
        Size when Deflate0 =:= undefined; Size < ?MIN_COMPRESSED_BYTES ->
            {[header(0, Type, Size), Data], Codec};
        _ ->
            {Compressed, Deflate} = hornbeam_ws_deflate:compress(Data, Deflate0),
            Header = header(?RSV_COMPRESSED, Type, byte_size(Compressed)),
            {[Header, Compressed], Codec#codec{deflate = Deflate}}
    end;
encode({Type, Data}, Codec) when Type =:= ping orelse Type =:= pong,
        byte_size(Data) =< ?MAX_CONTROL_BYTES ->
    {[header(0, Type, byte_size(Data)), Data], Codec};
encode(close, Codec) ->
    {header(0, close, 0), Codec};
encode({close, Code, Reason}, Codec) ->
    true = is_close_code(Code),
    Payload = <<Code:16, (cut_reason(Reason))/binary>>,
    {[header(0, close, byte_size(Payload)), Payload], Codec}.

%% @doc A message as many sockets can send it, whatever each of them has agreed on: one binary, not
%% compressed.
-spec encode_shared(text | binary, binary()) -> binary().
encode_shared(Type, Data) ->
    <<(header(0, Type, byte_size(Data)))/binary, Data/binary>>.

%% @doc Whether a close frame may carry this code: RFC 6455 7.4 and those registered since, and what
%% is left to libraries and applications.
-spec is_close_code(integer()) -> boolean().
is_close_code(Code) when Code >= 1000, Code =< 1003 -> true;
is_close_code(Code) when Code >= 1007, Code =< 1014 -> true;
is_close_code(Code) -> Code >= 3000 andalso Code =< 4999.

%% Decoding.

decode(Data, EnoughBytes, Codec0, Events) ->
    case step(Data, Codec0) of
        {next, Rest, Codec} -> decode(Rest, EnoughBytes, Codec, Events);
        {wait, Codec} -> {lists:reverse(Events), done, Codec};
        {event, Event, Rest, Codec} -> emit(Event, Rest, EnoughBytes, Codec, Events);
        {last, Event, Codec} -> {lists:reverse([Event | Events]), done, end_all(Codec)}
    end.

emit({message, _, Message} = Event, Rest, EnoughBytes, Codec, Events0)
        when byte_size(Message) >= EnoughBytes, Rest =/= <<>> ->
    {lists:reverse([Event | Events0]), more, Codec#codec{held = Rest}};
emit({message, _, Message} = Event, Rest, EnoughBytes, Codec, Events)
        when is_integer(EnoughBytes) ->
    decode(Rest, max(EnoughBytes - byte_size(Message), 1), Codec, [Event | Events]);
emit(Event, Rest, EnoughBytes, Codec, Events) ->
    decode(Rest, EnoughBytes, Codec, [Event | Events]).

end_all(Codec = #codec{deflate = Deflate}) ->
    Codec#codec{
        expected = nothing,
        message = none,
        deflate = case Deflate of
            undefined -> undefined;
            _ -> hornbeam_ws_deflate:stop_decompressing(Deflate)
        end
    }.

%% One header, with its payload where it is a control frame's, or one piece of a payload.
-spec step(binary(), codec()) ->
    {next, Rest :: binary(), codec()}
  | {event, event(), Rest :: binary(), codec()}
  | {wait, codec()}
  | {last, event(), codec()}.
step(_, Codec = #codec{expected = nothing}) ->
    {wait, Codec};
step(Data, Codec = #codec{expected = #payload{}}) ->
    take_payload(Data, Codec);
step(Data, Codec) ->
    case parse_header(Data, Codec) of
        {Header = #header{opcode = Opcode}, Rest} when Opcode >= ?CLOSE ->
            take_control(Header, Rest, Data, Codec);
        {Header, Rest} ->
            begin_payload(Header, Rest, Codec);
        wait ->
            {wait, hold(Data, Codec)};
        {error, _, _} = Failure ->
            {last, Failure, Codec}
    end.

%% Copied, or it would keep all that was read with it.
hold(Data, Codec) ->
    Codec#codec{held = binary:copy(Data)}.

%% RFC 6455 5.2.
parse_header(<<Fin:1, Rsv:3, Opcode:4, Masked:1, Length7:7, Rest/binary>>, Codec) ->
    Header = #header{is_last = Fin =:= 1, rsv = Rsv, opcode = Opcode, length = Length7},
    case fault(Header, Masked, Codec) of
        none -> parse_length(Length7, Rest, Header);
        Why -> {error, 1002, Why}
    end;
parse_header(_, _) ->
    wait.

%% What the first two bytes of a frame say that they must not.
fault(_, 0, _) ->
    <<"a frame is not masked">>;
fault(#header{opcode = Opcode}, _, _) when Opcode > ?BINARY, Opcode < ?CLOSE; Opcode > ?PONG ->
    <<"a frame has a reserved opcode">>;
%% RFC 7692 6: the first bit, of a message's first frame, says that it is compressed.
fault(#header{rsv = Rsv, opcode = Opcode}, _, #codec{deflate = Deflate})
        when Rsv =/= 0, Rsv =/= ?RSV_COMPRESSED orelse Deflate =:= undefined orelse
            Opcode =:= ?CONTINUATION orelse Opcode >= ?CLOSE ->
    <<"a frame has a reserved bit set">>;
fault(#header{opcode = Opcode, is_last = false}, _, _) when Opcode >= ?CLOSE ->
    <<"a control frame is fragmented">>;
fault(#header{opcode = Opcode, length = Length7}, _, _)
        when Opcode >= ?CLOSE, Length7 > ?MAX_CONTROL_BYTES ->
    <<"a control frame is longer than 125 bytes">>;
fault(#header{opcode = ?CONTINUATION}, _, #codec{message = none}) ->
    <<"a continuation frame continues nothing">>;
fault(#header{opcode = Opcode}, _, #codec{message = #message{}})
        when Opcode =:= ?TEXT; Opcode =:= ?BINARY ->
    <<"a message begins before the last one has ended">>;
fault(_, _, _) ->
    none.

parse_length(126, <<Length:16, Rest/binary>>, Header) when Length > 125 ->
    parse_key(Rest, Header#header{length = Length});
parse_length(126, <<_:16, _/binary>>, _) ->
    {error, 1002, <<"the length of a frame is not minimal">>};
parse_length(127, <<0:1, Length:63, Rest/binary>>, Header) when Length > 16#FFFF ->
    parse_key(Rest, Header#header{length = Length});
parse_length(127, <<_:64, _/binary>>, _) ->
    {error, 1002, <<"the length of a frame is not minimal, or not a length">>};
parse_length(Length7, Rest, Header) when Length7 < 126 ->
    parse_key(Rest, Header);
parse_length(_, _, _) ->
    wait.

parse_key(<<Key:32, Rest/binary>>, Header) -> {Header#header{key = Key}, Rest};
parse_key(_, _) -> wait.

%% Control frames.

take_control(#header{opcode = Opcode, length = Length, key = Key}, Rest, Data, Codec) ->
    case Rest of
        <<Masked:Length/binary, Next/binary>> -> control(Opcode, unmask(Masked, Key), Next, Codec);
        _ -> {wait, hold(Data, Codec)}
    end.

control(?PING, Payload, Rest, Codec) -> {event, {ping, Payload}, Rest, Codec};
control(?PONG, Payload, Rest, Codec) -> {event, {pong, Payload}, Rest, Codec};
control(?CLOSE, Payload, _, Codec) -> {last, parse_close(Payload), Codec}.

parse_close(<<>>) ->
    {close, 1005, <<>>};
parse_close(<<Code:16, Reason/binary>>) ->
    case {is_close_code(Code), unicode:characters_to_binary(Reason)} of
        {false, _} -> {error, 1002, <<"a close frame has a code that may not be sent">>};
        {true, Text} when is_binary(Text) -> {close, Code, Text};
        {true, _} -> {error, 1007, <<"the reason of a close frame is not UTF-8">>}
    end;
parse_close(_) ->
    {error, 1002, <<"a close frame has half a code">>}.

%% Messages.

begin_payload(Header = #header{is_last = IsLast, length = Length, key = Key}, Rest, Codec) ->
    Message = #message{announced = Announced} = message_of(Header, Codec),
    case Announced + Length > max_announced(Message, Codec) of
        true ->
            {last, too_large(), Codec};
        false ->
            Payload = #payload{is_last = IsLast, left = Length, key = Key},
            {next, Rest, Codec#codec{
                expected = Payload,
                message = Message#message{announced = Announced + Length}
            }}
    end.

message_of(#header{opcode = ?CONTINUATION}, #codec{message = Message}) -> Message;
message_of(#header{opcode = ?TEXT, rsv = Rsv}, _) -> new_message(text, Rsv);
message_of(#header{opcode = ?BINARY, rsv = Rsv}, _) -> new_message(binary, Rsv).

new_message(Type, Rsv) ->
    #message{type = Type, is_compressed = Rsv =:= ?RSV_COMPRESSED}.

max_announced(_, #codec{max_size = infinity}) -> infinity;
max_announced(#message{is_compressed = false}, #codec{max_size = MaxSize}) -> MaxSize;
%% What cannot be compressed gets larger, by less than this (zlib's deflateBound); a peer that
%% flushes often adds five bytes each time. Without a bound blocks of nothing could go on for ever.
max_announced(_, #codec{max_size = MaxSize}) -> MaxSize + MaxSize div 4 + 1024.

too_large() ->
    {error, 1009, <<"a message is too large">>}.

take_payload(Data, Codec0 = #codec{expected = Payload = #payload{left = Left, key = Key}}) ->
    Size = min(Left, byte_size(Data)),
    <<Masked:Size/binary, Rest/binary>> = Data,
    case add_payload(unmask(Masked, Key), Codec0) of
        {ok, Codec} when Size =:= Left ->
            end_frame(Payload, Rest, Codec#codec{expected = header});
        {ok, Codec} ->
            Next = Payload#payload{left = Left - Size, key = rotate(Key, Size)},
            {wait, Codec#codec{expected = Next}};
        {error, Failure, Codec} ->
            {last, Failure, Codec}
    end.

add_payload(<<>>, Codec) ->
    {ok, Codec};
add_payload(Part, Codec = #codec{message = #message{is_compressed = false}}) ->
    add_parts([Part], byte_size(Part), Codec);
add_payload(Part, Codec = #codec{deflate = Deflate}) ->
    decompressed(hornbeam_ws_deflate:decompress(Part, room(Codec), Deflate), Codec).

room(#codec{max_size = infinity}) -> infinity;
room(#codec{max_size = MaxSize, message = Message}) -> MaxSize - Message#message.size.

decompressed({ok, Parts, Size, Deflate}, Codec) ->
    add_parts(Parts, Size, Codec#codec{deflate = Deflate});
decompressed({error, too_large, Deflate}, Codec) ->
    {error, too_large(), Codec#codec{deflate = Deflate}};
decompressed({error, corrupt, Deflate}, Codec) ->
    Failure = {error, 1007, <<"a compressed message is corrupt">>},
    {error, Failure, Codec#codec{deflate = Deflate}}.

add_parts(Parts, Size, Codec = #codec{message = Message0}) ->
    case check_text(Parts, Message0) of
        {ok, Message} ->
            {ok, Codec#codec{message = Message#message{
                parts = lists:foldl(fun add_part/2, Message#message.parts, Parts),
                size = Message#message.size + Size
            }}};
        error ->
            {error, not_utf8(), Codec}
    end.

check_text(_, Message = #message{type = binary}) ->
    {ok, Message};
check_text([Part | Parts], Message = #message{text = Held0}) ->
    case hornbeam_ws_utf8:check(Part, Held0) of
        {ok, Held} -> check_text(Parts, Message#message{text = Held});
        error -> error
    end;
check_text([], Message) ->
    {ok, Message}.

not_utf8() ->
    {error, 1007, <<"a text message is not UTF-8">>}.

add_part(Part, [Last | Parts])
        when byte_size(Last) < ?SMALL_PART_BYTES, byte_size(Part) < ?SMALL_PART_BYTES ->
    case <<Last/binary, Part/binary>> of
        %% Copied, because a binary that was appended to has room for more.
        Full when byte_size(Full) >= ?SMALL_PART_BYTES -> [binary:copy(Full) | Parts];
        Small -> [Small | Parts]
    end;
add_part(Part, Parts) ->
    [Part | Parts].

end_frame(#payload{is_last = false}, Rest, Codec) ->
    {next, Rest, Codec};
end_frame(_, Rest, Codec = #codec{message = #message{is_compressed = false}}) ->
    end_message(Rest, Codec);
end_frame(_, Rest, Codec0 = #codec{deflate = Deflate}) ->
    case decompressed(hornbeam_ws_deflate:end_message(room(Codec0), Deflate), Codec0) of
        {ok, Codec} -> end_message(Rest, Codec);
        {error, Failure, Codec} -> {last, Failure, Codec}
    end.

end_message(Rest, Codec = #codec{message = #message{type = Type, parts = Parts, text = Held}}) ->
    case hornbeam_ws_utf8:is_complete(Held) of
        true -> {event, {message, Type, join(Parts)}, Rest, Codec#codec{message = none}};
        false -> {last, not_utf8(), Codec}
    end.

join([Part]) -> Part;
join(Parts) -> iolist_to_binary(lists:reverse(Parts)).

%% RFC 6455 5.3. At every size, from 6 bytes to 1 MiB, the emulator's function takes a half to a
%% fifth of the time of loops in Erlang, the key's copies counted in.
unmask(Masked, Key) ->
    Size = byte_size(Masked),
    <<Keys:Size/binary, _/binary>> = binary:copy(<<Key:32>>, (Size + 3) div 4),
    crypto:exor(Masked, Keys).

rotate(Key, Size) ->
    Bits = Size rem 4 * 8,
    <<Head:Bits/bits, Tail/bits>> = <<Key:32>>,
    <<Rotated:32>> = <<Tail/bits, Head/bits>>,
    Rotated.

%% Encoding.

header(Rsv, Type, Length) when Length =< 125 -> <<1:1, Rsv:3, (opcode(Type)):4, 0:1, Length:7>>;
header(Rsv, Type, Length) when Length =< 16#FFFF ->
    <<1:1, Rsv:3, (opcode(Type)):4, 0:1, 126:7, Length:16>>;
header(Rsv, Type, Length) ->
    <<1:1, Rsv:3, (opcode(Type)):4, 0:1, 127:7, Length:64>>.

opcode(text) -> ?TEXT;
opcode(binary) -> ?BINARY;
opcode(close) -> ?CLOSE;
opcode(ping) -> ?PING;
opcode(pong) -> ?PONG.

%% Between two characters.
cut_reason(Reason) when byte_size(Reason) =< ?MAX_REASON_BYTES ->
    Reason;
cut_reason(<<Cut:?MAX_REASON_BYTES/binary, _/binary>>) ->
    case unicode:characters_to_binary(Cut) of
        Text when is_binary(Text) -> Text;
        {_, Text, _} -> Text
    end.
