%% SPDX-License-Identifier: Apache-2.0

%% @private The end of a connection whose client may still be sending: it must be able to read its
%% response before it meets a reset (RFC 9112 9.6).
-module(hornbeam_linger).

%% API
-export([linger/3]).

%% How long the client may go on sending after its response.
-define(LINGER_MS, 1000).

%% @doc Say that nothing more comes, and drop what the client sends until it closes, for a second at
%% most. Called by the connection; `ActiveN' reads at a time.
-spec linger(inet:socket() | ssl:sslsocket(), module(), pos_integer()) -> ok.
linger(Socket, Transport, ActiveN) ->
    case Transport:shutdown(Socket, write) of
        ok ->
            Timer = erlang:start_timer(?LINGER_MS, self(), linger),
            activate(Socket, Transport, ActiveN),
            discard(Socket, Transport, ActiveN, Timer);
        {error, _} ->
            ok
    end.

discard(Socket, Transport, ActiveN, Timer) ->
    {Data, Closed, Error, Passive} = Transport:messages(),
    receive
        {Data, Socket, _} ->
            discard(Socket, Transport, ActiveN, Timer);
        {Passive, Socket} ->
            activate(Socket, Transport, ActiveN),
            discard(Socket, Transport, ActiveN, Timer);
        {Closed, Socket} ->
            ok;
        {Error, Socket, _} ->
            ok;
        {timeout, Timer, linger} ->
            ok
    end.

%% An error here is one of the socket, of which there is a message too.
activate(Socket, Transport, ActiveN) ->
    _ = Transport:setopts(Socket, [{active, ActiveN}]),
    ok.
