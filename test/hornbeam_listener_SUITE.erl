%% SPDX-License-Identifier: Apache-2.0
%% Sockets: which are open, how long a connection may say nothing, and how all of them end.
-module(hornbeam_listener_SUITE).

-include_lib("kernel/include/file.hrl").
-include_lib("stdlib/include/assert.hrl").

-export([suite/0]).
-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([port_of_the_system/1]).
-export([several_addresses/1]).
-export([unix_socket/1]).
-export([ipv6/1]).
-export([address_in_use/1]).
-export([one_of_several_in_use/1]).
-export([cannot_bind/1]).
-export([connections_are_counted/1]).
-export([connections_are_bounded/1]).
-export([idle_connection_is_closed/1]).
-export([idle_connection_is_small/1]).
-export([silent_connection_is_closed/1]).
-export([running_request_is_not_idle/1]).
-export([head_that_drips/1]).
-export([head_that_drips_after_a_request/1]).
-export([half_head_is_not_idle/1]).
-export([what_is_not_a_head/1]).
-export([half_head_behind_a_response/1]).
-export([head_that_never_ends/1]).
-export([drain_lets_requests_finish/1]).
-export([drain_closes_idle_connections/1]).
-export([drain_drops_what_is_behind/1]).
-export([drain_serves_the_queue/1]).
-export([drain_has_an_end/1]).
-export([listener_killed/1]).
-export([listener_of_a_unix_socket_killed/1]).
-export([unix_socket_opened_again_at_the_end/1]).
-export([ranch_listener_crashes/1]).
-export([reaper_killed/1]).
-export([stray_messages/1]).

-import(hornbeam_test_client, [
    connect/1, send/2, get/2, request/2, response/1, values/2, is_closed/1, serves/1
]).
-import(hornbeam_test_parallel, [in_background/1, is_under_way/1, outcome/1]).
-import(hornbeam_test_server, [start/2, release/2, await_seen/2, seen/1, sup_child/2]).
-import(hornbeam_test_wait, [until/1]).

suite() ->
    [{timetrap, {seconds, 60}}].

all() ->
    [
        port_of_the_system,
        several_addresses,
        unix_socket,
        ipv6,
        address_in_use,
        one_of_several_in_use,
        cannot_bind,
        connections_are_counted,
        connections_are_bounded,
        idle_connection_is_closed,
        idle_connection_is_small,
        silent_connection_is_closed,
        running_request_is_not_idle,
        head_that_drips,
        head_that_drips_after_a_request,
        half_head_is_not_idle,
        what_is_not_a_head,
        half_head_behind_a_response,
        head_that_never_ends,
        drain_lets_requests_finish,
        drain_closes_idle_connections,
        drain_drops_what_is_behind,
        drain_serves_the_queue,
        drain_has_an_end,
        listener_killed,
        listener_of_a_unix_socket_killed,
        unix_socket_opened_again_at_the_end,
        ranch_listener_crashes,
        reaper_killed,
        stray_messages
    ].

init_per_suite(Config) ->
    hornbeam_test_suite:start_node(Config).

end_per_suite(Config) ->
    hornbeam_test_suite:stop_node(Config).

init_per_testcase(_, Config) ->
    hornbeam_test_suite:start_case(Config).

end_per_testcase(_, Config) ->
    hornbeam_test_suite:end_case(Config).

