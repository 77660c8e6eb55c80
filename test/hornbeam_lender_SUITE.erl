%% SPDX-License-Identifier: Apache-2.0
%% The lender alone, with a socket of the test in the worker's place.
-module(hornbeam_lender_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([suite/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).

-export([what_is_lent/1]).
-export([reads_on/1]).
-export([names_that_are_none/1]).
-export([nobody_listens/1]).
-export([nobody_accepts/1]).
-export([nobody_reads/1]).
-export([worker_that_has_gone/1]).
-export([owner_that_has_gone/1]).
-export([none/1]).
-export([output_that_waits/1]).
-export([client_that_has_gone/1]).
-export([by_many_at_once/1]).
-export([clients_that_leave_meanwhile/1]).

-define(COOKIE, {raw, 1, 57, 8}).
-define(MESSAGE_BYTES, 16).

suite() ->
    [{timetrap, {seconds, 30}}].

all() ->
    [what_is_lent, reads_on, names_that_are_none, nobody_listens, nobody_accepts, nobody_reads,
     worker_that_has_gone, owner_that_has_gone, none, output_that_waits, client_that_has_gone,
     by_many_at_once, clients_that_leave_meanwhile].

init_per_suite(Config) ->
    case os:type() of
        {unix, linux} -> Config;
        _ -> {skip, "needs abstract names of sockets"}
    end.

end_per_suite(_) ->
    ok.

%% The id, the cookie, and a descriptor by which the client gets what is written.
what_is_lent(_) ->
    {Lender, Worker} = channel(),
    {Client, Socket} = connection(),
    Id = 1 bsl 40,
    ?assertEqual(lent, hornbeam_lender:lend(Id, Socket, Lender)),
    {ok, [{raw, 1, 57, Cookie}]} = inet:getopts(Socket, [?COOKIE]),
    {<<Id:64, Cookie/binary>>, Lent} = receive_loan(Worker),
    ok = socket:send(Lent, <<"by the worker">>),
    ok = gen_tcp:send(Socket, <<", by the node">>),
    ?assertEqual({ok, <<"by the worker, by the node">>}, gen_tcp:recv(Client, 26, 5000)),
    %% It stays the node's.
    ok = socket:close(Lent),
    ok = gen_tcp:send(Socket, <<"x">>),
    ?assertEqual({ok, <<"x">>}, gen_tcp:recv(Client, 1, 5000)).

%% As many times as it was to.
reads_on(_) ->
    {Lender, _} = channel(),
    {Client, Socket} = connection(),
    [
        begin
            ok = inet:setopts(Socket, [{active, false}]),
            ok = inet:setopts(Socket, [{active, Active}]),
            ?assertEqual(lent, hornbeam_lender:lend(1, Socket, Lender)),
            ?assertEqual({ok, [{active, Active}]}, inet:getopts(Socket, [active]))
        end
     || Active <- [false, once, true, 7]
    ],
    ok = gen_tcp:send(Client, <<"x">>),
    receive {tcp, Socket, <<"x">>} -> ok end.

%% No process may fall because of what a worker says.
names_that_are_none(_) ->
    [
        ?assertEqual({Name, none}, {Name, hornbeam_lender:connect(Name)})
     || Name <- [undefined, none, 7, "list", [], {}, #{}, <<>>, <<0>>, <<0, 0, 0>>, <<"a", 0, "b">>,
                 <<0, "nobody listens here">>, <<"/nowhere/socket">>, <<"/">>, <<"/dev/null">>,
                 <<1:7>>, binary:copy(<<"x">>, 107), binary:copy(<<0>>, 107),
                 binary:copy(<<"x">>, 108), binary:copy(<<"x">>, 1 bsl 20)]
    ].

nobody_listens(_) ->
    {Listener, Name} = listener(),
    ok = socket:close(Listener),
    ?assertEqual(none, hornbeam_lender:connect(Name)).

%% Connecting does not wait for it, however many do.
nobody_accepts(_) ->
    {_, Name} = listener(),
    Made = [hornbeam_lender:connect(Name) || _ <- lists:seq(1, 10)],
    ?assert(lists:member(none, Made)),
    ?assertEqual([], messages()).

%% Nor does lending: what does not fit is kept, and soon again lent where it does.
nobody_reads(_) ->
    {Lender, Worker} = channel(),
    {_, Socket} = connection(),
    Lent = fill(1, Socket, Lender),
    ?assert(Lent > 1),
    ?assertEqual(kept, hornbeam_lender:lend(0, Socket, Lender)),
    [
        begin
            {<<Id:64, _/binary>>, Descriptor} = receive_loan(Worker),
            ok = socket:close(Descriptor)
        end
     || Id <- lists:seq(1, Lent - 1)
    ],
    ?assertEqual(lent, hornbeam_lender:lend(0, Socket, Lender)),
    ?assertMatch({<<0:64, _/binary>>, _}, receive_loan(Worker)),
    ?assertEqual([], messages()).

fill(Id, Socket, Lender) ->
    case hornbeam_lender:lend(Id, Socket, Lender) of
        lent -> fill(Id + 1, Socket, Lender);
        kept -> Id
    end.

worker_that_has_gone(_) ->
    {Lender, Worker} = channel(),
    {_, Socket} = connection(),
    ok = socket:close(Worker),
    ?assertEqual(kept, hornbeam_lender:lend(1, Socket, Lender)),
    ?assertEqual(kept, hornbeam_lender:lend(1, Socket, Lender)),
    ?assertEqual([], messages()).

%% The process of a worker ends before its connections know.
owner_that_has_gone(_) ->
    {Listener, Name} = listener(),
    {Owner, Monitor} = spawn_monitor(fun() -> exit({lender, hornbeam_lender:connect(Name)}) end),
    {ok, _} = socket:accept(Listener, 5000),
    Lender = receive {'DOWN', Monitor, process, Owner, {lender, Made}} -> Made end,
    {_, Socket} = connection(),
    hornbeam_test_wait:until(fun() -> hornbeam_lender:lend(1, Socket, Lender) =:= kept end).

none(_) ->
    {_, Socket} = connection(),
    ?assertEqual(kept, hornbeam_lender:lend(1, Socket, none)).

%% What the worker writes would come before it.
output_that_waits(_) ->
    {Lender, Worker} = channel(),
    {Client, Socket} = connection(),
    ok = inet:setopts(Socket, [{high_watermark, 64 bsl 20}]),
    ok = gen_tcp:send(Socket, binary:copy(<<"x">>, 32 bsl 20)),
    ?assertEqual(kept, hornbeam_lender:lend(1, Socket, Lender)),
    {ok, _} = gen_tcp:recv(Client, 32 bsl 20, 10000),
    hornbeam_test_wait:until(fun() -> {ok, [{send_pend, 0}]} =:= inet:getstat(Socket, [send_pend]) end),
    ?assertEqual(lent, hornbeam_lender:lend(2, Socket, Lender)),
    ?assertMatch({<<2:64, _/binary>>, _}, receive_loan(Worker)).

client_that_has_gone(_) ->
    {Lender, _} = channel(),
    {Client, Socket} = connection(),
    ok = inet:setopts(Socket, [{active, true}]),
    ok = gen_tcp:close(Client),
    receive {tcp_closed, Socket} -> ok end,
    ?assertEqual(kept, hornbeam_lender:lend(1, Socket, Lender)).

%% Each by its own process, as connections do.
by_many_at_once(_) ->
    {Lender, Worker} = channel(),
    Ids = lists:seq(1, 200),
    Lenders = [
        spawn_monitor(fun() ->
            {Client, Socket} = connection(),
            lent = until_lent(Id, Socket, Lender),
            Text = integer_to_binary(Id),
            {ok, Text} = gen_tcp:recv(Client, byte_size(Text), 10000),
            [] = messages()
        end)
     || Id <- Ids
    ],
    [
        begin
            {<<Id:64, _/binary>>, Lent} = receive_loan(Worker),
            ok = socket:send(Lent, integer_to_binary(Id)),
            ok = socket:close(Lent)
        end
     || _ <- Ids
    ],
    [receive {'DOWN', Monitor, _, _, Reason} -> ?assertEqual(normal, Reason) end || {_, Monitor} <- Lenders].

until_lent(Id, Socket, Lender) ->
    case hornbeam_lender:lend(Id, Socket, Lender) of
        lent -> lent;
        kept -> until_lent(Id, Socket, Lender)
    end.

%% Whatever descriptor comes: by the cookie it is the right one, or known for none.
clients_that_leave_meanwhile(_) ->
    {Lender, Worker} = channel(),
    [
        begin
            {Client, Socket} = connection(),
            ok = inet:setopts(Socket, [{active, true}]),
            {ok, [{raw, 1, 57, Cookie}]} = inet:getopts(Socket, [?COOKIE]),
            _ = spawn_link(fun() -> gen_tcp:close(Client) end),
            Next = spawn_monitor(fun() -> connection() end),
            case hornbeam_lender:lend(Id, Socket, Lender) of
                lent ->
                    {<<Id:64, Meant/binary>>, Lent} = receive_loan(Worker),
                    ?assertEqual(Cookie, Meant),
                    ok = socket:close(Lent);
                kept ->
                    ok
            end,
            receive {'DOWN', Monitor, _, _, _} when Monitor =:= element(2, Next) -> ok end,
            receive {tcp_closed, Socket} -> ok end
        end
     || Id <- lists:seq(1, 200)
    ].

%% Internal.

listener() ->
    Name = <<0, "hornbeam-test-", (integer_to_binary(erlang:unique_integer([positive])))/binary,
             (list_to_binary(os:getpid()))/binary>>,
    {ok, Listener} = socket:open(local, stream),
    ok = socket:bind(Listener, #{family => local, path => Name}),
    ok = socket:listen(Listener, 1),
    {Listener, Name}.

channel() ->
    {Listener, Name} = listener(),
    Lender = hornbeam_lender:connect(Name),
    ?assertNotEqual(none, Lender),
    {ok, Worker} = socket:accept(Listener, 5000),
    {Lender, Worker}.

%% The client's end, and the node's.
connection() ->
    {ok, Listener} = gen_tcp:listen(0, [binary, {active, false}, {ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Listener),
    {ok, Client} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
    {ok, Socket} = gen_tcp:accept(Listener, 5000),
    ok = gen_tcp:close(Listener),
    {Client, Socket}.

receive_loan(Worker) ->
    {ok, #{iov := [Bytes], ctrl := [#{level := socket, type := rights, data := Rights}]}} =
        socket:recvmsg(Worker, ?MESSAGE_BYTES, 64, [], 5000),
    <<Descriptor:32/native>> = Rights,
    {ok, Lent} = socket:open(Descriptor, #{dup => false}),
    {Bytes, Lent}.

%% What has come to this process, and should not have.
messages() ->
    receive Message -> [Message | messages()]
    after 0 -> []
    end.
