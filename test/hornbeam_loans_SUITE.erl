%% SPDX-License-Identifier: Apache-2.0
%% Workers that borrow the sockets of their clients, in ways that make sense and in others.
-module(hornbeam_loans_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([suite/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([whole_body/1]).
-export([in_between/1]).
-export([pipelined/1]).
-export([what_is_not_lent/1]).
-export([not_of_this_protocol/1]).
-export([counts_that_are_wrong/1]).
-export([at_the_wrong_time/1]).
-export([does_not_take_it/1]).
-export([names_that_are_none/1]).
-export([flood/1]).
-export([worker_dies/1]).
-export([connection_is_killed/1]).
-export([client_leaves/1]).
-export([client_sends_on/1]).

-import(hornbeam_test_client, [connect/1, send/2, get/2, get/3, response/1, response/2, request/2, close/1]).
-import(hornbeam_test_server, [release/2, await_seen/2]).
-import(hornbeam_test_wait, [until/1]).

suite() ->
    [{timetrap, {seconds, 60}}].

all() ->
    [whole_body, in_between, pipelined, what_is_not_lent, not_of_this_protocol, counts_that_are_wrong,
     at_the_wrong_time, does_not_take_it, names_that_are_none, flood, worker_dies,
     connection_is_killed, client_leaves, client_sends_on].

init_per_suite(Config) ->
    case os:type() of
        {unix, linux} -> hornbeam_test_suite:start_node(Config);
        _ -> {skip, "needs abstract names of sockets"}
    end.

end_per_suite(Config) ->
    hornbeam_test_suite:stop_node(Config).

init_per_testcase(_, Config) ->
    process_flag(trap_exit, true),
    hornbeam_test_suite:start_case(Config).

end_per_testcase(Case, Config) ->
    Noise = hornbeam_test_log:at_least(warning),
    case hornbeam_test_suite:end_case(Config) of
        ok when Noise =/= [], Case =/= worker_dies, Case =/= connection_is_killed -> {fail, {logged, Noise}};
        Result -> Result
    end.

%% The connection serves on behind it.
whole_body(Config) ->
    Socket = connect(start(Config)),
    [
        begin
            get(Socket, "/lend?do=start:1000,borrow,take,write:1000,give:1000,last,done"),
            ?assertEqual({200, written(1000)}, answer(Socket)),
            get(Socket, "/hello"),
            ?assertMatch({200, _}, answer(Socket))
        end
     || _ <- [1, 2, 3]
    ].

%% Of parts that go by the node, all in their order; more than once.
in_between(Config) ->
    Socket = connect(start(Config)),
    get(Socket, "/lend?do=start:1000,data:100,borrow,take,write:300,give:300,data:100,"
                "borrow,take,write:400,give:400,last:100,done"),
    ?assertEqual({200, <<(data(100))/binary, (written(300))/binary, (data(100))/binary,
                         (written(400))/binary, (data(100))/binary>>}, answer(Socket)),
    get(Socket, "/hello"),
    ?assertMatch({200, _}, answer(Socket)).

%% What comes behind it is answered behind it, whatever it is.
pipelined(Config) ->
    Port = start(Config),
    [
        begin
            Socket = connect(Port),
            get(Socket, "/lend?do=start:9,borrow,take,write:9,until,give:9,last,done&until=" ++ Key),
            send(Socket, Next),
            ?assertEqual({200, written(9)}, begin release(Config, Key), answer(Socket) end),
            ?assertMatch({Next, {200, <<"hello", _/binary>>}}, {Next, answer(Socket)}),
            close(Socket)
        end
     || {Key, Next} <- [
            {"a", "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"},
            {"b", "GET /hello HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n"},
            {"c", "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"},
            {"d", "GET /hello HTTP/1.0\r\nHost: a\r\n\r\n"},
            {"e", "POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"},
            {"f", "POST /hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"}
        ]
    ].

%% The body has no announced length, or does not go out.
what_is_not_lent(Config) ->
    Port = start(Config),
    [
        begin
            Socket = connect(Port),
            send(Socket, [Method, " /lend?do=", Do, " HTTP/1.1\r\nHost: a\r\n\r\n"]),
            ?assertMatch({Do, #{status := 200, body := Body}}, {Do, response(Socket, Method)})
        end
     || {Method, Do, Body} <- [
            {<<"GET">>, "start,borrow,kept,last:5,done", <<"ddddd">>},
            {<<"GET">>, "start,data:1,borrow:3,kept:3,last:4,done", <<"ddddd">>},
            {<<"HEAD">>, "start:5,borrow,kept,last:5,done", <<>>}
        ]
    ].

%% Cowboy could not be told what was written.
not_of_this_protocol(Config) ->
    Port = start(Config),
    [
        begin
            Socket = connect(Port),
            get(Socket, "/lend?do=start:5,borrow,kept,last:5,done", Header),
            ?assertEqual({Header, {200, data(5)}}, {Header, answer(Socket)})
        end
     || Header <- ["TE: trailers\r\n", "Connection: close\r\n", "X!: 1\r\n"]
    ].

%% The client sees that it is not whole, or gets what was announced and nothing else.
counts_that_are_wrong(Config) ->
    Port = start(Config),
    [
        begin
            Socket = connect(Port),
            get(Socket, "/lend?do=" ++ Do),
            {200, _} = hornbeam_test_client:head(Socket),
            ?assertEqual({Do, Body}, {Do, hornbeam_test_client:rest(Socket)})
        end
     || {Do, Body} <- [
            {"start:9,written:9", <<>>},
            {"start:9,written:0", <<>>},
            {"start:9,borrow,take,write:3,give:3,written:3", written(3)},
            {"start:9,borrow,take,write:3,give:10", written(3)},
            {"start:9,borrow,take,write:3,give:18446744073709551616", written(3)},
            {"start:9,borrow,take,write:3,give:3,last,done", written(3)},
            {"start:9,borrow,take,write:3,give:3,done", written(3)},
            {"start:9,borrow,take,write:9,give:9,data:1", written(9)},
            {"start,borrow,kept,written:1", <<>>}
        ]
    ],
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% It is dropped, or harms nobody else.
at_the_wrong_time(Config) ->
    Port = start(Config),
    [
        begin
            Socket = connect(Port),
            get(Socket, "/lend?do=" ++ Do),
            ?assertEqual({Do, {200, Body}}, {Do, answer(Socket)}),
            get(Socket, "/hello"),
            ?assertMatch({200, _}, answer(Socket))
        end
     || {Do, Body} <- [
            {"borrow,start:5,last:5,done", data(5)},
            {"written:5,start:5,last:5,done", data(5)},
            {"start:5,last:5,borrow,written:5,done", data(5)},
            {"start:5,last:5,done,borrow,written:5", data(5)},
            {"start:5,borrow,last:5,done&other=1000000", data(5)},
            %% The second one stays with the worker.
            {"start:5,borrow:2,take,take,write:5,give:5,last,done", written(5)}
        ]
    ].

%% The node has lent it, and goes on whatever becomes of it.
does_not_take_it(Config) ->
    Port = start(Config),
    [
        begin
            Socket = connect(Port),
            get(Socket, "/lend?do=start:5,borrow,written:0,last:5,done"),
            ?assertEqual({200, data(5)}, answer(Socket)),
            close(Socket)
        end
     || _ <- lists:seq(1, 50)
    ],
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% They cost a worker its loans, and nothing else.
names_that_are_none(Config) ->
    [
        begin
            Port = start(Config, Lending),
            ?assertMatch(#{status := 200, body := <<"ddddd">>},
                         request(Port, "/lend?do=start:5,borrow,kept,last:5,done")),
            ok = hornbeam:stop()
        end
     || Lending <- ["number", "00", "2f", "006e6f626f6479", lists:duplicate(2 * 107, $0),
                    lists:duplicate(2 * 108, $a)]
    ].

%% More than fits in the channel: the worker is told, others are served meanwhile.
flood(Config) ->
    Port = start(Config),
    Socket = connect(Port),
    get(Socket, "/lend?do=start:5,borrow:20000,kept:10000,until,written:0,last:5,done&until=go"),
    {200, _} = hornbeam_test_client:head(Socket),
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    release(Config, "go"),
    ok = close(Socket).

worker_dies(Config) ->
    Port = start(Config),
    Socket = connect(Port),
    get(Socket, "/lend?do=start:9,borrow,take,write:3"),
    {200, _} = hornbeam_test_client:head(Socket),
    ?assertEqual(<<"www">>, hornbeam_test_client:bytes(Socket, 3)),
    #{os_pid := OsPid} = hornbeam_test_server:worker_info(default, 1),
    _ = os:cmd("kill -9 " ++ integer_to_list(OsPid)),
    ?assertEqual(<<>>, hornbeam_test_client:rest(Socket)),
    until(fun() -> hornbeam_test_client:serves(Port) end).

%% The worker learns it: what it has of the connection ends with that.
connection_is_killed(Config) ->
    Port = start(Config),
    Socket = connect(Port),
    get(Socket, "/lend?do=start:9,borrow,take,write:3"),
    {200, _} = hornbeam_test_client:head(Socket),
    ?assertEqual(<<"www">>, hornbeam_test_client:bytes(Socket, 3)),
    [exit(Pid, kill) || Pid <- connections()],
    await_seen(Config, <<"1 disconnect /lend">>),
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

client_leaves(Config) ->
    Port = start(Config),
    [
        begin
            Socket = connect(Port),
            get(Socket, "/lend?do=start:9,borrow,take,write:3"),
            {200, _} = hornbeam_test_client:head(Socket),
            ?assertEqual(<<"www">>, hornbeam_test_client:bytes(Socket, 3)),
            ok = hornbeam_test_client:End(Socket),
            until(fun() -> Number =:= length([Line || Line = <<"1 disconnect /lend">> <-
                                                      hornbeam_test_server:seen(Config)]) end)
        end
     || {Number, End} <- [{1, close}, {2, reset}]
    ],
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% More than the node reads behind a request, while it is lent.
client_sends_on(Config) ->
    Port = start(Config),
    Socket = connect(Port),
    get(Socket, "/lend?do=start:9,borrow,take,write:3,until,write:6,give:9,last,done&until=go"),
    {200, _} = hornbeam_test_client:head(Socket),
    Request = <<"GET /whole?body=x HTTP/1.1\r\nHost: a\r\n\r\n">>,
    Count = 5000,
    Sender = spawn_link(fun() -> send(Socket, binary:copy(Request, Count)) end),
    release(Config, "go"),
    ?assertEqual(written(9), hornbeam_test_client:bytes(Socket, 9)),
    [?assertMatch({200, <<"x">>}, answer(Socket)) || _ <- lists:seq(1, Count)],
    receive {'EXIT', Sender, Reason} -> ?assertEqual(normal, Reason) end.

%% Internal.

start(Config) ->
    start(Config, "listens").

start(Config, Lending) ->
    Folder = proplists:get_value(folder, Config),
    hornbeam_test_server:start(Config, #{heartbeat => 20, env => #{"FAKE_DIR" => Folder,
                                                                   "FAKE_LENDING" => Lending}}).

answer(Socket) ->
    #{status := Status, body := Body} = response(Socket),
    {Status, Body}.

written(Size) -> binary:copy(<<"w">>, Size).

data(Size) -> binary:copy(<<"d">>, Size).

connections() ->
    [Pid || {Pid, _, _, _, _} <- lists:append([ets:tab2list(Table) || Table <- ets:all(),
                                              ets:info(Table, name) =:= hornbeam_reaper])].
