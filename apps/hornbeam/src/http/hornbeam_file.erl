%% SPDX-License-Identifier: Apache-2.0

%% @private A file that is the body of a response, or the rest of one.
%%
%% A small one is read as a whole. A larger one stays open, so that what is sent is one file whatever
%% happens to its name, and goes a part at a time: handed to the socket by sendfile(2), or read where
%% the bytes are needed (TLS, HTTP/2, chunks). Between the parts the connection sees what else happens.
%%
%% sendfile is for the owner of the socket, who waits in it until the client has taken the part; neither
%% `send_timeout' nor anything else ends that but the end of the socket. So a process watches meanwhile
%% that there is progress, and ends the socket where there is none.
-module(hornbeam_file).

-include_lib("kernel/include/file.hrl").

%% API
-export([open/3]).
-export([watch/3]).
-export([send/2]).
-export([read/1]).
-export([close/1]).

-export_type([file/0, refusal/0]).

%% Of one read, and of the first sendfile: a client that takes less in `send_timeout' is cut off.
-define(PART_BYTES, 65536).
%% Of one sendfile to a client that is quick: the call itself costs about as much as 64 KiB of it.
-define(MAX_PART_BYTES, 1048576).
%% The same where nothing tells how far it has come, so that a client has to take all of it in time.
-define(MAX_BLIND_PART_BYTES, 262144).
-define(MORE_OF_A_QUICK, 4).
-define(QUICK_MS, 50).
%% TCP_INFO of tcp(7) on Linux: its place, how much of it is wanted, and where tcpi_bytes_acked begins.
-define(TCP_INFO, {raw, 6, 11, 128}).
-define(ACKED_OFFSET, 120).

-record(file, {
    fd :: file:fd(),
    offset :: non_neg_integer(),
    left :: non_neg_integer(),
    %% How much the next sendfile takes.
    part = ?PART_BYTES :: pos_integer(),
    max_part = ?MAX_PART_BYTES :: pos_integer(),
    %% Who watches the socket, and the count of parts that it looks at.
    watcher :: pid() | undefined,
    parts :: atomics:atomics_ref() | undefined
}).

-opaque file() :: #file{}.
%% For the process that has opened it.

-type refusal() :: {Reason :: atom(), SizeBytes :: non_neg_integer()}.
%% A name of POSIX; `not_regular' for what is neither file nor folder; `size' where the file is not of
%% the wanted length.

%% @doc Open a file to send it from `Offset' on. `Bytes' is how much there must be, where that is known;
%% gives how much there is.
-spec open(Path :: binary(), Offset :: non_neg_integer(), Bytes :: non_neg_integer() | undefined) ->
    {whole, binary()} | {ok, file(), Bytes :: pos_integer()} | {error, refusal()}.
open(Path, Offset, Bytes) ->
    %% Before it is opened, which would wait at a named pipe.
    case check(file:read_file_info(Path, [raw, {time, posix}]), Offset, Bytes) of
        {ok, _} -> open_regular(Path, Offset, Bytes);
        {error, Refusal} -> {error, Refusal}
    end.

%% @doc Have the socket ended when for `TimeoutMs' no part has gone through `send/2', and of the one that
%% is on its way the client has not taken 64 KiB either, as far as the system tells.
-spec watch(inet:socket(), timeout(), file()) -> file().
watch(_Socket, infinity, File) ->
    File;
watch(Socket, TimeoutMs, File) ->
    Sender = self(),
    Acked = acked(Socket),
    Parts = atomics:new(1, [{signed, false}]),
    Watcher = spawn(fun() ->
        Monitor = monitor(process, Sender),
        watch_parts(Socket, TimeoutMs, Monitor, Parts, {0, Acked})
    end),
    File#file{watcher = Watcher, parts = Parts, max_part = max_part(Acked)}.

max_part(unknown) -> ?MAX_BLIND_PART_BYTES;
max_part(_) -> ?MAX_PART_BYTES.

