%% SPDX-License-Identifier: Apache-2.0

%% @private The file of a unix socket: whether a listener may take its place.
%%
%% Ranch deletes what lies at the path, whatever it is. A socket that nobody listens on is what a
%% killed server leaves, and may go; a socket in use and a file with contents may not.
-module(hornbeam_socket_file).

-include_lib("kernel/include/file.hrl").

%% API
-export([check_free/1]).
-export([remove/1]).

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

%% @doc Remove the file of a socket that is closed.
-spec remove(hornbeam_bind:address()) -> ok.
remove(#{type := unix, path := Path}) ->
    %% It may be gone already: it belongs to whoever may write to its directory.
    _ = file:delete(Path),
    ok;
remove(_) ->
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
