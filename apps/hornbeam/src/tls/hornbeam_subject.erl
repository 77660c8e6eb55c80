%% SPDX-License-Identifier: Apache-2.0

%% @private The name of a certificate's subject as text (RFC 4514).
%%
%% Pure.
-module(hornbeam_subject).

%% API
-export([text/1]).

-define(OBJECT_IDENTIFIER, 16#06).
-define(SEQUENCE, 16#30).
-define(SET, 16#31).

-define(UTF8_STRING, 16#0c).
-define(PRINTABLE_STRING, 16#13).
-define(TELETEX_STRING, 16#14).
-define(IA5_STRING, 16#16).
-define(UNIVERSAL_STRING, 16#1c).
-define(BMP_STRING, 16#1e).

%% @doc The subject of a certificate that the TLS library has verified: it is well-formed.
-spec text(public_key:der_encoded()) -> binary().
text(Certificate) ->
    Names = hornbeam_certificate:elements(hornbeam_certificate:subject(Certificate)),
    %% RFC 4514 2.1: the last comes first.
    Relative = [relative(Attributes) || {?SET, Attributes} <- lists:reverse(Names)],
    iolist_to_binary(lists:join($,, Relative)).

relative(Set) ->
    Attributes = [Each || {?SEQUENCE, Each} <- hornbeam_certificate:elements(Set)],
    lists:join($+, [attribute(hornbeam_certificate:elements(Each)) || Each <- Attributes]).

attribute([{?OBJECT_IDENTIFIER, Identifier}, {Tag, Content} = Value]) ->
    case {short_name(Identifier), characters(Tag, Content)} of
        {{ok, Name}, Text} when is_binary(Text) -> [Name, $=, escape(Text)];
        {{ok, Name}, undefined} -> [Name, $=, hexadecimal(Value)];
        %% RFC 4514 2.4.
        {error, _} -> [dotted(Identifier), $=, hexadecimal(Value)]
    end.

%% The table of RFC 4514 3, and what people expect beyond it.
short_name(<<16#55, 4, 3>>) -> {ok, "CN"};
short_name(<<16#55, 4, 4>>) -> {ok, "SN"};
short_name(<<16#55, 4, 5>>) -> {ok, "serialNumber"};
short_name(<<16#55, 4, 6>>) -> {ok, "C"};
short_name(<<16#55, 4, 7>>) -> {ok, "L"};
short_name(<<16#55, 4, 8>>) -> {ok, "ST"};
short_name(<<16#55, 4, 9>>) -> {ok, "STREET"};
short_name(<<16#55, 4, 10>>) -> {ok, "O"};
short_name(<<16#55, 4, 11>>) -> {ok, "OU"};
short_name(<<16#55, 4, 12>>) -> {ok, "title"};
short_name(<<16#55, 4, 42>>) -> {ok, "givenName"};
%% 1.2.840.113549.1.9.1, 0.9.2342.19200300.100.1.25 and .1
short_name(<<16#2a864886f70d010901:72>>) -> {ok, "emailAddress"};
short_name(<<16#0992268993f22c640119:80>>) -> {ok, "DC"};
short_name(<<16#0992268993f22c640101:80>>) -> {ok, "UID"};
short_name(_) -> error.

characters(?UTF8_STRING, Content) -> valid(unicode:characters_to_binary(Content));
characters(?PRINTABLE_STRING, Content) -> unicode:characters_to_binary(Content, latin1);
characters(?IA5_STRING, Content) -> unicode:characters_to_binary(Content, latin1);
characters(?TELETEX_STRING, Content) -> unicode:characters_to_binary(Content, latin1);
characters(?BMP_STRING, Content) -> valid(unicode:characters_to_binary(Content, {utf16, big}));
characters(?UNIVERSAL_STRING, Content) ->
    valid(unicode:characters_to_binary(Content, {utf32, big}));
characters(_, _) -> undefined.

valid(Text) when is_binary(Text) -> Text;
valid(_) -> undefined.

%% RFC 4514 2.4.
escape(<<>>) ->
    <<>>;
escape(<<First, Rest/binary>>) when First =:= $\s; First =:= $# ->
    [$\\, First, escape_rest(Rest)];
escape(Text) ->
    escape_rest(Text).

escape_rest(<<>>) -> [];
escape_rest(<<$\s>>) -> "\\ ";
escape_rest(<<0, Rest/binary>>) -> ["\\00", escape_rest(Rest)];
escape_rest(<<C, Rest/binary>>)
        when C =:= $"; C =:= $+; C =:= $,; C =:= $;; C =:= $<; C =:= $>; C =:= $\\ ->
    [$\\, C | escape_rest(Rest)];
escape_rest(<<C, Rest/binary>>) -> [C | escape_rest(Rest)].

hexadecimal(Value) ->
    [$#, string:lowercase(binary:encode_hex(hornbeam_certificate:encode(Value)))].

dotted(Identifier) ->
    [First | Rest] = arcs(Identifier, 0),
    Top = min(First div 40, 2),
    lists:join($., [integer_to_list(Arc) || Arc <- [Top, First - 40 * Top | Rest]]).

arcs(<<1:1, Bits:7, Rest/binary>>, Sum) -> arcs(Rest, (Sum bsl 7) bor Bits);
arcs(<<0:1, Bits:7, Rest/binary>>, Sum) -> [(Sum bsl 7) bor Bits | arcs(Rest, 0)];
arcs(<<>>, 0) -> [].
