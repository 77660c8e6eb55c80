%% SPDX-License-Identifier: Apache-2.0

%% @private What a trusted proxy says of the client: `Forwarded' and `X-Forwarded-*'.
%%
%% Pure. Whether the peer of a connection is trusted is found out once, by {@link via/3}; for all
%% others {@link scope/2} has nothing to do.
%%
%% The lists in these headers grow to the right: every proxy adds what it saw. So they are read
%% from the right, past addresses that are trusted themselves, up to the first that is not: that is
%% the client, and what stands to the left of it is the client's own word. What cannot be read ends
%% the walk as well, at the hop before. The values of the other headers belong to the same hop.
%% `docs/how-to/behind-a-proxy.md' has the rules in full.
-module(hornbeam_proxy).

%% API
-export([new_trust/1]).
-export([via/3]).
-export([scope/2]).

-export_type([peer/0, trust/0, via/0]).

-type peer() :: inet:ip_address() | unix | unknown.
%% Who has written the HTTP of a connection; a unix socket's client has no address.

-opaque trust() :: off | {IsUnix :: boolean(), hornbeam_ip:set()}.

-opaque via() :: direct | {Scheme :: binary() | undefined, trust()}.
%% How a connection has come: the scheme that the PROXY header names, and, where the peer is
%% trusted, whom else to trust.

%% What trusted hops have said.
-record(facts, {
    client :: {inet:ip_address(), inet:port_number()} | undefined,
    scheme :: binary() | undefined,
    host :: binary() | undefined,
    %% How many hops have been read.
    hops = 0 :: non_neg_integer()
}).

%% The longest name of a host (RFC 1035), and a port.
-define(MAX_HOST_BYTES, 255 + 6).
-define(MAX_PREFIX_BYTES, 1024).

%% @doc The option `proxy_headers', made ready.
-spec new_trust(off | [hornbeam_ip:network() | unix]) -> trust().
new_trust(off) ->
    off;
new_trust(Trusted) ->
    Networks = [Network || Network <- Trusted, Network =/= unix],
    {lists:member(unix, Trusted), hornbeam_ip:new_set(Networks)}.

%% @doc How a connection of this peer has come. `Scheme' is what the PROXY header says of it.
-spec via(peer(), Scheme :: binary() | undefined, trust()) -> via().
via(Peer, Scheme, Trust) ->
    case {is_trusted(Peer, Trust), Scheme} of
        {true, _} -> {Scheme, Trust};
        {false, undefined} -> direct;
        {false, _} -> {Scheme, off}
    end.

%% @doc The scope as the client would have it. To be called with the schemes `http' and `https'.
-spec scope(hornbeam_protocol:scope(), via()) -> hornbeam_protocol:scope().
scope(Scope, direct) ->
    Scope;
scope(Scope, {undefined, Trust}) ->
    forwarded(Scope, Trust);
scope(Scope, {Scheme, Trust}) ->
    forwarded(setelement(2, Scope, Scheme), Trust).

%%% Internal

is_trusted(_, off) -> false;
is_trusted(unknown, _) -> false;
is_trusted(unix, {IsUnix, _}) -> IsUnix;
is_trusted(Ip, {_, Set}) -> hornbeam_ip:is_in(Ip, Set).

forwarded(Scope, off) ->
    Scope;
