%% SPDX-License-Identifier: Apache-2.0

%% @private Lends the socket of a client to the worker that answers it, for the body of the response.
%%
%% What comes through the pipe of a worker is read and written again by the node, and each copy costs
%% as much as the worker's own write to the socket would. So a worker with a large body asks for the
%% socket, and gets a descriptor of its own for it, by a Unix socket beside the pipe (SCM_RIGHTS). The
%% connection keeps what it has: it goes on to read, and where it shuts the socket down, that ends it
%% for the worker as well.
-module(hornbeam_lender).

%% API
-export([connect/1]).
-export([lend/3]).

-export_type([lender/0]).

-type lender() :: socket:socket() | none.
%% Belongs to the worker's process; any may lend by it.

%% What the system has room for (unix(7)).
-define(MAX_NAME_BYTES, 107).
%% Linux: a number of the socket that no other one has ever had.
-define(SOL_SOCKET, 1).
-define(SO_COOKIE, 57).
-define(COOKIE_BYTES, 8).

%% @doc Connect to the socket that a worker takes descriptors from, under the name that it has given.
%% `none': it has none, or does not take connections.
-spec connect(Name :: term()) -> lender().
connect(Name) when is_binary(Name), byte_size(Name) =< ?MAX_NAME_BYTES ->
    case socket:open(local, stream) of
        {ok, Socket} -> connect(Socket, Name);
        {error, _} -> none
    end;
connect(_) ->
    none.

connect(Socket, Name) ->
    %% It listens already, so that this does not wait.
    case socket:connect(Socket, #{family => local, path => Name}, 0) of
        ok ->
            Socket;
        {error, _} ->
            _ = socket:close(Socket),
            none
    end.

%% @doc Lend the socket of a connection for that request. `kept': nobody else can write to it now,
%% because what was given to it has not gone out yet, or the worker does not take descriptors.
-spec lend(hornbeam_protocol:request_id(), inet:socket(), lender()) -> lent | kept.
lend(_, _, none) ->
    kept;
lend(Id, Socket, Lender) ->
    case inet:getstat(Socket, [send_pend]) of
        {ok, [{send_pend, 0}]} -> pass(Id, cookie(Socket), inet:getfd(Socket), Lender);
        _ -> kept
    end.

pass(Id, {ok, Cookie}, {ok, Descriptor}, Lender) ->
    Rights = #{level => socket, type => rights, data => <<Descriptor:32/native>>},
    case socket:sendmsg(Lender, #{iov => [<<Id:64, Cookie/binary>>], ctrl => [Rights]}, [], 0) of
        ok -> lent;
        _ -> kept
    end;
pass(_, _, _, _) ->
    kept.

%% When the client leaves, the port closes the descriptor by itself, and its number may be that of
%% another client's socket before it is passed on. So the worker is told by what it knows the right one.
cookie(Socket) ->
    case inet:getopts(Socket, [{raw, ?SOL_SOCKET, ?SO_COOKIE, ?COOKIE_BYTES}]) of
        {ok, [{raw, ?SOL_SOCKET, ?SO_COOKIE, Cookie}]} when byte_size(Cookie) =:= ?COOKIE_BYTES ->
            {ok, Cookie};
        _ ->
            unknown
    end.
