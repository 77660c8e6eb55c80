%% SPDX-License-Identifier: Apache-2.0
%% WebSockets as clients see them over HTTP/1.1 and HTTP/2, with one fake worker behind them.
-module(hornbeam_websocket_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([suite/0]).
-export([all/0]).
-export([groups/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_group/2]).
-export([end_per_group/2]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([accepted_with_subprotocol_and_headers/1]).
-export([scope_of_a_handshake/1]).
-export([denied/1]).
-export([denied_in_parts/1]).
-export([aborted_before_the_answer/1]).
-export([handshake_at_fault/1]).
-export([echoes/1]).
-export([fragments_and_single_bytes/1]).
-export([messages_behind_the_handshake/1]).
-export([ping_is_answered/1]).
-export([client_closes/1]).
-export([client_closes_without_a_code/1]).
-export([client_goes/1]).
-export([client_goes_amid_a_frame/1]).
-export([client_goes_during_the_handshake/1]).
-export([client_that_never_says_a_word/1]).
-export([application_closes/1]).
-export([application_leaves/1]).
-export([both_close/1]).
-export([no_message_behind_a_close/1]).
-export([aborted_when_open/1]).
-export([malformed/1]).
-export([answers_before_a_fault/1]).
-export([fault_that_nobody_answers/1]).
-export([worker_dies_at_a_fault/1]).
-export([message_at_its_limit/1]).
-export([worker_dies/1]).
-export([worker_dies_before_the_answer/1]).
-export([client_that_does_not_read/1]).
-export([application_that_does_not_take/1]).
-export([small_messages_that_nobody_takes/1]).
-export([last_words_to_a_slow_application/1]).
-export([close_to_a_slow_application/1]).
-export([published_to_all/1]).
-export([published_to_a_slow_client/1]).
-export([published_while_it_closes/1]).
-export([forgotten_at_its_end/1]).
-export([connection_process_killed/1]).
-export([other_protocols/1]).
-export([behind_another_request/1]).
-export([request_behind_a_handshake/1]).
-export([what_has_gathered_is_one_write/1]).
-export([several_on_a_connection/1]).
-export([stream_that_ends/1]).
-export([stream_that_ends_before_the_answer/1]).
-export([stream_without_a_body/1]).
-export([pings_at_a_client_that_does_not_read/1]).
-export([pings_of_the_server/1]).
-export([nothing_received/1]).
-export([pongs_keep_it_open/1]).
-export([slow_application_is_not_the_clients_fault/1]).
-export([no_answer_in_time/1]).
-export([open_longer_than_timeouts/1]).
-export([client_that_takes_nothing/1]).
-export([close_without_a_window/1]).
-export([answer_without_a_window/1]).
-export([end_without_a_window/1]).
-export([queued_handshake/1]).
-export([client_goes_in_the_queue/1]).
-export([queue_timeout/1]).
-export([compressed/1]).
-export([not_compressed/1]).
-export([stop_closes_all/1]).
-export([stop_waits_for_no_client/1]).
-export([stop_during_a_handshake/1]).

-define(WINDOW, 16384).
-define(MAX_SIZE, 100000).
%% As in hornbeam_websocket and hornbeam_listener.
-define(CLOSE_TIMEOUT_MS, 5000).
-define(ANSWER_TIMEOUT_MS, 1000).
-define(BURST_BYTES, (16 * 16384)).
-define(MIB, 1048576).

-import(hornbeam_test_websocket, [
    open/3, request/4, answer/1, send/2, send_bytes/2, frame/1, frame/4, recv/1, closes/1
]).
-import(hornbeam_test_server, [release/2, await_seen/2, seen/1]).
-import(hornbeam_test_wait, [until/1]).

suite() ->
    [{timetrap, {seconds, 60}}].

all() ->
    [{group, http1}, {group, http2}, {group, times}, {group, slow}, {group, queue},
     {group, compress}, {group, stop}].

groups() ->
    [
        {http1, [], common() ++ [
            client_goes_amid_a_frame, behind_another_request, request_behind_a_handshake,
            what_has_gathered_is_one_write, connection_process_killed
        ]},
        {http2, [], common() ++ [
            other_protocols, several_on_a_connection, stream_that_ends,
            stream_that_ends_before_the_answer, stream_without_a_body,
            pings_at_a_client_that_does_not_read
        ]},
        {times, [], [{group, times_http1}, {group, times_http2}]},
        {times_http1, [], times()},
        {times_http2, [], times()},
        {slow, [], [{group, slow_http1}, {group, slow_http2}]},
        {slow_http1, [], [client_that_takes_nothing]},
        {slow_http2, [], [client_that_takes_nothing, close_without_a_window,
                          answer_without_a_window, end_without_a_window]},
        {queue, [], [queued_handshake, client_goes_in_the_queue, queue_timeout]},
        {compress, [], [compressed, not_compressed]},
        {stop, [], [stop_closes_all, stop_waits_for_no_client, stop_during_a_handshake]}
    ].

common() ->
    [
        accepted_with_subprotocol_and_headers,
        scope_of_a_handshake,
        denied,
        denied_in_parts,
        aborted_before_the_answer,
        handshake_at_fault,
        echoes,
        fragments_and_single_bytes,
        messages_behind_the_handshake,
        ping_is_answered,
        client_closes,
        client_closes_without_a_code,
        client_goes,
        client_goes_during_the_handshake,
        client_that_never_says_a_word,
        application_closes,
        application_leaves,
        both_close,
        no_message_behind_a_close,
        aborted_when_open,
        malformed,
        answers_before_a_fault,
        fault_that_nobody_answers,
        worker_dies_at_a_fault,
        message_at_its_limit,
        worker_dies,
        worker_dies_before_the_answer,
        client_that_does_not_read,
        application_that_does_not_take,
        small_messages_that_nobody_takes,
        last_words_to_a_slow_application,
        published_to_all,
        published_to_a_slow_client,
        published_while_it_closes,
        forgotten_at_its_end,
        close_to_a_slow_application
    ].

times() ->
    [pings_of_the_server, nothing_received, pongs_keep_it_open,
     slow_application_is_not_the_clients_fault, no_answer_in_time, open_longer_than_timeouts].

init_per_suite(Config) ->
    hornbeam_test_suite:start_node(Config).

end_per_suite(Config) ->
    hornbeam_test_suite:stop_node(Config).

init_per_group(Group, Config) when Group =:= times; Group =:= slow ->
    Config;
init_per_group(stop, Config) ->
    [{driver, http1} | Config];
init_per_group(Group, Config0) ->
    Config = hornbeam_test_server:new_folder(Config0),
    Port = hornbeam_test_server:start(Config, options(Group)),
    [{port, Port}, {driver, driver_of(Group)} | Config].

end_per_group(Group, _) when Group =:= times; Group =:= slow; Group =:= stop ->
    ok;
end_per_group(_, _) ->
    ok = hornbeam:stop().

driver_of(Group) when Group =:= http2; Group =:= times_http2; Group =:= slow_http2 -> http2;
driver_of(_) -> http1.

options(Group) when Group =:= times_http1; Group =:= times_http2 ->
    #{heartbeat => 20, timeout => 300, websocket_timeout => 400, websocket_ping => 100,
      keepalive => 100, header_timeout => 200, window => 4096};
options(Group) when Group =:= slow_http1; Group =:= slow_http2 ->
    #{heartbeat => 20, send_timeout => 300};
options(queue) ->
    #{heartbeat => 20, max_concurrency => 1, queue_timeout => 300};
options(compress) ->
    #{heartbeat => 20, websocket_compress => true};
options(_) ->
    #{heartbeat => 20, window => ?WINDOW, websocket_max_frame_size => ?MAX_SIZE}.

init_per_testcase(_, Config) ->
    ok = hornbeam_test_log:start(),
    Config.

%% No case leaves a session in the worker, or an error in the log that it did not ask for.
end_per_testcase(Case, Config) ->
    _ = hornbeam_test_client:close_all(),
    case proplists:get_value(port, Config) of
        undefined -> _ = hornbeam:stop(), ok;
        _ -> check_server(Case)
    end.

check_server(Case) ->
    IsFree = fun() ->
        maps:get(in_flight, hornbeam_test_server:worker_info(default, 1)) =:= 0
    end,
    try until(IsFree) of
        true -> check_log(Case)
    catch
        error:Reason -> {fail, {in_flight, Reason}}
    end.

check_log(Case) ->
    Noisy = [worker_dies, worker_dies_before_the_answer, worker_dies_at_a_fault,
             connection_process_killed],
    case lists:member(Case, Noisy) orelse hornbeam_test_log:at_least(warning) of
        true -> ok;
        [] -> ok;
        Noise -> {fail, {logged, Noise}}
    end.

%%% Handshake

%% What the application says when it accepts is in the response.
accepted_with_subprotocol_and_headers(Config) ->
    Ws = request(driver(Config), port(Config), "/echo?sub=b&h=x-one:1&h=set-cookie:c%3D1",
                 [{<<"Sec-WebSocket-Protocol">>, <<"a, b">>}]),
    {_, Headers} = answer(Ws),
    ?assertEqual(<<"b">>, header(<<"sec-websocket-protocol">>, Headers)),
    ?assertEqual(<<"1">>, header(<<"x-one">>, Headers)),
    ?assertEqual(<<"c=1">>, header(<<"set-cookie">>, Headers)),
    ?assertEqual(<<"hornbeam">>, header(<<"server">>, Headers)),
    await_seen(Config, <<"1 websocket /echo a b">>),
    close_well(Ws).

%% As of a request, but for the scheme.
scope_of_a_handshake(Config) ->
    Ws = open(driver(Config), port(Config), "/scope?a=b%20c&as=scope"),
    {text, Text} = recv(Ws),
    [_, Scheme, Version, Path, Query | Headers] = binary:split(Text, <<"\n">>, [global]),
    ?assertEqual({<<"ws">>, <<"/scope">>, <<"a=b%20c&as=scope">>}, {Scheme, Path, Query}),
    ?assertEqual(case driver(Config) of http1 -> <<"1.1">>; http2 -> <<"2">> end, Version),
    ?assert(lists:member(<<"host: a">>, Headers) orelse lists:member(<<"host: a:80">>, Headers)),
    ?assert(lists:member(<<"sec-websocket-version: 13">>, Headers)),
    close_well(Ws).

%% Any response in place of the acceptance.
denied(Config) ->
    [
        begin
            Ws = request(driver(Config), port(Config),
                         ["/deny?h=x-one:1&status=", integer_to_list(Status)], []),
            {Status, Headers} = answer(Ws),
            ?assertEqual(<<"1">>, header(<<"x-one">>, Headers)),
            ?assertEqual(<<"2">>, header(<<"content-length">>, Headers)),
            ?assertEqual(<<"no">>, hornbeam_test_websocket:body(Ws))
        end
     || Status <- [403, 401, 503]
    ].

%% Also one that is larger than the window, which takes acknowledgements.
denied_in_parts(Config) ->
    Ws = request(driver(Config), port(Config), "/deny_in_parts?n=50&size=5000", []),
    {401, _} = answer(Ws),
    Body = case driver(Config) of
        http1 -> unchunked(hornbeam_test_websocket:body(Ws));
        http2 -> hornbeam_test_websocket:body(Ws)
    end,
    ?assertEqual(50 * 5000 + 3, byte_size(Body)),
    ?assertEqual(<<"end">>, binary:part(Body, byte_size(Body), -3)).

aborted_before_the_answer(Config) ->
    Ws = request(driver(Config), port(Config), "/abort", []),
    ?assertMatch({500, _}, answer(Ws)).

%% What is no handshake does not get to the application.
handshake_at_fault(Config) ->
    Ws = request(driver(Config), port(Config), "/echo?as=fault",
                 [{<<"sec-websocket-version">>, <<"12">>}]),
    {Status, Headers} = answer(Ws),
    %% On HTTP/1 there are two versions then, which is as wrong.
    ?assertEqual(426, Status),
    ?assertEqual(<<"13">>, header(<<"sec-websocket-version">>, Headers)),
    ?assertNot(lists:member(<<"1 websocket fault">>, seen(Config))).

%%% Messages

%% Each comes back once, whole and in its order: none, few and many bytes, both kinds.
echoes(Config) ->
    Ws = open(driver(Config), port(Config), "/echo"),
    Sizes = [0, 1, 125, 126, 65535, 65536, ?MAX_SIZE],
    Messages = [{Kind, binary:copy(<<"x">>, Size)} || Size <- Sizes, Kind <- [text, binary]],
    [
        begin
            send(Ws, Message),
            ?assertEqual(Message, recv(Ws))
        end
     || Message <- Messages
    ],
    Small = [{text, integer_to_binary(N)} || N <- lists:seq(1, 500)],
    send_bytes(Ws, [frame(Message) || Message <- Small]),
    [?assertEqual(Message, recv(Ws)) || Message <- Small],
    close_well(Ws).

%% However a message is cut, with a ping amid it, it is one; and ping comes first.
fragments_and_single_bytes(Config) ->
    Ws = open(driver(Config), port(Config), "/echo"),
    Frames = iolist_to_binary([
        frame(0, 0, 1, <<"a", 16#c3>>),
        frame({ping, <<"amid">>}),
        frame(0, 0, 0, <<>>),
        frame(1, 0, 0, <<16#a4, "b">>)
    ]),
    send_bytes(Ws, Frames),
    ?assertEqual({pong, <<"amid">>}, recv(Ws)),
    ?assertEqual({text, <<"aäb"/utf8>>}, recv(Ws)),
    [send_bytes(Ws, <<Byte>>) || <<Byte>> <= Frames],
    ?assertEqual({pong, <<"amid">>}, recv(Ws)),
    ?assertEqual({text, <<"aäb"/utf8>>}, recv(Ws)),
    close_well(Ws).

%% A client in a hurry loses nothing.
messages_behind_the_handshake(Config) ->
    Ws = request(driver(Config), port(Config), "/echo?until=hurry&as=hurry", []),
    send(Ws, {text, <<"one">>}),
    await_seen(Config, <<"1 websocket hurry">>),
    Half = frame({text, <<"two">>}),
    send_bytes(Ws, binary:part(Half, 0, 5)),
    release(Config, "hurry"),
    {_, _} = answer(Ws),
    send_bytes(Ws, binary:part(Half, 5, byte_size(Half) - 5)),
    ?assertEqual({text, <<"one">>}, recv(Ws)),
    ?assertEqual({text, <<"two">>}, recv(Ws)),
    close_well(Ws).

%% Also while the application takes nothing.
ping_is_answered(Config) ->
    Ws = open(driver(Config), port(Config), "/stall?until=pinged&as=pinged"),
    {text, <<"open">>} = recv(Ws),
    send(Ws, {text, <<"message">>}),
    [
        begin
            send(Ws, {ping, Payload}),
            ?assertEqual({pong, Payload}, recv(Ws))
        end
     || Payload <- [<<>>, <<"x">>, binary:copy(<<"y">>, 125)]
    ],
    send(Ws, {pong, <<"not asked for">>}),
    release(Config, "pinged"),
    close_well(Ws).

%%% Ends

%% The answer has the code of the client, and the application learns both.
client_closes(Config) ->
    [
        begin
            Ws = open(driver(Config), port(Config), ["/echo?as=closes", integer_to_list(Code)]),
            send(Ws, {close, Code, Reason}),
            ?assertEqual({close, Code, <<>>}, recv(Ws)),
            ?assert(closes(Ws)),
            hornbeam_test_websocket:close(Ws),
            Line = <<"1 closed closes", (integer_to_binary(Code))/binary, " ",
                     (integer_to_binary(Code))/binary, " ", Reason/binary>>,
            await_seen(Config, Line),
            ?assertEqual(1, count(Line, Config))
        end
     || {Code, Reason} <- [{1000, <<"bye">>}, {1001, <<>>}, {3000, <<"ä"/utf8>>}, {4999, <<"x">>}]
    ].

client_closes_without_a_code(Config) ->
    Ws = open(driver(Config), port(Config), "/echo?as=no_code"),
    send(Ws, close),
    ?assertEqual(close, recv(Ws)),
    ?assert(closes(Ws)),
    await_seen(Config, <<"1 closed no_code 1005 ">>).

%% By FIN, by RST or by RST_STREAM.
client_goes(Config) ->
    Left = open(driver(Config), port(Config), "/echo?as=left"),
    hornbeam_test_websocket:close(Left),
    await_seen(Config, <<"1 closed left 1006 ">>),
    Reset = open(driver(Config), port(Config), "/echo?as=reset"),
    send(Reset, {text, <<"x">>}),
    hornbeam_test_websocket:reset(Reset),
    await_seen(Config, <<"1 closed reset 1006 ">>).

client_goes_amid_a_frame(Config) ->
    Ws = open(driver(Config), port(Config), "/echo?as=amid"),
    send(Ws, {text, <<"whole">>}),
    ?assertEqual({text, <<"whole">>}, recv(Ws)),
    send_bytes(Ws, binary:part(frame({text, <<"half">>}), 0, 8)),
    hornbeam_test_websocket:close(Ws),
    await_seen(Config, <<"1 closed amid 1006 ">>).

client_goes_during_the_handshake(Config) ->
    Ws = request(driver(Config), port(Config), "/echo?until=never&as=gone", []),
    await_seen(Config, <<"1 websocket gone">>),
    hornbeam_test_websocket:reset(Ws),
    await_seen(Config, <<"1 disconnect gone">>),
    ?assertEqual(0, count(<<"1 closed gone 1006 ">>, Config)).

%% The application hears of the end of a session that never had a frame.
client_that_never_says_a_word(Config) ->
    Ws = open(driver(Config), port(Config), "/scope?as=wordless"),
    {text, _} = recv(Ws),
    hornbeam_test_websocket:close(Ws),
    await_seen(Config, <<"1 closed wordless 1006 ">>).

%% Its messages come before its close; `closed' comes with the answer; what the client says in
%% between is dropped.
application_closes(Config) ->
    Ws = open(driver(Config), port(Config), "/close?code=4000&reason=enough&as=enough"),
    ?assertEqual({text, <<"before">>}, recv(Ws)),
    ?assertEqual({close, 4000, <<"enough">>}, recv(Ws)),
    send(Ws, {text, <<"dropped">>}),
    send(Ws, {ping, <<"dropped">>}),
    ?assertNot(lists:member(<<"1 closed enough 4000 ">>, seen(Config))),
    send(Ws, {close, 4000, <<>>}),
    ?assert(closes(Ws)),
    await_seen(Config, <<"1 closed enough 4000 ">>),
    await_seen(Config, <<"1 messages enough 0">>).

%% One that does not wait for the answer leaves the client its time all the same.
application_leaves(Config) ->
    Ws = open(driver(Config), port(Config), "/close?code=1000&leave=1&as=leaves"),
    ?assertEqual({text, <<"before">>}, recv(Ws)),
    ?assertEqual({close, 1000, <<>>}, recv(Ws)),
    send(Ws, {close, 1000, <<>>}),
    ?assert(closes(Ws)).

%% Close frames that cross.
both_close(Config) ->
    Ws = request(driver(Config), port(Config), "/close?code=4001&as=both", []),
    send(Ws, {close, 4002, <<"mine">>}),
    {_, _} = answer(Ws),
    Frames = until_closed(Ws),
    ?assertMatch({close, _, _}, lists:last(Frames)),
    ?assertEqual(1, length([Code || {close, Code, _} <- Frames])),
    await_seen(Config, <<"1 closed both 4002 mine">>).

%% Frames behind a close frame are not read.
no_message_behind_a_close(Config) ->
    Ws = open(driver(Config), port(Config), "/stall?until=behind&as=behind"),
    {text, <<"open">>} = recv(Ws),
    send_bytes(Ws, [frame(Frame)
                    || Frame <- [{text, <<"1">>}, {close, 1000, <<>>}, {text, <<"22">>}]]),
    ?assertEqual({close, 1000, <<>>}, recv(Ws)),
    release(Config, "behind"),
    await_seen(Config, <<"1 got 1 1">>).

aborted_when_open(Config) ->
    Ws = open(driver(Config), port(Config), "/abort?accept=1&as=abort"),
    ?assertEqual({close, 1011, <<>>}, recv(Ws)),
    send(Ws, {close, 1011, <<>>}),
    ?assert(closes(Ws)).

%% Each fault has its code, for the client and for the application.
malformed(Config) ->
    Faults = [
        {1002, frame(1, 4, 1, <<"reserved bit">>)},
        {1002, frame(1, 0, 3, <<"reserved opcode">>)},
        {1002, frame(0, 0, 9, <<"ping in fragments">>)},
        {1002, frame(1, 0, 0, <<"nothing to continue">>)},
        {1002, <<1:1, 0:3, 1:4, 0:1, 4:7, "bare">>},
        {1002, frame(1, 0, 8, <<1006:16>>)},
        {1007, frame({text, <<16#ff>>})},
        {1009, frame({binary, binary:copy(<<0>>, ?MAX_SIZE + 1)})}
    ],
    [
        begin
            Name = ["fault", integer_to_list(N)],
            Ws = open(driver(Config), port(Config), ["/echo?as=", Name]),
            send_bytes(Ws, Bytes),
            {close, Code, Why} = recv(Ws),
            ?assertNotEqual(<<>>, Why),
            ?assert(closes(Ws)),
            hornbeam_test_websocket:close(Ws),
            Line = iolist_to_binary(["1 closed ", Name, " ", integer_to_list(Code), " ", Why]),
            await_seen(Config, Line)
        end
     || {N, {Code, Bytes}} <- lists:zip(lists:seq(1, length(Faults)), Faults)
    ].

%% What came before a fault, in the same bytes, is served as if it had come alone; what comes behind
%% it is not.
answers_before_a_fault(Config) ->
    Ws = open(driver(Config), port(Config), "/echo?as=before&slow=1&until=before"),
    send_bytes(Ws, [frame({text, <<"1">>}), frame({binary, <<"2">>}), frame(1, 0, 3, <<"fault">>),
                    frame({text, <<"3">>})]),
    await_seen(Config, <<"1 ending before 1002 a frame has a reserved opcode">>),
    send_bytes(Ws, frame({text, <<"4">>})),
    release(Config, "before"),
    ?assertMatch([{text, <<"1">>}, {binary, <<"2">>}, {close, 1002, _}], until_closed(Ws)),
    await_seen(Config, <<"1 closed before 1002 a frame has a reserved opcode">>).

%% An application that does not ask for more, or answers for ever, has a second.
fault_that_nobody_answers(Config) ->
    [
        begin
            Ws = open(driver(Config), port(Config), Target),
            StartMs = erlang:monotonic_time(millisecond),
            send_bytes(Ws, frame(1, 0, 3, <<"fault">>)),
            ?assertMatch({close, 1002, _}, lists:last(until_closed(Ws))),
            TookMs = erlang:monotonic_time(millisecond) - StartMs,
            ?assert(TookMs >= ?ANSWER_TIMEOUT_MS, TookMs),
            ?assert(TookMs < ?CLOSE_TIMEOUT_MS, TookMs),
            await_seen(Config, Line)
        end
     || {Target, Line} <- [
            {"/stall?until=never&as=silent",
             <<"1 closed silent 1002 a frame has a reserved opcode">>},
            {"/push?n=3&size=10&as=full",
             <<"1 closed full 1002 a frame has a reserved opcode">>}
        ]
    ].

worker_dies_at_a_fault(Config) ->
    #{workers := [#{os_pid := OsPid}]} = hornbeam:info(),
    Ws = open(driver(Config), port(Config), "/crash?until=never"),
    send_bytes(Ws, [frame({text, <<"now">>}), frame(1, 0, 3, <<"fault">>)]),
    ?assertMatch([{close, 1002, _}], until_closed(Ws)),
    until(fun() ->
        case hornbeam:info() of
            #{workers := [#{state := ready, os_pid := Next}]} -> Next =/= OsPid;
            _ -> false
        end
    end).

%% The limit is for the whole message, in however many frames it comes.
message_at_its_limit(Config) ->
    Ws = open(driver(Config), port(Config), "/echo"),
    Half = binary:copy(<<"x">>, ?MAX_SIZE div 2),
    send_bytes(Ws, [frame(0, 0, 2, Half), frame(1, 0, 0, Half)]),
    ?assertEqual({binary, <<Half/binary, Half/binary>>}, recv(Ws)),
    send_bytes(Ws, [frame(0, 0, 2, Half), frame(0, 0, 0, Half),
                    frame(1, 0, 0, <<"x">>)]),
    ?assertMatch({close, 1009, _}, recv(Ws)).

%% A session cannot go on without its worker; the client is told so.
worker_dies(Config) ->
    Others = [open(driver(Config), port(Config), "/echo") || _ <- lists:seq(1, 5)],
    Ws = open(driver(Config), port(Config), "/crash"),
    send(Ws, {text, <<"now">>}),
    [
        begin
            ?assertMatch({close, 1012, _}, recv(Each)),
            send(Each, {close, 1012, <<>>}),
            ?assert(closes(Each))
        end
     || Each <- [Ws | Others]
    ],
    until(fun() -> is_ready() end).

%% Nothing was answered, so another one can.
worker_dies_before_the_answer(Config) ->
    Ws = request(driver(Config), port(Config), "/crash_once", []),
    send(Ws, {text, <<"kept">>}),
    {_, _} = answer(Ws),
    ?assertEqual({text, <<"kept">>}, recv(Ws)),
    close_well(Ws),
    ok = file:delete(filename:join(proplists:get_value(folder, Config), "crashed")).

%%% Flow control

%% The application waits for a client that does not read, and the node's memory does not grow.
client_that_does_not_read(Config) ->
    Ws = request(driver(Config), port(Config), "/push?n=32000&size=16384&as=unread", []),
    _ = driver(Config) =:= http2 andalso hornbeam_test_websocket:stop_reading(Ws),
    Before = erlang:memory(binary),
    {_, _} = answer(Ws),
    _ = driver(Config) =:= http2 andalso read_all(Ws),
    {Sent, _} = settled_progress(1, Config),
    %% What the sockets' buffers of both sides take, and Cowboy's for a stream.
    ?assert(Sent * 16384 < 24 * ?MIB),
    ?assert(erlang:memory(binary) - Before < 24 * ?MIB),
    hornbeam_test_websocket:close(Ws),
    until(fun() -> [] =/= [Line || <<"1 closed unread ", _/binary>> = Line <- seen(Config)] end).

%% The socket is not read for an application that does not take; all of it comes later.
application_that_does_not_take(Config) ->
    Ws = open(driver(Config), port(Config), "/stall?until=taken&as=taken"),
    {text, <<"open">>} = recv(Ws),
    Frame = frame({binary, binary:copy(<<"x">>, 10000)}),
    Before = erlang:memory(binary),
    Count = flood(Ws, Frame, 0, 52000),
    Expected = ?WINDOW div 10000 + 1,
    {Got, GotBytes} = settled_progress(Expected, Config),
    ?assertEqual(Expected, Got),
    ?assertEqual(Got * 10000, GotBytes),
    ?assert(Count < 52000),
    ?assert(erlang:memory(binary) - Before < 8 * ?MIB),
    release(Config, "taken"),
    finish_flood(Ws),
    send(Ws, {close, 1000, <<>>}),
    ?assertEqual({close, 1000, <<>>}, recv(Ws)),
    Total = Count + 1,
    await_seen(Config, iolist_to_binary(io_lib:format("1 got ~b ~b", [Total, Total * 10000]))).

%% A message counts 64 bytes, however small it is.
small_messages_that_nobody_takes(Config) ->
    Ws = open(driver(Config), port(Config), "/stall?until=small&as=small"),
    {text, <<"open">>} = recv(Ws),
    Frames = [frame({text, <<>>}) || _ <- lists:seq(1, 2000)],
    send_bytes(Ws, Frames),
    {Got, 0} = settled_progress(?WINDOW div 64, Config),
    %% The messages of one read are not taken apart.
    ?assert(Got >= ?WINDOW div 64 andalso Got =< 2000),
    release(Config, "small"),
    send(Ws, {close, 1000, <<>>}),
    ?assertEqual({close, 1000, <<>>}, recv(Ws)),
    await_seen(Config, <<"1 got 2000 0">>).

%% What had been read when the client went is not lost, nor the code that it has said.
last_words_to_a_slow_application(Config) ->
    Ws = open(driver(Config), port(Config), "/stall?until=words&as=words"),
    {text, <<"open">>} = recv(Ws),
    Frame = frame({binary, binary:copy(<<"x">>, 4096)}),
    send_bytes(Ws, [lists:duplicate(5, Frame), frame({close, 4000, <<"bye">>})]),
    {4, _} = settled_progress(4, Config),
    release(Config, "words"),
    ?assertEqual({close, 4000, <<>>}, recv(Ws)),
    await_seen(Config, <<"1 closed words 4000 bye">>),
    await_seen(Config, <<"1 got 5 20480">>).

%% An application that closes without having taken what there is still sees the handshake end.
close_to_a_slow_application(Config) ->
    Ws = request(driver(Config), port(Config), "/close?code=1000&as=untaken", []),
    send_bytes(Ws, lists:duplicate(20, frame({text, binary:copy(<<"x">>, 4096)}))),
    {_, _} = answer(Ws),
    ?assertEqual({text, <<"before">>}, recv(Ws)),
    ?assertEqual({close, 1000, <<>>}, recv(Ws)),
    send(Ws, {close, 1000, <<>>}),
    ?assert(closes(Ws)),
    await_seen(Config, <<"1 closed untaken 1000 ">>).

%%% Topics

%% One publish reaches every client that is attached, as a frame like others.
published_to_all(Config) ->
    All = [attached(Config, "/topic?topic=all") || _ <- lists:seq(1, 5)],
    [
        begin
            ?assertEqual(length(All), hornbeam_pubsub:publish(<<"all">>, Data)),
            [?assertEqual({Kind, Data}, recv(Ws)) || Ws <- All]
        end
     || {Kind, Data} <- [{text, <<"text">>}, {binary, <<255>>}, {text, binary:copy(<<"x">>, 70000)}]
    ],
    [begin send(Ws, {ping, <<>>}), ?assertEqual({pong, <<>>}, recv(Ws)) end || Ws <- All],
    [close_well(Ws) || Ws <- All].

%% One that does not keep up is closed, and a quick one beside it misses nothing.
published_to_a_slow_client(Config) ->
    Slow = attached(Config, "/topic?topic=much&max=10&as=slow_one"),
    _ = driver(Config) =:= http2 andalso hornbeam_test_websocket:stop_reading(Slow),
    Quick = attached(Config, "/topic?topic=much&max=10"),
    %% On HTTP/1 the buffers of both sockets take the first megabytes.
    Data = binary:copy(<<"x">>, case driver(Config) of http1 -> 500000; http2 -> 70000 end),
    Numbers = lists:seq(1, 60),
    [
        begin
            _ = hornbeam_pubsub:publish(<<"much">>, <<Data/binary, N>>),
            ?assertEqual({text, <<Data/binary, N>>}, recv(Quick))
        end
     || N <- Numbers
    ],
    _ = driver(Config) =:= http2 andalso hornbeam_test_websocket:give_window(Slow, 100000000),
    Frames = until_close_frame(Slow),
    ?assertMatch({close, 1013, _}, lists:last(Frames)),
    ?assert(length(Frames) < length(Numbers)),
    send(Slow, {close, 1013, <<>>}),
    await_seen(Config, <<"1 closed slow_one 1013 the client does not keep up">>),
    close_well(Quick).

%% What is published behind the application's close does not go out.
published_while_it_closes(Config) ->
    Ws = attached(Config, "/topic?topic=closing&close=1"),
    ?assertEqual({close, 1000, <<>>}, recv(Ws)),
    [hornbeam_pubsub:publish(<<"closing">>, <<"late">>) || _ <- lists:seq(1, 100)],
    send(Ws, {close, 1000, <<>>}),
    ?assert(closes(Ws)).

%% Nobody publishes to what has gone; on HTTP/2 the connection goes on.
forgotten_at_its_end(Config) ->
    #{sessions := Before} = hornbeam_fanout:info(),
    All = case driver(Config) of
        http1 ->
            [request(http1, port(Config), "/topic?topic=ends", []) || _ <- lists:seq(1, 10)];
        http2 ->
            Socket = hornbeam_test_websocket:connect_http2(port(Config)),
            [hornbeam_test_websocket:request_http2(Socket, "/topic?topic=ends", [])
             || _ <- lists:seq(1, 10)]
    end,
    [begin {_, _} = answer(Ws), send(Ws, {close, 1000, <<>>}) end || Ws <- All],
    [?assertMatch({close, 1000, _}, lists:last(until_closed(Ws))) || Ws <- All],
    until(fun() -> maps:get(sessions, hornbeam_fanout:info()) =:= Before end),
    until(fun() -> hornbeam_pubsub:publish(<<"ends">>, <<"x">>) =:= 0 end).

%% Its worker learns of it in time.
connection_process_killed(Config) ->
    Before = connection_pids(),
    Ws = open(http1, port(Config), "/echo?as=killed"),
    [Pid] = connection_pids() -- Before,
    exit(Pid, kill),
    ?assertEqual(closed, recv(Ws)),
    await_seen(Config, <<"1 closed killed 1006 ">>).

%%% HTTP/1.1

%% It waits for its turn.
behind_another_request(Config) ->
    Socket = hornbeam_test_client:connect(port(Config)),
    hornbeam_test_client:send(Socket, [
        "GET /hold?until=turn HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ]),
    release(Config, "turn"),
    ?assertMatch(#{status := 200, body := <<"released">>}, hornbeam_test_client:response(Socket)),
    ?assertMatch({101, _}, hornbeam_test_client:head(Socket)),
    hornbeam_test_client:send(Socket, frame({close, 1000, <<>>})),
    ?assertEqual(<<16#88, 2, 1000:16>>, hornbeam_test_client:rest(Socket)).

%% However many messages wait for the connection's process, in their order; and what follows them.
what_has_gathered_is_one_write(Config) ->
    Before = connection_pids(),
    Ws = open(http1, port(Config), "/echo?slow=1&until=gathered&as=gathered"),
    [Pid] = connection_pids() -- Before,
    Texts = [integer_to_binary(N) || N <- lists:seq(1, 20)],
    [send(Ws, {text, Text}) || Text <- Texts],
    send(Ws, {ping, <<"there?">>}),
    %% So it has read all of them.
    ?assertEqual({pong, <<"there?">>}, recv(Ws)),
    true = erlang:suspend_process(Pid),
    release(Config, "gathered"),
    until(fun() ->
        {messages, Messages} = process_info(Pid, messages),
        length([Text || {{_, _}, {message, _, _, Text}} <- Messages]) =:= 20
    end),
    1 = erlang:trace_pattern({hornbeam_tcp_socket, send, 2}, true, []),
    1 = erlang:trace(Pid, true, [call]),
    true = erlang:resume_process(Pid),
    ?assertEqual([{text, Text} || Text <- Texts], [recv(Ws) || _ <- Texts]),
    1 = erlang:trace(Pid, false, [call]),
    Delivered = erlang:trace_delivered(Pid),
    receive {trace_delivered, Pid, Delivered} -> ok end,
    1 = erlang:trace_pattern({hornbeam_tcp_socket, send, 2}, false, []),
    ?assertEqual(1, writes(Pid)),
    close_well(Ws).

writes(Pid) ->
    receive
        {trace, Pid, call, {hornbeam_tcp_socket, send, _}} -> 1 + writes(Pid)
    after 0 ->
        0
    end.

%% A request that follows a handshake is none: what comes behind it are frames.
request_behind_a_handshake(Config) ->
    Ws = {http1, Socket} = request(http1, port(Config), "/echo?until=follows&as=follows", []),
    hornbeam_test_client:get(Socket, "/hello"),
    release(Config, "follows"),
    {101, _} = answer(Ws),
    ?assertMatch({close, 1002, _}, recv(Ws)),
    ?assertNot(lists:member(<<"1 request /hello">>, seen(Config))).

%%% HTTP/2

%% RFC 9220 3, and RFC 8441 4: what is no WebSocket is not taken for one.
other_protocols(Config) ->
    Ws = request(http2, port(Config), "/echo", [{<<":protocol">>, <<"connect-udp">>}]),
    ?assertMatch({501, _}, answer(Ws)),
    Plain = request(http2, port(Config), "", [{<<":protocol">>, <<>>}, {<<":scheme">>, <<>>},
                                              {<<":path">>, <<>>}]),
    ?assertMatch({501, _}, answer(Plain)).

%% Sessions of one connection are apart from each other.
several_on_a_connection(Config) ->
    Socket = hornbeam_test_websocket:connect_http2(port(Config)),
    All = [hornbeam_test_websocket:request_http2(Socket, "/echo", []) || _ <- lists:seq(1, 10)],
    [{200, _} = answer(Ws) || Ws <- All],
    [send(Ws, {text, integer_to_binary(Id)}) || Ws = {_, _, Id} <- All],
    [?assertEqual({text, integer_to_binary(Id)}, recv(Ws)) || Ws = {_, _, Id} <- All],
    [First | Rest] = All,
    send_bytes(First, frame(1, 0, 3, <<"fault">>)),
    ?assertMatch({close, 1002, _}, recv(First)),
    [send(Ws, {text, <<"still here">>}) || Ws <- Rest],
    [?assertEqual({text, <<"still here">>}, recv(Ws)) || Ws <- Rest],
    [send(Ws, {close, 1000, <<>>}) || Ws <- Rest],
    [?assertEqual([{close, 1000, <<>>}], until_closed(Ws)) || Ws <- Rest].

%% RFC 8441 5: as if the client had gone. What was said before counts.
stream_that_ends(Config) ->
    Ws = open(http2, port(Config), "/echo?as=ended"),
    send(Ws, {text, <<"last">>}),
    hornbeam_test_websocket:end_stream(Ws),
    await_seen(Config, <<"1 closed ended 1006 ">>),
    Closed = open(http2, port(Config), "/stall?until=half&as=half"),
    {text, <<"open">>} = recv(Closed),
    Frame = frame({text, binary:copy(<<"x">>, 4096)}),
    send_bytes(Closed, lists:duplicate(10, Frame)),
    send(Closed, {close, 4000, <<"x">>}),
    hornbeam_test_websocket:end_stream(Closed),
    await_seen(Config, <<"1 closed half 4000 x">>),
    await_seen(Config, <<"1 got 10 40960">>).

stream_that_ends_before_the_answer(Config) ->
    Ws = request(http2, port(Config), "/echo?until=never&as=ends", []),
    await_seen(Config, <<"1 websocket ends">>),
    hornbeam_test_websocket:end_stream(Ws),
    ?assertMatch({400, _}, answer(Ws)),
    await_seen(Config, <<"1 disconnect ends">>).

%% An extended CONNECT that says at once that nothing will come.
stream_without_a_body(Config) ->
    Socket = hornbeam_test_websocket:connect_http2(port(Config)),
    Ws = hornbeam_test_websocket:request_http2(Socket, "/echo?as=bodiless", [], fin),
    ?assertMatch({400, _}, answer(Ws)).

%% Pongs that are not read do not pile up: the client's own frames are not read then.
pings_at_a_client_that_does_not_read(Config) ->
    Ws = open(http2, port(Config), "/push?n=2000&size=16384&as=pings"),
    hornbeam_test_websocket:stop_reading(Ws),
    Before = erlang:memory(binary),
    Pings = binary:copy(frame({ping, binary:copy(<<"x">>, 125)}), 1000),
    Sent = ping_flood(Ws, Pings, 0, 100 * ?MIB),
    ?assert(Sent < 32 * ?MIB),
    ?assert(erlang:memory(binary) - Before < 32 * ?MIB),
    hornbeam_test_websocket:close(Ws).

%%% Time

%% The server asks whether the client is there, and answers do not reach the application.
pings_of_the_server(Config) ->
    %% It is open for the server before the client knows.
    SinceMs = erlang:monotonic_time(millisecond),
    Ws = open(driver(Config), port(Config), "/echo?as=asked"),
    [
        begin
            ?assertEqual({ping, <<>>}, recv(Ws)),
            send(Ws, {pong, <<>>})
        end
     || _ <- lists:seq(1, 4)
    ],
    TookMs = erlang:monotonic_time(millisecond) - SinceMs,
    ?assert(TookMs >= 400 andalso TookMs < 2000),
    close_well(Ws).

%% A client that says nothing, not even when it is asked, and one that stops amid a frame.
nothing_received(Config) ->
    [
        begin
            OpenedMs = erlang:monotonic_time(millisecond),
            Ws = open(driver(Config), port(Config), ["/echo?as=", Name]),
            SentMs = erlang:monotonic_time(millisecond),
            send_bytes(Ws, Bytes),
            Frames = until_closed(Ws),
            ?assertMatch({close, 1001, _}, lists:last(Frames)),
            SinceMs = case Bytes of
                <<>> -> OpenedMs;
                _ -> SentMs
            end,
            ?assert(erlang:monotonic_time(millisecond) - SinceMs >= 400),
            hornbeam_test_websocket:close(Ws),
            await_seen(Config, iolist_to_binary(
                ["1 closed ", Name, " 1006 nothing was received in time"]))
        end
     || {Name, Bytes} <- [{"silent", <<>>},
                          {"half", binary:part(frame({text, <<"half">>}), 0, 8)}]
    ].

pongs_keep_it_open(Config) ->
    Ws = open(driver(Config), port(Config), "/echo?as=kept"),
    DeadlineMs = erlang:monotonic_time(millisecond) + 1000,
    answer_pings(Ws, DeadlineMs),
    close_well(Ws).

%% The time in which the socket is not read does not count.
slow_application_is_not_the_clients_fault(Config) ->
    Ws = open(driver(Config), port(Config), "/stall?until=slow&as=slow"),
    {text, <<"open">>} = recv(Ws),
    send(Ws, {text, binary:copy(<<"x">>, 5000)}),
    Frames = frames_for(Ws, 900),
    ?assertEqual([], [Frame || Frame <- Frames, Frame =/= {ping, <<>>}]),
    release(Config, "slow"),
    close_well(Ws).

no_answer_in_time(Config) ->
    Ws = request(driver(Config), port(Config), "/echo?until=never&as=late", []),
    ?assertMatch({504, _}, answer(Ws)),
    await_seen(Config, <<"1 cancel late">>).

%% Neither `timeout', nor `keepalive', nor `header_timeout' is for what is open.
open_longer_than_timeouts(Config) ->
    Ws = open(driver(Config), port(Config), "/echo?as=long"),
    answer_pings(Ws, erlang:monotonic_time(millisecond) + 2500),
    close_well(Ws).

%%% Clients that do not read

%% `send_timeout' gives it up, as it does with a response.
client_that_takes_nothing(Config) ->
    Ws = request(driver(Config), port(Config), "/push?n=32000&size=16384&as=taker", []),
    _ = driver(Config) =:= http2 andalso hornbeam_test_websocket:stop_reading(Ws),
    {_, _} = answer(Ws),
    await_seen(Config, <<"1 closed taker 1006 ">>).

%% The close frame can't be sent: it is given up.
close_without_a_window(Config) ->
    Ws = without_window(Config, "/close?code=1000&as=windowless"),
    ?assertEqual({reset, internal_error}, recv(Ws)),
    await_seen(Config, <<"1 closed windowless 1006 ">>).

%% The application knows at once; the answer goes out when there is a window for it.
answer_without_a_window(Config) ->
    Ws = without_window(Config, "/push?n=1&size=10&as=answer"),
    send(Ws, {close, 4000, <<>>}),
    await_seen(Config, <<"1 closed answer 4000 ">>),
    ok = hornbeam_test_websocket:give_window(Ws, 1000),
    ?assertMatch({binary, _}, recv(Ws)),
    ?assertEqual({close, 4000, <<>>}, recv(Ws)),
    ?assert(closes(Ws)).

%% An end without a frame needs no window.
end_without_a_window(Config) ->
    Ws = without_window(Config, "/close?code=1000&as=nothing"),
    %% All that is said: a message of 6 bytes and the close frame, with their heads.
    ok = hornbeam_test_websocket:give_window(Ws, 2 + 6 + 2 + 2),
    ?assertEqual({text, <<"before">>}, recv(Ws)),
    ?assertEqual({close, 1000, <<>>}, recv(Ws)),
    send(Ws, {close, 1000, <<>>}),
    ?assert(closes(Ws)),
    await_seen(Config, <<"1 closed nothing 1000 ">>).

%%% Queue

queued_handshake(Config) ->
    First = open(http1, port(Config), "/echo"),
    Second = request(http1, port(Config), "/echo?as=second", []),
    until(fun() -> maps:get(queue, hornbeam:info()) =:= 1 end),
    send(Second, {text, <<"early">>}),
    close_well(First),
    {101, _} = answer(Second),
    ?assertEqual({text, <<"early">>}, recv(Second)),
    close_well(Second).

client_goes_in_the_queue(Config) ->
    First = open(http1, port(Config), "/echo"),
    Second = request(http1, port(Config), "/echo?as=leaver", []),
    until(fun() -> maps:get(queue, hornbeam:info()) =:= 1 end),
    hornbeam_test_websocket:close(Second),
    until(fun() -> maps:get(queue, hornbeam:info()) =:= 0 end),
    close_well(First),
    ?assertNot(lists:member(<<"1 websocket leaver">>, seen(Config))).

queue_timeout(Config) ->
    First = open(http1, port(Config), "/echo"),
    Second = request(http1, port(Config), "/echo", []),
    {503, Headers} = answer(Second),
    ?assertEqual(<<"1">>, header(<<"retry-after">>, Headers)),
    close_well(First).

%%% Compression

%% Where both want it.
compressed(Config) ->
    Offer = {<<"Sec-WebSocket-Extensions">>, <<"permessage-deflate">>},
    Ws = request(http1, port(Config), "/echo", [Offer]),
    {101, Headers} = answer(Ws),
    ?assertMatch(<<"permessage-deflate", _/binary>>,
                 header(<<"sec-websocket-extensions">>, Headers)),
    Text = binary:copy(<<"hornbeam ">>, 1000),
    send_bytes(Ws, frame(1, 4, 1, deflated(Text))),
    {compressed, 1, Data} = recv(Ws),
    ?assert(byte_size(Data) < byte_size(Text) div 10),
    ?assertEqual(Text, inflated(Data)),
    close_well(Ws).

not_compressed(Config) ->
    Ws = open(http1, port(Config), "/echo"),
    Text = binary:copy(<<"hornbeam ">>, 1000),
    send(Ws, {text, Text}),
    ?assertEqual({text, Text}, recv(Ws)),
    close_well(Ws).

%%% Stop

%% Clients and applications are told, and nobody waits for `shutdown_timeout'.
stop_closes_all(Config0) ->
    Config = hornbeam_test_server:new_folder(Config0),
    Port = hornbeam_test_server:start(Config, #{heartbeat => 20, shutdown_timeout => 30000}),
    All = [open(Driver, Port, "/echo?as=stopped") || Driver <- [http1, http2],
                                                     _ <- lists:seq(1, 50)],
    Stopper = spawn_monitor(fun() -> ok = hornbeam:stop() end),
    SinceMs = erlang:monotonic_time(millisecond),
    [
        begin
            ?assertEqual({close, 1001, <<"the server is going away">>}, recv(Ws)),
            send(Ws, {close, 1001, <<>>}),
            ?assert(closes(Ws)),
            hornbeam_test_websocket:close(Ws)
        end
     || Ws <- All
    ],
    await_stopped(Stopper),
    ?assert(erlang:monotonic_time(millisecond) - SinceMs < 5000),
    ?assertEqual(100, count(<<"1 closed stopped 1001 the server is going away">>, Config)).

%% One that does not answer has its bounded time.
stop_waits_for_no_client(Config0) ->
    Config = hornbeam_test_server:new_folder(Config0),
    Port = hornbeam_test_server:start(Config, #{heartbeat => 20, shutdown_timeout => 30000}),
    _ = [open(Driver, Port, "/echo?as=deaf") || Driver <- [http1, http2]],
    SinceMs = erlang:monotonic_time(millisecond),
    await_stopped(spawn_monitor(fun() -> ok = hornbeam:stop() end)),
    TookMs = erlang:monotonic_time(millisecond) - SinceMs,
    ?assert(TookMs < ?CLOSE_TIMEOUT_MS + 5000),
    ?assertEqual(2, count(<<"1 closed deaf 1001 the server is going away">>, Config)).

%% It finishes as a request does, and is closed as soon as it is open.
stop_during_a_handshake(Config0) ->
    Config = hornbeam_test_server:new_folder(Config0),
    Port = hornbeam_test_server:start(Config, #{heartbeat => 20}),
    All = [request(Driver, Port, "/echo?until=pending&as=pending", []) || Driver <- [http1, http2]],
    until(fun() -> count(<<"1 websocket pending">>, Config) =:= 2 end),
    Stopper = spawn_monitor(fun() -> ok = hornbeam:stop() end),
    until(fun() -> hornbeam_selection:is_stopping(default) end),
    release(Config, "pending"),
    [
        begin
            {_, _} = answer(Ws),
            ?assertMatch({close, 1001, _}, recv(Ws)),
            send(Ws, {close, 1001, <<>>}),
            ?assert(closes(Ws)),
            hornbeam_test_websocket:close(Ws)
        end
     || Ws <- All
    ],
    await_stopped(Stopper),
    ?assertEqual(2, count(<<"1 closed pending 1001 the server is going away">>, Config)).

%% Internal.

port(Config) ->
    proplists:get_value(port, Config).

driver(Config) ->
    proplists:get_value(driver, Config).

header(Name, Headers) ->
    proplists:get_value(Name, Headers).

attached(Config, Target) ->
    Ws = open(driver(Config), port(Config), Target),
    ?assertEqual({text, <<"('ok', True)">>}, recv(Ws)),
    Ws.

%% The server may send no byte on a stream.
without_window(Config, Target) ->
    Socket = hornbeam_test_websocket:connect_http2(port(Config), #{initial_window_size => 0}),
    Ws = hornbeam_test_websocket:request_http2(Socket, Target, []),
    {200, _} = answer(Ws),
    hornbeam_test_websocket:stop_reading(Ws),
    Ws.

%% The client ends it, and the server agrees.
close_well(Ws) ->
    send(Ws, {close, 1000, <<>>}),
    ?assertEqual({close, 1000, <<>>}, lists:last(until_closed(Ws))),
    hornbeam_test_websocket:close(Ws).

until_close_frame(Ws) ->
    case recv(Ws) of
        {close, _, _} = Close -> [Close];
        Frame -> [Frame | until_close_frame(Ws)]
    end.

until_closed(Ws) ->
    case recv(Ws) of
        closed -> [];
        {reset, no_error} -> [];
        Frame when is_tuple(Frame); Frame =:= close -> [Frame | until_closed(Ws)]
    end.

count(Line, Config) ->
    length([Each || Each <- seen(Config), Each =:= Line]).

is_ready() ->
    case hornbeam:info() of
        #{workers := [#{state := ready}]} -> true;
        _ -> false
    end.

connection_pids() ->
    [Pid || Ref <- maps:keys(ranch:info()), Pid <- ranch:procs(Ref, connections)].

%% How far the fake worker is, once it has got so many messages and gets no further.
settled_progress(Count, Config) ->
    settled(until(fun() ->
        case progress(Config) of
            {Got, _} = Progress when Got >= Count -> Progress;
            _ -> undefined
        end
    end), 0, Config).

settled(Progress, 60, _) ->
    Progress;
settled(Progress, Times, Config) ->
    receive after 5 -> ok end,
    case progress(Config) of
        Progress -> settled(Progress, Times + 1, Config);
        Other -> settled(Other, 0, Config)
    end.

progress(Config) ->
    case file:read_file(filename:join(proplists:get_value(folder, Config), "progress")) of
        {ok, Text} ->
            [Messages, Bytes] = binary:split(Text, <<" ">>),
            {binary_to_integer(Messages), binary_to_integer(Bytes)};
        {error, enoent} ->
            undefined
    end.

%% Frames until no more is taken; how many.
flood(_, _, Count, Count) ->
    Count;
flood(Ws = {http1, Socket}, Frame, Count, Max) ->
    ok = inet:setopts(Socket, [{send_timeout, 300}]),
    case gen_tcp:send(Socket, Frame) of
        ok -> flood(Ws, Frame, Count + 1, Max);
        %% It stays in the driver's queue, and goes out later.
        {error, timeout} -> Count
    end;
flood(Ws, Frame, Count, Max) ->
    case hornbeam_test_websocket:try_send_bytes(Ws, Frame) of
        ok ->
            flood(Ws, Frame, Count + 1, Max);
        {blocked, Rest} ->
            case hornbeam_test_websocket:read_more(Ws, 300) of
                timeout -> put(rest, Rest), Count;
                ok -> send_bytes(Ws, Rest), flood(Ws, Frame, Count + 1, Max)
            end
    end.

finish_flood({http1, Socket}) ->
    ok = inet:setopts(Socket, [{send_timeout, infinity}]);
finish_flood(Ws) ->
    send_bytes(Ws, erase(rest)).

%% The socket's buffers are not what holds an HTTP/2 server back.
read_all(Ws) ->
    case hornbeam_test_websocket:read_more(Ws, 300) of
        ok -> read_all(Ws);
        timeout -> ok
    end.

ping_flood(_, _, Sent, Max) when Sent >= Max ->
    Sent;
ping_flood(Ws, Pings, Sent, Max) ->
    case hornbeam_test_websocket:try_send_bytes(Ws, Pings) of
        ok ->
            ping_flood(Ws, Pings, Sent + byte_size(Pings), Max);
        {blocked, Rest} ->
            case hornbeam_test_websocket:read_more(Ws, 300) of
                timeout -> Sent + byte_size(Pings) - byte_size(Rest);
                ok -> ping_flood(Ws, Rest, Sent + byte_size(Pings) - byte_size(Rest), Max)
            end
    end.

answer_pings(Ws, DeadlineMs) ->
    case erlang:monotonic_time(millisecond) < DeadlineMs of
        true ->
            ?assertEqual({ping, <<>>}, recv(Ws)),
            send(Ws, {pong, <<>>}),
            answer_pings(Ws, DeadlineMs);
        false ->
            ok
    end.

%% What comes in so much time.
frames_for(Ws, TimeMs) ->
    frames_until(Ws, erlang:monotonic_time(millisecond) + TimeMs).

frames_until(Ws, DeadlineMs) ->
    case DeadlineMs - erlang:monotonic_time(millisecond) of
        LeftMs when LeftMs > 0 ->
            case hornbeam_test_websocket:recv(Ws, LeftMs) of
                timeout -> [];
                Frame -> [Frame | frames_until(Ws, DeadlineMs)]
            end;
        _ ->
            []
    end.

await_stopped({Pid, Monitor}) ->
    receive {'DOWN', Monitor, process, Pid, Reason} -> ?assertEqual(normal, Reason) end.

unchunked(Bytes) ->
    case binary:split(Bytes, <<"\r\n">>) of
        [<<"0">>, _] -> <<>>;
        [Size, Rest] ->
            Length = binary_to_integer(Size, 16),
            <<Chunk:Length/binary, "\r\n", More/binary>> = Rest,
            <<Chunk/binary, (unchunked(More))/binary>>
    end.

deflated(Text) ->
    Zlib = zlib:open(),
    ok = zlib:deflateInit(Zlib, default, deflated, -15, 8, default),
    Data = iolist_to_binary(zlib:deflate(Zlib, Text, sync)),
    ok = zlib:close(Zlib),
    binary:part(Data, 0, byte_size(Data) - 4).

inflated(Data) ->
    Zlib = zlib:open(),
    ok = zlib:inflateInit(Zlib, -15),
    Text = iolist_to_binary(zlib:inflate(Zlib, [Data, <<0, 0, 255, 255>>])),
    ok = zlib:close(Zlib),
    Text.
