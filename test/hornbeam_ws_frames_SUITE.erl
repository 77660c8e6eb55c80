%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_ws_frames_SUITE).

-include_lib("stdlib/include/assert.hrl").

-import(hornbeam_test_ws, [frame/2, frame/3, message/3]).

-export([all/0, groups/0]).
-export([messages/1, lengths/1, fragments/1, control_frames/1, close_frames/1, close_codes/1]).
-export([nothing_after_the_end/1]).
-export([unmasked_frames/1, reserved_bits/1, opcodes/1, lengths_not_minimal/1]).
-export([bad_control_frames/1, bad_order/1, bad_close_frames/1]).
-export([text/1, bad_text_at_its_byte/1, beginnings_of_characters/1]).
-export([size_of_a_frame/1, size_of_fragments/1, size_unlimited/1, enough/1]).
-export([single_bytes_cost_no_more/1, idle_codec_is_small/1]).
-export([rfc7692_examples/1, compressed_in_fragments/1, windows/1, no_takeover/1]).
-export([corrupt_compression/1, compressed_size/1, blocks_of_nothing/1, bomb/1]).
-export([encoded_frames/1, encoded_lengths/1, encoded_close/1, misuse/1, shared/1]).
-export([encoded_compressed/1, encoded_uncompressed/1, encoded_without_takeover/1]).
-export([closed/1]).

-define(TEXT, 1).
-define(BINARY, 2).
-define(CLOSE, 8).
-define(PING, 9).
-define(PONG, 10).
-define(COMPRESSED, 4).

all() ->
    [{group, frames}, {group, faults}, {group, utf8}, {group, sizes}, {group, deflate},
        {group, encoding}].

groups() ->
    [
        {frames, [parallel], [messages, lengths, fragments, control_frames, close_frames,
            close_codes, nothing_after_the_end]},
        {faults, [parallel], [unmasked_frames, reserved_bits, opcodes, lengths_not_minimal,
            bad_control_frames, bad_order, bad_close_frames]},
        {utf8, [parallel], [text, bad_text_at_its_byte, beginnings_of_characters]},
        %% One at a time: they look at the memory of the node.
        {sizes, [], [size_of_a_frame, size_of_fragments, size_unlimited, enough,
            single_bytes_cost_no_more, idle_codec_is_small, bomb]},
        {deflate, [parallel], [rfc7692_examples, compressed_in_fragments, windows, no_takeover,
            corrupt_compression, compressed_size, blocks_of_nothing]},
        {encoding, [parallel], [encoded_frames, encoded_lengths, encoded_close, misuse, shared,
            encoded_compressed, encoded_uncompressed, encoded_without_takeover, closed]}
    ].

%% Frames that are good.