%% Port 0 is any port, and `info' says which.
port_of_the_system(Config) ->
    Port = start(Config, #{}),
    Url = list_to_binary("http://127.0.0.1:" ++ integer_to_list(Port)),
    ?assertMatch(#{address := <<"127.0.0.1">>, port := Port, url := Url}, hornbeam:info()),
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% The application is at each of them.
several_addresses(Config) ->
    _ = start(Config, #{bind => ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.2:0"]}),
    #{listeners := Listeners} = hornbeam:info(),
    ?assertMatch([_, _, #{address := <<"127.0.0.2">>}], Listeners),
    [
        begin
            {ok, Ip} = inet:parse_address(binary_to_list(Address)),
            {ok, Socket} = gen_tcp:connect(Ip, Port, [binary, {active, false}]),
            get(Socket, "/hello"),
            ?assertMatch(#{status := 200}, response(Socket))
        end
     || #{address := Address, port := Port} <- Listeners
    ].

%% A socket in the file system, which is gone after the server.
unix_socket(Config) ->
    Path = filename:join("/tmp", "hornbeam_" ++ os:getpid() ++ ".sock"),
    Options = hornbeam_test_server:options(Config, #{bind => "unix:" ++ Path}),
    ok = hornbeam:start("paths:app", Options),
    Name = list_to_binary(Path),
    ?assertMatch(#{address := Name, port := undefined}, hornbeam:info()),
    {ok, Socket} = gen_tcp:connect({local, Path}, 0, [binary, {active, false}]),
    get(Socket, "/scope"),
    #{body := Body} = response(Socket),
    [Server, Client | _] = lists:reverse(binary:split(Body, <<"\n">>, [global])),
    ?assertEqual(<<"None">>, Client),
    ?assertEqual(<<"(b'", Name/binary, "', None)">>, Server),
    hornbeam_test_client:close(Socket),
    ok = hornbeam:stop(),
    ?assertEqual({error, enoent}, file:read_link_info(Path)).

%% An IPv6 address means IPv6.
ipv6(Config) ->
    case gen_tcp:listen(0, [inet6, {ip, {0, 0, 0, 0, 0, 0, 0, 1}}]) of
        {error, _} ->
            {skip, "no IPv6 here"};
        {ok, Probe} ->
            ok = gen_tcp:close(Probe),
            Port = start(Config, #{bind => "[::1]:0"}),
            Url = list_to_binary("http://[::1]:" ++ integer_to_list(Port)),
            ?assertMatch(#{address := <<"::1">>, url := Url}, hornbeam:info()),
            {ok, Socket} = gen_tcp:connect(
                {0, 0, 0, 0, 0, 0, 0, 1}, Port, [inet6, binary, {active, false}]
            ),
            get(Socket, "/scope"),
            #{body := Body} = response(Socket),
            ?assertNotEqual(nomatch, binary:match(Body, <<"(b'::1', ">>)),
            ?assertEqual({error, econnrefused}, gen_tcp:connect({127, 0, 0, 1}, Port, []))
    end.

%% An error that names the address; workers and all are gone again.
address_in_use(Config) ->
    {ok, Socket} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Socket),
    Address = "127.0.0.1:" ++ integer_to_list(Port),
    Text = list_to_binary(Address),
    ?assertEqual(
        {error, {address_in_use, #{address => Text}}},
        hornbeam:start("paths:app", hornbeam_test_server:options(Config, #{bind => Address}))
    ),
    ?assertEqual([], hornbeam_test_server:running(Config)).

%% Those that could be had are closed again.
one_of_several_in_use(Config) ->
    {ok, Taken} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Free} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, TakenPort} = inet:port(Taken),
    {ok, FreePort} = inet:port(Free),
    ok = gen_tcp:close(Free),
    Bind = ["127.0.0.1:" ++ integer_to_list(Port) || Port <- [FreePort, TakenPort]],
    ?assertMatch(
        {error, {address_in_use, _}},
        hornbeam:start("paths:app", hornbeam_test_server:options(Config, #{bind => Bind}))
    ),
    ?assertEqual({error, econnrefused}, gen_tcp:connect({127, 0, 0, 1}, FreePort, [])).

%% Any other reason has its text.
cannot_bind(Config) ->
    Options = hornbeam_test_server:options(Config, #{bind => "192.0.2.1:0"}),
    {error, Reason = {bind_failed, #{address := <<"192.0.2.1:0">>, message := Message}}} =
        hornbeam:start("paths:app", Options),
    ?assertNotEqual(nomatch, binary:match(Message, <<"assign">>)),
    ?assert(is_binary(unicode:characters_to_binary(hornbeam:format_error(Reason)))).

%% As many as are open.
connections_are_counted(Config) ->
    Port = start(Config, #{}),
    Sockets = [connect(Port) || _ <- [1, 2, 3]],
    until(fun() -> maps:get(connections, hornbeam:info()) =:= 3 end),
    [hornbeam_test_client:close(Socket) || Socket <- Sockets],
    until(fun() -> maps:get(connections, hornbeam:info()) =:= 0 end).

%% One too many is served when another has left.
connections_are_bounded(Config) ->
    Port = start(Config, #{max_connections => 2}),
    Sockets = [First, Second, Third] = [connect(Port) || _ <- [1, 2, 3]],
    [get(Socket, "/hello") || Socket <- Sockets],
    ?assertMatch(#{status := 200}, response(First)),
    ?assertMatch(#{status := 200}, response(Second)),
    ?assertEqual({error, timeout}, gen_tcp:recv(Third, 0, 50)),
    ?assertMatch(#{connections := 2}, hornbeam:info()),
    hornbeam_test_client:close(Second),
    ?assertMatch(#{status := 200}, response(Third)).

%% After a response, for `keepalive'.
idle_connection_is_closed(Config) ->
    Port = start(Config, #{keepalive => 100}),
    Socket = connect(Port),
    StartMs = erlang:monotonic_time(millisecond),
    get(Socket, "/hello"),
    #{status := 200} = response(Socket),
    ?assert(is_closed(Socket)),
    IdleMs = erlang:monotonic_time(millisecond) - StartMs,
    ?assert(IdleMs >= 100),
    %% It is looked after once in a second.
    ?assert(IdleMs < 4000).

%% It has no copy of the options, and what its requests have left is freed.
idle_connection_is_small(Config) ->
    Port = start(Config, #{keepalive => 60000}),
    Socket = connect(Port),
    get(Socket, "/hello"),
    ?assertMatch(#{status := 200}, response(Socket)),
    [Pid] = ranch:procs({hornbeam, default, 1}, connections),
    until(fun() -> element(2, process_info(Pid, memory)) < 6000 end).

%% Before the first request, for `header_timeout', without an answer that nobody asked for.
silent_connection_is_closed(Config) ->
    Port = start(Config, #{header_timeout => 200, keepalive => 100}),
    Socket = connect(Port),
    ?assert(is_closed(Socket)).

%% Neither limit is for a request that runs.
running_request_is_not_idle(Config) ->
    Port = start(Config, #{header_timeout => 100, keepalive => 50}),
    Running = connect(Port),
    get(Running, "/hold?until=go"),
    await_seen(Config, <<"1 request /hold">>),
    %% Another connection meets its end: twice, so that the reaper has been at it.
    [
        begin
            Idle = connect(Port),
            get(Idle, "/hello"),
            #{status := 200} = response(Idle),
            ?assert(is_closed(Idle))
        end
     || _ <- [1, 2]
    ],
    release(Config, "go"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Running)).

%% The head has `header_timeout', however steadily it comes, and wherever it stops; whichever of the
%% two limits is the longer one.
head_that_drips(Config) ->
    _ = [drips(Config, 300, KeepaliveMs, Part)
         || {KeepaliveMs, Part} <- [{100, "GET /hello HTTP/1.1\r\nX: "}, {60000, "GET /h"}]],
    ok.

drips(Config, HeaderMs, KeepaliveMs, Part) ->
    Port = start(Config, #{header_timeout => HeaderMs, keepalive => KeepaliveMs}),
    StartMs = erlang:monotonic_time(millisecond),
    Socket = connect(Port),
    send(Socket, Part),
    is_late(drip(Socket)),
    ElapsedMs = erlang:monotonic_time(millisecond) - StartMs,
    ?assert(ElapsedMs >= HeaderMs),
    ?assert(ElapsedMs < 3000),
    ok = hornbeam:stop().

%% The same behind a request, where it is told from an idle connection: also when it comes at once,
%% and then stops.
head_that_drips_after_a_request(Config) ->
    Port = start(Config, #{header_timeout => 300, keepalive => 60000}),
    %% One by one: the time of the first head runs from when a connection is made.
    [Dripping, Stuck, Idle] = [used(Port) || _ <- "123"],
    send(Stuck, "G"),
    send(Dripping, "GET /hello HTTP/1.1\r\nX: "),
    is_late(drip(Dripping)),
    is_late(hornbeam_test_client:rest(Stuck)),
    get(Idle, "/hello"),
    ?assertMatch(#{status := 200}, response(Idle)).

%% Where an idle connection is closed sooner, this one has the time of a head.
half_head_is_not_idle(Config) ->
    Port = start(Config, #{header_timeout => 2500, keepalive => 100}),
    Idle = used(Port),
    Half = used(Port),
    send(Half, "GET /hello HTTP/1.1\r\nHost"),
    ?assert(is_closed(Idle)),
    send(Half, ": a\r\n\r\n"),
    ?assertMatch(#{status := 200}, response(Half)),
    send(Half, "GET /hello HTTP/1.1\r\nHost"),
    is_late(hornbeam_test_client:rest(Half)).

%% Empty lines are no head.
what_is_not_a_head(Config) ->
    Port = start(Config, #{header_timeout => 300, keepalive => 60000}),
    Socket = connect(Port),
    send(Socket, "\r\n\r\n"),
    ?assert(is_closed(Socket)).

%% Half a head behind a request whose response is under way disturbs nothing: its time begins with
%% the end of the response.
half_head_behind_a_response(Config) ->
    Port = start(Config, #{header_timeout => 100, keepalive => 60000}),
    Socket = connect(Port),
    get(Socket, "/hold?until=go"),
    send(Socket, "GET /hello HTTP/1.1\r\nHost"),
    await_seen(Config, <<"1 request /hold">>),
    %% Others meet their end: twice, so that the reaper has been at it.
    [
        begin
            Other = connect(Port),
            send(Other, "G"),
            is_late(hornbeam_test_client:rest(Other))
        end
     || _ <- [1, 2]
    ],
    release(Config, "go"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Socket)),
    is_late(hornbeam_test_client:rest(Socket)).

%% Nor may it use its time to fill the memory.
head_that_never_ends(Config) ->
    Port = start(Config, #{header_timeout => 60000, keepalive => 60000}),
    Socket = connect(Port),
    ok = inet:setopts(Socket, [{send_timeout, 10000}]),
    Before = erlang:memory(total),
    send(Socket, "GET /hello HTTP/1.1\r\nHost: a\r\n"),
    Lines = binary:copy(<<"Cookie: abcdefghijklmnop\r\n">>, 1000),
    {error, _} = send_for_ever(Socket, Lines),
    ?assert(erlang:memory(total) - Before < 256 * 1024 * 1024),
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% The listening socket closes first; the request that runs has its response, which says that the
%% connection ends.
drain_lets_requests_finish(Config) ->
    Port = start(Config, #{}),
    Socket = connect(Port),
    get(Socket, "/hold?until=go"),
    await_seen(Config, <<"1 request /hold">>),
    Stopping = in_background(fun() -> hornbeam:stop() end),
    until(fun() -> gen_tcp:connect({127, 0, 0, 1}, Port, []) =:= {error, econnrefused} end),
    ?assert(is_under_way(Stopping)),
    ?assertNot(lists:member(<<"1 shutdown">>, seen(Config))),
    release(Config, "go"),
    Response = response(Socket),
    ?assertMatch(#{status := 200, body := <<"released">>}, Response),
    ?assertEqual([<<"close">>], values(<<"connection">>, Response)),
    ?assert(is_closed(Socket)),
    hornbeam_test_client:close(Socket),
    ?assertEqual(ok, outcome(Stopping)),
    ?assert(lists:member(<<"1 shutdown">>, seen(Config))),
    ?assertEqual([], hornbeam_test_log:at_least(warning)).

%% Connections without a request do not wait for the others; half a head is no request.
drain_closes_idle_connections(Config) ->
    Port = start(Config, #{}),
    [Running, Fresh, Idle, Half] = [connect(Port) || _ <- lists:seq(1, 4)],
    get(Running, "/hold?until=go"),
    get(Idle, "/hello"),
    #{status := 200} = response(Idle),
    send(Half, "GET /hello HT"),
    until(fun() -> maps:get(connections, hornbeam:info()) =:= 4 end),
    Stopping = in_background(fun() -> hornbeam:stop() end),
    [?assert(is_closed(Socket)) || Socket <- [Fresh, Idle, Half]],
    ?assert(is_under_way(Stopping)),
    release(Config, "go"),
    ?assertMatch(#{status := 200}, response(Running)),
    [hornbeam_test_client:close(Socket) || Socket <- [Running, Fresh, Idle, Half]],
    ?assertEqual(ok, outcome(Stopping)).

%% What was sent behind a request that runs was not promised anything.
drain_drops_what_is_behind(Config) ->
    Port = start(Config, #{}),
    Socket = connect(Port),
    get(Socket, "/hold?until=go"),
    get(Socket, "/crash"),
    await_seen(Config, <<"1 request /hold">>),
    Stopping = in_background(fun() -> hornbeam:stop() end),
    until(fun() -> gen_tcp:connect({127, 0, 0, 1}, Port, []) =:= {error, econnrefused} end),
    get(Socket, "/crash"),
    release(Config, "go"),
    ?assertMatch(#{status := 200}, response(Socket)),
    ?assert(is_closed(Socket)),
    hornbeam_test_client:close(Socket),
    ?assertEqual(ok, outcome(Stopping)),
    ?assertNot(lists:member(<<"1 request /crash">>, seen(Config))).

%% A request that waits for a worker has been accepted.
drain_serves_the_queue(Config) ->
    Port = start(Config, #{max_concurrency => 1}),
    Sockets = [Running, Queued] = [connect(Port), connect(Port)],
    get(Running, "/hold?until=go"),
    await_seen(Config, <<"1 request /hold">>),
    get(Queued, "/hello"),
    until(fun() -> maps:get(queue, hornbeam:info()) =:= 1 end),
    Stopping = in_background(fun() -> hornbeam:stop() end),
    until(fun() -> gen_tcp:connect({127, 0, 0, 1}, Port, []) =:= {error, econnrefused} end),
    release(Config, "go"),
    [?assertMatch(#{status := 200}, response(Socket)) || Socket <- Sockets],
    [hornbeam_test_client:close(Socket) || Socket <- Sockets],
    ?assertEqual(ok, outcome(Stopping)).

%% A request that does not end is cut after `shutdown_timeout'.
drain_has_an_end(Config) ->
    Port = start(Config, #{shutdown_timeout => 200}),
    Socket = connect(Port),
    get(Socket, "/hold?until=never"),
    await_seen(Config, <<"1 request /hold">>),
    StartMs = erlang:monotonic_time(millisecond),
    Stopping = in_background(fun() -> hornbeam:stop() end),
    ?assert(is_closed(Socket)),
    ?assertEqual(ok, outcome(Stopping)),
    ElapsedMs = erlang:monotonic_time(millisecond) - StartMs,
    ?assert(ElapsedMs >= 200 andalso ElapsedMs < 5000),
    ?assertMatch([#{connections := 1}], hornbeam_test_log:reports(drain_timeout)).

%% The server comes back on the same port, without what was left of the old sockets.
listener_killed(Config) ->
    Port = start(Config, #{}),
    Socket = connect(Port),
    get(Socket, "/hello"),
    #{status := 200} = response(Socket),
    Listener = sup_child(default, hornbeam_listener),
    exit(Listener, kill),
    ?assert(is_closed(Socket)),
    until(fun() -> serves(Port) end),
    ?assertNotEqual(Listener, sup_child(default, hornbeam_listener)),
    ?assertEqual([{hornbeam, default, 1}], maps:keys(ranch:info())),
    %% With the worker that was there.
    ?assertMatch([_], hornbeam_test_server:started(Config)).

%% Also at the path of a unix socket, whose file goes with the server.
listener_of_a_unix_socket_killed(Config) ->
    %% That of the log is too long for a socket.
    Folder = string:trim(os:cmd("mktemp -d")),
    Path = filename:join(Folder, "sock"),
    _ = start(Config, #{bind => "unix:" ++ Path}),
    Listener = sup_child(default, hornbeam_listener),
    exit(Listener, kill),
    until(fun() -> sup_child(default, hornbeam_listener) =/= Listener end),
    until(fun() -> connects(Path) end),
    Acceptors = acceptors_sup(),
    exit(Acceptors, kill),
    until(fun() -> acceptors_sup() =/= Acceptors end),
    until(fun() -> connects(Path) end),
    ok = hornbeam:stop(),
    ?assertEqual(ok, file:del_dir(Folder)).

%% The file goes also where the server is stopped before it has learned that Ranch has listened again.
unix_socket_opened_again_at_the_end(Config) ->
    Folder = string:trim(os:cmd("mktemp -d")),
    Path = filename:join(Folder, "sock"),
    _ = start(Config, #{bind => "unix:" ++ Path}),
    {ok, #file_info{inode = First}} = file:read_file_info(Path),
    %% The next file gets another inode as long as this one is there.
    ok = file:make_link(Path, Path ++ ".first"),
    Listener = sup_child(default, hornbeam_listener),
    ok = sys:suspend(Listener),
    exit(acceptors_sup(), kill),
    until(fun() ->
        {messages, Messages} = process_info(Listener, messages),
        lists:keymember(listening, 1, Messages)
    end),
    {ok, #file_info{inode = Second}} = file:read_file_info(Path),
    ?assertNotEqual(First, Second),
    ok = hornbeam:stop(),
    ok = file:delete(Path ++ ".first"),
    ?assertEqual(ok, file:del_dir(Folder)).

%% The port that the system chose stays the server's, whoever listens again.
ranch_listener_crashes(Config) ->
    Port = start(Config, #{}),
    Ref = {hornbeam, default, 1},
    [begin
        Sup = ranch_server:get_listener_sup(Ref),
        {_, Pid, _, _} = lists:keyfind(Id, 1, supervisor:which_children(Sup)),
        exit(Pid, kill),
        until(fun() -> not is_process_alive(Pid) end),
        until(fun() -> serves(Port) end)
     end || Id <- lists:append(lists:duplicate(3, [ranch_conns_sup_sup, ranch_acceptors_sup]))],
    ?assertMatch([_], hornbeam_test_server:started(Config)).

%% Nobody notices, and idle connections end again.
reaper_killed(Config) ->
    Port = start(Config, #{keepalive => 1500}),
    Socket = connect(Port),
    get(Socket, "/hello"),
    #{status := 200} = response(Socket),
    Listener = sup_child(default, hornbeam_listener),
    exit(reaper(Listener), kill),
    until(fun() -> hornbeam_test_log:reports(reaper_down) =/= [] end),
    get(Socket, "/hello"),
    ?assertMatch(#{status := 200}, response(Socket)),
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    ?assertEqual(Listener, sup_child(default, hornbeam_listener)),
    ?assert(is_closed(Socket)).

%% Messages from nowhere are noted, and no more.
stray_messages(Config) ->
    Port = start(Config, #{}),
    Listener = sup_child(default, hornbeam_listener),
    Processes = [Listener, reaper(Listener)],
    [Pid ! stray || Pid <- Processes],
    until(fun() -> length(hornbeam_test_log:reports(unexpected_message)) =:= 2 end),
    ?assert(lists:all(fun is_process_alive/1, Processes)),
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% Internal.

reaper(Listener) ->
    {links, Links} = process_info(Listener, links),
    [Reaper] = [
        Pid
     || Pid <- Links,
        is_pid(Pid),
        proc_lib:translate_initial_call(Pid) =:= {hornbeam_reaper, init, 1}
    ],
    Reaper.

connects(Path) ->
    case gen_tcp:connect({local, Path}, 0, []) of
        {ok, Socket} -> gen_tcp:close(Socket) =:= ok;
        {error, _} -> false
    end.

%% `restarting' while it is not there.
acceptors_sup() ->
    Sup = ranch_server:get_listener_sup({hornbeam, default, 1}),
    {_, Pid, _, _} = lists:keyfind(ranch_acceptors_sup, 1, supervisor:which_children(Sup)),
    Pid.

%% A connection that has had one response.
used(Port) ->
    Socket = connect(Port),
    get(Socket, "/hello"),
    #{status := 200} = response(Socket),
    Socket.

%% A byte at a time until the server has had enough.
%% All that comes to a client that keeps sending.
drip(Socket) ->
    _ = gen_tcp:send(Socket, "x"),
    case gen_tcp:recv(Socket, 0, 20) of
        {error, timeout} -> drip(Socket);
        {ok, Received} -> <<Received/binary, (hornbeam_test_client:rest(Socket))/binary>>;
        {error, _} -> <<>>
    end.

%% 408, complete, and nothing more.
is_late(Received) ->
    [Head, Body] = binary:split(Received, <<"\r\n\r\n">>),
    [<<"HTTP/1.1 408 Request Timeout">> | Lines] = binary:split(Head, <<"\r\n">>, [global]),
    ?assert(lists:member(<<"connection: close">>, Lines)),
    Length = integer_to_binary(byte_size(Body)),
    ?assert(lists:member(<<"content-length: ", Length/binary>>, Lines)).

send_for_ever(Socket, Data) ->
    case gen_tcp:send(Socket, Data) of
        ok -> send_for_ever(Socket, Data);
        Error -> Error
    end.
