%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_chunked_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([good_bodies/1]).
-export([bad_bodies/1]).
-export([unfinished_bodies/1]).
-export([limits/1]).
-export([huge_chunk/1]).

all() ->
    [good_bodies, bad_bodies, unfinished_bodies, limits, huge_chunk].

%% Each body comes whole, byte by byte, and in every split into two; what follows it is the rest.
good_bodies(_Config) ->
    [
        ?assertEqual({Body, Encoded, {done, Body, <<"rest">>}}, {Body, Encoded, Result})
     || {Body, Encoded} <- [
            {<<>>, <<"0\r\n\r\n">>},
            {<<>>, <<"000\r\n\r\n">>},
            {<<"hello">>, <<"5\r\nhello\r\n0\r\n\r\n">>},
            {<<"hello">>, <<"2\r\nhe\r\n0003\r\nllo\r\n0\r\n\r\n">>},
            {<<"0123456789">>, <<"a\r\n0123456789\r\n0\r\n\r\n">>},
            {<<"0123456789">>, <<"A\r\n0123456789\r\n0\r\n\r\n">>},
            {<<"\r\n0\r\n">>, <<"5\r\n\r\n0\r\n\r\n0\r\n\r\n">>},
            {<<"hello">>, <<"5;a=b\r\nhello\r\n0;\"\xe9\";c\r\n\r\n">>},
            {<<"hello">>, <<"5;a=\"\\\"\\\\\";b\r\nhello\r\n0\r\n\r\n">>},
            {<<"hello">>, <<"5 \t\r\nhello\r\n0 ; a\r\n\r\n">>},
            {<<"hello">>, <<"5\r\nhello\r\n0\r\nA: b\r\nc-D:\r\n\r\n">>}
        ],
        Result <- decode_all(<<Encoded/binary, "rest">>)
    ],
    ok.

bad_bodies(_Config) ->
    [
        ?assertMatch({Encoded, {error, _}}, {Encoded, Result})
     || Encoded <- [
            <<"x\r\n">>, <<"\r\n">>, <<" 5\r\n">>, <<"-5\r\n">>, <<"+5\r\n">>, <<"0x5\r\n">>,
            <<"5x\r\n">>, <<"5 x\r\n">>, <<"5\n">>, <<"5\rx">>, <<"5\r\r\n">>, <<"5;a\nb\r\n">>,
            <<"5;a\0\r\n">>, <<"5;\"\r\n">>, <<"5;\"\\\"\r\n">>, <<"5;\"a\"\"\r\n">>,
            <<"00000000000000000\r\n">>, <<"11111111111111111\r\n">>,
            <<"3\r\nhello">>, <<"3\r\nhel\n">>, <<"3\r\nhel\rx">>, <<"3\r\nhel0\r\n\r\n">>,
            <<"0\r\nA b\r\n">>, <<"0\r\n: b\r\n">>, <<"0\r\nA : b\r\n">>, <<"0\r\n A: b\r\n">>,
            <<"0\r\nA: b\n">>, <<"0\r\nA: \0\r\n">>, <<"0\r\nGET / HTTP/1.1\r\n">>
        ],
        Result <- decode_all(Encoded)
    ],
    ok.

%% Any beginning of a good body is one that goes on.
unfinished_bodies(_Config) ->
    Encoded = <<"5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n">>,
    [
        ?assertMatch({more, _, _}, hornbeam_chunked:decode(Beginning, hornbeam_chunked:new()))
     || Size <- lists:seq(0, byte_size(Encoded) - 1),
        Beginning <- [binary:part(Encoded, 0, Size)]
    ],
    ok.

%% Lines without end are given up, in one piece and byte by byte.
limits(_Config) ->
    Text = fun(Size) -> binary:copy(<<"a">>, Size) end,
    [
        begin
            [?assertMatch({done, <<>>, <<>>}, Result) || Result <- decode_all(Good)],
            [?assertMatch({error, _}, Result) || Result <- decode_all(Bad)]
        end
     || {Good, Bad} <- [
            {<<"0;", (Text(1022))/binary, "\r\n\r\n">>, <<"0;", (Text(1023))/binary>>},
            {<<"0\r\na:", (Text(16382))/binary, "\r\n\r\n">>, <<"0\r\na:", (Text(16383))/binary>>},
            {<<"0\r\n", (binary:copy(<<"a:b\r\n">>, 5461))/binary, "\r\n">>,
             <<"0\r\n", (binary:copy(<<"a:b\r\n">>, 5462))/binary, "\r\n">>}
        ]
    ],
    ok.

%% A size that nobody could send is a size: the body's own limit deals with it. Beyond signed 64
%% bits others may count wrong.
huge_chunk(_Config) ->
    Decoder = hornbeam_chunked:new(),
    {more, <<"hello">>, Next} = hornbeam_chunked:decode(<<"7fffffffffffffff\r\nhello">>, Decoder),
    ?assertMatch({more, <<" world">>, _}, hornbeam_chunked:decode(<<" world">>, Next)),
    [?assertMatch({error, _}, Result) || Result <- decode_all(<<"8000000000000000\r\n">>)].

decode_all(Encoded) ->
    Splits =
        case byte_size(Encoded) of
            Size when Size < 100 -> lists:seq(0, Size);
            Size -> [Size div 2]
        end,
    Feeds = [[Encoded], [<<C>> || <<C>> <= Encoded]
             | [[binary:part(Encoded, 0, At), binary:part(Encoded, At, byte_size(Encoded) - At)]
                || At <- Splits]],
    [feed(Parts, hornbeam_chunked:new(), <<>>) || Parts <- Feeds].

feed([Part | Parts], Decoder, Body) ->
    case hornbeam_chunked:decode(Part, Decoder) of
        {more, More, Next} -> feed(Parts, Next, <<Body/binary, More/binary>>);
        {done, More, Rest} -> {done, <<Body/binary, More/binary>>, iolist_to_binary([Rest | Parts])};
        {error, Why} -> {error, Why}
    end;
feed([], _, Body) ->
    {unfinished, Body}.
