%% SPDX-License-Identifier: Apache-2.0

%% @private Where the body of a response comes from, behind one question: the client has taken what
%% there was, what comes next?
%%
%% <ul>
%% <li>`worker': nothing that could be had by asking. It is told that the client has taken so much,
%%   and sends more when it has more.</li>
%% <li>`read': the next part of a file, which goes out as the worker's data would.</li>
%% <li>`direct': the next part of a file goes to the socket itself, where that can be done: TCP, and
%%   HTTP/1 with a length. For Cowboy the response is complete.</li>
%% </ul>
%%
%% See {@link hornbeam_file} for files themselves.
-module(hornbeam_body_source).

%% API
-export([file/2]).
-export([is_direct/1]).
-export([next/3]).
-export([close/1]).

-export_type([source/0, next/0]).

-type source() :: worker | file_source().

-type file_source() ::
    {read, hornbeam_file:file()}
  | {direct, inet:socket(), hornbeam_file:file()}.

-type next() ::
    %% Who sends more does so by itself.
    wait
  | {nofin, Data :: binary(), source()}
  | {fin, Data :: binary()}
  %% The part has gone out already.
  | {sent, source()}
  | complete
  | closed
  | {failed, Why :: binary()}.

%% @doc A file, which the source owns from now on. `IsWhole': it is all of the body, so that the
%% response has its length.
-spec file({IsWhole :: boolean(), hornbeam_file:file()}, hornbeam_request:request()) ->
    file_source().
file({true, File}, #{version := Version, server := Server,
                     connection := #{transport := hornbeam_tcp_socket, socket := Socket}})
        when Version =/= 'HTTP/2' ->
    #{send_timeout := TimeoutMs} = Server,
    {direct, Socket, hornbeam_file:watch(Socket, TimeoutMs, File)};
file({_, File}, _) ->
    {read, File}.

%% @doc Whether its parts go to the socket behind Cowboy's back.
-spec is_direct(source()) -> boolean().
is_direct({direct, _, _}) -> true;
is_direct(_) -> false.

%% @doc So many bytes have been taken: what comes next. A file is closed with its last part.
-spec next(Bytes :: non_neg_integer(), hornbeam_dispatch:dispatch(), source()) -> next().
next(Bytes, Dispatch, worker) ->
    ok = hornbeam_dispatch:acknowledge(Bytes, Dispatch),
    wait;
next(_, _, {read, File0}) ->
    case hornbeam_file:read(File0) of
        {nofin, Data, File} ->
            {nofin, Data, {read, File}};
        {fin, Data} ->
            ok = hornbeam_file:close(File0),
            {fin, Data};
        {failed, Why} ->
            {failed, Why}
    end;
next(_, _, {direct, Socket, File0}) ->
    case hornbeam_file:send(Socket, File0) of
        {more, File} ->
            {sent, {direct, Socket, File}};
        complete ->
            ok = hornbeam_file:close(File0),
            complete;
        closed ->
            closed;
        {failed, Why} ->
            {failed, Why}
    end.

%% @doc Give up what is left of a file.
-spec close(source()) -> ok.
close(worker) -> ok;
close({read, File}) -> hornbeam_file:close(File);
close({direct, _, File}) -> hornbeam_file:close(File).
