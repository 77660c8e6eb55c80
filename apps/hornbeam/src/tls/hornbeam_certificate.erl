%% SPDX-License-Identifier: Apache-2.0

%% @private The fields of an X.509 certificate that Hornbeam needs.
%%
%% Pure. Walks the DER by itself: the records of OTP's decoder have changed between its releases.
%% Fails like a match on what is no certificate.
-module(hornbeam_certificate).

%% API
-export([check/1]).
-export([public_key/1]).
-export([validity/1]).
-export([subject/1]).
-export([encode/1]).
-export([elements/1]).

-export_type([validity/0]).

-type validity() :: {NotBefore :: calendar:datetime(), NotAfter :: calendar:datetime()}.
%% In universal time.

-define(INTEGER, 16#02).
-define(UTC_TIME, 16#17).
-define(GENERALIZED_TIME, 16#18).
-define(SEQUENCE, 16#30).
-define(VERSION, 16#a0).

-define(MAX_SHORT_LENGTH, 127).

%% @doc Whether the bytes are a certificate, for us and for OTP.
-spec check(binary()) -> boolean().
check(Der) ->
    try {public_key:pkix_decode_cert(Der, otp), validity(Der), public_key(Der)} of
        {_, _, _} -> true
    catch
        error:_ -> false
    end.

%% @doc The key that verifies what the certificate's owner has signed.
-spec public_key(public_key:der_encoded()) -> public_key:public_key().
public_key(Certificate) ->
    #{public_key := Content} = fields(Certificate),
    Info = encode({?SEQUENCE, Content}),
    public_key:pem_entry_decode({'SubjectPublicKeyInfo', Info, not_encrypted}).

%% @doc From when to when the certificate is valid.
-spec validity(public_key:der_encoded()) -> validity().
validity(Certificate) ->
    #{validity := Validity} = fields(Certificate),
    [NotBefore, NotAfter] = elements(Validity),
    {datetime(NotBefore), datetime(NotAfter)}.

%% @doc The content of the subject's name.
-spec subject(public_key:der_encoded()) -> binary().
subject(Certificate) ->
    maps:get(subject, fields(Certificate)).

%% @doc An element in DER.
-spec encode({Tag :: byte(), Content :: binary()}) -> binary().
encode({Tag, Content}) when byte_size(Content) =< ?MAX_SHORT_LENGTH ->
    <<Tag, (byte_size(Content)), Content/binary>>;
encode({Tag, Content}) ->
    Length = binary:encode_unsigned(byte_size(Content)),
    <<Tag, 1:1, (byte_size(Length)):7, Length/binary, Content/binary>>.

%% @doc The elements of DER with their tags, which are of one byte in certificates.
-spec elements(binary()) -> [{Tag :: byte(), Content :: binary()}].
elements(<<Tag, 0:1, Length:7, Content:Length/binary, Rest/binary>>) ->
    [{Tag, Content} | elements(Rest)];
elements(<<Tag, 1:1, Size:7, Length:Size/unit:8, Content:Length/binary, Rest/binary>>) ->
    [{Tag, Content} | elements(Rest)];
elements(<<>>) ->
    [].

%% Internal.

%% RFC 5280 4.1.
fields(Certificate) ->
    [{?SEQUENCE, Parts}] = elements(Certificate),
    [{?SEQUENCE, ToBeSigned} | _] = elements(Parts),
    Fields = lists:dropwhile(fun({Tag, _}) -> Tag =:= ?VERSION end, elements(ToBeSigned)),
    [{?INTEGER, _Serial}, _Algorithm, _Issuer, {?SEQUENCE, Validity}, {?SEQUENCE, Subject},
     {?SEQUENCE, PublicKey} | _] = Fields,
    #{validity => Validity, subject => Subject, public_key => PublicKey}.

%% RFC 5280 4.1.2.5.1: two digits from 50 on are of the last century.
datetime({?UTC_TIME, Text}) when Text >= <<"50">> -> datetime(<<"19", Text/binary>>);
datetime({?UTC_TIME, Text}) -> datetime(<<"20", Text/binary>>);
datetime({?GENERALIZED_TIME, Text}) -> datetime(Text);
datetime(<<Year:4/binary, Month:2/binary, Day:2/binary, Hour:2/binary, Minute:2/binary,
           Second:2/binary, "Z">>) ->
    [Y, Mo, D, H, Mi, S] =
        [binary_to_integer(Digits) || Digits <- [Year, Month, Day, Hour, Minute, Second]],
    {{Y, Mo, D}, {H, Mi, S}}.
