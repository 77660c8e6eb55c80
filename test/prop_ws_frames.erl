%% SPDX-License-Identifier: Apache-2.0
%% WebSocket messages in any fragments, with any keys, in any pieces, compressed or not.
-module(prop_ws_frames).

-include("hornbeam_proper.hrl").

-import(proper_types, [binary/0, binary/1, boolean/0, bitstring/1, frequency/1, integer/2, list/1]).
-import(proper_types, [non_empty/1, oneof/1]).

-export([prop_messages_arrive_as_they_were_sent/0]).
-export([prop_what_is_encoded_is_what_the_client_decodes/0]).
-export([prop_anything_ends_well_and_within_bounds/0]).

-define(MAX_SIZE, 100).

%% What a client sends comes out, in its order.
prop_messages_arrive_as_they_were_sent() ->
    ?FORALL({Sent, Params, Cuts}, {list(sent()), params(), cuts()}, begin
        {Codec, Deflater} = connection(Params, infinity),
        {Events, Codec1} = feed(cut(bytes(Sent, Deflater, Params), Cuts), Codec),
        ok = hornbeam_ws_frames:close(Codec1),
        Expected = lists:append([expected(Item) || Item <- Sent]),
        lists:sort(Events) =:= lists:sort(Expected) andalso
            messages(Events) =:= messages(Expected) andalso
            hornbeam_ws_frames:pending_bytes(Codec1) =:= 0
    end).

%% The other way, with compression where it pays.
prop_what_is_encoded_is_what_the_client_decodes() ->
    ?FORALL({Messages, Params}, {list(large_message()), params()}, begin
        {Codec, _} = connection(Params, infinity),
        Inflater = hornbeam_test_ws:inflater(15),
        received(Messages, Codec, Inflater, Params)
    end).

%% Bytes of any kind give events of the known kinds, at most one of them the last, and no more is
%% held than what may come, and one of zlib's buffers.
prop_anything_ends_well_and_within_bounds() ->
    ?FORALL({Data, Params, Cuts}, {hostile(), params(), cuts()}, begin
        {Codec, _} = connection(Params, ?MAX_SIZE),
        is_tame(cut(Data, Cuts), Codec)
    end).

is_tame([Piece | Pieces], Codec0) ->
    {Events, Codec} = hornbeam_ws_frames:decode(Piece, Codec0),
    lists:all(fun is_event/1, Events) andalso
        not lists:any(fun is_last/1, droplast(Events)) andalso
        hornbeam_ws_frames:pending_bytes(Codec) =< ?MAX_SIZE + 139 andalso
        case Events =/= [] andalso is_last(lists:last(Events)) of
            true -> lists:all(fun(More) -> is_silent(More, Codec) end, Pieces);
            false -> is_tame(Pieces, Codec)
        end;
is_tame([], Codec) ->
    hornbeam_ws_frames:close(Codec) =:= ok.

is_silent(Piece, Codec) ->
    {Events, _} = hornbeam_ws_frames:decode(Piece, Codec),
    Events =:= [].

droplast([]) -> [];
droplast(Events) -> lists:droplast(Events).

is_last({Kind, _, _}) -> Kind =:= close orelse Kind =:= error;
is_last(_) -> false.

is_event({message, text, Text}) ->
    byte_size(Text) =< ?MAX_SIZE andalso is_binary(unicode:characters_to_binary(Text));
is_event({message, binary, Data}) -> byte_size(Data) =< ?MAX_SIZE;
is_event({ping, Data}) -> byte_size(Data) =< 125;
is_event({pong, Data}) -> byte_size(Data) =< 125;
is_event({close, Code, Reason}) ->
    (Code =:= 1005 orelse hornbeam_ws_frames:is_close_code(Code)) andalso
        is_binary(unicode:characters_to_binary(Reason));
is_event({error, Code, Why}) ->
    lists:member(Code, [1002, 1007, 1009]) andalso is_binary(Why);
is_event(_) -> false.

%% Connections.

