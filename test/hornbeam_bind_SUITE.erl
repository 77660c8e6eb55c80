%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_bind_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([forms/1]).
-export([refused/1]).
-export([port_edges/1]).
-export([socket_path_edges/1]).
-export([names_are_resolved/1]).
-export([name_that_does_not_resolve/1]).
-export([urls/1]).
-export([port_of_the_system/1]).

all() ->
    [
        forms,
        refused,
        port_edges,
        socket_path_edges,
        names_are_resolved,
        name_that_does_not_resolve,
        urls,
        port_of_the_system
    ].

%% Every form of the reference, before names are resolved.
forms(_) ->
    Forms = [
        {<<"127.0.0.1:8000">>, {127, 0, 0, 1}, 8000},
        {<<"0.0.0.0:80">>, {0, 0, 0, 0}, 80},
        {<<":8000">>, {0, 0, 0, 0}, 8000},
        {<<"[::1]:8000">>, {0, 0, 0, 0, 0, 0, 0, 1}, 8000},
        {<<"[::]:0">>, {0, 0, 0, 0, 0, 0, 0, 0}, 0},
        {<<"[::ffff:10.0.0.1]:1">>, {0, 0, 0, 0, 0, 16#FFFF, 16#0A00, 1}, 1},
        {<<"localhost:8000">>, "localhost", 8000},
        {<<"app-1.example.org:8000">>, "app-1.example.org", 8000},
        {<<"my_container:8000">>, "my_container", 8000}
    ],
    [
        ?assertEqual(
            {ok, #{type => tcp, host => Host, port => Port, text => Text}},
            hornbeam_bind:parse(Text)
        )
     || {Text, Host, Port} <- Forms
    ],
    ?assertEqual(
        {ok, #{type => unix, path => <<"/run/a:b.sock">>, text => <<"unix:/run/a:b.sock">>}},
        hornbeam_bind:parse(<<"unix:/run/a:b.sock">>)
    ).

%% What is no address is an error that says what was expected.
refused(_) ->
    Texts = [
        {<<>>, "an address with a port"},
        {<<"localhost">>, "an address with a port"},
        {<<"8000">>, "an address with a port"},
        {<<"::1:8000">>, "in brackets"},
        {<<"a:b:80">>, "in brackets"},
        {<<"[::1]">>, "an IPv6 address and a port"},
        {<<"[::1">>, "an IPv6 address and a port"},
        {<<"[localhost]:80">>, "between the brackets"},
        {<<"[127.0.0.1]:80">>, "between the brackets"},
        {<<"[fe80::1%eth0]:80">>, "without a zone"},
        {<<"[]:80">>, "between the brackets"},
        {<<"256.0.0.1:80">>, "an IPv4 address of four numbers"},
        {<<"10.1:80">>, "an IPv4 address of four numbers"},
        {<<"127.0.0.1.:80">>, "an IPv4 address of four numbers"},
        {<<"-x:80">>, "\"host:port\""},
        {<<"a..b:80">>, "\"host:port\""},
        {<<"a.:80">>, "\"host:port\""},
        {<<"a b:80">>, "\"host:port\""},
        {<<"a\n:80">>, "\"host:port\""},
        {<<"bücher:80"/utf8>>, "\"host:port\""},
        {<<"http://localhost:80">>, "\"host:port\""},
        {<<"http://localhost">>, "a port from"},
        {<<"unix:">>, "an absolute socket path"},
        {<<"unix:app.sock">>, "an absolute socket path"},
        {<<"unix:/a", 0, "b">>, "without NUL"}
    ],
    [?assertMatch({_, {match, _}}, {Text, refusal(Text, Expected)}) || {Text, Expected} <- Texts].

%% 0 and 65535 are the first and the last port, and only digits make one.
port_edges(_) ->
    [
        ?assertMatch({ok, #{port := Port}}, parse_port(integer_to_list(Port)))
     || Port <- [0, 1, 65535]
    ],
    [
        ?assertEqual({error, "a port from 0 to 65535"}, parse_port(Text))
     || Text <- ["65536", "99999", "100000", "-1", "+1", "", "8o", "1 ", "80\n"]
    ].

%% A socket's path may have 107 bytes, as sun_path has 108.
socket_path_edges(_) ->
    Fits = <<"unix:/", (binary:copy(<<"x">>, 106))/binary>>,
    ?assertMatch({ok, #{type := unix}}, hornbeam_bind:parse(Fits)),
    ?assertMatch({match, _}, refusal(<<Fits/binary, "x">>, "at most 107 bytes")).

%% A name becomes the address that the resolver gives for it.
names_are_resolved(_) ->
    {ok, Address} = hornbeam_bind:read(<<"localhost:8000">>),
    ?assertMatch(#{type := tcp, port := 8000, text := <<"localhost:8000">>}, Address),
    ?assertEqual(inet:getaddr("localhost", inet), {ok, map_get(ip, Address)}).

%% A name that does not resolve is an error that names it, never 0.0.0.0.
name_that_does_not_resolve(_) ->
    {error, Expected} = hornbeam_bind:read(<<"no-such-host.invalid:8000">>),
    ?assertEqual(
        <<"a host that resolves; no-such-host.invalid does not">>, iolist_to_binary(Expected)
    ).

%% Addresses print as what a client takes.
urls(_) ->
    Urls = [
        {<<"127.0.0.1:8000">>, <<"http://127.0.0.1:8000">>},
        {<<":8000">>, <<"http://0.0.0.0:8000">>},
        {<<"[::1]:8000">>, <<"http://[::1]:8000">>},
        {<<"[2001:DB8::0:1]:80">>, <<"http://[2001:db8::1]:80">>},
        {<<"unix:/run/app.sock">>, <<"unix:/run/app.sock">>}
    ],
    [?assertEqual(Url, hornbeam_bind:url(read(Text))) || {Text, Url} <- Urls],
    ?assertEqual(<<"https://[::1]:443">>, hornbeam_bind:url(read(<<"[::1]:443">>), <<"https">>)).

%% Port 0 gives way to the port that the system chose; a socket's path stays.
port_of_the_system(_) ->
    ?assertMatch(#{port := 4711}, hornbeam_bind:with_port(read(<<"127.0.0.1:0">>), 4711)),
    Unix = read(<<"unix:/run/app.sock">>),
    ?assertEqual(Unix, hornbeam_bind:with_port(Unix, 4711)).

%% Internal.

read(Text) ->
    {ok, Address} = hornbeam_bind:read(Text),
    Address.

parse_port(Text) ->
    hornbeam_bind:parse(iolist_to_binary(["127.0.0.1:", Text])).

refusal(Text, Pattern) ->
    {error, Expected} = hornbeam_bind:parse(Text),
    Said = unicode:characters_to_binary(Expected),
    case binary:match(Said, list_to_binary(Pattern)) of
        nomatch -> {no_match, Said};
        Found -> {match, Found}
    end.
