%% SPDX-License-Identifier: Apache-2.0

%% @private The PROXY protocol, versions 1 and 2: what a proxy says of a connection in front of it.
%%
%% `parse/1' is pure and takes any bytes; `receive_from/2' reads a socket until the header is there.
%% Ranch has a parser, too, but wants the whole header in one read, and looks for the parts of a
%% binary header beyond its end. Written after the specification of HAProxy, "The PROXY protocol,
%% versions 1 and 2".
-module(hornbeam_proxy_header).

%% API
-export([parse/1]).
-export([receive_from/2]).

-export_type([header/0, error/0]).

-type address() :: {inet:ip_address(), inet:port_number()}.

-type header() ::
    %% The proxy's own connection, or one that it says nothing of: the socket's addresses hold.
    unknown
  | {proxied, #{source := address(), destination := address(), scheme := scheme()}}
    %% The proxy's client came by a unix socket, which has a path and no other address.
  | {proxied, #{source := unix, destination := {unix, Path :: binary()}, scheme := scheme()}}.

-type scheme() :: binary() | undefined.
%% `https' where the proxy says that it has taken TLS off. That it has not says nothing: it may have
%% passed it on.

-type error() :: {malformed, Why :: binary()} | timeout | closed | inet:posix().

-define(SIGNATURE, "\r\n\r\n\0\r\nQUIT\n").
%% "The worst case", which the specification tells a receiver to take, CRLF included.
-define(MAX_V1_BYTES, 107).
%% Behind the fixed part of a header of version 2. Room for addresses, and for the parts of it that
%% name the TLS of the client, certificate included.
-define(MAX_V2_BYTES, 16384).
-define(UNIX_PATH_BYTES, 108).

-define(TLV_CRC32C, 16#03).
-define(TLV_SSL, 16#20).

%% @doc The header at the beginning of what has come, and what is behind it.
-spec parse(binary()) -> {ok, header(), Rest :: binary()} | more | {error, Why :: binary()}.
parse(<<?SIGNATURE, Rest/binary>>) ->
    parse_v2(Rest);
parse(<<"PROXY ", _/binary>> = Bytes) ->
    case binary:match(Bytes, <<"\n">>, [{scope, {0, min(byte_size(Bytes), ?MAX_V1_BYTES)}}]) of
        {At, 1} ->
            <<Line:At/binary, "\n", Rest/binary>> = Bytes,
            parse_v1(binary:split(Line, <<" ">>, [global]), Rest);
        nomatch when byte_size(Bytes) < ?MAX_V1_BYTES ->
            more;
        nomatch ->
            {error, <<"the line of version 1 is too long">>}
    end;
parse(Bytes) ->
    case is_prefix(Bytes, <<?SIGNATURE>>) orelse is_prefix(Bytes, <<"PROXY ">>) of
        true -> more;
        false -> {error, <<"the connection does not begin with a PROXY header">>}
    end.

%% @doc Read the header from a passive socket, and nothing behind it.
-spec receive_from(inet:socket(), timeout()) -> {ok, header()} | {error, error()}.
receive_from(Socket, infinity) ->
    receive_until(Socket, infinity, <<>>);
receive_from(Socket, TimeoutMs) ->
    receive_until(Socket, erlang:monotonic_time(millisecond) + TimeoutMs, <<>>).

receive_until(Socket, DeadlineMs, Held) ->
    case gen_tcp:recv(Socket, 0, left_ms(DeadlineMs)) of
        {ok, Bytes} ->
            Got = <<Held/binary, Bytes/binary>>,
            case parse(Got) of
                {ok, Header, Rest} -> give_back(Socket, Rest, Header);
                more -> receive_until(Socket, DeadlineMs, Got);
                {error, Why} -> {error, {malformed, Why}}
            end;
        {error, _} = Error ->
            Error
    end.

left_ms(infinity) -> infinity;
left_ms(DeadlineMs) -> max(0, DeadlineMs - erlang:monotonic_time(millisecond)).

give_back(_, <<>>, Header) ->
    {ok, Header};
give_back(Socket, Rest, Header) ->
    case gen_tcp:unrecv(Socket, Rest) of
        ok -> {ok, Header};
        {error, _} = Error -> Error
    end.

is_prefix(Bytes, Whole) ->
    byte_size(Bytes) < byte_size(Whole) andalso
        binary:part(Whole, 0, byte_size(Bytes)) =:= Bytes.

%%% Version 1

%% What follows must be ignored, up to the end of the line.
parse_v1([<<"PROXY">>, <<"UNKNOWN">> | [_ | _] = Words], Rest) ->
    case lists:last(Words) of
        <<_, _/binary>> = Last when binary_part(Last, byte_size(Last), -1) =:= <<"\r">> ->
            {ok, unknown, Rest};
        _ ->
            malformed_v1()
    end;
parse_v1([<<"PROXY">>, <<"UNKNOWN\r">>], Rest) ->
    {ok, unknown, Rest};
parse_v1([<<"PROXY">>, Family, From, To, FromPort, ToPortCr], Rest) ->
    [ToPort | Cr] = binary:split(ToPortCr, <<"\r">>),
    Source = v1_address(Family, From, FromPort),
    Destination = v1_address(Family, To, ToPort),
    case Cr =:= [<<>>] andalso is_tuple(Source) andalso is_tuple(Destination) of
        true -> {ok, proxied(Source, Destination, undefined), Rest};
        false -> malformed_v1()
    end;
parse_v1(_, _) ->
    malformed_v1().

malformed_v1() ->
    {error, <<"the line of version 1 is malformed">>}.

%% `hornbeam_ip' gives the IPv4 address of a mapped one, as everywhere; its text has a colon.
v1_address(Family, Text, PortText) ->
    IsV6 = binary:match(Text, <<":">>) =/= nomatch,
    case {hornbeam_ip:parse(Text), v1_port(PortText)} of
        {{ok, Ip}, {ok, Port}} when Family =:= <<"TCP4">>, not IsV6 -> {Ip, Port};
        {{ok, Ip}, {ok, Port}} when Family =:= <<"TCP6">>, IsV6 -> {Ip, Port};
        _ -> error
    end.

v1_port(<<"0">>) -> {ok, 0};
v1_port(<<C, _/binary>> = Text) when C >= $1, C =< $9, byte_size(Text) =< 5 ->
    try binary_to_integer(Text) of
        Port when Port =< 65535 -> {ok, Port};
        _ -> error
    catch
        error:badarg -> error
    end;
v1_port(_) -> error.

%%% Version 2

parse_v2(<<Version:4, _/bits>>) when Version =/= 2 ->
    {error, <<"the version is neither 1 nor 2">>};
parse_v2(<<_:4, Command:4, _/binary>>) when Command > 1 ->
    {error, <<"a command that there is not">>};
parse_v2(<<_, _, Size:16, _/binary>>) when Size > ?MAX_V2_BYTES ->
    {error, <<"the header is too long">>};
parse_v2(<<_, _, Size:16, Header:Size/binary, Rest/binary>> = Bytes) ->
    <<Fixed:4/binary, _/binary>> = Bytes,
    <<_:4, Command:4, Family:4, Transport:4, _:16>> = Fixed,
    case parse_v2(Command, Family, Transport, Header) of
        {Addresses, Tlvs} -> with_tlvs(Addresses, Tlvs, <<?SIGNATURE, Fixed/binary>>, Header, Rest);
        unknown -> {ok, unknown, Rest};
        error -> {error, <<"the addresses of version 2 are malformed">>}
    end;
parse_v2(_) ->
    more.

%% LOCAL, and addresses of no family or no transport: what there is of them is to be ignored.
parse_v2(0, _, _, _) ->
    unknown;
parse_v2(1, Family, Transport, _) when Family > 3; Transport > 2 ->
    error;
parse_v2(1, Family, Transport, _) when Family =:= 0; Transport =:= 0 ->
    unknown;
parse_v2(1, 1, _, <<From:4/binary, To:4/binary, FromPort:16, ToPort:16, Tlvs/binary>>) ->
    {{{v4(From), FromPort}, {v4(To), ToPort}}, Tlvs};
parse_v2(1, 2, _, <<From:16/binary, To:16/binary, FromPort:16, ToPort:16, Tlvs/binary>>) ->
    {{{v6(From), FromPort}, {v6(To), ToPort}}, Tlvs};
parse_v2(1, 3, _, <<_:?UNIX_PATH_BYTES/binary, To:?UNIX_PATH_BYTES/binary, Tlvs/binary>>) ->
    [Path | _] = binary:split(To, <<0>>),
    {{unix, {unix, Path}}, Tlvs};
parse_v2(1, _, _, _) ->
    error.

v4(<<A, B, C, D>>) ->
    {A, B, C, D}.

v6(<<A:16, B:16, C:16, D:16, E:16, F:16, G:16, H:16>>) ->
    hornbeam_ip:normalise({A, B, C, D, E, F, G, H}).

proxied(Source, Destination, Scheme) ->
    {proxied, #{source => Source, destination => Destination, scheme => Scheme}}.

%% Those of no use here, like ALPN, the name of the host or a unique id, are skipped.
with_tlvs({Source, Destination}, Tlvs, Before, Header, Rest) ->
    case tlvs(Tlvs, undefined, <<Before/binary, Header/binary>>) of
        {ok, Scheme} -> {ok, proxied(Source, Destination, Scheme), Rest};
        {error, Why} -> {error, Why}
    end.

tlvs(<<>>, Scheme, _) ->
    {ok, Scheme};
tlvs(<<?TLV_CRC32C, 4:16, Sum:32, Tlvs/binary>>, Scheme, All) ->
    At = byte_size(All) - byte_size(Tlvs) - 4,
    <<Before:At/binary, _:32, After/binary>> = All,
    case ranch_crc32c:crc32c([Before, <<0:32>>, After]) of
        Sum -> tlvs(Tlvs, Scheme, All);
        _ -> {error, <<"the checksum of version 2 is wrong">>}
    end;
tlvs(<<?TLV_CRC32C, _/binary>>, _, _) ->
    {error, <<"the checksum of version 2 is malformed">>};
tlvs(<<?TLV_SSL, Size:16, Value:Size/binary, Tlvs/binary>>, Scheme, All) ->
    case Value of
        <<_:7, 1:1, _Verify:32, _/binary>> -> tlvs(Tlvs, <<"https">>, All);
        <<_, _Verify:32, _/binary>> -> tlvs(Tlvs, Scheme, All);
        _ -> {error, <<"what version 2 says of TLS is malformed">>}
    end;
tlvs(<<_, Size:16, _:Size/binary, Tlvs/binary>>, Scheme, All) ->
    tlvs(Tlvs, Scheme, All);
tlvs(_, _, _) ->
    {error, <<"a part of version 2 is longer than the header">>}.
