%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_scope_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([ordinary_requests_pass/1]).
-export([scope_of_a_request/1]).
-export([tls_is_told/1]).
-export([chunked_is_told/1]).
-export([schemes_of_websockets/1]).
-export([versions/1]).
-export([disabled_versions/1]).
-export([request_line_at_its_limit/1]).
-export([bytes_in_the_target/1]).
-export([header_section_at_its_limit/1]).
-export([header_names/1]).
-export([header_values/1]).
-export([ports_in_host/1]).
-export([content_length/1]).
-export([transfer_encoding_of_old_clients/1]).
-export([body_at_its_limit/1]).
-export([first_fault_is_told/1]).
-export([methods/1]).
-export([number_of_headers/1]).
-export([http2_pseudo_headers/1]).
-export([http2_host/1]).
-export([http2_header_values/1]).
-export([http2_empty_body/1]).
-export([http2_settled/1]).

all() ->
    [
        ordinary_requests_pass,
        scope_of_a_request,
        tls_is_told,
        chunked_is_told,
        schemes_of_websockets,
        versions,
        disabled_versions,
        request_line_at_its_limit,
        bytes_in_the_target,
        header_section_at_its_limit,
        header_names,
        header_values,
        ports_in_host,
        content_length,
        transfer_encoding_of_old_clients,
        body_at_its_limit,
        first_fault_is_told,
        methods,
        number_of_headers,
        http2_pseudo_headers,
        http2_host,
        http2_header_values,
        http2_empty_body,
        http2_settled
    ].

