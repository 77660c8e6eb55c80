%% SPDX-License-Identifier: Apache-2.0
%% Whom to believe, whatever a client sends.
-module(prop_proxy).

-include("hornbeam_proper.hrl").

-import(proper_types, [binary/0, integer/2, list/1, oneof/1]).

-export([prop_any_bytes_are_read/0]).
-export([prop_clients_cannot_change_what_proxies_add/0]).
-export([prop_walk_agrees_with_its_rule/0]).
-export([prop_networks_agree_with_bits/0]).
-export([prop_any_bytes_are_a_header_or_none/0]).

-define(PROXY, {10, 0, 0, 1}).

%% No header makes it fail, and what comes out has its form.
prop_any_bytes_are_read() ->
    ?FORALL({Names, Value}, {list(name()), text()}, begin
        Scope = seen([{Name, Value} || Name <- lists:usort(Names)]),
        {_, Scheme, _, _, _, Headers, {Ip, Port}, _, Extra} = Scope,
        {_, Host} = lists:keyfind(<<"host">>, 1, Headers),
        lists:member(Scheme, [<<"http">>, <<"https">>])
            andalso hornbeam_ip:parse(Ip) =/= error
            andalso is_integer(Port) andalso Port >= 0 andalso Port =< 65535
            andalso binary:match(Host, [<<"/">>, <<" ">>, <<"@">>, <<"\"">>, <<",">>]) =:= nomatch
            andalso binary:match(maps:get(root_path, Extra, <<>>), <<"//">>) =:= nomatch
    end).

%% Whatever stands to the left of the last proxy's addition.
prop_clients_cannot_change_what_proxies_add() ->
    ?FORALL({Left, Ip}, {text(), untrusted()}, begin
        Text = hornbeam_ip:to_text(Ip),
        Quoted = case tuple_size(Ip) of
            4 -> Text;
            8 -> <<"\"[", Text/binary, "]:1\"">>
        end,
        Element = <<", for=", Quoted/binary, ";proto=https">>,
        Text =:= client(seen([{<<"forwarded">>, <<Left/binary, Element/binary>>}]))
            andalso
        Text =:= client(seen([{<<"x-forwarded-for">>, <<Left/binary, ", ", Text/binary>>}]))
    end).

