%% SPDX-License-Identifier: Apache-2.0

%% @private The file of a unix socket: whether a listener may take its place, who may connect, and
%% whether it may go with its listener.
%%
%% Ranch deletes what lies at the path, whatever it is, at the start and at the end. A socket that
%% nobody listens on is what a killed server leaves, and may go; a socket in use and a file with
%% contents may not. At the end another server may have taken the place: one that was started while
%% this one let its last requests finish.
-module(hornbeam_socket_file).

-include_lib("kernel/include/file.hrl").

%% API
-export([check_free/1]).
-export([set_mode/2]).
-export([identity/1]).
-export([remove/2]).

-export_type([identity/0]).

-type identity() :: {Device :: non_neg_integer(), Inode :: non_neg_integer()} | none.

-define(CONNECT_TIMEOUT_MS, 1000).

%% @doc Whether one may listen on this address; always so where it is no unix socket.
-spec check_free(hornbeam_bind:address()) -> ok | {error, inet:posix()}.
check_free(#{type := unix, path := Path}) ->
    case file:read_file_info(Path) of
        {ok, #file_info{type = other}} -> check_stale(Path);
        {ok, _} -> {error, eexist};
        {error, enoent} -> ok;
        {error, Reason} -> {error, Reason}
    end;
check_free(_) ->
    ok.

%% @doc Let those connect that the mode lets; with `undefined' the umask of the node has said who.
-spec set_mode(hornbeam_bind:address(), Mode :: non_neg_integer() | undefined) ->
    ok | {error, inet:posix()}.
set_mode(#{type := unix, path := Path}, Mode) when is_integer(Mode) ->
    file:change_mode(Path, Mode);
set_mode(_, _) ->
    ok.

%% @doc What tells the file from a successor at the same path.
-spec identity(hornbeam_bind:address()) -> identity().
identity(#{type := unix, path := Path}) ->
    case file:read_file_info(Path) of
        {ok, #file_info{major_device = Device, inode = Inode}} -> {Device, Inode};
        {error, _} -> none
    end;
identity(_) ->
    none.

%% @doc Remove the file of a socket that has just been closed, if it is still that file.
-spec remove(hornbeam_bind:address(), identity()) -> ok.
remove(_, none) ->
    ok;
remove(Address = #{path := Path}, Identity) ->
    %% It may be gone already: it belongs to whoever may write to its directory.
    _ = identity(Address) =:= Identity andalso file:delete(Path),
    ok.

check_stale(Path) ->
    case gen_tcp:connect({local, Path}, 0, [], ?CONNECT_TIMEOUT_MS) of
        {error, econnrefused} ->
            ok;
        {ok, Socket} ->
            ok = gen_tcp:close(Socket),
            {error, eaddrinuse};
        %% Somebody listens who does not answer, or whom we may not ask.
        {error, _} ->
            {error, eaddrinuse}
    end.
