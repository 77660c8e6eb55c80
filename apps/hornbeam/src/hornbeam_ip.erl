%% SPDX-License-Identifier: Apache-2.0
%% @private IP addresses and networks: their texts, and which address lies in which network.
%%
%% Pure. Reads strictly, because what is read here decides whom to believe: four decimal numbers
%% without zeros in front (`inet' takes "010.0.0.1" for 8.0.0.1), IPv6 without a zone. An IPv4
%% address in the form of an IPv6 one (::ffff:10.0.0.1) is that IPv4 address everywhere.
-module(hornbeam_ip).

-export([parse/1]).
-export([parse_network/1]).
-export([normalise/1]).
-export([to_text/1]).
-export([new_set/1]).
-export([is_in/2]).

-export_type([network/0, set/0]).

-type network() :: {inet:ip_address(), PrefixBits :: 0..128}.
%% As {@link parse_network/1} gives it; bits behind the prefix do not count.

-type prefixes() :: [{ShiftBits :: 0..128, #{Prefix :: non_neg_integer() => []}}].
%% For each length of prefix that occurs, by how much an address is shifted, and the networks.

-opaque set() :: {V4 :: prefixes(), V6 :: prefixes()}.
%% Networks in the form in which an address is looked up among them.

-define(V4_BITS, 32).
-define(V6_BITS, 128).
%% Of the IPv6 addresses that stand for IPv4 ones.
-define(MAPPED_BITS, 96).
%% The longest text of an IPv6 address, one that ends like an IPv4 one.
-define(MAX_V6_BYTES, 45).

%% @doc Reads an address without brackets or port.
-spec parse(binary()) -> {ok, inet:ip_address()} | error.
parse(Text) when byte_size(Text) =< ?MAX_V6_BYTES ->
    case binary:match(Text, <<":">>) of
        nomatch -> parse_v4(Text);
        _ -> parse_v6(Text)
    end;
parse(_) ->
    error.

%% @doc Reads an address, or one with the number of its leading bits that count.
-spec parse_network(binary()) -> {ok, network()} | error.
parse_network(Text) ->
    case binary:split(Text, <<"/">>) of
        [AddressText] ->
            case parse(AddressText) of
                {ok, Ip} -> {ok, {Ip, bits(Ip)}};
                error -> error
            end;
        [AddressText, BitsText] ->
            network(parse(AddressText), binary:match(AddressText, <<":">>), decimal(BitsText, 3))
    end.

%% @doc The IPv4 address where an IPv6 one stands for it.
-spec normalise(inet:ip_address()) -> inet:ip_address().
normalise({0, 0, 0, 0, 0, 16#ffff, High, Low}) ->
    {High bsr 8, High band 255, Low bsr 8, Low band 255};
normalise(Ip) ->
    Ip.

%% @doc As users write it, IPv6 without brackets.
-spec to_text(inet:ip_address()) -> binary().
to_text(Ip) ->
    list_to_binary(inet:ntoa(normalise(Ip))).

%% @doc Networks, made ready for {@link is_in/2}.
-spec new_set([network()]) -> set().
new_set(Networks) ->
    {prefixes([Network || {Ip, _} = Network <- Networks, tuple_size(Ip) =:= 4], ?V4_BITS),
     prefixes([Network || {Ip, _} = Network <- Networks, tuple_size(Ip) =:= 8], ?V6_BITS)}.

%% @doc Whether an address lies in one of the networks.
-spec is_in(inet:ip_address(), set()) -> boolean().
is_in(Ip, {V4, V6}) ->
    case normalise(Ip) of
        Normal when tuple_size(Normal) =:= 4 -> is_among(to_integer(Normal), V4);
        Normal -> is_among(to_integer(Normal), V6)
    end.

%% Internal.

parse_v4(Text) ->
    Numbers = [decimal(Part, 3) || Part <- binary:split(Text, <<".">>, [global])],
    case Numbers of
        [{ok, A}, {ok, B}, {ok, C}, {ok, D}] when A < 256, B < 256, C < 256, D < 256 ->
            {ok, {A, B, C, D}};
        _ ->
            error
    end.

parse_v6(Text) ->
    Last = lists:last(binary:split(Text, <<":">>, [global])),
    case is_v6_text(Text) andalso is_v6_end(Last) of
        true ->
            case inet:parse_ipv6strict_address(binary_to_list(Text)) of
                {ok, Ip} -> {ok, normalise(Ip)};
                {error, einval} -> error
            end;
        false ->
            error
    end.

is_v6_text(<<C, Rest/binary>>)
        when C >= $0, C =< $9; C >= $a, C =< $f; C >= $A, C =< $F; C =:= $:; C =:= $. ->
    is_v6_text(Rest);
is_v6_text(Rest) ->
    Rest =:= <<>>.

is_v6_end(Last) ->
    binary:match(Last, <<".">>) =:= nomatch orelse parse_v4(Last) =/= error.

%% Digits without zeros in front, few enough to be no large number.
decimal(<<"0">>, _) ->
    {ok, 0};
decimal(<<C, Rest/binary>>, MaxDigits) when C >= $1, C =< $9, byte_size(Rest) < MaxDigits ->
    decimal_rest(Rest, C - $0);
decimal(_, _) ->
    error.

decimal_rest(<<C, Rest/binary>>, Number) when C >= $0, C =< $9 ->
    decimal_rest(Rest, 10 * Number + C - $0);
decimal_rest(<<>>, Number) ->
    {ok, Number};
decimal_rest(_, _) ->
    error.

%% ::ffff:10.0.0.0/104 is 10.0.0.0/8, with bits of an IPv6 address.
network({ok, Ip}, {_, _}, {ok, Bits}) when tuple_size(Ip) =:= 4 ->
    network({ok, Ip}, nomatch, {ok, Bits - ?MAPPED_BITS});
network({ok, Ip}, _, {ok, Bits}) ->
    case Bits >= 0 andalso Bits =< bits(Ip) of
        true -> {ok, {Ip, Bits}};
        false -> error
    end;
network(_, _, _) ->
    error.

bits(Ip) when tuple_size(Ip) =:= 4 -> ?V4_BITS;
bits(Ip) when tuple_size(Ip) =:= 8 -> ?V6_BITS.

prefixes(Networks, AllBits) ->
    Shifts = lists:usort([AllBits - Bits || {_, Bits} <- Networks]),
    [{Shift, maps:from_list([{to_integer(Ip) bsr Shift, []}
                             || {Ip, Bits} <- Networks, AllBits - Bits =:= Shift])}
     || Shift <- Shifts].

is_among(Number, [{Shift, Prefixes} | Rest]) ->
    is_map_key(Number bsr Shift, Prefixes) orelse is_among(Number, Rest);
is_among(_, []) ->
    false.

to_integer({A, B, C, D}) ->
    <<Number:32>> = <<A, B, C, D>>,
    Number;
to_integer({A, B, C, D, E, F, G, H}) ->
    <<Number:128>> = <<A:16, B:16, C:16, D:16, E:16, F:16, G:16, H:16>>,
    Number.