%% Only the scheme tells a WebSocket's scope apart.
schemes_of_websockets(_) ->
    [
        begin
            Scope = hornbeam_scope:new(req(#{scheme => Scheme}), undefined, {<<"a">>, 1}),
            Expected = setelement(2, Scope, WebSocketScheme),
            ?assertEqual(Expected, hornbeam_scope:of_websocket(Scope))
        end
     || {Scheme, WebSocketScheme} <- [{<<"http">>, <<"ws">>}, {<<"https">>, <<"wss">>}]
    ].

%% What clients send every day is fine.
ordinary_requests_pass(_) ->
    Requests = [
        req(#{}),
        req(#{version => 'HTTP/1.0', headers => #{}}),
        req(#{path => <<"*">>, method => <<"OPTIONS">>}),
        req(#{path => <<"/caf%C3%A9">>, qs => <<"a=b&c=%20">>}),
        req(#{path => <<"/caf\xC3\xA9">>}),
        req(#{headers => #{<<"host">> => <<"a:8000">>, <<"x-empty">> => <<>>}}),
        req(#{headers => #{<<"host">> => <<"[::1]:8000">>, <<"x">> => <<"a\tb \xFF">>}})
    ],
    [?assertEqual(ok, check(Request)) || Request <- Requests].

%% In a ninth field, which other connections do not have.
tls_is_told(_) ->
    Scope = hornbeam_scope:new(req(#{}), undefined, {<<"a">>, 1}),
    Tls = {16#0304, 16#1301, <<"PEM">>, [], undefined},
    ?assertEqual(Scope, hornbeam_scope:with_tls(Scope, undefined)),
    ?assertEqual(setelement(9, Scope, #{tls => Tls}), hornbeam_scope:with_tls(Scope, Tls)).

%% The application's scope is what was sent, with the addresses of the connection.
scope_of_a_request(_) ->
    Client = {<<"10.0.0.1">>, 5000},
    Server = {<<"10.0.0.2">>, 80},
    Headers = #{<<"host">> => <<"a">>, <<"x">> => <<"1, 2">>},
    Req = req(#{method => <<"PUT">>, path => <<"/p%20q">>, qs => <<"a=1">>, headers => Headers}),
    ?assertEqual(
        {<<"PUT">>, <<"http">>, <<"1.1">>, <<"/p%20q">>, <<"a=1">>,
         [{<<"host">>, <<"a">>}, {<<"x">>, <<"1, 2">>}], Client, Server, #{}},
        hornbeam_scope:new(Req, Client, Server)
    ),
    Unix = {<<"/run/a.sock">>, undefined},
    ?assertMatch({_, _, _, _, _, _, undefined, Unix, #{}},
                 hornbeam_scope:new(Req, undefined, Unix)).

%% Cowboy has taken the header away; the application may want to know of it.
chunked_is_told(_) ->
    Chunked = req(#{has_body => true, body_length => undefined}),
    ?assert(lists:member({<<"transfer-encoding">>, <<"chunked">>}, headers(Chunked))),
    ?assertNot(lists:keymember(<<"transfer-encoding">>, 1, headers(req(#{})))),
    Http2 = req(#{version => 'HTTP/2', has_body => true, body_length => undefined}),
    ?assertNot(lists:keymember(<<"transfer-encoding">>, 1, headers(Http2))).

%% As ASGI writes them.
versions(_) ->
    ?assertEqual(<<"1.0">>, hornbeam_scope:version('HTTP/1.0')),
    ?assertEqual(<<"1.1">>, hornbeam_scope:version('HTTP/1.1')),
    ?assertEqual(<<"2">>, hornbeam_scope:version('HTTP/2')).

%% HTTP/1.0 comes and goes with HTTP/1.1.
disabled_versions(_) ->
    Only2 = #{http_version => ['HTTP/2']},
    Only1 = #{http_version => ['HTTP/1.1']},
    ?assertMatch({refuse, {505, _}}, check(req(#{}), Only2)),
    ?assertMatch({refuse, {505, _}}, check(req(#{version => 'HTTP/1.0'}), Only2)),
    ?assertEqual(ok, check(req2(#{}), Only2)),
    ?assertMatch({refuse, {505, _}}, check(req(#{version => 'HTTP/2'}), Only1)),
    ?assertEqual(ok, check(req(#{version => 'HTTP/1.0'}), Only1)).

%% The line as it was sent, without its line break, may be as long as the limit.
request_line_at_its_limit(_) ->
    Targets = [{<<"/", (binary:copy(<<"a">>, 80))/binary>>, <<>>},
               {<<"/">>, binary:copy(<<"a">>, 80)}],
    [
        begin
            Line = case Query of
                <<>> -> <<"GET ", Path/binary, " HTTP/1.1">>;
                _ -> <<"GET ", Path/binary, "?", Query/binary, " HTTP/1.1">>
            end,
            Req = req(#{path => Path, qs => Query}),
            Limit = byte_size(Line),
            ?assertEqual(ok, check(Req, #{max_request_line_size => Limit})),
            ?assertMatch({refuse, {414, _}}, check(Req, #{max_request_line_size => Limit - 1}))
        end
     || {Path, Query} <- Targets
    ].

%% Spaces and control characters cannot be in a target, wherever Cowboy has let them through.
bytes_in_the_target(_) ->
    [
        begin
            ?assertMatch({refuse, {400, _}}, check(req(#{path => <<"/a", Byte, "b">>}))),
            ?assertMatch({refuse, {400, _}}, check(req(#{qs => <<"a", Byte>>})))
        end
     || Byte <- lists:seq(0, 32) ++ [127]
    ],
    [
        ?assertEqual(ok, check(req(#{path => <<"/a", Byte, "b">>})))
     || Byte <- lists:seq(33, 126) ++ lists:seq(128, 255)
    ].

%% All lines together, line breaks included, may be as long as the limit.
header_section_at_its_limit(_) ->
    Headers = #{<<"host">> => <<"a">>, <<"x-long">> => binary:copy(<<"v">>, 100)},
    Lines = [[Name, ": ", Value, "\r\n"] || {Name, Value} <- maps:to_list(Headers)],
    Limit = iolist_size(Lines),
    Req = req(#{headers => Headers}),
    ?assertEqual(ok, check(Req, #{max_header_size => Limit})),
    ?assertMatch({refuse, {431, _}}, check(Req, #{max_header_size => Limit - 1})).

%% A name is a token (RFC 9110 5.6.2), whatever Cowboy takes.
header_names(_) ->
    Token = "!#$%&'*+-.^_`|~" ++ lists:seq($0, $9) ++ lists:seq($a, $z) ++ lists:seq($A, $Z),
    [
        begin
            Req = req(#{headers => #{<<"host">> => <<"a">>, <<"a", Byte>> => <<"v">>}}),
            case lists:member(Byte, Token) of
                true -> ?assertEqual({Byte, ok}, {Byte, check(Req)});
                false -> ?assertMatch({Byte, {refuse, {400, _}}}, {Byte, check(Req)})
            end
        end
     || Byte <- lists:seq(0, 255)
    ],
    Empty = req(#{headers => #{<<"host">> => <<"a">>, <<>> => <<"v">>}}),
    ?assertMatch({refuse, {400, _}}, check(Empty)).

%% CR, LF and NUL are dangerous wherever they stand (RFC 9110 5.5); other bytes are not.
header_values(_) ->
    [
        begin
            Req = req(#{headers => #{<<"host">> => <<"a">>, <<"x">> => Value}}),
            case lists:member(Byte, [0, 10, 13]) of
                true -> ?assertMatch({refuse, {400, _}}, check(Req));
                false -> ?assertEqual(ok, check(Req))
            end
        end
     || Byte <- lists:seq(0, 255),
        Value <- [<<Byte>>, <<"a", Byte>>, <<Byte, "b">>, <<"a", Byte, "b">>]
    ].

%% Cowboy reads "+80" as a number.
ports_in_host(_) ->
    ?assertMatch({refuse, {400, _}}, check(req(#{headers => #{<<"host">> => <<"a:+80">>}}))),
    ?assertMatch({refuse, {400, _}}, check(req(#{headers => #{<<"host">> => <<":80">>}}))),
    ?assertEqual(ok, check(req(#{headers => #{<<"host">> => <<"a+b:80">>}}))),
    ?assertEqual(ok, check(req(#{headers => #{<<"host">> => <<>>}}))).

%% A length is digits and nothing else.
content_length(_) ->
    Bad = [<<"+5">>, <<"-5">>, <<"5 ">>, <<"0x5">>, <<"5, 5">>, <<"5_0">>, <<>>, <<" 5">>],
    [
        ?assertMatch({Length, {refuse, {400, _}}}, {Length, check(with_length(Length, 5))})
     || Length <- Bad
    ],
    ?assertEqual(ok, check(with_length(<<"5">>, 5))),
    ?assertEqual(ok, check(with_length(<<"005">>, 5))),
    %% Cowboy would wait for the end of this body for ever.
    ?assertMatch({refuse, {400, _}}, check(with_length(<<"00">>, 0))).

%% HTTP/1.0 has no chunks; what such a client means is anybody's guess.
transfer_encoding_of_old_clients(_) ->
    Chunked = #{has_body => true, body_length => undefined},
    ?assertMatch({refuse, {400, _}}, check(req(Chunked#{version => 'HTTP/1.0'}))),
    ?assertEqual(ok, check(req(Chunked))).

%% A length that is known is refused before the body comes.
body_at_its_limit(_) ->
    Limits = #{max_body => 5},
    ?assertEqual(ok, check(with_length(<<"5">>, 5), Limits)),
    ?assertMatch({refuse, {413, _}}, check(with_length(<<"6">>, 6), Limits)),
    ?assertEqual(ok, check(with_length(<<"6">>, 6), #{max_body => infinity})),
    Most = 16#7FFFFFFFFFFFFFFF,
    ?assertEqual(ok, check(with_length(integer_to_binary(Most), Most))),
    ?assertMatch({refuse, {413, _}}, check(with_length(integer_to_binary(Most + 1), Most + 1))),
    ?assertMatch({refuse, {413, _}}, check(with_length(<<"1">>, 1), #{max_body => 0})).

%% One answer, of the part that came first.
first_fault_is_told(_) ->
    Req = req(#{path => <<"/\0">>, headers => #{<<"host">> => <<"a:+1">>, <<"x">> => <<"\n">>}}),
    ?assertMatch({refuse, {400, <<"control character", _/binary>>}}, check(Req)).

%% RFC 9110 9.1: a token, of any case.
methods(_) ->
    [?assertEqual(ok, check(req(#{method => Each}))) || Each <- [<<"PATCH">>, <<"get">>, <<"M-SEARCH">>]],
    [?assertMatch({refuse, {400, _}}, check(req(#{method => Each})))
     || Each <- [<<>>, <<"GET /">>, <<"GET\r\n">>, <<"G:T">>]].

%% Cowboy counts those of HTTP/1 before they are joined, those of HTTP/2 not at all.
number_of_headers(_) ->
    Headers = maps:from_list([{<<"x", (integer_to_binary(N))/binary>>, <<>>} || N <- lists:seq(1, 4)]),
    Req = req2(#{headers => Headers}),
    ?assertEqual(ok, check(Req, #{max_headers => 4})),
    ?assertMatch({refuse, {431, _}}, check(Req, #{max_headers => 3})).

%% RFC 9113 8.3.1.
http2_pseudo_headers(_) ->
    Good = [#{}, #{path => <<"*">>, method => <<"OPTIONS">>}, #{scheme => <<"https">>, port => 443}],
    Bad = [#{path => <<"a">>}, #{path => <<"*">>}, #{path => <<"http://a/">>},
           #{scheme => <<>>}, #{scheme => <<"ftp">>, port => undefined},
           #{host => <<>>}, #{port => -1}, #{port => 65536}],
    [?assertEqual(ok, check(req2(Each))) || Each <- Good],
    [?assertMatch({refuse, {400, _}}, check(req2(Each))) || Each <- Bad].

%% What applications read is what the request is for. A port that is the scheme's may be left out.
http2_host(_) ->
    Check = fun(Host, Port, Header) ->
        check(req2(#{host => Host, port => Port, headers => #{<<"host">> => Header}}))
    end,
    [?assertEqual(ok, Check(Host, Port, Header))
     || {Host, Port, Header} <- [{<<"a">>, 80, <<"a">>}, {<<"a">>, 80, <<"A:80">>},
                                 {<<"a">>, 81, <<"a:81">>}, {<<"[::1]">>, 80, <<"[::1]">>}]],
    [?assertMatch({refuse, {400, _}}, Check(Host, Port, Header))
     || {Host, Port, Header} <- [{<<"a">>, 80, <<"b">>}, {<<"a">>, 81, <<"a">>},
                                 {<<"a">>, 80, <<"a:81">>}, {<<"a">>, 80, <<"a, a">>},
                                 {<<"a">>, 80, <<>>}, {<<"a">>, 80, <<"a:+80">>}]].

%% RFC 9113 8.2.1 and 8.2.2.
http2_header_values(_) ->
    Check = fun(Name, Value) -> check(req2(#{headers => #{Name => Value}})) end,
    [?assertEqual(ok, Check(<<"x">>, Value)) || Value <- [<<>>, <<"a b">>, <<"a\tb">>]],
    [?assertMatch({refuse, {400, _}}, Check(<<"x">>, Value))
     || Value <- [<<" ">>, <<" a">>, <<"a ">>, <<"\ta">>, <<"a\t">>]],
    ?assertMatch({refuse, {400, _}}, Check(<<"proxy-connection">>, <<"keep-alive">>)),
    ?assertEqual(ok, check(req(#{headers => #{<<"host">> => <<"a">>, <<"proxy-connection">> => <<>>}}))).

%% The end of the stream is a frame of its own there.
http2_empty_body(_) ->
    Length = #{<<"host">> => <<"a">>, <<"content-length">> => <<"0">>},
    Parts = #{headers => Length, has_body => true, body_length => 0},
    ?assertEqual(ok, check(req2(Parts))),
    ?assertMatch({refuse, {400, _}}, check(req(Parts))).

%% The scheme is the connection's; the port that went with the other one stays in sight.
http2_settled(_) ->
    Host = fun(Req) -> #{headers := #{<<"host">> := Host}} = hornbeam_scope:settled(Req, <<"http">>), Host end,
    ?assertEqual(<<"a">>, Host(req2(#{}))),
    ?assertEqual(<<"a:81">>, Host(req2(#{port => 81}))),
    ?assertEqual(<<"a">>, Host(req2(#{scheme => <<"https">>, port => 443}))),
    ?assertEqual(<<"A">>, Host(req2(#{headers => #{<<"host">> => <<"A">>}}))),
    ?assertMatch(#{scheme := <<"http">>},
                 hornbeam_scope:settled(req2(#{scheme => <<"https">>}), <<"http">>)).

%% Internal.

req(Given) ->
    maps:merge(
        #{
            method => <<"GET">>,
            scheme => <<"http">>,
            version => 'HTTP/1.1',
            path => <<"/">>,
            qs => <<>>,
            host => <<"a">>,
            port => 80,
            headers => #{<<"host">> => <<"a">>},
            has_body => false,
            body_length => 0
        },
        Given
    ).

req2(Given) ->
    Parts = #{version => 'HTTP/2', host => <<"a">>, port => 80, headers => #{}},
    req(maps:merge(Parts, Given)).

with_length(Text, Length) ->
    req(#{
        headers => #{<<"host">> => <<"a">>, <<"content-length">> => Text},
        has_body => true,
        body_length => Length
    }).

check(Req) ->
    check(Req, #{}).

check(Req, Given) ->
    Limits = #{
        max_request_line_size => 8190,
        max_header_size => 16384,
        max_headers => 100,
        max_body => infinity,
        http_version => ['HTTP/1.1', 'HTTP/2']
    },
    hornbeam_scope:check(Req, maps:merge(Limits, Given)).

headers(Req) ->
    {_, _, _, _, _, Headers, _, _, _} = hornbeam_scope:new(Req, undefined, {<<"a">>, 1}),
    Headers.
