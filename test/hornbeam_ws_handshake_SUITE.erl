%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_ws_handshake_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([requests/1, other_requests/1, rfc6455_example/1, http2/1]).
-export([versions/1, keys/1, malformed_lists/1, bodies/1]).
-export([subprotocols/1, application_headers/1]).
-export([extensions_declined/1, extensions_accepted/1, first_good_offer/1]).

all() ->
    [
        requests, other_requests, rfc6455_example, http2, versions, keys, malformed_lists, bodies,
        subprotocols, application_headers, extensions_declined, extensions_accepted,
        first_good_offer
    ].

%% Requests.

%% Names of protocols and options are not case-sensitive, and may stand among others.
requests(_) ->
    [
        begin
            Req = request(#{<<"upgrade">> => Upgrade, <<"connection">> => Connection}),
            ?assert(hornbeam_ws_handshake:is_request(Req)),
            ?assertMatch({ok, _}, hornbeam_ws_handshake:check(Req))
        end
     || Upgrade <- [<<"websocket">>, <<"WebSocket">>, <<"h2c, websocket">>, <<"websocket ,x/1">>],
        Connection <- [<<"Upgrade">>, <<"upgrade">>, <<"keep-alive, Upgrade">>,
            <<"keep-alive,\tUPGRADE , te">>]
    ].

%% They are requests like others, and not refused.
other_requests(_) ->
    [
        ?assertNot(hornbeam_ws_handshake:is_request(Req))
     || Req <- [
            (request())#{version := 'HTTP/1.0'},
            (request())#{version := 'HTTP/2'},
            (request())#{method := <<"POST">>},
            (request())#{method := <<"get">>},
            (request())#{method := <<"CONNECT">>},
            (request())#{headers := #{}},
            request(#{<<"upgrade">> => <<"h2c">>}),
            request(#{<<"upgrade">> => <<"websockets">>}),
            request(#{<<"upgrade">> => <<"websocket/13">>}),
            request(#{<<"upgrade">> => <<>>}),
            request(#{<<"upgrade">> => <<255>>}),
            request(#{<<"connection">> => <<"keep-alive">>}),
            request(#{<<"connection">> => <<>>}),
            without(<<"upgrade">>),
            without(<<"connection">>),
            http2_request(#{protocol => <<"webtransport">>}),
            maps:remove(protocol, http2_request(#{})),
            http2_request(#{method => <<"GET">>})
        ]
    ].

rfc6455_example(_) ->
    {ok, Handshake} = hornbeam_ws_handshake:check(request(#{
        <<"sec-websocket-protocol">> => <<"chat, superchat">>
    })),
    ?assertEqual(
        {101, #{
            <<"upgrade">> => <<"websocket">>,
            <<"connection">> => <<"Upgrade">>,
            <<"sec-websocket-accept">> => <<"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=">>,
            <<"sec-websocket-protocol">> => <<"chat">>
        }, undefined},
        hornbeam_ws_handshake:accept(Handshake, <<"chat">>, #{}, #{compress => true})).

%% RFC 8441 5.1: no key, no Upgrade, status 200.
http2(_) ->
    Req = http2_request(#{}),
    ?assert(hornbeam_ws_handshake:is_request(Req)),
    {ok, Handshake} = hornbeam_ws_handshake:check(Req),
    ?assertEqual([<<"chat">>, <<"superchat">>], hornbeam_ws_handshake:subprotocols(Handshake)),
    AppHeaders = #{<<"x-app">> => <<"1">>, <<"connection">> => <<"close">>},
    {200, Headers, Deflate} =
        hornbeam_ws_handshake:accept(Handshake, <<"chat">>, AppHeaders, #{compress => true}),
    ?assertEqual(#{
        <<"sec-websocket-protocol">> => <<"chat">>,
        <<"sec-websocket-extensions">> => <<"permessage-deflate; server_max_window_bits=12">>,
        <<"x-app">> => <<"1">>
    }, Headers),
    ?assertNotEqual(undefined, Deflate),
    %% A key that is sent all the same means nothing.
    {ok, WithKey} = hornbeam_ws_handshake:check(http2_request(#{headers => request_headers()})),
    ?assertMatch({200, Empty, undefined} when Empty =:= #{},
        hornbeam_ws_handshake:accept(WithKey, undefined, #{}, #{compress => false})),
    ?assertEqual(
        {refuse, {426, <<"the header sec-websocket-version has to be 13">>,
            #{<<"sec-websocket-version">> => <<"13">>}}},
        hornbeam_ws_handshake:check(http2_request(#{headers => #{}}))).

%% Refusals.

versions(_) ->
    [
        begin
            ?assert(hornbeam_ws_handshake:is_request(Req)),
            ?assertEqual(
                {refuse, {426, <<"the header sec-websocket-version has to be 13">>, #{
                    <<"sec-websocket-version">> => <<"13">>,
                    <<"connection">> => <<"Upgrade">>,
                    <<"upgrade">> => <<"websocket">>
                }}},
                hornbeam_ws_handshake:check(Req))
        end
     || Req <- [without(<<"sec-websocket-version">>) |
            [request(#{<<"sec-websocket-version">> => Version})
             || Version <- [<<"8">>, <<"14">>, <<"013">>, <<>>, <<"x">>, <<"13, 13">>]]]
    ].

keys(_) ->
    Key = fun(Bytes) -> base64:encode(binary:copy(<<255>>, Bytes)) end,
    ?assertMatch({ok, _}, hornbeam_ws_handshake:check(key_request(Key(16)))),
    [
        refused(<<"the header sec-websocket-key has to be 16 bytes in base64">>, Req)
     || Req <- [without(<<"sec-websocket-key">>) | [key_request(Bad)
            || Bad <- [<<>>, <<"x">>, Key(15), Key(17), Key(18), <<"dGhlIHNhbXBsZSBub25jZQ">>,
                <<"dGhlIHNhbXBsZSBub25jZ!==">>, <<"dGhlIHNhbXBsZSBub25jZQ==, ">>,
                <<"dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==">>,
                <<"    dGhlIHNhbXBsZSBub25j">>, <<"========================">>,
                binary:copy(<<255>>, 24)]]]
    ].

malformed_lists(_) ->
    [
        begin
            Req = request(#{Name => Value}),
            ?assert(hornbeam_ws_handshake:is_request(Req)),
            refused(<<"the header ", Name/binary, " is malformed">>, Req)
        end
     || {Name, Value} <- [
            {<<"upgrade">>, <<"websocket, @@(">>},
            {<<"upgrade">>, <<"web socket">>},
            {<<"connection">>, <<"upgrade, \"x\"">>},
            {<<"connection">>, <<"upgrade, ", 255>>},
            {<<"sec-websocket-protocol">>, <<>>},
            {<<"sec-websocket-protocol">>, <<" , ">>},
            {<<"sec-websocket-protocol">>, <<"chat superchat">>},
            {<<"sec-websocket-protocol">>, <<"chat, a/b">>}
        ]
    ].

%% What follows could be taken for frames, or for a body.
bodies(_) ->
    refused(<<"a WebSocket handshake must not have a body">>, (request())#{has_body := true}),
    %% On HTTP/2 it is what the frames are in.
    ?assertMatch({ok, _}, hornbeam_ws_handshake:check(http2_request(#{has_body => true}))).

%% The response.

%% In the client's order; Cowboy joins several lines.
subprotocols(_) ->
    [
        begin
            {ok, Handshake} = hornbeam_ws_handshake:check(Req),
            ?assertEqual(Expected, hornbeam_ws_handshake:subprotocols(Handshake))
        end
     || {Expected, Req} <- [
            {[], request()},
            {[<<"chat">>], request(#{<<"sec-websocket-protocol">> => <<"chat">>})},
            {[<<"v2.Chat">>, <<"chat">>, <<"a">>],
                request(#{<<"sec-websocket-protocol">> => <<"v2.Chat,chat , a">>})}
        ]
    ].

%% They are the application's, but for those that would say something else of the connection.
application_headers(_) ->
    {ok, Handshake} = hornbeam_ws_handshake:check(request()),
    Own = #{
        <<"x-app">> => <<"1">>, <<"set-cookie">> => [<<"a=1">>, <<"b=2">>],
        <<"server">> => [<<"o">>, $k], <<"date">> => <<"today">>
    },
    Bad = maps:from_list([{Name, <<"x">>} || Name <- [
        <<"connection">>, <<"upgrade">>, <<"keep-alive">>, <<"proxy-connection">>,
        <<"transfer-encoding">>, <<"content-length">>, <<"trailer">>, <<"sec-websocket-accept">>,
        <<"sec-websocket-extensions">>, <<"sec-websocket-protocol">>, <<"sec-websocket-version">>,
        <<"sec-websocket-key">>
    ]]),
    {101, Headers, undefined} = hornbeam_ws_handshake:accept(
        Handshake, undefined, maps:merge(Own, Bad), #{compress => false}),
    ?assertEqual(Own#{
        <<"connection">> => <<"Upgrade">>, <<"upgrade">> => <<"websocket">>,
        <<"sec-websocket-accept">> => <<"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=">>
    }, Headers).

%% Without compression, and for what is malformed or unknown, it is as if nothing had been offered.
extensions_declined(_) ->
    ?assertEqual(none, extension(<<"permessage-deflate">>, false)),
    [
        ?assertEqual({Offer, none}, {Offer, extension(Offer, true)})
     || Offer <- [
            <<>>, <<",">>, <<"x-webkit-deflate-frame">>, <<"permessage-bzip2">>,
            <<"permessage-deflate; unknown">>,
            <<"permessage-deflate; unknown=1">>,
            <<"permessage-deflate; server_no_context_takeover=1">>,
            <<"permessage-deflate; client_no_context_takeover=true">>,
            <<"permessage-deflate; server_max_window_bits">>,
            <<"permessage-deflate; server_max_window_bits=7">>,
            <<"permessage-deflate; server_max_window_bits=16">>,
            <<"permessage-deflate; server_max_window_bits=08">>,
            <<"permessage-deflate; server_max_window_bits=x">>,
            <<"permessage-deflate; server_max_window_bits=\"\"">>,
            <<"permessage-deflate; client_max_window_bits=20">>,
            <<"permessage-deflate; client_max_window_bits=1">>,
            <<"permessage-deflate; client_max_window_bits; client_max_window_bits=10">>,
            <<"permessage-deflate; server_no_context_takeover; server_no_context_takeover">>,
            <<"permessage-deflate; =">>,
            <<"permessage-deflate, ;;">>,
            <<"permessage-deflate; server_max_window_bits=10, \"">>,
            <<"permessage-deflate", 255>>
        ]
    ].

extensions_accepted(_) ->
    [
        ?assertEqual({Offer, <<"permessage-deflate; ", Answer/binary>>},
            {Offer, extension(<<"permessage-deflate", Offer/binary>>, true)})
     || {Offer, Answer} <- [
            {<<>>, <<"server_max_window_bits=12">>},
            {<<"; client_max_window_bits">>,
                <<"server_max_window_bits=12; client_max_window_bits=12">>},
            {<<"; client_max_window_bits=10">>,
                <<"server_max_window_bits=12; client_max_window_bits=10">>},
            {<<"; client_max_window_bits=\"8\"">>,
                <<"server_max_window_bits=12; client_max_window_bits=8">>},
            {<<";client_max_window_bits=15;server_max_window_bits=15">>,
                <<"server_max_window_bits=12; client_max_window_bits=12">>},
            {<<"; server_max_window_bits=9">>, <<"server_max_window_bits=9">>},
            {<<"; server_no_context_takeover">>,
                <<"server_max_window_bits=12; server_no_context_takeover">>},
            {<<"; client_no_context_takeover">>,
                <<"server_max_window_bits=12; client_no_context_takeover">>},
            {<<"; client_no_context_takeover ; server_max_window_bits=10; "
                "server_no_context_takeover; client_max_window_bits=11">>,
                <<"server_max_window_bits=10; server_no_context_takeover; "
                "client_no_context_takeover; client_max_window_bits=11">>}
        ]
    ].

%% One that cannot be taken is passed over.
first_good_offer(_) ->
    [
        ?assertEqual(<<"permessage-deflate; server_max_window_bits=10">>, extension(Offers, true))
     || Offers <- [
            <<"permessage-deflate; server_max_window_bits=10, permessage-deflate">>,
            <<"permessage-deflate; server_max_window_bits=16, "
                "permessage-deflate; server_max_window_bits=10">>,
            <<"foo, permessage-deflate; bar,permessage-deflate; server_max_window_bits=10, x; y=z">>
        ]
    ].

%% Internal.

request() ->
    #{version => 'HTTP/1.1', method => <<"GET">>, headers => request_headers(), has_body => false}.

%% RFC 6455 1.3.
request_headers() ->
    #{
        <<"host">> => <<"server.example.com">>,
        <<"upgrade">> => <<"websocket">>,
        <<"connection">> => <<"Upgrade">>,
        <<"sec-websocket-key">> => <<"dGhlIHNhbXBsZSBub25jZQ==">>,
        <<"sec-websocket-version">> => <<"13">>
    }.

request(Headers) ->
    (request())#{headers := maps:merge(request_headers(), Headers)}.

without(Name) ->
    (request())#{headers := maps:remove(Name, request_headers())}.

key_request(Key) ->
    request(#{<<"sec-websocket-key">> => Key}).

http2_request(Changes) ->
    maps:merge(#{
        version => 'HTTP/2', method => <<"CONNECT">>, protocol => <<"websocket">>, has_body => true,
        headers => #{
            <<"sec-websocket-version">> => <<"13">>,
            <<"sec-websocket-protocol">> => <<"chat, superchat">>,
            <<"sec-websocket-extensions">> => <<"permessage-deflate">>
        }
    }, Changes).

refused(Why, Req) ->
    ?assertEqual({Req, {refuse, {400, Why, #{}}}}, {Req, hornbeam_ws_handshake:check(Req)}).

extension(Offer, WithDeflate) ->
    {ok, Handshake} = hornbeam_ws_handshake:check(
        request(#{<<"sec-websocket-extensions">> => Offer})),
    {101, Headers, Deflate} =
        hornbeam_ws_handshake:accept(Handshake, undefined, #{}, #{compress => WithDeflate}),
    Extension = maps:get(<<"sec-websocket-extensions">>, Headers, none),
    ?assertEqual(Extension =:= none, Deflate =:= undefined),
    Extension.
