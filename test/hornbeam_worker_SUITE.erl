%% SPDX-License-Identifier: Apache-2.0
%% One worker process with the test case in the place of the pool and of the connections.
-module(hornbeam_worker_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([suite/0]).
-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([ready/1]).
-export([configured_as_asked/1]).
-export([environment/1]).
-export([fails_at_start/1]).
-export([exits_at_start/1]).
-export([ended_by_a_signal/1]).
-export([refuses_our_packet/1]).
-export([no_such_executable/1]).
-export([never_ready/1]).
-export([boot_timer_after_ready/1]).
-export([garbage_at_start/1]).
-export([garbage/1]).
-export([messages_out_of_phase/1]).
-export([unknown_form/1]).
-export([length_without_a_packet/1]).
-export([unknown_ids/1]).
-export([done_twice/1]).
-export([place_is_free_before_the_answer/1]).
-export([requests_in_batches/1]).
-export([calls_are_answered/1]).
-export([calls_with_a_full_pipe/1]).
-export([log_levels/1]).
-export([late_request_is_cancelled/1]).
-export([request_of_a_killed_connection/1]).
-export([blocked_loop/1]).
-export([lagging_loop/1]).
-export([stalled_loop/1]).
-export([writer_killed/1]).
-export([stop_in_order/1]).
-export([stop_while_starting/1]).
-export([stop_of_one_that_does_not_listen/1]).
-export([supervisor_wants_it_to_end/1]).
-export([stray_message/1]).

suite() ->
    [{timetrap, {seconds, 60}}].

all() ->
    [
        ready,
        configured_as_asked,
        environment,
        fails_at_start,
        exits_at_start,
        ended_by_a_signal,
        refuses_our_packet,
        no_such_executable,
        never_ready,
        boot_timer_after_ready,
        garbage_at_start,
        garbage,
        messages_out_of_phase,
        unknown_form,
        length_without_a_packet,
        unknown_ids,
        done_twice,
        place_is_free_before_the_answer,
        requests_in_batches,
        calls_are_answered,
        calls_with_a_full_pipe,
        log_levels,
        late_request_is_cancelled,
        request_of_a_killed_connection,
        blocked_loop,
        lagging_loop,
        stalled_loop,
        writer_killed,
        stop_in_order,
        stop_while_starting,
        stop_of_one_that_does_not_listen,
        supervisor_wants_it_to_end,
        stray_message
    ].

init_per_suite(Config) ->
    hornbeam_test_suite:start_node(Config).

end_per_suite(Config) ->
    hornbeam_test_suite:stop_node(Config).

init_per_testcase(_, Config) ->
    process_flag(trap_exit, true),
    ok = hornbeam_test_log:start(),
    hornbeam_test_server:new_folder(Config).

end_per_testcase(_, Config) ->
    ok = hornbeam_test_log:stop(),
    [hornbeam_worker:kill(OsPid) || OsPid <- hornbeam_test_server:running(Config)].

%% It takes requests from when the application is there, and says what it is.
ready(Config) ->
    Worker = #{pid := Pid, load := Load, os_pid := OsPid} = start(Config, "paths:app", #{}),
    ?assertEqual([OsPid], hornbeam_test_server:running(Config)),
    ?assert(hornbeam_load:is_open(Load)),
    ?assertMatch(
        #{
            state := ready,
            worker_id := 1,
            os_pid := OsPid,
            codec := python,
            python := <<"3.", _/binary>>,
            in_flight := 0,
            served := 0,
            memory_bytes := Bytes
        } when Bytes > 1000000,
        hornbeam_worker:info(Pid)
    ),
    ?assertEqual(<<"hello from 1">>, body(ask(Worker, <<"/hello">>))),
    %% `done' follows the response.
    hornbeam_test_wait:until(fun() -> maps:get(served, hornbeam_worker:info(Pid)) =:= 1 end),
    ?assertEqual(0, hornbeam_load:in_flight(Load)).

%% What the protocol's page says of the settings.
configured_as_asked(Config) ->
    Options = #{
        pythonpath => ["/a", "/b"], chdir => "/", lifespan => on, lifespan_timeout => 12000,
        root_path => "/r", loop => asyncio, threads => 3, window => 8192, worker_class => asgi
    },
    Worker = start(Config, "paths:app", Options),
    Lines = binary:split(body(ask(Worker, <<"/settings">>)), <<"\n">>, [global]),
    Expected = [
        <<"app b'paths:app'">>,
        <<"chdir b'/'">>,
        <<"lifespan 'on'">>,
        <<"lifespan_timeout 12000">>,
        <<"loop 'asyncio'">>,
        <<"pythonpath [b'/a', b'/b']">>,
        <<"root_path b'/r'">>,
        <<"server b'test'">>,
        <<"threads 3">>,
        <<"window 8192">>,
        <<"worker_class 'asgi'">>,
        <<"worker_id 1">>
    ],
    ?assertEqual([], Expected -- Lines).

%% Variables are added to the node's, or taken away.
environment(Config) ->
    true = os:putenv("HORNBEAM_TEST_GONE", "here"),
    true = os:putenv("HORNBEAM_TEST_KEPT", "kept"),
    Env = #{
        "FAKE_DIR" => proplists:get_value(folder, Config),
        "HORNBEAM_TEST_NEW" => <<"größe"/utf8>>,
        "HORNBEAM_TEST_GONE" => false
    },
    Worker = start(Config, "paths:app", #{env => Env}),
    Value = fun(Name) ->
        lists:last(binary:split(body(ask(Worker, <<"/settings">>, <<"env=", Name/binary>>)),
                                <<"\n">>, [global]))
    end,
    ?assertEqual(<<"env 'größe'"/utf8>>, Value(<<"HORNBEAM_TEST_NEW">>)),
    ?assertEqual(<<"env None">>, Value(<<"HORNBEAM_TEST_GONE">>)),
    ?assertEqual(<<"env 'kept'">>, Value(<<"HORNBEAM_TEST_KEPT">>)).

%% The reason that the worker gives is the process's.
fails_at_start(Config) ->
    ?assertMatch(
        {shutdown, {failed, app_import_failed, #{
            app := <<"fails:app">>,
            message := <<"ImportError: no">>,
            traceback := <<"Traceback", _/binary>>
        }}},
        await_end(start_only(Config, "fails:app", #{}))
    ),
    assert_gone(Config).

%% One that leaves without a word leaves its status.
exits_at_start(Config) ->
    ?assertEqual(
        {shutdown, {exit_status, 7}},
        await_end(start_only(Config, "exit_at_start:app", #{}))
    ).

%% Signals are shown as shells do it.
ended_by_a_signal(Config) ->
    Worker = #{os_pid := OsPid} = start(Config, "paths:app", #{}),
    ok = hornbeam_worker:kill(OsPid),
    ?assertEqual({shutdown, {exit_status, 128 + 9}}, await_end(Worker)).

%% Its status says that it did not understand us.
refuses_our_packet(Config) ->
    ?assertMatch(
        {shutdown, {protocol_error, _}},
        await_end(start_only(Config, "protocol_exit:app", #{}))
    ).

%% An interpreter that has gone since the options were checked.
no_such_executable(Config) ->
    Args = args(Config, "paths:app", #{}),
    ?assertMatch(
        {error, {shutdown, {failed, python_not_found, #{python := <<"/no/such/python">>}}}},
        hornbeam_worker:start_link(Args#{python := "/no/such/python"})
    ).

%% When the time for the start is up the process is killed, whatever it does.
never_ready(Config) ->
    [
        begin
            Worker = #{pid := Pid} = start_only(Config, App, #{lifespan_timeout => 1234}),
            hornbeam_test_server:await_seen(Config, <<"1 configured">>),
            %% What the timer sends: it is too long to wait for.
            Pid ! {timeout, make_ref(), boot},
            ?assertEqual(
                {shutdown, {failed, startup_timeout, #{timeout_ms => 31234}}},
                await_end(Worker)
            ),
            assert_gone(Config)
        end
     || App <- ["silent:app", "deaf_at_start:app"]
    ].

%% The timer for the start is nothing to one that has started.
boot_timer_after_ready(Config) ->
    Worker = #{pid := Pid} = start(Config, "paths:app", #{}),
    Pid ! {timeout, make_ref(), boot},
    ?assertEqual(<<"hello from 1">>, body(ask(Worker, <<"/hello">>))).

%% A packet that is none ends the worker before it is anything.
garbage_at_start(Config) ->
    ?assertEqual(
        {shutdown, {protocol_error, <<"this is no term">>}},
        await_end(start_only(Config, "garbage_at_start:app", #{}))
    ),
    assert_gone(Config).

%% A packet that is none ends it at any time; the log has the first bytes.
garbage(Config) ->
    Malformed = [
        <<>>,
        <<"GET / HTTP/1.1">>,
        binary:copy(<<131, 255>>, 100),
        term_to_binary([{data, 1, binary:copy(<<0>>, 1000)}], [compressed]),
        term_to_binary({done, 1}),
        term_to_binary([{done, 1} | {done, 2}])
    ],
    [
        begin
            Worker = start(Config, "paths:app", #{}),
            request(Worker, <<"/garbage">>, <<"hex=", (binary:encode_hex(Packet))/binary>>),
            FirstBytes = binary:part(Packet, 0, min(64, byte_size(Packet))),
            ?assertEqual({shutdown, {protocol_error, FirstBytes}}, await_end(Worker)),
            assert_gone(Config)
        end
     || Packet <- Malformed
    ],
    Reports = hornbeam_test_log:reports(malformed_packet),
    ?assertEqual(length(Malformed), length(Reports)).

%% Words of the protocol at the wrong time are a fault as well.
messages_out_of_phase(Config) ->
    Messages = [
        {ready, #{}},
        {failed, app_not_found, #{}},
        {stopped, #{lifespan => off}}
    ],
    [
        begin
            Worker = start(Config, "paths:app", #{}),
            Hex = binary:encode_hex(term_to_binary([Message])),
            request(Worker, <<"/garbage">>, <<"hex=", Hex/binary>>),
            ?assertMatch({shutdown, {protocol_error, _}}, await_end(Worker))
        end
     || Message <- Messages
    ].

%% A message that the reference does not have.
unknown_form(Config) ->
    Worker = start(Config, "paths:app", #{}),
    request(Worker, <<"/form">>, <<>>),
    ?assertMatch({shutdown, {protocol_error, <<131, 108, _/binary>>}}, await_end(Worker)),
    assert_gone(Config).

%% One that promises a gigabyte and sends nothing is blocked, and killed as such; what was put
%% aside for the packet comes back.
length_without_a_packet(Config) ->
    Worker = start(Config, "paths:app", #{heartbeat => 20, stall_timeout => 200}),
    Before = erlang:memory(total),
    request(Worker, <<"/huge">>, <<"length=1073741824">>),
    ?assertMatch({shutdown, {stalled, _}}, await_end(Worker)),
    assert_gone(Config),
    hornbeam_test_wait:until(fun() -> erlang:memory(total) - Before < 64 * 1024 * 1024 end).

%% However many there are, messages for requests that are not there do nothing.
unknown_ids(Config) ->
    Worker = #{pid := Pid, load := Load} = start(Config, "paths:app", #{}),
    ?assertEqual(<<"done">>, body(ask(Worker, <<"/unknown">>, <<"n=5000">>))),
    hornbeam_test_wait:until(fun() -> hornbeam_load:in_flight(Load) =:= 0 end),
    %% It may just be getting a heartbeat.
    hornbeam_test_wait:until(fun() ->
        process_info(Pid, message_queue_len) =:= {message_queue_len, 0}
    end),
    ?assertEqual({messages, []}, process_info(self(), messages)),
    ?assertEqual([], hornbeam_test_log:events()).

%% What comes after a whole response finds nobody, and no place is given back twice.
done_twice(Config) ->
    Worker = #{load := Load} = start(Config, "paths:app", #{}),
    true = hornbeam_load:reserve(Load, 100),
    Id = request(Worker, <<"/twice">>, <<>>),
    ?assertMatch({ok, {{_, Id}, {response, Id, _, _, <<"one">>}}}, next(Id)),
    hornbeam_test_wait:until(fun() -> hornbeam_load:in_flight(Load) =:= 1 end),
    %% What else it has sent has been read before this answer.
    ask(Worker, <<"/hello">>),
    ?assertEqual({messages, []}, process_info(self(), messages)),
    hornbeam_test_wait:until(fun() -> hornbeam_load:in_flight(Load) =:= 1 end).

%% Who has its answer may ask again at once. If it then found that place taken, it might go to a worker
%% that is just blocked, and wait there though this one is free.
place_is_free_before_the_answer(Config) ->
    Worker = #{pid := Pid} = start(Config, "paths:app", #{heartbeat => 30000}),
    1 = erlang:trace_pattern({hornbeam_load, release, 1}, true, []),
    1 = erlang:trace(Pid, true, [call, send]),
    Id = request(Worker, <<"/hello">>, <<>>),
    {ok, _} = next(Id),
    1 = erlang:trace(Pid, false, [call, send]),
    Delivered = erlang:trace_delivered(Pid),
    receive {trace_delivered, Pid, Delivered} -> ok end,
    1 = erlang:trace_pattern({hornbeam_load, release, 1}, false, []),
    ?assertMatch([released, {answered, Id} | _], steps(Pid)).

steps(Pid) ->
    receive
        {trace, Pid, call, {hornbeam_load, release, _}} -> [released | steps(Pid)];
        {trace, Pid, send, {_, {response, Id, _, _, _}}, _} -> [{answered, Id} | steps(Pid)];
        {trace, Pid, _, _} -> steps(Pid);
        {trace, Pid, _, _, _} -> steps(Pid)
    after 0 ->
        []
    end.

%% Requests that gather while the worker is busy come to it as one packet, and so do the answers.
requests_in_batches(Config) ->
    Worker = #{pid := Pid} = start(Config, "paths:app", #{heartbeat => 30000}),
    request(Worker, <<"/block">>, <<"until=go">>),
    hornbeam_test_server:await_seen(Config, <<"1 blocked /block">>),
    1 = erlang:trace(Pid, true, ['receive']),
    Writer = maps:get(writer, Worker),
    true = erlang:suspend_process(Writer),
    Ids = [request(Worker, <<"/hello">>, <<>>) || _ <- lists:seq(1, 50)],
    true = erlang:resume_process(Writer),
    hornbeam_test_server:release(Config, "go"),
    [{ok, {_, {response, Id, 200, _, _}}} = next(Id) || Id <- Ids],
    hornbeam_test_server:await_seen(Config, <<"1 batch 50">>),
    Delivered = erlang:trace_delivered(Pid),
    receive {trace_delivered, Pid, Delivered} -> ok end,
    Packets = [binary_to_term(Packet) || Packet <- traced(Pid)],
    ?assert(lists:any(fun(Messages) -> length(Messages) >= 100 end, Packets)).

%% Services answer, also that they do not exist.
calls_are_answered(Config) ->
    Worker = start(Config, "paths:app", #{}),
    Call = fun(Query) -> body(ask(Worker, <<"/call">>, Query)) end,
    ?assertEqual(<<"('ok', 5)">>, Call(<<"f=state_incr&args=worker_SUITE,5">>)),
    ?assertEqual(<<"('ok', 3)">>, Call(<<"f=state_incr&args=worker_SUITE,-2">>)),
    ?assertEqual(<<"('ok', True)">>, Call(<<"f=state_delete&args=worker_SUITE">>)),
    ?assertMatch(
        <<"('error', ('unknown_function', {", _/binary>>,
        Call(<<"f=state_get&args=too,many">>)
    ).

%% A reply that the pipe has no room for goes the way of the other messages.
calls_with_a_full_pipe(Config) ->
    Worker = #{pid := Pid} = start(Config, "paths:app", #{heartbeat => 30000}),
    request(Worker, <<"/block">>, <<"until=go">>),
    hornbeam_test_server:await_seen(Config, <<"1 blocked /block">>),
    Big = binary:copy(<<"x">>, 1000000),
    Id = request(Worker, <<"/echo">>, <<>>, Big, false),
    request(Worker, <<"/hello">>, <<>>),
    #{writer := Writer} = Worker,
    hornbeam_test_wait:until(fun() -> process_info(Writer, status) =:= {status, suspended} end),
    %% As if the worker had called before it read no more.
    Packet = term_to_binary([{call, 77, state_get, {<<"none">>}}, {done, 99}]),
    Pid ! {maps:get(port, Worker), {data, Packet}},
    ?assertMatch(#{state := ready}, hornbeam_worker:info(Pid)),
    hornbeam_test_server:release(Config, "go"),
    ?assertMatch({ok, {_, {credit, Id, 1000000}}}, next(Id)),
    ?assertMatch({ok, {_, {response, Id, 200, _, Big}}}, next(Id)).

%% What the application says has its level and its request; what is no level is nothing.
log_levels(Config) ->
    Worker = start(Config, "paths:app", #{}),
    [ask(Worker, <<"/log">>, <<"level=", Level/binary>>)
     || Level <- [<<"warning">>, <<"error">>, <<"asgi">>]],
    Said = [Event || Event = #{msg := {"~ts", [Text]}} <- hornbeam_test_log:events(),
                     iolist_to_binary(Text) =:= <<"said by the application">>],
    ?assertEqual([warning, error], [Level || #{level := Level} <- Said]),
    ?assertMatch(
        [#{hornbeam_server := test, worker_id := 1} | _],
        [Meta || #{meta := Meta} <- Said]
    ).

%% Nobody waits longer than `timeout', and the application learns it.
late_request_is_cancelled(Config) ->
    Worker = start(Config, "paths:app", #{timeout => 50, heartbeat => 20}),
    Id = request(Worker, <<"/hold">>, <<"until=never">>),
    ?assertMatch({ok, {_, {timeout, Id}}}, next(Id)),
    hornbeam_test_server:await_seen(Config, <<"1 cancel /hold">>).

%% The application of a connection that could not say goodbye is told.
request_of_a_killed_connection(Config) ->
    Worker = #{load := Load} = start(Config, "paths:app", #{heartbeat => 20}),
    {Connection, Monitor} = spawn_monitor(fun() ->
        request(Worker, <<"/hold">>, <<"until=never">>),
        exit(crashed)
    end),
    receive {'DOWN', Monitor, process, Connection, _} -> ok end,
    hornbeam_test_server:await_seen(Config, <<"1 disconnect /hold">>),
    hornbeam_test_wait:until(fun() -> hornbeam_load:in_flight(Load) =:= 0 end).

%% A loop that misses beats gets no new requests until it answers again.
blocked_loop(Config) ->
    Worker = #{pid := Pid, load := Load} = start(Config, "paths:app", #{heartbeat => 20}),
    Id = request(Worker, <<"/block">>, <<"until=go">>),
    hornbeam_test_wait:until(fun() -> not hornbeam_load:is_open(Load) end),
    ?assertMatch(#{state := stalled}, hornbeam_worker:info(Pid)),
    hornbeam_test_server:release(Config, "go"),
    ?assertMatch({ok, {_, {response, Id, 200, _, <<"unblocked">>}}}, next(Id)),
    %% At the same time: its next heartbeat may be late.
    hornbeam_test_wait:until(fun() ->
        #{state := State} = hornbeam_worker:info(Pid),
        State =:= ready andalso hornbeam_load:is_open(Load)
    end).

%% One that answers each beat late has not stalled, however long it goes on.
lagging_loop(Config) ->
    Worker = #{pid := Pid} =
        start(Config, "lagging:app", #{heartbeat => 50, stall_timeout => 1000}),
    IsOld = fun() ->
        case hornbeam_worker:info(Pid) of
            #{uptime_ms := Ms} -> Ms > 4000;
            undefined -> error(ended)
        end
    end,
    hornbeam_test_wait:until(IsOld),
    ?assertEqual(<<"hello from 1">>, body(ask(Worker, <<"/hello">>))).

%% One that does not answer for too long is killed.
stalled_loop(Config) ->
    Worker = start(Config, "paths:app", #{heartbeat => 20, stall_timeout => 100}),
    request(Worker, <<"/block">>, <<"until=never">>),
    {shutdown, {stalled, SilentMs}} = await_end(Worker),
    ?assert(SilentMs >= 100),
    ?assertMatch([#{silent_ms := SilentMs}], hornbeam_test_log:reports(worker_stalled)),
    assert_gone(Config).

%% Without its writer it could not say anything.
writer_killed(Config) ->
    Worker = #{writer := Writer} = start(Config, "paths:app", #{}),
    exit(Writer, kill),
    ?assertEqual({shutdown, {writer_ended, killed}}, await_end(Worker)),
    assert_gone(Config).

%% It is told, answers, and leaves; until then it serves what it has.
stop_in_order(Config) ->
    Worker = #{pid := Pid, load := Load} = start(Config, "slow_end:app", #{}),
    ok = hornbeam_worker:stop(Pid, 5000),
    hornbeam_test_server:await_seen(Config, <<"1 shutdown">>),
    ?assertNot(hornbeam_load:is_open(Load)),
    ?assertMatch(#{state := stopping}, hornbeam_worker:info(Pid)),
    ok = hornbeam_worker:stop(Pid, 5000),
    hornbeam_test_server:release(Config, "end"),
    ?assertEqual({shutdown, stopped}, await_end(Worker)),
    ?assertEqual([], hornbeam_test_log:reports(worker_stop_timeout)),
    assert_gone(Config).

%% One that is not ready has nothing to finish.
stop_while_starting(Config) ->
    Worker = #{pid := Pid} = start_only(Config, "silent:app", #{}),
    hornbeam_test_server:await_seen(Config, <<"1 configured">>),
    ok = hornbeam_worker:stop(Pid, 5000),
    ?assertEqual({shutdown, stopped}, await_end(Worker)),
    assert_gone(Config).

%% One that does not hear that it shall end is killed when its time is up.
stop_of_one_that_does_not_listen(Config) ->
    Worker = #{pid := Pid} = start(Config, "paths:app", #{lifespan_timeout => 1}),
    ask(Worker, <<"/deaf">>),
    ok = hornbeam_worker:stop(Pid, 1),
    ?assertEqual({shutdown, stopped}, await_end(Worker)),
    ?assertMatch([_], hornbeam_test_log:reports(worker_stop_timeout)),
    assert_gone(Config).

%% The same order when it is its supervisor who asks.
supervisor_wants_it_to_end(Config) ->
    Worker = #{pid := Pid} = start(Config, "slow_end:app", #{}),
    exit(Pid, shutdown),
    hornbeam_test_server:await_seen(Config, <<"1 shutdown">>),
    hornbeam_test_server:release(Config, "end"),
    ?assertEqual(shutdown, await_end(Worker)),
    assert_gone(Config).

%% A message from nowhere is noted, and no more.
stray_message(Config) ->
    Worker = #{pid := Pid} = start(Config, "paths:app", #{}),
    Pid ! stray,
    ?assertEqual(<<"hello from 1">>, body(ask(Worker, <<"/hello">>))),
    ?assertMatch([#{message := stray}], hornbeam_test_log:reports(unexpected_message)).

%% Internal.

args(Config, App, Options) ->
    {ok, Checked} = hornbeam_config:validate(App, hornbeam_test_server:options(Config, Options)),
    #{
        pool => self(),
        server => test,
        worker_id => 1,
        python => hornbeam_test_server:python(),
        config => Checked,
        routes => hornbeam_routes:new(),
        load => hornbeam_load:new(),
        waiting => atomics:new(2, [])
    }.

start_only(Config, App, Options) ->
    Args = args(Config, App, Options),
    {ok, Pid} = hornbeam_worker:start_link(Args),
    receive {'$gen_cast', {worker_started, 1, Pid, OsPid}} ->
        (maps:with([routes, load], Args))#{pid => Pid, os_pid => OsPid}
    end.

start(Config, App, Options) ->
    Worker = #{pid := Pid} = start_only(Config, App, Options),
    receive
        {'$gen_cast', {worker_ready, 1, Pid, Writer, _WorkerClass}} ->
            {links, Links} = process_info(Pid, links),
            [Port] = [Port || Port <- Links, is_port(Port)],
            Worker#{writer => Writer, port => Port};
        {'EXIT', Pid, Reason} ->
            error({not_ready, Reason})
    end.

await_end(#{pid := Pid}) ->
    receive {'EXIT', Pid, Reason} -> Reason end.

assert_gone(Config) ->
    hornbeam_test_wait:until(fun() -> hornbeam_test_server:running(Config) =:= [] end).

request(Worker, Path, Query) ->
    request(Worker, Path, Query, <<>>, false).

%% As a connection dispatches it.
request(#{routes := Routes, load := Load, writer := Writer}, Path, Query, Body, More) ->
    Id = hornbeam_load:next_request_id(Load),
    true = hornbeam_load:reserve(Load, 1000),
    NowMs = erlang:monotonic_time(millisecond),
    true = hornbeam_routes:insert(Routes, Id, {self(), Id}, NowMs),
    Scope = {<<"GET">>, <<"http">>, <<"1.1">>, Path, Query, [], undefined, {<<"a">>, 80}},
    Message = {request, Id, Scope, Body, More},
    ok = hornbeam_writer:send(Writer, hornbeam_protocol:encode(Message)),
    Id.

ask(Worker, Path) ->
    ask(Worker, Path, <<>>).

ask(Worker, Path, Query) ->
    Id = request(Worker, Path, Query),
    {ok, {_, Response}} = next(Id),
    Response.

next(Id) ->
    Self = self(),
    receive
        {{Self, Id}, _} = Message -> {ok, Message}
    end.

body({response, _, 200, _, Body}) ->
    Body.

traced(Pid) ->
    receive
        {trace, Pid, 'receive', {_, {data, Packet}}} -> [Packet | traced(Pid)];
        {trace, Pid, 'receive', _} -> traced(Pid)
    after 0 -> []
    end.