connection(none, MaxSize) ->
    {hornbeam_ws_frames:new(#{max_size => MaxSize, deflate => undefined}), none};
connection(Params, MaxSize) ->
    {ok, Answer, Deflate} = hornbeam_ws_deflate:negotiate(Params),
    [_, Bits] = case binary:split(Answer, <<"client_max_window_bits=">>) of
        [_] -> [none, <<"15">>];
        Parts -> Parts
    end,
    Deflater = hornbeam_test_ws:deflater(max(9, binary_to_integer(Bits))),
    {hornbeam_ws_frames:new(#{max_size => MaxSize, deflate => Deflate}), Deflater}.

params() ->
    oneof([none, ?LET({Flags, Client, Server}, {list(flag()), bits(), bits()},
        lists:usort(Flags) ++ [{<<"client_max_window_bits">>, Client},
            {<<"server_max_window_bits">>, Server}])]).

flag() ->
    oneof([<<"client_no_context_takeover">>, <<"server_no_context_takeover">>]).

bits() ->
    ?LET(Bits, integer(8, 15), integer_to_binary(Bits)).

%% What a client sends: a control frame, or a message as its parts, each with a control frame
%% behind it or not.
sent() ->
    frequency([
        {1, {control(), key()}},
        {3, {oneof([text, binary]), boolean(), key(), non_empty(list({text(), between()}))}}
    ]).

control() ->
    {oneof([ping, pong]), binary()}.

between() ->
    frequency([{5, none}, {1, control()}]).

text() ->
    Character = oneof([integer(0, 127), integer(0, 16#D7FF), integer(16#E000, 16#10FFFF)]),
    ?LET(Characters, list(Character), unicode:characters_to_binary(Characters)).

large_message() ->
    {oneof([text, binary]),
        ?LET({Text, Times}, {text(), integer(1, 20)}, binary:copy(Text, Times))}.

key() ->
    binary(4).

expected({{Type, Payload}, _}) ->
    [{Type, Payload}];
expected({Type, _, _, Parts}) ->
    [Control || {_, {_, _} = Control} <- Parts] ++
        [{message, Type, iolist_to_binary([Part || {Part, _} <- Parts])}].

%% Where a control frame stands among the fragments is not told apart, but messages have an order.
messages(Events) ->
    [Event || {message, _, _} = Event <- Events].

bytes(Sent, Deflater, Params) ->
    iolist_to_binary([item(Item, Deflater, Params) || Item <- Sent]).

item({{_, _} = Control, Key}, _, _) ->
    control_frame(Control, Key);
item({Type, IsCompressed, Key, Parts}, Deflater, Params) when IsCompressed, Deflater =/= none ->
    Whole = hornbeam_test_ws:compress(Deflater, [Part || {Part, _} <- Parts]),
    case lists:member(<<"client_no_context_takeover">>, Params) of
        true -> zlib:deflateReset(Deflater);
        false -> ok
    end,
    %% Fragments of the compressed message are as long as its own were, and the last takes the rest.
    {Cut, Rest} = lists:mapfoldl(fun({Part, Between}, Left) ->
        {Head, Tail} = split_binary(Left, min(byte_size(Part), byte_size(Left))),
        {{Head, Between}, Tail}
    end, Whole, Parts),
    fragments(Type, Cut ++ [{Rest, none}], #{key => Key, rsv => 4});
item({Type, _, Key, Parts}, _, _) ->
    fragments(Type, Parts, #{key => Key, rsv => 0}).

fragments(Type, Parts, Options = #{key := Key}) ->
    Last = length(Parts),
    [[fragment(Number, Last, Type, Part, Options), control_frame(Between, Key, Number =:= Last)]
     || {Number, {Part, Between}} <- lists:zip(lists:seq(1, Last), Parts)].

fragment(Number, Last, Type, Part, Options = #{rsv := Rsv}) ->
    {Opcode, FrameRsv} = case {Number, Type} of
        {1, text} -> {1, Rsv};
        {1, binary} -> {2, Rsv};
        _ -> {0, 0}
    end,
    Fin = case Number of
        Last -> 1;
        _ -> 0
    end,
    hornbeam_test_ws:frame(Opcode, Part, Options#{fin => Fin, rsv => FrameRsv}).

control_frame(none, _, _) -> [];
control_frame(Control, Key, _) -> control_frame(Control, Key).

control_frame({ping, Payload}, Key) -> hornbeam_test_ws:frame(9, Payload, #{key => Key});
control_frame({pong, Payload}, Key) -> hornbeam_test_ws:frame(10, Payload, #{key => Key}).

%% Sizes of pieces, again and again.
cuts() ->
    non_empty(list(frequency([{3, integer(1, 5)}, {1, integer(1, 200)}]))).

cut(Data, Cuts) ->
    cut(Data, Cuts, Cuts).

cut(<<>>, _, _) -> [];
cut(Data, [], Cuts) -> cut(Data, Cuts, Cuts);
cut(Data, [Size | Sizes], Cuts) ->
    {Piece, Rest} = split_binary(Data, min(Size, byte_size(Data))),
    [Piece | cut(Rest, Sizes, Cuts)].

feed(Pieces, Codec) ->
    {Events, Last} = lists:mapfoldl(fun hornbeam_ws_frames:decode/2, Codec, Pieces),
    {lists:append(Events), Last}.

received([{Type, Message} | Messages], Codec0, Inflater, Params) ->
    {Data, Codec} = hornbeam_ws_frames:encode({Type, Message}, Codec0),
    {1, Rsv, Opcode, Payload, <<>>} = hornbeam_test_ws:parse(Data),
    Plain = case Rsv of
        0 -> Payload;
        4 when Params =/= none -> hornbeam_test_ws:decompress(Inflater, Payload)
    end,
    Opcode =:= opcode(Type) andalso Plain =:= Message andalso
        received(Messages, Codec, Inflater, Params);
received([], Codec, _, _) ->
    hornbeam_ws_frames:close(Codec) =:= ok.

opcode(text) -> 1;
opcode(binary) -> 2.

%% Frames that may well be good, alone or one behind the other, and some that are not.
hostile() ->
    ?LET(Parts, list(frequency([{1, binary()}, {3, odd_frame()}, {40, fair_frame()}])),
        iolist_to_binary(Parts)).

fair_frame() ->
    ?LET({{Opcode, Rsv, Payload}, IsMessage, Key}, {oneof([
            {oneof([9, 10]), 0, binary()}, {1, 0, text()}, {2, 0, binary()}, {2, 4, compressed()},
            {1, 4, compressed()}
        ]), frequency([{5, true}, {1, false}]), key()}, begin
        Options = #{key => Key, rsv => Rsv},
        case IsMessage orelse Opcode > 2 of
            true ->
                hornbeam_test_ws:frame(Opcode, Payload, Options);
            false ->
                {Head, Tail} = split_binary(Payload, byte_size(Payload) div 2),
                hornbeam_test_ws:message(Opcode, [Head, Tail], Options)
        end
    end).

odd_frame() ->
    ?LET({Opcode, Rsv, Fin, Key, Payload, Announced},
        {oneof([0, 1, 2, 8, 9, integer(0, 15)]),
         frequency([{8, 0}, {6, 4}, {1, integer(0, 7)}]),
         frequency([{3, 1}, {2, 0}]),
         frequency([{9, key()}, {1, none}]),
         oneof([binary(), text(), ?LET(Text, text(), <<1000:16, Text/binary>>)]),
         frequency([{8, same}, {1, integer(0, 300)}, {1, bitstring(7)}])},
        hornbeam_test_ws:frame(Opcode, Payload, #{fin => Fin, rsv => Rsv, key => Key,
            length => case Announced of same -> byte_size(Payload); _ -> Announced end})).

%% Also of more than is allowed.
compressed() ->
    ?LET({Text, Times}, {text(), oneof([1, 1, 1, integer(1, 50)])}, begin
        Deflater = hornbeam_test_ws:deflater(12),
        Payload = hornbeam_test_ws:compress(Deflater, binary:copy(Text, Times)),
        ok = zlib:close(Deflater),
        Payload
    end).
