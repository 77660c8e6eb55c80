%% SPDX-License-Identifier: Apache-2.0

%% @private From an accepted socket to one that speaks TLS.
%%
%% Ranch listens on plain TCP, and the connection process makes the handshake on its own socket. So
%% each handshake has the certificates of its moment; keys and passwords are in no option of
%% Ranch's, which it logs; HTTP without TLS can be told so; and the socket below TLS is at hand,
%% without which a connection could not be ended without a word (hornbeam_connection:reset/1). The
%% price is that TLS 1.3 has no resumption, for which OTP wants a listening socket of its own. It
%% would save a signature, but no round trip.
%%
%% Handshakes fail all the time: port scanners, health checks of balancers, clients that do not
%% trust the certificate. It is their business, and at most a line for debugging.
-module(hornbeam_handshake).

-include_lib("kernel/include/logger.hrl").

%% API
-export([secure/3]).
-export([timeout_ms/1]).

%% The type of the record that every handshake begins with (RFC 8446 5.1).
-define(HANDSHAKE_RECORD, 22).
-define(MAX_TIMEOUT_MS, 30000).
%% A client that spoke HTTP has so long to read the answer, and may send so much meanwhile.
-define(LINGER_MS, 1000).
-define(MAX_LINGER_READS, 64).

%% API.

%% @doc The socket with TLS on top. A client that does not want it has been told, or left; the
%% calling process has nothing more to do then.
-spec secure(inet:socket(), hornbeam_tls:material(), cowboy:opts()) ->
    {ok, ssl:sslsocket()} | no_return().
secure(Tcp, Material, Opts) ->
    #{hornbeam_handshake_timeout := TimeoutMs} = Opts,
    DeadlineMs = erlang:monotonic_time(millisecond) + TimeoutMs,
    Client = peer(Tcp),
    case gen_tcp:recv(Tcp, 1, TimeoutMs) of
        {ok, <<?HANDSHAKE_RECORD>> = First} ->
            ok = gen_tcp:unrecv(Tcp, First),
            handshake(Tcp, Client, Material, DeadlineMs);
        {ok, <<Letter>>} when Letter >= $A, Letter =< $Z ->
            refuse_plain(Tcp, Opts),
            failed(Tcp, Client, plain_http);
        {ok, _} ->
            failed(Tcp, Client, not_tls);
        {error, Reason} ->
            failed(Tcp, Client, Reason)
    end.

%% @doc How long a handshake may take: as long as the head of a request, but never for ever, as
%% nobody has a reason to wait in the middle of it.
-spec timeout_ms(hornbeam_config:config()) -> pos_integer().
timeout_ms(#{header_timeout := HeaderMs}) ->
    %% `infinity' is above every number in Erlang's order of terms.
    min(HeaderMs, ?MAX_TIMEOUT_MS).

%% Internal.

handshake(Tcp, Client, Material, DeadlineMs) ->
    LeftMs = max(0, DeadlineMs - erlang:monotonic_time(millisecond)),
    case ssl:handshake(Tcp, hornbeam_tls:handshake_options(Material), LeftMs) of
        {ok, Socket} ->
            {ok, Socket};
        {error, {options, Reason}} ->
            %% Ours, not the client's: every handshake fails. Values may be keys.
            ?LOG_ERROR(#{what => tls_options_refused, reason => name(Reason)}),
            failed(Tcp, Client, options);
        {error, Reason} ->
            failed(Tcp, Client, Reason)
    end.

name({Option, _Value}) -> Option;
name(_) -> unknown.

%% Of a socket that is closed nobody knows.
peer(Tcp) ->
    case inet:peername(Tcp) of
        {ok, Address} -> Address;
        {error, _} -> undefined
    end.

-spec failed(inet:socket(), term(), term()) -> no_return().
failed(Tcp, Client, Reason) ->
    ?LOG_DEBUG(#{what => handshake_failed, reason => Reason, client => Client}),
    _ = gen_tcp:close(Tcp),
    %% Ranch reports other reasons.
    exit({shutdown, handshake_failed}).

refuse_plain(Tcp, #{hornbeam := Server}) ->
    {response, Status, Headers, Body} =
        hornbeam_response:error(400, <<"this port takes HTTPS only: use an https URL">>, Server),
    Lines = maps:to_list(Headers#{<<"connection">> => <<"close">>}),
    case gen_tcp:send(Tcp, [cow_http:response(Status, 'HTTP/1.1', Lines), Body]) of
        ok -> linger(Tcp);
        {error, _} -> ok
    end.

%% Bytes of the request that nobody has read would turn the end into a reset, which can reach the
%% client before the answer (RFC 9112 9.6).
linger(Tcp) ->
    _ = gen_tcp:shutdown(Tcp, write),
    DeadlineMs = erlang:monotonic_time(millisecond) + ?LINGER_MS,
    discard(Tcp, DeadlineMs, ?MAX_LINGER_READS).

discard(_, _, 0) ->
    ok;
discard(Tcp, DeadlineMs, Reads) ->
    LeftMs = max(0, DeadlineMs - erlang:monotonic_time(millisecond)),
    case gen_tcp:recv(Tcp, 0, LeftMs) of
        {ok, _} -> discard(Tcp, DeadlineMs, Reads - 1);
        {error, _} -> ok
    end.
