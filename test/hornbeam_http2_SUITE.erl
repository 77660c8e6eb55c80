%% SPDX-License-Identifier: Apache-2.0
%% What is pure of HTTP/2; the rest is tested with clients, in tests/e2e/test_http2_*.py.
-module(hornbeam_http2_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([options_follow_the_config/1]).
-export([windows/1]).
-export([upgrades/1]).
-export([bombs/1]).
-export([what_fits_into_a_frame/1]).

all() ->
    [options_follow_the_config, windows, upgrades, bombs, what_fits_into_a_frame].

options_follow_the_config(_) ->
    ?assertMatch(#{protocols := [http, http2], preface_timeout := 10000,
                   max_fragmented_header_block_size := 24574}, options(#{})),
    ?assertMatch(#{protocols := [http2]}, options(#{http_version => ['HTTP/2']})),
    ?assertMatch(#{preface_timeout := infinity, settings_timeout := infinity},
                 options(#{header_timeout => infinity})),
    %% No less than a frame, which no option of Cowboy's forbids.
    ?assertMatch(#{max_fragmented_header_block_size := 16384},
                 options(#{max_header_size => 64, max_request_line_size => 64})).

%% The default is what a stream has by itself.
windows(_) ->
    ?assertEqual([65535, 65535, 65535, 65537],
                 [hornbeam_http2:stream_window(Each) || Each <- [4096, 65535, 65536, 65537]]).

%% Where Cowboy takes a request for one, and nowhere else.
upgrades(_) ->
    Headers = #{<<"connection">> => <<"Upgrade, HTTP2-Settings">>, <<"upgrade">> => <<"h2c">>,
                <<"http2-settings">> => <<"AAMAAABk">>},
    IsUpgrade = fun(Given) ->
        hornbeam_http2:is_upgrade(#{version => 'HTTP/1.1', headers => Given})
    end,
    ?assert(IsUpgrade(Headers)),
    [?assertNot(IsUpgrade(maps:remove(Name, Headers))) || Name <- maps:keys(Headers)],
    ?assertNot(IsUpgrade(Headers#{<<"upgrade">> => <<"websocket">>})),
    ?assertNot(IsUpgrade(Headers#{<<"connection">> => <<"upgrade">>})),
    ?assertNot(hornbeam_http2:is_upgrade(#{version => 'HTTP/1.0', headers => Headers})),
    ?assertNot(hornbeam_http2:is_upgrade(#{version => 'HTTP/2', headers => Headers})).

%% 256 KiB, or four times what is allowed.
bombs(_) ->
    Headers = fun(Bytes) -> #{<<"x">> => binary:copy(<<"y">>, Bytes)} end,
    ?assertNot(hornbeam_http2:is_bomb(Headers(262000), 16384)),
    ?assert(hornbeam_http2:is_bomb(Headers(262144), 16384)),
    ?assertNot(hornbeam_http2:is_bomb(Headers(399000), 100000)),
    ?assert(hornbeam_http2:is_bomb(Headers(400000), 100000)).

%% As encoded: letters take 5 bits and more, some bytes 30.
what_fits_into_a_frame(_) ->
    Fits = fun(Value) -> hornbeam_http2:fits({response, 1, 200, [{<<"x">>, Value}], <<>>}) end,
    ?assert(Fits(binary:copy(<<"a">>, 25000))),
    ?assertNot(Fits(binary:copy(<<"a">>, 26000))),
    ?assert(Fits(binary:copy(<<10>>, 4000))),
    ?assertNot(Fits(binary:copy(<<10>>, 5000))),
    Large = [{<<"x">>, binary:copy(<<"a">>, 26000)}],
    ?assertNot(hornbeam_http2:fits({start, 1, 200, Large, <<>>})),
    ?assertNot(hornbeam_http2:fits({inform, 1, 103, Large})),
    ?assertNot(hornbeam_http2:fits({trailers, 1, Large})),
    ?assert(hornbeam_http2:fits({data, 1, <<>>})).

%% Internal.

options(Given) ->
    {ok, Config} = hornbeam_config:validate("app:app", Given),
    hornbeam_http2:options(Config).