%% The right-most address that is not trusted, else the left-most.
prop_walk_agrees_with_its_rule() ->
    ?FORALL(Ips, list(oneof([trusted(), untrusted()])), begin
        Texts = [hornbeam_ip:to_text(Ip) || Ip <- Ips],
        Value = iolist_to_binary(lists:join(<<", ">>, Texts)),
        Quoted = [["for=\"", bracketed(Text), $"] || Text <- Texts],
        Forwarded = iolist_to_binary(lists:join(<<",">>, Quoted)),
        Expected = case lists:dropwhile(fun is_trusted/1, lists:reverse(Ips)) of
            [Ip | _] -> hornbeam_ip:to_text(Ip);
            [] -> hd(Texts ++ [<<"10.0.0.1">>])
        end,
        Expected =:= client(seen([{<<"x-forwarded-for">>, Value}]))
            andalso Expected =:= client(seen([{<<"forwarded">>, Forwarded}]))
    end).

%% As a person checks it: the leading bits are the same.
prop_networks_agree_with_bits() ->
    ?FORALL({Networks, Ip}, {list(network()), ip()}, begin
        Set = hornbeam_ip:new_set(Networks),
        Expected = lists:any(fun({Network, Bits}) ->
            tuple_size(Network) =:= tuple_size(Ip)
                andalso lists:sublist(bits(Network), Bits) =:= lists:sublist(bits(Ip), Bits)
        end, Networks),
        hornbeam_ip:is_in(Ip, Set) =:= Expected
    end).

prop_any_bytes_are_a_header_or_none() ->
    Signature = <<13, 10, 13, 10, 0, 13, 10, "QUIT", 10>>,
    Start = oneof([<<>>, Signature, <<Signature/binary, 16#21, 16#11, 0, 30>>,
                   <<Signature/binary, 16#21, 16#21, 0, 60>>, <<"PROXY ">>, <<"PROXY TCP4 ">>]),
    ?FORALL({Head, Bytes, Pad}, {Start, text(), integer(0, 100)}, begin
        All = <<Head/binary, Bytes/binary, 0:(8 * Pad)>>,
        case hornbeam_proxy_header:parse(All) of
            {ok, unknown, Rest} -> is_end(Rest, All);
            {ok, {proxied, #{}}, Rest} -> is_end(Rest, All);
            more -> byte_size(All) < 16 + 16384;
            {error, Why} -> is_binary(Why)
        end
    end).

%% Internal.

is_end(Rest, All) ->
    binary:part(All, byte_size(All), -byte_size(Rest)) =:= Rest.

seen(Headers) ->
    Scope = {<<"GET">>, <<"http">>, <<"1.1">>, <<"/">>, <<>>, [{<<"host">>, <<"h">>} | Headers],
             {<<"10.0.0.1">>, 5000}, {<<"10.0.0.9">>, 80}, #{}},
    Trust = hornbeam_proxy:new_trust([{{10, 0, 0, 0}, 8}, {{16#fd00, 0, 0, 0, 0, 0, 0, 0}, 8}]),
    hornbeam_proxy:scope(Scope, hornbeam_proxy:via(?PROXY, undefined, Trust)).

client(Scope) ->
    element(1, element(7, Scope)).

bracketed(Text) ->
    case binary:match(Text, <<":">>) of
        nomatch -> Text;
        _ -> [$[, Text, $]]
    end.

is_trusted(Ip) when tuple_size(Ip) =:= 4 -> element(1, Ip) =:= 10;
is_trusted(Ip) -> element(1, Ip) bsr 8 =:= 16#fd.

name() ->
    oneof([<<"forwarded">>, <<"x-forwarded-for">>, <<"x-forwarded-proto">>, <<"x-forwarded-host">>,
           <<"x-forwarded-port">>, <<"x-forwarded-prefix">>]).

%% Bytes of which some mean something here.
text() ->
    Piece = oneof([binary(), <<"for=">>, <<"proto=https">>, <<"host=">>, <<"\"">>, <<",">>, <<";">>,
                   <<"\\">>, <<"[">>, <<"]">>, <<":">>, <<"/">>, <<"/a">>, <<"10.0.0.2">>, <<"1.1.1.1">>,
                   <<"::1">>, <<" ">>, <<"https">>, <<"80">>, <<"\r\n">>, <<"TCP4 ">>]),
    ?LET(Pieces, list(Piece), iolist_to_binary(Pieces)).

trusted() ->
    oneof([{10, octet(), octet(), octet()}, {16#fd00, 0, 0, 0, 0, 0, 0, integer(0, 65535)}]).

untrusted() ->
    oneof([{integer(11, 255), octet(), octet(), octet()},
           {integer(16#2000, 16#3fff), 0, 0, 0, 0, 0, 0, integer(0, 65535)}]).

%% Few values, so that addresses and networks meet.
ip() ->
    oneof([{small(), small(), small(), octet()},
           {1, small(), small(), small(), small(), small(), small(), integer(0, 65535)}]).

network() ->
    oneof([{{small(), small(), small(), octet()}, integer(0, 32)},
           {{1, small(), small(), small(), small(), small(), small(), integer(0, 65535)}, integer(0, 128)}]).

small() -> integer(0, 1).

octet() -> integer(0, 255).

bits(Ip) ->
    Size = case tuple_size(Ip) of 4 -> 8; 8 -> 16 end,
    Bytes = << <<Part:Size>> || Part <- tuple_to_list(Ip) >>,
    [Bit || <<Bit:1>> <= Bytes].
