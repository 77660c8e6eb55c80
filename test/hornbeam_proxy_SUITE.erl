%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_proxy_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([only_trusted_peers_are_believed/1]).
-export([nothing_said_changes_nothing/1]).
-export([right_most_untrusted_address/1]).
-export([forms_of_addresses/1]).
-export([what_is_no_address/1]).
-export([schemes/1]).
-export([hosts/1]).
-export([ports_of_hosts/1]).
-export([host_where_there_was_none/1]).
-export([values_of_the_same_hop/1]).
-export([forwarded/1]).
-export([malformed_forwarded/1]).
-export([left_open_quotation_mark/1]).
-export([one_kind_of_header_wins/1]).
-export([prefixes/1]).
-export([scheme_of_a_proxy_header/1]).

all() ->
    [
        only_trusted_peers_are_believed,
        nothing_said_changes_nothing,
        right_most_untrusted_address,
        forms_of_addresses,
        what_is_no_address,
        schemes,
        hosts,
        ports_of_hosts,
        host_where_there_was_none,
        values_of_the_same_hop,
        forwarded,
        malformed_forwarded,
        left_open_quotation_mark,
        one_kind_of_header_wins,
        prefixes,
        scheme_of_a_proxy_header
    ].

-define(PROXY, {10, 0, 0, 1}).
-define(FOR, <<"x-forwarded-for">>).
-define(PROTO, <<"x-forwarded-proto">>).
-define(HOST, <<"x-forwarded-host">>).
-define(PORT, <<"x-forwarded-port">>).
-define(PREFIX, <<"x-forwarded-prefix">>).
-define(FORWARDED, <<"forwarded">>).