%% @doc Send a part to a TCP socket of the caller's, on which nobody else writes meanwhile.
-spec send(inet:socket(), file()) -> {more, file()} | complete | closed | {failed, binary()}.
send(Socket, File = #file{fd = Fd, offset = Offset, left = Left, part = Part}) ->
    Bytes = min(Left, Part),
    SinceMs = erlang:monotonic_time(millisecond),
    case ranch_tcp:sendfile(Socket, Fd, Offset, Bytes) of
        {ok, Left} -> complete;
        {ok, Bytes} -> {more, count(next_part(SinceMs, advance(Bytes, File)))};
        {ok, _} -> too_short();
        {error, closed} -> closed;
        {error, Reason} -> {failed, atom_to_binary(Reason)}
    end.

%% @doc Read a part.
-spec read(file()) -> {nofin, binary(), file()} | {fin, binary()} | {failed, binary()}.
read(File = #file{fd = Fd, offset = Offset, left = Left}) ->
    Bytes = min(Left, ?PART_BYTES),
    case file:pread(Fd, Offset, Bytes) of
        {ok, Data} when byte_size(Data) =:= Left -> {fin, Data};
        {ok, Data} when byte_size(Data) =:= Bytes -> {nofin, Data, advance(Bytes, File)};
        {ok, _} -> too_short();
        eof -> too_short();
        {error, Reason} -> {failed, atom_to_binary(Reason)}
    end.

-spec close(file()) -> ok.
close(#file{fd = Fd, watcher = Watcher}) ->
    _ = is_pid(Watcher) andalso exit(Watcher, kill),
    %% Of a file that was only read, nothing is lost with an error.
    _ = file:close(Fd),
    ok.

%%% Internal

check({ok, #file_info{type = regular, size = Size}}, Offset, undefined) when Offset =< Size ->
    {ok, Size - Offset};
check({ok, #file_info{type = regular, size = Size}}, Offset, Bytes) when Offset + Bytes =:= Size ->
    {ok, Bytes};
check({ok, #file_info{type = regular, size = Size}}, _, _) ->
    {error, {size, Size}};
check({ok, #file_info{type = directory}}, _, _) ->
    {error, {eisdir, 0}};
check({ok, _}, _, _) ->
    {error, {not_regular, 0}};
check({error, Reason}, _, _) ->
    {error, {Reason, 0}}.

open_regular(Path, Offset, Bytes) ->
    case file:open(Path, [read, raw, binary]) of
        {ok, Fd} ->
            %% Again: for all that is known it is another file now.
            Checked = check(file:read_file_info(Fd, [raw, {time, posix}]), Offset, Bytes),
            opened(Checked, #file{fd = Fd, offset = Offset, left = 0});
        {error, Reason} ->
            {error, {Reason, 0}}
    end.

opened({ok, 0}, File) ->
    ok = close(File),
    {whole, <<>>};
opened({ok, Length}, File) when Length =< ?PART_BYTES ->
    Read = read(File#file{left = Length}),
    ok = close(File),
    case Read of
        {fin, Data} -> {whole, Data};
        {failed, _} -> {error, {eio, 0}}
    end;
opened({ok, Length}, File) ->
    {ok, File#file{left = Length}, Length};
opened({error, Refusal}, File) ->
    ok = close(File),
    {error, Refusal}.

advance(Bytes, File = #file{offset = Offset, left = Left}) ->
    File#file{offset = Offset + Bytes, left = Left - Bytes}.

next_part(SinceMs, File = #file{part = Part, max_part = Max}) ->
    case erlang:monotonic_time(millisecond) - SinceMs < ?QUICK_MS of
        true -> File#file{part = min(?MORE_OF_A_QUICK * Part, Max)};
        false -> File#file{part = ?PART_BYTES}
    end.

count(File = #file{parts = undefined}) ->
    File;
count(File = #file{parts = Parts}) ->
    ok = atomics:add(Parts, 1, 1),
    File.

too_short() ->
    {failed, <<"the file became shorter while it was sent">>}.

watch_parts(Socket, TimeoutMs, Monitor, Parts, {SentBefore, AckedBefore}) ->
    receive
        {'DOWN', Monitor, process, _, _} -> ok
    after TimeoutMs ->
        Now = {Sent, Acked} = {atomics:get(Parts, 1), acked(Socket)},
        case Sent > SentBefore orelse has_taken(AckedBefore, Acked) of
            true -> watch_parts(Socket, TimeoutMs, Monitor, Parts, Now);
            %% An error is one of the socket, which has ended then.
            false -> gen_tcp:shutdown(Socket, read_write)
        end
    end.

has_taken(Before, Acked) when is_integer(Before), is_integer(Acked) ->
    Acked - Before >= ?PART_BYTES;
has_taken(_, _) ->
    false.

%% What the client's system has said that it has.
acked(Socket) ->
    case os:type() =:= {unix, linux} andalso inet:getopts(Socket, [?TCP_INFO]) of
        {ok, [{raw, _, _, <<_:?ACKED_OFFSET/binary, Acked:64/native>>}]} -> Acked;
        _ -> unknown
    end.
