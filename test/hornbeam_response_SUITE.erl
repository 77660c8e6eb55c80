%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_response_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).

-export([date_and_server_are_added/1]).
-export([those_of_the_application_win/1]).
-export([neither_where_not_wanted/1]).
-export([repeated_headers_keep_their_lines/1]).
-export([cookies_keep_their_order/1]).
-export([http2_joins/1]).
-export([http2_has_no_connection_headers/1]).
-export([trailers_and_hints_get_nothing_added/1]).
-export([length_is_added/1]).
-export([length_of_the_application_stays/1]).
-export([no_body_where_there_is_none/1]).
-export([head_of_an_unknown_length/1]).
-export([streamed_204_has_no_length/1]).
-export([bodies/1]).
-export([answers_of_the_server/1]).

-define(DEFAULTS, #{server_header => <<"hornbeam">>, date_header => true}).
-define(NONE, #{server_header => undefined, date_header => false}).

all() ->
    [
        date_and_server_are_added,
        those_of_the_application_win,
        neither_where_not_wanted,
        repeated_headers_keep_their_lines,
        cookies_keep_their_order,
        http2_joins,
        http2_has_no_connection_headers,
        trailers_and_hints_get_nothing_added,
        length_is_added,
        length_of_the_application_stays,
        no_body_where_there_is_none,
        head_of_an_unknown_length,
        streamed_204_has_no_length,
        bodies,
        answers_of_the_server
    ].

%% Cowboy's clock.
init_per_suite(Config) ->
    {ok, Started} = application:ensure_all_started(cowboy),
    [{started, Started} | Config].

end_per_suite(Config) ->
    [application:stop(App) || App <- lists:reverse(proplists:get_value(started, Config))].

%% A response says when it was made and by whom.
date_and_server_are_added(_) ->
    #{<<"date">> := Date, <<"server">> := Server} = headers([]),
    ?assertEqual(<<"hornbeam">>, Server),
    ?assertMatch(<<_:3/binary, ", ", _:20/binary, " GMT">>, Date).

%% Each of them once.
those_of_the_application_win(_) ->
    Given = [{<<"date">>, <<"then">>}, {<<"server">>, <<"mine">>}],
    ?assertEqual(
        #{<<"date">> => <<"then">>, <<"server">> => <<"mine">>},
        headers(Given)
    ).

%% Both can be turned off.
neither_where_not_wanted(_) ->
    ?assertEqual(#{}, hornbeam_response:headers([], 'HTTP/1.1', ?NONE)).

%% On HTTP/1 each value has a line of its own, in the order of the application.
repeated_headers_keep_their_lines(_) ->
    Given = [{<<"link">>, <<"a">>}, {<<"x">>, <<"1">>}, {<<"link">>, <<"b">>}, {<<"link">>, <<>>}],
    Map = hornbeam_response:headers(Given, 'HTTP/1.1', ?NONE),
    ?assertEqual(
        <<"link: a\r\nlink: b\r\nlink: \r\nx: 1\r\n">>,
        iolist_to_binary(cow_http:headers(maps:to_list(Map)))
    ).

%% Cowboy has a form of its own for these.
cookies_keep_their_order(_) ->
    Given = [{<<"set-cookie">>, Value} || Value <- [<<"a=1">>, <<"b=2">>, <<"a=3">>]],
    ?assertEqual(
        #{<<"set-cookie">> => [<<"a=1">>, <<"b=2">>, <<"a=3">>]},
        hornbeam_response:headers(Given, 'HTTP/1.1', ?NONE)
    ).

%% There, one field with all values is the same (RFC 9110 5.3).
http2_joins(_) ->
    Given = [{<<"link">>, <<"a">>}, {<<"link">>, <<"b">>}],
    #{<<"link">> := Value} = hornbeam_response:headers(Given, 'HTTP/2', ?NONE),
    ?assertEqual(<<"a, b">>, iolist_to_binary(Value)).

%% They would make the response malformed (RFC 9113 8.2.2).
http2_has_no_connection_headers(_) ->
    Names = [<<"connection">>, <<"keep-alive">>, <<"proxy-connection">>, <<"upgrade">>],
    Given = [{Name, <<"x">>} || Name <- Names],
    ?assertEqual(#{}, hornbeam_response:headers(Given, 'HTTP/2', ?NONE)),
    ?assertEqual(Names, lists:sort(maps:keys(hornbeam_response:headers(Given, 'HTTP/1.1', ?NONE)))).

%% A date belongs to the final response.
trailers_and_hints_get_nothing_added(_) ->
    Given = [{<<"link">>, <<"a">>}],
    ?assertEqual(#{<<"link">> => <<"a">>}, hornbeam_response:trailers(Given)).

%% The body of a whole response has a length.
length_is_added(_) ->
    ?assertEqual(
        {response, 200, #{<<"content-length">> => <<"4">>}, <<"body">>},
        hornbeam_response:whole(200, #{}, <<"body">>, <<"GET">>)
    ),
    ?assertMatch(
        {response, 200, #{<<"content-length">> := <<"0">>}, <<>>},
        hornbeam_response:whole(200, #{}, <<>>, <<"POST">>)
    ).

%% The application may have said it, in its way.
length_of_the_application_stays(_) ->
    Headers = #{<<"content-length">> => <<"04">>},
    ?assertEqual(
        {response, 200, Headers, <<"body">>},
        hornbeam_response:whole(200, Headers, <<"body">>, <<"GET">>)
    ).

%% HEAD, 204 and 304 end with their headers, and 204 has no length either (RFC 9110 8.6).
no_body_where_there_is_none(_) ->
    Length = #{<<"content-length">> => <<"4">>},
    ?assertEqual(
        {response, 200, Length, <<>>},
        hornbeam_response:whole(200, #{}, <<"body">>, <<"HEAD">>)
    ),
    ?assertEqual(
        {response, 204, #{}, <<>>},
        hornbeam_response:whole(204, Length, <<"body">>, <<"GET">>)
    ),
    ?assertEqual(
        {response, 304, Length, <<>>},
        hornbeam_response:whole(304, Length, <<"body">>, <<"GET">>)
    ).

%% An application that spares itself the body for HEAD has not said that GET has none.
head_of_an_unknown_length(_) ->
    ?assertEqual(
        {response, 200, #{}, <<>>},
        hornbeam_response:whole(200, #{}, <<>>, <<"HEAD">>)
    ).

%% The same for a response in parts.
streamed_204_has_no_length(_) ->
    Length = #{<<"content-length">> => <<"4">>},
    ?assertEqual(#{}, hornbeam_response:streamed(204, Length)),
    ?assertEqual(Length, hornbeam_response:streamed(200, Length)),
    ?assertEqual(Length, hornbeam_response:streamed(304, Length)).

%% Which responses have a body.
bodies(_) ->
    ?assert(hornbeam_response:has_body(200, <<"GET">>)),
    ?assert(hornbeam_response:has_body(404, <<"POST">>)),
    ?assertNot(hornbeam_response:has_body(200, <<"HEAD">>)),
    ?assertNot(hornbeam_response:has_body(204, <<"GET">>)),
    ?assertNot(hornbeam_response:has_body(304, <<"GET">>)).

%% Plain text with everything that a response of an application has.
answers_of_the_server(_) ->
    {response, 503, Headers, Body} = hornbeam_response:error(503, <<"busy">>, ?DEFAULTS),
    ?assertEqual(<<"busy\n">>, Body),
    ?assertMatch(
        #{
            <<"content-length">> := <<"5">>,
            <<"content-type">> := <<"text/plain; charset=utf-8">>,
            <<"server">> := <<"hornbeam">>,
            <<"date">> := _
        },
        Headers
    ).

%% Internal.

headers(Given) ->
    hornbeam_response:headers(Given, 'HTTP/1.1', ?DEFAULTS).
