%% SPDX-License-Identifier: Apache-2.0
%% Which requests are served without Cowboy, what comes behind one that runs, and how a connection is
%% handed over. That both ways are the same for clients is in hornbeam_stream_SUITE.
-module(hornbeam_http1_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([suite/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([usual_requests/1]).
-export([unusual_requests/1]).
-export([bodies/1]).
-export([heads_in_two_parts/1]).
-export([heads_in_many_parts/1]).
-export([pieces_of_a_limit/1]).
-export([several_at_once/1]).
-export([behind_a_running_request/1]).
-export([malformed_behind_a_running_request/1]).
-export([many_behind_a_running_request/1]).
-export([flood_behind_a_running_request/1]).
-export([client_leaves_behind_a_flood/1]).
-export([late_messages/1]).
-export([asked_to_finish/1]).
-export([asked_to_finish_while_it_waits/1]).
-export([supervisor_calls/1]).

-import(hornbeam_test_client, [connect/1, send/2, get/2, response/1, values/2, is_closed/1, close/1]).
-import(hornbeam_test_server, [release/2, await_seen/2, seen/1]).
-import(hornbeam_test_wait, [until/1]).

-define(WINDOW, 4096).
-define(MAX_LINE, 300).

suite() ->
    [{timetrap, {seconds, 60}}].

all() ->
    [usual_requests, unusual_requests, bodies, heads_in_two_parts, heads_in_many_parts,
     pieces_of_a_limit, several_at_once, behind_a_running_request,
     malformed_behind_a_running_request, many_behind_a_running_request,
     flood_behind_a_running_request, client_leaves_behind_a_flood, late_messages, asked_to_finish,
     asked_to_finish_while_it_waits, supervisor_calls].

init_per_suite(Config) ->
    hornbeam_test_suite:start_node(Config).

end_per_suite(Config) ->
    hornbeam_test_suite:stop_node(Config).

init_per_testcase(_, Config0) ->
    ok = hornbeam_test_log:start(),
    Config = hornbeam_test_server:new_folder(Config0),
    Options = #{heartbeat => 20, window => ?WINDOW, max_request_line_size => ?MAX_LINE},
    [{port, hornbeam_test_server:start(Config, Options)} | Config].

end_per_testcase(_, _) ->
    ok = hornbeam:stop(),
    case hornbeam_test_log:at_least(warning) of
        [] -> ok;
        Noise -> {fail, {logged, Noise}}
    end.

%% As clients send them.
usual_requests(Config) ->
    Socket = connect(port(Config)),
    [
        begin
            send(Socket, Request),
            ?assertMatch(#{status := 200}, response(Socket)),
            ?assertEqual({Request, hornbeam_http1}, {Request, served_by()})
        end
     || Request <- [
            "GET /hello HTTP/1.1\r\nHost: localhost:8000\r\n\r\n",
            "GET /hello?a=b&c=%20 HTTP/1.1\r\nhost: example.org\r\nuser-agent: x\r\nx_y: \xc3\xa9\r\n\r\n",
            "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nCookie: a=b; c=d\r\n"
            "Accept: text/html\r\n\r\n",
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            "PUT /echo HTTP/1.1\r\nHost: a\r\ncontent-length: 5\r\n\r\nhello",
            "GET /stream?n=3&size=10 HTTP/1.1\r\nHost: a\r\n\r\n"
        ]
    ].

%% From the first of them on Cowboy has the connection; each has its answer.
unusual_requests(Config) ->
    [
        begin
            Socket = connect(port(Config)),
            get(Socket, "/hello"),
            ?assertMatch(#{status := 200}, response(Socket)),
            ?assertEqual(hornbeam_http1, served_by()),
            send(Socket, Request),
            ?assertMatch({Request, #{status := Status}}, {Request, response(Socket)}),
            _ = Status =:= 200 andalso begin
                ?assertEqual(cowboy_http, served_by()),
                get(Socket, "/hello"),
                ?assertMatch(#{status := 200}, response(Socket))
            end,
            close(Socket),
            await_gone()
        end
     || {Status, Request} <- [
            {200, "\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n"},
            {200, "GET http://a/hello HTTP/1.1\r\nHost: a\r\n\r\n"},
            {200, "GET /hello HTTP/1.1\r\nHost: [::1]\r\n\r\n"},
            {200, "GET /hello HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n"},
            {200, "GET /hello HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nX-A: 2\r\n\r\n"},
            {200, "GET /hello HTTP/1.1\r\nHost: a\r\nX-A: 1 \r\n\r\n"},
            {200, "GET /hello HTTP/1.1\r\nHost: a\r\nX!: 1\r\n\r\n"},
            {200, "GET /hello HTTP/1.1\r\nHost: a\r\nUpgrade: h2\r\n\r\n"},
            {200, "PUT /echo HTTP/1.1\r\nHost: a\r\nExpect: 1\r\nContent-Length: 1\r\n\r\nx"},
            {200, ["PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: ", integer_to_list(?WINDOW),
                   "\r\n\r\n", binary:copy(<<"x">>, ?WINDOW)]},
            {400, "GET /hello HTTP/1.1\r\n\r\n"},
            {400, "GET /hello HTTP/1.1\r\nHost: a\r\nX-A: 1\n\r\n\r\n"},
            {400, "GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"},
            {400, "GET /hello HTTP/1.1\r\nHost: a\r\nX-A: \0\r\n\r\n"},
            {505, "GET /hello HTTP/1.2\r\nHost: a\r\n\r\n"}
        ]
    ].

%% Of any size within the window, in any two parts.
bodies(Config) ->
    Socket = connect(port(Config)),
    [
        begin
            <<First:Cut/binary, Second/binary>> = binary:copy(<<"0123456789">>, Size div 10),
            send(Socket, [put_head(Size), First]),
            _ = Cut < Size andalso begin
                until(fun() -> has_taken(Size - Cut) end),
                send(Socket, Second)
            end,
            #{status := 200, body := Body} = response(Socket),
            ?assertEqual(<<First/binary, Second/binary>>, Body),
            ?assertEqual(hornbeam_http1, served_by())
        end
     || Size <- [10, 1000, ?WINDOW div 10 * 10], Cut <- [0, 1, Size - 1, Size]
    ].

%% It makes no difference where a head is cut.
heads_in_two_parts(Config) ->
    Socket = connect(port(Config)),
    Head = <<"GET /hello?a=b HTTP/1.1\r\nHost: a\r\nUser-Agent: b c\r\n\r\n">>,
    [
        begin
            <<First:Cut/binary, Second/binary>> = Head,
            send(Socket, First),
            until(fun() -> has_begun(connection()) end),
            send(Socket, Second),
            ?assertMatch({Cut, #{status := 200}}, {Cut, response(Socket)}),
            ?assertEqual(hornbeam_http1, served_by())
        end
     || Cut <- lists:seq(byte_size(<<"GET ">>), byte_size(Head) - 1)
    ].

%% It is not looked at again and again.
heads_in_many_parts(Config) ->
    Socket = connect(port(Config)),
    [
        begin
            send(Socket, Part),
            until(fun() -> served_by() =:= Module end),
            until(fun() -> has_begun(connection()) end)
        end
     || {Part, Module} <- [{"GET /hel", hornbeam_http1}, {"lo HTTP/1.1\r\nHo", cowboy_http}]
    ],
    send(Socket, "st: a\r\n\r\n"),
    ?assertMatch(#{status := 200}, response(Socket)).

%% A limit holds for what is there, also where it is not complete.
pieces_of_a_limit(Config) ->
    [
        begin
            Socket = connect(port(Config)),
            send(Socket, Piece),
            ?assertMatch({_, #{status := Status}}, {Piece, response(Socket)}),
            ?assert(is_closed(Socket))
        end
     || {Status, Piece} <- [
            {414, ["GET /", lists:duplicate(?MAX_LINE, $a)]},
            {431, ["GET / HTTP/1.1\r\nHost: a\r\n", lists:duplicate(300, $a)]},
            {431, ["GET / HTTP/1.1\r\nHost: a\r\n", [["X-", integer_to_list(N), ": a\r\n"]
                                                    || N <- lists:seq(1, 100)]]}
        ]
    ].

%% Each has its answer, in their order, also where one is wrong or unusual behind them.
several_at_once(Config) ->
    Get = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n",
    Bodies = [<<"hello from 1">>, <<"one">>, <<"hello from 1">>],
    [
        begin
            Socket = connect(port(Config)),
            send(Socket, [Get, put_head(3), "one", Get, Last]),
            [?assertMatch(#{status := 200, body := Body}, response(Socket)) || Body <- Bodies],
            _ = Status =:= none orelse ?assertMatch(#{status := Status}, response(Socket)),
            case Module of
                closed -> ?assert(is_closed(Socket));
                _ -> ?assertEqual(Module, served_by())
            end,
            close(Socket),
            await_gone()
        end
     || {Status, Module, Last} <- [
            {none, hornbeam_http1, ""},
            {none, hornbeam_http1, "GET /hel"},
            {200, cowboy_http, "GET /hello HTTP/1.1\r\nHost: a\r\nX!: 1\r\n\r\n"},
            {200, closed, "PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                          "0\r\n\r\n"},
            {400, closed, "GET /hello HTTP/1.1\r\n\r\n"},
            {400, closed, "nonsense\r\n\r\n"}
        ]
    ].

%% It waits for its turn, whatever it is.
behind_a_running_request(Config) ->
    Chunked = "PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
              "5\r\nhello\r\n0\r\n\r\n",
    [
        begin
            Socket = connect(port(Config)),
            get(Socket, ["/hold?until=", Key]),
            await_seen(Config, <<"1 request /hold">>),
            [begin send(Socket, Part), until(fun() -> is_read(Socket) end) end || Part <- Parts],
            ?assertEqual(hornbeam_http1, served_by()),
            release(Config, Key),
            ?assertMatch(#{status := 200, body := <<"released">>}, response(Socket)),
            ?assertMatch(#{status := 200, body := Body}, response(Socket)),
            _ = Module =:= closed orelse ?assertEqual({Key, Module}, {Key, served_by()}),
            close(Socket),
            await_gone(),
            ok = file:delete(filename:join(proplists:get_value(folder, Config), "seen"))
        end
     || {Key, Module, Body, Parts} <- [
            {"whole", hornbeam_http1, <<"hello">>, [[put_head(5), "hello"]]},
            {"parts", hornbeam_http1, <<"hello">>, [put_head(5), "hel", "lo"]},
            {"unusual", cowboy_http, <<"hello">>,
             ["PUT /echo HTTP/1.1\r\nHost: a\r\nX!: 1\r\nContent-Length: 5\r\n\r\n", "hello"]},
            {"chunked", closed, <<"hello">>, [Chunked]}
        ]
    ].

%% What is wrong behind it is answered behind its answer.
malformed_behind_a_running_request(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/hold?until=malformed"),
    await_seen(Config, <<"1 request /hold">>),
    send(Socket, "GET /crash HTTP/1.1\r\n\r\n"),
    until(fun() -> is_read(Socket) end),
    release(Config, "malformed"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Socket)),
    ?assertMatch(#{status := 400}, response(Socket)),
    ?assert(is_closed(Socket)),
    ?assertNot(lists:member(<<"1 request /crash">>, seen(Config))).

%% There is no limit to their number, but to their bytes.
many_behind_a_running_request(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/hold?until=many"),
    await_seen(Config, <<"1 request /hold">>),
    send(Socket, lists:duplicate(1000, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")),
    until(fun() -> is_read(Socket) end),
    release(Config, "many"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Socket)),
    [?assertMatch(#{body := <<"hello from 1">>}, response(Socket)) || _ <- lists:seq(1, 1000)],
    ?assertEqual(hornbeam_http1, served_by()).

%% So much is not read until it is its turn, and nothing of it is lost.
flood_behind_a_running_request(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/hold?until=flood"),
    await_seen(Config, <<"1 request /hold">>),
    Bodies = [binary:copy(<<N>>, ?WINDOW - 1) || N <- lists:seq($0, $0 + 60)],
    send(Socket, [[put_head(?WINDOW - 1), Body] || Body <- Bodies]),
    until(fun() -> is_passive(connection()) end),
    ?assertNot(is_read(Socket)),
    release(Config, "flood"),
    ?assertMatch(#{status := 200, body := <<"released">>}, response(Socket)),
    [?assertMatch(#{status := 200, body := Body}, response(Socket)) || Body <- Bodies].

%% Nobody waits for the rest of it.
client_leaves_behind_a_flood(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/hold?until=never"),
    await_seen(Config, <<"1 request /hold">>),
    send(Socket, put_head(5)),
    until(fun() -> is_read(Socket) end),
    close(Socket),
    await_seen(Config, <<"1 disconnect /hold">>),
    await_gone().

%% Of streams that are over, or were never there.
late_messages(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/hello"),
    ?assertMatch(#{status := 200}, response(Socket)),
    Pid = connection(),
    First = 1 bsl 32,
    [Pid ! Message || Message <- [{{Pid, First}, {response, 1, 200, [], <<"late">>}},
                                  {{Pid, First + 1}, unpark}, {{Pid, 1}, unpark},
                                  {timeout, make_ref(), idle_timeout}, stray]],
    get(Socket, "/hello"),
    ?assertMatch(#{status := 200, body := <<"hello from 1">>}, response(Socket)),
    ?assertEqual(Pid, connection()).

%% The response that is under way says that it is the last.
asked_to_finish(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/hold?until=finish"),
    await_seen(Config, <<"1 request /hold">>),
    ok = sys:terminate(connection(), shutdown),
    get(Socket, "/crash"),
    until(fun() -> is_read(Socket) end),
    release(Config, "finish"),
    Response = response(Socket),
    ?assertMatch(#{status := 200, body := <<"released">>}, Response),
    ?assertEqual([<<"close">>], values(<<"connection">>, Response)),
    ?assert(is_closed(Socket)),
    ?assertNot(lists:member(<<"1 request /crash">>, seen(Config))).

%% At once, also where a part of a head is there.
asked_to_finish_while_it_waits(Config) ->
    [
        begin
            Socket = connect(port(Config)),
            get(Socket, "/hello"),
            ?assertMatch(#{status := 200}, response(Socket)),
            send(Socket, Part),
            until(fun() -> Part =:= "" orelse has_begun(connection()) end),
            ok = sys:terminate(connection(), shutdown),
            ?assert(is_closed(Socket)),
            await_gone()
        end
     || Part <- ["", "GET /hel"]
    ].

%% Ranch takes connections for supervisors.
supervisor_calls(Config) ->
    Socket = connect(port(Config)),
    get(Socket, "/hello"),
    ?assertMatch(#{status := 200}, response(Socket)),
    ?assertEqual([], supervisor:which_children(connection())),
    close(Socket).

%% Internal.

port(Config) ->
    proplists:get_value(port, Config).

put_head(Length) ->
    ["PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: ", integer_to_list(Length), "\r\n\r\n"].

%% The only one, as soon as it is there.
connection() ->
    until(fun() ->
        case connections() of
            [Pid] -> Pid;
            [] -> false
        end
    end).

connections() ->
    [Pid || Pid <- processes(),
            {hornbeam_connection, init, _} <- [proc_lib:translate_initial_call(Pid)]].

await_gone() ->
    until(fun() -> connections() =:= [] end).

%% Which module's loop waits there.
served_by() ->
    until(fun() ->
        case process_info(connection(), current_function) of
            {current_function, {Module, loop, 1}} -> Module;
            _ -> false
        end
    end).

has_begun(Pid) ->
    State = sys:get_state(Pid),
    hornbeam_http1:has_begun(State) orelse element(1, State) =:= state andalso
        lists:any(fun(Element) -> is_tuple(Element) andalso element(1, Element) =:= ps_header end,
                  tuple_to_list(State)).

%% So many bytes of a body are missing.
has_taken(Missing) ->
    State = sys:get_state(connection()),
    lists:member(Missing, tuple_to_list(State)) andalso not hornbeam_http1:has_begun(State).

%% The server has taken out of the socket what was sent, and done with it what it does.
is_read(Socket) ->
    {ok, {_, ClientPort}} = inet:sockname(Socket),
    Received = [Bytes || Port <- erlang:ports(), {name, "tcp_inet"} <- [erlang:port_info(Port, name)],
                         {ok, {_, ClientPort1}} <- [catch inet:peername(Port)],
                         ClientPort1 =:= ClientPort,
                         {ok, [{recv_oct, Bytes}]} <- [inet:getstat(Port, [recv_oct])]],
    {ok, [{send_oct, Sent}]} = inet:getstat(Socket, [send_oct]),
    _ = sys:get_state(connection()),
    Received =:= [Sent].

is_passive(Pid) ->
    [Port] = [Link || Link <- element(2, process_info(Pid, links)), is_port(Link)],
    inet:getopts(Port, [active]) =:= {ok, [{active, false}]}.
