%% SPDX-License-Identifier: Apache-2.0

%% @private Ranch's transport for TCP, which says how much is read at once.
%%
%% Cowboy has the socket read so many times (`active_n'), then asks for as many again. Each time
%% costs some 20 µs: the socket leaves the set that schedulers poll, and comes back after some
%% reads only. So many are asked for, but what can pile up in the mailbox has its bound: at first they
%% are few, as nobody knows what will come, and where an application takes large bodies, larger parts
%% are read, and for that fewer of them.
-module(hornbeam_tcp_socket).

%% API
-export([read_large/1]).
-export([read_few/0]).

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

%% How many reads are asked for at first, by a new connection.
-define(FIRST_READS, 16).
%% Of one large read, and how many of them are asked for at once. Where they are larger still the
%% allocator gives the memory back to the system each time.
-define(LARGE_READ_BYTES, 131072).
-define(LARGE_READS, 8).
%% Process dictionary of the connection: at most how many.
-define(MOST, hornbeam_tcp_socket_most_reads).

%% @doc Read large parts from now on. Called by the connection.
-spec read_large(inet:socket()) -> ok | {error, any()}.
read_large(Socket) ->
    _ = put(?MOST, ?LARGE_READS),
    case inet:getopts(Socket, [active]) of
        %% Relative: of those that Cowboy has asked for already.
        {ok, [{active, Reads}]} when is_integer(Reads), Reads > ?LARGE_READS ->
            inet:setopts(Socket, [{buffer, ?LARGE_READ_BYTES}, {active, ?LARGE_READS - Reads}]);
        {ok, _} ->
            inet:setopts(Socket, [{buffer, ?LARGE_READ_BYTES}]);
        {error, Reason} ->
            {error, Reason}
    end.

%% @doc Ask for few reads the next time, as for a new connection, unless they are large. Called by the
%% connection.
-spec read_few() -> ok.
read_few() ->
    _ = get(?MOST) =:= infinity andalso erase(?MOST),
    ok.

-spec setopts(inet:socket(), list()) -> ok | {error, any()}.
setopts(Socket, [{active, Reads}]) when is_integer(Reads) ->
    ranch_tcp:setopts(Socket, [{active, at_once(Reads)}]);
setopts(Socket, Options) ->
    ranch_tcp:setopts(Socket, Options).

at_once(Reads) ->
    case get(?MOST) of
        undefined ->
            _ = put(?MOST, infinity),
            min(Reads, ?FIRST_READS);
        %% Erlang's term order puts `infinity' above every number.
        Most ->
            min(Reads, Most)
    end.

-spec name() -> atom().
name() -> ranch_tcp:name().

-spec secure() -> false.
secure() -> false.

-spec messages() -> {Data :: atom(), Closed :: atom(), Error :: atom(), Passive :: atom()}.
messages() -> ranch_tcp:messages().

-spec recv(inet:socket(), non_neg_integer(), timeout()) -> {ok, any()} | {error, any()}.
recv(Socket, Length, Timeout) -> ranch_tcp:recv(Socket, Length, Timeout).

-spec send(inet:socket(), iodata()) -> ok | {error, any()}.
send(Socket, Data) -> hornbeam_parts:send(ranch_tcp, Socket, Data).

-spec sendfile(inet:socket(), file:name_all() | file:fd()) ->
    {ok, non_neg_integer()} | {error, atom()}.
sendfile(Socket, File) -> ranch_tcp:sendfile(Socket, File).

-spec sendfile(inet:socket(), file:name_all() | file:fd(), non_neg_integer(),
               non_neg_integer()) -> {ok, non_neg_integer()} | {error, atom()}.
sendfile(Socket, File, Offset, Bytes) -> ranch_tcp:sendfile(Socket, File, Offset, Bytes).

-spec sendfile(inet:socket(), file:name_all() | file:fd(), non_neg_integer(),
               non_neg_integer(), ranch_transport:sendfile_opts()) ->
    {ok, non_neg_integer()} | {error, atom()}.
sendfile(Socket, File, Offset, Bytes, Opts) ->
    ranch_tcp:sendfile(Socket, File, Offset, Bytes, Opts).

-spec getopts(inet:socket(), [atom()]) -> {ok, list()} | {error, any()}.
getopts(Socket, Names) -> ranch_tcp:getopts(Socket, Names).

-spec getstat(inet:socket()) -> {ok, list()} | {error, any()}.
getstat(Socket) -> ranch_tcp:getstat(Socket).

-spec getstat(inet:socket(), [atom()]) -> {ok, list()} | {error, any()}.
getstat(Socket, Names) -> ranch_tcp:getstat(Socket, Names).

-spec controlling_process(inet:socket(), pid()) -> ok | {error, any()}.
controlling_process(Socket, Pid) -> ranch_tcp:controlling_process(Socket, Pid).

-spec peername(inet:socket()) ->
    {ok, {inet:ip_address(), inet:port_number()} | {local, binary()}} | {error, atom()}.
peername(Socket) -> ranch_tcp:peername(Socket).

-spec sockname(inet:socket()) ->
    {ok, {inet:ip_address(), inet:port_number()} | {local, binary()}} | {error, atom()}.
sockname(Socket) -> ranch_tcp:sockname(Socket).

-spec shutdown(inet:socket(), read | write | read_write) -> ok | {error, atom()}.
shutdown(Socket, How) -> ranch_tcp:shutdown(Socket, How).

-spec close(inet:socket()) -> ok.
close(Socket) -> ranch_tcp:close(Socket).
