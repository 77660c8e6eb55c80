%% SPDX-License-Identifier: Apache-2.0
%% Files as bodies, without a server: what is opened, what the parts are, and who ends a stalled socket.
-module(hornbeam_file_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([small_files_come_whole/1]).
-export([from_an_offset/1]).
-export([wanted_length/1]).
-export([what_is_no_file/1]).
-export([read_in_parts/1]).
-export([read_what_became_shorter/1]).
-export([growth_is_not_read/1]).
-export([sent_in_parts/1]).
-export([sent_what_became_shorter/1]).
-export([socket_that_is_closed/1]).
-export([socket_that_stalls/1]).
-export([progress_is_no_stall/1]).
-export([slow_taking_of_a_part_is_no_stall/1]).
-export([small_parts_where_nothing_tells/1]).
-export([watcher_goes_with_the_file/1]).
-export([watcher_goes_with_its_process/1]).

%% As in hornbeam_file.
-define(PART, 65536).

-import(hornbeam_test_wait, [until/1]).

all() ->
    [small_files_come_whole, from_an_offset, wanted_length, what_is_no_file, read_in_parts,
     read_what_became_shorter, growth_is_not_read, sent_in_parts, sent_what_became_shorter,
     socket_that_is_closed, socket_that_stalls, progress_is_no_stall, slow_taking_of_a_part_is_no_stall,
     small_parts_where_nothing_tells,
     watcher_goes_with_the_file, watcher_goes_with_its_process].

init_per_testcase(_, Config) ->
    open_sockets(4096, Config).

open_sockets(Buffer, Config) ->
    {ok, Listener} = gen_tcp:listen(0, [binary, {active, false}, {sndbuf, Buffer}]),
    {ok, Port} = inet:port(Listener),
    {ok, Client} = gen_tcp:connect("127.0.0.1", Port, [binary, {active, false}, {recbuf, Buffer}]),
    {ok, Socket} = gen_tcp:accept(Listener),
    ok = gen_tcp:close(Listener),
    [{socket, Socket}, {client, Client} | Config].

end_per_testcase(_, Config) ->
    close_sockets(Config).

close_sockets(Config) ->
    gen_tcp:close(proplists:get_value(socket, Config)),
    gen_tcp:close(proplists:get_value(client, Config)).

small_files_come_whole(Config) ->
    [
        begin
            {Path, Data} = make(Size, Config),
            ?assertEqual({whole, Data}, hornbeam_file:open(Path, 0, undefined)),
            ?assertEqual({whole, Data}, hornbeam_file:open(Path, 0, Size))
        end
     || Size <- [0, 1, ?PART]
    ].

from_an_offset(Config) ->
    {Path, Data} = make(?PART + 10, Config),
    Rest = binary:part(Data, 20, ?PART - 10),
    ?assertEqual({whole, Rest}, hornbeam_file:open(Path, 20, undefined)),
    ?assertEqual({whole, <<>>}, hornbeam_file:open(Path, ?PART + 10, undefined)),
    {ok, File, ?PART + 9} = hornbeam_file:open(Path, 1, undefined),
    ?assertEqual(binary:part(Data, 1, ?PART + 9), read_all(File)),
    ?assertEqual({error, {size, ?PART + 10}}, hornbeam_file:open(Path, ?PART + 11, undefined)).

%% The file has exactly what was promised, or is not sent.
wanted_length(Config) ->
    [
        begin
            {Path, _} = make(Size, Config),
            ?assertEqual({error, {size, Size}}, hornbeam_file:open(Path, 0, Size - 1)),
            ?assertEqual({error, {size, Size}}, hornbeam_file:open(Path, 0, Size + 1)),
            ?assertEqual({error, {size, Size}}, hornbeam_file:open(Path, 1, Size))
        end
     || Size <- [10, ?PART + 1]
    ].

what_is_no_file(Config) ->
    Folder = list_to_binary(proplists:get_value(priv_dir, Config)),
    Missing = filename:join(Folder, <<"missing">>),
    ?assertEqual({error, {enoent, 0}}, hornbeam_file:open(Missing, 0, undefined)),
    ?assertEqual({error, {eisdir, 0}}, hornbeam_file:open(Folder, 0, undefined)),
    ?assertEqual({error, {not_regular, 0}}, hornbeam_file:open(<<"/dev/zero">>, 0, undefined)),
    {Path, _} = make(1, Config),
    Below = <<Path/binary, "/x">>,
    ?assertEqual({error, {enotdir, 0}}, hornbeam_file:open(Below, 0, undefined)).

read_in_parts(Config) ->
    [
        begin
            {Path, Data} = make(Size, Config),
            {ok, File, Size} = hornbeam_file:open(Path, 0, undefined),
            ?assertEqual(Data, read_all(File))
        end
     || Size <- [?PART + 1, 2 * ?PART, 3 * ?PART + 5]
    ].

read_what_became_shorter(Config) ->
    {Path, _} = make(3 * ?PART, Config),
    [
        begin
            {ok, File0, _} = hornbeam_file:open(Path, 0, undefined),
            {nofin, _, File} = hornbeam_file:read(File0),
            truncate(Path, Size),
            ?assertMatch({failed, _}, hornbeam_file:read(File)),
            ok = hornbeam_file:close(File)
        end
     || Size <- [2 * ?PART - 1, ?PART + 1]
    ].

growth_is_not_read(Config) ->
    {Path, Data} = make(2 * ?PART - 1, Config),
    {ok, File, _} = hornbeam_file:open(Path, 0, undefined),
    ok = file:write_file(Path, <<"more">>, [append]),
    ?assertEqual(Data, read_all(File)).

sent_in_parts(Config) ->
    {Path, Data} = make(3 * ?PART + 5, Config),
    Reader = read_client(Config),
    {ok, File, _} = hornbeam_file:open(Path, 0, undefined),
    ?assertEqual(complete, send_all(File, Config)),
    ok = gen_tcp:close(proplists:get_value(socket, Config)),
    ?assertEqual(Data, received(Reader)).

sent_what_became_shorter(Config) ->
    {Path, Data} = make(3 * ?PART, Config),
    Reader = read_client(Config),
    {ok, File0, _} = hornbeam_file:open(Path, 0, undefined),
    {more, File} = hornbeam_file:send(proplists:get_value(socket, Config), File0),
    truncate(Path, ?PART + 7),
    ?assertMatch({failed, _}, send_all(File, Config)),
    ok = gen_tcp:close(proplists:get_value(socket, Config)),
    ?assertEqual(binary:part(Data, 0, ?PART + 7), received(Reader)).

socket_that_is_closed(Config) ->
    {Path, _} = make(64 * ?PART, Config),
    {ok, File, _} = hornbeam_file:open(Path, 0, undefined),
    ok = gen_tcp:close(proplists:get_value(client, Config)),
    ?assertEqual(closed, send_all(File, Config)).

%% Without the watcher this would never return.
socket_that_stalls(Config) ->
    {Path, _} = make(64 * ?PART, Config),
    {ok, File, _} = hornbeam_file:open(Path, 0, undefined),
    Watched = hornbeam_file:watch(proplists:get_value(socket, Config), 100, File),
    ?assertEqual(closed, send_all(Watched, Config)).

%% A client that takes a part now and then goes on, however long the whole takes.
progress_is_no_stall(Config) ->
    {Path, Data} = make(16 * ?PART, Config),
    %% A run in which the machine let no part through for as long as the watcher waits says nothing.
    IsShort = fun(LongestMs) -> LongestMs < 500 end,
    ?assertEqual({complete, Data}, sent_slowly(Path, 500, {4096, 0, 60}, IsShort, Config)).

%% One that takes long for a part, but enough of it each time that somebody looks.
slow_taking_of_a_part_is_no_stall(Config) ->
    {Path, Data} = make(21 * ?PART, Config),
    %% The third part is a mebibyte where the first two were quick.
    IsLong = fun(LongestMs) -> LongestMs > 400 end,
    ?assertEqual({complete, Data}, sent_slowly(Path, 200, {?PART, 5 * ?PART, 60}, IsLong, Config)).

%% A client of a Unix socket, which does not tell how far it has come, is asked for no more than a
%% quarter of a megabyte at a time.
small_parts_where_nothing_tells(Config) ->
    {Path, Data} = make(32 * ?PART, Config),
    %% Relative, as such a path has 107 bytes at most.
    Name = binary_to_list(filename:basename(Path)) ++ ".socket",
    Address = {local, Name},
    Options = [binary, {active, false}],
    {ok, Listener} = gen_tcp:listen(0, [{ifaddr, Address} | Options]),
    {ok, Client} = gen_tcp:connect(Address, 0, Options),
    {ok, Socket} = gen_tcp:accept(Listener),
    Reader = read_slowly(Client, 0, 0),
    {ok, File, _} = hornbeam_file:open(Path, 0, undefined),
    Watched = hornbeam_file:watch(Socket, 5000, File),
    %% 64 KiB, then 256 each; all of them 64 where the machine is slow.
    ?assert(count_parts(Watched, Socket) >= 9),
    ok = hornbeam_file:close(Watched),
    ok = gen_tcp:close(Socket),
    ?assertEqual(Data, received(Reader)),
    ok = gen_tcp:close(Listener),
    ok = file:delete(Name).

count_parts(File0, Socket) ->
    case hornbeam_file:send(Socket, File0) of
        {more, File} -> 1 + count_parts(File, Socket);
        complete -> 1
    end.

%% On sockets of its own, until the longest time that a part took is as wanted.
sent_slowly(Path, TimeoutMs, {Buffer, FromBytes, PauseMs}, IsWanted, Config0) ->
    Config = open_sockets(Buffer, Config0),
    {ok, File, _} = hornbeam_file:open(Path, 0, undefined),
    StartMs = erlang:monotonic_time(millisecond),
    Watched = hornbeam_file:watch(proplists:get_value(socket, Config), TimeoutMs, File),
    Reader = read_slowly(proplists:get_value(client, Config), FromBytes, PauseMs),
    {Ended, LongestMs} = send_timed(Watched, StartMs, 0, Config),
    ok = hornbeam_file:close(Watched),
    ok = gen_tcp:close(proplists:get_value(socket, Config)),
    Data = received(Reader),
    close_sockets(Config),
    case IsWanted(LongestMs) of
        true -> {Ended, Data};
        false -> sent_slowly(Path, TimeoutMs, {Buffer, FromBytes, PauseMs}, IsWanted, Config0)
    end.

%% How it ends, and the longest time that one part took.
send_timed(File0, SinceMs, LongestMs0, Config) ->
    Sent = hornbeam_file:send(proplists:get_value(socket, Config), File0),
    NowMs = erlang:monotonic_time(millisecond),
    LongestMs = max(LongestMs0, NowMs - SinceMs),
    case Sent of
        {more, File} -> send_timed(File, NowMs, LongestMs, Config);
        Ended -> {Ended, LongestMs}
    end.

watcher_goes_with_the_file(Config) ->
    {Path, _} = make(2 * ?PART, Config),
    {ok, File, _} = hornbeam_file:open(Path, 0, undefined),
    Socket = proplists:get_value(socket, Config),
    Watched = hornbeam_file:watch(Socket, 5000, File),
    [Watcher] = until(fun() -> watchers(self()) end),
    ok = hornbeam_file:close(Watched),
    until(fun() -> not is_process_alive(Watcher) end).

watcher_goes_with_its_process(Config) ->
    {Path, _} = make(2 * ?PART, Config),
    Socket = proplists:get_value(socket, Config),
    {Pid, Monitor} = spawn_monitor(fun() ->
        {ok, File, _} = hornbeam_file:open(Path, 0, undefined),
        _ = hornbeam_file:watch(Socket, 60000, File),
        receive stop -> ok end
    end),
    [Watcher] = until(fun() -> watchers(Pid) end),
    Pid ! stop,
    receive {'DOWN', Monitor, process, Pid, normal} -> ok end,
    until(fun() -> not is_process_alive(Watcher) end).

%% Internal.

%% Those who watch the sockets of a process, once they do.
watchers(Sender) ->
    {monitored_by, Monitoring} = process_info(Sender, monitored_by),
    Watchers = [Pid || Pid <- Monitoring, is_pid(Pid),
                       {current_function, {hornbeam_file, _, _}}
                           <- [process_info(Pid, current_function)]],
    Watchers =/= [] andalso Watchers.

make(Size, Config) ->
    Folder = list_to_binary(proplists:get_value(priv_dir, Config)),
    Unique = integer_to_binary(erlang:unique_integer([positive])),
    Path = filename:join(Folder, <<"file_", Unique/binary>>),
    Data = rand:bytes(Size),
    ok = file:write_file(Path, Data),
    {Path, Data}.

truncate(Path, Size) ->
    {ok, Fd} = file:open(Path, [read, write, raw]),
    {ok, Size} = file:position(Fd, Size),
    ok = file:truncate(Fd),
    ok = file:close(Fd).

read_all(File0) ->
    case hornbeam_file:read(File0) of
        {nofin, Data, File} ->
            ?assertEqual(?PART, byte_size(Data)),
            <<Data/binary, (read_all(File))/binary>>;
        {fin, Data} ->
            ok = hornbeam_file:close(File0),
            Data
    end.

send_all(File0, Config) ->
    case hornbeam_file:send(proplists:get_value(socket, Config), File0) of
        {more, File} -> send_all(File, Config);
        Ended -> Ended
    end.

read_client(Config) ->
    read_slowly(proplists:get_value(client, Config), 0, 0).

%% A process that reads to the end, and from so many bytes on waits before it goes on after each part.
read_slowly(Client, FromBytes, PauseMs) ->
    Test = self(),
    Reader = spawn_link(fun() ->
        receive go -> Test ! {self(), receive_all(Client, FromBytes, PauseMs, <<>>)} end
    end),
    ok = gen_tcp:controlling_process(Client, Reader),
    Reader ! go,
    Reader.

receive_all(Client, FromBytes, PauseMs, Data0) ->
    case gen_tcp:recv(Client, 0) of
        {ok, More} ->
            Data = <<Data0/binary, More/binary>>,
            _ = byte_size(Data) > FromBytes
                andalso byte_size(Data0) div ?PART < byte_size(Data) div ?PART
                andalso receive after PauseMs -> ok end,
            receive_all(Client, FromBytes, PauseMs, Data);
        {error, closed} ->
            Data0
    end.

received(Reader) ->
    receive {Reader, Data} -> Data end.
