%% SPDX-License-Identifier: Apache-2.0

%% @private TLS as Hornbeam speaks it: versions, cipher suites, certificates by name, and what an
%% application gets to know of a connection.
%%
%% Follows Mozilla's "intermediate" recommendation, but for the suites with finite field
%% Diffie-Hellman: every client that knows TLS 1.2 with AEAD knows elliptic curves, and these cost a
%% server more than they cost an attacker (CVE-2002-20001).
-module(hornbeam_tls).

%% API
-export([check/1]).
-export([load/1]).
-export([files/1]).
-export([identities/1]).
-export([handshake_options/1]).
-export([identity/2]).
-export([facts/2]).
-export([protocol/1]).

-export_type([material/0]).

-type material() :: #{
    default := hornbeam_identity:identity(),
    %% By name in lower case.
    hosts := #{binary() => hornbeam_identity:identity()},
    %% Those of `*.example.org' under `example.org'.
    wildcards := #{binary() => hornbeam_identity:identity()},
    %% What does not come from `sni'.
    options := [ssl:tls_server_option()]
}.
%% All that a handshake needs.

%% The numbers are IANA's, which the scope shows.
-define(SUITES, [
    {16#1301, "TLS_AES_128_GCM_SHA256"},
    {16#1302, "TLS_AES_256_GCM_SHA384"},
    {16#1303, "TLS_CHACHA20_POLY1305_SHA256"},
    {16#c02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"},
    {16#c02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
    {16#c02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"},
    {16#c030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"},
    {16#cca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"},
    {16#cca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"}
]).
%% For TLS 1.2; those of TLS 1.3 are OTP's, which newer releases extend.
-define(CURVES, [x25519, secp256r1, secp384r1]).

-define(HIBERNATE_AFTER_MS, 1000).

%% API.

%% @doc Whether TLS can be had as the options say; always where they say that there is none.
-spec check(hornbeam_config:config()) -> ok | {error, hornbeam_error:reason()}.
check(#{ssl := false}) ->
    ok;
check(Config) ->
    case load(Config) of
        {ok, _} -> ok;
        {error, Reason} -> {error, Reason}
    end.

%% @doc Read all files of the options, and check them.
-spec load(hornbeam_config:config()) -> {ok, material()} | {error, hornbeam_error:reason()}.
load(Config = #{sni := Sni}) ->
    case {hornbeam_identity:load(source(Config)), load_hosts(Sni, []), authorities(Config)} of
        {{ok, Default}, {ok, Hosts}, {ok, Authorities}} ->
            {ok, #{
                default => Default,
                hosts => maps:from_list([Host || {<<C, _/binary>>, _} = Host <- Hosts, C =/= $*]),
                wildcards => maps:from_list([{Name, Own} || {<<"*.", Name/binary>>, Own} <- Hosts]),
                options => options(Config, Authorities) ++ hornbeam_identity:options(Default)
            }};
        {Default, Hosts, Authorities} ->
            hd([Reason || {error, _} = Reason <- [Default, Hosts, Authorities]])
    end.

%% @doc The files that {@link load/1} reads.
-spec files(hornbeam_config:config()) -> [binary()].
files(Config = #{sni := Sni, cacertfile := Authorities}) ->
    Sources = [source(Config) | [Source || {_, Source} <- Sni]],
    lists:usort([Authorities || Authorities =/= undefined]
                ++ lists:flatmap(fun hornbeam_identity:files/1, Sources)).

-spec identities(material()) -> [hornbeam_identity:identity(), ...].
identities(#{default := Default, hosts := Hosts, wildcards := Wildcards}) ->
    [Default | maps:values(Hosts) ++ maps:values(Wildcards)].

%% @doc The options of one handshake.
-spec handshake_options(material()) -> [ssl:tls_server_option()].
handshake_options(#{hosts := Hosts, wildcards := Wildcards, options := Options})
        when map_size(Hosts) =:= 0, map_size(Wildcards) =:= 0 ->
    Options;
handshake_options(Material = #{options := Options}) ->
    Choose = fun(Name) ->
        case find(Name, Material) of
            {ok, Identity} -> hornbeam_identity:options(Identity);
            error -> undefined
        end
    end,
    [{sni_fun, Choose} | Options].

%% @doc The identity for a name, which is the default's where there is none.
-spec identity(Name :: string() | undefined, material()) -> hornbeam_identity:identity().
identity(Name, Material = #{default := Default}) ->
    case find(Name, Material) of
        {ok, Identity} -> Identity;
        error -> Default
    end.

%% @doc What the scope of every request on this connection says of it.
-spec facts(ssl:sslsocket(), material()) -> hornbeam_protocol:tls().
facts(Socket, Material) ->
    Items = [protocol, selected_cipher_suite, sni_hostname],
    {ok, Known} = ssl:connection_information(Socket, Items),
    #{text := Own} = identity(proplists:get_value(sni_hostname, Known), Material),
    Version = version(proplists:get_value(protocol, Known)),
    Suite = suite_number(proplists:get_value(selected_cipher_suite, Known)),
    case ssl:peercert(Socket) of
        {ok, Peer} ->
            {Version, Suite, Own, [hornbeam_pem:encode(Peer)], hornbeam_subject:text(Peer)};
        {error, _} ->
            {Version, Suite, Own, [], undefined}
    end.

%% @doc The protocol that ALPN has settled on. A client that does not know ALPN does not know HTTP/2
%% (RFC 9113 3.2).
-spec protocol(ssl:sslsocket()) -> http1 | http2.
protocol(Socket) ->
    case ssl:negotiated_protocol(Socket) of
        {ok, <<"h2">>} -> http2;
        _ -> http1
    end.

%% Internal.

source(Options) ->
    maps:with([certfile, keyfile, password], Options).

load_hosts([{Host, Source} | Rest], Loaded) ->
    case hornbeam_identity:load(Source) of
        {ok, Identity} -> load_hosts(Rest, [{Host, Identity} | Loaded]);
        {error, {tls_failed, Facts}} -> {error, {tls_failed, Facts#{host => Host}}}
    end;
load_hosts([], Loaded) ->
    {ok, Loaded}.

authorities(#{verify := verify_peer, cacertfile := File}) -> hornbeam_identity:authorities(File);
authorities(_) -> {ok, []}.

find(Name, Material) when is_list(Name) ->
    find(unicode:characters_to_binary(string:lowercase(Name)), Material);
find(Name, #{hosts := Hosts, wildcards := Wildcards}) when is_binary(Name) ->
    case Hosts of
        #{Name := Identity} ->
            {ok, Identity};
        #{} ->
            %% RFC 6125 6.4.3: a wildcard stands for one label.
            case binary:split(Name, <<".">>) of
                [_, Parent] -> maps:find(Parent, Wildcards);
                _ -> error
            end
    end;
find(_, _) ->
    error.

options(#{http_version := Versions, verify := Verify}, Authorities) ->
    [
        {versions, ['tlsv1.3', 'tlsv1.2']},
        {ciphers, ssl:filter_cipher_suites([ssl:str_to_suite(Name) || {_, Name} <- ?SUITES], [])},
        {eccs, [Curve || Curve <- ?CURVES, lists:member(Curve, ssl:eccs())]},
        {honor_cipher_order, true},
        {honor_ecc_order, true},
        {client_renegotiation, false},
        {secure_renegotiate, true},
        {alpn_preferred_protocols, alpn(Versions)},
        %% Scanners make alerts as they like.
        {log_level, error},
        %% Of an idle connection: 99 KiB in place of 154, measured on OTP 25.
        {hibernate_after, ?HIBERNATE_AFTER_MS}
    ] ++ verify(Verify, Authorities).

verify(verify_none, []) ->
    [{verify, verify_none}];
verify(verify_peer, Authorities) ->
    %% Each connection proves anew who it is, also to authorities that were changed meanwhile.
    [{verify, verify_peer}, {fail_if_no_peer_cert, true}, {cacerts, Authorities},
     {reuse_sessions, false}].

alpn(Versions) ->
    [Name || {Version, Name} <- [{'HTTP/2', <<"h2">>}, {'HTTP/1.1', <<"http/1.1">>}],
             lists:member(Version, Versions)].

version('tlsv1.3') -> 16#0304;
version('tlsv1.2') -> 16#0303.

suite_number(Suite) ->
    Name = ssl:suite_to_str(Suite),
    {Number, Name} = lists:keyfind(Name, 2, ?SUITES),
    Number.