messages(_) ->
    expect([{message, text, <<>>}], frame(?TEXT, <<>>)),
    expect([{message, binary, <<>>}], frame(?BINARY, <<>>)),
    expect([{message, text, <<"Hello">>}], frame(?TEXT, <<"Hello">>)),
    expect([{message, binary, <<0, 255>>}], frame(?BINARY, <<0, 255>>)),
    %% A key that does nothing, and one that does everything.
    expect([{message, text, <<"Hello">>}], frame(?TEXT, <<"Hello">>, #{key => <<0, 0, 0, 0>>})),
    expect([{message, text, <<"Hello">>}], frame(?TEXT, <<"Hello">>, #{key => <<255, 1, 0, 7>>})),
    expect(
        [{message, text, <<"a">>}, {message, binary, <<"b">>}, {message, text, <<"c">>}],
        [frame(?TEXT, <<"a">>), frame(?BINARY, <<"b">>), frame(?TEXT, <<"c">>)]
    ),
    %% RFC 6455 5.7.
    expect([{message, text, <<"Hello">>}], <<16#81, 16#85, 16#37, 16#FA, 16#21, 16#3D, 16#7F,
        16#9F, 16#4D, 16#51, 16#58>>).

%% Where the form of the length changes.
lengths(_) ->
    [
        begin
            Payload = binary:copy(<<"*">>, Length),
            ?assertEqual([{message, Type, Payload}], decode_all([frame(Opcode, Payload)]))
        end
     || Length <- [0, 1, 3, 4, 5, 124, 125, 126, 127, 128, 65535, 65536, 70001],
        {Opcode, Type} <- [{?TEXT, text}, {?BINARY, binary}]
    ].

%% Any number of fragments, empty ones too, and control frames between them.
fragments(_) ->
    expect([{message, text, <<"Hello">>}], message(?TEXT, [<<"Hel">>, <<"lo">>], #{})),
    expect([{message, text, <<>>}], message(?TEXT, [<<>>, <<>>, <<>>], #{})),
    expect([{message, text, <<"middle">>}], message(?TEXT, [<<>>, <<"middle">>, <<>>], #{})),
    expect([{message, binary, <<1, 2, 3>>}], message(?BINARY, [<<1>>, <<2>>, <<3>>], #{})),
    expect(
        [{ping, <<"1">>}, {pong, <<"2">>}, {message, text, <<"ab">>}, {ping, <<>>}],
        [
            frame(?TEXT, <<"a">>, #{fin => 0}), frame(?PING, <<"1">>), frame(?PONG, <<"2">>),
            frame(0, <<"b">>), frame(?PING, <<>>)
        ]
    ),
    %% Whoever closes need not finish.
    expect([{close, 1000, <<>>}], [frame(?TEXT, <<"a">>, #{fin => 0}), frame(?CLOSE, <<1000:16>>)]),
    %% A character may be cut between frames.
    expect([{message, text, <<"κ"/utf8>>}], message(?TEXT, [<<16#CE>>, <<>>, <<16#BA>>], #{})).

control_frames(_) ->
    Largest = binary:copy(<<16#FE>>, 125),
    [expect([{Type, Payload}], frame(Opcode, Payload))
     || {Opcode, Type} <- [{?PING, ping}, {?PONG, pong}],
        Payload <- [<<>>, <<"Hello">>, <<0, 255, 254, 253>>, Largest]],
    Pings = [{ping, <<N>>} || N <- lists:seq(1, 10)],
    expect(Pings, [frame(?PING, <<N>>) || N <- lists:seq(1, 10)]).

close_frames(_) ->
    Longest = binary:copy(<<"*">>, 123),
    expect([{close, 1005, <<>>}], frame(?CLOSE, <<>>)),
    expect([{close, 1000, <<>>}], frame(?CLOSE, <<1000:16>>)),
    expect([{close, 1001, <<"Grüße"/utf8>>}], frame(?CLOSE, <<1001:16, "Grüße"/utf8>>)),
    expect([{close, 4999, Longest}], frame(?CLOSE, <<4999:16, Longest/binary>>)).

%% Each number that fits into the two bytes.
close_codes(_) ->
    Good = lists:seq(1000, 1003) ++ lists:seq(1007, 1014) ++ lists:seq(3000, 4999),
    [
        case lists:member(Code, Good) of
            true ->
                ?assert(hornbeam_ws_frames:is_close_code(Code)),
                ?assertEqual([{close, Code, <<>>}], decode_all([frame(?CLOSE, <<Code:16>>)]));
            false ->
                ?assertNot(hornbeam_ws_frames:is_close_code(Code)),
                ?assertMatch([{error, 1002, _}], decode_all([frame(?CLOSE, <<Code:16>>)]))
        end
     || Code <- lists:seq(0, 5100) ++ [16#7FFF, 16#8000, 16#FFFF]
    ].

%% What follows is not even looked at, be it in the same bytes or later.
nothing_after_the_end(_) ->
    [
        begin
            {Events, Codec} = decode([End, frame(?TEXT, <<"more">>)], codec()),
            ?assertMatch([_], Events),
            ?assertMatch({[], _}, decode([frame(?PING, <<>>)], Codec)),
            ?assertMatch({[], _}, decode([<<255, 255, 255>>], Codec)),
            ?assertEqual(0, hornbeam_ws_frames:pending_bytes(Codec))
        end
     || End <- [frame(?CLOSE, <<1000:16>>), frame(?TEXT, <<255>>), <<255, 255>>]
    ].

%% Frames that break a rule.

unmasked_frames(_) ->
    [fails(1002, frame(Opcode, Payload, #{key => none}))
     || Opcode <- [?TEXT, ?BINARY, ?CLOSE, ?PING, ?PONG], Payload <- [<<>>, <<1000:16>>]].

reserved_bits(_) ->
    [fails(1002, frame(Opcode, <<"Hello">>, #{rsv => Rsv}))
     || Opcode <- [?TEXT, ?BINARY, ?CLOSE, ?PING, ?PONG], Rsv <- lists:seq(1, 7)],
    fails(1002, [frame(?TEXT, <<"a">>, #{fin => 0}), frame(0, <<"b">>, #{rsv => 1})]),
    %% With compression one of them has a meaning, where a message begins.
    {Codec, _} = deflate_codec([]),
    [fails(1002, frame(Opcode, <<0>>, #{rsv => Rsv}), Codec)
     || Opcode <- [?TEXT, ?BINARY], Rsv <- [1, 2, 3, 5, 6, 7]],
    [fails(1002, frame(Opcode, <<>>, #{rsv => ?COMPRESSED}), Codec)
     || Opcode <- [?CLOSE, ?PING, ?PONG]],
    [fails(1002,
        [frame(?TEXT, <<0>>, #{fin => 0, rsv => Rsv}), frame(0, <<0>>, #{rsv => ?COMPRESSED})],
        Codec)
     || Rsv <- [0, ?COMPRESSED]].

opcodes(_) ->
    [fails(1002, [frame(?PING, <<>>), frame(Opcode, Payload, #{fin => Fin})], [{ping, <<>>}])
     || Opcode <- [3, 4, 5, 6, 7, 11, 12, 13, 14, 15], Payload <- [<<>>, <<"Hello">>],
        Fin <- [0, 1]].

lengths_not_minimal(_) ->
    [fails(1002, frame(?BINARY, <<>>, #{length => Length}))
     || Length <- [<<126:7, 0:16>>, <<126:7, 125:16>>, <<127:7, 0:64>>, <<127:7, 125:64>>,
            <<127:7, 65535:64>>, <<127:7, 1:1, 65536:63>>, <<127:7, -1:64>>]].

bad_control_frames(_) ->
    Long = binary:copy(<<"*">>, 126),
    [
        begin
            fails(1002, frame(Opcode, <<>>, #{fin => 0})),
            fails(1002, frame(Opcode, Long)),
            %% Found at the first two bytes.
            ?assertMatch([{error, 1002, _}], decode_all([<<1:1, 0:3, Opcode:4, 1:1, 126:7>>])),
            ?assertMatch([{error, 1002, _}], decode_all([<<1:1, 0:3, Opcode:4, 1:1, 127:7>>]))
        end
     || Opcode <- [?CLOSE, ?PING, ?PONG]
    ].

bad_order(_) ->
    fails(1002, frame(0, <<"b">>)),
    fails(1002, frame(0, <<"b">>, #{fin => 0})),
    fails(1002, [frame(?TEXT, <<"a">>), frame(0, <<"b">>)], [{message, text, <<"a">>}]),
    [fails(1002, [frame(?TEXT, <<"a">>, #{fin => 0}), frame(Opcode, <<"b">>, #{fin => Fin})])
     || Opcode <- [?TEXT, ?BINARY], Fin <- [0, 1]].

bad_close_frames(_) ->
    fails(1002, frame(?CLOSE, <<3>>)),
    fails(1002, frame(?CLOSE, <<1006:16, "gone">>)),
    fails(1007, frame(?CLOSE, <<1000:16, 16#CE>>)),
    fails(1007, frame(?CLOSE, <<1000:16, "a", 255>>)),
    fails(1002, frame(?CLOSE, binary:copy(<<3, 232>>, 63))).

%% Text.

text(_) ->
    [expect([{message, text, Text}], frame(?TEXT, Text)) || Text <- good_texts()].

%% Fails with the byte that makes it bad, not before and not after: in one frame, in frames of a
%% byte each, and compressed.
bad_text_at_its_byte(_) ->
    [
        begin
            Good = binary:part(Text, 0, At),
            Bad = binary:part(Text, 0, At + 1),
            Whole = fun(Part) -> frame_of_all(Part, byte_size(Text)) end,
            fails_at_last_byte(Whole(Good), Whole(Bad), codec()),
            Single = fun(Part) ->
                [frame(?TEXT, <<>>, #{fin => 0}) | [frame(0, <<C>>, #{fin => 0}) || <<C>> <= Part]]
            end,
            fails_at_last_byte(Single(Good), Single(Bad), codec()),
            Stored = fun(Part) -> stored_frame(Part, byte_size(Text)) end,
            fails_at_last_byte(Stored(Good), Stored(Bad), element(1, deflate_codec([])))
        end
     || {At, Text} <- bad_texts()
    ],
    %% What is missing at the end is found there.
    [fails(1007, [frame(?TEXT, Text, #{fin => 0}), frame(0, <<>>)])
     || Text <- [<<16#CE>>, <<"a", 16#E1, 16#BD>>, <<16#F0, 16#90, 16#80>>]],
    [fails(1007, frame(?TEXT, Text)) || {_, Text} <- bad_texts()].

%% All of one and two bytes: one is good as far as it goes if some bytes make it a text.
beginnings_of_characters(_) ->
    Endings = [<<>> | [<<A, B/binary>>
        || A <- [16#80, 16#8F, 16#90, 16#9F, 16#A0, 16#BF],
           B <- [<<>>, <<16#80>>, <<16#80, 16#80>>]]],
    IsText = fun(Bytes) -> is_binary(unicode:characters_to_binary(Bytes)) end,
    IsBeginning = fun(Bytes) ->
        lists:any(fun(Ending) -> IsText(<<Bytes/binary, Ending/binary>>) end, Endings)
    end,
    [
        ?assertEqual({Bytes, IsBeginning(Bytes)},
            {Bytes, hornbeam_ws_utf8:check(Bytes, hornbeam_ws_utf8:new()) =/= error})
     || A <- lists:seq(0, 255), Bytes <- [<<A>> | [<<A, B>> || B <- lists:seq(0, 255)]]
    ].

good_texts() ->
    [
        <<"Hello-µ@ßöäüàá-UTF-8!!"/utf8>>, kosme(), <<0>>, <<16#7F>>, <<16#80/utf8>>,
        <<16#7FF/utf8>>, <<16#800/utf8>>, <<16#D7FF/utf8>>, <<16#E000/utf8>>, <<16#FFFD/utf8>>,
        <<16#FFFE/utf8>>, <<16#FFFF/utf8>>, <<16#10000/utf8>>, <<16#1FFFE/utf8>>, <<16#10FFFF/utf8>>
    ].

%% And the index of the byte with which it is bad.
bad_texts() ->
    [
        {0, <<16#80>>}, {0, <<16#BF>>}, {0, <<16#C0, 16#80>>}, {0, <<16#C1, 16#BF>>},
        {0, <<16#F5, 16#80, 16#80, 16#80>>}, {0, <<16#FE>>}, {0, <<16#FF>>},
        {1, <<16#E0, 16#80, 16#80>>}, {1, <<16#E0, 16#9F, 16#BF>>}, {1, <<16#ED, 16#A0, 16#80>>},
        {1, <<16#ED, 16#BF, 16#BF>>}, {1, <<16#F0, 16#80, 16#80, 16#80>>},
        {1, <<16#F0, 16#8F, 16#BF, 16#BF>>}, {1, <<16#F4, 16#90, 16#80, 16#80>>},
        {1, <<16#C2, "a">>}, {2, <<16#E1, 16#BD, "a">>}, {3, <<16#F1, 16#80, 16#80, "a">>},
        {1, <<16#CE, 16#CE>>}, {12, <<(kosme())/binary, 16#F4, 16#90, 16#80, 16#80, "edited">>},
        {12, <<(kosme())/binary, 16#ED, 16#A0, 16#80, "edited">>}
    ].

kosme() ->
    <<16#CE, 16#BA, 16#E1, 16#BD, 16#B9, 16#CF, 16#83, 16#CE, 16#BC, 16#CE, 16#B5>>.

%% Of a frame with all of a payload that part which ends with these bytes.
frame_of_all(Part, Size) ->
    Whole = frame(?TEXT, <<Part/binary, 0:(8 * (Size - byte_size(Part)))>>),
    binary:part(Whole, 0, byte_size(Whole) - (Size - byte_size(Part))).

%% The same of a compressed one, in a block that is stored as it is.
stored_frame(Part, Size) ->
    Rest = Size - byte_size(Part),
    Payload = <<0, Size:16/little, (bnot Size):16/little, Part/binary, 0:(8 * Rest), 0>>,
    Whole = frame(?TEXT, Payload, #{rsv => ?COMPRESSED}),
    binary:part(Whole, 0, byte_size(Whole) - Rest - 1).

fails_at_last_byte(Good, Bad, Codec) ->
    ?assertMatch({Good, {[], _}}, {Good, decode([Good], Codec)}),
    ?assertMatch({Bad, {[{error, 1007, _}], _}}, {Bad, decode([Bad], Codec)}).

%% Sizes.

%% Refused at the header, when nothing of the payload has come.
size_of_a_frame(_) ->
    Codec = codec(#{max_size => 10}),
    Digits = <<"0123456789">>,
    ?assertEqual([{message, text, Digits}], decode_all([frame(?TEXT, Digits)], Codec)),
    [
        begin
            Header = frame(?TEXT, <<>>, #{length => Length}),
            ?assertMatch([{error, 1009, _}], decode_all([Header], Codec))
        end
     || Length <- [11, 125, 126, 65535, 65536, 1 bsl 62, (1 bsl 63) - 1]
    ],
    %% Control frames do not count.
    Ping = binary:copy(<<"*">>, 125),
    ?assertEqual([{ping, Ping}], decode_all([frame(?PING, Ping)], Codec)).

size_of_fragments(_) ->
    Codec = codec(#{max_size => 10}),
    First = frame(?TEXT, <<"012345">>, #{fin => 0}),
    {[], Open} = decode([First], Codec),
    ?assertEqual(6, hornbeam_ws_frames:pending_bytes(Open)),
    ?assertMatch({[{message, text, <<"0123456789">>}], _}, decode([frame(0, <<"6789">>)], Open)),
    {Events, Over} = decode([frame(0, <<>>, #{length => 5})], Open),
    ?assertMatch([{error, 1009, _}], Events),
    ?assertEqual(0, hornbeam_ws_frames:pending_bytes(Over)),
    %% The next message counts from nothing.
    {[_], Next} = decode([frame(0, <<"6789">>)], Open),
    Digits = <<"0123456789">>,
    ?assertMatch({[{message, text, Digits}], _}, decode([frame(?TEXT, Digits)], Next)).

size_unlimited(_) ->
    Codec = codec(#{max_size => infinity}),
    Payload = binary:copy(<<"0123456789abcdef">>, 1 bsl 16),
    ?assertEqual([{message, text, Payload}], decode_all([shared_frame(Payload)], Codec)),
    ?assertMatch({[], _}, decode([frame(?TEXT, <<>>, #{length => 1 bsl 62})], Codec)).

%% decode/3 stops behind the message that makes it enough, and goes on when it is asked to.
enough(_) ->
    Data = iolist_to_binary([
        frame(?TEXT, <<"12345">>), frame(?PING, <<>>), frame(?TEXT, <<"67890">>),
        frame(?BINARY, <<"x">>), frame(?TEXT, <<"half">>, #{fin => 0})
    ]),
    {First, more, Codec1} = hornbeam_ws_frames:decode(Data, 6, codec()),
    ?assertEqual([{message, text, <<"12345">>}, {ping, <<>>}, {message, text, <<"67890">>}], First),
    {Second, more, Codec2} = hornbeam_ws_frames:decode(<<>>, 1, Codec1),
    ?assertEqual([{message, binary, <<"x">>}], Second),
    ?assertMatch({[], done, _}, hornbeam_ws_frames:decode(<<>>, 1, Codec2)),
    %% More bytes may come before.
    {Third, done, _} = hornbeam_ws_frames:decode(frame(0, <<"full">>), 100, Codec2),
    ?assertEqual([{message, text, <<"halffull">>}], Third),
    ?assertMatch({[_], done, _}, hornbeam_ws_frames:decode(frame(?TEXT, <<"a">>), 1, codec())).

%% A message that comes in fragments of a byte takes little more than its bytes.
single_bytes_cost_no_more(_) ->
    Count = 100000,
    Held = in_process(fun() ->
        {[], First} = decode([frame(?BINARY, <<"*">>, #{fin => 0})], codec()),
        Fragment = frame(0, <<"*">>, #{fin => 0}),
        Step = fun(_, Codec0) -> {[], Codec} = decode([Fragment], Codec0), Codec end,
        Codec = lists:foldl(Step, First, lists:seq(2, Count)),
        ?assertEqual(Count, hornbeam_ws_frames:pending_bytes(Codec)),
        Memory = own_memory(),
        {[{message, binary, Message}], _} = decode([frame(0, <<>>)], Codec),
        ?assertEqual(binary:copy(<<"*">>, Count), Message),
        Memory
    end),
    ?assert(Held < 2 * Count, Held).

%% Between messages the codec is a few words, and keeps nothing of what was read.
idle_codec_is_small(_) ->
    Large = frame(?BINARY, crypto:strong_rand_bytes(100000)),
    Half = binary:part(frame(?PING, <<"ping">>), 0, 7),
    Held = in_process(fun() ->
        {[_, _], Codec} = decode([<<Large/binary, Large/binary, Half/binary>>], codec()),
        {own_memory(), erts_debug:flat_size(Codec), Codec}
    end),
    ?assertMatch({Memory, Words, _} when Memory < 10000 andalso Words < 20, Held).

%% A GB of zeros in a MB, whole and in pieces: given up at the bound.
bomb(_) ->
    MaxSize = 1 bsl 21,
    Bomb = bomb_frame(1024),
    %% Not refused for what it announces.
    ?assert(byte_size(Bomb) < MaxSize),
    {Codec, _} = deflate_codec([], #{max_size => MaxSize}),
    {Peak, Events} = peak_memory(fun() -> decode_all([Bomb], Codec) end),
    ?assertMatch([{error, 1009, _}], Events),
    ?assert(Peak < 4 * MaxSize, Peak),
    {PiecesPeak, Pending} = peak_memory(fun() -> pending_until_failure(Bomb, Codec, 0) end),
    ?assert(Pending =< MaxSize, Pending),
    ?assert(PiecesPeak < 4 * MaxSize, PiecesPeak).

pending_until_failure(<<Piece:64/binary, Rest/binary>>, Codec0, Most) ->
    case hornbeam_ws_frames:decode(Piece, Codec0) of
        {[], Codec} ->
            pending_until_failure(Rest, Codec, max(Most, hornbeam_ws_frames:pending_bytes(Codec)));
        {[{error, 1009, _}], _} ->
            Most
    end.

%% So many MB of zeros, as a message.
bomb_frame(Megabytes) ->
    Deflater = hornbeam_test_ws:deflater(12),
    Zeros = binary:copy(<<0>>, 1 bsl 20),
    First = iolist_to_binary(zlib:deflate(Deflater, Zeros, sync)),
    %% Each of the others is the same again.
    Next = iolist_to_binary(zlib:deflate(Deflater, Zeros, sync)),
    Payload = <<First/binary, (binary:copy(Next, Megabytes - 1))/binary>>,
    shared_frame(Payload, #{rsv => ?COMPRESSED}).

%% Compression.

%% RFC 7692 7.2.3.
rfc7692_examples(_) ->
    [
        expect(Events, [frame(Opcode, Payload, #{fin => Fin, rsv => Rsv})
            || {Opcode, Payload, Fin, Rsv} <- Frames], element(1, deflate_codec([])))
     || {Events, Frames} <- [
            {[hello()], [{?TEXT, hello_compressed(), 1, ?COMPRESSED}]},
            {[hello()], [{?TEXT, <<16#F2, 16#48, 16#CD>>, 0, ?COMPRESSED},
                {0, <<16#C9, 16#C9, 16#07, 0>>, 1, 0}]},
            {[hello(), hello()], [{?TEXT, hello_compressed(), 1, ?COMPRESSED},
                {?TEXT, hello_compressed(), 1, ?COMPRESSED}]},
            {[hello(), hello()], [{?TEXT, hello_compressed(), 1, ?COMPRESSED},
                {?TEXT, <<16#F2, 0, 16#11, 0, 0>>, 1, ?COMPRESSED}]},
            {[hello()], [{?TEXT, <<0, 5, 0, 16#FA, 16#FF, "Hello", 0>>, 1, ?COMPRESSED}]},
            %% The last block is the last of all; the next message begins anew.
            {[hello(), hello()], [
                {?TEXT, <<16#F3, 16#48, 16#CD, 16#C9, 16#C9, 16#07, 0, 0>>, 1, ?COMPRESSED},
                {?TEXT, hello_compressed(), 1, ?COMPRESSED}]},
            {[hello()], [{?TEXT, <<16#F2, 16#48, 5, 0, 0, 0, 16#FF, 16#FF, 16#CA, 16#C9, 16#C9,
                16#07, 0>>, 1, ?COMPRESSED}]},
            %% Nothing, and nothing at all.
            {[{message, text, <<>>}], [{?TEXT, <<0>>, 1, ?COMPRESSED}]},
            {[{message, binary, <<>>}], [{?BINARY, <<>>, 1, ?COMPRESSED}]},
            %% Not every message needs to be compressed.
            {[hello(), hello()], [{?TEXT, hello_compressed(), 1, ?COMPRESSED},
                {?TEXT, <<"Hello">>, 1, 0}]}
        ]
    ].

hello() -> {message, text, <<"Hello">>}.
hello_compressed() -> <<16#F2, 16#48, 16#CD, 16#C9, 16#C9, 16#07, 0>>.

%% Compressed frames with others between them; what is compressed is the message, not its frames.
compressed_in_fragments(_) ->
    Text = iolist_to_binary([[integer_to_list(N), " "] || N <- lists:seq(1, 2000)]),
    {Codec0, _} = deflate_codec([]),
    Deflater = hornbeam_test_ws:deflater(12),
    [
        begin
            Payload = hornbeam_test_ws:compress(Deflater, Text),
            zlib:deflateReset(Deflater),
            Parts = pieces(Payload, Size),
            Frames = message(?TEXT, Parts, #{rsv => ?COMPRESSED}),
            {Codec, _} = deflate_codec([]),
            ?assertEqual([{message, text, Text}], decode_all(pieces(Frames, 100), Codec))
        end
     || Size <- [1, 7, 1000, 100000]
    ],
    Frames = [
        frame(?TEXT, <<16#F2, 16#48>>, #{fin => 0, rsv => ?COMPRESSED}), frame(?PING, <<"p">>),
        frame(0, <<>>, #{fin => 0}), frame(0, <<16#CD, 16#C9, 16#C9, 16#07, 0>>, #{fin => 0}),
        frame(0, <<>>)
    ],
    ?assertEqual([{ping, <<"p">>}, hello()], decode_all(Frames, Codec0)).

%% Each window, both ways: messages that refer to earlier ones as far back as it reaches.
windows(_) ->
    [
        begin
            Bits = integer_to_binary(N),
            {Codec0, Extension} = deflate_codec(
                [{<<"client_max_window_bits">>, Bits}, {<<"server_max_window_bits">>, Bits}]),
            Agreed = min(N, 12),
            Name = integer_to_binary(Agreed),
            ?assertEqual(<<"permessage-deflate; server_max_window_bits=", Name/binary,
                "; client_max_window_bits=", Name/binary>>, Extension),
            Deflater = hornbeam_test_ws:deflater(max(Agreed, 9)),
            Inflater = hornbeam_test_ws:inflater(Agreed),
            lists:foldl(fun(Message, Codec) -> echo(Message, Deflater, Inflater, Codec) end,
                Codec0, varied_messages())
        end
     || N <- lists:seq(8, 15)
    ].

echo(Message, Deflater, Inflater, Codec0) ->
    Payload = hornbeam_test_ws:compress(Deflater, Message),
    {Events, Codec1} = decode([frame(?BINARY, Payload, #{rsv => ?COMPRESSED})], Codec0),
    ?assertEqual([{message, binary, Message}], Events),
    {Data, Codec} = hornbeam_ws_frames:encode({binary, Message}, Codec1),
    {1, ?COMPRESSED, ?BINARY, Compressed, <<>>} = hornbeam_test_ws:parse(Data),
    ?assertEqual(Message, hornbeam_test_ws:decompress(Inflater, Compressed)),
    Codec.

varied_messages() ->
    Random = crypto:strong_rand_bytes(300),
    Text = iolist_to_binary([[integer_to_list(N * N), ","] || N <- lists:seq(1, 600)]),
    [Text, Text, Random, Random, <<Random/binary, Text/binary, Random/binary>>,
        binary:copy(Random, 20), binary:copy(<<0>>, 20000), Text].

%% A client that forgets: each message decompresses by itself.
no_takeover(_) ->
    {Codec0, Extension} = deflate_codec([<<"client_no_context_takeover">>]),
    ?assertEqual(<<"permessage-deflate; server_max_window_bits=12; client_no_context_takeover">>,
        Extension),
    Hello = frame(?TEXT, hello_compressed(), #{rsv => ?COMPRESSED}),
    {[_, _], Codec} = decode([Hello, Hello], Codec0),
    %% What refers to the message before refers to nothing.
    fails(1007, frame(?TEXT, <<16#F2, 0, 16#11, 0, 0>>, #{rsv => ?COMPRESSED}), Codec).

corrupt_compression(_) ->
    [fails(1007, frame(?BINARY, Payload, #{rsv => ?COMPRESSED}), element(1, deflate_codec([])))
     || Payload <- [<<255, 255>>, <<6>>, <<0, 5, 0, 0, 0, "Hello">>, <<16#F2, 0, 16#11, 0, 0>>]].

%% The bound holds for what comes out, whatever went in.
compressed_size(_) ->
    Compressed = fun(Message, Options) ->
        Payload = hornbeam_test_ws:compress(hornbeam_test_ws:deflater(12), Message),
        {Codec, _} = deflate_codec([], Options),
        decode_all([frame(?BINARY, Payload, #{rsv => ?COMPRESSED})], Codec)
    end,
    Random = crypto:strong_rand_bytes(70000),
    [
        begin
            Size = byte_size(Message),
            ?assertEqual([{message, binary, Message}], Compressed(Message, #{max_size => Size})),
            ?assertMatch([{error, 1009, _}], Compressed(Message, #{max_size => Size - 1})),
            ?assertEqual([{message, binary, Message}], Compressed(Message, #{max_size => infinity}))
        end
     || Message <- [<<"ab">>, binary:copy(<<"a">>, 40000), Random]
    ],
    {Codec, _} = deflate_codec([], #{max_size => 10}),
    Announced = frame(?TEXT, <<>>, #{rsv => ?COMPRESSED, length => 100000}),
    ?assertMatch([{error, 1009, _}], decode_all([Announced], Codec)).

%% Blocks that give nothing end, too.
blocks_of_nothing(_) ->
    {Codec, _} = deflate_codec([], #{max_size => 1000}),
    Nothing = binary:copy(<<0, 0, 0, 255, 255>>, 20),
    First = frame(?BINARY, Nothing, #{fin => 0, rsv => ?COMPRESSED}),
    More = [frame(0, Nothing, #{fin => 0}) || _ <- lists:seq(1, 30)],
    ?assertMatch([{error, 1009, _}], decode_all([First | More], Codec)).

%% Encoding.

encoded_frames(_) ->
    [
        ?assertEqual(Bytes, encoded(Frame))
     || {Frame, Bytes} <- [
            {{text, <<"Hello">>}, <<16#81, 5, "Hello">>},
            {{text, ["He", <<"l">>, [$l, $o]]}, <<16#81, 5, "Hello">>},
            {{text, <<>>}, <<16#81, 0>>},
            {{binary, <<1, 2>>}, <<16#82, 2, 1, 2>>},
            {{ping, <<"Hello">>}, <<16#89, 5, "Hello">>},
            {{pong, <<"Hello">>}, <<16#8A, 5, "Hello">>},
            {{pong, <<>>}, <<16#8A, 0>>},
            {close, <<16#88, 0>>},
            {{close, 1000, <<>>}, <<16#88, 2, 1000:16>>},
            {{close, 4999, <<"bye">>}, <<16#88, 5, 4999:16, "bye">>}
        ]
    ].

encoded_lengths(_) ->
    [
        begin
            Payload = binary:copy(<<"*">>, Length),
            ?assertEqual({1, 0, ?BINARY, Payload, <<>>},
                hornbeam_test_ws:parse(encoded({binary, Payload})))
        end
     || Length <- [0, 125, 126, 127, 65535, 65536, 100000]
    ].

%% A reason that is too long is cut between two characters.
encoded_close(_) ->
    Stars = fun(Count) -> binary:copy(<<"*">>, Count) end,
    [
        ?assertEqual({1, 0, ?CLOSE, <<1000:16, Cut/binary>>, <<>>},
            hornbeam_test_ws:parse(encoded({close, 1000, Reason})))
     || {Cut, Reason} <- [
            {Stars(123), Stars(123)},
            {Stars(123), Stars(124)},
            {Stars(122), <<(Stars(122))/binary, "ß"/utf8>>},
            {<<(Stars(121))/binary, "ß"/utf8>>, <<(Stars(121))/binary, "ßß"/utf8>>},
            {Stars(120), <<(Stars(120))/binary, 16#1F600/utf8>>}
        ]
    ].

%% Faults of the caller.
misuse(_) ->
    [?assertError(_, hornbeam_ws_frames:encode(Frame, codec()))
     || Frame <- [{close, 1005, <<>>}, {close, 1006, <<>>}, {close, 999, <<>>}, {close, 5000, <<>>},
            {ping, binary:copy(<<"*">>, 126)}, {pong, binary:copy(<<"*">>, 126)}, ping]].

%% The same bytes as encode/2 makes, in one binary.
shared(_) ->
    [
        ?assertEqual(encoded({Type, Payload}), hornbeam_ws_frames:encode_shared(Type, Payload))
     || Type <- [text, binary], Length <- [0, 5, 125, 126, 65535, 65536],
        Payload <- [binary:copy(<<"*">>, Length)]
    ].

%% Later messages refer to earlier ones.
encoded_compressed(_) ->
    {Codec0, <<"permessage-deflate; server_max_window_bits=12">>} = deflate_codec([]),
    Text = iolist_to_binary([[integer_to_list(N), " "] || N <- lists:seq(1000, 1100)]),
    {First, Codec1} = hornbeam_ws_frames:encode({text, Text}, Codec0),
    {Second, _} = hornbeam_ws_frames:encode({binary, [Text]}, Codec1),
    {1, ?COMPRESSED, ?TEXT, FirstPayload, <<>>} = hornbeam_test_ws:parse(First),
    {1, ?COMPRESSED, ?BINARY, SecondPayload, <<>>} = hornbeam_test_ws:parse(Second),
    Inflater = hornbeam_test_ws:inflater(12),
    ?assertEqual(Text, hornbeam_test_ws:decompress(Inflater, FirstPayload)),
    ?assertEqual(Text, hornbeam_test_ws:decompress(Inflater, SecondPayload)),
    ?assert(byte_size(FirstPayload) < byte_size(Text)),
    ?assert(byte_size(SecondPayload) < 20).

%% What is tiny is not compressed, and what controls must not be.
encoded_uncompressed(_) ->
    {Codec, _} = deflate_codec([]),
    [
        ?assertMatch({{1, 0, _, _, <<>>}, _},
            begin {Data, Next} = hornbeam_ws_frames:encode(Frame, Codec),
                {hornbeam_test_ws:parse(Data), Next} end)
     || Long <- [binary:copy(<<"*">>, 100)],
        Frame <- [{text, <<>>}, {text, binary:copy(<<"*">>, 63)}, {binary, <<"a">>}, {ping, Long},
            {pong, Long}, {close, 1000, Long}, close]
    ].

encoded_without_takeover(_) ->
    {Codec0, <<"permessage-deflate; server_max_window_bits=12; server_no_context_takeover">>} =
        deflate_codec([<<"server_no_context_takeover">>]),
    Text = binary:copy(<<"Hello ">>, 50),
    {First, Codec} = hornbeam_ws_frames:encode({text, Text}, Codec0),
    {Second, _} = hornbeam_ws_frames:encode({text, Text}, Codec),
    ?assertEqual(iolist_to_binary(First), iolist_to_binary(Second)),
    {1, ?COMPRESSED, ?TEXT, Payload, <<>>} = hornbeam_test_ws:parse(Second),
    ?assertEqual(Text, hornbeam_test_ws:decompress(hornbeam_test_ws:inflater(12), Payload)).

%% What zlib holds is given back: a codec that was used, and one that was not.
closed(_) ->
    {Fresh, _} = deflate_codec([]),
    ok = hornbeam_ws_frames:close(Fresh),
    ok = hornbeam_ws_frames:close(codec()),
    Message = binary:copy(<<"Hello ">>, 50),
    {_, Codec0} = hornbeam_ws_frames:encode({text, Message}, Fresh),
    {[_], Codec} = decode([frame(?TEXT, hello_compressed(), #{rsv => ?COMPRESSED})], Codec0),
    ok = hornbeam_ws_frames:close(Codec),
    ?assertError(not_initialized, hornbeam_ws_frames:encode({text, Message}, Codec)),
    %% Decompressing ends with the connection's last event, and close/1 bears it.
    {[{error, 1002, _}], Over} = decode([frame(15, <<>>)], element(1, deflate_codec([]))),
    ok = hornbeam_ws_frames:close(Over).

%% Internal.

codec() ->
    codec(#{}).

codec(Options) ->
    hornbeam_ws_frames:new(maps:merge(#{max_size => 1 bsl 20, deflate => undefined}, Options)).

deflate_codec(Params) ->
    deflate_codec(Params, #{}).

deflate_codec(Params, Options) ->
    {ok, Extension, Deflate} = hornbeam_ws_deflate:negotiate(Params),
    {codec(Options#{deflate => Deflate}), Extension}.

encoded(Frame) ->
    {Data, _} = hornbeam_ws_frames:encode(Frame, codec()),
    iolist_to_binary(Data).

decode(Frames, Codec) ->
    hornbeam_ws_frames:decode(iolist_to_binary(Frames), Codec).

decode_all(Pieces) ->
    decode_all(Pieces, codec()).

decode_all(Pieces, Codec) ->
    Step = fun(Piece, {Events, Codec0}) ->
        {More, Next} = hornbeam_ws_frames:decode(Piece, Codec0),
        {Events ++ More, Next}
    end,
    element(1, lists:foldl(Step, {[], Codec}, Pieces)).

%% The same events, be the frames whole, byte by byte or in any two pieces.
expect(Events, Frames) ->
    expect(Events, Frames, none).

expect(Events, Frames, Codec) ->
    [?assertEqual({Pieces, Events}, {Pieces, decode_feed(Pieces, Codec)})
     || Pieces <- feeds(Frames)].

fails(Code, Frames) ->
    fails(Code, Frames, []).

fails(Code, Frames, Before) when is_list(Before) ->
    fails(Code, Frames, Before, none);
fails(Code, Frames, Codec) ->
    fails(Code, Frames, [], Codec).

%% With a codec that is given it is fed once: one that was used has state in zlib.
fails(Code, Frames, Before, Codec) ->
    Feeds = case Codec of
        none -> feeds(Frames);
        _ -> [[iolist_to_binary(Frames)]]
    end,
    [
        begin
            Events = decode_feed(Pieces, Codec),
            ?assertEqual({Pieces, Before}, {Pieces, lists:droplast(Events)}),
            ?assertMatch({Pieces, {error, Code, <<_, _/binary>>}}, {Pieces, lists:last(Events)})
        end
     || Pieces <- Feeds
    ].

decode_feed(Pieces, none) -> decode_all(Pieces);
decode_feed(Pieces, Codec) -> decode_all(Pieces, Codec).

feeds(Frames) ->
    Data = iolist_to_binary(Frames),
    Splits = lists:seq(0, min(byte_size(Data), 40)),
    [[Data], [<<C>> || <<C>> <= Data] |
        [[binary:part(Data, 0, At), binary:part(Data, At, byte_size(Data) - At)] || At <- Splits]].

pieces(Data, Size) when byte_size(Data) > Size ->
    <<Piece:Size/binary, Rest/binary>> = Data,
    [Piece | pieces(Rest, Size)];
pieces(Data, _) ->
    [Data].

%% A frame whose key does nothing, because masking a large one byte by byte takes its time.
shared_frame(Payload) ->
    shared_frame(Payload, #{}).

shared_frame(Payload, Options) ->
    Header = frame(?TEXT, <<>>, Options#{length => byte_size(Payload), key => <<0:32>>}),
    <<Header/binary, Payload/binary>>.

in_process(Fun) ->
    Parent = self(),
    {Pid, Monitor} = spawn_monitor(fun() -> Parent ! {self(), Fun()} end),
    receive
        {Pid, Result} -> demonitor(Monitor, [flush]), Result;
        {'DOWN', Monitor, process, Pid, Reason} -> error(Reason)
    end.

%% Bytes that this process holds, binaries included.
own_memory() ->
    garbage_collect(),
    [{memory, Heap}, {binary, Binaries}] = process_info(self(), [memory, binary]),
    Heap + lists:sum([Size || {_, Size, _} <- Binaries]).

%% How much the binaries of the node grew at most while a function ran.
peak_memory(Fun) ->
    garbage_collect(),
    Before = erlang:memory(binary),
    Parent = self(),
    Runner = spawn_link(fun() -> Parent ! {self(), Fun()} end),
    watch_memory(Runner, Before, 0).

watch_memory(Runner, Before, Peak) ->
    receive
        {Runner, Result} -> {Peak, Result}
    after 1 ->
        watch_memory(Runner, Before, max(Peak, erlang:memory(binary) - Before))
    end.
