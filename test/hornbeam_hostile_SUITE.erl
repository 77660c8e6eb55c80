%% SPDX-License-Identifier: Apache-2.0
%% Workers that break the protocol, beside one that does not: they are contained, logged, replaced.
-module(hornbeam_hostile_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([suite/0]).
-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([replaced/1]).
-export([flood_of_unknown_ids/1]).
-export([flood_of_a_connection/1]).
-export([more_than_its_window/1]).
-export([ends_without_an_answer/1]).
-export([ends_within_an_answer/1]).
-export([gives_back_within_an_answer/1]).
-export([accepts_what_is_no_websocket/1]).
-export([credit_for_what_never_came/1]).
-export([never_takes_a_body/1]).
-export([stops_reading/1]).
-export([log_fields/1]).
-export([facts_of_a_failure/1]).
-export([ready_without_a_class/1]).
-export([changed_golden_messages/1]).
-export([changed_golden_bytes/1]).

-import(hornbeam_test_server, [start/2, release/2, worker_info/2, workers/0]).
-import(hornbeam_test_client, [connect/1, send/2, get/2, response/1, request/2, exchange/2]).
-import(hornbeam_test_wait, [until/1]).

-define(MIB, 1048576).

suite() ->
    [{timetrap, {seconds, 60}}].

all() ->
    [replaced, flood_of_unknown_ids, flood_of_a_connection, more_than_its_window,
     ends_without_an_answer, ends_within_an_answer, gives_back_within_an_answer,
     accepts_what_is_no_websocket, credit_for_what_never_came, never_takes_a_body, stops_reading, log_fields,
     facts_of_a_failure, ready_without_a_class, changed_golden_messages, changed_golden_bytes].

init_per_suite(Config) ->
    hornbeam_test_suite:start_node(Config).

end_per_suite(Config) ->
    hornbeam_test_suite:stop_node(Config).

init_per_testcase(_, Config) ->
    process_flag(trap_exit, true),
    hornbeam_test_suite:start_case(Config).

end_per_testcase(_, Config) ->
    hornbeam_test_suite:end_case(Config).

%% Whatever one worker says, requests of the other go on, and it is replaced.
replaced(Config) ->
    Port = start(Config, #{workers => 2}),
    Held = hold_other(Port),
    Packets = [
        <<"GET / HTTP/1.1">>,
        crypto:strong_rand_bytes(1000),
        term_to_binary([{credit, 1, -1}]),
        term_to_binary([{response, one, 200, [], <<>>}]),
        term_to_binary([{ready, #{worker_class => asgi}}])
    ],
    [
        begin
            Query = ["hex=", binary:encode_hex(Packet)],
            ?assertMatch(#{status := 502},
                         exchange(Port, ["POST /garbage?", Query, " HTTP/1.1\r\nHost: a\r\n\r\n"])),
            until(fun() -> states() =:= [ready, ready] end)
        end
     || Packet <- Packets
    ],
    Reports = hornbeam_test_log:reports(malformed_packet),
    ?assertEqual(length(Packets), length(Reports)),
    ?assertEqual([<<"GET / HTTP/1.1">>], [First || #{first_bytes := First = <<"GET", _/binary>>} <- Reports]),
    release(Config, "go"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Held)).

%% A worker that says more than the node can look at is killed before the node's memory is full.
flood_of_unknown_ids(Config) ->
    Port = start(Config, #{workers => 2}),
    Held = hold_other(Port),
    Before = erlang:memory(total),
    Peak = peak_memory(fun() ->
        _ = exchange(Port, "POST /flood?what=unknown HTTP/1.1\r\nHost: a\r\n\r\n"),
        until(fun() -> states() =:= [ready, ready] end)
    end),
    ?assert(Peak - Before < 400 * ?MIB),
    until(fun() -> erlang:memory(total) - Before < 64 * ?MIB end),
    release(Config, "go"),
    ?assertMatch(#{status := 200}, response(Held)),
    ?assertMatch([_], [Reason || #{last_exit := Reason = <<"it flooded the node", _/binary>>}
                                 <- workers()]).

%% Nor does it help it to say that to a connection.
flood_of_a_connection(Config) ->
    Port = start(Config, #{workers => 2}),
    Before = erlang:memory(total),
    Peak = peak_memory(fun() ->
        Socket = connect(Port),
        send(Socket, "POST /flood?what=inform HTTP/1.1\r\nHost: a\r\n\r\n"),
        until(fun() -> lists:sum([N || #{restarts := N} <- workers()]) =:= 1 end),
        ok = gen_tcp:close(Socket)
    end),
    ?assert(Peak - Before < 600 * ?MIB),
    until(fun() -> states() =:= [ready, ready] end),
    until(fun() -> erlang:memory(total) - Before < 64 * ?MIB end).

%% One that does not wait for acknowledgements is killed, so that what its clients do not read does
%% not gather in the node.
more_than_its_window(Config) ->
    Port = start(Config, #{workers => 2}),
    Held = hold_other(Port),
    Socket = connect(Port),
    send(Socket, "POST /overrun HTTP/1.1\r\nHost: a\r\n\r\n"),
    until(fun() -> hornbeam_test_log:reports(malformed_packet) =/= [] end),
    ?assertMatch([#{why := overrun, first_bytes := <<"{data,", _/binary>>}],
                 hornbeam_test_log:reports(malformed_packet)),
    until(fun() -> states() =:= [ready, ready] end),
    release(Config, "go"),
    ?assertMatch(#{status := 200}, response(Held)),
    ok = gen_tcp:close(Socket).

%% The client is not left alone.
ends_without_an_answer(Config) ->
    Port = start(Config, #{}),
    ?assertMatch(#{status := 500}, request(Port, "/say?what=done")),
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    ?assertMatch(#{in_flight := 0}, worker_info(default, 1)).

ends_within_an_answer(Config) ->
    Port = start(Config, #{}),
    Socket = connect(Port),
    get(Socket, "/say?what=start,done"),
    {200, _} = hornbeam_test_client:head(Socket),
    ?assertEqual(<<"5\r\nfirst\r\n">>, hornbeam_test_client:rest(Socket)),
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% What has begun can't go to another worker, and this one says no more of it.
gives_back_within_an_answer(Config) ->
    Port = start(Config, #{}),
    Socket = connect(Port),
    get(Socket, "/say?what=start,returned"),
    {200, _} = hornbeam_test_client:head(Socket),
    ?assertEqual(<<"5\r\nfirst\r\n">>, hornbeam_test_client:rest(Socket)),
    ?assertMatch(#{status := 200}, request(Port, "/hello")),
    ?assertMatch(#{in_flight := 0}, worker_info(default, 1)).

accepts_what_is_no_websocket(Config) ->
    Port = start(Config, #{}),
    ?assertMatch(#{status := 500}, request(Port, "/say?what=accept")),
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% The client's body waits in the socket, not in the node.
credit_for_what_never_came(Config) ->
    Port = start(Config, #{timeout => 1000, shutdown_timeout => 100,
                             lifespan_timeout => 100}),
    Before = erlang:memory(binary),
    Socket = connect(Port),
    Length = 64 * ?MIB,
    send(Socket, ["POST /say?what=credit,deaf HTTP/1.1\r\nHost: a\r\nContent-Length: ",
                  integer_to_list(Length), "\r\n\r\n"]),
    ok = inet:setopts(Socket, [{send_timeout, 500}]),
    {error, _} = send_all(Socket, binary:copy(<<"x">>, ?MIB), 64),
    ?assert(erlang:memory(binary) - Before < 16 * ?MIB),
    gen_tcp:close(Socket).

%% 504, and the node has kept no more than a window of it.
never_takes_a_body(Config) ->
    Port = start(Config, #{timeout => 300}),
    Socket = connect(Port),
    Before = erlang:memory(binary),
    send(Socket, "POST /ignore?until=never HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n"),
    send(Socket, binary:copy(<<"x">>, 100000)),
    ?assertMatch(#{status := 504}, response(Socket)),
    ?assert(erlang:memory(binary) - Before < 4 * ?MIB),
    ?assertMatch(#{status := 200}, request(Port, "/hello")).

%% Its pipe is full: the process that owns it goes on, others serve, and it is killed in time.
stops_reading(Config) ->
    Port = start(Config, #{workers => 2, heartbeat => 20, stall_timeout => 1500}),
    ?assertMatch(#{status := 200}, request(Port, "/deaf")),
    [Deaf] = [Id || #{worker_id := Id, served := 1} <- workers()],
    Sockets = [connect(Port) || _ <- lists:seq(1, 4)],
    Body = binary:copy(<<"x">>, 60000),
    [send(Socket, ["POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n", Body])
     || Socket <- Sockets],
    until(fun() -> maps:get(state, worker_info(default, Deaf)) =:= stalled end),
    ?assertMatch([_, _, _], [200 || _ <- [1, 2, 3], #{status := 200} <- [request(Port, "/hello")]]),
    Statuses = [maps:get(status, response(Socket)) || Socket <- Sockets],
    ?assertEqual([], Statuses -- [200, 200, 200, 200, 502, 502, 502, 502]),
    until(fun() -> states() =:= [ready, ready] end),
    ?assertMatch(#{last_exit := <<"its event loop was blocked", _/binary>>},
                 worker_info(default, Deaf)).

%% Fields that mean something to the logger do not get there.
log_fields(Config) ->
    Port = start(Config, #{}),
    Reports = [
        #{message => <<"good">>, request_id => 7, time => <<"now">>, gl => self_made, domain => 1},
        #{message => {no, text}},
        #{message => <<255, 254>>},
        #{request_id => <<"seven">>, message => 5},
        #{}
    ],
    Packet = term_to_binary([{log, error, Report} || Report <- Reports]),
    ?assertMatch(#{status := 200},
                 request(Port, ["/say?what=raw&hex=", binary:encode_hex(Packet)])),
    Events = hornbeam_test_log:at_least(error),
    ?assertEqual(length(Reports), length(Events)),
    [
        begin
            #{meta := #{time := Time, gl := Leader}} = Event,
            ?assert(is_integer(Time) andalso is_pid(Leader)),
            ?assert(is_binary(unicode:characters_to_binary(logger_formatter:format(Event, #{}))))
        end
     || Event <- Events
    ],
    ?assertMatch([#{meta := #{request_id := 7}} | _], Events).

%% Whatever a failure says of itself can be told.
facts_of_a_failure(_) ->
    Values = [1, <<255>>, self(), [], {a, b}, #{}, binary:copy(<<"x">>, 1000), [1, <<"x">> | y]],
    Names = [app_not_found, app_import_failed, app_not_callable, lifespan_failed, startup_timeout,
             worker_class_unsupported, chdir_failed, loop_unavailable, error],
    Keys = [app, message, traceback, type, timeout_ms, worker_class, chdir, loop],
    [
        ?assert(is_binary(hornbeam_worker_exit:text({shutdown, {failed, Name, Facts}})))
     || Name <- Names,
        Value <- Values,
        Facts <- [#{}, #{Value => Value}, maps:from_list([{Key, Value} || Key <- Keys])]
    ].

%% What is read by connections is not taken on trust.
ready_without_a_class(Config) ->
    [
        ?assertMatch({error, {worker_exited, #{status := {protocol_error, _}}}},
                     hornbeam:start(default, App, hornbeam_test_server:options(Config, #{})))
     || App <- ["classless:app", "strange_class:app"]
    ].

%% Every message of the golden packets, with each part exchanged for terms of other kinds: the
%% worker's process takes it, or ends as it does for what breaks the protocol.
changed_golden_messages(Config) ->
    %% Those of the start and of the stop end it in this phase, whatever is in them.
    Messages = [Message || Message <- lists:usort(lists:append([All || {ok, All} <- golden()])),
                           not lists:member(element(1, Message), [ready, failed, stopped])],
    ?assert(length(Messages) > 20),
    Changed = [setelement(N, Message, Term)
               || Message <- Messages, N <- lists:seq(2, tuple_size(Message)), Term <- strange()],
    Accepted = [Message || Message <- Changed,
                           {ok, _} <- [hornbeam_protocol:decode(term_to_binary([Message]))]],
    ?assert(length(Accepted) > 100),
    ok = logger:set_handler_config(hornbeam_test_log, level, none),
    Routes = hornbeam_routes:new(),
    Reasons = feed(Accepted, start_worker(Config, Routes), {Config, Routes}, []),
    ok = hornbeam_routes:delete(Routes),
    ?assertEqual([], [Reason || Reason <- Reasons, not is_foreseen(Reason)]).

%% Bytes changed at random are refused, or are messages that the reference has; never a crash.
changed_golden_bytes(_) ->
    _ = rand:seed(exsss, {1, 2, 3}),
    [
        case hornbeam_protocol:decode(change(Packet)) of
            {ok, Messages} -> ?assert(is_list(Messages));
            {error, {malformed, First}} -> ?assert(byte_size(First) =< 64)
        end
     || Packet <- golden_packets(), _ <- lists:seq(1, 200)
    ].

%% Internal.

%% A request that the other worker holds while this one is asked for something bad.
hold_other(Port) ->
    Held = connect(Port),
    send(Held, "POST /hold?until=go HTTP/1.1\r\nHost: a\r\n\r\n"),
    until(fun() -> lists:sum([N || #{in_flight := N} <- workers()]) =:= 1 end),
    Held.

states() ->
    [State || #{state := State} <- workers()].

send_all(_, _, 0) ->
    ok;
send_all(Socket, Data, Count) ->
    case gen_tcp:send(Socket, Data) of
        ok -> send_all(Socket, Data, Count - 1);
        Error -> Error
    end.

%% The most that the node had of memory while something went on.
peak_memory(Fun) ->
    Watcher = spawn_link(fun() -> watch_memory(0) end),
    Fun(),
    Watcher ! {peak, self()},
    receive {peak, Peak} -> Peak end.

watch_memory(Peak) ->
    receive
        {peak, Asker} -> Asker ! {peak, Peak}
    after 5 ->
        watch_memory(max(Peak, erlang:memory(total)))
    end.

golden() ->
    [hornbeam_protocol:decode(Packet) || Packet <- golden_packets()].

golden_packets() ->
    Folder = filename:join([hornbeam_test_server:source_folder(), "..", "tests", "vectors", "packets"]),
    [begin {ok, Packet} = file:read_file(File), Packet end
     || File <- filelib:wildcard(filename:join(Folder, "*.bin"))].

change(<<>>) ->
    <<0>>;
change(Packet) ->
    At = rand:uniform(byte_size(Packet)) - 1,
    <<Before:At/binary, Byte, After/binary>> = Packet,
    case rand:uniform(4) of
        1 -> <<Before/binary, (Byte bxor (1 bsl (rand:uniform(8) - 1))), After/binary>>;
        2 -> <<Before/binary, (rand:uniform(256) - 1), After/binary>>;
        3 -> <<Before/binary, After/binary>>;
        4 -> <<Before/binary, Byte, Byte, After/binary>>
    end.

strange() ->
    [-1, 0, 1 bsl 70, 1.5, ok, undefined, true, <<>>, <<255, 0, 13, 10>>, <<1:3>>, [], [<<"a">>],
     [a | b], {}, {a, <<"b">>}, [{<<"a">>, <<"b">>}], #{}, #{worker_class => asgi}, self(), make_ref()].

start_worker(Config, Routes) ->
    {ok, Checked} = hornbeam_config:validate("paths:app", hornbeam_test_server:options(Config, #{})),
    Args = #{pool => self(), server => test, worker_id => 1, python => hornbeam_test_server:python(),
             config => Checked, routes => Routes, load => hornbeam_load:new(),
             waiting => hornbeam_selection:new_waiting(0)},
    {ok, Worker} = hornbeam_worker:start_link(Args),
    receive {'$gen_cast', {worker_ready, _, Worker, _, _}} -> Worker end.

%% As if the port had read it.
feed([], Worker, _, Reasons) ->
    unlink(Worker),
    exit(Worker, kill),
    Reasons;
feed([Message | Rest], Worker, Start = {Config, Routes}, Reasons) ->
    {links, Links} = process_info(Worker, links),
    [Port] = [Port || Port <- Links, is_port(Port)],
    Worker ! {Port, {data, term_to_binary([Message])}},
    case hornbeam_worker:info(Worker) of
        #{} ->
            feed(Rest, Worker, Start, Reasons);
        undefined ->
            Reason = receive {'EXIT', Worker, Why} -> Why end,
            feed(Rest, start_worker(Config, Routes), Start, [{Message, Reason} | Reasons])
    end.

is_foreseen({_, {shutdown, {protocol_error, _}}}) -> true;
is_foreseen(_) -> false.