forwarded(Scope, Trust) ->
    {Method, Scheme, Version, Path, Query, Headers, Client, Server, Extra} = Scope,
    Facts = facts(Headers, Trust),
    {Method, known(Facts#facts.scheme, Scheme), Version, Path, Query, with_host(Facts, Headers),
     client(Facts, Client), Server, with_prefix(Facts, Headers, Extra)}.

%% A proxy that knows one kind of header passes the other on as the client has sent it. Those that
%% write `X-Forwarded-*' are the most, so these win.
facts(Headers, Trust) ->
    Names = [<<"x-forwarded-for">>, <<"x-forwarded-proto">>, <<"x-forwarded-host">>,
             <<"x-forwarded-port">>],
    case lists:any(fun(Name) -> lists:keymember(Name, 1, Headers) end, Names) of
        true -> by_x_forwarded(Headers, Trust);
        false -> by_forwarded(value(<<"forwarded">>, Headers), Trust, #facts{})
    end.

client(#facts{client = undefined}, Client) -> Client;
client(#facts{client = {Ip, Port}}, _) -> {hornbeam_ip:to_text(Ip), Port}.

with_host(#facts{host = undefined}, Headers) -> Headers;
with_host(#facts{host = Host}, Headers) ->
    lists:keystore(<<"host">>, 1, Headers, {<<"host">>, Host}).

%% What the proxy has taken off the path stands in place of the option root_path.
with_prefix(Facts, Headers, Extra) ->
    case prefix(value_of_hop(Facts, <<"x-forwarded-prefix">>, Headers)) of
        undefined -> Extra;
        Prefix -> Extra#{root_path => Prefix}
    end.

known(undefined, Default) -> Default;
known(Value, _) -> Value.

value(Name, Headers) ->
    case lists:keyfind(Name, 1, Headers) of
        {_, Value} -> Value;
        false -> <<>>
    end.

%%% X-Forwarded-*

by_x_forwarded(Headers, Trust) ->
    Addresses = hornbeam_forwarded:values(value(<<"x-forwarded-for">>, Headers)),
    Facts = walk(lists:reverse(Addresses), Trust, #facts{}),
    Scheme = scheme(value_of_hop(Facts, <<"x-forwarded-proto">>, Headers)),
    Host = host(value_of_hop(Facts, <<"x-forwarded-host">>, Headers)),
    Port = port(value_of_hop(Facts, <<"x-forwarded-port">>, Headers)),
    Facts#facts{scheme = Scheme, host = with_port(Host, Port, Scheme)}.

walk([Text | Rest], Trust, Facts = #facts{hops = Hops}) ->
    case client(Text) of
        {ok, Client} ->
            Known = Facts#facts{client = Client, hops = Hops + 1},
            case is_trusted(element(1, Client), Trust) of
                true -> walk(Rest, Trust, Known);
                false -> Known
            end;
        error ->
            Facts#facts{hops = Hops + 1}
    end;
walk([], _, Facts) ->
    Facts.

%% Where there are fewer values than hops, not every proxy has added one.
value_of_hop(#facts{hops = Hops}, Name, Headers) ->
    Values = hornbeam_forwarded:values(value(Name, Headers)),
    lists:nth(max(1, length(Values) - max(1, Hops) + 1), Values).

%%% Forwarded

by_forwarded(<<>>, _, Facts) ->
    Facts;
by_forwarded(Text, Trust, Facts0 = #facts{hops = Hops}) ->
    {Before, Element} = hornbeam_forwarded:split_last(Text),
    case hornbeam_forwarded:pairs(Element) of
        {ok, Pairs} ->
            Facts = learn(Pairs, Facts0#facts{hops = Hops + 1}),
            case client(value(<<"for">>, Pairs)) of
                {ok, Client = {Ip, _}} ->
                    further(is_trusted(Ip, Trust), Before, Trust, Facts#facts{client = Client});
                error ->
                    Facts
            end;
        error ->
            Facts0
    end.

further(true, Before, Trust, Facts) -> by_forwarded(Before, Trust, Facts);
further(false, _, _, Facts) -> Facts.

learn(Pairs, Facts = #facts{scheme = Scheme, host = Host}) ->
    Facts#facts{scheme = known(scheme(value(<<"proto">>, Pairs)), Scheme),
                host = known(host(value(<<"host">>, Pairs)), Host)}.

%%% What can be believed

%% An address with or without a port. `unknown' and `_hidden' are none, nor is a name.
client(Quoted) ->
    case hornbeam_forwarded:unquote(Quoted) of
        {ok, <<"[", Rest/binary>>} -> bracketed(binary:split(Rest, <<"]">>));
        {ok, Text} -> plain(binary:split(Text, <<":">>, [global]), Text);
        error -> error
    end.

bracketed([Ip, <<>>]) -> client_at(v6(Ip), {ok, 0});
bracketed([Ip, <<":", Port/binary>>]) -> client_at(v6(Ip), client_port(Port));
bracketed(_) -> error.

plain([Ip, Port], _) -> client_at(hornbeam_ip:parse(Ip), client_port(Port));
plain(_, Text) -> client_at(hornbeam_ip:parse(Text), {ok, 0}).

client_at({ok, Ip}, {ok, Port}) -> {ok, {Ip, Port}};
client_at(_, _) -> error.

v6(Text) ->
    case binary:match(Text, <<":">>) of
        nomatch -> error;
        _ -> hornbeam_ip:parse(Text)
    end.

%% An obfuscated port (RFC 7239 6.3) hides the port, not the address.
client_port(<<"_", _/binary>>) ->
    {ok, 0};
client_port(Text) ->
    case port(Text) of
        undefined -> error;
        Port -> {ok, Port}
    end.

port(Text) when byte_size(Text) >= 1, byte_size(Text) =< 5 ->
    case is_digits(Text) andalso binary_to_integer(Text) of
        Port when is_integer(Port), Port =< 65535 -> Port;
        _ -> undefined
    end;
port(_) ->
    undefined.

is_digits(<<C, Rest/binary>>) when C >= $0, C =< $9 -> is_digits(Rest);
is_digits(Rest) -> Rest =:= <<>>.

%% Some proxies tell WebSockets apart.
scheme(Text) when byte_size(Text) =< 5 ->
    case << <<(C bor 16#20)>> || <<C>> <= Text >> of
        <<"https">> -> <<"https">>;
        <<"wss">> -> <<"https">>;
        <<"http">> -> <<"http">>;
        <<"ws">> -> <<"http">>;
        _ -> undefined
    end;
scheme(_) ->
    undefined.

host(Text) when byte_size(Text) =< ?MAX_HOST_BYTES ->
    case is_host(Text) of
        true -> Text;
        false -> undefined
    end;
host(_) ->
    undefined.

is_host(<<"[", Rest/binary>>) ->
    case binary:split(Rest, <<"]">>) of
        [Ip, <<>>] -> v6(Ip) =/= error;
        [Ip, <<":", Port/binary>>] -> v6(Ip) =/= error andalso port(Port) =/= undefined;
        _ -> false
    end;
is_host(Text) ->
    case binary:split(Text, <<":">>) of
        [Name] -> is_name(Name);
        [Name, Port] -> is_name(Name) andalso port(Port) =/= undefined
    end.

is_name(<<>>) -> false;
is_name(Text) -> is_name_text(Text).

is_name_text(<<C, Rest/binary>>)
        when C >= $a, C =< $z; C >= $A, C =< $Z; C >= $0, C =< $9; C =:= $-; C =:= $.; C =:= $_;
             C =:= $~ ->
    is_name_text(Rest);
is_name_text(Rest) ->
    Rest =:= <<>>.

%% The port belongs to the host that the proxy names, where that comes without one.
with_port(undefined, _, _) -> undefined;
with_port(Host, undefined, _) -> Host;
with_port(Host, 443, <<"https">>) -> Host;
with_port(Host, 80, <<"http">>) -> Host;
with_port(Host, Port, _) ->
    case binary:match(Host, <<":">>) =:= nomatch orelse binary:last(Host) =:= $] of
        true -> <<Host/binary, $:, (integer_to_binary(Port))/binary>>;
        false -> Host
    end.

%% A path of segments; "//host" or "/a/../b" would lead elsewhere. "/" stands for no prefix.
prefix(<<"/">>) ->
    <<>>;
prefix(<<"/", Rest/binary>>) when byte_size(Rest) < ?MAX_PREFIX_BYTES ->
    Path = without_last_slash(Rest),
    case lists:all(fun is_segment/1, binary:split(Path, <<"/">>, [global])) of
        true -> <<"/", Path/binary>>;
        false -> undefined
    end;
prefix(_) ->
    undefined.

without_last_slash(Path) ->
    case binary:last(Path) of
        $/ -> binary:part(Path, 0, byte_size(Path) - 1);
        _ -> Path
    end.

is_segment(<<>>) -> false;
is_segment(<<".">>) -> false;
is_segment(<<"..">>) -> false;
is_segment(Text) -> is_path_text(Text).

%% RFC 3986 3.3 without percent signs.
is_path_text(<<C, Rest/binary>>)
        when C >= $a, C =< $z; C >= $A, C =< $Z; C >= $0, C =< $9; C =:= $-; C =:= $.; C =:= $_;
             C =:= $~; C =:= $!; C =:= $$; C =:= $&; C =:= $'; C =:= $(; C =:= $); C =:= $*;
             C =:= $+; C =:= $;; C =:= $=; C =:= $:; C =:= $@ ->
    is_path_text(Rest);
is_path_text(Rest) ->
    Rest =:= <<>>.
