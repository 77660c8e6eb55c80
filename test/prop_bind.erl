%% SPDX-License-Identifier: Apache-2.0
-module(prop_bind).

-include("hornbeam_proper.hrl").

-import(proper_types, [binary/0, integer/2, list/1, oneof/1, vector/2]).

-export([prop_printed_addresses_are_read_again/0]).
-export([prop_any_text_gives_an_address_or_what_was_expected/0]).
-export([prop_nearly_addresses/0]).

%% A URL without its scheme is the bind text of the same address.
prop_printed_addresses_are_read_again() ->
    ?FORALL({Ip, Port}, {ip(), integer(0, 65535)}, begin
        Address = #{type => tcp, ip => Ip, port => Port, text => <<>>},
        <<"http://", Text/binary>> = hornbeam_bind:url(Address),
        {ok, Read} = hornbeam_bind:read(Text),
        Read =:= Address#{text := Text}
    end).

%% No text crashes the parser.
prop_any_text_gives_an_address_or_what_was_expected() ->
    ?FORALL(Text, binary(), is_answer(Text, hornbeam_bind:parse(Text))).

%% The same for text made of the letters of addresses, which gets further.
prop_nearly_addresses() ->
    Piece = oneof(["[", "]", ":", "::1", ".", "127.0.0.1", "unix:", "/", "a", "-", "80", "99999"]),
    ?FORALL(Pieces, list(Piece), begin
        Text = iolist_to_binary(Pieces),
        is_answer(Text, hornbeam_bind:parse(Text))
    end).

is_answer(Text, {ok, #{type := tcp, host := Host, port := Port, text := Text}}) ->
    (is_tuple(Host) orelse io_lib:printable_latin1_list(Host)) andalso
        Port >= 0 andalso Port =< 65535;
is_answer(Text, {ok, #{type := unix, path := <<"/", _/binary>> = Path, text := Text}}) ->
    <<"unix:", Path/binary>> =:= Text;
is_answer(_, {error, Expected}) ->
    iolist_size(Expected) > 0.

ip() ->
    oneof([address(4, 255), address(8, 65535)]).

address(Length, Max) ->
    ?LET(Groups, vector(Length, oneof([0, integer(0, Max)])), list_to_tuple(Groups)).
