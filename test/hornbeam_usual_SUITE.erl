%% SPDX-License-Identifier: Apache-2.0
%% Usual requests of HTTP/1.1, and where they meet what is not: what Cowboy does must be as good.
-module(hornbeam_usual_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([suite/0]).
-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([malformed_connection_header/1]).
-export([head_of_a_stream/1]).
-export([any_pieces/1]).
-export([client_that_does_not_wait/1]).
-export([body_is_not_kept_with_its_head/1]).
-export([reads_do_not_add_up/1]).
-export([tls_client_leaves_between_reads/1]).

-import(hornbeam_test_client, [connect/1, send/2, get/2, response/1, response/2, values/2]).
-import(hornbeam_test_server, [await_seen/2, release/2]).
-import(hornbeam_test_wait, [until/1]).

-define(ROUNDS, 10).
-define(SEEDS, 100).
-define(LEAVERS, 200).
-define(WINDOW, 65536).
%% As in hornbeam_http1.
-define(MAX_WAITING, 65536).
%% As in hornbeam_tcp_socket.
-define(LARGE_READS, 8).
%% As in hornbeam_connection.
-define(TLS_READS, 16).

suite() ->
    [{timetrap, {seconds, 30}}].

all() ->
    [malformed_connection_header, head_of_a_stream, any_pieces, client_that_does_not_wait,
     body_is_not_kept_with_its_head, reads_do_not_add_up, tls_client_leaves_between_reads].

init_per_suite(Config) ->
    hornbeam_test_suite:start_node(Config).

end_per_suite(Config) ->
    hornbeam_test_suite:stop_node(Config).

init_per_testcase(_, Config) ->
    hornbeam_test_suite:start_case(Config).

end_per_testcase(_, Config) ->
    hornbeam_test_suite:end_case(Config).

%% Refused before an application sees it, and anybody could fill the log with it.
malformed_connection_header(Config) ->
    Port = hornbeam_test_server:start(Config, #{}),
    [
        begin
            Request = [Method, " /hello HTTP/1.1\r\nHost: a\r\nConnection: ", Options, "\r\n", Rest],
            Response = hornbeam_test_client:exchange(Port, Request),
            ?assertMatch({Request, #{status := 400}}, {Request, Response}),
            ?assertEqual([<<"close">>], values(<<"connection">>, Response))
        end
     || Options <- ["a b", "", "close;", "\"close\""],
        {Method, Rest} <- [
            {"GET", "\r\n"},
            {"POST", "Content-Length: 3\r\n\r\nabc"},
            {"POST", "Content-Length: 3\r\n\r\n"},
            {"POST", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"}
        ]
    ],
    ?assertEqual([], hornbeam_test_server:seen(Config)),
    ?assertEqual([], hornbeam_test_log:at_least(warning)).

%% The headers of GET, whoever has parsed the request.
head_of_a_stream(Config) ->
    Port = hornbeam_test_server:start(Config, #{}),
    Socket = connect(Port),
    [
        begin
            send(Socket, ["HEAD ", Target, " HTTP/1.1\r\nHost: a\r\n", Header, "\r\n"]),
            Response = response(Socket, <<"HEAD">>),
            ?assertEqual({Target, Header, Lengths},
                         {Target, Header, [values(<<"transfer-encoding">>, Response),
                                           values(<<"content-length">>, Response)]})
        end
     || Header <- ["", "TE: trailers\r\n"],
        {Target, Lengths} <- [
            {"/stream?n=2&size=5", [[<<"chunked">>], []]},
            {"/stream?n=2&size=5&h=content-length:10", [[], [<<"10">>]]},
            {"/start?until=pids&status=204", [[], []]},
            {"/start?until=pids&status=304", [[], []]}
        ]
    ],
    get(Socket, "/hello"),
    ?assertMatch(#{status := 200, body := <<"hello from 1">>}, response(Socket)).

%% Wherever requests are cut into pieces, and whoever parses them: each has its response, in order.
any_pieces(Config) ->
    Port = hornbeam_test_server:start(Config, #{}),
    Kinds = [
        {[], 0}, {[], 1}, {[], 300}, {[], ?WINDOW - 1}, {[], ?WINDOW}, {"TE: trailers\r\n", 0},
        {"TE: trailers\r\n", 300}, {"Connection: keep-alive\r\n", 0}
    ],
    [
        begin
            rand:seed(exsss, Seed),
            Chosen = [lists:nth(rand:uniform(length(Kinds)), Kinds) || _ <- lists:seq(1, 4)],
            Bodies = [binary:copy(<<(rand:uniform(255))>>, Bytes) || {_, Bytes} <- Chosen],
            Requests = [echo(Header, Body) || {{Header, _}, Body} <- lists:zip(Chosen, Bodies)],
            Socket = connect(Port),
            ok = send_pieces(Socket, iolist_to_binary(Requests)),
            [?assertEqual({Seed, Body}, {Seed, maps:get(body, response(Socket))}) || Body <- Bodies],
            hornbeam_test_client:close(Socket)
        end
     || Seed <- lists:seq(1, ?SEEDS)
    ],
    ?assertEqual([], hornbeam_test_log:at_least(warning)).

echo(Header, Body) ->
    Length = integer_to_binary(byte_size(Body)),
    ["POST /echo HTTP/1.1\r\nHost: a\r\n", Header, "Content-Length: ", Length, "\r\n\r\n", Body].

%% Most of them small.
send_pieces(_, <<>>) ->
    ok;
send_pieces(Socket, Bytes) ->
    Most = lists:nth(rand:uniform(4), [3, 40, 400, 100000]),
    Size = min(rand:uniform(Most), byte_size(Bytes)),
    <<Piece:Size/binary, Rest/binary>> = Bytes,
    send(Socket, Piece),
    erlang:yield(),
    send_pieces(Socket, Rest).

%% The application gets what is sent by a client that leaves at once, whoever parses it.
client_that_does_not_wait(Config) ->
    Port = hornbeam_test_server:start(Config, #{max_concurrency => 1000}),
    [
        begin
            _ = [leave_at_once(Port, Path, Header) || _ <- lists:seq(1, ?LEAVERS)],
            Line = iolist_to_binary(["1 request ", Path]),
            IsSeen = fun(Seen) -> Seen =:= Line end,
            until(fun() ->
                length(lists:filter(IsSeen, hornbeam_test_server:seen(Config))) =:= ?LEAVERS
            end)
        end
     || {Path, Header} <- [{"/hello", ""}, {"/whole", "Connection: close\r\n"}]
    ].

leave_at_once(Port, Path, Header) ->
    Socket = connect(Port),
    send(Socket, ["GET ", Path, " HTTP/1.1\r\nHost: a\r\n", Header, "\r\n"]),
    hornbeam_test_client:close(Socket).

%% A request that waits for its response holds its head in memory, and not the read that it came in.
body_is_not_kept_with_its_head(Config) ->
    Port = hornbeam_test_server:start(Config, #{}),
    Socket = connect(Port),
    Value = binary:copy(<<"v">>, 100),
    Body = binary:copy(<<"x">>, 15000),
    send(Socket, ["POST /hold?until=never HTTP/1.1\r\nHost: a\r\nX: ", Value,
                  "\r\nContent-Length: 15000\r\n\r\n", Body]),
    await_seen(Config, <<"1 body /hold 15000 end">>),
    [Pid] = ranch:procs({hornbeam, default, 1}, connections),
    until(fun() ->
        true = garbage_collect(Pid),
        {binary, Held} = process_info(Pid, binary),
        lists:sum([Bytes || {_, Bytes, _} <- Held]) < 2000
    end).

%% However often much comes behind a request, no more is read at once than ever.
reads_do_not_add_up(Config) ->
    Port = hornbeam_test_server:start(Config, #{max_header_size => 100000}),
    Socket = connect(Port),
    Body = binary:copy(<<"x">>, 60000),
    Echo = ["POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n"],
    %% From now on reads are large.
    send(Socket, [Echo, "\r\n", Body]),
    ?assertMatch(#{body := Body}, response(Socket)),
    Server = server_side(Socket),
    [
        begin
            Key = "round" ++ integer_to_list(Round),
            get(Socket, "/hold?until=" ++ Key),
            until(fun() -> held(Config) =:= Round end),
            Received = received(Server),
            send(Socket, [Echo, "X: ", Body, "\r\n\r\n", Body]),
            until(fun() -> received(Server) - Received >= ?MAX_WAITING end),
            release(Config, Key),
            ?assertMatch(#{body := <<"released">>}, response(Socket)),
            ?assertMatch(#{body := Body}, response(Socket))
        end
     || Round <- lists:seq(1, ?ROUNDS)
    ],
    {ok, [{active, Reads}]} = inet:getopts(Server, [active]),
    ?assert(Reads =< ?LARGE_READS).

%% As it is for a client that leaves when as much has been read as was asked for: that it has gone
%% shows when more is asked for.
tls_client_leaves_between_reads(Config) ->
    {ok, _} = application:ensure_all_started(ssl),
    Port = hornbeam_test_server:start(Config, tls(Config)),
    {ok, Socket} = ssl:connect({127, 0, 0, 1}, Port, [
        binary, {active, false}, {verify, verify_none}, {log_level, none}
    ]),
    ok = ssl:send(Socket, "GET /hold?until=never HTTP/1.1\r\nHost: a\r\n\r\n"),
    await_seen(Config, <<"1 request /hold">>),
    [Pid] = ranch:procs({hornbeam, default, 1}, connections),
    ok = sys:suspend(Pid),
    %% The first read was the request; what comes together is one.
    _ = [
        begin
            ok = ssl:send(Socket, "G"),
            until(fun() -> element(2, process_info(Pid, message_queue_len)) >= Read end)
        end
     || Read <- lists:seq(1, ?TLS_READS - 1)
    ],
    ok = ssl:close(Socket),
    ok = sys:resume(Pid),
    await_seen(Config, <<"1 disconnect /hold">>),
    until(fun() -> not is_process_alive(Pid) end).

%% Internal.

held(Config) ->
    length([seen || <<"1 request /hold">> <- hornbeam_test_server:seen(Config)]).

received(Socket) ->
    {ok, [{recv_oct, Bytes}]} = inet:getstat(Socket, [recv_oct]),
    Bytes.

%% The server's end of a client's connection.
server_side(Socket) ->
    {ok, Client} = inet:sockname(Socket),
    [Port] = [Port || Port <- erlang:ports(), Port =/= Socket,
                      {name, "tcp_inet"} =:= erlang:port_info(Port, name),
                      {ok, Client} =:= inet:peername(Port)],
    Port.

tls(Config) ->
    Key = {key, {namedCurve, secp256r1}},
    #{server_config := Server} = public_key:pkix_test_data(#{
        server_chain => #{root => [Key], intermediates => [], peer => [Key]},
        client_chain => #{root => [Key], intermediates => [], peer => [Key]}
    }),
    {KeyType, KeyDer} = proplists:get_value(key, Server),
    File = filename:join(proplists:get_value(priv_dir, Config), "usual.pem"),
    ok = file:write_file(
        File,
        public_key:pem_encode([
            {'Certificate', proplists:get_value(cert, Server), not_encrypted},
            {KeyType, KeyDer, not_encrypted}
        ])
    ),
    #{ssl => true, certfile => File}.
