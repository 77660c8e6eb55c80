%% SPDX-License-Identifier: Apache-2.0

%% @private Certificates and keys from the text of PEM files.
%%
%% Pure. An error says what is wrong with the text as the rest of a sentence that begins with the
%% file. Whatever the bytes, the answer is a value: the decoders of OTP raise on some of them.
-module(hornbeam_pem).

%% API
-export([certificates/1]).
-export([private_key/2]).
-export([belongs_to/2]).
-export([encode/1]).

-export_type([key/0, private_key/0]).

-type key() :: {'RSAPrivateKey' | 'ECPrivateKey', Der :: binary()}.
%% As the option `key' of ssl takes it: decrypted.

-type private_key() :: public_key:private_key().

-define(CERTIFICATE_BEGINS, <<"-----BEGIN CERTIFICATE-----">>).
-define(KEY_BEGINS, <<"PRIVATE KEY-----">>).

%% @doc All certificates in their order.
-spec certificates(binary()) -> {ok, [public_key:der_encoded(), ...]} | {error, binary()}.
certificates(Text) ->
    case [Der || {'Certificate', Der, not_encrypted} <- entries(Text)] of
        [] ->
            {error, nothing(binary:match(Text, ?CERTIFICATE_BEGINS), <<"certificate">>)};
        Ders ->
            case lists:all(fun hornbeam_certificate:check/1, Ders) of
                true -> {ok, Ders};
                false -> {error, <<"it holds a certificate that cannot be read">>}
            end
    end.

%% @doc The first key.
-spec private_key(binary(), Password :: binary() | undefined) ->
    {ok, {key(), private_key()}} | {error, binary()}.
private_key(Text, Password) ->
    case [Entry || {Type, _, _} = Entry <- entries(Text), is_key_type(Type)] of
        [] -> {error, nothing(binary:match(Text, ?KEY_BEGINS), <<"private key">>)};
        [Entry | _] -> decode_key(Entry, Password)
    end.

%% @doc Whether the key is that of the certificate: what the one signs, the other verifies.
-spec belongs_to(private_key(), public_key:der_encoded()) -> boolean().
belongs_to(Key, Certificate) ->
    Text = <<"hornbeam">>,
    Public = hornbeam_certificate:public_key(Certificate),
    Digest = digest(Public),
    try
        public_key:verify(Text, Digest, public_key:sign(Text, Digest, Key), Public)
    catch
        %% Keys of different kinds.
        error:_ -> false
    end.

%% @doc A certificate as PEM, for people and for Python.
-spec encode(public_key:der_encoded()) -> binary().
encode(Certificate) ->
    Text = public_key:pem_encode([{'Certificate', Certificate, not_encrypted}]),
    <<(string:trim(Text))/binary, $\n>>.

%% Internal.

entries(Text) ->
    try public_key:pem_decode(Text)
    catch _:_ -> []
    end.

nothing(nomatch, What) -> <<"it holds no ", What/binary, " in PEM form">>;
nothing(_, What) -> <<"it holds a ", What/binary, " that cannot be read">>.

%% By what their names have in common, since releases of OTP differ in one of them.
is_key_type(Type) ->
    Name = atom_to_list(Type),
    string:find(Name, "Key") =/= nomatch andalso string:find(Name, "Public") =:= nomatch.

decode_key({_, _, not_encrypted} = Entry, _) ->
    decoded_key(Entry, [], <<"it holds a private key that cannot be read">>);
decode_key(_, undefined) ->
    {error, <<"the private key is encrypted, and the option password is not set">>};
decode_key(Entry, Password) ->
    decoded_key(Entry, [unicode:characters_to_list(Password)],
                <<"the password does not decrypt the private key">>).

decoded_key(Entry, Password, Why) ->
    try apply(public_key, pem_entry_decode, [Entry | Password]) of
        Key when element(1, Key) =:= 'RSAPrivateKey' -> normalized('RSAPrivateKey', Key);
        Key when element(1, Key) =:= 'ECPrivateKey' -> normalized('ECPrivateKey', Key);
        _ -> {error, <<"the private key is of another kind than RSA, EC and EdDSA">>}
    catch
        _:_ -> {error, Why}
    end.

normalized(Type, Key) ->
    {ok, {{Type, public_key:der_encode(Type, Key)}, Key}}.

%% Ed25519 and Ed448 make their own.
digest({_, {namedCurve, {1, 3, 101, Last}}}) when Last =:= 112; Last =:= 113 -> none;
digest(_) -> sha256.
