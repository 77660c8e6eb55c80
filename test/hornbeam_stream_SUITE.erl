%% SPDX-License-Identifier: Apache-2.0
%% HTTP/1 as clients see it, with one fake worker behind it.
-module(hornbeam_stream_SUITE).

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

-export([date_and_server_once/1]).
-export([repeated_headers/1]).
-export([statuses/1]).
-export([head/1]).
-export([responses_without_a_body/1]).
-export([streamed/1]).
-export([streamed_with_a_length/1]).
-export([http_1_0/1]).
-export([connection_is_kept_or_closed/1]).
-export([scope_of_a_request/1]).
-export([targets/1]).
-export([pipelined_in_order/1]).
-export([pipelined_to_the_limit/1]).
-export([pipelined_over_the_limit/1]).
-export([pipelined_bodies/1]).
-export([chunked_body/1]).
-export([nothing_behind_a_chunked_body/1]).
-export([flood_behind_a_chunked_body/1]).
-export([bad_chunks/1]).
-export([bad_chunks_after_the_start/1]).
-export([responses_to_chunked_requests/1]).
-export([large_chunked_body/1]).
-export([chunked_body_that_nobody_takes/1]).
-export([chunked_client_leaves/1]).
-export([chunked_request_of_a_crash/1]).
-export([chunked_behind_another/1]).
-export([continue_when_the_application_waits/1]).
-export([no_continue_without_waiting/1]).
-export([no_continue_after_the_head/1]).
-export([no_continue_for_old_clients/1]).
-export([malformed_requests/1]).
-export([malformed_behind_a_running_request/1]).
-export([client_leaves/1]).
-export([client_leaves_a_stream/1]).
-export([connection_process_killed/1]).
-export([application_goes_on_after_the_response/1]).
-export([aborted/1]).
-export([one_response_only/1]).
-export([informational/1]).
-export([trailers/1]).
-export([reader_that_waits/1]).
-export([upload_that_nobody_takes/1]).
-export([reads_of_a_connection/1]).
-export([upload_in_parts/1]).
-export([answer_before_the_body/1]).
-export([answer_before_a_body_that_drips/1]).
-export([answer_before_a_large_body/1]).
-export([answer_before_a_chunked_body/1]).
-export([request_line_at_its_limit/1]).
-export([header_section_at_its_limit/1]).
-export([number_of_headers_at_its_limit/1]).
-export([body_at_its_limit/1]).
-export([chunked_body_at_its_limit/1]).
-export([body_too_large_after_the_start/1]).
-export([body_without_progress/1]).
-export([body_with_progress/1]).
-export([chunk_size_that_is_none/1]).
-export([no_answer_in_time/1]).
-export([late_answer/1]).
-export([pipelined_time_is_its_own/1]).
-export([reader_that_takes_nothing/1]).
-export([no_date_no_server/1]).

%% The limits of group `limits'.
-define(MAX_LINE, 100).
-define(MAX_HEADERS_SIZE, 200).
-define(MAX_HEADERS, 5).
-define(MAX_BODY, 1000).
%% As in hornbeam_pipeline and hornbeam_listener.
-define(MAX_PIPELINED, 64).
-define(MAX_SKIPPED, 1048576).
-define(BURST, (16 * 16384)).
-define(WINDOW, 65536).
%% What an upload may pile up beyond its window.
-define(MAX_PILED_UP, 1048576).

-import(hornbeam_test_client, [
    connect/1, send/2, get/2, get/3, request/2, exchange/2, response/1, response/2, values/2,
    rest/1, is_closed/1, close/1
]).
-import(hornbeam_test_server, [release/2, await_seen/2, seen/1]).
-import(hornbeam_test_wait, [until/1]).

suite() ->
    [{timetrap, {seconds, 60}}].

%% Usual requests are served by hornbeam_http1, others by way of Cowboy: it is the same for clients,
%% but for what comes behind a request that runs.
all() ->
    [{group, usual}, {group, cowboy}].

groups() ->
    Both = [{group, common}, {group, limits}, {group, body_times}, {group, times}, {group, plain}],
    [
        {usual, [], Both},
        {cowboy, [], [{group, behind} | Both]},
        {common, [], [
            date_and_server_once,
            repeated_headers,
            statuses,
            head,
            responses_without_a_body,
            streamed,
            streamed_with_a_length,
            http_1_0,
            connection_is_kept_or_closed,
            scope_of_a_request,
            targets,
            pipelined_in_order,
            pipelined_to_the_limit,
            pipelined_bodies,
            chunked_body,
            nothing_behind_a_chunked_body,
            flood_behind_a_chunked_body,
            bad_chunks,
            bad_chunks_after_the_start,
            responses_to_chunked_requests,
            large_chunked_body,
            chunked_body_that_nobody_takes,
            chunked_client_leaves,
            chunked_request_of_a_crash,
            continue_when_the_application_waits,
            no_continue_without_waiting,
            no_continue_after_the_head,
            no_continue_for_old_clients,
            malformed_requests,
            client_leaves,
            client_leaves_a_stream,
            connection_process_killed,
            application_goes_on_after_the_response,
            aborted,
            one_response_only,
            informational,
            trailers,
            reader_that_waits,
            upload_that_nobody_takes,
            reads_of_a_connection,
            upload_in_parts,
            answer_before_the_body,
            answer_before_a_large_body,
            answer_before_a_chunked_body
        ]},
        {behind, [], [
            pipelined_over_the_limit,
            chunked_behind_another,
            malformed_behind_a_running_request
        ]},
        {limits, [], [
            request_line_at_its_limit,
            header_section_at_its_limit,
            number_of_headers_at_its_limit,
            body_at_its_limit,
            chunked_body_at_its_limit,
            body_too_large_after_the_start
        ]},
        {body_times, [], [
            body_without_progress,
            body_with_progress,
            answer_before_a_body_that_drips,
            chunk_size_that_is_none
        ]},
        {times, [], [
            no_answer_in_time,
            late_answer,
            pipelined_time_is_its_own,
            reader_that_takes_nothing
        ]},
        {plain, [], [no_date_no_server]}
    ].

init_per_suite(Config) ->
    hornbeam_test_suite:start_node(Config).

end_per_suite(Config) ->
    hornbeam_test_suite:stop_node(Config).

init_per_group(Way, Config) when Way =:= usual; Way =:= cowboy ->
    ok = hornbeam_test_client:go_by(Way),
    Config;
init_per_group(Group, Config0) ->
    Config = hornbeam_test_server:new_folder(Config0),
    [{port, hornbeam_test_server:start(Config, options(Group))} | Config].

end_per_group(Way, _) when Way =:= usual; Way =:= cowboy ->
    hornbeam_test_client:go_by(usual);
end_per_group(_, _) ->
    ok = hornbeam:stop().

init_per_testcase(_, Config) ->
    ok = hornbeam_test_log:start(),
    Config.

%% No case leaves a request in the worker, or an error in the log that it did not ask for.
end_per_testcase(Case, _) ->
    IsFree = fun() ->
        maps:get(in_flight, hornbeam_test_server:worker_info(default, 1)) =:= 0
    end,
    try until(IsFree) of
        true -> check_log(Case)
    catch
        error:Reason -> {fail, {in_flight, Reason}}
    end.

check_log(Case) ->
    Noisy = [connection_process_killed, chunked_behind_another, chunked_request_of_a_crash],
    case lists:member(Case, Noisy) orelse hornbeam_test_log:at_least(warning) of
        true -> ok;
        [] -> ok;
        Noise -> {fail, {logged, Noise}}
    end.

options(Group) when Group =:= common; Group =:= behind ->
    #{heartbeat => 20};
options(limits) ->
    #{max_request_line_size => ?MAX_LINE, max_header_size => ?MAX_HEADERS_SIZE,
      max_headers => ?MAX_HEADERS, max_body => ?MAX_BODY};
options(times) ->
    #{heartbeat => 20, timeout => 300, send_timeout => 300};
%% The time of a body begins when the application asks for it, which `timeout' must not outrun.
options(body_times) ->
    #{heartbeat => 20, body_timeout => 200};
