%% SPDX-License-Identifier: Apache-2.0

%% @private What a server shows of itself in a TLS handshake: certificates and the key to them, read
%% from files and checked against each other.
-module(hornbeam_identity).

%% API
-export([load/1]).
-export([authorities/1]).
-export([options/1]).
-export([files/1]).
-export([doubt/2]).

-export_type([source/0, identity/0]).

-type source() :: #{
    certfile := binary(),
    %% Without one the key is in `certfile'.
    keyfile := binary() | undefined,
    password := binary() | undefined
}.

-type identity() :: #{
    %% The server's own first, then those that sign it.
    certificates := [public_key:der_encoded(), ...],
    key := hornbeam_pem:key(),
    %% The server's own for the applications.
    text := binary(),
    file := binary(),
    validity := hornbeam_certificate:validity()
}.

%% @doc Read and check. The facts of an error name the option, the file and what is wrong.
-spec load(source()) -> {ok, identity()} | {error, hornbeam_error:reason()}.
load(Source = #{certfile := File}) ->
    case read(certfile, File, fun hornbeam_pem:certificates/1) of
        {ok, Certificates} -> load_key(Source, Certificates);
        {error, Reason} -> {error, Reason}
    end.

%% @doc The certificates of those whose signature makes a client's one good.
-spec authorities(File :: binary()) ->
    {ok, [public_key:der_encoded(), ...]} | {error, hornbeam_error:reason()}.
authorities(File) ->
    read(cacertfile, File, fun hornbeam_pem:certificates/1).

%% @doc As options of ssl.
-spec options(identity()) -> [ssl:tls_server_option()].
options(#{certificates := Certificates, key := Key}) ->
    [{cert, Certificates}, {key, Key}].

%% @doc The files that it is read from.
-spec files(source()) -> [binary()].
files(Source = #{certfile := CertFile}) ->
    {_, KeyFile} = key_file(Source),
    lists:usort([CertFile, KeyFile]).

%% @doc Why clients may refuse it at this moment, in universal time.
-spec doubt(identity(), Now :: calendar:datetime()) -> none | expired | not_yet_valid.
doubt(#{validity := {NotBefore, _}}, Now) when Now < NotBefore -> not_yet_valid;
doubt(#{validity := {_, NotAfter}}, Now) when Now > NotAfter -> expired;
doubt(_, _) -> none.

%% Internal.

key_file(#{certfile := CertFile, keyfile := undefined}) -> {certfile, CertFile};
key_file(#{keyfile := KeyFile}) -> {keyfile, KeyFile}.

load_key(Source = #{certfile := CertFile, password := Password}, [Own | _] = Certificates) ->
    {Option, File} = key_file(Source),
    case read(Option, File, fun(Text) -> hornbeam_pem:private_key(Text, Password) end) of
        {ok, {Key, Private}} ->
            case hornbeam_pem:belongs_to(Private, Own) of
                true ->
                    {ok, #{certificates => Certificates, key => Key, file => CertFile,
                           text => hornbeam_pem:encode(Own),
                           validity => hornbeam_certificate:validity(Own)}};
                false ->
                    failed(Option, File, <<"the private key is not that of the certificate">>)
            end;
        {error, Reason} ->
            {error, Reason}
    end.

read(Option, File, Decode) ->
    case file:read_file(File) of
        {ok, Text} ->
            case Decode(Text) of
                {ok, Value} -> {ok, Value};
                {error, Why} -> failed(Option, File, Why)
            end;
        {error, Reason} ->
            failed(Option, File, file:format_error(Reason))
    end.

failed(Option, File, Why) ->
    Message = unicode:characters_to_binary(Why),
    {error, {tls_failed, #{option => Option, file => File, message => Message}}}.
