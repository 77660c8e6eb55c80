%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_proxy_header_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([version_1/1]).
-export([version_2/1]).
-export([unknown_connections/1]).
-export([parts_of_version_2/1]).
-export([checksum/1]).
-export([malformed_version_1/1]).
-export([malformed_version_2/1]).
-export([what_is_no_header/1]).
-export([every_beginning_waits_for_more/1]).
-export([longest_headers/1]).
-export([what_follows_stays_on_the_socket/1]).
-export([byte_by_byte_from_a_socket/1]).
-export([silence_on_a_socket/1]).

all() ->
    [
        version_1,
        version_2,
        unknown_connections,
        parts_of_version_2,
        checksum,
        malformed_version_1,
        malformed_version_2,
        what_is_no_header,
        every_beginning_waits_for_more,
        longest_headers,
        what_follows_stays_on_the_socket,
        byte_by_byte_from_a_socket,
        silence_on_a_socket
    ].

-define(SIGNATURE, 13, 10, 13, 10, 0, 13, 10, "QUIT", 10).
-define(V4, 192, 0, 2, 7, 10, 0, 0, 9, 4711:16, 443:16).

version_1(_) ->
    Rows = [
        {<<"PROXY TCP4 192.0.2.7 10.0.0.9 4711 443\r\n">>,
         {{192, 0, 2, 7}, 4711}, {{10, 0, 0, 9}, 443}},
        {<<"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n">>,
         {{255, 255, 255, 255}, 65535}, {{255, 255, 255, 255}, 65535}},
        {<<"PROXY TCP6 2001:db8::7 ::1 0 80\r\n">>,
         {{16#2001, 16#db8, 0, 0, 0, 0, 0, 7}, 0}, {{0, 0, 0, 0, 0, 0, 0, 1}, 80}},
        {<<"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 80\r\n">>,
         {{192, 0, 2, 7}, 1}, {{0, 0, 0, 0, 0, 0, 0, 1}, 80}}
    ],
    [?assertEqual(proxied(Source, Destination), parse(Bytes)) || {Bytes, Source, Destination} <- Rows].

version_2(_) ->
    ?assertEqual(proxied({{192, 0, 2, 7}, 4711}, {{10, 0, 0, 9}, 443}), parse(v2(16#11, <<?V4>>))),
    %% A datagram's addresses are addresses.
    ?assertEqual(proxied({{192, 0, 2, 7}, 4711}, {{10, 0, 0, 9}, 443}), parse(v2(16#12, <<?V4>>))),
    V6 = <<16#2001:16, 16#db8:16, 0:80, 7:16, 0:80, 16#ffff:16, 10, 0, 0, 9, 1:16, 2:16>>,
    ?assertEqual(proxied({{16#2001, 16#db8, 0, 0, 0, 0, 0, 7}, 1}, {{10, 0, 0, 9}, 2}),
                 parse(v2(16#21, V6))),
    Path = <<"/run/front.sock">>,
    Unix = <<0:864, Path/binary, 0:(8 * (108 - byte_size(Path)))>>,
    ?assertEqual(proxied(unix, {unix, Path}), parse(v2(16#31, Unix))),
    Long = binary:copy(<<"p">>, 108),
    ?assertEqual(proxied(unix, {unix, Long}), parse(v2(16#31, <<0:864, Long/binary>>))).

%% The socket's own addresses hold.
unknown_connections(_) ->
    Headers = [<<"PROXY UNKNOWN\r\n">>, <<"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n">>,
               <<"PROXY UNKNOWN anything\tat all \r\n">>, v2(16#20, 16#00, <<>>),
               v2(16#20, 16#11, <<?V4>>), v2(16#20, 16#ff, <<1, 2, 3>>), v2(16#00, <<>>),
               v2(16#00, <<1, 2, 3>>), v2(16#10, <<?V4>>), v2(16#01, <<>>)],
    [?assertEqual({Header, {ok, unknown, <<"GET">>}},
                  {Header, hornbeam_proxy_header:parse(<<Header/binary, "GET">>)})
     || Header <- Headers].

%% What the proxy says of TLS counts, the rest is passed over.
parts_of_version_2(_) ->
    Addresses = <<?V4>>,
    Others = <<(tlv(1, <<"h2">>))/binary, (tlv(2, <<"example.org">>))/binary, (tlv(4, <<0:80>>))/binary,
               (tlv(5, <<"unique">>))/binary, (tlv(16#30, <<"ns">>))/binary, (tlv(16#ea, <<1>>))/binary,
               (tlv(16#ff, <<>>))/binary>>,
    Name = tlv(16#22, <<"client">>),
    Rows = [{Others, undefined}, {<<Others/binary, (tlv(16#20, <<1, 0:32>>))/binary>>, <<"https">>},
            {<<(tlv(16#20, <<7, 1:32, Name/binary>>))/binary, Others/binary>>, <<"https">>},
            {tlv(16#20, <<6, 0:32>>), undefined}],
    [
        begin
            {ok, {proxied, Header}, <<>>} =
                hornbeam_proxy_header:parse(v2(16#11, <<Addresses/binary, Tlvs/binary>>)),
            ?assertMatch({Tlvs, #{scheme := Scheme}}, {Tlvs, Header})
        end
     || {Tlvs, Scheme} <- Rows
    ].

%% As AWS sends it, and with a bit turned.
checksum(_) ->
    Bytes = <<?SIGNATURE, 33, 17, 0, 84, 172, 31, 7, 113, 172, 31, 10, 31, 200, 242, 0, 80, 3, 0, 4,
              232, 214, 137, 45, 234, 0, 23, 1, "vpce-08d2bf15fac5001c9", 4, 0, 36, 0:288>>,
    ?assertEqual(proxied({{172, 31, 7, 113}, 51442}, {{172, 31, 10, 31}, 80}), parse(Bytes)),
    <<Before:20/binary, Octet, After/binary>> = Bytes,
    ?assertMatch({error, <<"the checksum", _/binary>>}, parse(<<Before/binary, (Octet bxor 1), After/binary>>)),
    ?assertMatch({error, <<"the checksum", _/binary>>}, parse(v2(16#11, <<?V4, (tlv(3, <<1, 2>>))/binary>>))).

malformed_version_1(_) ->
    Lines = [<<"PROXY TCP4 192.0.2.7 10.0.0.9 4711\r\n">>, <<"PROXY TCP4 192.0.2.7 10.0.0.9 1 2 3\r\n">>,
             <<"PROXY TCP4 192.0.2.7 10.0.0.9 4711 443\n">>, <<"PROXY TCP4  192.0.2.7 10.0.0.9 1 2\r\n">>,
             <<"PROXY TCP4 ::1 ::1 1 2\r\n">>, <<"PROXY TCP6 192.0.2.7 10.0.0.9 1 2\r\n">>,
             <<"PROXY TCP4 192.0.2.07 10.0.0.9 1 2\r\n">>, <<"PROXY TCP4 192.0.2.7 10.0.0.9 +1 2\r\n">>,
             <<"PROXY TCP4 192.0.2.7 10.0.0.9 01 2\r\n">>, <<"PROXY TCP4 192.0.2.7 10.0.0.9 1 65536\r\n">>,
             <<"PROXY TCP4 192.0.2.7 10.0.0.9 1x 2\r\n">>, <<"PROXY TCP4 192.0.2.7 10.0.0.9 1 2\r\r\n">>,
             <<"PROXY TCP5 192.0.2.7 10.0.0.9 1 2\r\n">>, <<"PROXY UDP4 192.0.2.7 10.0.0.9 1 2\r\n">>,
             <<"PROXY tcp4 192.0.2.7 10.0.0.9 1 2\r\n">>, <<"PROXY UNKNOWN\n">>, <<"PROXY UNKNOWN x\n">>,
             <<"PROXY UNKNOWN \n">>, <<"PROXY UNKNOWNX\r\n">>, <<"PROXY \r\n">>, <<"PROXY\t\r\n">>],
    [?assertMatch({Line, {error, _}}, {Line, parse(Line)}) || Line <- Lines].

malformed_version_2(_) ->
    Headers = [v2(16#11, 16#11, <<?V4>>), v2(16#31, 16#11, <<?V4>>), v2(16#2f, 16#11, <<?V4>>),
               v2(16#41, <<?V4>>), v2(16#13, <<?V4>>), v2(16#11, <<1, 2, 3>>), v2(16#11, <<>>),
               v2(16#21, <<?V4>>), v2(16#31, <<?V4>>), v2(16#11, <<?V4, 1>>), v2(16#11, <<?V4, 1, 0, 2, 0>>),
               v2(16#11, <<?V4, 1, 255, 255>>), v2(16#11, <<?V4, (tlv(16#20, <<1>>))/binary>>)],
    [?assertMatch({Header, {error, _}}, {Header, parse(<<Header/binary, 0:1600>>)}) || Header <- Headers].

what_is_no_header(_) ->
    [?assertMatch({Bytes, {error, <<"the connection does not begin", _/binary>>}}, {Bytes, parse(Bytes)})
     || Bytes <- [<<"G">>, <<"GET / HTTP/1.1\r\n">>, <<"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n">>, <<"proxy ">>,
                  <<22, 3, 1>>, <<"\r\n\r\n\r">>, <<"PROXY\r\n">>, <<0>>]].

every_beginning_waits_for_more(_) ->
    Headers = [<<"PROXY TCP4 192.0.2.7 10.0.0.9 4711 443\r\n">>, v2(16#11, <<?V4>>), v2(16#20, 16#00, <<>>)],
    [?assertEqual({Size, more}, {Size, parse(binary:part(Header, 0, Size))})
     || Header <- Headers, Size <- lists:seq(0, byte_size(Header) - 1)].

%% At their sizes headers are taken, a byte further they are refused before they have come.
longest_headers(_) ->
    Line = fun(Size) -> <<"PROXY UNKNOWN ", (binary:copy(<<"x">>, Size - 16))/binary, "\r\n">> end,
    ?assertMatch({ok, unknown, _}, parse(Line(107))),
    ?assertMatch({error, _}, parse(Line(108))),
    ?assertMatch({error, _}, parse(binary:part(Line(1000), 0, 107))),
    Noop = fun(Size) -> tlv(4, binary:copy(<<0>>, Size - 12 - 3)) end,
    ?assertMatch({proxied, _}, parse(v2(16#11, <<?V4, (Noop(16384))/binary>>))),
    ?assertMatch({error, _}, parse(<<?SIGNATURE, 16#21, 16#11, 16385:16>>)).

%% The next one to read the socket gets it, passively or actively.
what_follows_stays_on_the_socket(_) ->
    [
        with_sockets(fun(Client, Socket) ->
            ok = gen_tcp:send(Client, [Header, <<"GET / HTTP/1.1\r\n">>]),
            ?assertMatch({ok, {proxied, _}}, hornbeam_proxy_header:receive_from(Socket, 5000)),
            ok = inet:setopts(Socket, [{active, once}]),
            receive {tcp, Socket, Bytes} -> ?assertEqual(<<"GET / HTTP/1.1\r\n">>, Bytes) end
        end)
     || Header <- [<<"PROXY TCP4 192.0.2.7 10.0.0.9 4711 443\r\n">>, v2(16#11, <<?V4>>)]
    ].

byte_by_byte_from_a_socket(_) ->
    [
        with_sockets(fun(Client, Socket) ->
            ok = inet:setopts(Client, [{nodelay, true}]),
            [ok = gen_tcp:send(Client, [Byte]) || <<Byte>> <= <<Header/binary, "GET">>],
            ?assertMatch({ok, {proxied, _}}, hornbeam_proxy_header:receive_from(Socket, infinity)),
            ?assertEqual({ok, <<"GET">>}, gen_tcp:recv(Socket, 3, 5000))
        end)
     || Header <- [<<"PROXY TCP4 192.0.2.7 10.0.0.9 4711 443\r\n">>, v2(16#11, <<?V4>>)]
    ].

silence_on_a_socket(_) ->
    with_sockets(fun(Client, Socket) ->
        ok = gen_tcp:send(Client, <<"PROXY TCP4 192.0.2.7">>),
        ?assertEqual({error, timeout}, hornbeam_proxy_header:receive_from(Socket, 50)),
        ok = gen_tcp:send(Client, <<"PROXY TCP4 192.0.2.7">>),
        ok = gen_tcp:close(Client),
        ?assertEqual({error, closed}, hornbeam_proxy_header:receive_from(Socket, 5000))
    end).

%% Internal.

parse(Bytes) ->
    case hornbeam_proxy_header:parse(Bytes) of
        {ok, {proxied, #{scheme := undefined}} = Header, <<>>} -> Header;
        Other -> Other
    end.

proxied(Source, Destination) ->
    {proxied, #{source => Source, destination => Destination, scheme => undefined}}.

v2(FamilyAndTransport, Header) ->
    v2(16#21, FamilyAndTransport, Header).

v2(VersionAndCommand, FamilyAndTransport, Header) ->
    <<?SIGNATURE, VersionAndCommand, FamilyAndTransport, (byte_size(Header)):16, Header/binary>>.

tlv(Type, Value) ->
    <<Type, (byte_size(Value)):16, Value/binary>>.

with_sockets(Test) ->
    {ok, Listen} = gen_tcp:listen(0, [binary, {active, false}, {ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Listen),
    {ok, Client} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
    {ok, Socket} = gen_tcp:accept(Listen),
    Test(Client, Socket),
    [gen_tcp:close(Each) || Each <- [Client, Socket, Listen]].
