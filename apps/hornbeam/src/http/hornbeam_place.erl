%% SPDX-License-Identifier: Apache-2.0

%% @private What a server opens: its addresses, and what each of them is for.
-module(hornbeam_place).

%% API
-export([all/1]).
-export([ref/2]).
-export([protocol_opts/4]).
-export([shown/2]).

-export_type([place/0, kind/0]).

-type kind() :: http | https | redirect.

-type place() :: {kind(), hornbeam_bind:address()}.

%% @doc All places of a configuration. Redirects come last: they lead to a port of the others.
-spec all(hornbeam_config:config()) -> [place(), ...].
all(#{ssl := false, bind := Addresses}) ->
    [{http, Address} || Address <- Addresses];
all(#{ssl := true, bind := Addresses, ssl_redirect := off}) ->
    [{https, Address} || Address <- Addresses];
all(#{ssl := true, bind := Addresses, ssl_redirect := {From, _}}) ->
    [{https, Address} || Address <- Addresses] ++ [{redirect, Address} || Address <- From].

%% @doc Ranch's name of the place at that position in {@link all/1}.
-spec ref(hornbeam:name(), pos_integer()) -> ranch:ref().
ref(Name, N) ->
    {hornbeam, Name, N}.

%% @doc What connections of this kind need beside the options of all.
-spec protocol_opts(kind(), hornbeam:name(), hornbeam_config:config(),
                    hornbeam_tls_store:table() | undefined) -> map().
protocol_opts(http, _, _, _) ->
    #{hornbeam_tls => undefined};
protocol_opts(https, _, Config, Table) ->
    #{hornbeam_tls => Table,
      hornbeam_handshake_timeout => hornbeam_handshake:timeout_ms(Config)};
protocol_opts(redirect, Name, Config, _) ->
    #{hornbeam_tls => undefined, stream_handlers => [hornbeam_redirect],
      hornbeam_redirect => redirect_port(Name, Config)}.

%% @doc What `info' shows of a place that is open.
-spec shown(ranch:ref(), place()) ->
    #{address := binary(), port := inet:port_number() | undefined, url := binary()}.
shown(Ref, {Kind, Address = #{type := tcp}}) ->
    {Ip, Port} = ranch:get_addr(Ref),
    #{address => list_to_binary(inet:ntoa(Ip)), port => Port,
      url => hornbeam_bind:url(hornbeam_bind:with_port(Address, Port), scheme(Kind))};
shown(_, {Kind, Address = #{path := Path}}) ->
    #{address => Path, port => undefined, url => hornbeam_bind:url(Address, scheme(Kind))}.

scheme(https) -> <<"https">>;
scheme(_) -> <<"http">>.

%% The option's check has seen to it that there is one.
redirect_port(Name, #{bind := Addresses, ssl_redirect := {_, bound}}) ->
    Numbered = lists:zip(lists:seq(1, length(Addresses)), Addresses),
    [N | _] = [N || {N, #{type := tcp}} <- Numbered],
    ranch:get_port(ref(Name, N));
redirect_port(_, #{ssl_redirect := {_, Port}}) ->
    Port.
