%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_http1_out_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([heads/1]).
-export([how_a_body_goes_on/1]).
-export([chunked/1]).
-export([of_announced_length/1]).
-export([written_by_another/1]).
-export([without_a_body/1]).
-export([trailers/1]).

-define(LENGTH, #{<<"content-length">> => <<"5">>}).

all() ->
    [heads, how_a_body_goes_on, chunked, of_announced_length, written_by_another, without_a_body, trailers].

%% Each cookie has a line of its own.
heads(_) ->
    ?assertEqual(<<"HTTP/1.1 200 OK\r\na: b\r\n\r\n">>, text(hornbeam_http1_out:head(200, #{<<"a">> => <<"b">>}))),
    ?assertEqual(<<"HTTP/1.1 599 \r\na: b\r\nset-cookie: x=1\r\nset-cookie: y=2\r\n\r\n">>,
                 text(hornbeam_http1_out:head(<<"599 ">>, #{<<"a">> => <<"b">>,
                                             <<"set-cookie">> => [<<"x=1">>, <<"y=2">>]}))).

how_a_body_goes_on(_) ->
    [
        ?assertMatch({Method, Status, {_, Out}},
                     {Method, Status, hornbeam_http1_out:start(Status, Headers, Method, false)})
     || {Out, Status, Method, Headers} <- [
            {chunked, 200, <<"GET">>, #{}},
            {{sized, 5}, 200, <<"GET">>, ?LENGTH},
            {{sized, 5}, <<"599 ">>, <<"POST">>, ?LENGTH},
            {bodiless, 200, <<"HEAD">>, ?LENGTH},
            {bodiless, 204, <<"GET">>, #{}},
            {bodiless, 304, <<"GET">>, ?LENGTH}
        ]
    ],
    Announced = #{<<"trailer">> => <<"a">>},
    {WithTrailer, chunked} = hornbeam_http1_out:start(200, Announced, <<"GET">>, true),
    ?assertEqual(<<"HTTP/1.1 200 OK\r\ntrailer: a\r\ntransfer-encoding: chunked\r\n\r\n">>,
                 text(WithTrailer)),
    {Without, chunked} = hornbeam_http1_out:start(200, Announced, <<"GET">>, false),
    ?assertEqual(<<"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n">>, text(Without)).

%% No part but the last ends it.
chunked(_) ->
    ?assertEqual([{<<"5\r\nhello\r\n">>, chunked}, {<<>>, chunked}, {<<"0\r\n\r\n">>, complete}],
                 parts([{nofin, <<"hello">>}, {nofin, <<>>}, {fin, <<>>}], chunked)),
    ?assertEqual([{<<"2\r\nhi\r\n0\r\n\r\n">>, complete}], parts([{fin, <<"hi">>}], chunked)).

%% Complete is what has all of it.
of_announced_length(_) ->
    ?assertEqual([{<<"he">>, {sized, 3}}, {<<"llo">>, {sized, 0}}, {<<>>, complete}],
                 parts([{nofin, <<"he">>}, {nofin, <<"llo">>}, {fin, <<>>}], {sized, 5})),
    ?assertEqual([{<<"hello">>, complete}], parts([{fin, <<"hello">>}], {sized, 5})),
    ?assertEqual([{<<"he">>, {sized, 3}}], parts([{fin, <<"he">>}], {sized, 5})),
    ?assertEqual(too_large, hornbeam_http1_out:part(nofin, <<"hello!">>, {sized, 5})),
    ?assertEqual(too_large, hornbeam_http1_out:part(fin, <<"x">>, {sized, 0})).

%% It counts, and nothing of it is sent.
written_by_another(_) ->
    ?assertEqual({[], {sized, 2}}, hornbeam_http1_out:written(3, {sized, 5})),
    ?assertEqual({[], {sized, 5}}, hornbeam_http1_out:written(0, {sized, 5})),
    {[], Out} = hornbeam_http1_out:written(5, {sized, 5}),
    ?assertEqual({[], complete}, hornbeam_http1_out:part(fin, <<>>, Out)),
    [
        ?assertEqual({Out1, too_large}, {Out1, hornbeam_http1_out:written(6, Out1)})
     || Out1 <- [{sized, 5}, {sized, 0}, chunked, bodiless, raw, nothing, complete]
    ].

%% What there is of it is not sent.
without_a_body(_) ->
    ?assertEqual([{<<>>, bodiless}, {<<>>, complete}],
                 parts([{nofin, <<"he">>}, {fin, <<"llo">>}], bodiless)).

trailers(_) ->
    Trailers = #{<<"a">> => <<"b">>},
    [
        ?assertEqual({Text, Next}, as_text(hornbeam_http1_out:trailers(Trailers, Takes, Out)))
     || {Text, Next, Takes, Out} <- [
            {<<"0\r\na: b\r\n\r\n">>, complete, true, chunked},
            {<<"0\r\n\r\n">>, complete, false, chunked},
            {<<>>, complete, true, bodiless},
            {<<>>, complete, true, {sized, 0}},
            {<<>>, {sized, 1}, true, {sized, 1}}
        ]
    ].

%% Internal.

parts([{IsFin, Data} | Rest], Out0) ->
    {_, Out} = Part = as_text(hornbeam_http1_out:part(IsFin, Data, Out0)),
    [Part | parts(Rest, Out)];
parts([], _) ->
    [].

as_text({Bytes, Out}) -> {text(Bytes), Out}.

text(Bytes) -> iolist_to_binary(Bytes).
