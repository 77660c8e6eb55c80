%% SPDX-License-Identifier: Apache-2.0
%% @private Parses, resolves and prints the addresses that a server listens on.
%%
%% `parse/1' and the printing functions are pure; `resolve/1' alone asks the resolver. As with
%% gunicorn, `":port"' means every IPv4 address of the machine (`0.0.0.0'), and only that form
%% does: a name that does not resolve is an error.
-module(hornbeam_bind).

-export([parse/1]).
-export([resolve/1]).
-export([read/1]).
-export([with_port/2]).
-export([url/1]).
-export([url/2]).

-type host() :: inet:ip_address() | string().
%% A literal address, or a name that is still to be resolved.

-type parsed() ::
    #{type := tcp, host := host(), port := inet:port_number(), text := binary()}
    | unix_address().
%% What the text says, before any name is resolved.

-type unix_address() :: #{type := unix, path := binary(), text := binary()}.
%% `path' is absolute; `text' is what the user wrote.

-type tcp_address() ::
    #{type := tcp, ip := inet:ip_address(), port := inet:port_number(), text := binary()}.
%% Port 0 asks the system for a free port.

-type address() :: tcp_address() | unix_address().

-export_type([parsed/0, address/0, tcp_address/0, unix_address/0]).

%% `sun_path' of Linux has 108 bytes, the last of which is NUL.
-define(MAX_UNIX_PATH_BYTES, 107).

-define(FORMS, "\"ip:port\", \"[v6]:port\", \"host:port\", \":port\" or \"unix:/path\"").

%% API.

%% @doc Reads the text of one address and resolves its name, if it has one.
-spec read(binary()) -> {ok, address()} | {error, unicode:chardata()}.
read(Text) ->
    case parse(Text) of
        {ok, Parsed} -> resolve(Parsed);
        {error, _} = Error -> Error
    end.

%% @doc Reads the text of one address. The error says what was expected.
-spec parse(binary()) -> {ok, parsed()} | {error, unicode:chardata()}.
parse(<<"unix:", Path/binary>> = Text) ->
    parse_unix(Path, Text);
parse(<<"[", Rest/binary>> = Text) ->
    case binary:split(Rest, <<"]:">>) of
        [Host, Port] -> parse_tcp(parse_v6(Host), Port, Text);
        [_] -> {error, "an IPv6 address and a port as in \"[::1]:8000\""}
    end;
parse(Text) ->
    case binary:split(Text, <<":">>, [global]) of
        [Host, Port] -> parse_tcp(parse_host(Host), Port, Text);
        [_] -> {error, "an address with a port: " ?FORMS};
        [_, _ | _] -> {error, ?FORMS "; an IPv6 address stands in brackets"}
    end.

%% @doc Turns a name into an address, IPv4 before IPv6.
-spec resolve(parsed()) -> {ok, address()} | {error, unicode:chardata()}.
resolve(#{type := tcp, host := Host, port := Port, text := Text}) when is_tuple(Host) ->
    {ok, #{type => tcp, ip => Host, port => Port, text => Text}};
resolve(#{type := tcp, host := Host} = Parsed) ->
    case lookup(Host, [inet, inet6]) of
        {ok, Ip} -> resolve(Parsed#{host := Ip});
        error -> {error, ["a host that resolves; ", Host, " does not"]}
    end;
resolve(#{type := unix} = Address) ->
    {ok, Address}.

%% @doc The address with the port that the system gave for port 0.
-spec with_port(address(), inet:port_number()) -> address().
with_port(#{type := tcp} = Address, Port) -> Address#{port := Port};
with_port(#{type := unix} = Address, _) -> Address.

%% @equiv url(Address, <<"http">>)
-spec url(address()) -> binary().
url(Address) ->
    url(Address, <<"http">>).

%% @doc The address as a user would type it into a client.
-spec url(address(), Scheme :: binary()) -> binary().
url(#{type := unix, path := Path}, _) ->
    <<"unix:", Path/binary>>;
url(#{type := tcp, ip := Ip, port := Port}, Scheme) ->
    iolist_to_binary([Scheme, "://", host_text(Ip), $:, integer_to_list(Port)]).

%% Internal.

parse_unix(<<"/", _/binary>> = Path, Text) when byte_size(Path) =< ?MAX_UNIX_PATH_BYTES ->
    case binary:match(Path, <<0>>) of
        nomatch -> {ok, #{type => unix, path => Path, text => Text}};
        _ -> {error, "a socket path without NUL"}
    end;
parse_unix(<<"/", _/binary>>, _) ->
    {error, ["a socket path of at most ", integer_to_list(?MAX_UNIX_PATH_BYTES), " bytes"]};
parse_unix(_, _) ->
    {error, "an absolute socket path as in \"unix:/run/app.sock\""}.

parse_tcp({error, _} = Error, _, _) ->
    Error;
parse_tcp({ok, Host}, PortText, Text) ->
    case parse_port(PortText) of
        {ok, Port} -> {ok, #{type => tcp, host => Host, port => Port, text => Text}};
        error -> {error, "a port from 0 to 65535"}
    end.

parse_port(Text) when byte_size(Text) >= 1, byte_size(Text) =< 5 ->
    %% binary_to_integer/1 would take "+80" and "-0" too.
    case re:run(Text, "\\A[0-9]+\\z") of
        {match, _} -> in_port_range(binary_to_integer(Text));
        nomatch -> error
    end;
parse_port(_) ->
    error.

in_port_range(Port) when Port =< 65535 -> {ok, Port};
in_port_range(_) -> error.

parse_v6(Host) ->
    %% inet drops a zone as in "fe80::1%eth0", and the address would then be another one.
    case {binary:match(Host, <<"%">>), inet:parse_ipv6strict_address(binary_to_list(Host))} of
        {nomatch, {ok, Ip}} -> {ok, Ip};
        {_, _} -> {error, "an IPv6 address without a zone between the brackets"}
    end.

parse_host(<<>>) ->
    {ok, {0, 0, 0, 0}};
parse_host(Host) ->
    %% A resolver reads "10.1" as 10.0.0.1: what looks like an IPv4 address must be a whole one.
    case re:run(Host, "\\A[0-9.]+\\z") of
        {match, _} -> parse_v4(Host);
        nomatch -> parse_name(Host)
    end.

parse_v4(Host) ->
    case inet:parse_ipv4strict_address(binary_to_list(Host)) of
        {ok, Ip} -> {ok, Ip};
        {error, einval} -> {error, "an IPv4 address of four numbers from 0 to 255"}
    end.

parse_name(Host) when byte_size(Host) =< 253 ->
    case re:run(Host, "\\A(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\\.(?!\\z)|\\z))+\\z") of
        {match, _} -> {ok, binary_to_list(Host)};
        nomatch -> {error, ?FORMS}
    end;
parse_name(_) ->
    {error, "a host name of at most 253 characters"}.

lookup(_, []) ->
    error;
lookup(Host, [Family | Families]) ->
    case inet:getaddr(Host, Family) of
        {ok, Ip} -> {ok, Ip};
        {error, _} -> lookup(Host, Families)
    end.

host_text(Ip) when tuple_size(Ip) =:= 4 -> inet:ntoa(Ip);
host_text(Ip) when tuple_size(Ip) =:= 8 -> [$[, inet:ntoa(Ip), $]].