options(plain) ->
    #{server_header => false, date_header => false}.

%% The headers of the server are there once, also when the application sets them.
date_and_server_once(Config) ->
    Ours = request(port(Config), "/hello"),
    ?assertMatch(#{status := 200, body := <<"hello from 1">>, ended := complete}, Ours),
    ?assertMatch([<<_, _/binary>>], values(<<"date">>, Ours)),
    ?assertEqual([<<"hornbeam">>], values(<<"server">>, Ours)),
    ?assertEqual([<<"12">>], values(<<"content-length">>, Ours)),
    Streamed = request(port(Config), "/stream?n=1&size=1&h=date:then&h=server:mine"),
    Whole = request(port(Config), "/whole?h=date:then&h=server:mine"),
    [
        begin
            ?assertEqual([<<"then">>], values(<<"date">>, Response)),
            ?assertEqual([<<"mine">>], values(<<"server">>, Response))
        end
     || Response <- [Whole, Streamed]
    ].

%% Each line of the application is a line, in its order.
repeated_headers(Config) ->
    Query = "h=link:a&h=set-cookie:x%3D1&h=link:b&h=set-cookie:y%3D2&h=x-one:1&h=link:c",
    [
        begin
            Response = request(port(Config), [Path, Query]),
            ?assertEqual([<<"a">>, <<"b">>, <<"c">>], values(<<"link">>, Response)),
            ?assertEqual([<<"x=1">>, <<"y=2">>], values(<<"set-cookie">>, Response)),
            ?assertEqual([<<"1">>], values(<<"x-one">>, Response))
        end
     || Path <- ["/whole?", "/stream?n=1&size=1&"]
    ].

%% Any number of three digits, registered or not.
statuses(Config) ->
    [
        begin
            Target = ["/whole?body=x&status=", integer_to_list(Status)],
            ?assertMatch(#{status := Status, body := <<"x">>}, request(port(Config), Target))
        end
     || Status <- [200, 299, 404, 418, 499, 500, 599, 999]
    ].

%% The headers of GET without the body, and the connection goes on.
head(Config) ->
    Socket = connect(port(Config)),
    Targets = ["/hello", "/stream?n=3&size=5", "/whole?size=7", "/inform", "/trailers"],
    [
        begin
            send(Socket, ["HEAD ", Target, " HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n"]),
            Response = case response(Socket, <<"HEAD">>) of
                #{status := 103} -> response(Socket, <<"HEAD">>);
                Final -> Final
            end,
            ?assertMatch(#{status := 200}, Response)
        end
     || Target <- Targets
    ],
    get(Socket, "/hello"),
    ?assertMatch(#{status := 200, body := <<"hello from 1">>}, response(Socket)),
    Sized = exchange_as(<<"HEAD">>, Config, "HEAD /whole?size=7 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ?assertEqual([<<"7">>], values(<<"content-length">>, Sized)).

%% 204 and 304 end with their headers; what follows on the connection is the next response.
responses_without_a_body(Config) ->
    Socket = connect(port(Config)),
    [
        begin
            get(Socket, [Path, "&status=", integer_to_list(Status)]),
            Response = response(Socket),
            ?assertMatch(#{status := Status, body := <<>>}, Response),
            ?assertEqual([], values(<<"transfer-encoding">>, Response)),
            Status =:= 204 andalso ?assertEqual([], values(<<"content-length">>, Response)),
            get(Socket, "/hello"),
            ?assertMatch(#{body := <<"hello from 1">>}, response(Socket))
        end
     || Status <- [204, 304],
        Path <- ["/whole?body=x", "/start?until=pids", "/start?until=pids&h=content-length:9",
                 "/trailers?x=y"]
    ].

%% Parts come as chunks, and arrive whole.
streamed(Config) ->
    Response = request(port(Config), "/stream?n=26&size=3000"),
    ?assertMatch(#{status := 200, ended := complete}, Response),
    ?assertEqual([<<"chunked">>], values(<<"transfer-encoding">>, Response)),
    Expected = << <<(binary:copy(<<C>>, 3000))/binary>> || C <- lists:seq($a, $z) >>,
    ?assertEqual(Expected, maps:get(body, Response)),
    ?assertMatch(#{body := <<>>, ended := complete}, request(port(Config), "/stream?n=0")).

%% A length that the application gives is used in place of chunks.
streamed_with_a_length(Config) ->
    Response = request(port(Config), "/stream?n=3&size=4&h=content-length:12"),
    ?assertMatch(#{body := <<"aaaabbbbcccc">>, ended := complete}, Response),
    ?assertEqual([], values(<<"transfer-encoding">>, Response)).

%% An old client gets no chunks, and a connection that closes unless it asks for another.
http_1_0(Config) ->
    Whole = exchange(port(Config), "GET /hello HTTP/1.0\r\n\r\n"),
    ?assertMatch(#{body := <<"hello from 1">>}, Whole),
    ?assertEqual([<<"close">>], values(<<"connection">>, Whole)),
    Streamed = exchange(port(Config), "GET /stream?n=3&size=4 HTTP/1.0\r\n\r\n"),
    ?assertMatch(#{body := <<"aaaabbbbcccc">>, ended := closed}, Streamed),
    ?assertEqual([], values(<<"transfer-encoding">>, Streamed)),
    Socket = connect(port(Config)),
    [
        begin
            send(Socket, "GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
            Kept = response(Socket),
            ?assertMatch(#{status := 200, body := <<"hello from 1">>}, Kept),
            ?assertEqual([<<"keep-alive">>], values(<<"connection">>, Kept))
        end
     || _ <- [1, 2]
    ].

%% A connection serves one request after another, until a side wants it to end.
connection_is_kept_or_closed(Config) ->
    Socket = connect(port(Config)),
    [
        begin
            get(Socket, "/hello"),
            ?assertEqual([], values(<<"connection">>, response(Socket)))
        end
     || _ <- [1, 2, 3]
    ],
    get(Socket, "/hello", "Connection: close\r\n"),
    ?assertEqual([<<"close">>], values(<<"connection">>, response(Socket))),
    ?assert(is_closed(Socket)),
    Other = connect(port(Config)),
    get(Other, "/whole?h=connection:close"),
    ?assertEqual([<<"close">>], values(<<"connection">>, response(Other))),
    ?assert(is_closed(Other)).

%% What was sent is what the application gets.
scope_of_a_request(Config) ->
    Socket = connect(port(Config)),
    {ok, {_, ClientPort}} = inet:sockname(Socket),
    send(Socket, "DELETE /scope?a=%20b&c HTTP/1.1\r\nHost: Example.org:80\r\n"
                 "X-Twice: 1\r\nx-twice:  2 \r\nCookie: a=1\r\nCookie: b=2\r\n\r\n"),
    #{body := Body} = response(Socket),
    [Method, Scheme, Version, Path, Query | Rest] = binary:split(Body, <<"\n">>, [global]),
    ?assertEqual([<<"DELETE">>, <<"http">>, <<"1.1">>, <<"/scope">>, <<"a=%20b&c">>],
                 [Method, Scheme, Version, Path, Query]),
    {Headers, [Client, Server]} = lists:split(length(Rest) - 2, Rest),
    ?assertEqual([<<"cookie: a=1; b=2">>, <<"host: Example.org:80">>, <<"x-twice: 1, 2">>],
                 lists:sort(Headers)),
    ?assertEqual(iolist_to_binary(io_lib:format("(b'127.0.0.1', ~b)", [ClientPort])), Client),
    ?assertEqual(iolist_to_binary(io_lib:format("(b'127.0.0.1', ~b)", [port(Config)])), Server).

%% Each form of the request target (RFC 9112 3.2).
targets(Config) ->
    Absolute = exchange(port(Config), "GET http://a:81/scope?x=1 HTTP/1.1\r\nHost: a:81\r\n\r\n"),
    ?assertMatch(<<"GET\nhttp\n1.1\n/scope\nx=1\n", _/binary>>, maps:get(body, Absolute)),
    Asterisk = exchange(port(Config), "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
    ?assertMatch(#{status := 200, body := <<"hello from 1">>}, Asterisk),
    await_seen(Config, <<"1 request *">>).

%% Responses come in the order of the requests, whatever they take.
pipelined_in_order(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/hold?until=pipelined_in_order"),
    [get(Socket, ["/whole?body=", Body]) || Body <- ["one", "two", "three"]],
    ?assertEqual({error, timeout}, gen_tcp:recv(Socket, 0, 50)),
    release(Config, "pipelined_in_order"),
    ?assertEqual(
        [<<"released">>, <<"one">>, <<"two">>, <<"three">>],
        [maps:get(body, response(Socket)) || _ <- lists:seq(1, 4)]
    ).

%% So many requests may wait behind the one that runs.
pipelined_to_the_limit(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/hold?until=pipelined_to_the_limit"),
    send(Socket, lists:duplicate(?MAX_PIPELINED, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")),
    release(Config, "pipelined_to_the_limit"),
    Responses = [response(Socket) || _ <- lists:seq(0, ?MAX_PIPELINED)],
    ?assert(lists:all(fun(#{status := Status}) -> Status =:= 200 end, Responses)).

%% One more, and the client is cut off; none of those that waited is served.
pipelined_over_the_limit(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/hold?until=never"),
    send(Socket, lists:duplicate(?MAX_PIPELINED + 1, "GET /abort HTTP/1.1\r\nHost: a\r\n\r\n")),
    ?assert(is_closed(Socket)),
    await_seen(Config, <<"1 disconnect /hold">>),
    ?assertNot(lists:member(<<"1 request /abort">>, seen(Config))).

%% A body that came while its request had to wait belongs to it.
pipelined_bodies(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/hold?until=pipelined_bodies"),
    Large = binary:copy(<<"0123456789">>, 30000),
    Sender = spawn_link(fun() ->
        post(Socket, "/echo", Large),
        post(Socket, "/echo", <<"small">>)
    end),
    Monitor = monitor(process, Sender),
    release(Config, "pipelined_bodies"),
    ?assertMatch(#{body := <<"released">>}, response(Socket)),
    ?assertMatch(#{body := Large}, response(Socket)),
    ?assertMatch(#{body := <<"small">>}, response(Socket)),
    receive {'DOWN', Monitor, process, Sender, Reason} -> ?assertEqual(normal, Reason) end.

%% Chunks are put together, whatever their sizes; the connection ends after it.
chunked_body(Config) ->
    Chunks = ["5\r\nhello\r\n", "A;ext=1\r\n, chunked \r\n", "5 \r\nworld\r\n", "0\r\n\r\n"],
    [
        begin
            Socket = connect(port(Config)),
            send(Socket, chunked_head("/echo")),
            [send(Socket, Part) || Part <- Parts],
            Response = response(Socket),
            ?assertMatch(#{status := 200, body := <<"hello, chunked world">>}, Response),
            ?assertEqual([<<"close">>], values(<<"connection">>, Response)),
            ?assert(is_closed(Socket))
        end
     || Parts <- [[Chunks], Chunks, [<<C>> || C <- lists:flatten(Chunks)]]
    ].

%% What stands behind a chunked body may be trailers, which are dropped, and is no request.
nothing_behind_a_chunked_body(Config) ->
    Smuggled = "GET /crash HTTP/1.1\r\nHost: a\r\n\r\n",
    [
        begin
            Socket = connect(port(Config)),
            send(Socket, [chunked_head("/echo"), "1\r\nx\r\n0\r\n", End, Smuggled]),
            ?assertMatch({End, #{status := Status}}, {End, response(Socket)}),
            ?assertEqual(<<>>, rest(Socket))
        end
     || {Status, End} <- [{200, "\r\n"}, {200, "X-Trailer: 1\r\n\r\n"}, {400, ""}]
    ],
    %% It also does not hold up, and is not held up by, one that takes its time.
    Held = connect(port(Config)),
    send(Held, [chunked_head("/hold?until=nothing_behind"), "0\r\n\r\n", Smuggled]),
    await_seen(Config, <<"1 body /hold 0 end">>),
    release(Config, "nothing_behind"),
    ?assertMatch(#{body := <<"released">>}, response(Held)),
    ?assertEqual(<<>>, rest(Held)),
    ?assertNot(lists:member(<<"1 request /crash">>, seen(Config))).

%% Nor can it be used to fill the node's memory.
flood_behind_a_chunked_body(Config) ->
    Socket = connect(port(Config)),
    send(Socket, [chunked_head("/hold?until=flooded"), "0\r\n\r\n"]),
    await_seen(Config, <<"1 body /hold 0 end">>),
    Many = lists:duplicate(?MAX_PIPELINED + 2, "GET /crash HTTP/1.1\r\nHost: a\r\n\r\n"),
    [send(Socket, Many) || _ <- lists:seq(1, 100)],
    Connections = [Pid || Ref <- maps:keys(ranch:info()), Pid <- ranch:procs(Ref, connections)],
    Sizes = [Bytes || Pid <- Connections, {memory, Bytes} <- [process_info(Pid, memory)]],
    ?assert(lists:max(Sizes) < 1048576),
    release(Config, "flooded"),
    ?assertMatch(#{body := <<"released">>}, response(Socket)),
    ?assertEqual(<<>>, rest(Socket)),
    ?assertNot(lists:member(<<"1 request /crash">>, seen(Config))).

%% Chunks that make no sense: refused, and the application learns that nothing more comes.
bad_chunks(Config) ->
    [
        begin
            Socket = connect(port(Config)),
            send(Socket, [chunked_head("/echo"), "1\r\nx\r\n"]),
            await_seen_bodies(Config),
            send(Socket, Chunk),
            Response = response(Socket),
            ?assertMatch({Chunk, #{status := 400}}, {Chunk, Response}),
            ?assertEqual([<<"close">>], values(<<"connection">>, Response)),
            ?assertMatch([_], values(<<"date">>, Response)),
            ?assert(is_closed(Socket)),
            ok = file:delete(filename:join(proplists:get_value(folder, Config), "seen"))
        end
     || Chunk <- ["5x\r\nhello\r\n", "3\r\nhello\r\n0\r\n\r\n", "1\rx\r\n",
                  ["1;", lists:duplicate(2000, $e), "\r\nx\r\n"]]
    ].

%% A response that has begun breaks off.
bad_chunks_after_the_start(Config) ->
    Socket = connect(port(Config)),
    send(Socket, [chunked_head("/start?until=never"), "1\r\nx\r\n"]),
    {200, _} = hornbeam_test_client:head(Socket),
    send(Socket, "zz\r\n"),
    ?assertEqual(<<"5\r\nfirst\r\n">>, rest(Socket)),
    await_seen(Config, <<"1 disconnect /start">>).

%% Each kind of response is the same as to any other request, but for the end of the connection.
responses_to_chunked_requests(Config) ->
    Responses = [
        {"POST", "/hello", <<"hello from 1">>, complete},
        {"POST", "/stream?n=3&size=2", <<"aabbcc">>, complete},
        {"POST", "/stream?n=0", <<>>, complete},
        {"POST", "/stream?n=3&size=2&h=content-length:6", <<"aabbcc">>, complete},
        {"POST", "/start?until=pids", <<"firstlast">>, complete},
        {"POST", "/start?until=pids&last=", <<"first">>, complete},
        {"POST", "/start?until=pids&status=204", <<>>, complete},
        {"POST", "/whole?status=304&body=x", <<>>, complete},
        {"POST", "/trailers", <<"body">>, {trailers, [<<"digest: abc">>]}},
        {"POST", "/trailers?status=204", <<>>, complete},
        {"POST", "/abort", <<"Internal Server Error\n">>, complete},
        {"POST", "/abort?start", <<"first">>, cut},
        {"HEAD", "/hello", <<>>, complete},
        {"HEAD", "/stream?n=3&size=2", <<>>, complete},
        {"HEAD", "/trailers", <<>>, complete}
    ],
    [
        begin
            Socket = connect(port(Config)),
            send(Socket, [Method, " ", Target, " HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n"
                          "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"]),
            Response = response(Socket, list_to_binary(Method)),
            ?assertMatch({Target, #{body := Body, ended := End}}, {Target, Response}),
            ?assertEqual([<<"close">>], values(<<"connection">>, Response)),
            ?assertMatch([_], values(<<"date">>, Response)),
            ?assert(is_closed(Socket))
        end
     || {Method, Target, Body, End} <- Responses
    ],
    Without = exchange(port(Config), [chunked_head("/trailers"), "0\r\n\r\n"]),
    ?assertMatch(#{body := <<"body">>, ended := complete}, Without),
    ?assertEqual([], values(<<"trailer">>, Without)),
    Cookies = exchange(port(Config), [
        chunked_head("/stream?n=1&h=set-cookie:x%3D1&h=link:a&h=set-cookie:y%3D2&h=link:b"),
        "0\r\n\r\n"
    ]),
    ?assertEqual([<<"x=1">>, <<"y=2">>], values(<<"set-cookie">>, Cookies)),
    ?assertEqual([<<"a">>, <<"b">>], values(<<"link">>, Cookies)),
    Hinted = connect(port(Config)),
    send(Hinted, [chunked_head("/inform"), "0\r\n\r\n"]),
    ?assertMatch({103, [_]}, hornbeam_test_client:head(Hinted)),
    ?assertMatch(#{status := 200, body := <<"hello">>}, response(Hinted)),
    Expecting = connect(port(Config)),
    send(Expecting, "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
                    "Expect: 100-continue\r\n\r\n"),
    ?assertMatch({100, []}, hornbeam_test_client:head(Expecting)),
    send(Expecting, "5\r\nhello\r\n0\r\n\r\n"),
    ?assertMatch(#{status := 200, body := <<"hello">>}, response(Expecting)).

%% Its parts follow what the application takes.
large_chunked_body(Config) ->
    Body = rand:bytes(3000000),
    Socket = connect(port(Config)),
    Sender = spawn_link(fun() ->
        send(Socket, chunked_head("/echo")),
        [send(Socket, ["186A0\r\n", binary:part(Body, At * 100000, 100000), "\r\n"])
         || At <- lists:seq(0, 29)],
        send(Socket, "0\r\n\r\n")
    end),
    ?assertMatch(#{status := 200, body := Body}, response(Socket)),
    until(fun() -> not is_process_alive(Sender) end).

%% No more of it comes than of any other.
chunked_body_that_nobody_takes(Config) ->
    Socket = connect(port(Config)),
    ok = inet:setopts(Socket, [{send_timeout, 300}]),
    send(Socket, chunked_head("/ignore?until=chunked_nobody")),
    Chunk = ["10000\r\n", binary:copy(<<"x">>, 65536), "\r\n"],
    ?assertEqual({error, timeout}, send_until_full(Socket, Chunk)),
    release(Config, "chunked_nobody"),
    #{status := 200, body := Taken} = response(Socket),
    ?assert(binary_to_integer(Taken) =< ?WINDOW + ?BURST).

%% In the middle of its body, and while it waits for the response.
chunked_client_leaves(Config) ->
    [
        begin
            Socket = connect(port(Config)),
            send(Socket, [chunked_head("/hold?until=never"), "1\r\nx\r\n", End]),
            await_seen(Config, <<"1 request /hold">>),
            close(Socket),
            await_seen(Config, <<"1 disconnect /hold">>),
            ok = file:delete(filename:join(proplists:get_value(folder, Config), "seen"))
        end
     || End <- ["", "0\r\n\r\n"]
    ].

%% It is told like others.
chunked_request_of_a_crash(Config) ->
    Response = exchange(port(Config), [chunked_head("/crash_once"), "1\r\nx\r\n0\r\n\r\n"]),
    ?assertMatch(#{status := 502}, Response),
    ?assertMatch(#{status := 200}, request(port(Config), "/hello")).

%% A chunked request behind one that runs ends the connection rather than being misread.
chunked_behind_another(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/hold?until=never"),
    await_seen(Config, <<"1 request /hold">>),
    send(Socket, [chunked_head("/abort"), "1\r\nx\r\n0\r\n\r\n"]),
    ?assert(is_closed(Socket)),
    await_seen(Config, <<"1 disconnect /hold">>).

%% 100 Continue goes out when the application asks for the body, and not before.
continue_when_the_application_waits(Config) ->
    [
        begin
            Socket = connect(port(Config)),
            send(Socket, ["POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: ", Expect,
                          "\r\n\r\n"]),
            ?assertMatch({100, []}, hornbeam_test_client:head(Socket)),
            send(Socket, "hello"),
            Response = response(Socket),
            ?assertMatch(#{status := 200, body := <<"hello">>}, Response),
            ?assertEqual([], values(<<"connection">>, Response))
        end
     || Expect <- ["100-continue", "100-Continue"]
    ],
    %% Who has sent the body already needs no answer to that.
    Eager = exchange(port(Config), "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
                                   "Expect: 100-continue\r\n\r\nhello"),
    ?assertMatch(#{status := 200, body := <<"hello">>}, Eager).

%% An application that wants no body answers at once; what then comes could be either, so the
%% connection ends.
no_continue_without_waiting(Config) ->
    Socket = connect(port(Config)),
    send(Socket, "POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
                 "Expect: 100-continue\r\n\r\n"),
    Response = response(Socket),
    ?assertMatch(#{status := 200}, Response),
    ?assertEqual([<<"close">>], values(<<"connection">>, Response)),
    ?assert(is_closed(Socket)).

%% An application that reads only after it has begun to answer cannot ask any more.
no_continue_after_the_head(Config) ->
    Socket = connect(port(Config)),
    send(Socket, "POST /start?wait&until=no_continue HTTP/1.1\r\nHost: a\r\n"
                 "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"),
    {200, Headers} = hornbeam_test_client:head(Socket),
    ?assert(lists:member({<<"connection">>, <<"close">>}, Headers)),
    release(Config, "no_continue"),
    ?assertEqual(<<"5\r\nfirst\r\n4\r\nlast\r\n0\r\n\r\n">>, rest(Socket)).

%% HTTP/1.0 does not know it (RFC 9110 10.1.1).
no_continue_for_old_clients(Config) ->
    Socket = connect(port(Config)),
    send(Socket, "POST /echo HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"),
    send(Socket, "hello"),
    ?assertMatch(#{status := 200, body := <<"hello">>}, response(Socket)).

%% Whatever could be understood in two ways is refused; the connection ends.
malformed_requests(Config) ->
    Get = "GET /crash HTTP/1.1\r\n",
    Post = "POST /crash HTTP/1.1\r\nHost: a\r\n",
    Requests = [
        {400, [Get, "\r\n"]},
        {400, [Get, "Host: a\r\nHost: a\r\n\r\n"]},
        {400, [Get, "Host: a\r\nHost: b\r\n\r\n"]},
        {400, [Get, "Host: a b\r\n\r\n"]},
        {400, [Get, "Host: a/b\r\n\r\n"]},
        {400, [Get, "Host: u@a\r\n\r\n"]},
        {400, [Get, "Host: a:x\r\n\r\n"]},
        {400, [Get, "Host: a:+80\r\n\r\n"]},
        {400, [Get, "Host: a:99999\r\n\r\n"]},
        {400, "GET http://b/crash HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, [Post, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"]},
        {400, [Post, "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n"]},
        {400, [Post, "Transfer-Encoding: gzip\r\n\r\n"]},
        {400, [Post, "Transfer-Encoding: gzip, chunked\r\n\r\n"]},
        {400, [Post, "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"]},
        {400, [Post, "Transfer-Encoding: \x0Bchunked\r\n\r\n"]},
        {400, "POST /crash HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
        {400, [Post, "Content-Length: +5\r\n\r\nhello"]},
        {400, [Post, "Content-Length: -5\r\n\r\nhello"]},
        {400, [Post, "Content-Length: 5, 5\r\n\r\nhello"]},
        {400, [Post, "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"]},
        {400, [Post, "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"]},
        {400, [Post, "Content-Length: 0x5\r\n\r\nhello"]},
        {400, [Post, "Content-Length: 00\r\n\r\n"]},
        {400, [Post, "Content-Length: \r\n\r\n"]},
        {400, [Get, "Host: a\nX: y\r\n\r\n"]},
        {400, [Get, "Host: a\r\nX: y\nZ: 1\r\n\r\n"]},
        {400, [Get, "Host: a\r\nX: y\n"]},
        {400, [Get, "Host: a\r\nX: a\rb\r\n\r\n"]},
        {400, [Get, "Host: a\r\nX: a\0b\r\n\r\n"]},
        {400, [Get, "Host: a\r\nX: a\r\n folded\r\n\r\n"]},
        {400, [Get, "Host: a\r\nX : a\r\n\r\n"]},
        {400, [Get, "Host: a\r\n X: a\r\n\r\n"]},
        {400, [Get, "Host: a\r\nX\0: a\r\n\r\n"]},
        {400, [Get, "Host: a\r\n(X): a\r\n\r\n"]},
        {400, [Get, "Host: a\r\n: a\r\n\r\n"]},
        {400, [Get, "Host: a\r\nno colon\r\n\r\n"]},
        {400, "GET /crash\n"},
        {400, "GET /crash?x\n"},
        {400, "GET /crash\0 HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET /crash\t HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET /cr\x7Fash HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET /crash?\x01 HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET  /crash HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET /crash  HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET /crash HTTP/1.1 \r\nHost: a\r\n\r\n"},
        {400, "GET crash HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET http:///crash HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "G\"T /crash HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET\r\n\r\n"},
        {400, "\n\nGET /crash HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, [<<22, 3, 1, 0, 200, 1, 0, 0>>, "\r\n"]},
        {501, "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"},
        {501, "TRACE /crash HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET /crash\r\n"},
        {505, "GET /crash HTTP/0.9\r\n\r\n"},
        {505, "GET /crash HTTP/1.2\r\nHost: a\r\n\r\n"},
        {505, "GET /crash HTTP/2.0\r\nHost: a\r\n\r\n"},
        {505, "GET /crash HTTP/1.1\nHost: a\n\n"},
        {505, "GET /crash http/1.1\r\nHost: a\r\n\r\n"}
    ],
    [
        begin
            Socket = connect(port(Config)),
            send(Socket, Request),
            Response = response(Socket),
            ?assertMatch({Request, #{status := Status, ended := complete}}, {Request, Response}),
            ?assertEqual({Request, [<<"close">>]}, {Request, values(<<"connection">>, Response)}),
            ?assertMatch([_], values(<<"date">>, Response)),
            ?assertEqual([<<"hornbeam">>], values(<<"server">>, Response)),
            ?assertEqual(<<>>, rest(Socket))
        end
     || {Status, Request} <- Requests
    ],
    ?assertNot(lists:member(<<"1 request /crash">>, seen(Config))).

%% What is wrong behind a request that runs must not become its answer.
malformed_behind_a_running_request(Config) ->
    [
        begin
            Socket = connect(port(Config)),
            get(Socket, Running),
            await_seen(Config, iolist_to_binary(["1 request ", path(Running)])),
            _ = string:prefix(Running, "/start") =/= nomatch andalso begin
                {200, _} = hornbeam_test_client:head(Socket),
                <<"5\r\nfirst\r\n">> = hornbeam_test_client:bytes(Socket, 10)
            end,
            send(Socket, Malformed),
            ?assert(is_closed(Socket)),
            await_seen(Config, iolist_to_binary(["1 disconnect ", path(Running)])),
            ok = file:delete(filename:join(proplists:get_value(folder, Config), "seen"))
        end
     || Running <- ["/hold?until=never", "/start?until=never"],
        Malformed <- ["GET /crash\n", "GET /crash HTTP/1.2\r\n\r\n", "GET /crash HTTP/1.1\r\n\r\n"]
    ].

%% The application hears of it at once.
client_leaves(Config) ->
    [
        begin
            Socket = connect(port(Config)),
            get(Socket, "/hold?until=never"),
            await_seen(Config, <<"1 request /hold">>),
            Leave(Socket),
            await_seen(Config, <<"1 disconnect /hold">>),
            ok = file:delete(filename:join(proplists:get_value(folder, Config), "seen"))
        end
     || Leave <- [fun hornbeam_test_client:close/1, fun hornbeam_test_client:reset/1]
    ].

%% Also one that has its response half, and does not read.
client_leaves_a_stream(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/stream?n=100000&size=10000"),
    {200, _} = hornbeam_test_client:head(Socket),
    hornbeam_test_client:reset(Socket),
    await_seen(Config, <<"1 disconnect /stream">>).

%% A connection that dies of something else leaves nothing behind in the worker.
connection_process_killed(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/hold?until=never"),
    await_seen(Config, <<"1 request /hold">>),
    exit(only_connection(), kill),
    await_seen(Config, <<"1 disconnect /hold">>),
    ?assert(is_closed(Socket)).

%% The response is the client's; the rest of the application's call is nobody's.
application_goes_on_after_the_response(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/background?until=background"),
    ?assertMatch(#{body := <<"hello">>}, response(Socket)),
    get(Socket, "/hello"),
    ?assertMatch(#{body := <<"hello from 1">>}, response(Socket)),
    close(Socket),
    until(fun() -> maps:get(connections, hornbeam:info()) =:= 0 end),
    ?assertMatch(#{in_flight := 1}, hornbeam_test_server:worker_info(default, 1)),
    release(Config, "background"),
    until(fun() -> maps:get(in_flight, hornbeam_test_server:worker_info(default, 1)) =:= 0 end),
    ?assertNot(lists:member(<<"1 disconnect /background">>, seen(Config))).

%% A response that cannot be completed never looks complete.
aborted(Config) ->
    Before = request(port(Config), "/abort"),
    ?assertMatch(#{status := 500, body := <<"Internal Server Error\n">>}, Before),
    Chunked = request(port(Config), "/abort?start"),
    ?assertMatch(#{status := 200, body := <<"first">>, ended := cut}, Chunked),
    Sized = request(port(Config), "/abort?start&h=content-length:9"),
    ?assertMatch(#{status := 200, ended := cut}, Sized),
    Old = connect(port(Config)),
    send(Old, "GET /abort?start HTTP/1.0\r\n\r\n"),
    {200, _} = hornbeam_test_client:head(Old),
    ?assertEqual({error, econnreset}, last(Old)).

%% An application that answers twice has answered once.
one_response_only(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/twice"),
    get(Socket, "/hello"),
    ?assertMatch(#{body := <<"one">>}, response(Socket)),
    ?assertMatch(#{body := <<"hello from 1">>}, response(Socket)).

%% Early hints go before the response, and not to clients that would take them for it.
informational(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/inform"),
    {103, Hints} = hornbeam_test_client:head(Socket),
    ?assertEqual([{<<"link">>, <<"</a>, </b>">>}], Hints),
    ?assertMatch(#{status := 200, body := <<"hello">>}, response(Socket)),
    Old = exchange(port(Config), "GET /inform HTTP/1.0\r\n\r\n"),
    ?assertMatch(#{status := 200}, Old).

%% Trailers are for those who said that they take them.
trailers(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/trailers", "TE: trailers\r\n"),
    With = response(Socket),
    ?assertMatch(#{body := <<"body">>, ended := {trailers, [<<"digest: abc">>]}}, With),
    ?assertEqual([<<"digest">>], values(<<"trailer">>, With)),
    get(Socket, "/trailers"),
    Without = response(Socket),
    ?assertMatch(#{body := <<"body">>, ended := complete}, Without),
    ?assertEqual([], values(<<"trailer">>, Without)).

%% A client that reads slowly gets everything, and the node holds a window of it.
reader_that_waits(Config) ->
    Socket = connect(port(Config)),
    ok = inet:setopts(Socket, [{recbuf, 65536}]),
    Size = 100000,
    Parts = 200,
    Target = io_lib:format("/stream?n=~b&size=~b", [Parts, Size]),
    Before = erlang:memory(binary),
    get(Socket, Target),
    %% The worker has stopped: it does nothing but answer heartbeats.
    until(fun() -> is_connection_blocked() end),
    ?assert(erlang:memory(binary) - Before < 4 * 1024 * 1024),
    #{body := Body, ended := complete} = response(Socket),
    ?assertEqual(Parts * Size, byte_size(Body)),
    ?assertEqual(binary:copy(<<"b">>, Size), binary:part(Body, Size, Size)).

%% An application that takes nothing gets the window and what had been read already.
upload_that_nobody_takes(Config) ->
    Socket = connect(port(Config)),
    ok = inet:setopts(Socket, [{send_timeout, 300}]),
    Part = binary:copy(<<"x">>, 65536),
    Before = erlang:memory(binary),
    send(Socket, ["POST /ignore?until=nobody_takes HTTP/1.1\r\nHost: a\r\nContent-Length: ",
                  integer_to_list(1024 * 1024 * 1024), "\r\n\r\n"]),
    ?assertEqual({error, timeout}, send_until_full(Socket, Part)),
    ?assert(erlang:memory(binary) - Before < 4 * 1024 * 1024),
    release(Config, "nobody_takes"),
    #{status := 200, body := Taken} = response(Socket),
    ?assert(binary_to_integer(Taken) =< ?WINDOW + ?BURST).

%% Few on a new connection, many where requests follow each other, and where large bodies are taken
%% large ones, but few: what may pile up is bounded, and with it what one costs that nobody takes.
reads_of_a_connection(Config) ->
    Client = connect(port(Config)),
    get(Client, "/hello"),
    #{status := 200} = response(Client),
    [Server] = [Port || Port <- erlang:ports(), erlang:port_info(Port, name) =:= {name, "tcp_inet"},
                        inet:peername(Port) =:= inet:sockname(Client)],
    {ok, [{buffer, Small}, {active, Few}]} = inet:getopts(Server, [buffer, active]),
    ?assert(Few * Small =< ?BURST),
    [begin get(Client, "/hello"), #{status := 200} = response(Client) end || _ <- lists:seq(1, Few)],
    {ok, [{active, Many}]} = inet:getopts(Server, [active]),
    ?assert(Many > 2 * Few),
    ?assert(Many * Small =< ?MAX_PILED_UP),
    Body = rand:bytes(300000),
    post(Client, "/echo", Body),
    ?assertMatch(#{status := 200, body := Body}, response(Client)),
    {ok, [{buffer, Large}, {active, Again}]} = inet:getopts(Server, [buffer, active]),
    ?assert(Large > 65536),
    ?assert(Again * Large =< ?MAX_PILED_UP),
    [begin get(Client, "/hello"), #{status := 200} = response(Client) end || _ <- lists:seq(1, Few)],
    {ok, [{active, Still}]} = inet:getopts(Server, [active]),
    ?assert(Still * Large =< ?MAX_PILED_UP).

%% What the application takes can follow, in whatever parts it comes.
upload_in_parts(Config) ->
    Body = rand:bytes(3000000),
    Socket = connect(port(Config)),
    post(Socket, "/echo", Body),
    ?assertMatch(#{status := 200, body := Body}, response(Socket)),
    send(Socket, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"),
    [send(Socket, binary:part(Body, At, 1)) || At <- lists:seq(0, 99)],
    First = binary:part(Body, 0, 100),
    ?assertMatch(#{status := 200, body := First}, response(Socket)).

%% The rest of a body that nobody wanted is skipped, and the next request is behind it.
answer_before_the_body(Config) ->
    Socket = connect(port(Config)),
    Length = ?MAX_SKIPPED + 5,
    Head = ["POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: ", integer_to_list(Length),
            "\r\n\r\n"],
    send(Socket, [Head, "12345"]),
    Response = response(Socket),
    ?assertMatch(#{status := 200}, Response),
    ?assertEqual([], values(<<"connection">>, Response)),
    Rest = binary:copy(<<"x">>, ?MAX_SKIPPED),
    send(Socket, [Rest, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"]),
    ?assertMatch(#{status := 200, body := <<"hello from 1">>}, response(Socket)).

%% It has its time in all, however steadily it comes.
answer_before_a_body_that_drips(Config) ->
    Socket = connect(port(Config)),
    send(Socket, "POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"),
    Response = response(Socket),
    ?assertMatch(#{status := 200}, Response),
    ?assertEqual([], values(<<"connection">>, Response)),
    ?assertEqual(closed, drip(Socket, 999)).

%% A longer one is not worth it.
answer_before_a_large_body(Config) ->
    Socket = connect(port(Config)),
    Length = integer_to_list(?MAX_SKIPPED + 6),
    send(Socket, ["POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: ", Length, "\r\n\r\n12345"]),
    ?assertMatch(#{status := 200}, response(Socket)),
    ?assert(is_closed(Socket)).

%% Nor one of which nobody knows how long it is.
answer_before_a_chunked_body(Config) ->
    Socket = connect(port(Config)),
    send(Socket, [chunked_head("/hello"), "5\r\nhello\r\n"]),
    Response = response(Socket),
    ?assertMatch(#{status := 200}, Response),
    ?assertEqual([<<"close">>], values(<<"connection">>, Response)),
    ?assert(is_closed(Socket)).

%% Exactly as long as allowed is allowed.
request_line_at_its_limit(Config) ->
    Line = fun(Length) ->
        Fixed = "GET /hello? HTTP/1.1",
        ["GET /hello?", lists:duplicate(Length - length(Fixed), $a), " HTTP/1.1"]
    end,
    Rest = "\r\nHost: a\r\n\r\n",
    ?assertMatch(#{status := 200}, exchange(port(Config), [Line(?MAX_LINE), Rest])),
    ?assertMatch(#{status := 414}, exchange(port(Config), [Line(?MAX_LINE + 1), Rest])),
    %% Read in two parts, in the middle of the line break.
    Socket = connect(port(Config)),
    in_two_parts(Socket, [Line(?MAX_LINE), "\r"], "\nHost: a\r\n\r\n"),
    ?assertMatch(#{status := 200}, response(Socket)),
    %% A line that does not end is not waited for.
    Endless = connect(port(Config)),
    send(Endless, Line(?MAX_LINE + 3)),
    ?assertMatch(#{status := 414}, response(Endless)),
    ?assert(is_closed(Endless)).

%% All header lines together.
header_section_at_its_limit(Config) ->
    Head = fun(Size) ->
        Fixed = "Host: a\r\nX: \r\n",
        ["GET /hello HTTP/1.1\r\nHost: a\r\nX: ", lists:duplicate(Size - length(Fixed), $v)]
    end,
    End = "\r\n\r\n",
    ?assertMatch(#{status := 200}, exchange(port(Config), [Head(?MAX_HEADERS_SIZE), End])),
    ?assertMatch(#{status := 431}, exchange(port(Config), [Head(?MAX_HEADERS_SIZE + 1), End])),
    Many = ["GET /hello HTTP/1.1\r\nHost: a\r\n", lists:duplicate(50, "X: vvvv\r\n"), "\r\n"],
    ?assertMatch(#{status := 431}, exchange(port(Config), Many)),
    Endless = connect(port(Config)),
    send(Endless, Head(2 * ?MAX_HEADERS_SIZE)),
    ?assertMatch(#{status := 431}, response(Endless)),
    ?assert(is_closed(Endless)),
    Name = connect(port(Config)),
    send(Name, ["GET /hello HTTP/1.1\r\nHost: a\r\n", lists:duplicate(300, $x)]),
    ?assertMatch(#{status := 431}, response(Name)),
    ?assert(is_closed(Name)).

%% Host is one of them.
number_of_headers_at_its_limit(Config) ->
    Head = fun(Count) ->
        ["GET /hello HTTP/1.1\r\nHost: a\r\n",
         [["X", integer_to_list(N), ": y\r\n"] || N <- lists:seq(2, Count)], "\r\n"]
    end,
    ?assertMatch(#{status := 200}, exchange(port(Config), Head(?MAX_HEADERS))),
    ?assertMatch(#{status := 431}, exchange(port(Config), Head(?MAX_HEADERS + 1))).

%% A body whose length is known is refused before it comes.
body_at_its_limit(Config) ->
    Body = binary:copy(<<"x">>, ?MAX_BODY),
    Socket = connect(port(Config)),
    post(Socket, "/echo", Body),
    ?assertMatch(#{status := 200, body := Body}, response(Socket)),
    send(Socket, ["POST /crash HTTP/1.1\r\nHost: a\r\nContent-Length: ",
                  integer_to_list(?MAX_BODY + 1), "\r\n\r\n"]),
    Response = response(Socket),
    ?assertMatch(#{status := 413}, Response),
    ?assertEqual([<<"close">>], values(<<"connection">>, Response)),
    ?assert(is_closed(Socket)),
    Expecting = ["POST /crash HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: ",
                 integer_to_list(?MAX_BODY + 1), "\r\n\r\n"],
    ?assertMatch(#{status := 413}, exchange(port(Config), Expecting)),
    ?assertNot(lists:member(<<"1 request /crash">>, seen(Config))).

%% Another is cut off where it is over, and the application learns it.
chunked_body_at_its_limit(Config) ->
    Half = [integer_to_list(?MAX_BODY div 2, 16), "\r\n", lists:duplicate(?MAX_BODY div 2, $x),
            "\r\n"],
    Allowed = exchange(port(Config), [chunked_head("/echo"), Half, Half, "0\r\n\r\n"]),
    ?assertMatch(#{status := 200}, Allowed),
    ?assertEqual(?MAX_BODY, byte_size(maps:get(body, Allowed))),
    Socket = connect(port(Config)),
    send(Socket, [chunked_head("/hold?until=never"), Half, Half]),
    await_seen(Config, <<"1 request /hold">>),
    send(Socket, "1\r\nx\r\n"),
    Response = response(Socket),
    ?assertMatch(#{status := 413}, Response),
    ?assertEqual([<<"close">>], values(<<"connection">>, Response)),
    ?assert(is_closed(Socket)),
    await_seen(Config, <<"1 disconnect /hold">>).

%% A response that has begun can only be cut.
body_too_large_after_the_start(Config) ->
    Socket = connect(port(Config)),
    send(Socket, [chunked_head("/start?until=never"), "1\r\nx\r\n"]),
    {200, _} = hornbeam_test_client:head(Socket),
    send(Socket, ["3E8\r\n", lists:duplicate(1000, $x), "\r\n"]),
    ?assertEqual(<<"5\r\nfirst\r\n">>, rest(Socket)),
    await_seen(Config, <<"1 disconnect /start">>).

%% An upload that stops while the application waits for it.
body_without_progress(Config) ->
    Socket = connect(port(Config)),
    send(Socket, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello"),
    Response = response(Socket),
    ?assertMatch(#{status := 408}, Response),
    ?assertEqual([<<"close">>], values(<<"connection">>, Response)),
    ?assert(is_closed(Socket)),
    await_seen(Config, <<"1 disconnect /echo">>).

%% One that goes on may take as long as it likes, within the time for the response.
body_with_progress(Config) ->
    Socket = connect(port(Config)),
    send(Socket, "POST /start?wait&until=with_progress HTTP/1.1\r\nHost: a\r\n"
                 "Content-Length: 10\r\n\r\n"),
    {200, _} = hornbeam_test_client:head(Socket),
    send(Socket, "hello"),
    %% Nobody waits for the rest, so it has no time to come in.
    ?assertEqual({ok, <<"5\r\nfirst\r\n">>}, gen_tcp:recv(Socket, 0, 1000)),
    ?assertEqual({error, timeout}, gen_tcp:recv(Socket, 0, 300)),
    send(Socket, "world"),
    release(Config, "with_progress"),
    ?assertEqual(<<"4\r\nlast\r\n0\r\n\r\n">>, hornbeam_test_client:bytes(Socket, 14)).

%% A chunk without a size is refused at once, not only when the time for the body is over.
chunk_size_that_is_none(Config) ->
    [
        begin
            Socket = connect(port(Config)),
            send(Socket, [chunked_head("/echo"), Chunk]),
            ?assertMatch({Chunk, #{status := 400}}, {Chunk, response(Socket)}),
            ?assert(is_closed(Socket))
        end
     || Chunk <- ["zz\r\nhello", "-1\r\n", "0x1\r\nx"]
    ].

%% The client learns it, the application too, and the connection goes on.
no_answer_in_time(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/hold?until=never"),
    ?assertMatch(#{status := 504}, response(Socket)),
    await_seen(Config, <<"1 cancel /hold">>),
    get(Socket, "/hello"),
    ?assertMatch(#{status := 200}, response(Socket)).

%% An application that does not hear that it is too late talks to nobody.
late_answer(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/hold?stay&until=late_answer"),
    ?assertMatch(#{status := 504}, response(Socket)),
    await_seen(Config, <<"1 cancel /hold">>),
    ?assertMatch(#{in_flight := 1}, hornbeam_test_server:worker_info(default, 1)),
    release(Config, "late_answer"),
    until(fun() -> maps:get(in_flight, hornbeam_test_server:worker_info(default, 1)) =:= 0 end),
    get(Socket, "/hello"),
    ?assertMatch(#{status := 200, body := <<"hello from 1">>}, response(Socket)).

%% A request that had to wait behind others has its whole time.
pipelined_time_is_its_own(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/hold?until=never"),
    get(Socket, "/hold?until=its_own"),
    ?assertMatch(#{status := 504}, response(Socket)),
    release(Config, "its_own"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Socket)).

%% It is cut off when the socket has taken nothing for `send_timeout'.
reader_that_takes_nothing(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/stream?n=100000&size=10000"),
    await_seen(Config, <<"1 disconnect /stream">>),
    close(Socket).

%% Both can be turned off.
no_date_no_server(Config) ->
    [
        begin
            Response = request(port(Config), Target),
            ?assertEqual([], values(<<"date">>, Response)),
            ?assertEqual([], values(<<"server">>, Response))
        end
     || Target <- ["/hello", "/stream?n=1", "/abort", "bad"]
    ].

%% Internal.

port(Config) ->
    proplists:get_value(port, Config).

exchange_as(Method, Config, Data) ->
    Socket = connect(port(Config)),
    send(Socket, Data),
    response(Socket, Method).

post(Socket, Target, Body) ->
    Length = integer_to_list(byte_size(Body)),
    send(Socket, ["POST ", Target, " HTTP/1.1\r\nHost: a\r\nContent-Length: ", Length, "\r\n\r\n",
                  Body]).

chunked_head(Target) ->
    ["POST ", Target, " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"].

%% Bytes, one by one, until the server closes.
drip(_, 0) ->
    open;
drip(Socket, Left) ->
    case gen_tcp:recv(Socket, 0, 20) of
        {error, timeout} ->
            %% It may have closed since: the next read says so.
            _ = gen_tcp:send(Socket, "x"),
            drip(Socket, Left - 1);
        {error, Reason} when Reason =:= closed; Reason =:= econnreset; Reason =:= enotconn ->
            closed
    end.

send_until_full(Socket, Part) ->
    case gen_tcp:send(Socket, Part) of
        ok -> send_until_full(Socket, Part);
        Error -> Error
    end.

%% Cowboy has read the first part before the second is sent.
in_two_parts(Socket, First, Second) ->
    Pid = only_connection(),
    {ok, [{recv_oct, Before}]} = connection_stat(Pid),
    send(Socket, First),
    until(fun() -> connection_stat(Pid) =:= {ok, [{recv_oct, Before + iolist_size(First)}]} end),
    until(fun() -> process_info(Pid, [status, message_queue_len]) =:=
        [{status, waiting}, {message_queue_len, 0}] end),
    send(Socket, Second).

%% Those of earlier cases may be on their way out.
only_connection() ->
    until(fun() ->
        case ranch:procs({hornbeam, default, 1}, connections) of
            [Pid] -> Pid;
            _ -> undefined
        end
    end).

connection_stat(Pid) ->
    {links, Links} = process_info(Pid, links),
    [Port] = [Port || Port <- Links, is_port(Port)],
    inet:getstat(Port, [recv_oct]).

is_connection_blocked() ->
    lists:any(
        fun(Pid) -> process_info(Pid, current_function) =:=
            {current_function, {prim_inet, send_recv_reply, 2}} end,
        ranch:procs({hornbeam, default, 1}, connections)
    ).

await_seen_bodies(Config) ->
    until(fun() ->
        lists:any(fun(Line) -> string:prefix(Line, "1 body /echo") =/= nomatch orelse
            Line =:= <<"1 request /echo">> end, seen(Config))
    end).

path(Target) ->
    hd(string:split(Target, "?")).

%% How a connection ends, after what comes before.
last(Socket) ->
    case gen_tcp:recv(Socket, 0, 10000) of
        {ok, _} -> last(Socket);
        Error -> Error
    end.