%% For all others these are headers like any.
only_trusted_peers_are_believed(_) ->
    Trust = hornbeam_proxy:new_trust([{{10, 0, 0, 0}, 8}, {{0, 0, 0, 0, 0, 0, 0, 1}, 128}]),
    UnixTrust = hornbeam_proxy:new_trust([unix]),
    Scope = scope([{?FOR, <<"192.0.2.1">>}, {?PROTO, <<"https">>}, {?HOST, <<"evil">>},
                   {?PREFIX, <<"/evil">>}, {?FORWARDED, <<"for=192.0.2.2">>}]),
    Trusted = [{?PROXY, Trust}, {{0, 0, 0, 0, 0, 0, 0, 1}, Trust}, {unix, UnixTrust},
               {{0, 0, 0, 0, 0, 16#ffff, 16#0a00, 9}, Trust}],
    Untrusted = [{{192, 0, 2, 9}, Trust}, {{0, 0, 0, 0, 0, 0, 0, 2}, Trust}, {unix, Trust},
                 {unknown, Trust}, {unknown, UnixTrust}, {?PROXY, UnixTrust},
                 {?PROXY, hornbeam_proxy:new_trust(off)}, {unix, hornbeam_proxy:new_trust(off)}],
    [
        ?assertEqual({Peer, {<<"192.0.2.1">>, 0}},
                     {Peer, client(hornbeam_proxy:scope(Scope, via(Peer, With)))})
     || {Peer, With} <- Trusted
    ],
    [
        ?assertEqual({Peer, Scope}, {Peer, hornbeam_proxy:scope(Scope, via(Peer, With))})
     || {Peer, With} <- Untrusted
    ].

nothing_said_changes_nothing(_) ->
    [
        ?assertEqual(scope(Headers), seen(Headers))
     || Headers <- [[], [{?FOR, <<>>}], [{?FORWARDED, <<>>}], [{?FOR, <<" , ,">>}],
                    [{?PROTO, <<>>}, {?HOST, <<>>}, {?PORT, <<>>}, {?PREFIX, <<>>}]]
    ].

%% What stands to the left of it is the client's own word.
right_most_untrusted_address(_) ->
    Rows = [
        {<<"192.0.2.1">>, <<"192.0.2.1">>},
        {<<"1.1.1.1, 192.0.2.1">>, <<"192.0.2.1">>},
        {<<"1.1.1.1,192.0.2.1,10.0.0.2">>, <<"192.0.2.1">>},
        {<<"1.1.1.1, 192.0.2.1 ,\t10.0.0.2,10.9.9.9">>, <<"192.0.2.1">>},
        {<<"10.0.0.3, 192.0.2.1, 10.0.0.2">>, <<"192.0.2.1">>},
        %% All are trusted: the one that the first of them saw.
        {<<"10.0.0.3, 10.0.0.2">>, <<"10.0.0.3">>},
        %% What cannot be read ends the walk.
        {<<"192.0.2.1, unknown, 10.0.0.2">>, <<"10.0.0.2">>},
        {<<"192.0.2.1, , 10.0.0.2">>, <<"10.0.0.2">>},
        {<<"192.0.2.1, 10.0.0.2, _hidden">>, <<"10.0.0.1">>},
        {<<"192.0.2.1,">>, <<"10.0.0.1">>}
    ],
    [
        ?assertEqual({Value, Client}, {Value, client_ip(seen([{?FOR, Value}]))})
     || {Value, Client} <- Rows
    ].

forms_of_addresses(_) ->
    Rows = [
        {<<"192.0.2.1">>, {<<"192.0.2.1">>, 0}},
        {<<"192.0.2.1:4711">>, {<<"192.0.2.1">>, 4711}},
        {<<"\"192.0.2.1:4711\"">>, {<<"192.0.2.1">>, 4711}},
        {<<"192.0.2.1:_port">>, {<<"192.0.2.1">>, 0}},
        {<<"2001:db8::1">>, {<<"2001:db8::1">>, 0}},
        {<<"2001:DB8::1">>, {<<"2001:db8::1">>, 0}},
        {<<"[2001:db8::1]">>, {<<"2001:db8::1">>, 0}},
        {<<"[2001:db8::1]:80">>, {<<"2001:db8::1">>, 80}},
        {<<"\"[2001:db8::1]:80\"">>, {<<"2001:db8::1">>, 80}},
        {<<"::ffff:192.0.2.1">>, {<<"192.0.2.1">>, 0}},
        {<<"[::ffff:192.0.2.1]:8">>, {<<"192.0.2.1">>, 8}}
    ],
    [
        begin
            ?assertEqual({Text, Client}, {Text, client(seen([{?FOR, Text}]))}),
            ?assertEqual({Text, Client}, {Text, client(seen([{?FORWARDED, <<"for=", Text/binary>>}]))})
        end
     || {Text, Client} <- Rows
    ].

%% Not believed, and no reason to fail.
what_is_no_address(_) ->
    Texts = [<<"unknown">>, <<"_hidden">>, <<"localhost">>, <<"example.org">>, <<"192.0.2.1:">>,
             <<"192.0.2.1:65536">>, <<"192.0.2.1:-1">>, <<"192.0.2.1:8x">>, <<"192.0.2.256">>,
             <<"0300.0.2.1">>, <<"[192.0.2.1]">>, <<"[::1">>, <<"::1]">>, <<"[::1]8">>,
             <<"[::1]:x">>, <<"[]">>, <<"[">>, <<"]">>, <<"\"">>, <<"\"\"">>, <<"\"192.0.2.1">>,
             <<"192.0.2.1\"">>, <<"fe80::1%eth0">>, <<"1.2.3.4 5.6.7.8">>, <<255, 0, 254>>, <<":">>,
             <<"=">>, <<"::ffff:999.0.0.1">>, binary:copy(<<"9">>, 5000)],
    [
        begin
            ?assertEqual({Text, client(scope([]))}, {Text, client(seen([{?FOR, Text}]))}),
            ?assertEqual({Text, client(scope([]))},
                         {Text, client(seen([{?FORWARDED, <<"for=", Text/binary>>}]))})
        end
     || Text <- Texts
    ].

schemes(_) ->
    Rows = [{<<"https">>, <<"https">>}, {<<"HTTPS">>, <<"https">>}, {<<"http">>, <<"http">>},
            {<<"wss">>, <<"https">>}, {<<"ws">>, <<"http">>}, {<<"ftp">>, <<"http">>},
            {<<"javascript">>, <<"http">>}, {<<"https ">>, <<"https">>}, {<<"http\0">>, <<"http">>},
            {<<255>>, <<"http">>}],
    [
        ?assertEqual({Text, Scheme}, {Text, element(2, seen([{?PROTO, Text}]))})
     || {Text, Scheme} <- Rows
    ].

%% Anything else could lead a link or a redirect elsewhere.
hosts(_) ->
    Good = [<<"example.org">>, <<"Example.ORG:8443">>, <<"a_b">>, <<"192.0.2.1:80">>, <<"[::1]">>,
            <<"[2001:db8::1]:443">>, <<"xn--bcher-kva.example">>, <<"example.org:0">>],
    Bad = [<<"a b">>, <<"a/b">>, <<"user@a">>, <<"a:b">>, <<"a:">>, <<":80">>, <<"a:65536">>,
           <<"a:+1">>, <<"a:1:2">>, <<"a?b">>, <<"a#b">>, <<"a\\b">>, <<"[::1">>, <<"[::1]x">>,
           <<"[a]">>, <<"a\0">>, <<"b\303\274cher">>, <<"a%2f">>, binary:copy(<<"a">>, 300), <<"\"a\"">>],
    [?assertEqual(Text, host(seen([{?HOST, Text}]))) || Text <- Good],
    [?assertEqual({Text, <<"inside:8000">>}, {Text, host(seen([{?HOST, Text}]))}) || Text <- Bad].

%% As nginx sends them: `$host' has no port, `$server_port' has.
ports_of_hosts(_) ->
    Rows = [
        {<<"a">>, <<"8443">>, <<"https">>, <<"a:8443">>},
        {<<"a">>, <<"443">>, <<"https">>, <<"a">>},
        {<<"a">>, <<"443">>, <<"http">>, <<"a:443">>},
        {<<"a">>, <<"80">>, <<"http">>, <<"a">>},
        {<<"a:1">>, <<"8443">>, <<"https">>, <<"a:1">>},
        {<<"[::1]">>, <<"8443">>, <<"https">>, <<"[::1]:8443">>},
        {<<"[::1]:1">>, <<"8443">>, <<"https">>, <<"[::1]:1">>},
        {<<"a">>, <<"x">>, <<"https">>, <<"a">>},
        {<<"a">>, <<"65536">>, <<"https">>, <<"a">>},
        %% The Host header has the client's port already.
        {<<>>, <<"8443">>, <<"https">>, <<"inside:8000">>}
    ],
    [
        ?assertEqual({Given, Port, Host},
                     {Given, Port,
                      host(seen([{?HOST, Given}, {?PORT, Port}, {?PROTO, Scheme}]))})
     || {Given, Port, Scheme, Host} <- Rows
    ].

%% HTTP/1.0.
host_where_there_was_none(_) ->
    Scope = setelement(6, scope([]), [{?HOST, <<"a">>}]),
    ?assertEqual(<<"a">>, host(hornbeam_proxy:scope(Scope, via(?PROXY, trust())))).

%% Lists are read in step with the addresses.
values_of_the_same_hop(_) ->
    Headers = [{?FOR, <<"1.1.1.1, 192.0.2.1, 10.0.0.3">>},
               {?PROTO, <<"ws, https, http">>},
               {?HOST, <<"evil, outer, inner">>}],
    Scope = seen(Headers),
    ?assertEqual({<<"192.0.2.1">>, <<"https">>, <<"outer">>},
                 {client_ip(Scope), element(2, Scope), host(Scope)}),
    %% One value is everybody's.
    ?assertEqual(<<"https">>, element(2, seen([{?FOR, <<"192.0.2.1, 10.0.0.3">>},
                                                    {?PROTO, <<"https">>}]))),
    %% Without addresses, the last: the nearest proxy has written it.
    ?assertEqual(<<"https">>, element(2, seen([{?PROTO, <<"http, https">>}]))).

%% Examples of RFC 7239, and chains.
forwarded(_) ->
    Rows = [
        {<<"for=192.0.2.60;proto=https;by=203.0.113.43">>, <<"192.0.2.60">>, <<"https">>, <<"inside:8000">>},
        {<<"For=\"[2001:db8:cafe::17]:4711\"">>, <<"2001:db8:cafe::17">>, <<"http">>, <<"inside:8000">>},
        {<<"for=192.0.2.43, for=198.51.100.17">>, <<"198.51.100.17">>, <<"http">>, <<"inside:8000">>},
        {<<"for=192.0.2.43,for=10.0.0.2 ; proto=https ; host=a">>, <<"192.0.2.43">>, <<"https">>, <<"a">>},
        {<<"for=1.1.1.1;host=evil, for=192.0.2.43;proto=https;host=\"a:8443\", for=10.0.0.2;proto=http;host=b">>,
         <<"192.0.2.43">>, <<"https">>, <<"a:8443">>},
        {<<"for=_hidden;proto=https;host=a">>, <<"10.0.0.1">>, <<"https">>, <<"a">>},
        {<<"for=192.0.2.1, for=unknown;proto=https, for=10.0.0.2">>, <<"10.0.0.2">>, <<"https">>, <<"inside:8000">>},
        {<<"proto=https">>, <<"10.0.0.1">>, <<"https">>, <<"inside:8000">>},
        {<<"for=192.0.2.1, proto=https">>, <<"10.0.0.1">>, <<"https">>, <<"inside:8000">>},
        {<<";for=192.0.2.1;;x=\"a,b;c=\\\"d\\\\\";">>, <<"192.0.2.1">>, <<"http">>, <<"inside:8000">>},
        {<<"for=192.0.2.1;proto=\"h\\ttps\"">>, <<"192.0.2.1">>, <<"https">>, <<"inside:8000">>}
    ],
    [
        begin
            Scope = seen([{?FORWARDED, Value}]),
            ?assertEqual({Value, Ip, Scheme, Host},
                         {Value, client_ip(Scope), element(2, Scope), host(Scope)})
        end
     || {Value, Ip, Scheme, Host} <- Rows
    ].

malformed_forwarded(_) ->
    Values = [<<"for">>, <<"for=">>, <<"=192.0.2.1">>, <<"for = 192.0.2.1">>, <<"for =192.0.2.1">>,
              <<"for=192.0.2.1 proto=https">>, <<"for=\"192.0.2.1">>, <<"for=\"192.0.2.1\"x">>,
              <<"for=192.0.2.1;for=192.0.2.2">>, <<"for=192.0.2.1;FOR=192.0.2.1">>,
              <<"f(r=192.0.2.1">>, <<"for=192.0.2.1;proto">>, <<"for=\"192.0.2.1\\">>,
              <<"for=192.0.2.1;host=a;=">>, <<255>>, <<"\"">>, <<",">>, <<"for=192.0.2.1, ">>],
    [
        begin
            Given = [{?FORWARDED, Value}],
            ?assertEqual({Value, scope(Given)}, {Value, seen(Given)})
        end
     || Value <- Values
    ].

%% The client's part cannot spoil what the proxy has added.
left_open_quotation_mark(_) ->
    Lefts = [<<"for=\"">>, <<"for=\"1.1.1.1">>, <<"\"">>, <<"for=\"\\">>, <<"\\\"">>, <<"x=\"a\\\"">>,
             <<"for=1.1.1.1;x=\"\"\"">>],
    [
        ?assertEqual({Left, <<"192.0.2.1">>},
                     {Left, client_ip(seen([{?FORWARDED, <<Left/binary, ", ", Right/binary>>}]))})
     || Left <- Lefts,
        Right <- [<<"for=192.0.2.1">>, <<"for=\"192.0.2.1:80\"">>, <<"for=192.0.2.1;x=\"a\\\"b\"">>]
    ].

%% A proxy that writes one of them passes the other on as the client has sent it.
one_kind_of_header_wins(_) ->
    Evil = {?FORWARDED, <<"for=1.1.1.1;proto=https;host=evil">>},
    [
        begin
            Scope = seen([Evil, Header]),
            ?assertEqual({Ip, <<"http">>, <<"inside:8000">>},
                         {client_ip(Scope), element(2, Scope), host(Scope)})
        end
     || {Header, Ip} <- [{{?FOR, <<"192.0.2.1">>}, <<"192.0.2.1">>}, {{?PROTO, <<"http">>}, <<"10.0.0.1">>},
                         {{?PORT, <<"80">>}, <<"10.0.0.1">>}, {{?HOST, <<"/">>}, <<"10.0.0.1">>}]
    ].

prefixes(_) ->
    Good = [{<<"/shop">>, <<"/shop">>}, {<<"/shop/">>, <<"/shop">>}, {<<"/a/b-c.d~e">>, <<"/a/b-c.d~e">>},
            {<<"/">>, <<>>}, {<<"/x, /shop">>, <<"/shop">>}],
    Bad = [<<"shop">>, <<"//evil">>, <<"/a//b">>, <<"/a//">>, <<"/..">>, <<"/a/../b">>, <<"/./a">>,
           <<"/a?b">>, <<"/a#b">>, <<"/a b">>, <<"/a\\b">>, <<"/%2e">>, <<"http://evil/">>,
           <<"/\303\274">>, <<"/", (binary:copy(<<"a">>, 1024))/binary>>, <<>>],
    [
        ?assertEqual({Value, #{root_path => Prefix}}, {Value, element(9, seen([{?PREFIX, Value}]))})
     || {Value, Prefix} <- Good
    ],
    [?assertEqual({Value, #{}}, {Value, element(9, seen([{?PREFIX, Value}]))}) || Value <- Bad],
    %% It goes with Forwarded, which has no counterpart.
    ?assertEqual(#{root_path => <<"/shop">>},
                 element(9, seen([{?FORWARDED, <<"for=192.0.2.1">>}, {?PREFIX, <<"/shop">>}]))).

%% Told of the connection itself; a trusted proxy's header says more.
scheme_of_a_proxy_header(_) ->
    Https = hornbeam_proxy:via({192, 0, 2, 9}, <<"https">>, hornbeam_proxy:new_trust(off)),
    Scope = scope([{?PROTO, <<"http">>}]),
    ?assertEqual(setelement(2, Scope, <<"https">>), hornbeam_proxy:scope(Scope, Https)),
    Both = hornbeam_proxy:via(?PROXY, <<"https">>, trust()),
    ?assertEqual(<<"http">>, element(2, hornbeam_proxy:scope(Scope, Both))),
    ?assertEqual(<<"https">>, element(2, hornbeam_proxy:scope(scope([]), Both))).

%% Internal.

scope(Headers) ->
    {<<"GET">>, <<"http">>, <<"1.1">>, <<"/">>, <<>>, [{<<"host">>, <<"inside:8000">>} | Headers],
     {<<"10.0.0.1">>, 5000}, {<<"10.0.0.9">>, 8000}, #{}}.

trust() ->
    hornbeam_proxy:new_trust([{{10, 0, 0, 0}, 8}]).

via(Peer, Trust) ->
    hornbeam_proxy:via(Peer, undefined, Trust).

seen(Headers) ->
    hornbeam_proxy:scope(scope(Headers), via(?PROXY, trust())).

client(Scope) ->
    element(7, Scope).

client_ip(Scope) ->
    element(1, client(Scope)).

host(Scope) ->
    proplists:get_value(<<"host">>, element(6, Scope)).
