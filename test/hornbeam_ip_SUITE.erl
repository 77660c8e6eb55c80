%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_ip_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([addresses/1]).
-export([what_is_no_address/1]).
-export([networks/1]).
-export([what_is_no_network/1]).
-export([texts/1]).
-export([edges_of_networks/1]).
-export([mapped_addresses/1]).

all() ->
    [
        addresses,
        what_is_no_address,
        networks,
        what_is_no_network,
        texts,
        edges_of_networks,
        mapped_addresses
    ].

addresses(_) ->
    Forms = [
        {<<"0.0.0.0">>, {0, 0, 0, 0}},
        {<<"10.20.30.255">>, {10, 20, 30, 255}},
        {<<"::">>, {0, 0, 0, 0, 0, 0, 0, 0}},
        {<<"2001:db8::7">>, {16#2001, 16#db8, 0, 0, 0, 0, 0, 7}},
        {<<"2001:DB8::F">>, {16#2001, 16#db8, 0, 0, 0, 0, 0, 15}},
        {<<"64:ff9b::192.0.2.33">>, {16#64, 16#ff9b, 0, 0, 0, 0, 16#c000, 16#221}},
        {<<"::ffff:192.0.2.33">>, {192, 0, 2, 33}},
        {<<"0000:0000:0000:0000:0000:ffff:192.168.100.228">>, {192, 168, 100, 228}}
    ],
    [?assertEqual({Text, {ok, Ip}}, {Text, hornbeam_ip:parse(Text)}) || {Text, Ip} <- Forms].

%% Also what `inet' reads, as another address than people do.
what_is_no_address(_) ->
    Texts = [<<>>, <<"1">>, <<"1.2.3">>, <<"1.2.3.4.5">>, <<"256.0.0.1">>, <<"1.2.3.4 ">>,
             <<"010.0.0.1">>, <<"0x10.0.0.1">>, <<"1.2.3.00">>, <<"+1.2.3.4">>, <<"1.2.3.-4">>,
             <<"1..2.3">>, <<"1.2.3.0000000000004">>, <<"127.1">>, <<"localhost">>, <<"unknown">>,
             <<":">>, <<":::">>, <<"1::2::3">>, <<"1:2:3:4:5:6:7">>, <<"1:2:3:4:5:6:7:8:9">>,
             <<"12345::">>, <<"fe80::1%eth0">>, <<"[::1]">>, <<"::ffff:010.0.0.1">>,
             <<"::ffff:1.2.3.4:5">>, <<"::\0">>, <<255, 254>>, binary:copy(<<"1">>, 100000)],
    [?assertEqual({Text, error}, {Text, hornbeam_ip:parse(Text)}) || Text <- Texts].

networks(_) ->
    Forms = [
        {<<"10.0.0.0/8">>, {{10, 0, 0, 0}, 8}},
        {<<"10.1.2.3">>, {{10, 1, 2, 3}, 32}},
        {<<"0.0.0.0/0">>, {{0, 0, 0, 0}, 0}},
        {<<"::1">>, {{0, 0, 0, 0, 0, 0, 0, 1}, 128}},
        {<<"fc00::/7">>, {{16#fc00, 0, 0, 0, 0, 0, 0, 0}, 7}},
        {<<"::ffff:10.0.0.0/104">>, {{10, 0, 0, 0}, 8}},
        {<<"::ffff:10.0.0.1">>, {{10, 0, 0, 1}, 32}}
    ],
    [
        ?assertEqual({Text, {ok, Network}}, {Text, hornbeam_ip:parse_network(Text)})
     || {Text, Network} <- Forms
    ].

what_is_no_network(_) ->
    Texts = [<<"10.0.0.0/33">>, <<"10.0.0.0/">>, <<"/8">>, <<"10.0.0.0/-1">>, <<"10.0.0.0/08">>,
             <<"10.0.0.0/8/8">>, <<"10.0.0.0/a">>, <<"::/129">>, <<"::ffff:10.0.0.0/95">>,
             <<"::ffff:10.0.0.0/129">>, <<"10.0.0.0/255.0.0.0">>, <<"10.0.0.0/99999999999">>],
    [?assertEqual({Text, error}, {Text, hornbeam_ip:parse_network(Text)}) || Text <- Texts].

texts(_) ->
    ?assertEqual(<<"192.0.2.1">>, hornbeam_ip:to_text({192, 0, 2, 1})),
    ?assertEqual(<<"2001:db8::1">>, hornbeam_ip:to_text({16#2001, 16#db8, 0, 0, 0, 0, 0, 1})),
    ?assertEqual(<<"10.0.0.1">>, hornbeam_ip:to_text({0, 0, 0, 0, 0, 16#ffff, 16#0a00, 1})).

%% The first and the last address of a network are in it, their neighbours are not.
edges_of_networks(_) ->
    Set = set([<<"10.2.0.0/15">>, <<"192.0.2.7">>, <<"2001:db8::/33">>, <<"::1">>]),
    In = [<<"10.2.0.0">>, <<"10.3.255.255">>, <<"192.0.2.7">>, <<"2001:db8::">>,
          <<"2001:db8:7fff:ffff:ffff:ffff:ffff:ffff">>, <<"::1">>],
    Out = [<<"10.1.255.255">>, <<"10.4.0.0">>, <<"192.0.2.6">>, <<"192.0.2.8">>, <<"0.0.0.1">>,
           <<"2001:db7:ffff:ffff:ffff:ffff:ffff:ffff">>, <<"2001:db8:8000::">>, <<"::">>, <<"::2">>],
    [?assertEqual({Text, true}, {Text, is_in(Text, Set)}) || Text <- In],
    [?assertEqual({Text, false}, {Text, is_in(Text, Set)}) || Text <- Out],
    %% Bits behind the prefix do not count; all of one family is nothing of the other.
    ?assert(is_in(<<"10.9.9.9">>, set([<<"10.1.2.3/8">>]))),
    ?assert(is_in(<<"255.255.255.255">>, set([<<"0.0.0.0/0">>]))),
    ?assertNot(is_in(<<"::1">>, set([<<"0.0.0.0/0">>]))),
    ?assertNot(is_in(<<"10.0.0.1">>, set([<<"::/0">>]))),
    ?assertNot(is_in(<<"10.0.0.1">>, hornbeam_ip:new_set([]))).

%% An IPv4 client of a dual-stack socket is the same client.
mapped_addresses(_) ->
    Set = set([<<"10.0.0.0/8">>]),
    ?assert(hornbeam_ip:is_in({0, 0, 0, 0, 0, 16#ffff, 16#0a01, 1}, Set)),
    ?assertNot(hornbeam_ip:is_in({0, 0, 0, 0, 0, 16#ffff, 16#0b01, 1}, Set)),
    ?assert(is_in(<<"10.1.2.3">>, set([<<"::ffff:10.0.0.0/104">>]))).

%% Internal.

set(Texts) ->
    hornbeam_ip:new_set([Network || {ok, Network} <- [hornbeam_ip:parse_network(T) || T <- Texts]]).

is_in(Text, Set) ->
    {ok, Ip} = hornbeam_ip:parse(Text),
    hornbeam_ip:is_in(Ip, Set).
