%% SPDX-License-Identifier: Apache-2.0

%% @private Ranch's transport for TLS, with an end of its own.
%%
%% Cowboy ends a connection by closing the direction to the client, and goes on reading for a
%% moment: a client that is still sending must read its response before it meets a reset (RFC 9112
%% 9.6). ssl:shutdown/2 would do that with the socket alone, without the goodbye of TLS
%% (`close_notify'), and clients could not tell a complete response from one that was cut off
%% (RFC 8446 6.1). What OTP calls a downgrade says goodbye, and goes on reading until the client has
%% said it too.
-module(hornbeam_tls_socket).

%% What a connection that is there calls of ranch_transport.
-export([name/0]).
-export([secure/0]).
-export([messages/0]).
-export([recv/3]).
-export([send/2]).
-export([sendfile/2]).
-export([sendfile/4]).
-export([sendfile/5]).
-export([setopts/2]).
-export([getopts/2]).
-export([getstat/1]).
-export([getstat/2]).
-export([controlling_process/2]).
-export([peername/1]).
-export([sockname/1]).
-export([shutdown/2]).
-export([close/1]).

%% As long as Cowboy waits on plain sockets.
-define(GOODBYE_MS, 1000).
%% Of 16 KiB at most: what a client may still send meanwhile.
-define(GOODBYE_READS, 256).

%% @doc Say goodbye, and wait for the client's. The connection is closed afterwards, so there is
%% nothing left to wait for: that is the error.
-spec shutdown(ssl:sslsocket(), read | write | read_write) -> ok | {error, atom()}.
shutdown(Socket, write) ->
    _ = ssl:setopts(Socket, [{active, ?GOODBYE_READS}]),
    case ssl:close(Socket, {self(), ?GOODBYE_MS}) of
        {ok, Tcp} -> ok = gen_tcp:close(Tcp);
        {ok, Tcp, _} -> ok = gen_tcp:close(Tcp);
        %% It has left without a word, or says nothing.
        {error, _} -> ok
    end,
    {error, closed};
shutdown(Socket, How) ->
    ranch_ssl:shutdown(Socket, How).

-spec name() -> atom().
name() -> ranch_ssl:name().

-spec secure() -> true.
secure() -> true.

-spec messages() -> {Data :: atom(), Closed :: atom(), Error :: atom(), Passive :: atom()}.
messages() -> ranch_ssl:messages().

-spec recv(ssl:sslsocket(), non_neg_integer(), timeout()) -> {ok, any()} | {error, any()}.
recv(Socket, Length, Timeout) -> ranch_ssl:recv(Socket, Length, Timeout).

-spec send(ssl:sslsocket(), iodata()) -> ok | {error, any()}.
send(Socket, Data) -> hornbeam_parts:send(ranch_ssl, Socket, Data).

-spec sendfile(ssl:sslsocket(), file:name_all() | file:fd()) ->
    {ok, non_neg_integer()} | {error, atom()}.
sendfile(Socket, File) -> ranch_ssl:sendfile(Socket, File).

-spec sendfile(ssl:sslsocket(), file:name_all() | file:fd(), non_neg_integer(),
               non_neg_integer()) -> {ok, non_neg_integer()} | {error, atom()}.
sendfile(Socket, File, Offset, Bytes) -> ranch_ssl:sendfile(Socket, File, Offset, Bytes).

-spec sendfile(ssl:sslsocket(), file:name_all() | file:fd(), non_neg_integer(),
               non_neg_integer(), ranch_transport:sendfile_opts()) ->
    {ok, non_neg_integer()} | {error, atom()}.
sendfile(Socket, File, Offset, Bytes, Opts) ->
    ranch_ssl:sendfile(Socket, File, Offset, Bytes, Opts).

-spec setopts(ssl:sslsocket(), list()) -> ok | {error, any()}.
setopts(Socket, Options) -> ranch_ssl:setopts(Socket, Options).

-spec getopts(ssl:sslsocket(), [atom()]) -> {ok, list()} | {error, any()}.
getopts(Socket, Names) -> ranch_ssl:getopts(Socket, Names).

-spec getstat(ssl:sslsocket()) -> {ok, list()} | {error, any()}.
getstat(Socket) -> ranch_ssl:getstat(Socket).

-spec getstat(ssl:sslsocket(), [atom()]) -> {ok, list()} | {error, any()}.
getstat(Socket, Names) -> ranch_ssl:getstat(Socket, Names).

-spec controlling_process(ssl:sslsocket(), pid()) -> ok | {error, any()}.
controlling_process(Socket, Pid) -> ranch_ssl:controlling_process(Socket, Pid).

-spec peername(ssl:sslsocket()) ->
    {ok, {inet:ip_address(), inet:port_number()} | {local, binary()}} | {error, atom()}.
peername(Socket) -> ranch_ssl:peername(Socket).

-spec sockname(ssl:sslsocket()) ->
    {ok, {inet:ip_address(), inet:port_number()} | {local, binary()}} | {error, atom()}.
sockname(Socket) -> ranch_ssl:sockname(Socket).

-spec close(ssl:sslsocket()) -> ok.
close(Socket) ->
    _ = ssl:close(Socket),
    ok.
